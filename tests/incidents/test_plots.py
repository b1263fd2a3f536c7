"""What draws evidence of spans and log records is found by what it is about, also after a restart."""

from __future__ import annotations

import numpy as np
import pytest

from otel_aiops.errors import StateError
from otel_aiops.incidents.incident import Channel
from otel_aiops.incidents.plots import Plots
from otel_aiops.labels import Labels
from otel_aiops.signals import logs
from otel_aiops.signals.calls import TRACES_SCOPE
from tests.incidents.makers import finding


def made(name: str, service: str = "pay", scope: str = TRACES_SCOPE, **attributes: str) -> Labels:
    pairs = tuple(sorted((key.replace("_", "."), value) for key, value in attributes.items()))
    return Labels(name, resource=(("service.name", service),), scope_name=scope, attributes=pairs)


SERIES = [
    made("traces.span.metrics.exclusive.p50", span_name="charge"),
    made("traces.span.metrics.errors", span_name="charge", span_kind="SPAN_KIND_SERVER"),
    made("traces.span.metrics.errors", span_name="charge", span_kind="SPAN_KIND_CLIENT"),
    made("traces_service_graph_request_client_seconds.p50", client="pay", server="bank"),
    made("traces_service_graph_request_failed_total", client="pay", server="bank"),
    made(logs.COUNT_METRIC, scope=logs.SCOPE, severity="info"),
    made(logs.COUNT_METRIC, scope=logs.SCOPE, severity="warn"),
    made("traces.span.metrics.exclusive.p50", scope="of the Collector", span_name="charge"),
    made("cpu", scope=""),
]


def known() -> Plots:
    plots = Plots()
    for row, labels in enumerate(SERIES):
        plots.assign(row, labels, f"{100 - row:016x}")
    return plots


def drawn(plots: Plots, channel: Channel, *, what: str = "charge", callee: str = "") -> int:
    """The row that draws evidence of pay; -1 where none does."""
    series = plots.drawn(finding("pay", channel=channel, what=what, callee=callee).evidence).series
    return 100 - int(series, 16) if series else -1


def test_each_kind_of_evidence_has_its_series() -> None:
    plots = known()
    assert drawn(plots, Channel.LATENCY) == 0
    assert drawn(plots, Channel.ERRORS) == 2, "of several the first by name"
    assert drawn(plots, Channel.NETWORK, callee="bank") == 3
    assert drawn(plots, Channel.ERRORS, callee="bank") == 4
    assert drawn(plots, Channel.ERRORS, callee="unknown") == 2, "the operation that calls it"
    assert drawn(plots, Channel.LOGS) == 6
    for channel, what in ((Channel.LATENCY, "refund"), (Channel.RESOURCE, "charge"), (Channel.NETWORK, "charge")):
        assert drawn(plots, channel, what=what) == -1


def test_rows_that_get_other_series_draw_nothing_more() -> None:
    plots = known()
    plots.forget([0, 2, 77])
    assert drawn(plots, Channel.LATENCY) == -1 and drawn(plots, Channel.ERRORS) == 1
    plots.assign(1, made("cpu"), "ff")
    assert drawn(plots, Channel.ERRORS) == -1


def test_a_restart_changes_nothing() -> None:
    plots, again = known(), Plots()
    again.restore(plots.state())
    assert again.state()["json"].tobytes() == plots.state()["json"].tobytes()
    assert drawn(again, Channel.LATENCY) == 0
    again.restore({})
    assert drawn(again, Channel.LATENCY) == 0, "a state from before there were plots"
    for bad in (b"[[1]]", b"{", b"5"):
        with pytest.raises(StateError):
            Plots().restore({"json": np.frombuffer(bad, np.uint8)})
