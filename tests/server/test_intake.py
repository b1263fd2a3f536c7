"""Bounds and counts that both transports share."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from structlog.testing import capture_logs

from otel_aiops.errors import AiopsError, BadInput, Overloaded, StorageError, Unauthorized
from otel_aiops.otlp.signal import Signal
from otel_aiops.server.intake import Accepted, Intake, Received

BODY = Received(b"\n\x00", "identity", False, "http")


class Replies:
    """A sink that answers one thing."""

    def __init__(self, reply: Accepted | Exception) -> None:
        self.reply = reply
        self.bodies: list[tuple[Signal, Received]] = []

    def __call__(self, signal: Signal, body: Received) -> Accepted:
        self.bodies.append((signal, body))
        if isinstance(self.reply, Exception):
            raise self.reply
        return self.reply


def intake(reply: Accepted | Exception = Accepted(1), *, requests: int = 2, size: int = 10) -> Intake:  # noqa: B008
    return Intake(Replies(reply), "http", max_requests=requests, max_bytes=size)


def test_what_is_accepted_and_rejected_is_counted_by_signal() -> None:
    sink = Replies(Accepted(5, 2, "two were bad"))
    taken = Intake(sink, "http", max_requests=1, max_bytes=1)
    for signal in (Signal.METRICS, Signal.METRICS, Signal.LOGS):
        assert taken.take(signal, BODY) is sink.reply
    stats = taken.stats()
    assert sink.bodies[0] == (Signal.METRICS, BODY)
    assert stats.accepted == {(Signal.METRICS, "http"): 10, (Signal.LOGS, "http"): 5}
    assert stats.refused == {(Signal.METRICS, "http"): 4, (Signal.LOGS, "http"): 2}
    assert stats.requests == {(Signal.METRICS, "http", "success"): 2, (Signal.LOGS, "http", "success"): 1}
    assert not any(stats.failed.values())


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (BadInput("bad"), "refused"),
        (Overloaded("full"), "refused"),
        (Unauthorized("who"), "refused"),
        (StorageError("disk"), "failure"),
    ],
)
def test_what_is_turned_away_is_counted(error: AiopsError, outcome: str) -> None:
    error.items = 3
    taken = intake(error)
    with pytest.raises(type(error)) as caught:
        taken.take(Signal.TRACES, BODY)
    assert caught.value is error
    taken.refuse(Signal.TRACES, error)
    stats = taken.stats()
    assert stats.requests == {(Signal.TRACES, "http", outcome): 2}
    by_outcome = {"refused": stats.refused, "failure": stats.failed}
    assert by_outcome.pop(outcome) == {(Signal.TRACES, "http"): 6}
    assert not any(sum(counts.values()) for counts in by_outcome.values())
    assert not any(stats.accepted.values())


def test_faults_are_ours_and_retryable() -> None:
    taken = intake(KeyError("oops"))
    with capture_logs() as logs, pytest.raises(Overloaded) as caught:
        taken.take(Signal.METRICS, BODY)
    assert caught.value.retry_after_s == 5.0
    assert isinstance(caught.value.__cause__, KeyError)
    assert "oops" not in str(caught.value), "what went wrong inside is not the sender's"
    assert taken.stats().requests == {(Signal.METRICS, "http", "failure"): 1}
    assert [(line["log_level"], line["signal"]) for line in logs] == [("error", "metrics")]


def test_what_stops_the_process_is_not_caught() -> None:
    def stop(signal: Signal, body: Received) -> Accepted:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Intake(stop, "grpc", max_requests=1, max_bytes=1).take(Signal.METRICS, BODY)


def test_no_more_requests_than_allowed() -> None:
    taken = intake(requests=2)
    with taken.place() as first, taken.place() as second, taken.place() as third:
        first.work()
        second.work()
        with pytest.raises(Overloaded, match="2 requests are in progress, the most that are allowed"):
            third.work()
        assert taken.stats().in_flight_requests == {"http": 2}
    assert taken.stats().in_flight_requests == {"http": 0}


def test_no_more_bytes_than_allowed() -> None:
    taken = intake(size=10)
    with taken.place() as place:
        place.hold(4)
        place.hold(6)
        place.hold(0)
        with taken.place() as other, pytest.raises(Overloaded, match="of 10 bytes are in progress, at most 10 may be"):
            other.hold(1)
        assert taken.stats().in_flight_bytes == {"http": 10}, "what was refused holds nothing"
    assert taken.stats().in_flight_bytes == {"http": 0}


def test_a_place_is_given_back_whatever_happens() -> None:
    taken = intake()
    with pytest.raises(BadInput), taken.place() as place:
        place.work()
        place.hold(5)
        raise BadInput("bad")
    stats = taken.stats()
    assert (stats.in_flight_requests, stats.in_flight_bytes) == ({"http": 0}, {"http": 0})


def test_stats_are_of_their_moment() -> None:
    taken = intake()
    before = taken.stats()
    taken.take(Signal.METRICS, BODY)
    assert before.requests == {}


def test_many_threads() -> None:
    taken = intake(Accepted(2, 1), requests=4, size=40)
    most, lock, together = 0, threading.Lock(), threading.Barrier(8)

    def send(_: int) -> int:
        nonlocal most
        refused = 0
        together.wait()
        for _ in range(200):
            try:
                with taken.place() as place:
                    place.work()
                    place.hold(10)
                    now = taken.stats()
                    with lock:
                        most = max(most, now.in_flight_requests["http"], now.in_flight_bytes["http"] // 10)
                    taken.take(Signal.LOGS, BODY)
            except Overloaded as error:
                refused += 1
                taken.refuse(Signal.LOGS, error)
        return refused

    with ThreadPoolExecutor(8) as pool:
        refused = sum(pool.map(send, range(8)))
    stats = taken.stats()
    assert most <= 4
    assert stats.in_flight_requests == stats.in_flight_bytes == {"http": 0}
    done = stats.requests[Signal.LOGS, "http", "success"]
    assert done + refused == 1600
    assert stats.accepted == {(Signal.LOGS, "http"): 2 * done}
    assert stats.refused == {(Signal.LOGS, "http"): done}
