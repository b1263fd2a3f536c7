"""Backfill: the past of known series from a Prometheus API over HTTP, as points that teach the very same rows."""

from __future__ import annotations

import gzip
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from otel_aiops.batch import Backfill, Learned, backfill, past, prometheus
from otel_aiops.batch.backfill import Source, match, windows
from otel_aiops.batch.client import Api
from otel_aiops.batch.outbox import Outbox
from otel_aiops.batch.past import encode
from otel_aiops.batch.prometheus import Samples, Window, chunks, key_of, selector
from otel_aiops.errors import BadInput, Overloaded, Unauthorized
from otel_aiops.labels import Labels
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.otlp.distributions import encode_distribution
from otel_aiops.otlp.encode import encode_attributes, encode_resource, encode_scope, encode_series, series_of
from otel_aiops.otlp.points import Kind, Stream, Temporality
from otel_aiops.pipeline import Pipeline, PipelineConfig
from otel_aiops.views import Views

NOW_S = 1_700_000_000.0
RESOURCE = (("service.instance.id", "i-1"), ("service.name", "shop"))
TARGET = {"job": "shop", "instance": "i-1"}


# -- real HTTP servers --------------------------------------------------------------------------------------------


@dataclass
class Web:
    """A server on loopback; `answer` gets (path, parameters or body, headers) and gives (status, tree, headers)."""

    answer: Callable[[str, dict[str, str], bytes, Any], tuple[int, Any, dict[str, str]]]
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def web() -> Iterator[Callable[[Any], Web]]:
    started: list[ThreadingHTTPServer] = []

    def start(answer: Any) -> Web:
        site = Web(answer)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.handle_body(b"")

            def do_POST(self) -> None:
                self.handle_body(self.rfile.read(int(self.headers["Content-Length"])))

            def handle_body(self, body: bytes) -> None:
                parts = urlsplit(self.path)
                form = self.headers.get("Content-Type") == "application/x-www-form-urlencoded"
                query = body.decode() if form else parts.query
                parameters = {key: values[0] for key, values in parse_qs(query, keep_blank_values=True).items()}
                site.asked.append((parts.path, parameters))
                site.headers.append(dict(self.headers))
                status, tree, headers = site.answer(parts.path, parameters, body, self.headers)
                data = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        started.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        site.url = f"http://127.0.0.1:{server.server_port}"
        return site

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@dataclass
class Table:
    """What Prometheus would answer for these series: labels with `__name__`, times in seconds, values."""

    series: list[tuple[dict[str, str], np.ndarray[Any, Any], np.ndarray[Any, Any]]] = field(default_factory=list)

    def add(self, name: str, labels: dict[str, str], times_s: Any, values: Any) -> None:
        self.series.append(({"__name__": name, **labels}, np.asarray(times_s, float), np.asarray(values, float)))

    def __call__(self, path: str, q: dict[str, str], body: bytes, headers: Any) -> tuple[int, Any, dict[str, str]]:
        if path == "/api/v1/series":
            found = [
                labels
                for labels, t, _ in self._select(q["match[]"])
                if ((t >= float(q["start"])) & (t <= float(q["end"]))).any()
            ]
            return 200, {"status": "success", "data": found}, {}
        if path == "/api/v1/query_range":
            return self._range(q)
        assert path == "/api/v1/query"
        counting = re.fullmatch(r"count_over_time\((.*)\)", q["query"])
        text = counting[1] if counting else q["query"]
        inside = re.fullmatch(r"(\{.*\})\[(\d+)(s|ms)\]", text)
        assert inside, text
        end = float(q["time"])
        start = end - int(inside[2]) / (1000 if inside[3] == "ms" else 1)
        result = []
        for labels, t, v in self._select(inside[1]):
            chosen = (t > start) & (t <= end)
            assert chosen.sum() <= 11_000
            if counting and chosen.any():
                plain = {k: x for k, x in labels.items() if k != "__name__"}
                result.append({"metric": plain, "value": [end, str(chosen.sum())]})
            elif chosen.any():
                result.append({"metric": labels, "values": _samples(t[chosen], v[chosen])})
        return 200, {"status": "success", "data": {"resultType": "x", "result": result}}, {}

    def _range(self, q: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
        start, end, step = (float(q[name]) for name in ("start", "end", "step"))
        grid = np.arange(start, end + 1e-6, step)
        if len(grid) > 11_000:
            return 400, {"status": "error", "errorType": "bad_data", "error": "exceeded maximum resolution"}, {}
        result = []
        for labels, t, v in self._select(q["query"]):
            at = np.searchsorted(t, grid, side="right") - 1
            fresh = (at >= 0) & (grid - t[np.maximum(at, 0)] < 300)
            result.append({"metric": labels, "values": _samples(grid[fresh], v[at[fresh]])})
        return 200, {"status": "success", "data": {"result": result}}, {}

    def _select(self, text: str) -> list[Any]:
        matchers = re.findall(r'"?([^",{]+?)"?(=~|=)("(?:[^"\\]|\\.)*")', text)
        assert "{" + ",".join(f"{k}{op}{v}" for k, op, v in matchers) + "}" == text

        def fits(labels: dict[str, str]) -> bool:
            for label, op, quoted in matchers:
                value, has = json.loads(quoted), labels.get(label, "")
                if not (has == value if op == "=" else re.fullmatch(value, has)):
                    return False
            return True

        return [one for one in self.series if fits(one[0])]


def _samples(times: Any, values: Any) -> list[Any]:
    return [[float(t), "NaN" if np.isnan(v) else repr(float(v))] for t, v in zip(times, values, strict=True)]


class Service:
    """The API of a service around a real pipeline: what it knows, and what it is taught."""

    def __init__(self, *requests: bytes, limit: int = 64 << 20) -> None:
        self.pipeline = Pipeline(PipelineConfig())
        self.bodies: list[bytes] = []
        self.limit = limit
        self._views = Views(cast(Any, SimpleNamespace(pipeline=self.pipeline, ask=lambda question: question())))
        for body in requests:
            points = decode_metrics(body).points
            self.pipeline.metrics(points, now_ns=int(points.time_ns.max()))

    def __call__(self, path: str, q: dict[str, str], body: bytes, headers: Any) -> tuple[int, Any, dict[str, str]]:
        if path == "/api/v1/series":
            assert q["format"] == "source"
            page = self._views.series(after=int(q["offset"]) - 1, limit=int(q["limit"]), source=True)
            return 200, {**page, "next": None if page["next"] is None else page["next"] + 1}, {}
        assert (path, headers["Content-Encoding"]) == ("/api/v1/backfill", "gzip")
        assert headers["Content-Type"] == "application/x-protobuf"
        plain = gzip.decompress(body)
        if len(plain) > self.limit:
            return 413, {"error": "too large"}, {}
        self.bodies.append(plain)
        decoded = decode_metrics(plain)
        assert not decoded.rejected
        self.pipeline.backfill(decoded.points, now_ns=int(NOW_S * 1e9))
        return 200, {"points": len(decoded.points)}, {}

    def points(self) -> int:
        return sum(len(decode_metrics(body).points) for body in self.bodies)

    def known_points(self, row: int) -> float:
        """Points from which the engine has learned a row."""
        state = self.pipeline.engine.state()["deviation/points"]
        return float(state[row]) if row < len(state) else 0.0


def live(labels: Labels, value: float = 1.0, *, delta: bool = False, time_s: float = NOW_S) -> bytes:
    temporality = Temporality.DELTA if delta else Temporality.CUMULATIVE
    series = [series_of(labels, temporality=temporality)]
    one = np.zeros(1, np.int64)
    (request,) = encode_series(series, one, one + int(time_s * 1e9), np.array([value]))
    return request.body


def gauge(name: str = "queue.length", **attributes: str) -> Labels:
    return Labels(name, unit="{item}", resource=RESOURCE, attributes=tuple(sorted(attributes.items())))


def counter(**attributes: str) -> Labels:
    return Labels("requests", kind="sum", resource=RESOURCE, attributes=tuple(sorted(attributes.items())))


def distribution(kind: Kind, temporality: Temporality = Temporality.CUMULATIVE, cells: int = 4) -> bytes:
    stream = Stream(encode_resource(RESOURCE), encode_scope("s", "1"), "latency", "s", kind, temporality, False)
    raw = encode_attributes((("route", "/pay"),))
    edges = np.array([0.1, 0.5, 1.0] if kind == Kind.HISTOGRAM else [0.5, 0.9, 0.95, 0.99])
    one = np.ones(1)
    time_ns = np.array([int(NOW_S * 1e9)])
    return encode_distribution(
        stream, raw, time_ns=time_ns, start_ns=time_ns * 0, count=one, total=one, cells=np.ones((1, cells)), edges=edges
    )


def grid_s(n: int, interval_s: float) -> Any:
    return NOW_S - interval_s * np.arange(n)[::-1]


def run(api: Web, service: Web, **options: Any) -> Learned:
    job = Backfill(
        prometheus=api.url,
        server=service.url,
        **{"window_s": 86_400.0, "clock": lambda: NOW_S, "sleep": lambda wait_s: None, **options},
    )
    return job.run()


# -- end to end over HTTP -----------------------------------------------------------------------------------------


def test_series_are_warm_with_their_own_identity(web: Any) -> None:
    table, service = Table(), Service(live(gauge(zone="a")), live(gauge(zone="b")), live(counter()))
    values = np.random.default_rng(0).normal(50, 2, 200)
    table.add("queue_length", {**TARGET, "zone": "a"}, grid_s(200, 60), values)
    table.add("queue_length", {**TARGET, "zone": "b"}, grid_s(100, 60), values[:100])
    table.add("queue_length", {**TARGET, "zone": "other"}, grid_s(100, 60), values[:100])
    table.add("requests_total", TARGET, grid_s(300, 30), np.arange(300.0) * 60)
    rows = len(service.pipeline.table)
    result = run(web(table), web(service))
    assert (result.known, result.learned, result.points) == (3, 3, 600) and not result.missing and not result.errors
    assert len(service.pipeline.table) == rows == 3
    assert [service.known_points(row) for row in range(3)] == [200, 100, 299]
    (body,) = service.bodies
    np.testing.assert_array_equal(decode_metrics(body).points.value[:300], np.concatenate([values, values[:100]]))
    assert "learned    3 of 3 series, 600 points" in result.text()
    spike = decode_metrics(live(gauge(zone="a"), 500.0, time_s=NOW_S + 60)).points
    (scored,) = service.pipeline.metrics(spike, now_ns=int((NOW_S + 60) * 1e9)).scored
    assert scored.scores.score[0] > 1
    steady = decode_metrics(live(gauge(zone="b"), 50.0, time_s=NOW_S + 60)).points
    (scored,) = service.pipeline.metrics(steady, now_ns=int((NOW_S + 60) * 1e9)).scored
    assert scored.scores.score[0] < 1


def test_what_is_learned_is_what_the_points_would_have_taught(web: Any) -> None:
    table, service = Table(), Service(live(gauge()))
    values = np.random.default_rng(1).normal(5, 1, 500)
    table.add("queue_length", TARGET, grid_s(500, 15), values)
    run(web(table), web(service))
    direct = Pipeline(PipelineConfig())
    for t, v in zip(grid_s(500, 15), values, strict=True):
        direct.metrics(decode_metrics(live(gauge(), float(v), time_s=t)).points, now_ns=int(t * 1e9))
    learned, expected = service.pipeline.engine.state(), direct.engine.state()
    assert all(learned[name].tobytes() == expected[name].tobytes() for name in expected)


def test_a_histogram_is_taught_with_its_buckets(web: Any) -> None:
    table, service = Table(), Service(distribution(Kind.HISTOGRAM))
    labels, times = {**TARGET, "route": "/pay"}, grid_s(100, 60)
    count = np.cumsum(np.full(100, 40.0))
    for le, share in (("0.1", 0.25), ("0.5", 0.5), ("1", 0.5), ("+Inf", 1.0)):
        table.add("latency_seconds_bucket", {**labels, "le": le}, times, count * share)
    table.add("latency_seconds_sum", labels, times, count * 0.3)
    table.add("latency_seconds_count", labels, times, count)
    result = run(web(table), web(service))
    assert (result.known, result.learned, result.points) == (1, 1, 100), result.text()
    points = decode_metrics(service.bodies[0]).points
    np.testing.assert_array_equal(points.cells.reshape(100, 4), np.outer(count, [0.25, 0.25, 0.0, 0.5]))
    np.testing.assert_array_equal(np.frombuffer(points.layouts[0]), [0.1, 0.5, 1.0])
    np.testing.assert_allclose(points.value, count * 0.3)
    assert [service.known_points(row) for row in range(3)] == [99, 99, 99]  # rate, mean, p95


def test_a_summary_is_taught_with_its_quantiles(web: Any) -> None:
    table, service = Table(), Service(distribution(Kind.SUMMARY))
    labels, times = {**TARGET, "route": "/pay"}, grid_s(50, 60)
    for quantile in ("0.5", "0.9", "0.95", "0.99"):
        table.add("latency_seconds", {**labels, "quantile": quantile}, times, np.full(50, float(quantile)))
    table.add("latency_seconds", labels, times, np.ones(50))  # not a quantile
    table.add("latency_seconds_count", labels, times, np.arange(50.0))
    table.add("latency_seconds_sum", labels, times, np.arange(50.0) * 2)
    result = run(web(table), web(service))
    assert (result.learned, result.points) == (1, 50), result.text()
    points = decode_metrics(service.bodies[0]).points
    np.testing.assert_array_equal(points.cells.reshape(50, 4), np.tile([0.5, 0.9, 0.95, 0.99], (50, 1)))
    assert service.known_points(2) == 50


def test_delta_streams_are_taught_what_was_added(web: Any) -> None:
    table, service = Table(), Service(live(counter(), delta=True), distribution(Kind.HISTOGRAM, Temporality.DELTA))
    times, labels = grid_s(6, 60), {**TARGET, "route": "/pay"}
    table.add("requests_total", TARGET, times, [10, 30, 60, 5, 6, 8])
    table.add("latency_seconds_count", labels, times, [1, 2, 3, 2, 4, 6])
    table.add("latency_seconds_sum", labels, times, [1, 2, 3, 2, 4, 6])
    table.add("latency_seconds_bucket", {**labels, "le": "+Inf"}, times, [1, 2, 3, 2, 4, 6])
    result = run(web(table), web(service))
    assert (result.learned, result.points) == (2, 10)
    points = decode_metrics(service.bodies[0]).points
    assert points.value.tolist() == [20, 30, 5, 1, 2, 1, 1, 2, 2, 2]
    assert points.count[5:].tolist() == points.cells.tolist() == [1, 1, 2, 2, 2]
    np.testing.assert_allclose((points.time_ns - points.start_ns) / 1e9, 60)


def test_what_is_not_there_or_cannot_be_is_said(web: Any) -> None:
    stream = Stream(encode_resource(RESOURCE), b"", "size", "By", Kind.EXPONENTIAL_HISTOGRAM, Temporality(2), False)
    body = encode_distribution(
        stream._replace(kind=Kind.HISTOGRAM),
        b"",
        time_ns=np.array([1]),
        start_ns=np.array([0]),
        count=np.ones(1),
        total=np.ones(1),
        cells=np.empty((1, 0)),
        edges=np.empty(0),
    )
    service = Service(live(gauge()), live(gauge("temperature")), body)
    pages = service(*("/api/v1/series", {"format": "source", "offset": "0", "limit": "9"}, b"", {}))[1]["series"]
    pages[-1]["kind"] = int(Kind.EXPONENTIAL_HISTOGRAM)
    table = Table()
    table.add("queue_length", TARGET, [NOW_S], [1.0])  # one point teaches nothing
    site = web(lambda *_: (200, {"series": pages, "next": None}, {}))
    result = run(web(table), site)
    assert (result.learned, result.missing, result.unsupported) == (
        0,
        ("queue_length", "temperature"),
        ("size_bytes",),
    )
    assert "not found  2: queue_length, temperature" in result.text() and "no way yet 1: size_bytes" in result.text()


def test_all_pages_are_asked_for(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "PAGE", 2)
    zones = [chr(97 + k) for k in range(5)]
    table, service = Table(), Service(*[live(gauge(zone=zone)) for zone in zones])
    for zone in zones:
        table.add("queue_length", {**TARGET, "zone": zone}, grid_s(30, 60), np.ones(30))
    site = web(service)
    result = run(web(table), site)
    assert result.learned == 5
    assert [q["offset"] for path, q in site.asked if path == "/api/v1/series"] == ["0", "2", "4"]


def test_a_long_past_is_read_in_part_and_every_hour(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "MOST_POINTS", 400)
    monkeypatch.setattr(backfill, "RECENT_POINTS", 100)
    table, service = Table(), Service(live(gauge()))
    table.add("queue_length", TARGET, grid_s(5760, 15), np.arange(5760.0))
    result = run(web(table), web(service))
    points = decode_metrics(service.bodies[0]).points
    assert result.points == len(points) <= 420 and not result.cut
    hours = np.unique(points.time_ns // 3_600_000_000_000)
    assert len(hours) >= 24 and (np.diff(hours) == 1).all()
    np.testing.assert_array_equal(np.diff(points.time_ns[-100:]), 15_000_000_000)


def test_a_step_is_read_as_a_grid_in_allowed_pieces(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "MOST_POINTS", 400)
    table, service = Table(), Service(live(gauge()))
    table.add("queue_length", TARGET, grid_s(1441, 60), np.arange(1441.0))
    api = web(table)
    result = run(api, web(service), step_s=120.0)
    asked = [q for path, q in api.asked if path == "/api/v1/query_range"]
    assert len(asked) == 2 and not any(path == "/api/v1/query" for path, _ in api.asked)
    points = decode_metrics(service.bodies[0]).points
    assert result.points == len(points) == 721
    np.testing.assert_array_equal(np.diff(points.time_ns), 120_000_000_000)


def test_series_of_different_intervals_are_read_apart(web: Any) -> None:
    table, service = Table(), Service(live(gauge(zone="a")), live(gauge(zone="b")), live(gauge(zone="c")))
    table.add("queue_length", {**TARGET, "zone": "a"}, grid_s(500, 5), np.ones(500))
    table.add("queue_length", {**TARGET, "zone": "b"}, grid_s(500, 60), np.ones(500))
    table.add("queue_length", {**TARGET, "zone": "c"}, grid_s(500, 60) - 3600, np.ones(500))  # not lately
    result = run(web(table), web(service))
    assert (result.learned, result.points) == (3, 1500) and len(service.bodies) == 1


def test_a_body_that_is_too_large_is_halved(web: Any) -> None:
    zones = [chr(97 + k) for k in range(4)]
    service = Service(*[live(gauge(zone=zone)) for zone in zones], limit=6_000)
    table = Table()
    for zone in zones:
        table.add("queue_length", {**TARGET, "zone": zone}, grid_s(90, 60), np.ones(90))
    result = run(web(table), web(service))
    assert (result.learned, result.points, len(service.bodies)) == (4, 360, 4)
    tiny = Service(live(gauge()), limit=100)
    small = Table()
    small.add("queue_length", TARGET, grid_s(90, 60), np.ones(90))
    result = run(web(small), web(tiny))
    assert result.learned == 0 and "answered 413: too large" in result.errors[0]


# -- trouble ------------------------------------------------------------------------------------------------------


def test_tokens_go_to_their_servers(web: Any) -> None:
    api, service = web(Table()), web(Service(live(gauge())))
    run(api, service, prometheus_token="p-token", server_token="s-token")
    assert {h["Authorization"] for h in api.headers} == {"Bearer p-token"}
    assert {h["Authorization"] for h in service.headers} == {"Bearer s-token"}


def test_another_try_follows_what_may_pass(web: Any) -> None:
    table, service = Table(), Service(live(gauge()))
    table.add("queue_length", TARGET, grid_s(50, 60), np.ones(50))
    failures = iter([(503, b"<html>", {"Retry-After": "7"}), (429, {"error": "slow down"}, {"Retry-After": "soon"})])
    waits: list[float] = []
    api = web(lambda *asked: next(failures, None) or table(*asked))
    assert run(api, web(service), sleep=waits.append).learned == 1
    assert len(waits) == 2 and waits[0] >= 7


def test_a_busy_service_is_waited_for(web: Any) -> None:
    table, service = Table(), Service(live(gauge()))
    table.add("queue_length", TARGET, grid_s(50, 60), np.ones(50))
    busy = iter(range(12))

    def answer(path: str, *rest: Any) -> Any:
        full = path.endswith("backfill") and next(busy, None) is not None
        return (503, {"error": "the queue is full"}, {"Retry-After": "1"}) if full else service(path, *rest)

    waits: list[float] = []
    assert run(web(table), web(answer), sleep=waits.append).learned == 1
    assert len(waits) == 12 and min(waits) >= 1


def test_one_metric_that_fails_does_not_stop_the_others(web: Any) -> None:
    table, service = Table(), Service(live(gauge()), live(counter()))
    table.add("requests_total", TARGET, grid_s(50, 60), np.arange(50.0))

    def answer(path: str, q: dict[str, str], *rest: Any) -> Any:
        if "queue_length" in str(q):
            return 503, {"status": "error", "errorType": "timeout", "error": "query timed out"}, {}
        return table(path, q, *rest)

    result = run(web(answer), web(service))
    assert result.learned == 1 and len(result.errors) == 1
    assert "queue_length: Prometheus: " in result.errors[0] and "query timed out" in result.text()


def test_many_streams_go_in_one_body_as_long_as_they_fit(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    site = web(Service(*[live(gauge(zone=zone)) for zone in "abcde"]))
    table = Table()
    for zone in "abcde":
        table.add("queue_length", {**TARGET, "zone": zone}, grid_s(90, 60), np.ones(90))
    size = len(encode(*series_of(gauge(zone="a")), Samples(np.arange(1, 91), np.ones(90))).body)
    monkeypatch.setattr(backfill, "Outbox", lambda server: Outbox(server, body_bytes=2 * size))
    assert run(web(table), site).learned == 5
    assert [len(body) for body in site.answer.bodies] == [2 * size, 2 * size, size]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((400, {"error": "not now"}, {}), "answered 400: not now"),
        ((200, {"what": 1}, {}), "expected a number of points"),
    ],
)
def test_a_body_that_is_refused_is_an_error_with_its_metrics(web: Any, answer: Any, message: str) -> None:
    names = [f"m{k}" for k in range(5)]
    service = Service(*[live(Labels(name, resource=RESOURCE)) for name in names])
    table = Table()
    for name in names:
        table.add(name, TARGET, grid_s(30, 60), np.ones(30))
    result = run(web(table), web(lambda path, *rest: answer if path.endswith("backfill") else service(path, *rest)))
    assert result.learned == 0 and len(result.errors) == 1
    assert result.errors[0].startswith("m0, m1, m2 and 2 more: ") and message in result.errors[0]


def test_a_service_that_goes_away_at_the_end(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    table, service = Table(), Service(live(gauge(zone="a")), live(gauge(zone="b")))
    for zone in "ab":
        table.add("queue_length", {**TARGET, "zone": zone}, grid_s(90, 60), np.ones(90))
    bodies = iter([1])

    def answer(path: str, *rest: Any) -> Any:
        gone = path.endswith("backfill") and next(bodies, None) is None
        return (503, {"error": "shutting down"}, {}) if gone else service(path, *rest)

    site = web(answer)
    with monkeypatch.context() as patch:
        patch.setattr(backfill, "Outbox", lambda server: Outbox(server, body_bytes=1))
        result = run(web(table), site)
    assert result.learned == 1 and "the last series were not sent" in result.text()
    with pytest.raises(Overloaded, match="shutting down"):
        run(web(table), site)


def test_a_server_that_goes_away_ends_the_run_with_what_was_learned(web: Any) -> None:
    table, service = Table(), Service(live(gauge()), live(counter()), live(gauge("zzz")))
    table.add("queue_length", TARGET, grid_s(50, 60), np.ones(50))

    def answer(path: str, q: dict[str, str], *rest: Any) -> Any:
        return (502, b"", {}) if "requests" in str(q) else table(path, q, *rest)

    result = run(web(answer), web(service))
    assert result.learned == 1 and "what comes after it was not read" in result.errors[0]
    with pytest.raises(Overloaded, match="502"):
        run(web(lambda *_: (502, b"", {})), web(Service(live(gauge()))))


def test_nobody_there(web: Any) -> None:
    with pytest.raises(Overloaded, match=r"otel-aiops: .* does not answer"):
        Backfill(prometheus="http://127.0.0.1:1", server="http://127.0.0.1:1", window_s=60, sleep=lambda s: None).run()


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((401, {"error": "no token"}, {}), Unauthorized, "no token"),
        ((403, {"error": "no"}, {}), Unauthorized, "403"),
        ((404, ["what"], {}), BadInput, "404.*what"),
        ((200, b"<html>", {}), BadInput, "expected JSON"),
        ((200, {"status": "error"}, {}), BadInput, "status success"),
        ((200, {"status": "success", "data": 3}, {}), BadInput, "list of label sets"),
    ],
)
def test_answers_of_prometheus_that_are_none(web: Any, answer: Any, error: type[Exception], message: str) -> None:
    site = web(lambda *_: answer)
    with pytest.raises(error, match=message):
        prometheus.Prometheus(Api("Prometheus", site.url)).series("up", 0, 1)


