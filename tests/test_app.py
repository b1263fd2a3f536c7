"""The running service in this process, on real sockets: recovery, reload, overload, and what its API says."""

from __future__ import annotations

import base64
import faulthandler
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from otel_aiops.app import Service
from otel_aiops.config import Config, parse
from otel_aiops.errors import ConfigError
from otel_aiops.otlp.encode import encode_series
from otel_aiops.otlp.points import Kind, Stream, Temporality
from tests.detect.test_jobs import seen as excursion
from tests.feed import Feed, ns
from tests.servers import free_port, wait_for

QUICK = """
detection: {warmup_points: 5}
align: {stopped_min: 1s}
storage: {min_free_bytes: 0}
service: {tick_interval: 200ms, shutdown_timeout: 5s}
"""


class Running:
    """A service and ways to talk to it."""

    def __init__(self, folder: Path, more: str = "", **options: Any) -> None:
        self.ports = {name: free_port() for name in ("grpc", "http", "api")}
        self.service = Service(self.config(more), folder, **options)

    def config(self, more: str = "") -> Config:
        ports = self.ports
        return parse(
            f"receivers: {{otlp: {{protocols: {{grpc: {{endpoint: '127.0.0.1:{ports['grpc']}'}}, "
            f"http: {{endpoint: '127.0.0.1:{ports['http']}'}}}}}}}}\n"
            f"api: {{endpoint: '127.0.0.1:{ports['api']}'}}\n{QUICK}{more}"
        ).config

    def send(self, feed: Feed | bytes, signal: str = "metrics") -> requests.Response:
        return requests.post(
            f"http://127.0.0.1:{self.ports['http']}/v1/{signal}",
            data=feed if isinstance(feed, bytes) else feed.body(),
            headers={"Content-Type": "application/x-protobuf"},
            timeout=30,
        )

    def get(self, path: str, **params: Any) -> Any:
        answer = requests.get(f"http://127.0.0.1:{self.ports['api']}{path}", params=params, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def metric(self, name: str) -> float:
        text = requests.get(f"http://127.0.0.1:{self.ports['api']}/metrics", timeout=30).text
        lines = [line for line in text.splitlines() if line.startswith((f"{name}{{", f"{name} "))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def settle(self) -> None:
        """Wait until everything that was accepted is scored, however long that takes as long as it goes on."""
        waiting = self._waiting()
        while waiting:
            try:
                wait_for(lambda known=waiting: self._waiting() != known, f"one of {waiting} bodies to be scored")  # type: ignore[misc]
            except AssertionError:
                faulthandler.dump_traceback()  # where it hangs
                raise
            waiting = self._waiting()
        self.service.ask(lambda: None)

    def _waiting(self) -> int:
        """Bodies that were accepted and are not scored yet."""
        found: int = self.service.history.stats()["queue_bodies"]
        return found


@contextmanager
def running(folder: Path, more: str = "") -> Iterator[Running]:
    found = Running(folder, more)
    found.service.start()
    try:
        yield found
    finally:
        found.service.stop()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as found:
        yield found


def spike(up: Running, now_s: float) -> None:
    """Thirty quiet points and a loud one."""
    for k in range(30):
        up.send(Feed("cart").gauge("cpu", now_s - 31 + k, 50 + k % 3, unit="%", pod="a"))
    up.send(Feed("cart").gauge("cpu", now_s - 1, 500, unit="%", pod="a"))
    up.settle()


class TestApi:
    def test_tells_anomalies_with_their_reason(self, up: Running) -> None:
        spike(up, time.time())
        (found,) = up.get("/api/v1/anomalies")["anomalies"]
        assert found["service"] == "cart" and found["value"] == 500 and found["score"] > 1
        assert found["reason"].startswith("500 % is far above the usual 51 % (band ")
        one = up.get(f"/api/v1/series/{found['fingerprint']}")
        assert one["anomaly"]["reason"] == one["reason"] == found["reason"]
        assert one["latest"]["expected"] == pytest.approx(51, abs=1)

    def test_tells_the_jobs_of_a_series(self, up: Running) -> None:
        spike(up, time.time())
        (found,) = up.get("/api/v1/anomalies")["anomalies"]
        pipeline, address = up.service.pipeline, f"/api/v1/series/{found['fingerprint']}"
        assert up.get(address)["jobs"] == ""
        row, jobs = np.zeros(1, np.int32), pipeline.scorer.jobs
        for day in range(3):
            at_ns = np.array([ns(1_767_679_200 + 86_400 * day)], np.int64)
            up.service.ask(partial(jobs.observe, excursion(row, at_ns)))
        assert up.get(address)["jobs"] == "every day at 06:00"
        told = up.get("/api/v1/explain", series="cpu", time="now")
        assert "recurring jobs: every day at 06:00" in told["notes"]
        assert up.get("/api/v1/status")["jobs"] == {"series": 1, "series_limit": 50_000, "waited": 0}

    def test_tells_the_newest_self_test(self, up: Running) -> None:
        answer = requests.get(f"http://127.0.0.1:{up.ports['api']}/api/v1/selftest", timeout=30)
        assert answer.status_code == 404 and answer.json() == {"error": "no self-test has ended yet"}
        up.service.checkup.latest = {"source": "history", "problems": ["it never fires"]}
        assert up.get("/api/v1/selftest")["problems"] == ["it never fires"]
        assert "/api/v1/selftest" in up.get("/api/v1/openapi.json")["paths"]

    def test_tells_what_is_known(self, up: Running) -> None:
        up.send(Feed("cart").gauge("cpu", time.time(), 1).histogram("latency", time.time(), [1, 2], [0.5], 1.0))
        up.settle()
        status = up.get("/api/v1/status")
        assert status["series"] == 4 and status["sequence"] >= 1 and status["bytes_per_series"] <= 512
        page = up.get("/api/v1/series", limit=3)
        assert len(page["series"]) == 3
        rest = up.get("/api/v1/series", limit=3, offset=page["next"])
        assert [one["stat"] for one in page["series"] + rest["series"]] == ["", "rate", "mean", "p95"]
        assert rest["next"] is None
        fingerprint = page["series"][0]["fingerprint"]
        note = up.get(f"/api/v1/series/{fingerprint}")["reason"]
        assert note == "Still learning what is normal: 4 more points are needed, time left about 0 s."

    def test_tells_which_services_are_unusual_and_why(self, up: Running) -> None:
        now_s = time.time()
        for k in range(30):
            feed = Feed("cart", **{"service.namespace": "shop"})
            for pod in "abcd":
                feed.gauge("cpu", now_s - 310 + 10 * k, 50 + k % 3 if k < 29 else 500, pod=pod)
            up.send(feed)
        up.settle()
        (found,) = up.get("/api/v1/services")["services"]
        assert (found["service"], found["namespace"], found["resource"]) == ("cart", "shop", {})
        assert found["series"] == 4 and found["score"] > 1
        assert found["reason"].startswith("4 of 4 series are unusual at the same time: together ")
        assert len(found["contributors"]) == 4 and all('pod="' in one["series"] for one in found["contributors"])
        assert sum(one["share"] for one in found["contributors"]) == pytest.approx(1)

    def test_unknown_series_are_not_found(self, up: Running) -> None:
        url = f"http://127.0.0.1:{up.ports['api']}/api/v1/series/"
        assert requests.get(url + "00000000000000aa", timeout=10).status_code == 404
        assert requests.get(url + "xyz", timeout=10).status_code in (400, 404)

    def test_is_described(self, up: Running) -> None:
        described = up.get("/api/v1/openapi.json")
        assert "/api/v1/anomalies" in described["paths"]

    def test_is_ready(self, up: Running) -> None:
        for path in ("/", "/-/ready", "/-/healthy"):
            assert requests.get(f"http://127.0.0.1:{up.ports['api']}{path}", timeout=10).status_code == 200


class TestMetrics:
    def test_show_anomalous_series_and_services(self, up: Running) -> None:
        spike(up, time.time())
        text = requests.get(f"http://127.0.0.1:{up.ports['api']}/metrics", timeout=10).text
        line = next(line for line in text.splitlines() if line.startswith("otel_aiops_anomaly_score{"))
        assert 'anomaly_metric_name="cpu"' in line and 'job="cart"' in line and 'pod="a"' in line
        assert 'otel_aiops_service_series_anomalous{job="cart"} 1.0' in text

    def test_count_points(self, up: Running) -> None:
        now_s = time.time()
        up.send(Feed().gauge("a", now_s, 1).gauge("b", now_s + 10_000, 1))
        up.send(Feed().gauge("a", now_s, 1).gauge("a", now_s - 5, 1))
        up.settle()
        names = ("scored", "future", "duplicate", "late")
        assert [up.metric(f"otel_aiops_points_{name}_total") for name in names] == [1, 1, 1, 1]

    def test_name_what_fills_the_table(self, tmp_path: Path) -> None:
        with running(tmp_path, "series: {max_series: 5}") as up:
            feed = Feed()
            for k in range(20):
                feed.gauge("cpu", time.time(), 1, session=k)
            up.send(feed)
            up.settle()
            wait_for(lambda: up.metric("otel_aiops_series_worst") == 5, "the worst metric to be named")
            text = requests.get(f"http://127.0.0.1:{up.ports['api']}/metrics", timeout=10).text
            assert 'otel_aiops_series_worst{attribute="session",metric="cpu"} 5.0' in text


class TestTime:
    def test_passes_without_data(self, up: Running) -> None:
        now_s = time.time()
        for k in range(8):
            up.send(Feed("cart").gauge("cpu", now_s - 8 + k, 1.0))
        found = wait_for(lambda: up.get("/api/v1/anomalies")["anomalies"], "the silence to be noticed")
        assert found[0]["channel"] == "stopped" and found[0]["reason"].startswith("No point for ")
        assert "it used to come every 1 s" in found[0]["reason"]
        up.send(Feed("cart").gauge("cpu", time.time(), 1.0))
        wait_for(lambda: not up.get("/api/v1/anomalies")["anomalies"], "the series to be back")


class TestRestart:
    def test_goes_on_where_it_stopped(self, tmp_path: Path) -> None:
        now_s = time.time()
        with running(tmp_path) as up:
            spike(up, now_s)
            before = up.service.ask(up.service.pipeline.state)
        with running(tmp_path) as up:
            after = up.service.ask(up.service.pipeline.state)
            learned = [
                name for name in before if name.startswith(("table/", "serving/champion/engine/"))
            ]  # time may have passed
            assert learned and all(before[name].tobytes() == after[name].tobytes() for name in learned)
            up.send(Feed("cart").gauge("cpu", now_s, 500, unit="%", pod="a"))
            up.settle()
            assert up.get("/api/v1/anomalies")["anomalies"][0]["score"] > 1  # it still knows what is normal

    def test_a_directory_is_for_one_process(self, tmp_path: Path) -> None:
        with running(tmp_path), pytest.raises(ConfigError, match="is in use by process"):
            Running(tmp_path).service.start()

    def test_a_port_that_is_taken_is_named(self, tmp_path: Path) -> None:
        with running(tmp_path / "one") as up:
            other = Running(tmp_path / "two")
            other.ports["grpc"] = up.ports["grpc"]
            service = Service(other.config(), tmp_path / "two")
            with pytest.raises(ConfigError, match=r"receivers\.otlp\.protocols\.grpc\.endpoint: cannot listen on"):
                service.start()


class TestReload:
    def test_swaps_what_changed(self, up: Running) -> None:
        spike(up, time.time())
        up.service.reload(up.config("emit: {series: none}"))
        assert up.metric("otel_aiops_anomaly_score") == 0
        up.ports["http"], old = free_port(), up.ports["http"]
        up.service.reload(up.config("emit: {series: none}"))
        assert up.send(Feed().gauge("a", time.time(), 1)).status_code == 200
        with pytest.raises(requests.ConnectionError):
            requests.post(f"http://127.0.0.1:{old}/v1/metrics", timeout=5)

    def test_of_the_detector_keeps_what_was_learned(self, up: Running) -> None:
        now_s = time.time()
        spike(up, now_s)
        config = up.config()
        up.service.reload(replace(config, detection=replace(config.detection, threshold=3.0)))
        up.send(Feed("cart").gauge("cpu", now_s, 500, unit="%", pod="a"))
        up.settle()
        score = up.get("/api/v1/anomalies")["anomalies"][0]["score"]
        assert score > 1

    def test_that_fails_leaves_everything_as_it_was(self, up: Running) -> None:
        taken = free_port()
        with socket.socket() as other:
            other.bind(("127.0.0.1", taken))
            other.listen()
            good, up.ports["grpc"] = up.ports["grpc"], taken
            with pytest.raises(ConfigError, match="cannot listen"):
                up.service.reload(up.config("series: {max_series: 7}"))
            up.ports["grpc"] = good
        assert up.service.config.series.max_series == 1_000_000
        assert up.service.pipeline.config.series.max_series == 1_000_000
        assert up.send(Feed().gauge("a", time.time(), 1)).status_code == 200

    def test_cannot_move_the_storage(self, up: Running) -> None:
        config = up.config()
        with pytest.raises(ConfigError, match="storage: cannot change while the service runs"):
            up.service.reload(replace(config, storage=replace(config.storage, queue_bodies=1)))


class TestOverload:
    def test_a_full_disk_is_retryable_and_passes(self, tmp_path: Path) -> None:
        with running(tmp_path) as up:
            log = up.service.history._log
            object.__setattr__(log._config, "min_free_bytes", 1 << 60)
            wait_for(lambda: up.send(Feed().gauge("a", time.time(), 1)).status_code == 503, "the disk to be full")
            answer = up.send(Feed().gauge("a", time.time(), 1))
            assert answer.status_code == 503 and int(answer.headers["Retry-After"]) >= 1
            object.__setattr__(log._config, "min_free_bytes", 0)
            wait_for(lambda: up.send(Feed().gauge("a", time.time(), 1)).status_code == 200, "the disk to be well")

    def test_a_queue_that_is_full_says_come_again(self, tmp_path: Path) -> None:
        with running(tmp_path) as up:
            held, hold = threading.Event(), threading.Event()

            def keep_the_loop() -> None:
                held.set()
                hold.wait(20)

            up.service._questions.append(keep_the_loop)
            assert held.wait(20)
            up.service.history._inbox._limit = (2, 1 << 30)
            try:
                statuses = [up.send(Feed().gauge("a", time.time(), 1)).status_code for _ in range(4)]
            finally:
                hold.set()
            assert statuses[0] == 200 and statuses[-1] == 503

    def test_a_body_that_breaks_the_step_is_counted_and_passed_over(self, up: Running, monkeypatch: Any) -> None:
        def broken(*args: Any, **keywords: Any) -> None:
            raise RuntimeError("a fault for the test")

        with monkeypatch.context() as patch:
            patch.setattr(up.service.pipeline, "metrics", broken)
            assert up.send(Feed().gauge("a", time.time(), 1)).status_code == 200
            up.settle()
        assert up.metric("otel_aiops_step_failures_total") == 1
        up.send(Feed().gauge("a", time.time(), 1))
        up.settle()
        assert up.metric("otel_aiops_points_scored_total") == 1

    def test_a_fault_beside_the_bodies_does_not_stop_the_loop(self, up: Running, monkeypatch: Any) -> None:
        def broken(*args: Any) -> None:
            raise KeyError("a fault for the test")

        with monkeypatch.context() as patch:
            patch.setattr(type(up.service._parts), "look_after", broken)
            wait_for(lambda: up.service.telemetry.value("otel_aiops.step.failures") > 0, "the fault")
        up.send(Feed().gauge("a", time.time(), 1))
        up.settle()
        assert up.metric("otel_aiops_points_scored_total") == 1


class TestOtherSignals:
    def test_are_logged_and_counted(self, up: Running) -> None:
        traces, logs = ExportTraceServiceRequest(), ExportLogsServiceRequest()
        spans = traces.resource_spans.add().scope_spans.add().spans
        records = logs.resource_logs.add().scope_logs.add().log_records
        for k in range(1, 4):
            times = {"start_time_unix_nano": time.time_ns(), "end_time_unix_nano": time.time_ns()}
            spans.add(name="pay", trace_id=bytes(15) + b"t", span_id=bytes(7) + bytes([k]), **times)
            records.add(time_unix_nano=time.time_ns()).body.string_value = "paid"
        assert up.send(traces.SerializeToString(), "traces").status_code == 200
        assert up.send(logs.SerializeToString(), "logs").status_code == 200
        up.settle()
        wait_for(lambda: up.metric("otel_aiops_receiver_accepted_spans_total") == 3, "spans to be counted")
        wait_for(lambda: up.metric("otel_aiops_receiver_accepted_log_records_total") == 3, "records to be counted")
        assert up.get("/api/v1/status")["log"]["appended"] >= 2

    def test_what_is_refused_is_answered_with_its_reason(self, up: Running) -> None:
        traces = ExportTraceServiceRequest()
        traces.resource_spans.add().scope_spans.add().spans.add(name="pay")
        answer = ExportTraceServiceResponse.FromString(up.send(traces.SerializeToString(), "traces").content)
        assert answer.partial_success.rejected_spans == 1
        assert answer.partial_success.error_message == "1 rejected: trace id is not 16 bytes, or is zero"


def test_backfill_makes_series_warm_at_once(up: Running) -> None:
    now_s = int(time.time())
    up.send(Feed("cart").gauge("cpu", now_s - 10, 50.0))
    up.settle()
    (source,) = up.get("/api/v1/series", format="source")["series"]
    stream = Stream(
        base64.b64decode(source["resource"]),
        base64.b64decode(source["scope"]),
        source["name"],
        source["unit"],
        Kind(source["kind"]),
        Temporality(source["temporality"]),
        source["monotonic"],
    )
    times = np.arange(now_s - 3600, now_s - 10, 60, dtype=np.int64) * 10**9
    values = 50 + np.sin(np.arange(len(times)))
    series = [(stream, base64.b64decode(source["attributes"]))]
    (request,) = encode_series(series, np.zeros(len(times), np.int32), times, values)
    answer = requests.post(f"http://127.0.0.1:{up.ports['api']}/api/v1/backfill", data=request.body, timeout=30)
    assert answer.status_code == 200 and answer.json()["points"] == len(times), answer.text
    up.settle()
    up.send(Feed("cart").gauge("cpu", now_s, 500.0))
    up.settle()
    (found,) = up.get("/api/v1/anomalies")["anomalies"]
    assert found["value"] == 500
    assert up.get("/api/v1/status")["series"] == 1
