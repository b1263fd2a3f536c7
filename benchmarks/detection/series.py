"""Series of a corpus: times, values and the scores that a detector gave them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from csv import reader
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from otel_aiops.errors import BadInput
from otel_aiops.otlp.points import F64, I64

Scores = Mapping[str, F64]  # name of a series → score of each of its rows, (N,)

HIGHEST = 1e300  # what is above counts as this; infinities have no rank among each other
DAY_S = 86_400.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Series:
    """N rows in the order of their file; a NaN value is absent."""

    name: str
    time_ns: I64
    value: F64

    @property
    def step_s(self) -> float:
        """The usual time between two rows."""
        return float(np.median(np.diff(self.time_ns))) / 1e9 if len(self.time_ns) > 1 else 1.0

    @property
    def day(self) -> int:
        """Rows of a day, at least two."""
        return max(2, round(DAY_S / self.step_s))


def nanoseconds(text: str) -> int:
    """Unix time of ISO 8601; without a zone it is UTC. Raises: ValueError."""
    time = datetime.fromisoformat(text.strip())
    since = (time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000


def rows(path: Path, columns: int) -> Iterator[list[str]]:
    """The first columns of a CSV file with a header. Raises: BadInput."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = reader(file)
            next(lines, None)
            for number, line in enumerate(lines, 2):
                if len(line) < columns:
                    raise BadInput(f"{path}: line {number}: expected {columns} columns, got {len(line)}")
                yield line[:columns]
    except FileNotFoundError as error:
        raise BadInput(f"{path}: expected a CSV file of the corpus, there is none") from error


def filled(value: F64) -> F64:
    """Values with the last known one in the place of absent ones, for detectors that cannot do without."""
    known = np.isfinite(value)
    if not known.any():
        return np.zeros(len(value))
    last = np.maximum.accumulate(np.where(known, np.arange(len(value)), -1))
    return np.asarray(np.where(last >= 0, value[last], value[known][0]))


def ranked(score: F64) -> F64:
    """Scores that can be compared: a row without one counts as 0, the least strange."""
    return np.clip(np.nan_to_num(score, nan=0.0, posinf=HIGHEST), 0.0, HIGHEST)
