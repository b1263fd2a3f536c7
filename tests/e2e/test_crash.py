"""kill -9 at random moments under load: nothing acknowledged is missing, what was learned is the same to the bit."""

from __future__ import annotations

import gzip
import random
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests

from otel_aiops.config import Config, load
from otel_aiops.ingest import Ingest
from otel_aiops.pipeline import Pipeline
from otel_aiops.series.history import History
from otel_aiops.series.records import RecordKind
from tests.feed import Feed
from tests.servers import Aiops, wait_for

KILLS = 50
SERIES = 40
FAST = "service: {snapshot_interval: 200ms, tick_interval: 200ms}\nstorage: {min_free_bytes: 0}\n"


def body(number: int) -> bytes:
    """Request `number`: gauges, counters and a histogram, one step later than the one before."""
    generator = np.random.default_rng(number)
    now_s = 1_760_000_000 + number * 5
    feed = Feed("shop")
    for series in range(SERIES):
        feed.gauge("load", now_s, float(generator.normal(50, 3)), host=f"h{series}")
        feed.counter("requests", now_s, float(number * 100 + series), start_s=1_760_000_000, host=f"h{series}")
    feed.histogram("latency", now_s, (np.array([5, 3, 1]) * (number + 1)).tolist(), [0.1, 1.0], 2.0 * number)
    feed.gauge("number", now_s, float(number))
    return feed.body()


class Sender:
    """Sends request after request, each until it is acknowledged, and remembers which were."""

    def __init__(self, port: int) -> None:
        self.acknowledged: list[int] = []
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        number = 0
        options = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200)]
        with grpc.insecure_channel(f"127.0.0.1:{self._port}", options=options) as channel:
            export = channel.unary_unary("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export")
            while not self._stop.is_set():
                try:
                    export(body(number), timeout=5, wait_for_ready=True, compression=grpc.Compression.Gzip)
                except grpc.RpcError:
                    self._stop.wait(0.02)  # not acknowledged: the same once more
                    continue
                self.acknowledged.append(number)
                number += 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_fifty_kills_lose_nothing_and_change_nothing(tmp_path: Path) -> None:
    chance = random.Random(5)
    aiops = Aiops(tmp_path, FAST)
    aiops.start()
    sender = Sender(aiops.grpc)
    try:
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.0, 0.6))
            aiops.server.signal(signal.SIGKILL)
            aiops.server.kill()
            aiops.start()
        before = len(sender.acknowledged)
        wait_for(lambda: len(sender.acknowledged) > before, "a request after the last start")
    finally:
        sender.stop()
    assert len(sender.acknowledged) > KILLS
    assert aiops.stop() == 0

    config = load(aiops.config).config
    found = final_state(config, aiops.data)
    state, numbers = uninterrupted(config, aiops.data, tmp_path / "copy")
    assert set(sender.acknowledged) <= set(numbers), "an acknowledged request is not in the log"
    assert found.keys() == state.keys()
    different = [name for name in state if state[name].tobytes() != found[name].tobytes()]
    assert not different


def final_state(config: Config, directory: Path) -> dict[str, Any]:
    """What the service had learned when it stopped."""
    history = History(config.storage, directory)
    try:
        recovery = history.open()
        assert recovery.arrays is not None
        assert not list(history.replay()), "the last snapshot must hold everything"
        return recovery.arrays
    finally:
        history.close()


def uninterrupted(config: Config, directory: Path, copy: Path) -> tuple[dict[str, Any], list[int]]:
    """What a run without a crash learns from the same log, and which requests the log has."""
    copy.mkdir()
    shutil.copytree(directory / "wal", copy / "wal")
    history = History(config.storage, copy)
    pipeline, numbers = Pipeline(config.pipeline()), []
    try:
        history.open()
        ingest = Ingest(history, limit_bytes=config.body_limit_bytes(), clock_ns=time.time_ns)
        for record in history.replay():
            points = ingest.decode(record.received).points
            if record.received.kind == RecordKind.TICK or points is None:
                pipeline.tick(now_ns=record.received.received_ns)
                continue
            names = [stream.name for stream in points.streams]
            numbers.append(int(points.value[points.stream == names.index("number")][0]))
            pipeline.metrics(points, now_ns=record.received.received_ns)
    finally:
        history.close()
    return pipeline.state(), numbers


@pytest.mark.parametrize("compression", ["identity", "gzip"])
def test_a_body_that_was_acknowledged_is_scored_after_the_crash(tmp_path: Path, compression: str) -> None:
    aiops = Aiops(tmp_path, FAST)
    aiops.start()
    payload = body(0)
    headers = {"Content-Type": "application/x-protobuf"}
    if compression == "gzip":
        headers["Content-Encoding"], payload = "gzip", gzip.compress(payload)
    answer = requests.post(f"http://127.0.0.1:{aiops.http}/v1/metrics", data=payload, headers=headers, timeout=10)
    aiops.server.kill()
    assert answer.status_code == 200
    with aiops:
        assert aiops.status()["series"] == 2 * SERIES + 3 + 1
