"""Held-out days in miniature, with incidents that are known, for the tests of what judges versions."""

from __future__ import annotations

import numpy as np

from otel_aiops.labels import Labels
from otel_aiops.lifecycle.evaluate import HeldOut, recording_of
from otel_aiops.lifecycle.truth import Label
from otel_aiops.series.archive import Points

S = 1_000_000_000
DAY_NS = 86_400 * S
START_NS = 1_777_816_800 * S
STEP_S = 900
LASTS = 6  # steps of an incident


def labels_of(k: int) -> Labels:
    return Labels("load", resource=(("service.name", f"s{k % 3}"),), attributes=(("pod", f"p{k}"),))


def points(days: float, series: int, incidents: tuple[tuple[float, int], ...] = (), size: float = 60.0) -> Points:
    """A day's wave with noise, and at some times (day, series) much more."""
    steps = round(days * 86_400 / STEP_S)
    at = np.arange(steps)
    noise = np.random.default_rng(5).normal(0, 2, (series, steps))
    values = 100 + 10 * np.sin(2 * np.pi * at * STEP_S / 86_400)[None] + noise
    for day, k in incidents:
        first = round(day * 86_400 / STEP_S)
        values[k, first : first + LASTS] += size
    code = np.tile(np.arange(series, dtype=np.int32), steps)
    time_ns = np.repeat(START_NS + at * STEP_S * S, series)
    return Points(code, time_ns, values.T.ravel().copy(), series)


def truth(incidents: tuple[tuple[float, int], ...]) -> tuple[Label, ...]:
    """What the journal says of these."""
    found = []
    for number, (day, k) in enumerate(incidents):
        start_ns = START_NS + round(day * 86_400 / STEP_S) * STEP_S * S
        end_ns = start_ns + LASTS * STEP_S * S
        service = labels_of(k).service
        note = f"INC-{number + 1}"
        found.append(Label(start_ns=start_ns, end_ns=end_ns, service=service, source="incident", note=note))
    return tuple(found)


def data(
    days: float = 5.0,
    since: float = 3.2,
    series: int = 4,
    incidents: tuple[tuple[float, int], ...] = ((3.6, 0), (4.4, 1)),
) -> HeldOut:
    """Days of which those from `since` on are held out."""
    texts = [labels_of(k).to_json() for k in range(series)]
    since_ns, end_ns = START_NS + round(since * DAY_NS), START_NS + round(days * DAY_NS)
    recording = recording_of(points(days, series, incidents), texts, since_ns, end_ns)
    return HeldOut(recording=recording, truth=truth(incidents), quality={"passed": True, "missing_ratio": 0.01})
