"""Deviation: how far a point is from what is usual, in level, season, shift, variance, flat lines and constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect import calibrate, seasonal
from otel_aiops.detect.detector import CONSTANT, FLAT, LEVEL, SEASON, SHIFT, VARIANCE
from otel_aiops.detect.memory import Memory, State, indices
from otel_aiops.detect.seasonal import Clock
from otel_aiops.otlp.points import F64, I32, Bool
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
FLAT_LEAST = 30  # points
CALM = 2.0  # spreads
FORMER_S = 8 * 86_400.0  # after a new normal the season before it may come back for a week
CALM_POINTS = 4  # in a row; of a series that varies five times as much 1 % are
OFTEN_SAME = 0.5  # share of points like the one before
FLAT_RUNS = 3.0  # times the longest run so far
FLAT_LOG_CHANCE = 20.7  # -log(1e-9)
MOST = 100.0  # of a score
MOST_POINTS = 1e6
EXTREMES = 1.8  # the threshold is at least so many times the extreme quantile
LONGEST_WARMUP_S = 14 * 86_400.0
INHERITED_POINTS = 4.0  # that a new series counts as its own: it learns fast, under six times the threshold at first
INHERITED_LEAST = 0.01  # of the level, of its errors: peers whose values hardly vary may differ by more
OF_THE_MOMENT = (
    "over",
    "over_since_s",
    "apart",
    "apart_error",
    "accepted_s",
    "burst",
    "calm",
    "run",
    "drift",
    "hour_points",
)


@dataclass(frozen=True, slots=True)
class Look:
    """What a point looks like before it is learned; all (K,)."""

    state: State
    profile: F64  # seasonal prediction, NaN for none
    expected: F64
    scale: F64
    residual: F64
    drift: F64
    power: F64
    log_ratio: F64
    run: F64
    guide: NDArray[np.uint8]
    far: F64  # how far the point itself is off, in thresholds, before what is usual for the series
    lasting: F64  # how far the short means are
    strangeness: F64  # the larger one, in thresholds that are usual for the series
    channel: NDArray[np.uint8]
    factor: F64  # thresholds that are usual for the series, of one point
    clock: Clock

    @property
    def score(self) -> F64:
        """The deviation as a score: 1 is the threshold. Below it the square, which ranks small deviations behind what
        other measures say of the same point.
        """
        score = np.minimum(self.strangeness, MOST)
        return np.where(score < 1, score * score, score)


class Deviation:
    """What is remembered of every series in at most 512 bytes, and how far a point is from it.

    Every channel is a deviation in its own usual spread. The largest one counts. A point over the threshold is not
    learned; what stays over it for `adapt_after` becomes the new normal.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.memory = Memory()

    def look(self, batch: Batch, value: F64, clock: Clock) -> Look:
        """What K points look like beside what is remembered; of the memory nothing changes."""
        self.memory.reserve(batch.rows)
        state = self.memory.read(batch.rows)
        new = state["points"] == 0
        calibrate.begin(state, new, self.config.threshold)
        if new.any():
            state["level"][new] = state["near"][new] = state["last"][new] = value[new]
        profile = np.full(len(value), np.nan)
        if self.config.seasons != "off":
            profile = seasonal.predict(self.memory.profile, batch.rows, state, clock)
        expected, error, guide = _expected(state, profile)
        least = RELATIVE_LEAST / self.config.threshold * np.abs(state["level"])
        scale = np.maximum(SIGMA * error, least)
        residual = value - expected
        clipped = np.clip(residual, -CLIP_SHORT * scale, CLIP_SHORT * scale)
        drift = state["drift"] + DRIFT_WEIGHT * (clipped - state["drift"])
        known_power = np.where(state["usual_power"] > 0, state["usual_power"], np.inf)
        square = np.minimum(residual**2, CLIP_POWER**2 * np.minimum(scale**2, known_power))
        power = state["power"] + POWER_WEIGHT * (square - state["power"])
        log_ratio = _log_ratio(power, state["usual_power"])
        run = np.where(value == state["last"], state["run"] + 1, 0.0)
        constant = SIGMA * error <= 1e-9 * np.abs(state["level"])
        spread = np.where(scale > 0, scale, 1.0)
        drift_spread = np.maximum(SIGMA * state["drift_error"], DRIFT_LEAST * spread)
        usual = np.where(constant, 0.0, 1.0) / self.config.threshold
        power_spread = np.maximum(SIGMA * state["power_error"], POWER_LEAST)
        far, channel = _largest(
            {
                LEVEL: np.abs(residual) / spread * usual,
                FLAT: np.where(constant, 0.0, self._flat(state, run, value)),
                CONSTANT: np.where(constant, self._changed(state, residual, least), 0.0),
            }
        )
        lasting, lasts = _largest(
            {
                SHIFT: np.abs(drift) / drift_spread * usual / np.where(guide == BY_NEAR, LASTING_NEAR, LASTING),
                VARIANCE: np.abs(log_ratio) / power_spread * usual / LASTING,
            }
        )
        channel[(channel == LEVEL) & (guide == BY_SEASON)] = SEASON
        young = 1 + 20 / np.maximum(state["points"], 1.0)
        factor = np.maximum(1.0, EXTREMES * np.exp(state["extreme"])) * young
        lasting_factor = np.maximum(1.0, EXTREMES * np.exp(state["lasting"])) * young
        strangeness = np.maximum(far / factor, lasting / lasting_factor)
        channel = np.where(lasting / lasting_factor > far / factor, lasts, channel)
        return Look(
            state,
            profile,
            expected,
            scale,
            residual,
            drift,
            power,
            log_ratio,
            run,
            guide,
            far,
            lasting,
            strangeness,
            channel,
            factor,
            clock,
        )

    def _changed(self, state: State, residual: F64, least: F64) -> F64:
        """A value that never changed, and now does: the longer it was constant, the stranger."""
        longer = np.log10(np.maximum(state["points"] / self.config.warmup_points, 1.0))
        return np.where(np.abs(residual) > self.config.threshold * least, 1.0 + longer, 0.0) * 1.5

    def _flat(self, state: State, run: F64, value: F64) -> F64:
        """Equal values in a row, in what a series that lives would have by chance or had before.

        Zero is left to the level where it is usual: counters of what is rare are there most of the time.
        """
        same = np.clip(state["same"], 1e-6, 1 - 1e-9)
        limit = np.maximum(np.maximum(FLAT_LEAST, FLAT_RUNS * state["longest_run"]), FLAT_LOG_CHANCE / -np.log(same))
        return np.where((value == 0) & (state["same"] >= OFTEN_SAME), 0.0, run / limit)

    @property
    def bytes_per_series(self) -> int:
        """What is remembered of one series."""
        return self.memory.bytes_per_series

    def warmup_s(self, state: State, interval_s: F64) -> F64:
        """Seconds until K series have a score: 0 when they have, NaN when it cannot be told."""
        left = np.maximum(self.config.warmup_points - state["points"], 0.0)
        interval_s = np.where(state["interval_s"] > 0, state["interval_s"], interval_s)
        wait_s = np.where(left > 0, left * interval_s, 0.0)
        with np.errstate(invalid="ignore"):
            return np.where(wait_s > LONGEST_WARMUP_S, np.nan, wait_s)

    def inherit(self, rows: I32, sources: I32) -> None:
        """Let K rows begin with what K others have learned, as if they had had a few points of that themselves.

        So they adopt their own level within some ten points, and meanwhile the threshold is higher: six times at the
        first point, twice after 16. What the others did at this moment is left out.
        """
        self.memory.copy(rows, sources)
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

    def learn(self, batch: Batch, value: F64, look: Look, score: F64, over: Bool) -> None:
        """Take in K points that were looked at; those `over` the threshold do not count for what is normal."""
        state = look.state
        time_s = batch.time_ns / 1e9
        normal = ~over
        _calm_down(state, look, over)
        _believe_season(state, look, value, time_s, over)
        state["over"] = np.where(over, state["over"] + 1, 0.0)
        _learn_apart(state, value, over, self.config.memory_points)
        state["over_since_s"] = np.where(state["over"] == 1, time_s, state["over_since_s"])
        self._learn_level(state, look, value, normal)
        calibrate.learn(
            state,
            score,
            {"extreme": look.far, "lasting": look.lasting},
            normal=normal & (state["points"] > UNCLIPPED),
            isolated=over & (state["over"] <= 2),
        )
        changed = value != state["last"]
        state["longest_run"] = np.where(
            changed & normal, np.maximum(state["longest_run"] * 0.999, state["run"]), state["longest_run"]
        )
        equal = (~changed - state["same"]) * _share_weight(state)
        state["same"] += np.where(normal & (state["points"] > 1), equal, 0.0)
        state["run"], state["last"] = look.run, value.copy()
        warm = state["points"] >= self.config.warmup_points
        usual = normal & warm if batch.wall is None else normal & warm & ~batch.wall.special
        if self.config.seasons != "off":
            seasonal.learn(self.memory.profile, batch.rows, state, look.clock, value, normal=usual, warm=warm)
        interval_s = np.nan_to_num(batch.interval_s)
        state["interval_s"] += (
            np.where(state["interval_s"] > 0, 0.125, 1.0) * (interval_s - state["interval_s"]) * (interval_s > 0)
        )
        late = over & (time_s - state["over_since_s"] >= self.config.adapt_after)
        # Where the series is now: after a gap, or on the way back, it is not where the anomaly was.
        late &= np.abs(value - state["level"] - state["apart"]) <= np.abs(look.residual)
        if late.any():
            _accept(state, look, late, time_s)
            # Few points known: what follows is learned fast, under a higher threshold.
            state["points"][late] = self.config.warmup_points
        self.memory.write(batch.rows, state)

    def _learn_level(self, state: State, look: Look, value: F64, normal: Bool) -> None:
        """Level, scale and the short means; only what is normal counts for what is usual."""
        state["points"] = np.minimum(state["points"] + normal, MOST_POINTS)
        weight = np.maximum(1.0 / np.maximum(state["points"], 1.0), 1.0 / self.config.memory_points) * normal
        error = value - state["level"]
        limit = CLIP * np.maximum(SIGMA * state["level_error"], look.scale * 0.1)
        limit[state["points"] <= UNCLIPPED] = np.inf
        state["level"] = state["level"] + weight * _clipped(error, limit)
        # What is usual for the series counts fully: else one that jumps to and fro would seem to be near its level.
        size = np.minimum(np.abs(error), look.factor * limit)
        state["level_error"] = state["level_error"] + weight * (size - state["level_error"])
        _learn_near(state, value, look, normal, self.config.memory_points)
        seen = normal & ~np.isnan(look.profile)
        if seen.any():
            _learn_season(state, value - look.profile, look.factor, seen, self.config.memory_points)
        state["drift"], state["power"] = look.drift, look.power
        since = np.minimum(state["points"], BEGUN + state["settled"])
        slow = np.maximum(weight / SPREAD_MEMORY, normal / np.maximum(since, 1.0))
        state["drift_error"] = state["drift_error"] + slow * (np.abs(look.drift) - state["drift_error"])
        square = np.minimum(np.abs(look.residual), CLIP_POWER * look.scale) ** 2
        state["usual_power"] = state["usual_power"] + weight * (square - state["usual_power"])
        state["power_error"] = state["power_error"] + slow * (np.abs(look.log_ratio) - state["power_error"])
        turned = look.guide != state["guide"]
        if turned.any():
            _begin_spreads(state, look.scale, turned)
        state["settled"] = np.where(turned, 1.0, np.minimum(state["settled"] + 1, MOST_POINTS))
        state["guide"] = look.guide.astype(np.float64)


