"""The stretch that families learn from: points of a dataset, or points that are at hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from otel_aiops.lifecycle.dataset import Datasets
from otel_aiops.lifecycle.reading import Chunk
from otel_aiops.series.archive import Points

ROWS = 2_000_000  # of a chunk


class Stretch(Protocol):
    """Series by their canonical texts. It is handed to processes."""

    def intervals(self) -> Mapping[str, float]:
        """The usual time between two points of each series in seconds; 0 where it is not known."""

    def only(self, names: Sequence[str]) -> Stretch:
        """What is needed of some series."""

    def chunks(self, names: Sequence[str], start_ns: int, end_ns: int) -> Iterator[Chunk]:
        """The points of some series, sorted, one stretch of time after the other; series k of each is `names[k]`."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A dataset, by the folder that it is in."""

    directory: Path
    dataset: str

    def intervals(self) -> Mapping[str, float]:
        """As its table says."""
        table = Datasets(self.directory).series(self.dataset)
        return dict(zip(table.names, table.interval_s.tolist(), strict=True))

    def only(self, names: Sequence[str]) -> Stored:
        """All of it: it is read where it is needed."""
        return self

    def chunks(self, names: Sequence[str], start_ns: int, end_ns: int) -> Iterator[Chunk]:
        """As the protocol says. Raises: StateError of a damaged dataset."""
        yield from Datasets(self.directory).windows(self.dataset, names, start_ns=start_ns, end_ns=end_ns, rows=ROWS)


@dataclass(frozen=True, slots=True)
class AtHand:
    """Points in memory; those with code i are of the series texts[i]."""

    points: Points
    texts: tuple[str, ...]

    def intervals(self) -> Mapping[str, float]:
        """The median of each series."""
        order = np.argsort(self.points.code, kind="stable")
        code, gap_s = self.points.code[order], np.diff(self.points.time_ns[order]) / 1e9
        own = (np.diff(code) == 0) & (gap_s > 0)
        found = dict.fromkeys(self.texts, 0.0)
        for number in np.unique(code[1:][own]).tolist():
            found[self.texts[number]] = float(np.median(gap_s[own & (code[1:] == number)]))
        return found

    def only(self, names: Sequence[str]) -> AtHand:
        """The points of these series alone."""
        place = {text: code for code, text in enumerate(self.texts)}
        return AtHand(self.points.of([place[name] for name in names]), tuple(names))

    def chunks(self, names: Sequence[str], start_ns: int, end_ns: int) -> Iterator[Chunk]:
        """All in one."""
        of = self.only(names).points
        kept = (of.time_ns >= start_ns) & (of.time_ns < end_ns)
        code, time_ns, value = of.code[kept], of.time_ns[kept], of.value[kept]
        order = np.lexsort((time_ns, code))
        ends = np.cumsum(np.bincount(code, minlength=len(names)))
        yield Chunk(tuple(names), ends, time_ns[order], value[order])
