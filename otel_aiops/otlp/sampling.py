"""How many spans one stands for: what head samplers say of themselves in the trace state and in attributes."""

from __future__ import annotations

import re

import numpy as np

from otel_aiops.otlp.keyed import Regions, Values, cut
from otel_aiops.otlp.points import F64, Bool
from otel_aiops.otlp.reader import Reader

ONE_IN = "SampleRate"  # Honeycomb's samplers: this span is one of so many
PROBABILITY = "sampling.probability"  # of the first probability samplers of OpenTelemetry
SAMPLING_KEYS = (ONE_IN, PROBABILITY)
MOST_WEIGHT = 1e6  # who samples less than one in a million is taken at no word: any caller may send a trace state
LONGEST_STATE = 512  # characters that the W3C asks all to carry

_TRACE_STATE = 3  # field of Span
_OURS = re.compile(rb"(?:^|,)[ \t]*ot=([^,]{1,256})")
_THRESHOLD = re.compile(rb"(?:^|;)th:([0-9a-f]{1,14})(?:;|$)")
_POWER = re.compile(rb"(?:^|;)p:([0-9]{1,2})(?:;|$)")


def weights(reader: Reader, values: Values) -> tuple[F64, Bool]:
    """(how many spans each stands for, which say of themselves what cannot be), (N,) each.

    The trace state decides, else SampleRate, else sampling.probability; 1 where nothing is said, as of tail sampling.
    Source: OpenTelemetry, TraceState: Probability Sampling (`th`); its older form (`p`).
    """
    rate = values.numbers(ONE_IN)
    chance = values.numbers(PROBABILITY)
    with np.errstate(divide="ignore"):
        said = np.where(np.isnan(rate), 1 / chance, rate)
    at, size = reader.region(_TRACE_STATE)
    with_state = np.flatnonzero(size > 0)
    if len(with_state):
        where = at[with_state]
        states = Regions(reader.data)
        number = states.numbers(where, cut(reader.buffer, where, size[with_state], LONGEST_STATE))
        of_state = np.array([_of_state(state) for state in states.all()])[number]
        known = ~np.isnan(of_state)
        said[with_state[known]] = of_state[known]
    absurd = (said < 1) | (said > MOST_WEIGHT)
    return np.where(np.isnan(said) | absurd, 1.0, said), absurd


def _of_state(state: bytes) -> float:
    """What a trace state says, NaN for nothing.

    >>> _of_state(b"ot=th:c"), _of_state(b"a=b,ot=r:3;p:3"), _of_state(b"ot=p:63")
    (4.0, 8.0, nan)
    """
    ours = _OURS.search(state)
    if ours is None:
        return float("nan")
    threshold = _THRESHOLD.search(ours[1])
    if threshold:
        return float(2**56 / (2**56 - int(threshold[1].ljust(14, b"0"), 16)))
    power = _POWER.search(ours[1])
    return 2.0 ** int(power[1]) if power and int(power[1]) < 63 else float("nan")  # 63: nothing is known