def _learn_apart(state: State, value: F64, over: Bool, memory_points: int) -> None:
    """Where the points of an anomaly are, from the level, and how they vary: the new normal, if they last."""
    weight = np.where(over, 1.0 / np.clip(state["over"], 1.0, memory_points), 0.0)
    off = np.where(over, value - state["level"] - state["apart"], 0.0)
    first = state["over"] == 1
    state["apart"] = np.where(first, value - state["level"], state["apart"] + weight * off)
    error = state["apart_error"] + weight * (np.abs(off) - state["apart_error"])
    state["apart_error"] = np.where(first, 0.0, error)


def _calm_down(state: State, look: Look, over: Bool) -> None:
    """End what the short means remember of an anomaly, once some points in a row are where they belong.

    They would stay over the threshold for as long again, and that could pass for a new normal.
    """
    usual = np.abs(look.residual) <= CALM * look.scale
    state["calm"] = np.where(usual, state["calm"] + 1, 0.0)
    wide = (look.channel == SHIFT) | ((look.channel == VARIANCE) & (look.log_ratio > 0))
    over_it = indices(over & wide & (state["calm"] >= CALM_POINTS))
    if len(over_it):
        look.drift[over_it] = 0.0
        look.power[over_it] = state["usual_power"][over_it]


def _believe_season(state: State, look: Look, value: F64, time_s: F64, over: Bool) -> None:
    """Go back to a season that comes true again, in place.

    What lasted on one day (a holiday, an outage) became the new normal, with another offset, or with the level in
    charge. A value that is where the season was before brings that offset back, and the season is in charge again as
    soon as it explains a point that the level does not.
    """
    known = ~np.isnan(look.profile) & (state["season_points"] >= SEASON_POINTS)
    if not known.any():
        return
    off, spread = value - look.profile, CALM * SIGMA * state["season_error"]
    true_now = known & (np.abs(off - state["offset"]) <= spread)
    recent = (state["former"] != 0) & (time_s - state["accepted_s"] <= FORMER_S)
    true_then = known & ~true_now & recent & (np.abs(off - state["former"]) <= spread)
    offset, former = state["offset"], state["former"]
    state["offset"], state["former"] = np.where(true_then, former, offset), np.where(true_then, offset, former)
    far = np.abs(look.residual) > CLIP * look.scale
    explained = over & far & (look.guide != BY_SEASON) & (true_now | true_then)
    state["level_error"] = np.where(
        explained, np.maximum(state["level_error"], 1.01 / SEASON_BETTER * state["season_error"]), state["level_error"]
    )
    state["near_error"] = np.where(
        explained, np.maximum(state["near_error"], state["level_error"]), state["near_error"]
    )


