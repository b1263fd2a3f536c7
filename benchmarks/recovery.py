"""The store: acknowledged bodies a second, recovery after a crash, and snapshots, each against the plain way."""

from __future__ import annotations

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
from otel_aiops.series.batch import Batch
from otel_aiops.series.disk import StorageConfig
from otel_aiops.series.history import History
from otel_aiops.series.records import Received, RecordKind
from otel_aiops.series.snapshot import load, save

WRITERS = 16
BODIES = 1600
SERIES = 100_000


def appending() -> Iterator[Row]:
    """Bodies of a hundred points from sixteen senders, each acknowledged when it is on the disk."""
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
    title = f"append and acknowledge, {WRITERS} senders, {len(body) / 1e3:.0f} kB"
    yield Row(title, BODIES / ours_s, BODIES / peer_s, "bodies/s", "fdatasync for each")


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
    """Writing what was learned of 100,000 series until it is on the disk, and loading it, both with checksums."""
    pipeline = Pipeline(PipelineConfig())
    pipeline.scorer.score(_first_points(SERIES))
    random = np.random.default_rng(1)
    arrays = {name: _filled(array, random) for name, array in pipeline.state().items()}
    size = sum(array.nbytes for array in arrays.values()) / 1e6
    with tempfile.TemporaryDirectory(prefix="otel-aiops-bench-") as folder:
        ours, peer = Path(folder) / "ours", Path(folder) / "peer.npz"
        write_s = best_s(lambda: save(ours, 1, arrays), 5)
        read_s = best_s(lambda: load(ours), 5)
        peer_write_s = best_s(lambda: _savez(peer, arrays), 5)
        peer_read_s = best_s(lambda: _loadz(peer), 5)
    title = f"a snapshot of {SERIES:,} series ({size:.0f} MB)"
    yield Row(f"write {title}", size / write_s, size / peer_write_s, "MB/s", "numpy.savez and fsync")
    yield Row(f"load {title}", size / read_s, size / peer_read_s, "MB/s", "numpy.load")


def _first_points(rows: int) -> Batch:
    return Batch(np.arange(rows, dtype=np.int32), np.full(rows, 10**18), np.zeros(rows), np.full(rows, np.nan))


def _filled(array: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The same shape and type with some bytes in it: a file system may be quicker with zeros."""
    return np.frombuffer(random.bytes(array.nbytes), array.dtype).reshape(array.shape)


def _savez(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **{name.replace("/", "."): array for name, array in arrays.items()})  # type: ignore[arg-type]  # any name may be a key
        file.flush()
        os.fsync(file.fileno())


def _loadz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as found:
        return dict(found)


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


def main() -> None:
    """Print them."""
    show(run())


if __name__ == "__main__":
    main()
