"""Incidents survive JSON both ways, and lines are as agreed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.errors import StateError
from otel_aiops.incidents.codec import decode, encode, from_line, to_line
from otel_aiops.incidents.incident import (
    Channel,
    Entry,
    Evidence,
    Finding,
    Incident,
    Prediction,
    Severity,
    State,
    Suspect,
)

times = st.integers(10**9, 2**61)
floats = st.floats(allow_nan=False)
texts = st.text(max_size=6)
evidences = st.builds(
    Evidence,
    channel=st.sampled_from(Channel),
    service=texts,
    what=texts,
    before=floats,
    after=floats,
    count=st.integers(0, 9),
    strength=floats,
    traces=st.lists(texts, max_size=2).map(tuple),
)
findings = st.builds(
    Finding,
    key=texts,
    service=texts,
    channel=st.sampled_from(Channel),
    start_ns=times,
    last_ns=times,
    end_ns=times,
    score=floats,
    users=floats,
    evidence=evidences,
)
suspects = st.builds(
    Suspect,
    service=texts,
    score=floats,
    confidence=floats,
    reason=texts,
    edge=texts,
    evidence=st.lists(evidences, max_size=2).map(tuple),
)
incidents = st.builds(
    Incident,
    id=texts,
    revision=st.integers(0, 99),
    state=st.sampled_from(State),
    severity=st.sampled_from(Severity),
    start_ns=times,
    detected_ns=times,
    end_ns=times,
    title=texts,
    services=st.lists(texts, max_size=2).map(tuple),
    suspects=st.lists(suspects, max_size=2).map(tuple),
    findings=st.lists(findings, max_size=2).map(tuple),
    timeline=st.lists(st.builds(Entry, time_ns=times, kind=texts, text=texts), max_size=2).map(tuple),
    users=floats,
    prediction=st.none()
    | st.builds(
        Prediction,
        what=texts,
        probability=floats,
        horizon_s=floats,
        lead_s=floats,
        earliest_s=floats,
        latest_s=floats,
        expires_ns=times,
    ),
)


@settings(max_examples=30, deadline=None)
@given(incidents)
def test_what_is_encoded_comes_back_exactly(incident: Incident) -> None:
    text = json.dumps(encode(incident), allow_nan=False)
    assert decode(Incident, json.loads(text)) == incident


def small(start_ns: int = 1_700_000_000_123_456_000) -> Incident:
    seen = Evidence(channel=Channel.LATENCY, service="pay", what="charge", before=math.nan, after=1.2, unit="s")
    found = Finding(
        key="k", service="pay", channel=Channel.LATENCY, start_ns=start_ns, last_ns=start_ns + 10**10, evidence=seen
    )
    return Incident(
        id="ab",
        revision=3,
        state=State.OPEN,
        severity=Severity.WARNING,
        start_ns=start_ns,
        detected_ns=start_ns + 5 * 10**9,
        suspects=(Suspect(service="redis", score=2.5, confidence=0.8, reason="slow", evidence=(seen,)),),
        findings=(found,),
    )


def test_a_line_has_what_was_agreed() -> None:
    line = json.loads(json.dumps(to_line(small()), allow_nan=False))
    assert line["id"] == "ab" and line["state"] == "open" and line["severity"] == "warning"
    assert line["start"] == 1_700_000_000.123456 and line["detected_at"] == 1_700_000_005.123456
    assert line["end"] is None
    assert line["suspects"][0]["service"] == "redis" and line["suspects"][0]["score"] == 2.5
    assert line["suspects"][0]["reason"] == "slow"
    assert line["findings"][0]["last"] == 1_700_000_010.123456
    assert line["findings"][0]["evidence"]["before"] is None


@settings(max_examples=50, deadline=None)
@given(st.integers(10**15, 4 * 10**15), st.integers(0, 3))
def test_a_line_comes_back_to_the_microsecond(start_us: int, lasted_s: int) -> None:
    incident = small(start_us * 1_000)
    incident = replace(incident, end_ns=incident.start_ns + lasted_s * 10**9 if lasted_s else 0)
    back = from_line({**json.loads(json.dumps(to_line(incident))), "unknown": 1})
    assert back == incident or repr(back) == repr(incident)  # NaN is not equal to itself


@pytest.mark.parametrize(
    "saved",
    [{}, [], None, {"id": 3}, {**encode(small()), "revision": 1.5}, {**encode(small()), "state": "ajar"}],
)
def test_what_does_not_fit_is_refused(saved: Any) -> None:
    with pytest.raises(StateError):
        decode(Incident, saved)


@pytest.mark.parametrize("line", [{}, {"findings": 3}, {"start": "then"}])
def test_a_line_that_does_not_fit_is_refused(line: Any) -> None:
    with pytest.raises(StateError):
        from_line(line)
