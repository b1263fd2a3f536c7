"""Search: words are found in names, services and labels of every kind, whatever is looked at first."""

from __future__ import annotations

import numpy as np
import pytest

from otel_aiops.labels import Labels
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.otlp.encode import encode_series, series_of
from otel_aiops.series.search import Search, written
from otel_aiops.series.table import SeriesTable, TableConfig

ATTRIBUTES = (
    {"k8s.pod.name": "web-7F9c", "http.status_code": 500, "tenant": "Größe"},
    {"k8s.pod.name": "web-8aaa", "ratio": 1e-05, "cached": True},
    {"k8s.pod.name": "db-0", "text": 'say "hi"'},
)


@pytest.fixture(scope="module")
def table() -> SeriesTable:
    found = SeriesTable(TableConfig())
    labels = [
        Labels("http.duration", kind="gauge", resource=(("service.name", service),), attributes=tuple(own.items()))
        for service in ("Shop", "pay")
        for own in ATTRIBUTES
    ]
    index, times = np.arange(len(labels)), np.full(len(labels), 10**18)
    (request,) = encode_series([series_of(one) for one in labels], index, times, np.ones(len(labels)))
    found.rows(decode_metrics(request.body).points, event_now_ns=10**18)
    return found


@pytest.mark.parametrize(
    ("words", "service", "found"),
    [
        ("", "", 6),
        ("DURATION", "", 6),
        ("duration shop", "", 3),
        ("web-7f9c", "", 2),
        ("Web- pay", "", 2),
        ("web-7f9c", "pay", 1),
        ("500", "", 2),
        ("1e-05", "", 2),
        ("true", "", 2),
        ("tru", "", 2),
        ("größe", "", 2),
        ('k8s.pod.name="db-0"', "", 2),
        ("tenant", "", 2),
        ("nothing", "", 0),
        ("duration", "shop", 0),
    ],
    ids=range(15),
)
def test_finds(table: SeriesTable, words: str, service: str, found: int) -> None:
    search = Search(words, service)
    rows = [row for row in table.live().tolist() if search.takes(table, row)]
    assert len(rows) == found
    slow = [
        row
        for row in table.live().tolist()
        for labels in [table.labels(row)]
        if service in ("", labels.service)
        and all(word in f"{labels.name} {written(labels)}" for word in words.casefold().split())
    ]
    assert rows == slow
