"""Deviation: how far a point is from what is usual, in level, season, shift, variance, flat lines and constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect import calibrate, seasonal
from otel_aiops.detect.compiled import compiled
from otel_aiops.detect.detector import CONSTANT, FLAT, LEVEL, SEASON, SHIFT, VARIANCE
from otel_aiops.detect.memory import LATEST_S, MOST_COUNTED, MOST_FEW, Known, Memory, place_of
from otel_aiops.detect.seasonal import Clock, Stretch
from otel_aiops.otlp.points import F64, I32, I64, Bool
from otel_aiops.series.batch import Batch

if TYPE_CHECKING:
    from otel_aiops.detect.engine import EngineConfig

SIGMA = 1.2533  # standard deviation in mean absolute errors, of a normal distribution
CLIP = 3.0  # spreads; what is farther off moves level and scale no more than this
CLIP_SHORT = 6.0  # the same for the short means, so that one spike is not a shift
CLIP_POWER = 6.0  # and for the short mean of squares: one spike is no variance
UNCLIPPED = 10  # points; before, the scale is not known well enough to clip by it
DRIFT_WEIGHT = 0.15  # short mean of about seven points
POWER_WEIGHT = 1 / 16
DRIFT_LEAST = 0.2  # spreads; the drift of independent points has 0.28
DRIFT_BEGIN = 0.6  # where level and season took turns
BEGUN = 10.0  # points that this counts for
LASTING = 0.85  # of the threshold for the short means, which chance moves less far
LASTING_NEAR = 1.0  # the same beside the quick level, which what is slow leaves behind
POWER_LEAST = 0.35  # logarithm of the ratio of powers; independent points have 0.25
OFFSET_WEIGHT = 0.005
SPREAD_MEMORY = 5  # times as long as the level: or the spread of the drift would follow a ramp and hide it
SEASON_POINTS = 24  # before a profile is believed
SEASON_BETTER = 0.9  # its error must be smaller than the level's by this
NEAR_BETTER, NEAR_STILL = 0.35, 0.5  # the same of the quick level, to begin with it and to stay with it
NEAR_POINTS = 30  # before it is believed
NEAR_WEIGHT, NEAR_TREND_WEIGHT = 1 / 20, 1 / 80  # of the newest point in the quick level, and of that in its trend
NEAR_TREND_KEPT = 0.98  # of the trend with each point of an anomaly
CLIP_QUICK = 1.0  # spreads that a point moves it like at most
CLIP_NEAR = 0.5  # spreads, by which a point of an anomaly moves it at most
BY_LEVEL, BY_SEASON, BY_NEAR = range(3)  # where what is expected comes from
RELATIVE_LEAST = 1e-3  # of the level; no smaller change is an anomaly
AT_ONCE = 2.0  # spreads from one point to the next, with which an anomaly comes at once
STILL_THERE = 0.5  # of the way from where it came
STEADY = 4.0  # thresholds that are usual for a series which does not jump by itself
FLAT_LEAST = 30  # points
CALM = 2.0  # spreads
FORMER_S = 8 * 86_400.0  # after a new normal the season before it may come back for a week
CALM_POINTS = 4  # in a row; of a series that varies five times as much 1 % are
OFTEN_SAME = 0.5  # share of points like the one before
FLAT_RUNS = 3.0  # times the longest run so far
FLAT_LOG_CHANCE = 20.7  # -log(1e-9)
MOST = 100.0  # of a score
MOST_POINTS = 1e6
SHARE_POINTS = 300.0  # that the share of equal points is of
INTERVAL_WEIGHT = 0.125  # of the newest distance in time
EXTREMES = 1.8  # the threshold is at least so many times the extreme quantile
LONGEST_WARMUP_S = 14 * 86_400.0
INHERITED_POINTS = 4.0  # that a new series counts as its own: it learns fast, under six times the threshold at first
INHERITED_LEAST = 0.01  # of the level, of its errors: peers whose values hardly vary may differ by more
OF_THE_MOMENT = (
    "over",
    "over_since_s",
    "apart",
    "apart_error",
    "before",
    "accepted_s",
    "burst",
    "calm",
    "run",
    "drift",
    "hour_points",
)


NO_SEASON = Stretch(np.empty(0), np.empty(0), np.empty(0))  # where there are none


class Look(NamedTuple):
    """What a point looks like before it is learned; all (K,)."""

    expected: F64
    scale: F64
    score: F64  # 1 is the threshold
    channel: NDArray[np.uint8]
    factor: F64  # thresholds that are usual for the series, of one point
    profile: F64  # seasonal prediction, NaN for none
    residual: F64
    drift: F64
    power: F64
    log_ratio: F64
    guide: NDArray[np.uint8]
    far: F64  # how far the point itself is off, in thresholds, before what is usual for the series
    lasting: F64  # how far the short means are
    still: NDArray[np.uint8]  # whether an anomaly that came at once goes on
    season: Stretch  # where the profile is looked at


class When(NamedTuple):
    """When K points are; all (K,)."""

    time_ns: I64
    clock_ns: I64  # which the seasonal profiles go by
    interval_s: F64
    special: Bool  # days that do not form a profile


class Rules(NamedTuple):
    """What kernels need of the configuration."""

    threshold: float
    warmup_points: float
    memory_points: float
    adapt_after_s: float
    seasons: bool


class Deviation:
    """What is remembered of every series in at most 512 bytes, and how far a point is from it.

    Every channel is a deviation in its own usual spread. The largest one counts. A point over the threshold is not
    learned; what stays over it for `adapt_after` becomes the new normal.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.memory = Memory()
        self.rules = Rules(
            float(config.threshold),
            float(config.warmup_points),
            float(config.memory_points),
            float(config.adapt_after),
            config.seasons != "off",
        )

    def look(self, batch: Batch, value: F64, clock: Clock) -> Look:
        """What K points look like beside what is remembered; nothing is learned."""
        self.memory.reserve(batch.rows)
        known, k = self.memory.known, len(value)
        season = seasonal.stretch(self.memory.profile, known, batch.rows, clock) if self.rules.seasons else NO_SEASON
        small = ("channel", "guide", "still")
        empty: Any = [np.empty(k, np.uint8 if name in small else np.float64) for name in Look._fields[:-1]]
        look = Look(*empty, *[season])
        _look(known, self.rules, batch.rows, clock.time_ns, value, look)
        return look

    @property
    def bytes_per_series(self) -> int:
        """What is remembered of one series."""
        return self.memory.bytes_per_series

    def warmup_s(self, rows: I32, interval_s: F64) -> F64:
        """Seconds until K series have a score: 0 when they have, NaN when it cannot be told."""
        known, place = self.memory.known, place_of(rows)
        left = np.maximum(self.config.warmup_points - known.points[place], 0.0)
        usual_s = known.interval_s[place]
        wait_s = np.where(left > 0, left * np.where(usual_s > 0, usual_s, interval_s), 0.0)
        with np.errstate(invalid="ignore"):
            return np.where(wait_s > LONGEST_WARMUP_S, np.nan, wait_s)

    def inherit(self, rows: I32, sources: I32, donor: Deviation | None = None) -> None:
        """Let K rows begin with what K others have learned, as if they had had a few points of that themselves.

        So they adopt their own level within some ten points, and meanwhile the threshold is higher: six times at the
        first point, twice after 16. What the others did at this moment is left out. They are those of a donor if any.
        """
        self.memory.copy(rows, sources, donor.memory if donor else None)
        state = self.memory.read(rows)
        for name in OF_THE_MOMENT:
            state[name][:] = 0.0
        state["points"][:] = INHERITED_POINTS
        least = INHERITED_LEAST * np.abs(state["level"])
        constant = state["level_error"] <= 1e-9 * np.abs(state["level"])
        for name in ("level_error", "season_error"):
            state[name] = np.where(constant, state[name], np.maximum(state[name], least))
        state["drift_error"] = np.maximum(state["drift_error"], np.where(constant, 0.0, DRIFT_BEGIN * least))
        state["usual_power"] = np.maximum(state["usual_power"], np.where(constant, 0.0, (SIGMA * least) ** 2))
        state["power"] = state["usual_power"].copy()
        self.memory.write(rows, state)

    def begin_seasons(self, rows: I32, values: F64) -> None:
        """Let the profiles of R rows begin anew, with values (R, 168) by cell; NaN is not known."""
        state = self.memory.read(rows)
        seasonal.begin(self.memory.profile, rows, state, values)
        self.memory.write(rows, state)

    def learn(self, batch: Batch, value: F64, look: Look, clock: Clock, score: F64, over: Bool) -> None:
        """Take in K points that were looked at; those `over` the threshold do not count for what is normal."""
        known = self.memory.known
        if self.rules.seasons:
            seasonal.keep(known, batch.rows, look.season)
            seasonal.finish(self.memory.profile, known, batch.rows, clock)
        special = np.zeros(len(value), np.bool_) if batch.wall is None else batch.wall.special
        when = When(batch.time_ns, clock.time_ns, batch.interval_s, special)
        _learn(known, self.rules, batch.rows, when, value, look, score, over)


