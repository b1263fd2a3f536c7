"""The exporter against real destinations that answer, refuse, hang and go away."""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from structlog.testing import capture_logs

from otel_aiops.errors import ConfigError
from otel_aiops.otlp.encode import (
    MAX_BYTES,
    MAX_POINTS,
    Request,
    encode_attributes,
    encode_gauges,
    encode_resource,
    encode_scope,
    point_template,
)
from otel_aiops.otlp.semconv import Metric
from otel_aiops.server.client import ClientTlsConfig
from otel_aiops.server.exporter import Exporter, ExporterConfig, QueueConfig, RetryConfig
from otel_aiops.server.telemetry import Telemetry
from tests.server.destinations import (
    LATER,
    NEVER,
    Destination,
    Reply,
    over_grpc,
    over_http,
    rejected,
    wait,
)
from tests.server.sending import until
from tests.servers import free_port

QUICK = RetryConfig(initial_interval=0.01, max_interval=0.05)
INSECURE = ClientTlsConfig(insecure=True)
ALONE = MAX_POINTS  # points of a request that no other joins
TRYING_AGAIN = "sending failed, trying again"
QUEUED = "queue_size"

Count = Callable[[str], float]


@contextmanager
def exporter(endpoint: str, *, telemetry: Telemetry | None = None, **settings: Any) -> Iterator[tuple[Exporter, Count]]:
    """A started exporter, and a function that tells its counts."""
    telemetry = telemetry or Telemetry()
    defaults: dict[str, Any] = {
        "tls": INSECURE,
        "retry_on_failure": QUICK,
        "protocol": "http" if endpoint.startswith("http") else "grpc",
        "timeout": 5.0,
    }
    config = ExporterConfig(endpoint=endpoint, **{**defaults, **settings})
    found = Exporter(config, telemetry, rng=random.Random(1))
    found.start()
    found.start()
    try:
        yield found, counts(telemetry)
    finally:
        found.stop(1.0)


def counts(telemetry: Telemetry) -> Count:
    def count(what: str) -> float:
        name = what if what == QUEUED else f"{what}_metric_points"
        return telemetry.value(f"otel_aiops_exporter_{name}", exporter="otlp")

    return count


def numbered(number: int, points: int = 1) -> Request:
    """A request whose resource holds a number."""
    resource = encode_resource((("n", number),))
    body = bytes((0x0A, len(resource) + 2, 0x0A, len(resource))) + resource
    return Request(body, points)


@pytest.fixture(params=[over_grpc, over_http], ids=["grpc", "http"])
def destination(request: pytest.FixtureRequest) -> Iterator[Destination]:
    with request.param() as found:
        yield found