def _begin_spreads(state: State, scale: F64, turned: Bool) -> None:
    """Start the short means anew, in place, where level and season took turns: each has its own errors."""
    state["drift"][turned] = 0.0
    state["drift_error"][turned] = (DRIFT_BEGIN / SIGMA) * scale[turned]
    state["power"][turned] = state["usual_power"][turned] = scale[turned] ** 2
    state["power_error"][turned] = POWER_LEAST / SIGMA


def _largest(parts: dict[int, F64]) -> tuple[F64, NDArray[np.uint8]]:
    """(the largest of the channels, at most MOST, and which one it is), (K,) each; the first among equals."""
    (first, strangeness), *others = parts.items()
    channel = np.full(len(strangeness), first, np.uint8)
    for number, part in others:
        channel[part > strangeness] = number
        strangeness = np.maximum(strangeness, part)
    return np.minimum(strangeness, MOST), channel


def _share_weight(state: State) -> F64:
    """The weight of a new point in a share that is known from `points` of them."""
    return 1.0 / np.clip(state["points"], 1.0, 300.0)


def _expected(state: State, profile: F64) -> tuple[F64, F64, NDArray[np.uint8]]:
    """(expected value, mean absolute error, where they come from): what was nearest of late, with a bonus for what
    has lasted. The quick level must be much nearer, because it follows what is slow instead of noticing it.
    """
    now = state["guide"]
    known = ~np.isnan(profile) & (state["season_points"] >= SEASON_POINTS)
    season_error = np.where(known, state["season_error"], np.inf)
    seasoned = season_error < np.where(now == BY_SEASON, 1.0, SEASON_BETTER) * state["level_error"]
    least = np.where(seasoned, season_error, state["level_error"])
    quick = state["near_error"] < np.where(now == BY_NEAR, NEAR_STILL, NEAR_BETTER) * least
    quick &= state["points"] >= NEAR_POINTS
    expected = np.where(seasoned, profile + state["offset"], state["level"])
    expected = np.where(quick, state["near"], expected)
    guide = np.where(quick, np.uint8(BY_NEAR), np.where(seasoned, np.uint8(BY_SEASON), np.uint8(BY_LEVEL)))
    return expected, np.where(quick, state["near_error"], least), guide