@compiled
def _look(known: Known, rules: Rules, rows: I32, clock_ns: I64, value: F64, look: Look) -> None:
    begun = np.log(calibrate.EXTREME_AT / rules.threshold)
    for k in range(len(rows)):
        r, x = rows[k], value[k]
        new = known.points[r] == 0
        level, extreme, extreme_lasting = x, begun, begun
        if not new:
            level, extreme, extreme_lasting = known.level[r], known.extreme[r], known.lasting[r]
        profile = seasonal.predicted(known, r, look.season, k, clock_ns[k]) if rules.seasons else np.nan
        expected, error, guide = _expected(known, r, level, profile)
        least = RELATIVE_LEAST / rules.threshold * abs(level)
        scale = max(SIGMA * error, least)
        residual = x - expected
        clipped = min(max(residual, -CLIP_SHORT * scale), CLIP_SHORT * scale)
        drift = known.drift[r] + DRIFT_WEIGHT * (clipped - known.drift[r])
        usual_power = np.float64(known.usual_power[r])
        most = min(scale**2, usual_power if usual_power > 0 else np.inf)
        power = known.power[r] + POWER_WEIGHT * (min(residual**2, CLIP_POWER**2 * most) - known.power[r])
        log_ratio = np.log(max(power / usual_power, 1e-6)) if usual_power > 0 else 0.0
        far, channel, lasting, lasts = 0.0, LEVEL, 0.0, SHIFT
        spread = scale if scale > 0 else 1.0
        if SIGMA * error <= 1e-9 * abs(level):  # constant so far
            if abs(residual) > rules.threshold * least:  # the longer it was constant, the stranger
                far, channel = 1.5 + 1.5 * np.log10(max(known.points[r] / rules.warmup_points, 1.0)), CONSTANT
        else:
            far = abs(residual) / spread / rules.threshold
            flat = _flat(known, r, x)
            if flat > far:
                far, channel = flat, FLAT
            drift_spread = max(SIGMA * known.drift_error[r], DRIFT_LEAST * spread)
            share = LASTING_NEAR if guide == BY_NEAR else LASTING
            lasting = abs(drift) / drift_spread / rules.threshold / share
            power_spread = max(SIGMA * known.power_error[r], POWER_LEAST)
            variance = abs(log_ratio) / power_spread / rules.threshold / LASTING
            if variance > lasting:
                lasting, lasts = variance, VARIANCE
        far, lasting = min(far, MOST), min(lasting, MOST)
        if channel == LEVEL and guide == BY_SEASON:
            channel = SEASON
        young = 1 + 20 / max(known.points[r], 1.0)
        factor = max(1.0, EXTREMES * np.exp(np.float64(extreme))) * young
        lasting_factor = max(1.0, EXTREMES * np.exp(np.float64(extreme_lasting))) * young
        strangeness = far / factor
        if lasting / lasting_factor > strangeness:
            strangeness, channel = lasting / lasting_factor, lasts
        still = factor <= STEADY and _still_there(known, r, x - level)
        if still and strangeness < 1:
            strangeness, channel = 1.0, SHIFT
        # Below the threshold the square ranks small deviations behind what other measures say of the same point.
        look.score[k] = strangeness * strangeness if strangeness < 1 else min(strangeness, MOST)
        look.expected[k], look.scale[k], look.factor[k], look.channel[k] = expected, scale, factor, channel
        look.profile[k], look.residual[k], look.drift[k], look.power[k] = profile, residual, drift, power
        look.log_ratio[k], look.guide[k], look.far[k], look.lasting[k] = log_ratio, guide, far, lasting
        look.still[k] = still