def test_a_vector_must_be_one(web: Any) -> None:
    site = web(lambda *_: (200, {"status": "success", "data": {"result": 1}}, {}))
    with pytest.raises(BadInput, match="list of series"):
        prometheus.Prometheus(Api("Prometheus", site.url)).intervals_s("up", 1)


def test_a_refused_token_ends_the_run(web: Any) -> None:
    with pytest.raises(Unauthorized):
        run(web(lambda *_: (401, {"error": "no"}, {})), web(Service(live(gauge()))))


@pytest.mark.parametrize("page", [{}, [], {"series": [{"name": "x"}], "next": None}])
def test_a_service_that_is_none(web: Any, page: Any) -> None:
    with pytest.raises(BadInput, match="expected a page of series"):
        run(web(Table()), web(lambda *_: (200, page, {})))


@pytest.mark.parametrize("options", [{"window_s": 0.0}, {"step_s": 0.0}, {"prometheus": "localhost:9090"}])
def test_settings_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="expected"):
        Backfill(**{"prometheus": "http://x", "server": "http://y", "window_s": 1.0, **options}).run()


def test_url_with_a_path_and_a_url_that_is_broken(web: Any) -> None:
    site = web(lambda path, *_: (200, {"path": path}, {}))
    assert Api("x", f"{site.url}/prometheus/").get("/api/v1/query", {}) == {"path": "/prometheus/api/v1/query"}
    with pytest.raises(BadInput):
        Api("x", "http://[bad").get("/", {})


