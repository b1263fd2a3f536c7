"""A million distinct names and lines: what is kept is bounded, and every one over the limit is counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from otel_aiops.incidents.analysis import Analysis
from otel_aiops.otlp.log_records import LogRecords
from otel_aiops.signals.logs import OVER_RATE, OVER_TEMPLATES
from otel_aiops.signals.templates import TemplatesConfig
from tests.incidents.stream import CONFIG, FIRST_NS, bodies
from tests.incidents.town import SLOT_NS
from tests.signals.made_spans import S, Sent, spans_of

MILLION, PART = 1_000_000, 20_000
NAMES, TEMPLATES = 500, 100
KEPT_BYTES = 8_000_000

pytestmark = pytest.mark.slow


def test_of_operations() -> None:
    analysis = Analysis(replace(CONFIG, traces=replace(CONFIG.traces, max_operations=NAMES, wait=0.5)))
    one = spans_of([Sent(1, 1)] * PART)
    ids = np.arange(1, PART + 1, dtype=np.uint64)
    for first in range(0, MILLION, PART):
        now = FIRST_NS + first // PART * SLOT_NS
        words = tuple(f"GET /{k}" for k in range(first, first + PART))
        times = {"start_ns": np.full(PART, now - 9), "end_ns": np.full(PART, now)}
        sent = replace(one, words=words, name=np.arange(PART, dtype=np.int32), trace_low=ids + first, **times)
        analysis.take_spans(sent, now)
        analysis.step(now + SLOT_NS)
    assert len(analysis.traces.operations) == NAMES + 1
    assert analysis.counts["span names over the limit"] == MILLION - NAMES
    assert sum(array.nbytes for array in analysis.state().values()) < KEPT_BYTES


def test_of_lines() -> None:
    config = replace(CONFIG.logs, templates=TemplatesConfig(total=TEMPLATES, per_class=TEMPLATES))
    analysis = Analysis(replace(CONFIG, logs=config))
    resources = bodies({}, 1)[0].logs.resources[:1]
    none = np.zeros(PART, np.uint64)
    for first in range(0, MILLION, PART):  # so many a second, of which the first of each window are mined
        now = FIRST_NS + first // PART * S
        records = LogRecords(
            resources=resources,
            resource=np.zeros(PART, np.int32),
            time_ns=np.full(PART, now),
            severity=np.full(PART, 9, np.uint8),
            trace_high=none,
            trace_low=none,
            span=none,
            bodies=[f"{_word(k)} {_word(7 * k)} is {_word(3 * k)}" for k in range(first, first + PART)],
            event_name=[""] * PART,
        )
        analysis.take_logs(records, now)
        analysis.step(now)
    assert len(analysis.logs.templates) <= TEMPLATES + 1
    assert analysis.counts[OVER_TEMPLATES] + analysis.counts[OVER_RATE] > 0.9 * MILLION
    assert sum(array.nbytes for array in analysis.state().values()) < KEPT_BYTES


def _word(number: int) -> str:
    """Letters for digits, so that no line is taken for another with other numbers."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))