@compiled
def _still_there(known: Known, r: int, off: float) -> bool:
    """Whether an anomaly that came at once goes on: the value is nearer to the others of it than to what was before.

    What wanders by itself is hardly ever so far from its level that each point of a shift is strange alone.
    """
    if known.over[r] == 0 or known.before[r] == 0:
        return False
    way = known.apart[r] - np.float64(known.before[r])
    return bool((off - known.before[r]) / way >= STILL_THERE)


@compiled
def _expected(known: Known, r: int, level: float, profile: float) -> tuple[float, Any, int]:
    """(expected value, mean absolute error, where they come from): what was nearest of late, with a bonus for what
    has lasted. The quick level must be much nearer, because it follows what is slow instead of noticing it.
    """
    expected, error, guide = level, np.float64(known.level_error[r]), BY_LEVEL
    believed = known.season_points[r] >= SEASON_POINTS and not np.isnan(profile)
    if believed and known.season_error[r] < (1.0 if known.guide[r] == BY_SEASON else SEASON_BETTER) * error:
        expected, error, guide = profile + known.offset[r], np.float64(known.season_error[r]), BY_SEASON
    needed = NEAR_STILL if known.guide[r] == BY_NEAR else NEAR_BETTER
    if known.points[r] >= NEAR_POINTS and known.near_error[r] < needed * error:
        expected, error, guide = np.float64(known.near[r]), np.float64(known.near_error[r]), BY_NEAR
    return expected, error, guide


