"""What nobody expects in a stream: nothing raises or warns, all is counted and bounded, and bits are equal."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np

from otel_aiops.incidents.analysis import Analysis
from otel_aiops.incidents.incident import Incident
from otel_aiops.signals.traces import ORPHAN, OWN_PARENT
from tests.incidents.stream import CALM, CONFIG, FIRST_NS, bodies, follow, incidents
from tests.incidents.town import SLOT_NS, Wrong
from tests.signals.made_spans import S, Sent, spans_of

BANK_FAILS = Wrong(fails={"bank": 0.6})
DIGEST = """
from tests.incidents.stream import CALM, digest
from tests.incidents.town import Wrong
cut = {("web", "cart"): 0.4, ("admin", "cart"): 0.4}
network = {("web", "pay"): 40.0, ("pay", "bank"): 40.0}
fails = {"bank": 0.5, "pay": 0.3}
print(digest(Wrong(slow={"cart": 5}, fails=fails, cut=cut, network=network, logs={"pay": 0.3}), CALM + 4))
"""


def test_equal_calls_give_equal_bits_in_processes_that_hash_otherwise() -> None:
    said = [
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1] and len(said[0].strip()) == 64


def test_the_incident_is_found_among_all_kinds_of_nonsense() -> None:
    analysis, far = Analysis(CONFIG), 2**62
    found: list[Incident] = []
    for step, body in enumerate(bodies(dict.fromkeys(range(CALM, CALM + 8), BANK_FAILS), CALM + 8)):
        now = body.event_ns
        odd = [
            Sent(10**9 + step, 1, 77, service="orphan", start_ns=now - S, end_ns=now),
            Sent(10**9 + step, 2, 2, service="own", start_ns=now - S, end_ns=now),
            Sent(2 * 10**9 + step, 1, 2, service="bank", name="x", start_ns=now - S, end_ns=now, error=True),
            Sent(2 * 10**9 + step, 2, 1, service="pay", name="y", start_ns=now - S, end_ns=now, error=True),
            Sent(3 * 10**9 + step, 1, service="web", name="web op", start_ns=far, end_ns=far + 5),
            Sent(4 * 10**9 + step, 1, service="web", name="web op", start_ns=1, end_ns=9),
            Sent(5 * 10**9 + step, 1, service="", name="", start_ns=now, end_ns=now),
        ]
        analysis.take_spans(spans_of(odd), now)
        unread = replace(spans_of(odd[:1]), resources=(b"\xff\xff",))
        analysis.take_spans(unread, now)
        lost = replace(body.logs, span=body.logs.span + np.uint64(10**6), time_ns=body.logs.time_ns + far)
        analysis.take_logs(lost, now)
        found += incidents(follow(analysis, [body]))
    assert found and found[0].suspects[0].service == "bank"
    counts = analysis.counts
    assert counts[ORPHAN] > 20 and counts[OWN_PARENT] == CALM + 8
    assert counts["spans and log records too late to be looked at"] > 20
    assert Analysis(CONFIG).restore(analysis.state()) is None


def test_ever_new_services_and_names_are_bounded() -> None:
    config = replace(
        CONFIG,
        traces=replace(CONFIG.traces, max_operations=100, wait=0.5),
        behaviour=replace(CONFIG.behaviour, max_cells=1000),
    )
    analysis = Analysis(config)
    for step in range(5):
        now = FIRST_NS + step * SLOT_NS
        every = range(step * 1_000, step * 1_000 + 1_000)
        sent = [Sent(k + 1, 1, service=f"s{k}", name=f"op {k}", start_ns=now - 9, end_ns=now) for k in every]
        analysis.take_spans(spans_of(sent), now)
        analysis.step(now + SLOT_NS)
    assert len(analysis.sources.services) == 2_001 and len(analysis.traces.operations) == 101
    counts = analysis.counts
    for reason in ("services over the limit", "span names over the limit", "outcomes over the limit of cells"):
        assert counts[reason] > 1_000, reason


def test_time_that_stands_still_or_leaps() -> None:
    analysis = Analysis(CONFIG)
    body = bodies({}, 1)[0]
    for event_ns in (body.event_ns, body.event_ns, 0, body.event_ns + 10**6 * S, 5):
        analysis.take_spans(body.spans, event_ns)
        analysis.step(event_ns)
    analysis.take_spans(replace(spans_of([]), resources=()), body.event_ns)
    assert analysis.incidents.open() == ()
