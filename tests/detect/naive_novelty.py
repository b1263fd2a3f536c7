"""Slow twins of the novelty memory: one series at a time, with dicts, sets and lists, written to be obvious."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

LIFE, WARM, GROWTH, FARTHEST_RANGES = 200, 20, 10, 10.0
DAY_NS, HALF_HOUR_NS = 86_400_000_000_000, 1_800_000_000_000


def single(x: float) -> float:
    """A number as float32 keeps it."""
    return float(np.float32(x))


class NaiveSeen:
    """Visited cells with the lives they have left."""

    def __init__(self, cells: int) -> None:
        self.most = cells - 16
        self.life: dict[int, int] = {}
        self.exponent = self.count = self.due = 0
        self.merged, self.trimmed = 0, False

    @property
    def low(self) -> int:
        return min(self.life)

    @property
    def high(self) -> int:
        return max(self.life)

    def cell(self, value: float) -> int:
        if self.count == 0:
            self.exponent = -90 if value == 0 else max(math.frexp(value)[1] - 45, -500)
        return math.floor(math.ldexp(value, -self.exponent))

    def distance(self, value: float) -> float:
        """Cells to the nearest visited one."""
        cell = self.cell(value)
        if self.count == 0 or (self.count < WARM and self.low <= cell <= self.high):
            return 0.0
        return float(min(abs(cell - other) for other in self.life))

    def novelty(self, value: float) -> float:
        if self.count < WARM:
            return 0.0
        return min(self.distance(value) / max(self.high - self.low, 1), FARTHEST_RANGES)

    def side(self, value: float) -> int:
        cell = self.cell(value)
        return 0 if self.count == 0 else (cell > self.high) - (cell < self.low)

    def learn(self, value: float, memory: float) -> int:
        """Visit; returns the cell that the value was counted to."""
        cell, self.merged = self.cell(value), 0
        if self.count >= WARM and self.high > self.low:
            reach = GROWTH * (self.high - self.low)
            cell = min(max(cell, self.low - reach), self.high + reach)
        low, high = min([cell, *self.life]), max([cell, *self.life])
        while (high >> self.merged) - (low >> self.merged) >= self.most:
            self.merged += 1
        joined: dict[int, int] = {}
        for other, life in self.life.items():
            joined[other >> self.merged] = max(life, joined.get(other >> self.merged, 0))
        cell >>= self.merged
        self.life = {**joined, cell: LIFE}
        self.exponent += self.merged
        self.count += 1
        self._age(max(1, int(memory / LIFE)))
        return cell

    def _age(self, share: int) -> None:
        self.trimmed, ends = False, (self.low, self.high)
        self.due = share if self.count == 1 else self.due - 1
        if self.due <= 0:
            self.due = share
            self.life = {cell: life - 1 for cell, life in self.life.items() if life > 1}
            self.trimmed = ends != (self.low, self.high)


class NaiveDaytime:
    """(half hour of the day, coarse cell) of the past, and coarse cells of the newest half hours."""

    def __init__(self, joined: int = 8) -> None:
        self.joined = joined
        self.past: set[tuple[int, int]] = set()
        self.pending: dict[int, set[int]] = {}
        self.since_ns: int | None = None

    def look(self, time_ns: int, value: float, seen: NaiveSeen) -> float:
        if self.since_ns is None or time_ns - self.since_ns <= 2 * DAY_NS or seen.count < WARM:
            return 0.0
        half_hour, cell = time_ns // HALF_HOUR_NS, seen.cell(value) // self.joined
        near = {(half_hour + away) % 48 for away in (-2, -1, 0, 1, 2)}
        known = {other for then, other in self.past if then in near}
        if not known:
            return 0.0
        cells = float(min(abs(other - cell) for other in known) * self.joined)
        return min(cells / max(seen.high - seen.low, 1), 1_000.0)

    def learn(self, time_ns: int, seen: NaiveSeen, cell: int) -> None:
        """After `seen` has learned the value of this cell."""
        self._change(lambda old: old >> seen.merged)
        low, high = seen.low // self.joined, seen.high // self.joined
        self._keep(low, high)
        self.since_ns = time_ns if self.since_ns is None else self.since_ns
        half_hour = time_ns // HALF_HOUR_NS
        if half_hour not in self.pending:
            for then in [then for then in self.pending if abs(half_hour - then) > 2]:
                self.past |= {(then % 48, old) for old in self.pending.pop(then)}
        self.pending.setdefault(half_hour, set()).add(cell // self.joined)

    def _change(self, moved) -> None:  # type: ignore[no-untyped-def]
        self.past = {(then, moved(cell)) for then, cell in self.past}
        self.pending = {then: {moved(cell) for cell in cells} for then, cells in self.pending.items()}

    def _keep(self, low: int, high: int) -> None:
        self.past = {(then, cell) for then, cell in self.past if low <= cell <= high}
        self.pending = {then: {cell for cell in cells if low <= cell <= high} for then, cells in self.pending.items()}


class NaiveSpread:
    """The newest four blocks of twelve values, as [size, mean, sum of squared deviations]."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.beginning = 0.0

    def look(self, value: float) -> float:
        least = 1e-3 * max(self.beginning, self._early(value)) + 1e-9 * (abs([*self.values, value][0]) + 1e-9)
        return float(np.log(self.deviation(value) + least))

    def learn(self, value: float) -> None:
        self.beginning = max(self.beginning, self._early(value))
        self.values.append(value)

    def _early(self, value: float) -> float:
        return self.deviation(value) if len(self.values) < 100 else 0.0

    def deviation(self, value: float) -> float:
        blocks: list[tuple[int, float, float]] = [(0, 0.0, 0.0)] * 4  # a block stands at its number modulo 4
        count = len(self.values) + 1
        first = max(0, (count - 1) // 12 - 3) * 12
        for begin in range(first, count, 12):
            size, mean, square = 0, 0.0, 0.0
            for x in [*self.values, value][begin : begin + 12]:
                size, off = size + 1, x - mean
                mean += off / size
                square += off * (x - mean)
            blocks[begin // 12 % 4] = (size, mean, square)
        total = sum(size for size, _, _ in blocks)
        mean = sum(size * mean for size, mean, _ in blocks) / total
        squares = sum(square + size * ((own - mean) * (own - mean)) for size, own, square in blocks)
        return math.sqrt(max(squares / total, 0.0))


@dataclass
class Prototype:
    now: float
    before: float
    met: int


@dataclass
class NaivePairs:
    """The prototypes, and all values from the first one."""

    prototypes: list[Prototype] = field(default_factory=list)
    values: list[float] = field(default_factory=list)  # from the first one
    first: float = 0.0
    mean: float = 0.0
    power: float = 0.0
    high: float = 0.0
    low: float = 0.0
    median: float = 0.0
    spread: float = 0.0

    def x(self, value: float) -> float:
        return min(max(value - self.first, -1e18), 1e18)

    def least(self) -> float:
        return 1e-9 * (abs(self.mean + self.first) + 1e-9)

    def scale(self) -> float:
        return abs(self.high - self.low) + self.least()

    def nearest(self, value: float) -> tuple[float, Prototype | None]:
        if not self.prototypes:
            return math.inf, None
        found = min(self.prototypes, key=lambda prototype: self._square(prototype, value))
        return math.sqrt(self._square(found, value) / 2), found

    def _square(self, prototype: Prototype, value: float) -> float:
        now = single(prototype.now - single(self.x(value)))
        before = single(prototype.before - single(self.values[-1]))
        return single(single(now * now) + single(before * before))

    def surprise(self, value: float) -> float:
        return min(self.nearest(value)[0] / self.scale(), 1e3) if len(self.values) >= WARM else 0.0

    def deviation(self, value: float) -> float:
        if len(self.values) < WARM:
            return 0.0
        return abs(self.x(value) - self.median) / (self.spread + self.least())

    def learn(self, value: float) -> None:
        if not self.values:
            self.first = value
        x = self.x(value)
        if self.values:
            self._stand(value)
        self._quantiles(x)
        self.values.append(x)
        if len(self.values) <= 64 or len(self.values) % 16 == 0:
            self._refresh()

    def _stand(self, value: float) -> None:
        apart, found = self.nearest(value)
        if found is None or apart > 0.02 * self.scale():
            new = Prototype(single(self.x(value)), single(self.values[-1]), len(self.values))
            if len(self.prototypes) < 96:
                self.prototypes.append(new)
            else:
                oldest = min(range(96), key=lambda k: self.prototypes[k].met)
                self.prototypes[oldest] = new
        else:
            found.met = len(self.values)

    def _quantiles(self, x: float) -> None:
        count = len(self.values)
        weight = max(1 / (count + 1), 1 / 2_000)
        off = x - self.mean
        self.mean += weight * off
        self.power = (1 - weight) * (self.power + weight * off * off)
        step = (0.05 if count > 100 else 0.3) * math.sqrt(self.power)
        self.high += step * (0.99 if x > self.high else 0.99 - 1)
        self.low += step * (1 - 0.99 if x > self.low else -0.99)

    def _refresh(self) -> None:
        newest = [single(x) for x in self.values[-128:]]
        middle = len(newest) // 2
        self.median = sorted(newest)[middle]
        mad = sorted(single(abs(x - self.median)) for x in newest)[middle]
        mean = math.fsum(newest) / len(newest)
        deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in newest) / len(newest))
        self.spread = max(1.4826 * mad, 0.25 * deviation)