@compiled
def _flat(known: Known, r: int, value: float) -> Any:
    """Equal values in a row, in what a series that lives would have by chance or had before.

    Zero is left to the level where it is usual: counters of what is rare are there most of the time.
    """
    if value != known.last[r] or (value == 0 and known.same[r] >= OFTEN_SAME):
        return 0.0
    same = min(max(np.float64(known.same[r]), 1e-6), 1 - 1e-9)
    limit = max(FLAT_LEAST, FLAT_RUNS * known.longest_run[r], FLAT_LOG_CHANCE / -np.log(same))
    return (np.float64(known.run[r]) + 1) / limit


@compiled
def _learn(
    known: Known,
    rules: Rules,
    rows: I32,
    when: When,
    value: F64,
    look: Look,
    score: F64,
    over: Bool,
) -> None:
    for k in range(len(rows)):
        r, x, time_s, strange = rows[k], value[k], when.time_ns[k] / 1e9, bool(over[k])
        normal = not strange
        if known.points[r] == 0:
            calibrate.begin(known, r, rules.threshold)
            known.level[r] = known.near[r] = known.last[r] = x
        _calm_down(known, r, look, k, strange)
        if known.season_points[r] >= SEASON_POINTS and not np.isnan(look.profile[k]):
            _believe_season(known, r, look, k, x - look.profile[k], time_s, strange)
        if strange:
            _learn_apart(known, r, x - known.level[r], rules.memory_points)
            if known.over[r] == 1:
                known.over_since_s[r] = min(max(time_s, 0.0), LATEST_S)
                before = known.last[r] - known.level[r] if abs(x - known.last[r]) >= AT_ONCE * look.scale[k] else 0.0
                known.before[r] = before
        else:
            known.over[r] = 0
        changed = x != known.last[r]
        run = 0 if changed else min(np.int64(known.run[r]) + 1, MOST_COUNTED)
        _learn_level(known, r, look, k, x, normal, rules.memory_points)
        points: Any = np.float64(known.points[r])
        isolated = strange and known.over[r] <= 2
        calibrate.learn(known, r, score[k], look.far[k], look.lasting[k], normal and points > UNCLIPPED, isolated)
        if normal:
            if changed:
                known.longest_run[r] = max(known.longest_run[r] * 0.999, np.float64(known.run[r]))
            if points > 1:
                known.same[r] += ((0.0 if changed else 1.0) - known.same[r]) / min(points, SHARE_POINTS)
        known.run[r], known.last[r] = run, x
        if rules.seasons:
            warm = points >= rules.warmup_points
            usual = normal and warm and not bool(when.special[k])
            seasonal.learn(known, r, when.clock_ns[k], x, usual, warm)
        if when.interval_s[k] > 0:
            weight = INTERVAL_WEIGHT if known.interval_s[r] > 0 else 1.0
            known.interval_s[r] += weight * (when.interval_s[k] - known.interval_s[r])
        # Where the series is now: after a gap, or on the way back, it is not where the anomaly was.
        there = abs(x - known.level[r] - known.apart[r]) <= abs(look.residual[k])
        if strange and there and time_s - known.over_since_s[r] >= rules.adapt_after_s:
            _accept(known, r, look, k, time_s)
            # Few points known: what follows is learned fast, under a higher threshold.
            known.points[r] = rules.warmup_points


