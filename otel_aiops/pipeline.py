"""The data path as one value-to-value road: points in, scores out, with no socket, disk or clock in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.detector import Scores
from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.errors import StateError
from otel_aiops.otlp.points import I32, Points
from otel_aiops.series.align import Align, AlignConfig
from otel_aiops.series.batch import Batch
from otel_aiops.series.table import SeriesTable, TableConfig

Arrays = dict[str, NDArray[Any]]

SILENCE_CHECK_NS = 1_000_000_000  # silence is looked for at most once a second of event time
NO_ROWS = np.empty(0, np.int32)


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """What decides the result of the data path; nothing else does."""

    series: TableConfig = field(default_factory=TableConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    detection: EngineConfig = field(default_factory=EngineConfig)


@dataclass(frozen=True, slots=True)
class Scored:
    """A batch with its scores, index by index."""

    batch: Batch
    scores: Scores


@dataclass(frozen=True, slots=True)
class Step:
    """What one body did. Readers keep it as long as they like: nothing in it changes later.

    The points of a row stand in `scored` in the order of their times; `silent` are streams that stopped reporting, by
    first row (their value is NaN, their interval the silence); `ended` are rows whose sender said that they end, or
    that have been silent for very long; `reclaimed` rows now belong to other series. `event_ns` is the event clock.
    """

    event_ns: int
    scored: tuple[Scored, ...] = ()
    silent: Scored | None = None
    ended: I32 = field(default_factory=lambda: NO_ROWS)
    reclaimed: I32 = field(default_factory=lambda: NO_ROWS)
    counts: Mapping[str, int] = field(default_factory=dict)

    def batches(self) -> Iterator[Scored]:
        """Everything that has a score, the silent series last."""
        yield from self.scored
        if self.silent is not None:
            yield self.silent


class Pipeline:
    """Owner of the learned state, with one writer: equal calls in equal order give equal bits.

    Score first, learn after: a point never influences its own score.
    """

    def __init__(self, config: PipelineConfig) -> None:
        self.config = config
        self.table = SeriesTable(config.series)
        self.align = Align(config.align)
        self.engine = Engine(config.detection)
        self._event_ns = 0  # never ahead of the clock of the receiver, never behind what was seen
        self._now_ns = 0
        self._silence_checked_ns = 0

    @property
    def event_ns(self) -> int:
        """The event clock: the newest time seen, never ahead of the receiver's clock."""
        return self._event_ns

    def metrics(self, points: Points, *, now_ns: int) -> Step:
        """Score the points of one body, then learn from them; `now_ns` is when the body was received."""
        self._advance(now_ns, int(points.time_ns.max()) if len(points) else 0)
        rows = self.table.rows(points, event_now_ns=self._event_ns)
        self._forget(rows.reclaimed)
        aligned = self.align.step(points, rows, now_ns=now_ns)
        scored = tuple(self._score(batch) for batch in aligned.batches)
        counts = {**aligned.counts, **rows.counts, "scored": sum(len(s.batch.rows) for s in scored)}
        silent, gone = self._silent()
        return Step(
            event_ns=self._event_ns,
            scored=scored,
            silent=silent,
            ended=np.concatenate([aligned.ended, gone]),
            reclaimed=rows.reclaimed,
            counts=counts,
        )

    def tick(self, *, now_ns: int) -> Step:
        """Let time pass without data, so that series which stopped are noticed."""
        self._advance(now_ns, 0)
        silent, gone = self._silent()
        return Step(event_ns=self._event_ns, silent=silent, ended=gone)

    def backfill(self, points: Points, *, now_ns: int) -> Step:
        """Learn the series of these points anew from their past; what the body holds is all that they remember.

        The live alignment stays as it is, so the next live point continues where the last one stopped.
        """
        rows = self.table.rows(points, event_now_ns=self._event_ns)
        self._forget(rows.reclaimed)
        aligned = Align(self.config.align).step(points, rows, now_ns=now_ns)
        if aligned.batches:
            self.engine.forget(np.unique(np.concatenate([batch.rows for batch in aligned.batches])))
        learned = 0
        for batch in aligned.batches:
            learned += len(self._score(batch).batch.rows)
        return Step(event_ns=self._event_ns, reclaimed=rows.reclaimed, counts={"backfilled": learned})

    def state(self) -> Arrays:
        """Everything learned, as arrays that nobody changes later."""
        clock = np.array([self._event_ns, self._now_ns, self._silence_checked_ns], np.int64)
        owners: dict[str, SeriesTable | Align | Engine] = {
            "table": self.table,
            "align": self.align,
            "engine": self.engine,
        }
        arrays = {f"{name}/{key}": value for name, owner in owners.items() for key, value in owner.state().items()}
        return {"pipeline/clock": clock, **arrays}

    def restore(self, arrays: Arrays) -> None:
        """Take over a state; StateError when it does not fit, and then this pipeline must not be used."""
        try:
            self._event_ns, self._now_ns, self._silence_checked_ns = map(int, arrays["pipeline/clock"])
        except (KeyError, ValueError) as error:
            raise StateError(f"expected pipeline/clock with 3 numbers, got {sorted(arrays)[:5]}") from error
        self.table.restore(_owned(arrays, "table"))
        self.align.restore(_owned(arrays, "align"))
        self.engine.restore(_owned(arrays, "engine"))

    def _score(self, batch: Batch) -> Scored:
        scores = self.engine.score(batch)
        self.engine.learn(batch, scores)
        return Scored(batch, scores)

    def _forget(self, rows: I32) -> None:
        if len(rows):
            self.align.forget(rows)
            self.engine.forget(rows)

    def _advance(self, now_ns: int, seen_ns: int) -> None:
        """Move the event clock: with the data when it comes, with the receiver's clock when none does.

        A sender whose clock is ahead cannot push it past `now_ns`, or all others would look silent.
        """
        passed = max(0, now_ns - self._now_ns) if self._now_ns and not seen_ns else 0
        self._event_ns = max(self._event_ns, min(seen_ns, now_ns), min(self._event_ns + passed, now_ns))
        self._now_ns = now_ns

    def _silent(self) -> tuple[Scored | None, I32]:
        """(streams that have stopped, rows that have been silent for so long that it is normal)."""
        if self._event_ns - self._silence_checked_ns < SILENCE_CHECK_NS:
            return None, NO_ROWS
        self._silence_checked_ns = self._event_ns
        silence = self.align.silence(self._event_ns)
        if not len(silence.rows):
            return None, silence.gone
        absent = np.full(len(silence.rows), np.nan)
        times = np.full(len(silence.rows), self._event_ns, np.int64)
        batch = Batch(rows=silence.rows, time_ns=times, value=absent, interval_s=silence.silence_s)
        return Scored(batch, self.engine.silent_scores(silence.silence_s, silence.limit_s)), silence.gone


def _owned(arrays: Arrays, owner: str) -> Arrays:
    prefix = owner + "/"
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}