class NaiveAlerts:
    """Hold and fatigue."""

    def __init__(self) -> None:
        self.peak = self.fatigue = 0.0
        self.age = 0

    def look(self, score: float, points: float) -> float:
        tired = score / (1 + 0.25 * self.fatigue * math.exp(-1 / 3_000))
        hold = min(max(0.06 * points, 30), 400)
        if self.peak > 0 and self.age <= hold and tired <= self.peak:
            return 0.0
        return tired

    def learn(self, alert: float) -> None:
        self.fatigue = single(self.fatigue * math.exp(-1 / 3_000) + (min(alert, 2.0) if alert > 0 else 0.0))
        self.age = min(self.age, 10_000) + 1
        if alert > 0:
            self.peak, self.age = float(np.float16(alert)), 1


class NaiveSeries:
    """All of it for one series: `look` gives (strange, novel, kind)."""

    def __init__(self) -> None:
        self.value, self.residual, self.spreads = NaiveSeen(512), NaiveSeen(512), NaiveSeen(256)
        self.daytime, self.spread, self.pairs = NaiveDaytime(), NaiveSpread(), NaivePairs()
        self.level, self.count, self.daily, self.burst = 0.0, 0, 0.0, 0

    def _residual(self, value: float) -> float:
        return value - self.level if self.count else 0.0

    def _strange(self, time_ns: int, value: float) -> float:
        surprise, deviation = self.pairs.surprise(value) / 0.4, self.pairs.deviation(value)
        surprise = min(surprise, 0.75) if deviation < 3 else surprise  # a usual value after an unusual one
        return surprise + 0.127 * math.sqrt(deviation) + 0.64 * self.daytime.look(time_ns, value, self.value)

    def look(self, time_ns: int, value: float) -> tuple[float, float, str]:
        value = min(max(value, -1e150), 1e150)
        parts = {
            "value": self.value.novelty(value) / 0.0085,
            "residual": self.residual.novelty(self._residual(value)) / 0.0093,
            "daytime": self.daytime.look(time_ns, value, self.value) / 0.24,
            "spread": self.spreads.novelty(self.spread.look(value)) / 0.026,
        }
        kind = max(parts, key=lambda name: parts[name])
        usual = max(1.0, 0.8 * math.exp(self.daily))
        strange, novel, known = self._strange(time_ns, value), parts[kind], max(self.count, 1)
        if not self.pairs.power > 0:  # it never varied
            strange = novel = 0.0
        kind = kind if parts[kind] >= 1 else "pair"
        return min(strange / (usual * (1 + 20 / known)), 100.0), min(novel / (1 + 100 / known), 100.0), kind

    def learn(self, time_ns: int, value: float, interval_s: float) -> None:
        value = min(max(value, -1e150), 1e150)
        memory = max(4_000.0, 14 * 86_400 / max(interval_s, 14 * 86_400 / 1e7)) if interval_s > 0 else 4_000.0
        strange, residual, spread = self._strange(time_ns, value), self._residual(value), self.spread.look(value)
        self.daytime.learn(time_ns, self.value, self.value.learn(value, memory))
        self.residual.learn(residual, memory)
        self.spreads.learn(spread, memory)
        self.spread.learn(value)
        self.pairs.learn(value)
        self.count += 1
        self.level = value if self.count == 1 else self.level
        self.level += max(1 - 0.5 ** (1 / 100), 1 / self.count) * (value - self.level)
        self._learn_daily(math.log(max(strange, 1e-3)), min((interval_s or 60.0) / 86_400, 0.25))

    def _learn_daily(self, point: float, share: float) -> None:
        above = point > self.daily
        self.burst = self.burst + 1 if above else 0
        if self.count <= WARM:
            self.daily = -0.7
        elif not above:
            self.daily = max(self.daily - 0.2 * share, -0.7)
        elif self.burst == 1:
            self.daily = min(self.daily + 0.2 * (1 - share), point)
        self.daily = single(self.daily)


def slots_at(*numbers: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Slots as the parts of the memory take them."""
    return np.array(numbers, np.int32)
