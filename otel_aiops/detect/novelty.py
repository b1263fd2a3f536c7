"""Novelty: how new what a series does is, beside all that it has done; for as many series as the memory allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.compiled import compiled
from otel_aiops.detect.daytime import Daytime
from otel_aiops.detect.explain import Story
from otel_aiops.detect.memory import indices
from otel_aiops.detect.pairs import PairLook, Pairs
from otel_aiops.detect.rhythm import Rhythm, Rhythms
from otel_aiops.detect.seasonal import Clock
from otel_aiops.detect.seen import WARM, Look, Seen
from otel_aiops.detect.spread import Spread
from otel_aiops.otlp.points import F64, I32, I64
from otel_aiops.series.columns import Columns, checked

VALUE_CELLS, RESIDUAL_CELLS, SPREAD_CELLS = 512, 512, 256
LEVEL_WEIGHT = 1 - 0.5 ** (1 / 100)  # of the mean that residuals are taken from: 100 points halve it
REMEMBERED_POINTS = 4_000.0  # how long values are remembered: so many points, or two weeks if that is longer
REMEMBERED_S = 14 * 86_400.0
LARGEST = 1e150  # values beyond are taken for this one, so that squares are finite

# What makes a score or a novelty of 1. Constants for all series, found on what 99.8 % of the points of many series
# without regard to labels stay below: forcing each series to the same rate of anomalies was measured to cost quality.
PAIR_SCALE = 0.40  # scales of the series
DEVIATION_WEIGHT = 0.127  # of the square root of the robust deviation, which has a very long tail
DAYTIME_WEIGHT = 0.64
VALUE_SCALE, RESIDUAL_SCALE = 0.0085, 0.0093  # ranges
DAYTIME_SCALE = 0.24
SPREAD_SCALE = 0.026

USUAL = 3.0  # robust standard deviations
WAY_BACK = 0.75  # most that a usual value is worth because of what it follows on: no anomaly by itself
MOST = 100.0  # of both
YOUNG, YOUNG_NOVEL = 20.0, 100.0  # points so far at which twice as much is asked of the score and of novelty
DAILY_STEP = 0.2  # of the logarithm of what is reached once a day
LEAST_DAILY = -0.7  # of the same
DAILY_SHARE = 0.8  # of what is reached once a day that is not called strange, above 1

KINDS = ("value", "residual", "daytime", "spread", "pair")
VALUE, RESIDUAL, DAYTIME, SPREAD, PAIR = range(len(KINDS))
SCALES = (VALUE_SCALE, RESIDUAL_SCALE, DAYTIME_SCALE, SPREAD_SCALE)  # of all but pairs


class Novelty(NamedTuple):
    """What K points are like, all (K,). `strange` is a score: 1 is a threshold. `novel` is 1 for what deserves a look
    because it has hardly ever been so, and `kind` says in which way; both are NaN for series without this memory.
    """

    strange: F64
    novel: F64
    kind: NDArray[np.uint8]
    points: F64  # that are remembered of the series

    def among(self, which: NDArray[np.intp], size: int) -> Novelty:
        """The same for more points, of which these are the ones at `which`."""
        every = [np.full(size, np.nan), np.full(size, np.nan), np.zeros(size, np.uint8), np.full(size, np.nan)]
        for one, some in zip(every, self, strict=True):
            one[which] = some
        return Novelty(*every)


class _Last(NamedTuple):
    """What was looked up for J points of series that have a slot."""

    which: NDArray[np.intp]  # of the K points
    slots: I32
    time_ns: I64
    value: F64
    seen: Look
    residual: Look
    spread: Look
    daytime: F64
    pair: PairLook
    kind: NDArray[np.uint8]
    strange: F64  # whatever is usual for the series


class _Level(NamedTuple):
    """The columns of a series as a whole."""

    level: F64
    count: I32  # type: ignore[assignment]  # no tuple's method is used
    kind: NDArray[np.uint8]
    side: NDArray[np.int8]
    nearest: NDArray[np.float32]
    deviation: NDArray[np.float32]
    daily: NDArray[np.float32]
    burst: NDArray[np.float32]
    time_ns: I64


class NoveltyTier:
    """Memory of values, of residuals from a slow mean, of values by time of the day, of spreads, and of pairs.

    With `way_back` also the return from a spike to usual values is strange, else it is not.
    A series gets a slot with its first point, while there are slots. Everything is learned, also what is strange:
    the question is whether it has ever been so.
    """

    def __init__(self, memory_bytes: int, *, way_back: bool = False) -> None:
        self._most_of_usual = np.inf if way_back else WAY_BACK
        self._value, self._residual = Seen(VALUE_CELLS), Seen(RESIDUAL_CELLS)
        self._spreads, self._daytime = Seen(SPREAD_CELLS), Daytime(VALUE_CELLS)
        self._spread, self._pairs = Spread(), Pairs()
        self._level = Columns(
            {
                "level": (np.float64, (), 0),
                "count": (np.int32, (), 0),
                "kind": (np.uint8, (), 0),  # of the newest point, for its story
                "side": (np.int8, (), 0),
                "nearest": (np.float32, (), 0),
                "deviation": (np.float32, (), 0),
                "daily": (np.float32, (), 0),  # logarithm of the strangeness that is reached about once a day
                "burst": (np.float32, (), 0),  # points in a row above it
                "time_ns": (np.int64, (), 0),
            }
        )
        self._rhythms = Rhythms()
        self._slots = Columns({"slot": (np.int32, (), -1)})
        self._parts: dict[str, Columns] = {
            "value": self._value,
            "residual": self._residual,
            "spreads": self._spreads,
            "daytime": self._daytime,
            "spread": self._spread,
            "pairs": self._pairs,
            "level": self._level,
            "rhythm": self._rhythms,
        }
        self.most = memory_bytes // self.bytes_per_series
        self._used = 0
        self._free: list[int] = []
        self._rows = 0
        self._last: _Last | None = None

    @property
    def bytes_per_series(self) -> int:
        """What one series with a slot takes, and nothing for the others but the number of the slot."""
        return sum(part.bytes_per_row for part in self._parts.values())

    def __len__(self) -> int:
        return self._used - len(self._free)

    def look(self, rows: I32, time_ns: I64, value: F64) -> Novelty:
        """What K points are like; of the state only slots are given out."""
        slots, value = self._slots_of(rows), np.minimum(np.maximum(value, -LARGEST), LARGEST)
        which = indices(slots >= 0)
        if len(which) == len(rows):
            return self._look(which, slots, time_ns, value)
        return self._look(which, slots[which], time_ns[which], value[which]).among(which, len(rows))

    def _look(self, which: NDArray[np.intp], slots: I32, time_ns: I64, value: F64) -> Novelty:
        of, j = self._level.of, len(slots)
        seen = self._value.look(slots, value)
        residual = self._residual.look(slots, np.where(of["count"][slots] > 0, value - of["level"][slots], 0.0))
        spread = self._spreads.look(slots, self._spread.look(slots, value))
        daytime, pair = self._daytime.look(slots, time_ns, seen), self._pairs.look(slots, value)
        found, strange = Novelty(np.empty(j), np.empty(j), np.empty(j, np.uint8), np.empty(j)), np.empty(j)
        parts = seen.novelty, residual.novelty, daytime, spread.novelty
        usual = np.exp(of["daily"][slots].astype(np.float64))
        columns = of["count"], self._pairs.of["power"]
        _judge(*columns, slots, parts, pair, usual, self._most_of_usual, strange, found)
        self._last = _Last(which, slots, time_ns, value, seen, residual, spread, daytime, pair, found.kind, strange)
        return found

    def learn(self, interval_s: F64) -> None:
        """Take in the K points that were looked at last; `interval_s` is their usual distance in time, 0 if unknown."""
        last, self._last = self._last, None
        if last is None:
            return
        slots, interval_s = last.slots, interval_s[last.which]
        memory, logarithm = np.empty(len(slots)), np.log(np.maximum(last.strange, 1e-3))
        story = last.kind, last.daytime, last.pair.deviation
        _learn(
            _Level(**self._level.of), slots, last.time_ns, last.value, interval_s, logarithm, last.seen, story, memory
        )
        moved = self._value.learn(slots, last.seen, memory)
        self._daytime.learn(slots, last.time_ns, last.seen, moved)
        self._residual.learn(slots, last.residual, memory)
        self._spreads.learn(slots, last.spread, memory)
        self._spread.learn(slots, last.value)
        self._pairs.learn(slots, last.value, last.pair)

    def story(self, row: int) -> Story | None:
        """What made the newest point of a row new; None for a row without this memory."""
        slot = int(self._slots.of["slot"][row]) if row < self._rows else -1
        if slot < 0:
            return None
        of = {name: array[slot].item() for name, array in self._level.of.items()}
        since_s = (of["time_ns"] - int(self._daytime.of["since_ns"][slot])) / 1e9
        return Story(KINDS[of["kind"]], of["nearest"], of["side"], min(since_s, REMEMBERED_S), of["deviation"])

    def newest_ns(self, rows: I32) -> I64:
        """When the newest point of K rows was, 0 for those without this memory."""
        self._reserve(rows)
        slots = self._slots.of["slot"][rows]
        found = np.zeros(len(rows), np.int64)
        found[slots >= 0] = self._level.of["time_ns"][slots[slots >= 0]]
        return found

    # -- rhythm -------------------------------------------------------------------------------------------------------

    def clock(self, rows: I32, time_ns: I64, wall_ns: I64) -> Clock:
        """What the seasonal profiles of K rows go by."""
        self._reserve(rows)
        return self._rhythms.clock(self._slots.of["slot"][rows], time_ns, wall_ns)

    def learn_rhythm(self, rows: I32, time_ns: I64, value: F64, interval_s: F64) -> tuple[I32, F64] | None:
        """Look for periods in what K rows were so far; (rows, values) of the profiles that begin anew, if any do.

        `interval_s` (K,) is 0 for rows whose interval is not known yet.
        """
        slots = self._slots.of["slot"][rows]
        begun = self._rhythms.learn(slots, time_ns, value, interval_s)
        if begun is None:
            return None
        order = np.argsort(slots)
        return rows[order[np.searchsorted(slots, begun.slots, sorter=order)]], begun.values

    def rhythm(self, row: int) -> Rhythm | None:
        """The period that was found of a row."""
        slot = int(self._slots.of["slot"][row]) if row < self._rows else -1
        return None if slot < 0 else self._rhythms.rhythm(slot)

    def own_clock(self, rows: I32) -> NDArray[np.uint8]:
        """Cells of the profiles of K rows, 0 for those by hours of the week."""
        self._reserve(rows)
        slots = self._slots.of["slot"][rows]
        found = np.zeros(len(rows), np.uint8)
        found[slots >= 0] = self._rhythms.of["parts"][slots[slots >= 0]]
        return found

    def drop_rhythms(self) -> I32:
        """Forget all periods; returns the rows whose profiles went by them."""
        rows = indices(self.own_clock(np.arange(self._rows, dtype=np.int32))).astype(np.int32)
        self._rhythms.clear(np.arange(self._used))
        return rows

    def copy(self, rows: I32, sources: I32, donor: NoveltyTier) -> None:
        """Give K rows what K others of a donor remember."""
        self._reserve(rows)
        donor._reserve(sources)
        models = donor._slots.of["slot"][sources]
        rows, models = rows[models >= 0], models[models >= 0]
        slots = self._slots_of(rows)
        for name, part in self._parts.items():
            part.copy(slots[slots >= 0], models[slots >= 0], donor._parts[name])

    def inherit(self, rows: I32, sources: I32, donor: NoveltyTier | None = None) -> None:
        """Let K rows begin with copies of what K others remember, where those have a slot and there are slots left.

        The others are of a donor where there is one.
        """
        source = donor or self
        self._reserve(rows)
        source._reserve(sources)
        has = source._slots.of["slot"][sources] >= 0
        rows, sources = rows[has], sources[has]
        slots = self._slots_of(rows)
        given = slots >= 0
        slots, models = slots[given], source._slots.of["slot"][sources[given]]
        for name, part in self._parts.items():
            part.copy(slots, models, source._parts[name])
        self._rhythms.begin(slots)
        self._level.of["count"][slots] = WARM + 1  # so that the mean soon is that of the series itself

    # -- slots --------------------------------------------------------------------------------------------------------

    def _slots_of(self, rows: I32) -> I32:
        """Slots of K rows, new ones for those that have none, -1 where there are none left."""
        self._reserve(rows)
        slot = self._slots.of["slot"]
        found: I32 = slot[rows]
        wanting = indices(found < 0)
        wanting = wanting[: max(self.most - len(self), 0)]
        if len(wanting):
            given = self._take(len(wanting))
            slot[rows[wanting]] = given
            found[wanting] = given
        return found

    def _reserve(self, rows: I32) -> None:
        if len(rows):
            self._rows = max(self._rows, int(rows.max()) + 1)
            self._slots.reserve(self._rows)

    def _take(self, count: int) -> I32:
        reused = [self._free.pop() for _ in range(min(count, len(self._free)))]
        first = self._used
        self._used += count - len(reused)
        for part in self._parts.values():
            part.reserve(self._used)
        return np.array([*reused, *range(first, self._used)], np.int32)

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series start anew, and give back their slots."""
        rows = rows[rows < self._rows]
        slots = self._slots.of["slot"][rows]
        held = np.unique(slots[slots >= 0])
        self._slots.of["slot"][rows] = -1
        for part in self._parts.values():
            part.clear(held)
        self._free += held[::-1].tolist()
        self._last = None

    # -- state --------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything learned."""
        parts = {
            f"{name}/{key}": array
            for name, part in self._parts.items()
            for key, array in part.state(self._used).items()
        }
        return {
            **parts,
            "slot": self._slots.of["slot"][: self._rows].copy(),
            "free": np.array(self._free, np.int32),
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over a state. Raises: StateError."""
        expected: dict[str, Any] = {"slot": (np.int32, ("rows",)), "free": (np.int32, ("free",))}
        for name, part in self._parts.items():
            expected |= {f"{name}/{key}": (kind, ("slots", *shape[1:])) for key, (kind, shape) in part.saved().items()}
        checked(arrays, expected)
        for part in self._parts.values():
            part.clear(np.arange(self._used))
        self._slots.clear(np.arange(self._rows))
        self._used, self._rows = len(arrays["level/level"]), len(arrays["slot"])
        for name, part in self._parts.items():
            part.reserve(self._used)
            own = {key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")}
            part.restore(own, self._used)
        self._slots.reserve(self._rows)
        self._slots.of["slot"][: self._rows] = arrays["slot"]
        self._free = arrays["free"].tolist()
        self._last = None


@compiled
def _judge(
    count: I32,
    power: F64,
    slots: I32,
    parts: tuple[F64, ...],
    pair: PairLook,
    usual: F64,
    most_of_usual: float,
    strange: F64,
    found: Novelty,
) -> None:
    """Put together how strange points are and which of the `parts` makes them novel."""
    for j in range(len(slots)):
        s, kind, novel = slots[j], 0, -1.0
        for p in range(len(SCALES)):
            part = parts[p][j] / SCALES[p]
            if part > novel:
                kind, novel = p, part
        surprise = pair.surprise[j] / PAIR_SCALE
        if pair.deviation[j] < USUAL:
            surprise = min(surprise, most_of_usual)
        strange[j] = surprise + DEVIATION_WEIGHT * np.sqrt(pair.deviation[j]) + DAYTIME_WEIGHT * parts[DAYTIME][j]
        found.kind[j] = kind if novel >= 1 else PAIR
        if not power[s] > 0:  # a series that never changed is not new, it is no longer constant
            strange[j] = novel = 0.0
        known: Any = max(np.int64(count[s]), np.int64(1))  # while little is known, nearly everything is new
        daily = max(1.0, DAILY_SHARE * usual[j])
        found.strange[j] = min(strange[j] / (daily * (1 + YOUNG / known)), MOST)
        found.novel[j] = min(novel / (1 + YOUNG_NOVEL / known), MOST)
        found.points[j] = count[s]


@compiled
def _learn(
    of: _Level,
    slots: I32,
    time_ns: I64,
    value: F64,
    interval_s: F64,
    logarithm: F64,
    seen: Look,
    story: tuple[NDArray[np.uint8], F64, F64],
    memory: F64,
) -> None:
    """Learn level and daily strangeness, keep the story, and say for how many values a series remembers."""
    kind, daytime, deviation = story
    for j in range(len(slots)):
        s, every_s = slots[j], interval_s[j]
        count: Any = np.int64(of.count[s]) + 1
        level = value[j] if count == 1 else of.level[s]
        of.level[s] = level + max(LEVEL_WEIGHT, 1.0 / count) * (value[j] - level)
        of.count[s] = min(count, 1_000_000)
        _learn_daily(of, s, logarithm[j], min((every_s if every_s > 0 else 60.0) / 86_400.0, 0.25))
        of.kind[s], of.time_ns[s], of.deviation[s] = kind[j], time_ns[j], deviation[j]
        of.side[s] = 1 if seen.cell[j] > seen.high[j] else -1 if seen.cell[j] < seen.low[j] else 0
        of.nearest[s] = daytime[j] if kind[j] == DAYTIME else seen.novelty[j]
        share = REMEMBERED_S / max(every_s, REMEMBERED_S / 1e7) if every_s > 0 else 0.0
        memory[j] = max(REMEMBERED_POINTS, share)


@compiled
def _learn_daily(of: _Level, s: int, logarithm: float, share: float) -> None:
    """Move what is reached once a day; of points in a row above it only the first counts.

    More than one strange moment a day is usual for a series that always had them. Seldomer ones stay strange: a
    rate that is equal for all series was measured to cost much, this cap to cost nothing.
    """
    daily: Any = np.float64(of.daily[s])
    if logarithm > daily:
        of.burst[s] += 1
        if of.burst[s] <= 1:
            daily = min(daily + DAILY_STEP * (1 - share), logarithm)
    else:
        of.burst[s] = 0
        daily = max(daily - DAILY_STEP * share, LEAST_DAILY)
    of.daily[s] = daily if of.count[s] > WARM else LEAST_DAILY
