"""A real Collector and a real Prometheus around the service, with the configurations that operators copy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from otel_aiops.config import load
from otel_aiops.series.history import History
from tests.servers import Aiops, Prometheus, free_port, require, running_collector, wait_for
from tests.tools.collector import collector

pytestmark = pytest.mark.servers

CONFIGS = sorted((Path(__file__).parents[2] / "collector-config").glob("*.yaml"))
QUICK = "detection: {warmup_points: 5}\nemit: {series: all, expected: true, interval: 1s}\n"
LOAD = "system.cpu.load_average.1m"
SCORE = f'otel_aiops_anomaly_score{{anomaly_metric_name="{LOAD}"}}'


def variables(folder: Path, **known: str) -> dict[str, str]:
    """Values for every ${env:…} of the configurations: free ports, and folders of the test."""
    ports = ("HEALTH", "OTLP_GRPC", "OTLP_HTTP", "SCORES_GRPC")
    addresses = {name: f"127.0.0.1:{free_port()}" for name in ports}
    others = {
        "QUEUE_DIR": str(folder / "queue"),
        "LOG_FILES": str(folder / "*.log"),
        "INTERVAL": "1s",
        "BACKEND_GRPC": "127.0.0.1:1",
        "PROMETHEUS": "http://127.0.0.1:1",
        "KAFKA": "127.0.0.1:1",
    }
    return {**addresses, **others, **known}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_configuration_is_valid_and_runs(config: Path, tmp_path: Path) -> None:
    binary = require(collector)
    values = variables(tmp_path)
    done = subprocess.run(
        [str(binary), "validate", "--config", str(config)],
        env={**os.environ, **values},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    with running_collector(config, tmp_path, values, health=int(values["HEALTH"].rsplit(":", 1)[1])):
        pass


class Rig:
    """hostmetrics → Collector → otel-aiops → Collector → Prometheus, and a second Prometheus that scrapes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        scores = free_port()
        self.aiops = Aiops(folder, QUICK, scores_to=scores)
        self.prometheus = Prometheus(folder)
        scraping = folder / "scraping"
        scraping.mkdir()
        self.scraper = Prometheus(scraping, {"otel-aiops": self.aiops.api})
        self.variables = variables(
            folder,
            AIOPS_GRPC=f"127.0.0.1:{self.aiops.grpc}",
            SCORES_GRPC=f"127.0.0.1:{scores}",
            PROMETHEUS=self.prometheus.url,
        )


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    found = Rig(tmp_path_factory.mktemp("rig"))
    config = next(path for path in CONFIGS if path.stem == "host-metrics")
    health = int(found.variables["HEALTH"].rsplit(":", 1)[1])
    with ExitStack() as stack:
        stack.enter_context(found.prometheus)
        stack.enter_context(found.aiops)
        stack.enter_context(found.scraper)
        stack.enter_context(running_collector(config, found.folder, found.variables, health=health))
        yield found


def test_scores_of_real_series_reach_prometheus(rig: Rig) -> None:
    (found,) = wait_for(lambda: rig.prometheus.query(SCORE), "the score of the load")
    labels = found["metric"]
    assert labels["job"] == "host" and labels["anomaly_model"] == "default"
    assert float(found["value"][1]) >= 0
    expected = {f"otel_aiops_anomaly_{name}" for name in ("score", "active", "probability")}
    expected |= {"otel_aiops_expected", "otel_aiops_expected_lower", "otel_aiops_expected_upper"}
    expected |= {"otel_aiops_service_anomaly_score", "otel_aiops_service_series_scored"}
    wait_for(lambda: expected <= rig.prometheus.names(), f"all of {sorted(expected)}")
    query = 'otel_aiops_anomaly_score{anomaly_stat="rate",anomaly_metric_name="system.cpu.time"}'
    wait_for(lambda: rig.prometheus.query(query), "the score of a rate")


def test_prometheus_can_scrape_them_too(rig: Rig) -> None:
    (found,) = wait_for(lambda: rig.scraper.query(SCORE), "a scraped score")
    assert found["metric"]["job"] == "host"
    assert rig.scraper.query("otel_aiops_points_scored_total")
    services = rig.scraper.query("otel_aiops_service_series_scored")
    assert [row["metric"]["job"] for row in services] == ["host"]


def test_an_outage_loses_nothing(rig: Rig) -> None:
    wait_for(lambda: len(times_in_prometheus(rig)) > 5, "some points of the load")
    for kill in (rig.aiops.stop, rig.aiops.server.kill):
        kill()
        enough = len(times_in_prometheus(rig)) + 4
        wait_for(lambda n=enough: len(times_in_prometheus(rig)) >= n, "points while the service is away")
        rig.aiops.start()
    back = max(times_in_prometheus(rig))
    wait_for(lambda: newest(rig) > back, "points after the outage")
    wait_for(lambda: newest(rig) > back + 2, "two more seconds of points")
    rig.aiops.stop()
    try:
        scored = times_in_history(rig)
        wanted = {time_s for time_s in times_in_prometheus(rig) if time_s <= max(scored)}
        assert wanted and wanted <= scored
    finally:
        rig.aiops.start()