@compiled
def _calm_down(known: Known, r: int, look: Look, k: int, over: bool) -> None:
    """End what the short means remember of an anomaly, once some points in a row are where they belong.

    They would stay over the threshold for as long again, and that could pass for a new normal.
    """
    usual = abs(look.residual[k]) <= CALM * look.scale[k]
    known.calm[r] = min(np.int64(known.calm[r]) + 1, MOST_FEW) if usual else 0
    wide = look.channel[k] == SHIFT or (look.channel[k] == VARIANCE and look.log_ratio[k] > 0)
    if over and wide and known.calm[r] >= CALM_POINTS:
        look.drift[k], look.power[k] = 0.0, known.usual_power[r]


@compiled
def _believe_season(known: Known, r: int, look: Look, k: int, off: float, time_s: float, over: bool) -> None:
    """Go back to a season that comes true again; the value is `off` from its profile.

    What lasted on one day (a holiday, an outage) became the new normal, with another offset, or with the level in
    charge. Values that are where the season was before bring that offset back, and the season is in charge again as
    soon as it explains a point that the level does not.
    """
    spread = CALM * SIGMA * known.season_error[r]
    true = abs(off - known.offset[r]) <= spread
    recent = known.former[r] != 0 and time_s - known.accepted_s[r] <= FORMER_S
    if not true and recent and abs(off - known.former[r]) <= spread and _agreed(known, r, look, k):
        known.offset[r], known.former[r] = known.former[r], known.offset[r]
        true = True
    if true and over and look.guide[k] != BY_SEASON and abs(look.residual[k]) > CLIP * look.scale[k]:
        known.level_error[r] = max(known.level_error[r], 1.01 / SEASON_BETTER * known.season_error[r])
        known.near_error[r] = max(known.near_error[r], known.level_error[r])


@compiled
def _agreed(known: Known, r: int, look: Look, k: int) -> bool:
    """Whether the short mean, too, is where the season was before: any shift may be near to that for a moment. What is
    farther than the short mean goes is told by its size.
    """
    now = look.expected[k] - look.profile[k]
    far = abs(known.former[r] - now) > CLIP_SHORT * look.scale[k]
    return bool(far or abs(now + look.drift[k] - known.former[r]) <= CALM * SIGMA * known.drift_error[r])


@compiled
def _learn_apart(known: Known, r: int, off: float, memory_points: float) -> None:
    """Where the points of an anomaly are, from the level, and how they vary: the new normal, if they last."""
    over: Any = min(np.int64(known.over[r]) + 1, MOST_COUNTED)
    known.over[r] = over
    if over == 1:
        known.apart[r], known.apart_error[r] = off, 0.0
    else:
        weight, error = 1.0 / min(over, memory_points), off - known.apart[r]
        known.apart[r] += weight * error
        known.apart_error[r] += weight * (abs(error) - known.apart_error[r])


@compiled
def _learn_level(known: Known, r: int, look: Look, k: int, value: float, normal: bool, memory_points: float) -> None:
    """Level, scale and the short means; only what is normal counts for what is usual."""
    if normal:
        known.points[r] = min(known.points[r] + 1, MOST_POINTS)
    points: Any = max(np.float64(known.points[r]), 1.0)
    scale, factor = look.scale[k], look.factor[k]
    weight = max(1.0 / points, 1.0 / memory_points)
    known.drift[r], known.power[r] = look.drift[k], look.power[k]
    if normal:
        error = value - known.level[r]
        limit = CLIP * max(SIGMA * known.level_error[r], scale * 0.1) if points > UNCLIPPED else np.inf
        known.level[r] += weight * min(max(error, -limit), limit)
        # What is usual for the series counts fully: else one that jumps to and fro would seem to be near its level.
        known.level_error[r] += weight * (min(abs(error), factor * limit) - known.level_error[r])
    _learn_near(known, r, value, scale, factor, normal, memory_points)
    if normal:
        if not np.isnan(look.profile[k]):
            _learn_season(known, r, value - look.profile[k], factor, memory_points)
        slow = max(weight / SPREAD_MEMORY, 1.0 / max(min(points, BEGUN + known.settled[r]), 1.0))
        known.drift_error[r] += slow * (abs(look.drift[k]) - known.drift_error[r])
        known.usual_power[r] += weight * (min(abs(look.residual[k]), CLIP_POWER * scale) ** 2 - known.usual_power[r])
        known.power_error[r] += slow * (abs(look.log_ratio[k]) - known.power_error[r])
    if look.guide[k] == known.guide[r]:
        known.settled[r] = min(np.int64(known.settled[r]) + 1, MOST_COUNTED)
    else:  # each has its own errors
        known.guide[r], known.settled[r] = look.guide[k], 1
        known.drift[r], known.drift_error[r] = 0.0, DRIFT_BEGIN / SIGMA * scale
        known.power[r] = known.usual_power[r] = scale**2
        known.power_error[r] = POWER_LEAST / SIGMA


