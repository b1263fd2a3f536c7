"""The store: acknowledged bodies a second, recovery after a crash, and snapshots, each against the plain way."""

from __future__ import annotations

import io
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import payload
from benchmarks.table import Row, best_s, show
from otel_aiops.pipeline import Pipeline, PipelineConfig
from otel_aiops.series.disk import StorageConfig
from otel_aiops.series.history import History
from otel_aiops.series.records import Received, RecordKind

WRITERS = 16
BODIES = 1600
SERIES = 100_000


def appending() -> Iterator[Row]:
    """Bodies of 20 kB from sixteen senders, each acknowledged when it is on the disk."""
    body = payload.numbers(100, 0)
    with tempfile.TemporaryDirectory(prefix="otel-aiops-bench-") as folder:
        history = History(StorageConfig(min_free_bytes=0), Path(folder) / "ours")
        history.open()
        stop = threading.Event()
        threading.Thread(target=lambda: _drain(history, stop), daemon=True).start()

        def send() -> None:
            for _ in range(BODIES // WRITERS):
                history.append(Received(RecordKind.METRICS, time.time_ns(), body), item=None, weight=0)

        ours_s = _together(send)
        stop.set()
        history.close()

        lock = threading.Lock()
        with (Path(folder) / "plain").open("ab") as plain:

            def write() -> None:
                for _ in range(BODIES // WRITERS):
                    with lock:
                        plain.write(body)
                        plain.flush()
                        os.fdatasync(plain.fileno())

            peer_s = _together(write)
    yield Row("append and acknowledge, 16 senders", BODIES / ours_s, BODIES / peer_s, "bodies/s", "fdatasync for each")


def recovering() -> Iterator[Row]:
    """Reading the log back, checksums and all, against reading the files."""
    body = payload.numbers(1000, 0)
    with tempfile.TemporaryDirectory(prefix="otel-aiops-bench-") as folder:
        config = StorageConfig(min_free_bytes=0, sync="off")
        history = History(config, Path(folder))
        history.open()
        for _ in range(400):
            history.append(Received(RecordKind.METRICS, time.time_ns(), body), item=None, weight=0)
            history.take(0.0)
        history.close()
        files = list((Path(folder) / "wal").iterdir())
        size = sum(file.stat().st_size for file in files) / 1e6

        def replay() -> None:
            again = History(config, Path(folder))
            again.open()
            assert sum(1 for _ in again.replay()) == 400
            again.close()

        ours_s = best_s(replay, 3)
        peer_s = best_s(lambda: [file.read_bytes() for file in files], 3)
    yield Row("read the log back", size / ours_s, size / peer_s, "MB/s", "reading its files")


def snapshots() -> Iterator[Row]:
    """Writing what was learned of 100,000 series."""
    pipeline = Pipeline(PipelineConfig())
    pipeline.engine._memory.reserve(np.array([SERIES - 1], np.int32))
    arrays = pipeline.state()
    size = sum(array.nbytes for array in arrays.values()) / 1e6
    with tempfile.TemporaryDirectory(prefix="otel-aiops-bench-") as folder:
        history = History(StorageConfig(min_free_bytes=0), Path(folder))
        history.open()
        sequence = iter(range(1, 100))
        ours_s = best_s(lambda: history.snapshot(next(sequence), arrays), 3)
        history.close()

        def plain() -> None:
            np.savez(io.BytesIO(), **{name.replace("/", "."): array for name, array in arrays.items()})

        peer_s = best_s(plain, 3)
    title = f"snapshot of {SERIES} series ({size:.0f} MB), on the disk"
    yield Row(title, size / ours_s, size / peer_s, "MB/s", "numpy.savez to memory")


def _drain(history: History, stop: threading.Event) -> None:
    while not stop.is_set():
        history.take(0.1)


def _together(run: object) -> float:
    """Seconds that sixteen threads take for a function."""
    threads = [threading.Thread(target=run) for _ in range(WRITERS)]  # type: ignore[arg-type]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def run() -> Iterator[Row]:
    """All of them."""
    for part in (appending, recovering, snapshots):
        yield from part()


if __name__ == "__main__":
    show(run())
