"""Own telemetry: counted, shown as Prometheus reads it, exported by the SDK; and our own log lines."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import structlog
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from otel_aiops.errors import ConfigError
from otel_aiops.otlp.semconv import METRICS, OWN_METRICS, is_own, metric_table, series_metrics
from otel_aiops.server.logs import configure_logging
from otel_aiops.server.telemetry import LogsConfig, OwnMetricsConfig, Telemetry, export_protocol, start_export


def samples(telemetry: Telemetry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(telemetry.render().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


class TestCounts:
    def test_are_shown_under_their_names(self) -> None:
        telemetry = Telemetry()
        telemetry.add("otel_aiops.points.scored", 5)
        telemetry.add("otel_aiops.points.scored", 2)
        telemetry.add("otel_aiops.points.rejected", 1, reason="no time")
        telemetry.set("otel_aiops.config.reload.success", 1)
        telemetry.watch("otel_aiops.series.active", lambda: 42)
        telemetry.record("otel_aiops.score.latency", 0.03)
        telemetry.record("otel_aiops.score.latency", 99)
        found = samples(telemetry)
        assert found["otel_aiops_points_scored_total", ()] == 7
        assert found["otel_aiops_points_rejected_total", (("reason", "no time"),)] == 1
        assert found["otel_aiops_config_reload_success", ()] == 1
        assert found["otel_aiops_series_active", ()] == 42
        assert found["otel_aiops_score_latency_seconds_count", ()] == 2
        assert found["otel_aiops_score_latency_seconds_bucket", (("le", "0.05"),)] == 1
        assert found["otel_aiops_score_latency_seconds_bucket", (("le", "+Inf"),)] == 2
        assert telemetry.value("otel_aiops.points.scored") == telemetry.total("otel_aiops.points.scored") == 7

    def test_counters_without_attributes_begin_at_zero(self) -> None:
        found = samples(Telemetry())
        plain = [m for m in OWN_METRICS if m.kind == "counter" and not m.attributes]
        assert plain and all(found[metric.prometheus, ()] == 0 for metric in plain)

    def test_replacing_leaves_nothing_else(self) -> None:
        telemetry = Telemetry()
        telemetry.set("otel_aiops.series.worst", 5, metric="a", attribute="x")
        telemetry.replace("otel_aiops.series.worst", 7, metric="b", attribute="y")
        assert telemetry.total("otel_aiops.series.worst") == 7

    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda t: t.add("otel_aiops.nothing"), "declares as our own"),
            (lambda t: t.set("otel_aiops.points.scored", 1), "expected a gauge, got a counter"),
            (lambda t: t.add("otel_aiops.points.scored", -1), "expected a count >= 0"),
            (lambda t: t.add("otel_aiops.points.rejected"), "expected attributes"),
        ],
    )
    def test_names_that_nobody_declared_are_errors(self, call: Any, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            call(Telemetry())


class TestNames:
    def test_are_those_of_prometheus(self) -> None:
        assert METRICS["otel_aiops.anomaly.score"].prometheus == "otel_aiops_anomaly_score"
        assert METRICS["otel_aiops.warmup.eta"].prometheus == "otel_aiops_warmup_eta_seconds"
        names = [metric.prometheus for metric in METRICS.values()]
        assert len(names) == len(set(names)) and all(name in metric_table() for name in names)

    def test_of_maps_replace_ours(self) -> None:
        names = {field: metric.name for field, metric in series_metrics(compat="vmanomaly").items()}
        assert names["score"] == "anomaly_score" and names["expected"] == "yhat" and names["active"].startswith("otel_")
        assert set(series_metrics()) == {"score", "active", "ratio", "alert", "probability"}
        assert set(series_metrics(expected=True)) >= {"expected", "lower", "upper"}

    def test_of_ours_are_known_again(self) -> None:
        assert is_own("anything", "otel_aiops") and is_own("otel_aiops_x", "") and is_own("yhat", "")
        assert is_own("anomaly:level", "") and not is_own("otel_aiopsx", "app")


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportMetricsServiceRequest]]]:
    """An OTLP/HTTP destination."""
    got: list[ExportMetricsServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(ExportMetricsServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    server.server_close()


class TestExport:
    def test_sends_what_is_counted_under_our_own_name(self, collector: tuple[str, list[Any]]) -> None:
        url, got = collector
        telemetry = Telemetry()
        telemetry.add("otel_aiops.points.scored", 5)
        environ = {"OTEL_RESOURCE_ATTRIBUTES": "region=eu"}
        export = start_export(telemetry, OwnMetricsConfig(endpoint=url, interval=0.1), environ)
        assert export is not None
        telemetry.record("otel_aiops.score.latency", 0.03)
        export.stop()
        export.stop()
        found = {}
        for request in got:
            for group in request.resource_metrics:
                resource = {a.key: a.value.string_value for a in group.resource.attributes}
                assert resource["service.name"] == "otel-aiops"
                for scope in group.scope_metrics:
                    assert scope.scope.name == "otel_aiops"
                    found.update({metric.name: metric for metric in scope.metrics})
        assert found["otel_aiops.points.scored"].sum.data_points[0].as_double == 5
        assert found["otel_aiops.score.latency"].histogram.data_points[0].count == 1

    @pytest.mark.parametrize(
        ("environ", "protocol"),
        [
            ({}, None),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318"}, "http/protobuf"),
            ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://x:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc"),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318", "OTEL_SDK_DISABLED": "true"}, None),
            ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4318", "OTEL_METRICS_EXPORTER": "none"}, None),
        ],
    )
    def test_follows_the_standard_variables(self, environ: dict[str, str], protocol: str | None) -> None:
        assert export_protocol(OwnMetricsConfig(), environ) == protocol

    def test_is_off_without_an_endpoint(self) -> None:
        assert start_export(Telemetry(), OwnMetricsConfig(), {}) is None

    def test_of_an_unknown_protocol_is_refused(self) -> None:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}
        with pytest.raises(ConfigError, match="expected grpc or http/protobuf, got 'http/json'"):
            export_protocol(OwnMetricsConfig(), environ)

    def test_over_grpc_can_be_built(self) -> None:
        export = start_export(Telemetry(), OwnMetricsConfig(endpoint="http://127.0.0.1:1", protocol="grpc"), {})
        assert export is not None
        export.stop(0.1)

    @pytest.mark.parametrize("wrong", [{"endpoint": "localhost"}, {"interval": 0}])
    def test_settings_out_of_range_are_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            OwnMetricsConfig(**wrong)


class TestLogs:
    def lines(self, config: LogsConfig, **environ: str) -> tuple[io.StringIO, Any]:
        stream = io.StringIO()
        configure_logging(config, environ=environ, stream=stream)
        return stream, structlog.get_logger("otel_aiops.test")

    @pytest.fixture(autouse=True)
    def restore(self) -> Iterator[None]:
        root = logging.getLogger()
        handlers, level = root.handlers[:], root.level
        yield
        structlog.reset_defaults()
        root.handlers[:], root.level = handlers, level

    def test_are_logfmt(self) -> None:
        stream, log = self.lines(LogsConfig())
        log.info("ready", port=4317, name="a b")
        line = stream.getvalue()
        assert line.startswith("time=") and "level=info" in line and "message=ready port=4317" in line
        assert 'name="a b"' in line

    def test_are_json_when_wanted(self) -> None:
        stream, log = self.lines(LogsConfig(encoding="json"))
        log.warning("full", series=3)
        found = json.loads(stream.getvalue())
        assert (found["level"], found["message"], found["series"]) == ("warning", "full", 3)

    def test_of_senders_hold_no_control_characters(self) -> None:
        stream, log = self.lines(LogsConfig())
        log.warning("bad", metric="x\x1b[31m")
        assert "\x1b" not in stream.getvalue()

    def test_that_repeat_are_held_back(self) -> None:
        stream, log = self.lines(LogsConfig(repeat_interval=1000))
        for _ in range(5):
            log.error("again")
        log.error("another")
        assert len(stream.getvalue().splitlines()) == 2

    def test_keep_their_level(self) -> None:
        stream, log = self.lines(LogsConfig(), OTEL_LOG_LEVEL="error")
        log.warning("hidden")
        assert not stream.getvalue()
        stream, log = self.lines(LogsConfig(level="debug"), OTEL_LOG_LEVEL="error")
        log.debug("shown")
        assert "shown" in stream.getvalue()

    def test_of_libraries_look_the_same(self) -> None:
        stream, _ = self.lines(LogsConfig())
        logging.getLogger("some.library").warning("from %s", "there")
        assert 'message="from there"' in stream.getvalue() and "logger=some.library" in stream.getvalue()

    def test_interval_must_be_a_time(self) -> None:
        with pytest.raises(ConfigError, match="repeat_interval"):
            LogsConfig(repeat_interval=-1)