def _learn_near(state: State, value: F64, look: Look, normal: Bool, memory_points: int) -> None:
    """The quick level, its trend and its error. An anomaly moves it little, while it goes on as before for a time."""
    error = value - state["near"]
    spread = np.maximum(SIGMA * state["near_error"], 0.1 * look.scale)
    spread[state["points"] <= UNCLIPPED] = np.inf
    clipped = _clipped(error, np.where(normal, CLIP_QUICK, CLIP_NEAR) * spread)
    weight = np.maximum(1.0 / np.maximum(state["points"], 1.0), NEAR_WEIGHT)
    trend = state["near_trend"] * np.where(normal, 1.0, NEAR_TREND_KEPT)
    trend = trend + np.where(
        normal & (state["points"] > 1 / NEAR_WEIGHT), NEAR_WEIGHT * NEAR_TREND_WEIGHT * clipped, 0.0
    )
    state["near"] = state["near"] + weight * clipped + trend
    state["near_trend"] = trend
    # Jumps count here as for the level, or what follows slowly would seem near to a series that jumps.
    most = CLIP * look.factor * np.maximum(spread, SIGMA * state["level_error"])
    weight = np.maximum(1.0 / np.maximum(state["points"], 1.0), 1.0 / memory_points) * normal
    state["near_error"] = state["near_error"] + weight * (np.minimum(np.abs(error), most) - state["near_error"])