@compiled
def _learn_near(
    known: Known, r: int, value: float, scale: float, factor: float, normal: bool, memory_points: float
) -> None:
    """The quick level, its trend and its error. An anomaly moves it little, while it goes on as before for a time."""
    points = max(known.points[r], 1.0)
    error = value - known.near[r]
    spread = max(SIGMA * known.near_error[r], 0.1 * scale) if points > UNCLIPPED else np.inf
    limit = (CLIP_QUICK if normal else CLIP_NEAR) * spread
    clipped = min(max(error, -limit), limit)
    trend = known.near_trend[r] * (1.0 if normal else NEAR_TREND_KEPT)
    if normal and points > 1 / NEAR_WEIGHT:
        trend += NEAR_WEIGHT * NEAR_TREND_WEIGHT * clipped
    known.near[r] += max(1.0 / points, NEAR_WEIGHT) * clipped + trend
    known.near_trend[r] = trend
    if normal:
        # Jumps count here as for the level, or what follows slowly would seem near to a series that jumps.
        most = CLIP * factor * max(spread, SIGMA * known.level_error[r])
        known.near_error[r] += max(1.0 / points, 1.0 / memory_points) * (min(abs(error), most) - known.near_error[r])


@compiled
def _learn_season(known: Known, r: int, error: float, factor: float, memory_points: float) -> None:
    """How far the profile is off on average, and at present."""
    known.season_points[r] = season_points = min(known.season_points[r] + 1, MOST_POINTS)
    rest = error - known.offset[r]
    limit = np.inf
    if season_points > UNCLIPPED and known.points[r] > UNCLIPPED:  # few points of its own: inherited
        limit = CLIP * SIGMA * max(known.season_error[r], known.level_error[r])
    weight = max(1.0 / season_points, 1.0 / memory_points)
    known.season_error[r] += weight * (min(abs(rest), factor * limit) - known.season_error[r])
    quick = max(OFFSET_WEIGHT, 1.0 / max(known.points[r], 1.0))  # also after a new normal
    known.offset[r] += quick * min(max(rest, -limit), limit)


@compiled
def _accept(known: Known, r: int, look: Look, k: int, time_s: float) -> None:
    """Make what the last points were the normal of a series."""
    known.level[r] += known.apart[r]
    level, error = known.level[r], max(known.apart_error[r], 1e-12 * abs(known.level[r]))
    known.level_error[r] = known.near_error[r] = error
    known.near[r], known.near_trend[r] = level, 0.0
    # The season must prove itself again, from where the series is now, unless it was in charge: that may come back.
    if look.guide[k] == BY_SEASON:
        known.former[r] = known.offset[r] if known.offset[r] != 0 else 1e-30
    else:
        known.season_points[r] = 0.0
    known.offset[r] = 0.0 if np.isnan(look.profile[k]) else level - look.profile[k]
    known.usual_power[r] = known.power[r] = (SIGMA * error) ** 2
    known.drift[r], known.drift_error[r] = 0.0, DRIFT_BEGIN * error
    known.power_error[r] = POWER_LEAST / SIGMA
    known.longest_run[r] = max(known.longest_run[r], np.float64(known.run[r]))
    known.over[r] = 0
    known.accepted_s[r] = min(max(time_s, 0.0), LATEST_S)
