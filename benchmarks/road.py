"""The road from bytes to scores: decode and score against the protobuf walk, memory, gRPC end to end."""

from __future__ import annotations

import gzip
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import numpy as np

from benchmarks import payload
from benchmarks.ingest import walk
from benchmarks.table import Row, best_s, show
from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.detect.joint import JointConfig
from otel_aiops.detect.peers import PeersConfig
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.otlp.memo import Memo
from otel_aiops.otlp.points import Kind, Points, Stream, Temporality
from otel_aiops.pipeline import Pipeline, PipelineConfig
from otel_aiops.series.batch import Batch
from otel_aiops.series.table import SeriesTable, TableConfig

BATCH = 8192
STEPS = 90  # series are looked at more often while they are young
MEASURED = 16  # the last ones; two rounds of what is done once in eight points
EXPORT = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"


def decode_and_score() -> Iterator[Row]:
    """Points a second on one core, from bytes to scores: with level and season alone, and with everything on."""
    alone = PipelineConfig(
        detection=EngineConfig(novelty_memory=0), joint=JointConfig(enabled=False), peers=PeersConfig(enabled=False)
    )
    for title, make in (("numbers", payload.numbers), ("histograms", payload.histograms)):
        bodies = [make(BATCH, step) for step in range(STEPS)]
        peer = BATCH / best_s(partial(walk, bodies[0]), 3)
        for what, config in (("level and season", alone), ("everything", PipelineConfig())):
            rate = BATCH / _timed(bodies, config)
            yield Row(f"decode and score {title}: {what}", rate, peer, "points/s", "walk alone")


def _timed(bodies: list[bytes], config: PipelineConfig) -> float:
    """Seconds of decoding and scoring one body, of the fastest among the last ones."""
    pipeline, memo = Pipeline(config), Memo()
    times = []
    for body in bodies:
        start = time.perf_counter()
        pipeline.metrics(decode_metrics(body, memo).points, now_ns=payload.START_NS + 10**15)
        times.append(time.perf_counter() - start)
    return min(times[-MEASURED:])


def scoring() -> Iterator[Row]:
    """Score and learn alone, for many series at once against one after the other."""
    random = np.random.default_rng(1)

    def run(engine: Engine, rows: int, steps: int) -> float:
        def step(k: int) -> None:
            every = np.arange(rows, dtype=np.int32)
            times = np.full(rows, payload.START_NS + k * 15 * 10**9, np.int64)
            batch = Batch(every, times, random.normal(size=rows), np.full(rows, 15.0))
            engine.learn(batch, engine.score(batch))

        for k in range(STEPS):
            step(k)
        return best_s(lambda: [step(STEPS + k) for k in range(steps)], 3) / steps / rows

    for title, config in (("level and season", EngineConfig(novelty_memory=0)), ("everything", EngineConfig())):
        one, many = run(Engine(config), 1, 96), run(Engine(config), BATCH, 8)
        yield Row(f"score and learn: {title}", 1 / many, 1 / one, "points/s", "one series at a time")


def memory() -> Iterator[Row]:
    """Bytes for each series of a gauge with six attributes, all in, in a process of its own."""
    for series in (100_000, 1_000_000):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.road", "--memory", str(series)],
            capture_output=True,
            text=True,
            check=True,
        )
        engine, novelty, whole = map(float, done.stdout.split())
        title = f"memory for each of {series} series"
        yield Row(f"{title}: level and season", engine, 512, "bytes", "the limit we set", "less")
        yield Row(f"{title}: values it has had", novelty, 4096, "bytes", "the limit we set", "less")
        yield Row(f"{title}: everything, by the process", whole, 0, "bytes", "none")


def measure_memory(series: int) -> None:
    """Print bytes of learned state and of the whole process for each of so many series."""
    pipeline = Pipeline(PipelineConfig(series=TableConfig(max_series=series)))
    base = resident_bytes()
    for first in range(0, series, BATCH):
        count = min(BATCH, series - first)
        for step in range(2):
            pipeline.metrics(_made(first, count, step), now_ns=payload.START_NS + 10**15)
    assert len(pipeline.table) == series
    engine = pipeline.engine
    print(engine.bytes_per_series, engine.novelty_bytes_per_series, (resident_bytes() - base) / series)


