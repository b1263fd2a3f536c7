"""A slow twin of the deviation tier: one series at a time, plain numbers and a dict of hours, written to be obvious."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

SIGMA = 1.2533  # standard deviation in mean absolute errors, of a normal distribution
HOUR_NS = 3_600_000_000_000
DAY_S = 86_400.0
THURSDAY = 72  # hours from Monday to the epoch

SECONDS = {"over_since_s": 4_294_967_295, "accepted_s": 4_294_967_295}
COUNTS = {"run": 65_535, "settled": 65_535, "hour_points": 65_535, "over": 65_535}
FEW = {"guide": 255, "burst": 255, "long_burst": 255, "calm": 255}
WHOLE = SECONDS | COUNTS | FEW  # and the largest number that fits
WIDE = {"level", "last"}  # float64; all others are float32

GUIDES = ("level", "season", "near")  # where what is expected comes from
TRACKED = {"median": 0.5, "high": 0.9, "higher": 0.97, "highest": 0.995}  # quantiles of the score of normal points


def single(x: float) -> float:
    """A number as float32 keeps it."""
    return float(np.float32(x))


def cell_of(x: float) -> float:
    """A number as float16 keeps it, but for zero, which says that an hour was not seen."""
    return float(np.float16(x)) or float(np.float16(6e-8))


def within(x: float, limit: float) -> float:
    return min(max(x, -limit), limit)


def moved(mean: float, x: float, weight: float) -> float:
    """A running mean after one more number."""
    return mean + weight * (x - mean)


@dataclass
class State:
    """What is remembered but the profile; every number is rounded as its column does when it is stored."""

    level: float = 0.0
    last: float = 0.0
    over_since_s: float = 0.0
    accepted_s: float = 0.0
    points: float = 0.0
    interval_s: float = 0.0
    near: float = 0.0
    near_trend: float = 0.0
    near_error: float = 0.0
    level_error: float = 0.0
    hour_mean: float = 0.0
    centre: float = 0.0
    season_error: float = 0.0
    season_points: float = 0.0
    offset: float = 0.0
    former: float = 0.0
    unit: float = 0.0
    between: float = 0.0
    early: float = 0.0
    late: float = 0.0
    hour: float = 0.0
    drift: float = 0.0
    drift_error: float = 0.0
    power: float = 0.0
    usual_power: float = 0.0
    power_error: float = 0.0
    longest_run: float = 0.0
    same: float = 0.0
    apart: float = 0.0
    apart_error: float = 0.0
    before: float = 0.0
    median: float = 0.0
    high: float = 0.0
    higher: float = 0.0
    highest: float = 0.0
    extreme: float = 0.0
    lasting: float = 0.0
    run: float = 0.0
    settled: float = 0.0
    hour_points: float = 0.0
    over: float = 0.0
    guide: float = 0.0
    burst: float = 0.0
    long_burst: float = 0.0
    calm: float = 0.0

    def __setattr__(self, name: str, value: float) -> None:
        if name in WHOLE:
            value = float(math.floor(min(max(value, 0), WHOLE[name])))
        elif name not in WIDE:
            value = single(value)
        object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Point:
    time_ns: int
    value: float
    interval_s: float = math.nan
    clock_ns: int | None = None  # which the profile goes by, if it is another time
    special: bool = False

    @property
    def time_s(self) -> float:
        return self.time_ns / 1e9

    @property
    def clock(self) -> int:
        return self.time_ns if self.clock_ns is None else self.clock_ns


@dataclass(frozen=True)
class NaiveLook:
    expected: float
    scale: float
    score: float
    channel: str
    factor: float
    profile: float
    residual: float
    drift: float
    power: float
    log_ratio: float
    guide: str
    far: float
    lasting: float
    still: bool


@dataclass
class NaiveDeviation:
    """The channels of one series: `look` says how far a point is off, `learn` takes it in."""

    threshold: float = 6.0
    warmup_points: int = 20
    memory_points: int = 300
    adapt_after: float = 7200.0
    seasons: bool = True
    cells: int = 168  # of the profile
    back: int = 24  # cells to the one that stands in
    newest: float = 0.4  # weight of the newest cycle
    state: State = field(default_factory=State)
    profile: dict[int, float] = field(default_factory=dict)  # seen cells, in units from the centre

    # What a point looks like.

    def look(self, point: Point) -> NaiveLook:
        s, x = self.state, point.value
        profile = self._predicted(point.clock) if self.seasons else math.nan
        if s.points == 0:
            self._begin(x)
        guide, expected, error = self._expected(profile)
        least = 1e-3 / self.threshold * abs(s.level)  # no smaller change is an anomaly
        scale, residual = max(SIGMA * error, least), x - expected
        drift = moved(s.drift, within(residual, 6 * scale), 0.15)
        power = moved(s.power, min(residual**2, 36 * self._usual_square(scale)), 1 / 16)
        log_ratio = math.log(max(power / s.usual_power, 1e-6)) if s.usual_power > 0 else 0.0
        by_itself = "season" if guide == "season" else "level"
        if SIGMA * error <= 1e-9 * abs(s.level):  # it never varied
            points_off = {by_itself: 0.0, "constant": self._off_constant(residual, least)}
            means_off = {"shift": 0.0}
        else:
            points_off = {by_itself: abs(residual) / scale / self.threshold, "flat": self._flat(x)}
            means_off = self._off_means(guide, scale, drift, log_ratio)
        channel, far = largest(points_off)
        lasts, lasting = largest(means_off)
        young = 1 + 20 / max(s.points, 1)
        factor = max(1.0, 1.8 * math.exp(s.extreme)) * young
        lasting_factor = max(1.0, 1.8 * math.exp(s.lasting)) * young
        channel, strangeness = largest({channel: far / factor, lasts: lasting / lasting_factor})
        still = factor <= 4 and self._still_there(x)
        if still and strangeness < 1:
            channel, strangeness = "shift", 1.0
        score = strangeness**2 if strangeness < 1 else strangeness
        return NaiveLook(
            expected,
            scale,
            score,
            channel,
            factor,
            profile,
            residual,
            drift,
            power,
            log_ratio,
            guide,
            far,
            lasting,
            still,
        )

    def _begin(self, value: float) -> None:
        s = self.state
        s.level = s.near = s.last = value
        for name, spreads in {"median": 0.67, "high": 1.64, "higher": 2.17, "highest": 2.81}.items():
            setattr(s, name, math.log(spreads / self.threshold))
        s.extreme = s.lasting = s.highest

    def _expected(self, profile: float) -> tuple[str, float, float]:
        """The level; the season where it is nearer by a tenth; the quick level where it is nearer than a third."""
        s, found = self.state, ("level", self.state.level, self.state.level_error)
        now = GUIDES[int(s.guide)]
        if s.season_points >= 24 and not math.isnan(profile):
            better = 1.0 if now == "season" else 0.9
            if s.season_error < better * found[2]:
                found = ("season", profile + s.offset, s.season_error)
        if s.points >= 30:
            better = 0.5 if now == "near" else 0.35
            if s.near_error < better * found[2]:
                found = ("near", s.near, s.near_error)
        return found

    def _usual_square(self, scale: float) -> float:
        """What a squared residual is clipped by the multiple of: one spike is no variance."""
        usual = self.state.usual_power
        return min(scale**2, usual) if usual > 0 else scale**2

    def _off_constant(self, residual: float, least: float) -> float:
        """A value that never changed, and now does: the longer it was constant, the stranger."""
        changed = abs(residual) > self.threshold * least
        longer = math.log10(max(self.state.points / self.warmup_points, 1.0))
        return 1.5 * (1 + longer) if changed else 0.0

    def _flat(self, x: float) -> float:
        """Equal values in a row, in what the series would have by chance or had before."""
        s = self.state
        run = s.run + 1 if x == s.last else 0
        if x == 0 and s.same >= 0.5:  # counters of what is rare are zero most of the time
            return 0.0
        by_chance = 20.7 / -math.log(min(max(s.same, 1e-6), 1 - 1e-9))
        return run / max(30, 3 * s.longest_run, by_chance)

    def _off_means(self, guide: str, scale: float, drift: float, log_ratio: float) -> dict[str, float]:
        """How far the short means of the residual and of its square are off, each in its own spread."""
        s = self.state
        drift_spread = max(SIGMA * s.drift_error, 0.2 * scale)
        power_spread = max(SIGMA * s.power_error, 0.35)
        return {
            "shift": abs(drift) / drift_spread / self.threshold / (1.0 if guide == "near" else 0.85),
            "variance": abs(log_ratio) / power_spread / self.threshold / 0.85,
        }

    def _still_there(self, x: float) -> bool:
        """Whether a value has come back less than half the way from an anomaly that came at once."""
        s = self.state
        if s.over == 0 or s.before == 0:
            return False
        there, way = (x - s.level) - s.before, s.apart - s.before
        if way == 0:
            return there > 0
        return there / way >= 0.5

    # Taking a point in.

    def learn(self, point: Point, look: NaiveLook, score: float, over: bool) -> None:
        s, x, normal = self.state, point.value, not over
        if self.seasons:
            self._finish_hour(point.clock)
        drift, power = self._calm_down(look, over)
        self._believe_season(point, look, drift, over)
        self._learn_anomaly(point, look, over)
        if normal:
            s.points = min(s.points + 1, 1e6)
        self._learn_level(x, look, normal)
        self._learn_near(x, look, normal)
        if normal and not math.isnan(look.profile):
            self._learn_season(x - look.profile, look.factor)
        self._learn_means(look, drift, power, normal)
        self._take_turns(look)
        self._learn_quantiles(look, score, over)
        self._learn_runs(x, normal)
        if self.seasons:
            self._learn_hour(point, normal)
        if point.interval_s > 0:
            s.interval_s = moved(s.interval_s, point.interval_s, 1 / 8 if s.interval_s > 0 else 1.0)
        arrived = abs(x - (s.level + s.apart)) <= abs(look.residual)
        if over and arrived and point.time_s - s.over_since_s >= self.adapt_after:
            self._accept(point, look)

    def _weight(self, points: float, least: float) -> float:
        """Of a new number in a mean of so many that has not the least weight yet."""
        return max(1 / max(points, 1), least)

    def _calm_down(self, look: NaiveLook, over: bool) -> tuple[float, float]:
        """The short means, which forget an anomaly after four points in a row where they belong."""
        s = self.state
        s.calm = s.calm + 1 if abs(look.residual) <= 2 * look.scale else 0
        wide = look.channel == "shift" or (look.channel == "variance" and look.log_ratio > 0)
        return (0.0, s.usual_power) if over and wide and s.calm >= 4 else (look.drift, look.power)

    def _believe_season(self, point: Point, look: NaiveLook, drift: float, over: bool) -> None:
        """Bring back the offset before the last new normal, or the season itself, where they come true again."""
        s = self.state
        if s.season_points < 24 or math.isnan(look.profile):
            return
        off, spread = point.value - look.profile, 2 * SIGMA * s.season_error
        true = abs(off - s.offset) <= spread
        recent = s.former != 0 and point.time_s - s.accepted_s <= 8 * DAY_S
        now = look.expected - look.profile
        far = abs(s.former - now) > 6 * look.scale
        agreed = far or abs(now + drift - s.former) <= 2 * SIGMA * s.drift_error
        if not true and recent and abs(off - s.former) <= spread and agreed:
            s.offset, s.former = s.former, s.offset
            true = True
        if true and over and look.guide != "season" and abs(look.residual) > 3 * look.scale:
            s.level_error = max(s.level_error, 1.01 / 0.9 * s.season_error)  # a hundredth worse than the season
            s.near_error = max(s.near_error, s.level_error)

    def _learn_anomaly(self, point: Point, look: NaiveLook, over: bool) -> None:
        """How many points of it there were, since when, where they are from the level, and where it came from."""
        s, off = self.state, point.value - self.state.level
        s.over = s.over + 1 if over else 0
        if s.over == 1:
            s.apart, s.apart_error, s.over_since_s = off, 0.0, point.time_s
            at_once = abs(point.value - s.last) >= 2 * look.scale
            s.before = s.last - s.level if at_once else 0.0
        elif s.over > 1:
            weight, error = 1 / min(s.over, self.memory_points), off - s.apart
            s.apart += weight * error
            s.apart_error = moved(s.apart_error, abs(error), weight)

    def _learn_level(self, x: float, look: NaiveLook, normal: bool) -> None:
        s = self.state
        if not normal:
            return
        weight, error = self._weight(s.points, 1 / self.memory_points), x - s.level
        limit = 3 * max(SIGMA * s.level_error, 0.1 * look.scale) if s.points > 10 else math.inf
        s.level += weight * within(error, limit)
        s.level_error = moved(s.level_error, min(abs(error), look.factor * limit), weight)

    def _learn_near(self, x: float, look: NaiveLook, normal: bool) -> None:
        """The quick level goes on with its trend, which an anomaly wears off."""
        s, error = self.state, x - self.state.near
        spread = max(SIGMA * s.near_error, 0.1 * look.scale) if s.points > 10 else math.inf
        step = within(error, spread if normal else 0.5 * spread)
        trend = s.near_trend * (1 if normal else 0.98)
        if normal and s.points > 20:
            trend += 1 / 20 * (1 / 80) * step
        s.near, s.near_trend = s.near + (self._weight(s.points, 1 / 20) * step + trend), trend
        if normal:
            most = 3 * look.factor * max(spread, SIGMA * s.level_error)
            weight = self._weight(s.points, 1 / self.memory_points)
            s.near_error = moved(s.near_error, min(abs(error), most), weight)

    def _learn_season(self, off: float, factor: float) -> None:
        """How far the profile is off at present, and how far beside that on average."""
        s, rest = self.state, off - self.state.offset
        s.season_points = min(s.season_points + 1, 1e6)
        unsure = s.season_points <= 10 or s.points <= 10
        limit = math.inf if unsure else 3 * SIGMA * max(s.season_error, s.level_error)
        weight = self._weight(s.season_points, 1 / self.memory_points)
        s.season_error = moved(s.season_error, min(abs(rest), factor * limit), weight)
        s.offset += self._weight(s.points, 0.005) * within(rest, limit)

    def _learn_means(self, look: NaiveLook, drift: float, power: float, normal: bool) -> None:
        """The short means, and what is usual for them: a mean over five times as long, and from a new guide on."""
        s = self.state
        s.drift, s.power = drift, power
        if not normal:
            return
        weight = self._weight(s.points, 1 / self.memory_points)
        slow = max(weight / 5, 1 / max(min(s.points, 10 + s.settled), 1))
        s.drift_error = moved(s.drift_error, abs(drift), slow)
        s.usual_power = moved(s.usual_power, min(abs(look.residual), 6 * look.scale) ** 2, weight)
        s.power_error = moved(s.power_error, abs(look.log_ratio), slow)

    def _take_turns(self, look: NaiveLook) -> None:
        """Another guide has its own errors: the short means begin anew with it."""
        s, guide = self.state, GUIDES.index(look.guide)
        if guide == s.guide:
            s.settled += 1
            return
        s.guide, s.settled = guide, 1
        s.drift, s.drift_error = 0.0, 0.6 / SIGMA * look.scale
        s.power = s.usual_power = look.scale**2
        s.power_error = 0.35 / SIGMA

    def _learn_runs(self, x: float, normal: bool) -> None:
        """Equal values in a row, the longest run of the past, and the share of points like the one before."""
        s, equal = self.state, x == self.state.last
        if normal and not equal:
            s.longest_run = max(s.longest_run * 0.999, s.run)
        if normal and s.points > 1:
            s.same += (equal - s.same) / min(s.points, 300)
        s.run, s.last = s.run + 1 if equal else 0, x

    def _accept(self, point: Point, look: NaiveLook) -> None:
        """What has lasted for `adapt_after` is the new normal."""
        s = self.state
        s.level += s.apart
        error = max(s.apart_error, 1e-12 * abs(s.level))
        s.level_error, s.near, s.near_trend, s.near_error = error, s.level, 0.0, error
        if look.guide == "season":
            s.former = s.offset if s.offset != 0 else 1e-30
        else:
            s.season_points = 0
        s.offset = 0.0 if math.isnan(look.profile) else s.level - look.profile
        s.power = s.usual_power = (SIGMA * error) ** 2
        s.drift, s.drift_error, s.power_error = 0.0, 0.6 * error, 0.35 / SIGMA
        s.longest_run = max(s.longest_run, s.run)
        s.over, s.accepted_s, s.points = 0, point.time_s, self.warmup_points

    # The profile by hour of the week.

    def _predicted(self, clock_ns: int) -> float:
        """Between the middles of two hours, as they were when the time first came between them."""
        s, position = self.state, (clock_ns - HOUR_NS // 2) / HOUR_NS + THURSDAY
        between = math.floor(position)
        if between != s.between:
            early, late = self._seen(between), self._seen(between + 1)
            s.between = between
            s.early, s.late = late if math.isnan(early) else early, early if math.isnan(late) else late
        return s.centre + s.unit * (s.early + (position - between) * (s.late - s.early))

    def _seen(self, hour: int) -> float:
        """An hour of the profile, or the same one of the day before."""
        before = self.profile.get((hour - self.back) % self.cells, math.nan)
        return self.profile.get(hour % self.cells, before)

    def _learn_hour(self, point: Point, normal: bool) -> None:
        s, hour, warm = self.state, point.clock // HOUR_NS, self.state.points >= self.warmup_points
        if hour != s.hour:
            s.hour, s.hour_points = hour, 0
        if warm and s.unit == 0:
            s.centre, s.unit = s.level, max(s.level_error, 1e-3 * abs(s.level)) or 1.0
        if normal and warm and not point.special:
            s.hour_points += 1
            s.hour_mean += (point.value - s.hour_mean) / s.hour_points

    def _finish_hour(self, clock_ns: int) -> None:
        """The mean of an hour that is over goes into the profile; what does not fit doubles the unit."""
        s = self.state
        if clock_ns // HOUR_NS == s.hour or s.hour_points == 0:
            return
        cell, now = (int(s.hour) + THURSDAY) % self.cells, (s.hour_mean - s.centre) / s.unit
        growth = 1.0
        while abs(now) / growth >= 10_000:
            growth *= 2
        if growth > 1:
            self.profile = {other: cell_of(value / growth) for other, value in self.profile.items()}
            s.unit, s.early, s.late, now = s.unit * growth, s.early / growth, s.late / growth, now / growth
        self.profile[cell] = cell_of(moved(self.profile.get(cell, now), now, self.newest))

    # How rare a score is.

    def _learn_quantiles(self, look: NaiveLook, score: float, over: bool) -> None:
        """Points over the threshold count for the highest quantiles while they stand alone; of points in a row above
        an extreme quantile only the first one counts.
        """
        s, normal, isolated = self.state, not over and self.state.points > 10, over and self.state.over <= 2
        fresh = 1 + 50 / (1 + s.points)
        s.burst = s.burst + 1 if logarithm(look.far) > s.extreme else 0
        s.long_burst = s.long_burst + 1 if logarithm(look.lasting) > s.lasting else 0
        if (normal or isolated) and s.burst <= 1:
            s.extreme = stepped(s.extreme, look.far, 0.995, (0.4 if isolated else 0.1) * fresh)
        if (normal or isolated) and s.long_burst <= 1:
            s.lasting = stepped(s.lasting, look.lasting, 0.995, 0.1 * fresh)
        if math.isnan(score):
            return
        if (normal or isolated) and s.burst <= 1:
            s.highest = stepped(s.highest, score, 0.995, 0.1 * fresh)
        if normal:
            s.median = stepped(s.median, score, 0.5, 0.03 * fresh)
            s.high = stepped(s.high, score, 0.9, 0.03 * fresh)
            s.higher = stepped(s.higher, score, 0.97, 0.05 * fresh)

    def probability(self, score: float) -> float:
        """One minus the share of normal points that score at least as high: its logarithm is a line from quantile to
        quantile, from 0 at a score of 0, and the last line goes on. Quantiles may have crossed: lines after the first
        one whose end is not reached do not count.
        """
        known = [(math.exp(getattr(self.state, name)), math.log1p(-below)) for name, below in TRACKED.items()]
        lines = list(zip([(0.0, 0.0), *known], known, strict=False))
        reached = 0
        while reached < len(lines) - 1 and score >= lines[reached + 1][0][0]:
            reached += 1
        (at, share), (following, next_share) = lines[reached]
        slope = (next_share - share) / max(following - at, 1e-3)
        return 1 - math.exp(min(share + slope * (score - at), 0.0))


def largest(parts: dict[str, float]) -> tuple[str, float]:
    """The largest one, the first among equals; at most 100."""
    name = max(parts, key=lambda part: parts[part])
    return name, min(parts[name], 100.0)


def logarithm(x: float) -> float:
    return math.log(max(x, 1e-3))


def stepped(quantile: float, x: float, share: float, step: float) -> float:
    """The logarithm of a quantile rises by its share when a number is above it, up to that at most, and falls by the
    rest when one is not.
    """
    point = logarithm(x)
    if point > quantile:
        return min(quantile + step * share, point)
    return max(quantile - step * (1 - share), logarithm(0))
