"""Taking: which points of a history a dataset is made of, measured as they are read hour by hour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from otel_aiops.errors import BadInput
from otel_aiops.labels import Labels, Selector
from otel_aiops.lifecycle.manifest import Match, Piece, Window
from otel_aiops.lifecycle.profile import HOURS_MEASURED, Profiler, QualityLimits
from otel_aiops.lifecycle.reading import Cuts
from otel_aiops.lifecycle.tables import SeriesTable
from otel_aiops.lifecycle.truth import Exclusion, Label, selector
from otel_aiops.series.segments import HOUR_NS, batches

COMPLETE_AFTER_NS = 900_000_000_000  # an hour that ended so long ago has all its points on the disk


@dataclass(frozen=True, slots=True)
class Plan:
    window: Window
    matches: tuple[Match, ...]
    exclusions: tuple[Exclusion, ...]
    labels: tuple[Label, ...]
    limits: QualityLimits

    def hours(self) -> range:
        return range(self.window.start_ns // HOUR_NS, -(-self.window.end_ns // HOUR_NS))

    def measured(self, hour: int) -> bool:
        """Whether intervals are measured in an hour."""
        return not (hour - self.hours()[0]) % max(1, -(-len(self.hours()) // HOURS_MEASURED))


class Taking:
    """What was taken so far."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._selectors: list[Selector] = [selector(dict(match)) for match in plan.matches]
        self._cuts = Cuts(plan.exclusions)
        self._code: dict[str, int] = {}  # -1 when not selected
        self._names: list[str] = []
        self._services: list[str] = []
        self._fingerprints: list[int] = []
        self._profiler = Profiler()
        self.pieces: list[Piece] = []
        self.rows = self.excluded = self.empty = 0
        self.schema: tuple[tuple[str, str], ...] = ()

    def measure(self, path: Path, *, intervals: bool) -> tuple[int, int]:
        """(rows taken, rows selected before exclusions) of a file. Raises: DamagedFile."""
        import pyarrow as pa

        taken = selected = 0
        for batch in batches(path, ["series", "fingerprint", "timestamp", "value"]):
            if not self.schema:
                self.schema = tuple((one.name, str(one.type)) for one in batch.schema)
            code = self._codes(batch)
            time_ns = batch["timestamp"].cast(pa.int64()).to_numpy()
            value = batch["value"].to_numpy()
            mine = (code >= 0) & (time_ns >= self._plan.window.start_ns) & (time_ns < self._plan.window.end_ns)
            if not mine.all():
                code, time_ns, value = code[mine], time_ns[mine], value[mine]
            selected += len(code)
            kept = self._cuts.kept(code, time_ns)
            if kept is not None:
                code, time_ns, value = code[kept], time_ns[kept], value[kept]
            self._profiler.take(code, time_ns, value, intervals=intervals)
            taken += len(code)
        self.rows += taken
        self.excluded += selected - taken
        return taken, selected

    def done(self) -> tuple[Any, Any, SeriesTable]:
        """(measures of all, by service, table of series)."""
        every, services, found = self._profiler.done(self._services, self._cuts.seconds)
        names = [self._names[k] for k in found["code"].tolist()]
        prints = np.array([self._fingerprints[k] for k in found["code"].tolist()], np.uint64)
        columns = {name: found[name] for name in ("rows", "first_ns", "last_ns", "interval_s", "missing_ratio")}
        return every, services, SeriesTable.of(names, prints, **columns)

    def _codes(self, batch: Any) -> Any:
        """The numbers of the series of a batch, -1 where one is not selected."""
        names, indices = batch["series"].dictionary.to_pylist(), batch["series"].indices.to_numpy()
        used, first = np.unique(indices, return_index=True)
        number = np.full(len(names), -1, np.int64)
        prints = batch["fingerprint"].to_numpy()
        for k, at in zip(used.tolist(), first.tolist(), strict=True):
            name = names[k]
            if name not in self._code:
                self._code[name] = self._choose(name, int(prints[at]))
            number[k] = self._code[name]
        return number[indices]

    def _choose(self, name: str, fingerprint: int) -> int:
        try:
            labels = Labels.from_json(name)
        except ValueError:
            return -1
        if self._selectors and not any(one.matches(labels) for one in self._selectors):
            return -1
        self._names.append(name)
        self._services.append(labels.service)
        self._fingerprints.append(fingerprint)
        self._cuts.add(labels)
        return len(self._names) - 1


def complete_hours(now_ns: int) -> int:
    return (now_ns - COMPLETE_AFTER_NS) // HOUR_NS


def complete(window: Window, now_ns: int) -> Window:
    """A window without hours that may still grow. Raises: BadInput when nothing is left."""
    if window.end_ns <= window.start_ns:
        raise BadInput(f"window: expected an end after the start, got {window.start_ns} to {window.end_ns} ns")
    end_ns = min(window.end_ns, complete_hours(now_ns) * HOUR_NS)
    if end_ns <= window.start_ns:
        raise BadInput(
            f"window: expected one with a complete hour, got one from {_iso(window.start_ns)} to "
            f"{_iso(window.end_ns)} while the clock says {_iso(now_ns)}"
        )
    return Window(window.start_ns, end_ns)


def nothing(plan: Plan, taking: Taking, lost: Mapping[int, str]) -> str:
    window = f"{_iso(plan.window.start_ns)} to {_iso(plan.window.end_ns)}"
    why = f", {len(lost)} of {len(plan.hours())} hours have a damaged segment" if lost else ""
    why += f", {taking.excluded} are excluded" if taking.excluded else ""
    return f"expected points from {window} that the selectors take, got none{why}"


def _iso(ns: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat(timespec="seconds")