def test_progress_goes_to_the_end(web: Any) -> None:
    table, service = Table(), Service(live(gauge()), live(counter()))
    table.add("requests_total", TARGET, grid_s(50, 60), np.arange(50.0))
    told: list[tuple[float, float, str]] = []
    job = Backfill(prometheus=web(table).url, server=web(service).url, window_s=9999.0, clock=lambda: NOW_S)
    job.run(progress=lambda *what: told.append(what))
    assert told and all(done <= total == 2 for done, total, _ in told)


# -- parts --------------------------------------------------------------------------------------------------------


def test_selectors_say_exactly_what_is_meant(web: Any) -> None:
    keys = [key_of({"job": j, "zone": 'a"\\\n', "x.y": "1"}) for j in ("a.b", "c|d", "")]
    text = selector("up", keys)
    assert text == '{__name__="up",job=~"|a\\\\.b|c\\\\|d","x.y"="1",zone="a\\"\\\\\\n"}'
    many = [key_of({"job": str(k), "zone": "a"}) for k in range(prometheus.MOST_VALUES + 1)]
    assert selector("up", many) == '{__name__="up",zone="a"}'


def test_a_long_selector_is_posted(web: Any) -> None:
    table = Table()
    keys = []
    for k in range(150):
        labels = {"host": f"machine-{k:03}.some.where.example.org"}
        table.add("up", labels, [NOW_S - 60, NOW_S], [1, 2])
        keys.append(key_of(labels))
    site = web(table)
    found = prometheus.Prometheus(Api("Prometheus", site.url)).samples("up", keys, [Window(NOW_S - 90, NOW_S)])
    assert set(found) == set(keys) and all(len(one) == 2 for one in found.values())
    assert site.headers[0]["Content-Type"] == "application/x-www-form-urlencoded"