class TestDelivery:
    @pytest.mark.parametrize("compression", ["gzip", "none"])
    def test_is_in_order(self, destination: Destination, compression: str) -> None:
        headers = {"X-Tenant": "a"}
        with exporter(destination.endpoint, headers=headers, compression=compression) as (sender, count):
            for number in range(40):
                sender.send([numbered(number, 10), numbered(number + 100, 10)])
            until(lambda: count("sent") == 800, "all to be sent")
        assert destination.resources() == [n for k in range(40) for n in (k, k + 100)]
        assert {found["x-tenant"] for found in destination.headers} == {"a"}

    @pytest.mark.parametrize("seed", range(3))
    def test_is_once_or_more_in_order_whatever_fails_for_now(self, destination: Destination, seed: int) -> None:
        """Some failures come after the destination took the request: nobody can know, so it comes again."""
        rng = random.Random(seed)
        destination.replies = rng.choices([Reply(), LATER], [1, 1], k=40)
        with exporter(destination.endpoint) as (sender, count):
            for number in range(30):
                sender.send([numbered(number, rng.choice([1, 2000, ALONE]))])
                if rng.random() < 0.3:
                    until(lambda: not count(QUEUED), "the queue to be empty")
            until(lambda: not count(QUEUED), "all to be on their way")
            sender.stop(10)
            assert count("send_failed") == count("enqueue_failed") == 0
        found = [n for n, _ in itertools.groupby(destination.resources())]
        assert list(dict.fromkeys(found)) == list(range(30)), "first deliveries are in order"

    def test_waiting_requests_go_as_one(self, destination: Destination) -> None:
        destination.gate.clear()
        with exporter(destination.endpoint) as (sender, count):
            sender.send([numbered(0, ALONE)])
            until(lambda: destination.bodies, "the first to be on its way")
            sender.send([numbered(n, MAX_POINTS // 4) for n in range(1, 7)])
            destination.gate.set()
            until(lambda: count("sent") == MAX_POINTS * 2.5, "all to be sent")
        assert len(destination.bodies) == 3, "one alone, then four, then two"
        assert destination.resources() == list(range(7))

    def test_waiting_requests_stay_below_the_limit_of_bytes(self) -> None:
        with over_grpc() as destination:
            destination.gate.clear()
            large = encode_attributes((("k", "x" * (MAX_BYTES // 3 + 1)),))
            body = b"".join(  # an unknown field of ResourceMetrics
                [b"\x0a", _varint(len(large) + 1 + len(_varint(len(large)))), b"\x3a", _varint(len(large)), large]
            )
            with exporter(destination.endpoint) as (sender, count):
                sender.send([Request(body, 1)] * 5)
                until(lambda: destination.bodies, "the first to be on its way")
                destination.gate.set()
                until(lambda: count("sent") == 5, "all to be sent")
            assert max(map(len, destination.bodies)) <= MAX_BYTES
            assert sum(map(len, destination.bodies)) == 5 * len(body)

    def test_of_long_attributes_fits_a_receiver_with_default_limits(self) -> None:
        """4 MiB, when the receiver is made with gRPC and nobody thought of it."""
        number = 8000
        resources = [encode_resource((("service.name", "s" * 300), ("k", k % 50))) for k in range(number)]
        templates = [point_template(encode_attributes((("k", k), ("path", "x" * 700)))) for k in range(number)]
        metrics = [(Metric(name, "gauge", "", "what"), np.ones(number)) for name in ("one", "two")]
        made = list(encode_gauges(resources, templates, np.ones(number, np.int64), metrics, scope=encode_scope()))
        assert sum(request.points for request in made) == 2 * number
        with over_grpc() as destination, exporter(destination.endpoint) as (sender, count):
            sender.send(made)
            until(lambda: count("sent") + count("send_failed") == 2 * number, "all to be sent")
            assert count("send_failed") == 0

    def test_by_several_consumers_is_complete(self, destination: Destination) -> None:
        destination.gate.clear()
        with exporter(destination.endpoint, sending_queue=QueueConfig(num_consumers=3)) as (sender, count):
            sender.send([numbered(n, ALONE) for n in range(6)])
            until(lambda: len(destination.bodies) == 3, "three to be on their way at a time")
            destination.gate.set()
            until(lambda: count("sent") == 6 * ALONE, "all to be sent")
        assert sorted(destination.resources()) == list(range(6))

    def test_without_a_queue_is_done_when_send_returns(self, destination: Destination) -> None:
        destination.replies = [Reply(), LATER, LATER, Reply(), NEVER]
        with exporter(destination.endpoint, sending_queue=QueueConfig(enabled=False)) as (sender, count):
            sender.send([numbered(0, 2), numbered(1, 3)])
            assert count("sent") == 5 and destination.resources() == [0, 1, 1, 1]
            sender.send([numbered(2, 4)])
            assert count("send_failed") == 4
            sender.stop()
            sender.send([numbered(3, 8)])
            assert count("send_failed") == 12 and len(destination.bodies) == 5

    def test_waits_for_a_destination_that_is_away(self) -> None:
        port = free_port()
        quick = RetryConfig(initial_interval=0.05, max_interval=0.1)
        with capture_logs() as lines, exporter(f"http://127.0.0.1:{port}", retry_on_failure=quick) as (sender, count):
            sender.send([numbered(0, 5)])
            until(lambda: len(tried(lines)) > 2, "some attempts")
            assert count("sent") == count("send_failed") == 0
            sender.stop(0.2)
            assert count("send_failed") == 5


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes((value & 127 | 128,)), value >> 7
    return out + bytes((value,))


def tried(lines: list[Any]) -> list[float]:
    """How long the exporter meant to wait before each of its further attempts."""
    return [line["wait_s"] for line in lines if line["event"] == TRYING_AGAIN]


class TestFailures:
    def test_for_good_are_dropped_and_counted_at_once(self, destination: Destination) -> None:
        destination.replies = [NEVER]
        patient = RetryConfig(initial_interval=60, max_interval=60)
        with capture_logs() as lines, exporter(destination.endpoint, retry_on_failure=patient) as (sender, count):
            sender.send([numbered(0, 7)])
            until(lambda: count("send_failed") == 7, "the request to be dropped")
            sender.send([numbered(1, 3)])
            until(lambda: count("sent") == 3, "the next one to be sent")
        assert destination.resources() == [0, 1]
        (line,) = lines
        told = "what the destination did not take was dropped"
        assert (line["event"], line["log_level"], line["items"], line["signal"]) == (told, "error", 7, "metrics")
        assert "INVALID_ARGUMENT: as told" in line["error"] or "HTTP 400 Bad Request" in line["error"]

    def test_for_now_are_tried_again_with_growing_waits(self, destination: Destination) -> None:
        destination.replies = [LATER] * 6
        retry = RetryConfig(initial_interval=0.01, multiplier=2, max_interval=0.05, randomization_factor=0)
        with capture_logs() as lines, exporter(destination.endpoint, retry_on_failure=retry) as (sender, count):
            sender.send([numbered(0, 7)])
            until(lambda: count("sent") == 7, "the request to be sent")
        assert tried(lines) == [0.01, 0.02, 0.04, 0.05, 0.05, 0.05]
        gaps = np.diff(destination.times)
        assert (gaps >= tried(lines)).all() and count("send_failed") == 0

    def test_waits_are_randomized(self) -> None:
        with over_http() as destination:
            destination.replies = [LATER] * 20
            retry = RetryConfig(initial_interval=0.01, multiplier=1, max_interval=1, randomization_factor=0.5)
            with capture_logs() as lines, exporter(destination.endpoint, retry_on_failure=retry) as (sender, count):
                sender.send([numbered(0)])
                until(lambda: count("sent") == 1, "the request to be sent")
        waits = tried(lines)
        assert min(waits) >= 0.005 and max(waits) <= 0.015 and len(set(waits)) > 5

    def test_the_wait_that_is_asked_for_is_kept(self, destination: Destination) -> None:
        destination.replies = [wait(1)]
        with capture_logs() as lines, exporter(destination.endpoint) as (sender, count):
            sender.send([numbered(0, 1)])
            until(lambda: count("sent") == 1, "the request to be sent")
        assert tried(lines) == [1.0] and 1 <= destination.times[1] - destination.times[0] < 5

    def test_a_shorter_wait_than_our_own_changes_nothing(self) -> None:
        with over_grpc() as destination:
            destination.replies = [Reply(grpc.StatusCode.RESOURCE_EXHAUSTED, wait_s=0.001)]
            retry = RetryConfig(initial_interval=0.02, randomization_factor=0)
            with capture_logs() as lines, exporter(destination.endpoint, retry_on_failure=retry) as (sender, count):
                sender.send([numbered(0)])
                until(lambda: count("sent") == 1, "the request to be sent")
        assert tried(lines) == [0.02]

    def test_partial_successes_are_counted_and_not_sent_again(self, destination: Destination) -> None:
        destination.replies = [rejected(3, "too old"), rejected(0, "soon deprecated")]
        with capture_logs() as lines, exporter(destination.endpoint) as (sender, count):
            sender.send([numbered(0, 10)])
            until(lambda: count("sent") == 7, "the accepted points to be counted")
            assert count("send_failed") == 3
            sender.send([numbered(1, 10)])
            until(lambda: count("sent") == 17, "the accepted points to be counted")
            until(lambda: len(lines) == 2, "the warning")
        assert destination.resources() == [0, 1]
        assert [(line["items"], line["error"]) for line in lines] == [(3, "too old"), (0, "soon deprecated")]

    def test_more_rejected_than_sent_stop_nothing(self, destination: Destination) -> None:
        destination.replies = [rejected(1 << 40, "all of them")]
        with exporter(destination.endpoint) as (sender, count):
            sender.send([numbered(0, 10)])
            until(lambda: count("send_failed") == 10, "the points to be counted")
            sender.send([numbered(1, 5)])
            until(lambda: count("sent") == 5, "the next one to be sent")

    def test_for_now_end_when_their_time_is_over(self, destination: Destination) -> None:
        destination.replies = [LATER] * 100
        retry = RetryConfig(initial_interval=0.05, max_interval=0.05, max_elapsed_time=0.3)
        with exporter(destination.endpoint, retry_on_failure=retry) as (sender, count):
            began = time.monotonic()
            sender.send([numbered(0, 7)])
            until(lambda: count("send_failed") == 7, "the exporter to give up")
            assert time.monotonic() - began < 3
            assert 2 < len(destination.bodies) < 20
            destination.replies = []
            sender.send([numbered(1, 3)])
            until(lambda: count("sent") == 3, "the next one to be sent")

    def test_a_wait_that_would_end_too_late_is_not_begun(self, destination: Destination) -> None:
        destination.replies = [wait(60)]
        retry = RetryConfig(initial_interval=0.05, max_elapsed_time=30)
        with exporter(destination.endpoint, retry_on_failure=retry) as (sender, count):
            sender.send([numbered(0, 7)])
            until(lambda: count("send_failed") == 7, "the exporter to give up")
        assert len(destination.bodies) == 1

    @pytest.mark.parametrize("seconds", [10**9, 10**11])
    def test_absurd_waits_do_no_harm(self, destination: Destination, seconds: int) -> None:
        destination.replies = [wait(seconds)]
        retry = RetryConfig(initial_interval=0.05, max_elapsed_time=0)
        with capture_logs() as lines, exporter(destination.endpoint, retry_on_failure=retry) as (sender, count):
            sender.send([numbered(0, 7)])
            until(lambda: tried(lines), "the exporter to wait")
            assert tried(lines) == [seconds]
            sender.stop(5)
            assert count("sent") == 7

    def test_waits_that_no_number_holds_end_at_the_longest(self) -> None:
        with over_http() as destination:
            destination.replies = [LATER] * 4
            retry = RetryConfig(
                initial_interval=0.01, multiplier=1e200, max_interval=0.02, randomization_factor=0, max_elapsed_time=0
            )
            with capture_logs() as lines, exporter(destination.endpoint, retry_on_failure=retry) as (sender, count):
                sender.send([numbered(0)])
                until(lambda: count("sent") == 1, "the request to be sent")
        assert tried(lines) == [0.01, 0.02, 0.02, 0.02]

    def test_for_now_are_dropped_when_retries_are_off(self, destination: Destination) -> None:
        destination.replies = [LATER]
        with exporter(destination.endpoint, retry_on_failure=RetryConfig(enabled=False)) as (sender, count):
            sender.send([numbered(0, 7)])
            until(lambda: count("send_failed") == 7, "the request to be dropped")
        assert len(destination.bodies) == 1


class TestFullQueue:
    @pytest.mark.parametrize("queue", [QueueConfig(queue_size=3), QueueConfig(queue_bytes=3 * len(numbered(0).body))])
    def test_drops_its_oldest_and_counts(self, destination: Destination, queue: QueueConfig) -> None:
        destination.gate.clear()
        telemetry = Telemetry()
        with exporter(destination.endpoint, sending_queue=queue, telemetry=telemetry) as (sender, count):
            sender.send([numbered(0, ALONE)])
            until(lambda: destination.bodies, "the first to be on its way")
            with capture_logs() as lines:
                for number in range(1, 6):
                    sender.send([numbered(number, ALONE)])
            assert count("enqueue_failed") == 2 * ALONE
            assert telemetry.value("otel_aiops_exporter_queue_size", exporter="otlp") == 3
            assert [(line["log_level"], line["items"]) for line in lines] == [("warning", ALONE)] * 2
            destination.gate.set()
            until(lambda: count("sent") == 4 * ALONE, "the others to be sent")
            assert telemetry.value("otel_aiops_exporter_queue_size", exporter="otlp") == 0
            sender.send([numbered(n, ALONE) for n in range(6, 9)])
            until(lambda: count("sent") + count("enqueue_failed") == 9 * ALONE, "room again")
        assert destination.resources()[:4] == [0, 3, 4, 5]

    def test_takes_a_request_that_is_larger_than_all_of_it(self, destination: Destination) -> None:
        with exporter(destination.endpoint, sending_queue=QueueConfig(queue_bytes=1)) as (sender, count):
            sender.send([numbered(0, 5)])
            until(lambda: count("sent") == 5, "the request to be sent")

    def test_is_shown(self) -> None:
        telemetry = Telemetry()
        with (
            over_http() as destination,
            exporter(destination.endpoint, sending_queue=QueueConfig(queue_size=7), telemetry=telemetry),
        ):
            assert telemetry.value("otel_aiops_exporter_queue_capacity", exporter="otlp") == 7
            text = telemetry.render().decode()
        for outcome in ("sent", "send_failed", "enqueue_failed"):
            assert f'otel_aiops_exporter_{outcome}_metric_points_total{{exporter="otlp"}} 0.0' in text

    def test_of_an_exporter_that_was_never_started_is_not_shown(self) -> None:
        """As when a reload builds a new one, and then fails."""
        telemetry = Telemetry()
        with over_http() as destination:
            destination.gate.clear()
            with exporter(destination.endpoint, telemetry=telemetry) as (sender, _):
                Exporter(ExporterConfig(endpoint="localhost:1", tls=INSECURE), telemetry).stop()
                sender.send([numbered(0, ALONE)])
                until(lambda: destination.bodies, "the first to be on its way")
                sender.send([numbered(1, ALONE)])
                assert telemetry.value("otel_aiops_exporter_queue_size", exporter="otlp") == 1
                destination.gate.set()


class TestStopping:
    def test_sends_what_waits(self, destination: Destination) -> None:
        destination.gate.clear()
        with exporter(destination.endpoint) as (sender, count):
            sender.send([numbered(n, ALONE) for n in range(5)])
            until(lambda: destination.bodies, "the first to be on its way")
            destination.gate.set()
            sender.stop(10)
            assert count("sent") == 5 * ALONE
            sender.send([numbered(9, 5)])
            assert count("enqueue_failed") == 5
            sender.start()
            sender.stop()
        assert destination.resources() == list(range(5))

    def test_hurries_attempts_but_makes_them(self, destination: Destination) -> None:
        destination.replies = [wait(100)]
        with capture_logs() as lines, exporter(destination.endpoint) as (sender, count):
            sender.send([numbered(0, 5)])
            until(lambda: tried(lines), "the exporter to wait")
            began = time.monotonic()
            sender.stop(10)
            assert count("sent") == 5 and time.monotonic() - began < 5

    def test_counts_what_it_could_not_send(self) -> None:
        with over_grpc() as destination:
            destination.gate.clear()
            with capture_logs() as lines, exporter(destination.endpoint) as (sender, count):
                sender.send([numbered(n, ALONE) for n in range(3)])
                until(lambda: destination.bodies, "the first to be on its way")
                began = time.monotonic()
                sender.stop(0.2)
                assert count("send_failed") == 3 * ALONE, "also what was on its way"
                assert count("sent") == count("enqueue_failed") == 0
                sender.stop(10)
                assert 0.2 <= time.monotonic() - began < 3
            assert {"event": "what waited was not sent before the end", "items": 2 * ALONE}.items() <= lines[-1].items()

    def test_ends_in_time_when_the_destination_hangs_or_refuses(self, destination: Destination) -> None:
        destination.replies = [LATER] * 1000
        with exporter(destination.endpoint) as (sender, count):
            sender.send([numbered(n, ALONE) for n in range(3)])
            until(lambda: len(destination.bodies) > 2, "some attempts")
            began = time.monotonic()
            sender.stop(0.3)
            assert time.monotonic() - began < 3
            until(lambda: count("send_failed") == 3 * ALONE, "all to be counted")
        destination.gate.clear()
        with exporter(destination.endpoint) as (sender, count):
            sender.send([numbered(9, ALONE)])
            until(lambda: destination.resources()[-1] == 9, "it to be on its way")
            began = time.monotonic()
            sender.stop(0.1)
            assert time.monotonic() - began < 3

    def test_before_the_start_counts_what_waits(self) -> None:
        telemetry = Telemetry()
        sender = Exporter(ExporterConfig(endpoint="localhost:1", tls=INSECURE), telemetry)
        sender.send([numbered(0, 5)])
        sender.stop(0.1)
        sender.start()
        assert counts(telemetry)("send_failed") == 5

    @pytest.mark.parametrize("seed", range(3))
    def test_leaves_no_point_uncounted(self, destination: Destination, seed: int) -> None:
        rng = random.Random(seed)
        destination.replies = rng.choices([Reply(), LATER, NEVER, rejected(1, "old")], k=60)
        queue = QueueConfig(queue_size=4, num_consumers=rng.choice([1, 2]))
        with exporter(destination.endpoint, sending_queue=queue) as (sender, count):
            given = 0
            for number in range(25):
                points = rng.choice([1, 3000, ALONE])
                sender.send([numbered(number, points)])
                given += points
                if rng.random() < 0.5:
                    until(lambda: count(QUEUED) < 3, "some room")
            sender.stop(rng.choice([0.0, 0.05, 5.0]))
            until(lambda: sum(map(count, ("sent", "send_failed", "enqueue_failed"))) == given, "all to be counted")


class TestSecrets:
    def test_are_in_no_line_and_no_form(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        with over_http() as destination, capture_logs() as lines:
            destination.replies = [LATER, NEVER, Reply(status=401)]
            with exporter(destination.endpoint, headers={"authorization": "Bearer hunter2"}) as (sender, count):
                sender.send([numbered(0, 1)])
                until(lambda: count("send_failed") == 1, "the request to be dropped")
                sender.send([numbered(1, 1)])
                until(lambda: count("send_failed") == 2, "the request to be dropped")
        assert len(lines) == 3 and "hunter2" not in f"{lines}{caplog.text}"
        assert destination.headers[0]["authorization"] == "Bearer hunter2"
        assert "hunter2" not in repr(ExporterConfig(endpoint="x:1", headers={"authorization": "Bearer hunter2"}))

    @pytest.mark.parametrize("value", ["hunter2\n", " hunter2", "hunter2 ", "hun\tter2", "hünter2", "hunter2€"])
    @pytest.mark.parametrize("protocol", ["grpc", "http"])
    def test_that_cannot_be_sent_are_refused_unseen(self, value: str, protocol: Any) -> None:
        with pytest.raises(ConfigError, match=r"expected printable ASCII .+ in authorization") as caught:
            ExporterConfig(endpoint="http://x", protocol=protocol, headers={"authorization": value})
        assert caught.value.path == "headers" and "ter2" not in str(caught.value)

    @pytest.mark.parametrize("endpoint", ["http://me:hunter2@x:4318", "me:hunter2@x:4317"])
    def test_do_not_belong_in_the_endpoint(self, endpoint: str) -> None:
        protocol: Any = "http" if endpoint.startswith("http") else "grpc"
        with pytest.raises(ConfigError, match="endpoint: expected no user and password") as caught:
            ExporterConfig(endpoint=endpoint, protocol=protocol)
        assert "hunter2" not in str(caught.value)


class TestConfig:
    @pytest.mark.parametrize("name", ["", "a b", "a:b", "é", "a\n"])
    def test_names_of_headers_are_checked(self, name: str) -> None:
        with pytest.raises(ConfigError, match="headers: expected a name of letters"):
            ExporterConfig(endpoint="x:1", headers={name: "v"})

    def test_binary_headers_are_refused_for_grpc(self) -> None:
        with pytest.raises(ConfigError, match="expected text, but gRPC sends X-Bin in binary"):
            ExporterConfig(endpoint="x:1", headers={"X-Bin": "v"})
        headers = {"X-Bin": "", "a.b_c-D1": "v w"}
        assert ExporterConfig(endpoint="http://x", protocol="http", headers=headers).headers == headers

    @pytest.mark.parametrize(
        ("settings", "path"),
        [
            ({"endpoint": "localhost:1", "timeout": 0}, "timeout"),
            ({"endpoint": "localhost:1", "protocol": "http"}, "endpoint"),
            ({"endpoint": ""}, "endpoint"),
            ({"endpoint": "http://"}, "endpoint"),
        ],
    )
    def test_settings_out_of_range_are_refused(self, settings: dict[str, Any], path: str) -> None:
        with pytest.raises(ConfigError) as caught:
            ExporterConfig(**settings)
        assert caught.value.path == path

    @pytest.mark.parametrize(
        "wrong",
        [
            {"initial_interval": 0},
            {"max_interval": -1},
            {"randomization_factor": 1},
            {"randomization_factor": -0.1},
            {"multiplier": 0.5},
            {"max_elapsed_time": -1},
        ],
    )
    def test_retries_out_of_range_are_refused(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            RetryConfig(**wrong)  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", ["num_consumers", "queue_size", "queue_bytes"])
    def test_queues_out_of_range_are_refused(self, name: str) -> None:
        with pytest.raises(ConfigError, match=f"{name}: must be >= 1, got 0"):
            QueueConfig(**{name: 0})  # type: ignore[arg-type]

    def test_certificates_that_cannot_be_read_are_named(self, tmp_path: Path) -> None:
        tls = ClientTlsConfig(ca_file=str(tmp_path / "none.pem"))
        with pytest.raises(ConfigError, match=r"tls\.ca_file: cannot read"):
            Exporter(ExporterConfig(endpoint="localhost:1", tls=tls), Telemetry())