def resident_bytes() -> int:
    """Memory of this process now, or its peak where the system does not say."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _made(first: int, count: int, step: int) -> Points:
    """Points of gauges, as decoding gives them; attributes of about 200 bytes."""
    stream = Stream(b"", b"", "app.load", "1", Kind.GAUGE, Temporality.UNSPECIFIED, False)
    attributes = []
    for k in range(first, first + count):
        texts = (b"checkout-7d9f8c6b5-%07d" % k, b"/api/v1/resource/{id}", b"GET", b"200", b"backend.cluster", b"1")
        keys = (b"k8s.pod.name", b"http.route", b"http.request.method", b"status", b"server.address", b"version")
        attributes.append(b"".join(_pair(key, text) for key, text in zip(keys, texts, strict=True)))
    empty = np.zeros(count, np.int64)
    return Points(
        streams=(stream,),
        stream=np.zeros(count, np.int32),
        attributes=attributes,
        start_ns=empty,
        time_ns=np.full(count, payload.START_NS + step * 15 * 10**9, np.int64),
        value=np.random.default_rng(step).normal(size=count),
        count=np.full(count, np.nan),
        stale=np.zeros(count, bool),
        layouts=(),
        layout=np.full(count, -1, np.int32),
        cells=np.empty(0),
        cell_offset=np.zeros(count + 1, np.int64),
    )


def _pair(key: bytes, text: bytes) -> bytes:
    inner = b"\x0a" + bytes([len(key)]) + key + b"\x12" + bytes([len(text) + 2]) + b"\x0a" + bytes([len(text)]) + text
    return b"\x3a" + bytes([len(inner)]) + inner


def lookup() -> Iterator[Row]:
    """Finding the rows of known series, against reading the attributes of each again."""
    table, points = SeriesTable(TableConfig()), decode_metrics(payload.numbers(BATCH, 0), Memo()).points
    table.rows(points, event_now_ns=1)
    ours = best_s(lambda: table.rows(points, event_now_ns=1))

    def canonical() -> None:
        from otel_aiops.otlp.attributes import attributes

        known: dict[object, int] = {}
        for stream, raw in zip(points.stream.tolist(), points.attributes, strict=True):
            known.setdefault((points.streams[stream].name, attributes(raw)), len(known))

    peer = best_s(canonical, 3)
    yield Row("series of known points", BATCH / ours, BATCH / peer, "points/s", "reading all attributes")


def end_to_end(seconds: float = 8.0) -> Iterator[Row]:
    """gRPC with gzip into a running service, until all is logged and scored; the client is on the same machine."""
    with tempfile.TemporaryDirectory(prefix="otel-aiops-bench-") as folder:
        from tests.servers import Aiops

        with Aiops(Path(folder), "service: {snapshot_interval: 1h}\n") as aiops:
            sent = _load(aiops.grpc, seconds)
            while (scored := aiops.status())["log"]["queue_bodies"]:
                time.sleep(0.05)
            del scored
            total = aiops.metric("otel_aiops_points_scored_total")
            took = time.perf_counter() - sent
        yield Row("end to end, gRPC with gzip, from send to score", total / took, _plain_grpc(seconds / 2), "points/s",
                  "grpcio inflates, protobuf walk, no log, no scores")  # fmt: skip


def _load(port: int, seconds: float) -> float:
    """Send for so long from two connections; returns when it began."""
    bodies = [payload.numbers(BATCH, step) for step in range(24)]
    began, numbers = time.perf_counter(), iter(range(10**9))
    lock = threading.Lock()

    def send() -> None:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            export = channel.unary_unary(EXPORT)
            while time.perf_counter() - began < seconds:
                with lock:
                    step = next(numbers)
                if step >= len(bodies):
                    return
                export(bodies[step], timeout=60, compression=grpc.Compression.Gzip)

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return began


def _plain_grpc(seconds: float) -> float:
    """Points a second of an ordinary grpcio server that parses and walks each request."""
    from concurrent.futures import ThreadPoolExecutor

    def export(request: bytes, context: object) -> bytes:
        walk(request)
        return b""

    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", 64 << 20)])
    service, method = EXPORT.strip("/").split("/")
    handler = grpc.unary_unary_rpc_method_handler(export)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    body, count, began = payload.numbers(BATCH, 0), 0, time.perf_counter()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        send = channel.unary_unary(EXPORT)
        while time.perf_counter() - began < seconds:
            send(body, timeout=60, compression=grpc.Compression.Gzip)
            count += BATCH
    took = time.perf_counter() - began
    server.stop(1)
    return count / took


def inflating() -> Iterator[Row]:
    """Inflating gzip: libdeflate against zlib."""
    from otel_aiops.server.compression import inflate

    plain = payload.numbers(BATCH, 0)
    packed = gzip.compress(plain, 6)
    ours = best_s(lambda: inflate(packed, "gzip", 64 << 20))
    peer = best_s(lambda: gzip.decompress(packed))
    yield Row("inflate gzip", len(plain) / ours / 1e6, len(plain) / peer / 1e6, "MB/s", "zlib")


def run() -> Iterator[Row]:
    """All of them."""
    for part in (decode_and_score, lookup, scoring, inflating, end_to_end, memory):
        yield from part()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        measure_memory(int(sys.argv[2]))
    else:
        show(run())