def test_samples_that_are_not_finite_are_left_out_and_overlaps_are_one(web: Any) -> None:
    table = Table()
    table.add("up", {}, [NOW_S - 2, NOW_S - 1, NOW_S], [1, np.nan, 3])
    both = [Window(NOW_S - 5, NOW_S - 1), Window(NOW_S - 3, NOW_S)]
    found = prometheus.Prometheus(Api("Prometheus", web(table).url)).samples("up", [frozenset()], both)
    (one,) = found.values()
    assert one.value.tolist() == [1, 3]


def test_streams_find_their_series_under_added_labels() -> None:
    def source(**labels: str) -> Source:
        return Source("up", key_of(labels), series_of(gauge())[0], b"")

    plain, routed = source(job="a"), source(job="a", route="/x")
    found = [
        {"__name__": "up", "job": "a", "cluster": "c", "replica": "0"},
        {"__name__": "up", "job": "a", "cluster": "c"},
        {"__name__": "up", "job": "a", "route": "/x"},
        {"__name__": "up", "job": "b"},
    ]
    matched = match([plain, routed, source(job="z")], found)
    assert matched == {key_of(found[1]): plain, key_of(found[2]): routed}
    assert match([routed], found[:2]) == {}


@pytest.mark.parametrize(
    ("interval_s", "window_s"), [(15, 3600), (15, 86_400), (15, 14 * 86_400), (1, 86_400), (3600, 1e6)]
)
def test_windows_follow_each_other_and_hold_a_bounded_number_of_points(interval_s: float, window_s: float) -> None:
    found = list(windows(NOW_S - window_s, NOW_S, interval_s, None))
    assert found[-1].end_s == NOW_S and found[0].start_s >= NOW_S - window_s
    assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(found))
    points = sum((one.end_s - one.start_s) / interval_s for one in found)
    assert points <= 1.5 * backfill.MOST_POINTS
    assert points >= min(window_s / interval_s, backfill.MOST_POINTS) * 0.8