def test_no_score_of_a_score(rig: Rig) -> None:
    """Scores go through the same Collector, and a scrape or a tee may bring them back: nobody scores them."""
    sources = {row["metric"]["anomaly_metric_name"] for row in rig.prometheus.query("otel_aiops_anomaly_score")}
    assert sources and not [name for name in sources if name.startswith("otel_aiops")]
    assert not [one["name"] for one in rig.aiops.series() if one["name"].startswith("otel_aiops")]
    text = requests.get(f"{rig.aiops.url}/metrics", timeout=10).text
    back = {
        "resourceMetrics": [
            {
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "prometheus"}}]},
                "scopeMetrics": [{"metrics": [gauge("otel_aiops_anomaly_score"), gauge("otel_aiops.anomaly.score")]}],
            },
            {
                "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "otel-aiops"}}]},
                "scopeMetrics": [{"metrics": [gauge("process.cpu")]}],
            },
            {"scopeMetrics": [{"scope": {"name": "otel_aiops"}, "metrics": [gauge("anything")]}]},
        ]
    }
    assert "otel_aiops_points_own_total 0.0" in text
    answer = requests.post(f"http://127.0.0.1:{rig.aiops.http}/v1/metrics", json=back, timeout=10)
    assert answer.status_code == 200
    wait_for(lambda: rig.aiops.metric("otel_aiops_points_own_total") == 4, "ignored points to be counted")
    assert not [one for one in rig.aiops.series() if one["service"] in ("prometheus", "otel-aiops")]


def gauge(name: str) -> dict[str, Any]:
    point = {"timeUnixNano": str(time.time_ns()), "asDouble": 1.0}
    return {"name": name, "gauge": {"dataPoints": [point]}}


def times_in_prometheus(rig: Rig) -> set[float]:
    """When the load was measured, in seconds; Prometheus cuts them to milliseconds."""
    found = rig.prometheus.query(f"{LOAD.replace('.', '_')}[1h]")
    return {round(float(at), 3) for at, _ in found[0]["values"]} if found else set()


def times_in_history(rig: Rig) -> set[float]:
    """The same of what was scored, by what is on the disk; the service must not run."""
    history = History(load(rig.aiops.config).config.storage, rig.aiops.data)
    history.open()
    try:
        table = history.read(0, time.time_ns())
        rows = table.select(["series", "timestamp"]).to_pylist()
    finally:
        history.close()
    times = [row["timestamp"] for row in rows if json.loads(row["series"])["name"] == LOAD]
    return {round(at.replace(microsecond=at.microsecond // 1000 * 1000).timestamp(), 3) for at in times}


def newest(rig: Rig) -> float:
    """When the load was last scored, by the API."""
    latest = [one["latest"] for one in rig.aiops.series() if one["name"] == LOAD]
    return float(latest[0]["time_ns"]) / 1e9 if latest and latest[0] else 0.0


def test_backfill_from_a_real_prometheus(rig: Rig) -> None:
    """The past of series that came through the Collector is found under the names that the Collector gave them."""
    wait_for(lambda: len(times_in_prometheus(rig)) > 10, "some past to learn")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "otel_aiops",
            "backfill",
            rig.prometheus.url,
            "--server",
            rig.aiops.url,
            "--window",
            "1h",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    wait_for(lambda: rig.aiops.metric("otel_aiops_points_backfilled_total") > 100, "the past to be learned")
    assert rig.aiops.metric("otel_aiops_step_failures_total") == 0


def test_side_car_tee_passes_all_three_signals(tmp_path: Path) -> None:
    """Applications send to the Collector; a backend and otel-aiops get the same."""
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    scores = free_port()
    config = next(path for path in CONFIGS if path.stem == "sidecar-tee")
    with ExitStack() as stack:
        prometheus = stack.enter_context(Prometheus(tmp_path))
        aiops = stack.enter_context(Aiops(tmp_path, QUICK, scores_to=scores))
        backend_folder = tmp_path / "backend"
        backend_folder.mkdir()
        backend = stack.enter_context(Aiops(backend_folder))  # any OTLP receiver will do
        values = variables(
            tmp_path,
            AIOPS_GRPC=f"127.0.0.1:{aiops.grpc}",
            SCORES_GRPC=f"127.0.0.1:{scores}",
            PROMETHEUS=prometheus.url,
            BACKEND_GRPC=f"127.0.0.1:{backend.grpc}",
        )
        health = int(values["HEALTH"].rsplit(":", 1)[1])
        stack.enter_context(running_collector(config, tmp_path, values, health=health))
        resource = Resource.create({"service.name": "cart"})
        endpoint = f"http://{values['OTLP_GRPC']}"
        reader = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint, insecure=True), 300)
        meters = MeterProvider([reader], resource=resource)
        tracers = TracerProvider(resource=resource)
        tracers.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint, insecure=True)))
        counter = meters.get_meter("app").create_counter("orders", unit="{order}")
        try:
            for _ in range(12):
                counter.add(3)
                with tracers.get_tracer("app").start_as_current_span("pay"):
                    time.sleep(0.3)
        finally:
            meters.shutdown()
            tracers.shutdown()
        wait_for(lambda: prometheus.query("orders_total"), "the counter in Prometheus")
        wait_for(lambda: aiops.metric("otel_aiops_receiver_accepted_spans_total") >= 12, "spans at otel-aiops")
        wait_for(lambda: backend.metric("otel_aiops_receiver_accepted_spans_total") >= 12, "spans at the backend")
        wait_for(
            lambda: prometheus.query('otel_aiops_anomaly_score{anomaly_metric_name="orders",job="cart"}'),
            "the score of the counter in Prometheus",
        )
