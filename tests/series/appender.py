"""Appends under load until it is killed, and says what it did; a line `directory sync seed` starts it once more."""

from __future__ import annotations

import os
import random
import struct
import sys
import threading
import time
from pathlib import Path

from otel_aiops.errors import Overloaded, StorageError
from otel_aiops.series.disk import StorageConfig
from otel_aiops.series.history import History
from otel_aiops.series.records import Received, RecordKind

SENDERS = 4
STARTED, ACKNOWLEDGED, TAKEN, GONE = b"s", b"a", b"t", b"g"
MESSAGE = struct.Struct("<cQII")  # deed, sequence (or pid when STARTED, status when GONE), seed, number
NAME = struct.Struct("<II")


def body(seed: int, number: int) -> bytes:
    """The body of that seed and number: names itself, then up to 4 kB that only this body has."""
    rng = random.Random(seed << 32 | number)
    return NAME.pack(seed, number) + rng.randbytes(rng.randrange(4000))


def settings(sync: str) -> StorageConfig:
    """Small files, so that a new one is begun now and then."""
    return StorageConfig(sync=sync, min_free_bytes=0, log_file_bytes=100_000, queue_bodies=64)  # type: ignore[arg-type]


def tell(deed: bytes, sequence: int, seed: int = 0, number: int = 0) -> None:
    """Write a message, which is short enough to be written whole or not at all."""
    os.write(1, MESSAGE.pack(deed, sequence, seed, number))


def append(directory: Path, sync: str, seed: int) -> None:
    """Send from some threads and take in this one, as long as somebody listens."""
    history = History(settings(sync), directory)
    history.open()

    def send(seed: int) -> None:
        number = 0
        while True:
            received = Received(RecordKind.METRICS, time.time_ns(), body(seed, number))
            try:
                tell(ACKNOWLEDGED, history.append(received, item=(seed, number)), seed, number)
                number += 1
            except StorageError:
                os._exit(2)
            except Overloaded:  # the queue is full: the same once more
                time.sleep(0.001)

    starter = os.getppid()
    for sender in range(SENDERS):
        threading.Thread(target=send, args=(seed * SENDERS + sender,), daemon=True).start()
    while os.getppid() == starter:
        entry = history.take(1)
        if entry is not None:
            assert isinstance(entry.item, tuple)
            tell(TAKEN, entry.sequence, *entry.item)


def main() -> None:
    """One process for each line; a fork spares it the time of all imports."""
    for line in sys.stdin:
        directory, sync, seed = line.split()
        pid = os.fork()
        if not pid:
            try:
                append(Path(directory), sync, int(seed))
            finally:
                os._exit(1)
        tell(STARTED, pid)
        _, status = os.waitpid(pid, 0)
        tell(GONE, status)


if __name__ == "__main__":
    main()