def _learn_season(state: State, error: F64, factor: F64, seen: Bool, memory_points: int) -> None:
    """How far the profile is off on average, and at present."""
    state["season_points"] = np.minimum(state["season_points"] + seen, MOST_POINTS)
    weight = np.maximum(1.0 / np.maximum(state["season_points"], 1.0), 1.0 / memory_points)
    rest = np.where(seen, error - state["offset"], 0.0)
    known = (state["season_points"] > UNCLIPPED) & (state["points"] > UNCLIPPED)  # few points of its own: inherited
    limit = np.where(known, CLIP * SIGMA * np.maximum(state["season_error"], state["level_error"]), np.inf)
    spread = np.minimum(np.abs(rest), factor * limit)
    quick = np.maximum(OFFSET_WEIGHT, 1.0 / np.maximum(state["points"], 1.0))  # also after a new normal
    state["season_error"] = state["season_error"] + np.where(seen, weight * (spread - state["season_error"]), 0.0)
    state["offset"] = state["offset"] + np.where(seen, quick * _clipped(rest, limit), 0.0)


def _accept(state: State, look: Look, late: Bool, time_s: F64) -> None:
    """Make what the last points were the normal of some series, in place."""
    state["level"][late] += state["apart"][late]
    error = state["level_error"][late] = np.maximum(state["apart_error"][late], 1e-12 * np.abs(state["level"][late]))
    # The season must prove itself again, from where the series is now, unless it was in charge: that may come back.
    profile, seasoned = look.profile[late], look.guide[late] == BY_SEASON
    before = state["offset"][late]
    state["former"][late] = np.where(seasoned, np.where(before == 0, 1e-30, before), state["former"][late])
    state["near"][late], state["near_trend"][late], state["near_error"][late] = state["level"][late], 0.0, error
    state["offset"][late] = np.where(np.isnan(profile), 0.0, state["level"][late] - profile)
    state["season_points"][late] = np.where(seasoned, state["season_points"][late], 0.0)
    state["usual_power"][late] = state["power"][late] = (SIGMA * error) ** 2
    state["drift"][late] = 0.0
    state["drift_error"][late] = DRIFT_BEGIN * error
    state["power_error"][late] = POWER_LEAST / SIGMA
    state["longest_run"][late] = np.maximum(state["longest_run"][late], look.run[late])
    state["over"][late] = 0.0
    state["accepted_s"][late] = time_s[late]


def _clipped(value: F64, limit: F64) -> F64:
    return np.clip(value, -limit, limit)


def _log_ratio(power: F64, usual: F64) -> F64:
    """Logarithm of the ratio of two powers, 0 where there is no usual one yet."""
    known = usual > 0
    ratio = np.where(known, power, 1.0) / np.where(known, usual, 1.0)
    return np.log(np.maximum(ratio, 1e-6))
