"""Tracks: one series with all its recorded points, from files of telemetry or from a data directory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.errors import BadInput
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import F64, I32, I64
from otel_aiops.series.wanted import Wanted

if TYPE_CHECKING:
    from otel_aiops.series.align import Align
    from otel_aiops.series.files import Body
    from otel_aiops.series.table import SeriesTable

ALWAYS_NS = (0, 2**63 - 1)
UNSEEN = -2
NEAR = 5  # names that are offered where none matches


@dataclass(frozen=True, slots=True)
class Track:
    """One series: T points in order of time, each time once. `score` is what was recorded, NaN where nothing was."""

    labels: Labels
    time_ns: I64
    value: F64
    score: F64

    def until(self, time_ns: int) -> Track:
        """The points up to a time, it included."""
        n = int(np.searchsorted(self.time_ns, time_ns, side="right"))
        return Track(self.labels, self.time_ns[:n], self.value[:n], self.score[:n])


def track(labels: Labels, time_ns: I64, value: F64, score: NDArray[Any]) -> Track:
    """A track from points in any order; of points at one time the last one counts."""
    order = np.argsort(time_ns, kind="stable")
    last = np.append(np.diff(time_ns[order]) > 0, True)[: len(order)]
    kept = order[last]
    return Track(labels, time_ns[kept], value[kept].astype(np.float64), score[kept].astype(np.float64))


def from_directory(directory: Path, wanted: Wanted) -> Track:
    """The series that is wanted, as the service recorded it.

    Only what is in the segments counts: a running service keeps its newest minutes in memory. Raises: BadInput when
    the directory is none of the service's, or when not exactly one series matches; StateError of a damaged file.
    """
    from otel_aiops.series.segments import Segments

    segments = Segments(directory / "segments")
    if not (directory / "segments").is_dir():
        raise BadInput(f"{directory}: expected a data directory of otel-aiops, there is no folder segments in it")
    texts = segments.series(*ALWAYS_NS)
    if not texts:
        raise BadInput(f"{directory}: no points are recorded yet")
    known = [Labels.from_json(one) for one in texts]
    matching = [k for k, labels in enumerate(known) if wanted.matches(labels)]
    k = matching[choose(wanted, [known[k] for k in matching], known)]
    table = segments.read(*ALWAYS_NS, texts[k])
    time_ns = table["timestamp"].cast("int64").to_numpy()
    return track(known[k], time_ns, table["value"].to_numpy(), table["score"].to_numpy())


def from_files(paths: Iterable[Path], wanted: Wanted) -> Track:
    """The series that is wanted from files as `replay` takes them; rates and percentiles as in the service.

    Raises: BadInput that names a file that cannot be read, or when not exactly one series matches.
    """
    from otel_aiops.series.files import bodies, find, is_table

    found = _Collector(wanted)
    files = find(list(paths))
    for path in filter(is_table, files):
        found.take_table(path)
    for body in bodies([path for path in files if not is_table(path)]):
        found.take(body)
    return found.track()


def choose(wanted: Wanted, matching: list[Labels], known: list[Labels]) -> int:
    """Which of the matching series is meant. Raises: BadInput that lists them, or names that are near."""
    if matching:
        return wanted.choose(matching)
    names = sorted({labels.name for labels in known})
    near = get_close_matches(wanted.name, names, NEAR, 0.4) or names[:NEAR]
    raise BadInput(f"no series matches {wanted.text}; there are some called {', '.join(near) or 'nothing'}")


class _Collector:
    """Points of the series that match, by the number of the series."""

    def __init__(self, wanted: Wanted) -> None:
        from otel_aiops.series.align import Align, AlignConfig
        from otel_aiops.series.table import SeriesTable, TableConfig

        self._wanted = wanted
        self._table: SeriesTable = SeriesTable(TableConfig())
        self._align: Align = Align(AlignConfig())
        self._number = np.zeros(0, np.int32)  # of the series of a row, -1 when it does not match, UNSEEN before
        self._matching: list[Labels] = []
        self._rest: dict[str, Labels] = {}  # one of each other name, to offer it
        self._parts: list[tuple[I32, I64, F64]] = []  # (number, time_ns, value)

    def take_table(self, path: Path) -> None:
        """The rows of a table that have a time and a value."""
        from otel_aiops.series.files import table_labels
        from otel_aiops.series.tables import NO_TIME, TableFile

        table = TableFile(path)
        number = np.zeros(0, np.int32)
        for part in table.parts():
            new = [self._judged(table_labels(path, name)) for name in table.names[len(number) :]]
            number = np.append(number, np.array(new, np.int32))
            rows = part.rows[(part.rows["time_ns"] != NO_TIME) & np.isfinite(part.rows["value"])]
            self._keep(number[rows["code"]], rows["time_ns"].astype(np.int64), rows["value"].astype(np.float64))

    def take(self, body: Body) -> None:
        """The points of one body."""
        if not len(body.points):
            return
        rows = self._table.rows(body.points, event_now_ns=body.now_ns)
        for batch in self._align.step(body.points, rows, now_ns=body.now_ns).batches:
            need = int(batch.rows.max(initial=-1)) + 1
            if need > len(self._number):
                self._number = np.append(self._number, np.full(max(need, 1024), UNSEEN, np.int32))
            for row in batch.rows[self._number[batch.rows] == UNSEEN].tolist():
                self._number[row] = self._judged(self._table.labels(row))
            self._keep(self._number[batch.rows], batch.time_ns, batch.value)

    def track(self) -> Track:
        """The points of the one that is meant."""
        if not self._matching and not self._rest:
            raise BadInput("expected series with points in the files, got none")
        k = choose(self._wanted, self._matching, [*self._matching, *self._rest.values()])
        number, time_ns, value = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        mine = number == k
        return track(self._matching[k], time_ns[mine], value[mine], np.full(int(mine.sum()), np.nan))

    def _judged(self, labels: Labels) -> int:
        """The number of a series that is new, -1 when it does not match."""
        if not self._wanted.matches(labels):
            self._rest.setdefault(labels.name, labels)
            return -1
        self._matching.append(labels)
        return len(self._matching) - 1

    def _keep(self, number: I32, time_ns: I64, value: F64) -> None:
        mine = number >= 0
        if mine.any() or not self._parts:
            self._parts.append((number[mine], time_ns[mine], value[mine]))
