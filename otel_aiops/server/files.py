"""Files that operators replace while the service runs: certificates, keys, tokens, passwords."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

_Stamp = tuple[int, int, int] | None  # inode, size, time of change in ns; None when there is no file


class FileWatch:
    """Says when one of some files was replaced; looks at most once in `interval_s`. Any thread may ask.

    A change is reported to one caller only. `clock` is monotonic seconds.
    """

    def __init__(self, paths: Iterable[str], *, interval_s: float, clock: Callable[[], float]) -> None:
        self._paths = [Path(path) for path in paths if path]
        self._interval_s = interval_s
        self._clock = clock
        self._lock = threading.Lock()
        self._seen = self._stamps()
        self._looked_s = clock()

    def changed(self) -> bool:
        """Whether a file differs from what it was when last reported."""
        if not self._paths:
            return False
        with self._lock:
            now_s = self._clock()
            if now_s - self._looked_s < self._interval_s:
                return False
            self._looked_s = now_s
            stamps = self._stamps()
            if stamps == self._seen:
                return False
            self._seen = stamps
            return True

    def again(self) -> None:
        """Report the present files once more: what was read of them could not be used."""
        with self._lock:
            self._seen = [None] * len(self._paths)

    def _stamps(self) -> list[_Stamp]:
        return [_stamp(path) for path in self._paths]


def _stamp(path: Path) -> _Stamp:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