@pytest.mark.parametrize(("step_s", "series"), [(None, 1), (None, 5_000), (7.0, 1), (7.0, 3_000)])
def test_chunks_ask_for_no_more_than_allowed(step_s: float | None, series: int) -> None:
    window = Window(NOW_S - 400_000, NOW_S, step_s)
    found = chunks(window, 7.0, series)
    assert found[0].start_s == window.start_s and found[-1].end_s == window.end_s
    for one in found:
        points = (one.end_s - one.start_s) / 7.0 + (step_s is not None)
        assert points <= prometheus.MOST_POINTS and points * series <= prometheus.MOST_SAMPLES * 1.01
    gap = step_s or 0.0
    assert all(a.end_s + gap == pytest.approx(b.start_s) for a, b in itertools.pairwise(found))


def test_the_newest_points_are_kept_when_all_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, raw = series_of(gauge())
    samples = Samples(np.arange(1, 10_001) * 10**9, np.arange(10_000.0))
    whole = encode(stream, raw, samples)
    monkeypatch.setattr(past, "BODY_BYTES", len(whole.body) // 4)
    part = encode(stream, raw, samples)
    assert part.cut and len(part.body) <= past.BODY_BYTES and part.points > 2_000
    assert decode_metrics(part.body).points.value[-1] == 9_999


def test_buckets_that_do_not_hold_together_are_left_out() -> None:
    stream = Stream(encode_resource(RESOURCE), b"", "latency", "s", Kind.HISTOGRAM, Temporality.CUMULATIVE, False)
    times = np.arange(1, 11) * 10**9
    count = Samples(times, np.arange(10.0))
    open_ended = encode(stream, b"", count, None, {0.5: count})
    points = decode_metrics(open_ended.body).points
    assert len(points) == 10 and not len(points.cells) and np.isnan(points.value).all()
    some = Samples(times[::2], np.arange(5.0))
    both = encode(stream, b"", count, count, {0.5: some, np.inf: count})
    assert both.points == 5
    many = encode(stream, b"", count, count, {**{float(k): count for k in range(past.MOST_CELLS)}, np.inf: count})
    assert not len(decode_metrics(many.body).points.cells)


def test_the_text_of_a_long_list_is_short() -> None:
    names = tuple(f"m{k:02}" for k in range(30))
    text = Learned(90, 30, 1, names, (), 2, names).text()
    assert "m09 and 20 more" in text and "and 20 errors more" in text and "cut        2" in text
