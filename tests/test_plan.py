"""The plan: what it counts in files and in Prometheus, what it measures, and what it says of limits."""

from __future__ import annotations

import dataclasses
import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from otel_aiops import plan as planning
from otel_aiops.config import Config
from otel_aiops.errors import BadInput, Overloaded
from otel_aiops.otlp.distributions import encode_distribution
from otel_aiops.otlp.encode import encode_resource
from otel_aiops.otlp.points import Kind, Stream, Temporality
from otel_aiops.plan import Load, Measured, Plan, measure
from otel_aiops.series.align import AlignConfig
from otel_aiops.series.disk import StorageConfig
from otel_aiops.series.table import TableConfig
from otel_aiops.server.emit import EmitConfig

T0 = 1_700_000_000
FIXED = Measured(100 << 20, 1000.0, 700.0, 250_000.0, 16.0, 12.0)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SAMPLE_SERIES", 1_024)
    monkeypatch.setattr(planning, "SAMPLE_BODIES", 3)


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_measure", lambda config, base_bytes: FIXED)


@pytest.fixture
def api() -> Iterator[Callable[[dict[str, object]], str]]:
    servers: list[HTTPServer] = []

    def start(results: dict[str, object]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)["query"][0]
                data = json.dumps({"status": "success", "data": {"result": results[query]}}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def counted(number: int) -> list[object]:
    return [{"metric": {}, "value": [T0, str(number)]}]


def test_a_number_of_series_is_measured_and_multiplied() -> None:
    plan = measure(Config(), series=10_000, interval_s=10.0)
    assert plan.load == Load("as given", 10_000, 10_000, 0, 1000.0)
    measured = plan.measured
    assert 300 < measured.state_bytes < measured.series_bytes < 16_000  # a resource is also kept as evidence
    assert 10 << 20 < measured.base_bytes < 4 << 30
    assert 1_000 < measured.points_per_core_s < 100e6
    assert 2 < measured.log_bytes < 200 and 2 < measured.segment_bytes < 60
    assert plan.memory_bytes == round(measured.base_bytes + 10_000 * measured.series_bytes)
    assert plan.cores == pytest.approx(1000 / measured.points_per_core_s)
    assert plan.enough and not tracemalloc.is_tracing()


def test_twice_the_sample_has_the_same_size_a_series(monkeypatch: pytest.MonkeyPatch) -> None:
    first = planning._measure(Config(), 0)
    monkeypatch.setattr(planning, "SAMPLE_SERIES", 2_048)
    second = planning._measure(Config(), 0)
    assert second.series_bytes == pytest.approx(first.series_bytes, rel=0.25)
    assert second.state_bytes == pytest.approx(first.state_bytes, rel=0.05)


def test_what_is_measured_does_not_hang_on_limits_of_the_configuration() -> None:
    config = dataclasses.replace(Config(), series=TableConfig(max_series=10, ignore_names=("x",)))
    assert planning._measure(config, 0).state_bytes > 300


@pytest.mark.usefixtures("fixed")
def test_disk_is_what_retention_keeps() -> None:
    storage = StorageConfig(log_keep=43_200, log_keep_bytes=1 << 40, segments_keep_bytes=1 << 20)
    plan = measure(dataclasses.replace(Config(), storage=storage), series=1_500, interval_s=15.0)
    assert plan.log_bytes_per_day == 100 * 86_400 * 16 and plan.segment_bytes_per_day == 100 * 86_400 * 12
    assert plan.disk_bytes == plan.log_bytes_per_day // 2 + (1 << 20) + 2 * 1_500 * 700
    assert plan.memory_bytes == (100 << 20) + 1_500_000
    assert plan.memory_peak_bytes == plan.memory_bytes + 1_500 * 700 + storage.queue_bytes + storage.snapshot_rows_bytes


@pytest.mark.usefixtures("fixed")
@pytest.mark.parametrize(
    ("emit", "series", "services"),
    [
        (EmitConfig(), 5 * 500, 7),
        (EmitConfig(max_series=100), 5 * 100, 7),
        (EmitConfig(expected=True, max_series=100), 9 * 100, 7),
        (EmitConfig(series="none", services=False), 0, 0),
    ],
)
def test_output_series_follow_what_is_emitted(emit: EmitConfig, series: int, services: int) -> None:
    plan = measure(dataclasses.replace(Config(), emit=emit), series=500)
    assert (plan.output_series, plan.output_series_per_service) == (series, services)


@pytest.mark.usefixtures("fixed")
def test_a_limit_that_is_too_small_is_said() -> None:
    plan = measure(dataclasses.replace(Config(), series=TableConfig(max_series=400)), series=500)
    assert not plan.enough and "series.max_series is 400: too few, 100 would not be scored" in plan.text()
    assert "enough" in measure(Config(), series=500).text()


@pytest.mark.usefixtures("fixed")
def test_files_are_counted(tmp_path: Path) -> None:
    rows = "".join(f"{T0 + 10 * k},{k},{name}\n" for k in range(11) for name in "ab")
    (tmp_path / "x.csv").write_text(f"timestamp,value,series\n{rows}{T0},1,once\n")
    stream = Stream(
        encode_resource((("service.name", "shop"),)), b"", "t", "s", Kind.HISTOGRAM, Temporality.DELTA, False
    )
    time_ns = np.array([T0, T0 + 5]) * 10**9
    body = encode_distribution(
        stream,
        b"",
        time_ns=time_ns,
        start_ns=time_ns,
        count=np.ones(2),
        total=np.ones(2),
        cells=np.ones((2, 2)),
        edges=np.ones(1),
    )
    (tmp_path / "h.bin").write_bytes(body)
    (tmp_path / "none.jsonl").write_text('{"resourceLogs": []}\n')
    config = dataclasses.replace(Config(), series=TableConfig(max_series=2, percentiles=(50.0, 99.0)))
    plan = measure(config, paths=[tmp_path], interval_s=20.0)
    load = plan.load
    assert (load.series, load.streams, load.histograms, load.services) == (7, 4, 1, 2)
    assert load.points_per_s == pytest.approx(0.1 + 0.1 + 1 / 20 + 1 / 5)
    assert not plan.enough and "14 of 2 services" in plan.text()


@pytest.mark.usefixtures("fixed")
def test_a_folder_without_points_is_a_plan_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("timestamp,value\n")
    plan = measure(Config(), paths=[tmp_path])
    assert plan.load.series == 0 and plan.cores == 0 and plan.memory_bytes == FIXED.base_bytes


@pytest.mark.usefixtures("fixed")
def test_prometheus_is_asked_and_histograms_are_put_together(api: Callable[[dict[str, object]], str]) -> None:
    url = api(
        {
            'count({__name__!=""})': counted(1_000),
            'count({__name__=~".+_bucket",le!=""})': counted(600),
            'count({__name__=~".+_bucket",le="+Inf"})': counted(50),
        }
    )
    load = measure(Config(), prometheus=url, interval_s=10.0).load
    # 300 numbers, and 50 histograms of 12 buckets, a sum and a count: rate, mean and p95 of each
    assert (load.streams, load.histograms, load.series) == (350, 50, 300 + 150)
    assert load.points_per_s == 35 and load.services is None


@pytest.mark.usefixtures("fixed")
def test_a_prometheus_with_nothing_or_nonsense(api: Callable[[dict[str, object]], str]) -> None:
    queries = ('{__name__!=""}', '{__name__=~".+_bucket",le!=""}', '{__name__=~".+_bucket",le="+Inf"}')
    assert measure(Config(), prometheus=api({f"count({q})": [] for q in queries})).load.series == 0
    with pytest.raises(BadInput, match="expected one number"):
        measure(Config(), prometheus=api({f"count({q})": [{"value": "?"}] for q in queries}))


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otel_aiops.batch.client.TRIES", 1)
    with pytest.raises(Overloaded, match=r"does not answer: .*refused"):
        measure(Config(), prometheus="http://127.0.0.1:1")


@pytest.mark.usefixtures("fixed")
def test_text_and_json_say_the_same() -> None:
    plan = measure(Config(), series=2_000_000, interval_s=60.0)
    tree = json.loads(plan.json())
    assert tree["load"]["series"] == 2_000_000 and tree["enough"] is False
    assert set(tree) == {field.name for field in dataclasses.fields(Plan)}
    text = plan.text()
    for word in ("series ", "limit ", "points ", "memory ", "CPU ", "disk ", "output "):
        assert f"\n{word}" in f"\n{text}"
    assert "2.0 GiB" in text and "7 of each service" in text


def test_memory_is_known_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Path) -> str:
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", missing)
    assert planning._resident_bytes() > 10 << 20


def test_tracing_that_runs_already_goes_on() -> None:
    tracemalloc.start()
    try:
        assert planning._measure(dataclasses.replace(Config(), align=AlignConfig()), 0).series_bytes > 300
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()
