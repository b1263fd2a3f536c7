"""Scored points on their way to the disk: columns in memory, each with the sequence that made it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
U64 = NDArray[np.uint64]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

Describe = Callable[[I32], list[str]]

BYTES_A_ROW = 24
NAMES_KEPT = 200_000  # texts of series are asked for again rather than kept beyond that


@dataclass(frozen=True, slots=True)
class Recorded:
    """K scored points of one step.

    Shape: all (K,). `rows` are the rows of the series table, `fingerprint` is what the series keeps when its row
    goes to another. Unit: event time in ns, value in the series' unit (NaN = absent), score with 1 the threshold.
    """

    rows: I32
    fingerprint: U64
    time_ns: I64
    value: F64
    score: NDArray[Any]

    def __post_init__(self) -> None:
        lengths = {len(getattr(self, name)) for name in self.__slots__}
        if len(lengths) != 1:
            raise ValueError(f"columns of a step must be equally long, got lengths {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Columns:
    """K rows of a file (K,), and the M series they belong to: `code` indexes `texts` and `fingerprints` (M,)."""

    code: I32
    time_ns: I64
    value: F64
    score: F32
    texts: list[str]
    fingerprints: U64

    def __len__(self) -> int:
        return len(self.code)

    def take(self, at: NDArray[Any] | slice) -> Columns:
        """The rows at some places, with only the series that these have."""
        code = self.code[at]
        used = np.zeros(len(self.texts), bool)
        used[code] = True
        kept = np.flatnonzero(used)
        code = (np.cumsum(used, dtype=np.int32) - 1)[code]
        texts = [self.texts[i] for i in kept]
        return Columns(code, self.time_ns[at], self.value[at], self.score[at], texts, self.fingerprints[kept])


@dataclass(slots=True)
class _Names:
    """Series that have been described, by code."""

    texts: list[str] = field(default_factory=list)
    fingerprints: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Chunk:
    sequence: int
    names: _Names
    code: I32
    time_ns: I64
    value: F64
    score: F32


class Buffer:
    """Keeps what `add` is given until `drop`; one thread adds, another may collect and drop.

    A series is described when it first comes, in the thread that adds: only then is its row surely its own.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._chunks: list[_Chunk] = []
        self._rows = 0
        self._names = _Names()
        self._code = np.empty(0, np.int32)  # of a row of the series table, -1 = not described
        self._fingerprint = np.empty(0, np.uint64)

    @property
    def bytes(self) -> int:
        """Memory of the rows that wait."""
        return self._rows * BYTES_A_ROW

    def add(self, sequence: int, recorded: Recorded, describe: Describe) -> None:
        """Keep the points of one step; sequences must not decrease."""
        with self._lock:
            code = self._codes(recorded, describe)
            columns = recorded.time_ns.copy(), recorded.value.copy(), recorded.score.astype(np.float32)
            self._chunks.append(_Chunk(sequence, self._names, code, *columns))
            self._rows += len(recorded)

    def through(self, sequence: int) -> Columns:
        """All rows of steps up to `sequence`; they stay."""
        with self._lock:
            chunks = [c for c in self._chunks if c.sequence <= sequence]
        known: dict[int, int] = {}
        texts: list[str] = []
        fingerprints: list[int] = []
        for chunk in chunks:
            if id(chunk.names) not in known:
                known[id(chunk.names)] = len(texts)
                size = len(chunk.names.fingerprints)  # the other thread may be adding
                texts += chunk.names.texts[:size]
                fingerprints += chunk.names.fingerprints[:size]
        code = [c.code + np.int32(known[id(c.names)]) for c in chunks]
        return Columns(
            code=_join(code, np.int32),
            time_ns=_join([c.time_ns for c in chunks], np.int64),
            value=_join([c.value for c in chunks], np.float64),
            score=_join([c.score for c in chunks], np.float32),
            texts=texts,
            fingerprints=np.array(fingerprints, np.uint64),
        )

    def of(self, text: str) -> tuple[I64, F64, F32]:
        """(time_ns, value, score) of one series among the rows that wait, by its text, in the order of the steps."""
        with self._lock:
            chunks = list(self._chunks)
        codes: dict[int, int] = {}
        parts: list[tuple[I64, F64, F32]] = []
        for chunk in chunks:
            if id(chunk.names) not in codes:
                codes[id(chunk.names)] = next((k for k, one in enumerate(chunk.names.texts) if one == text), -1)
            mine = chunk.code == codes[id(chunk.names)]
            if mine.any():
                parts.append((chunk.time_ns[mine], chunk.value[mine], chunk.score[mine]))
        times, values, scores = zip(*parts, strict=True) if parts else ((), (), ())
        return _join(list(times), np.int64), _join(list(values), np.float64), _join(list(scores), np.float32)

    def drop(self, sequence: int) -> None:
        """Forget the rows of steps up to `sequence`, and the texts of series when there are many."""
        with self._lock:
            self._chunks = [c for c in self._chunks if c.sequence > sequence]
            self._rows = sum(len(c.code) for c in self._chunks)
            if len(self._names.texts) > NAMES_KEPT:
                self._names = _Names()
                self._code.fill(-1)

    def _codes(self, recorded: Recorded, describe: Describe) -> I32:
        rows = recorded.rows
        self._grow(int(rows.max(initial=-1)) + 1)
        new = (self._code[rows] < 0) | (self._fingerprint[rows] != recorded.fingerprint)
        if new.any():
            fresh, at = np.unique(rows[new], return_index=True)
            fingerprints = recorded.fingerprint[new][at]
            texts = describe(fresh)
            if len(texts) != len(fresh):
                raise ValueError(f"expected the texts of {len(fresh)} series, got {len(texts)}")
            self._code[fresh] = np.arange(len(self._names.texts), len(self._names.texts) + len(fresh))
            self._fingerprint[fresh] = fingerprints
            self._names.texts += texts
            self._names.fingerprints += fingerprints.tolist()
        return self._code[rows]

    def _grow(self, size: int) -> None:
        missing = max(size, 2 * len(self._code)) - len(self._code)
        if size > len(self._code):
            self._code = np.concatenate([self._code, np.full(missing, -1, np.int32)])
            self._fingerprint = np.concatenate([self._fingerprint, np.zeros(missing, np.uint64)])


def _join(parts: list[NDArray[Any]], dtype: type[np.generic]) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, dtype)
