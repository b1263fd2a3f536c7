"""Past: hours of the history, and of datasets, as sketches of some series of each metric of each service."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from otel_aiops.labels import Labels
from otel_aiops.lifecycle.dataset import Datasets
from otel_aiops.lifecycle.sketch import Sketches, joined, sketched
from otel_aiops.series.recent import columns
from otel_aiops.series.segments import HOUR_NS, DamagedFile, Segments

COMPLETE_AFTER_NS = 900_000_000_000  # after its end, an hour is on the disk


@dataclass(frozen=True, slots=True)
class Sampling:
    """How many series are looked at: of a group, and groups, those with most series."""

    series: int = 20
    groups: int = 300


class Past:
    """The history below a data directory, read beside the service. Hours that were asked for last are remembered.

    Which series of a group are taken follows from their names, so that other hours, processes and starts take the same.
    """

    def __init__(self, directory: Path) -> None:
        self._segments = Segments(directory / "segments")
        self._datasets = Datasets.of(directory)
        self._hours: dict[int, Sketches] = {}
        self._groups: dict[str, tuple[str, str]] = {}
        self._sampling = Sampling()
        self.damaged: dict[int, str] = {}  # hours that were left out, and why

    def hours(
        self, wanted: Iterable[int], sampling: Sampling, *, stopping: Callable[[], bool] = lambda: False
    ) -> Sketches:
        """Sketches of some hours, those without points and damaged ones left out; `stopping` is asked before each.

        Raises: StateError, StorageError.
        """
        if sampling != self._sampling:
            self._hours, self._sampling = {}, sampling
        there = {part.hour for part in self._segments.parts()}
        self.damaged = {hour: why for hour, why in self.damaged.items() if hour in there}
        hours = sorted(there & set(wanted))
        for hour in hours:
            if hour not in self._hours and not stopping():
                try:
                    self._hours[hour] = self._read(hour, sampling)
                    self.damaged.pop(hour, None)
                except DamagedFile as error:
                    self.damaged[hour] = str(error)
        return joined({hour: self._hours[hour] for hour in hours if hour in self._hours})

    def keep(self, wanted: Iterable[int]) -> None:
        """Forget all other hours."""
        kept = set(wanted)
        self._hours = {hour: one for hour, one in self._hours.items() if hour in kept}
        named = {name for one in self._hours.values() for name in one.names}
        self._groups = {name: group for name, group in self._groups.items() if name in named}

    def dataset(self, name: str, sampling: Sampling, *, last_hours: int) -> Sketches:
        """The newest hours of a dataset. Raises: BadInput where it is gone, StateError, StorageError."""
        manifest = self._datasets.load(name)
        end = -(-manifest.window.end_ns // HOUR_NS)
        start = max(manifest.window.start_ns // HOUR_NS, end - last_hours)
        hours = np.arange(start, end, dtype=np.int64)
        chosen = self._chosen(self._datasets.series(name).names, sampling)
        parts = [
            sketched(chunk.names, hours, np.repeat(np.arange(len(chunk.ends)), np.diff(chunk.ends, prepend=0)),
                     chunk.time_ns, chunk.value)
            for chunk in self._datasets.read(name, series=set(chosen), start_ns=start * HOUR_NS)
        ]  # fmt: skip
        if not parts:
            return sketched((), hours, np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
        names = tuple(name for part in parts for name in part.names)
        return Sketches(names, hours, np.concatenate([part.values for part in parts]))

    def _read(self, hour: int, sampling: Sampling) -> Sketches:
        chosen = self._chosen(self._segments.names(hour), sampling)
        table = self._segments.read(hour * HOUR_NS, (hour + 1) * HOUR_NS, chosen)
        code, time_ns, value = columns(table, {name: k for k, name in enumerate(chosen)})
        return sketched(chosen, np.array([hour], np.int64), code, time_ns, value)

    def _chosen(self, names: Iterable[str], sampling: Sampling) -> tuple[str, ...]:
        members: dict[tuple[str, str], list[str]] = defaultdict(list)
        for name in names:
            if name not in self._groups:
                labels = Labels.from_json(name)
                self._groups[name] = labels.service, labels.name
            members[self._groups[name]].append(name)
        largest = sorted(members.items(), key=lambda one: (-len(one[1]), one[0]))[: sampling.groups]
        taken = [sorted(of, key=lambda name: (_place(name), name))[: sampling.series] for _, of in largest]
        return tuple(sorted(name for of in taken for name in of))


def complete_hour(event_ns: int) -> int:
    """The first hour that is not wholly on the disk yet."""
    return (event_ns - COMPLETE_AFTER_NS) // HOUR_NS


def _place(name: str) -> int:
    return zlib.crc32(name.encode("utf-8", "surrogatepass"))
