"""The archive: what a data directory has recorded so far, read beside the service that writes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from otel_aiops.errors import BadInput, StateError
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import F64, I32, I64
from otel_aiops.series.recent import columns
from otel_aiops.series.segments import HOUR_NS, DamagedFile, Segments

HOUR_S = HOUR_NS / 1e9
DAY_NS = 24 * HOUR_NS
HOLE_NS = 30 * DAY_NS  # what lies before so long a time without points does not count
FOREVER_NS = (0, 2**63 - 1)


@dataclass(frozen=True, slots=True)
class Points:
    """N points in the order of time; `code` numbers their series, of which there are `series`. All (N,)."""

    code: I32
    time_ns: I64
    value: F64
    series: int

    def __len__(self) -> int:
        return len(self.code)

    def of(self, codes: Sequence[int]) -> Points:
        """The points of some series, numbered anew in the order of `codes`."""
        number = np.full(self.series, -1, np.int32)
        number[list(codes)] = np.arange(len(codes), dtype=np.int32)
        code = number[self.code]
        kept = code >= 0
        return Points(code[kept], self.time_ns[kept], self.value[kept], len(codes))


class Archive:
    """The recorded points of a data directory. Only what is on the disk counts: a service keeps its newest minutes.

    Raises: BadInput where the directory is none of a service; later StateError of a damaged file, StorageError.
    """

    def __init__(self, directory: Path) -> None:
        if not (directory / "segments").is_dir():
            raise BadInput(f"{directory}: expected a data directory of otel-aiops, there is no folder segments in it")
        self._segments = Segments(directory / "segments")
        self.directory = directory

    def series(self, *, without_damaged: bool = False) -> list[str]:
        """The canonical texts of all series, sorted."""
        return self._segments.series(*FOREVER_NS, without_damaged=without_damaged)

    def labels(self, *, without_damaged: bool = False) -> dict[str, Labels]:
        """The labels of all series by canonical text, in the order of `series`."""
        try:
            return {text: Labels.from_json(text) for text in self.series(without_damaged=without_damaged)}
        except ValueError as error:
            raise StateError(f"{self.directory}: {error}") from error

    def points_of_a_series(self) -> float:
        """About how many points a series has, from the hour in the middle; 0 where nothing is recorded."""
        points, series = self._middle()
        return len(self._hours()) * points / max(1, series)

    def points_per_s(self) -> float:
        """How many points came a second in the hour in the middle, which is not cut short; 0 where nothing is."""
        return self._middle()[0] / HOUR_S

    def _middle(self) -> tuple[int, int]:
        """(points, series) of the hour in the middle."""
        hours = self._hours()
        if not hours:
            return 0, 0
        hour = hours[len(hours) // 2]
        points = len(self._segments.read(hour * HOUR_NS, (hour + 1) * HOUR_NS))
        return points, len(self._segments.names(hour))

    def points(self, series: Sequence[str], *, without_damaged: bool = False) -> Points:
        """The points of some series, by canonical text; read a day at a time, and of damaged files none where told so.

        They begin after the last month without any: a single point of a clock that was wrong is no history.
        """
        parts = list(self._parts(series, without_damaged))
        code, time_ns, value = (np.concatenate(column) for column in zip(*parts, strict=True)) if parts else _NONE
        order = np.lexsort((code, time_ns))
        holes = np.flatnonzero(np.diff(time_ns[order]) > HOLE_NS)
        order = order[int(holes[-1]) + 1 if len(holes) else 0 :]
        return Points(code[order].astype(np.int32), time_ns[order], value[order], len(series))

    def _parts(self, series: Sequence[str], without_damaged: bool) -> Iterator[tuple[I64, I64, F64]]:
        code_of = {text: code for code, text in enumerate(series)}
        for day in sorted({hour // 24 for hour in self._hours()}):
            try:
                yield columns(self._segments.read(day * DAY_NS, (day + 1) * DAY_NS, list(series)), code_of)
            except DamagedFile:
                if not without_damaged:
                    raise
                yield from self._whole_hours(day, code_of)

    def _whole_hours(self, day: int, code_of: dict[str, int]) -> Iterator[tuple[I64, I64, F64]]:
        for hour in range(24 * day, 24 * (day + 1)):
            with suppress(DamagedFile):
                yield columns(self._segments.read(hour * HOUR_NS, (hour + 1) * HOUR_NS, list(code_of)), code_of)

    def _hours(self) -> list[int]:
        return sorted({part.hour for part in self._segments.parts()})


_NONE = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
