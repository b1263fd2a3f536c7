"""The engine: level and scale, season, shift, variance, flat line and constants, as one score for each point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect import calibrate, explain, seasonal
from otel_aiops.detect.detector import Scores
from otel_aiops.detect.memory import Memory, State
from otel_aiops.errors import ConfigError
from otel_aiops.otlp.points import F64, I32, Bool
from otel_aiops.series.batch import Batch

SIGMA = 1.2533  # standard deviation in mean absolute errors, of a normal distribution
CLIP = 3.0  # spreads; what is farther off moves level and scale no more than this
CLIP_SHORT = 4.0  # the same for the short means, so that one spike is not a shift
CLIP_POWER = 6.0  # and for the short mean of squares
UNCLIPPED = 10  # points; before, the scale is not known well enough to clip by it
DRIFT_WEIGHT = 0.15  # short mean of about seven points
POWER_WEIGHT = 1 / 16
DRIFT_LEAST = 0.2  # spreads; the drift of independent points has 0.28
POWER_LEAST = 0.35  # logarithm of the ratio of powers; independent points have 0.25
OFFSET_WEIGHT = 0.005
SPREAD_MEMORY = 5  # times as long as the level: or the spread of the drift would follow a ramp and hide it
SEASON_POINTS = 24  # before a profile is believed
SEASON_BETTER = 0.9  # its error must be smaller than the level's by this
RELATIVE_LEAST = 1e-3  # of the level; no smaller change is an anomaly
FLAT_LEAST = 30  # points
FLAT_RUNS = 3.0  # times the longest run so far
FLAT_LOG_CHANCE = 20.7  # -log(1e-9)
MOST = 100.0  # of a score
MOST_POINTS = 1e6
EXTREMES = 1.8  # the threshold is at least so many times the extreme quantile
LONGEST_WARMUP_S = 14 * 86_400.0

CHANNELS = ("none", "level", "season", "shift", "variance", "flat", "constant", "stopped")
NONE, LEVEL, SEASON, SHIFT, VARIANCE, FLAT, CONSTANT, STOPPED = range(len(CHANNELS))


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How strange a point must be, and how fast a series is learned."""

    threshold: float = 6.0  # spreads from what is expected that make a score of 1
    warmup_points: int = 20  # points before the first score
    memory_points: int = 300  # points that level and scale remember
    adapt_after: float = 7200.0  # an anomaly that lasts longer is the new normal

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise ConfigError("threshold", f"must be > 0, got {self.threshold}")
        if not 5 <= self.warmup_points <= 10_000:
            raise ConfigError("warmup_points", f"must be in 5 .. 10000, got {self.warmup_points}")
        if not 10 <= self.memory_points <= 100_000:
            raise ConfigError("memory_points", f"must be in 10 .. 100000, got {self.memory_points}")
        if not self.adapt_after > 0:
            raise ConfigError("adapt_after", f"must be > 0 s, got {self.adapt_after}")


@dataclass(frozen=True, slots=True)
class _Look:
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
    strangeness: F64  # largest channel in thresholds, before what is usual for the series
    channel: NDArray[np.uint8]
    factor: F64  # thresholds that are usual for the series


class Engine:
    """One score for each point, from what is remembered of its series; never more than 512 bytes of it.

    Every channel is a deviation in its own usual spread. The largest one counts. A point over the threshold is not
    learned; what stays over it for `adapt_after` becomes the new normal.
    """

    channels = CHANNELS

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self._memory = Memory()
        self._last: tuple[Batch, _Look] | None = None  # so that `learn` need not look again

    @property
    def bytes_per_series(self) -> int:
        """What is remembered of one series."""
        return self._memory.bytes_per_series

    def score(self, batch: Batch) -> Scores:
        """Scores of K points; nothing changes."""
        look = self._look(batch)
        self._last = batch, look
        state, band = look.state, self.config.threshold * look.scale * look.factor
        cold = state["points"] < self.config.warmup_points
        absent = np.where(cold, np.nan, 0.0)
        return Scores(
            score=np.minimum(look.strangeness / look.factor, MOST) + absent,
            probability=calibrate.probability(state, look.strangeness) + absent,
            expected=look.expected + absent,
            lower=look.expected - band + absent,
            upper=look.expected + band + absent,
            channel=np.where(cold, np.uint8(NONE), look.channel),
            warmup_s=self._warmup_s(state, batch.interval_s),
        )

    def learn(self, batch: Batch, scores: Scores) -> None:
        """Take in K points that were scored."""
        last, self._last = self._last, None
        look = last[1] if last is not None and last[0] is batch else self._look(batch)
        with np.errstate(invalid="ignore"):
            over = scores.score >= 1
        self._learn(batch, look, over)
        self._memory.write(batch.rows, look.state)

    def silent_scores(self, silence_s: F64, limit_s: F64) -> Scores:
        """Scores of K streams that have stopped: the threshold is the time after which one counts as stopped."""
        absent = np.full(len(silence_s), np.nan)
        return Scores(
            score=np.minimum(silence_s / limit_s, MOST),
            probability=absent,
            expected=absent,
            lower=absent,
            upper=absent,
            channel=np.full(len(silence_s), STOPPED, np.uint8),
            warmup_s=np.zeros(len(silence_s)),
        )

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series start anew."""
        self._memory.forget(rows)

    def reason(self, batch: Batch, scores: Scores, k: int, unit: str = "") -> str:
        """Why point k has its score, in one plain sentence."""
        rows = batch.rows[k : k + 1]
        self._memory.reserve(rows)
        state = {name: float(value[0]) for name, value in self._memory.read(rows).items()}
        return explain.reason(CHANNELS[int(scores.channel[k])], batch, scores, k, state, unit)

    def note(self, row: int) -> str:
        """What there is to say about a series that is not anomalous."""
        rows = np.array([row], np.int32)
        self._memory.reserve(rows)
        state = self._memory.read(rows)
        warmup_s = float(self._warmup_s(state, state["interval_s"])[0])
        return explain.note({name: float(v[0]) for name, v in state.items()}, self.config.warmup_points, warmup_s)

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything learned."""
        return self._memory.state()

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a state. Raises: StateError."""
        self._memory.restore(arrays)
        self._last = None

    # -- looking ------------------------------------------------------------------------------------------------------

    def _look(self, batch: Batch) -> _Look:
        self._memory.reserve(batch.rows)
        state = self._memory.read(batch.rows)
        new = state["points"] == 0
        calibrate.begin(state, new, self.config.threshold)
        if new.any():
            state["level"][new] = state["last"][new] = batch.value[new]
        profile = seasonal.predict(self._memory.profile, batch.rows, state, batch.time_ns)
        expected, error, seasoned = _expected(state, profile)
        least = RELATIVE_LEAST / self.config.threshold * np.abs(state["level"])
        scale = np.maximum(SIGMA * error, least)
        residual = batch.value - expected
        clipped = np.clip(residual, -CLIP_SHORT * scale, CLIP_SHORT * scale)
        drift = state["drift"] + DRIFT_WEIGHT * (clipped - state["drift"])
        square = np.minimum(np.abs(residual), CLIP_POWER * scale) ** 2
        power = state["power"] + POWER_WEIGHT * (square - state["power"])
        log_ratio = _log_ratio(power, state["usual_power"])
        run = np.where(batch.value == state["last"], state["run"] + 1, 0.0)
        constant = SIGMA * error <= 1e-9 * np.abs(state["level"])
        spread = np.where(scale > 0, scale, 1.0)
        drift_spread = np.maximum(SIGMA * state["drift_error"], DRIFT_LEAST * spread)
        usual = np.where(constant, 0.0, 1.0) / self.config.threshold
        strangeness, channel = _largest(
            {
                LEVEL: np.abs(residual) / spread * usual,
                SHIFT: np.abs(drift) / drift_spread * usual,
                VARIANCE: np.abs(log_ratio) / np.maximum(SIGMA * state["power_error"], POWER_LEAST) * usual,
                FLAT: np.where(constant, 0.0, self._flat(state, run, batch.value)),
                CONSTANT: np.where(constant, self._changed(state, residual, least), 0.0),
            }
        )
        channel[(channel == LEVEL) & seasoned] = SEASON
        factor = np.maximum(1.0, EXTREMES * np.exp(state["extreme"])) * (1 + 20 / np.maximum(state["points"], 1.0))
        return _Look(
            state, profile, expected, scale, residual, drift, power, log_ratio, run, strangeness, channel, factor
        )

    def _changed(self, state: State, residual: F64, least: F64) -> F64:
        """A value that never changed, and now does: the longer it was constant, the stranger."""
        longer = np.log10(np.maximum(state["points"] / self.config.warmup_points, 1.0))
        return np.where(np.abs(residual) > self.config.threshold * least, 1.0 + longer, 0.0) * 1.5

    def _flat(self, state: State, run: F64, value: F64) -> F64:
        """Equal values in a row, in what a series that lives would have by chance or had before.

        Zero is left to the level: counters of what is rare are there most of the time.
        """
        same = np.clip(state["same"], 1e-6, 1 - 1e-9)
        limit = np.maximum(np.maximum(FLAT_LEAST, FLAT_RUNS * state["longest_run"]), FLAT_LOG_CHANCE / -np.log(same))
        return np.where(value == 0, 0.0, run / limit)

    def _warmup_s(self, state: State, interval_s: F64) -> F64:
        left = np.maximum(self.config.warmup_points - state["points"], 0.0)
        interval_s = np.where(state["interval_s"] > 0, state["interval_s"], interval_s)
        wait_s = np.where(left > 0, left * interval_s, 0.0)
        with np.errstate(invalid="ignore"):
            return np.where(wait_s > LONGEST_WARMUP_S, np.nan, wait_s)

    # -- learning -----------------------------------------------------------------------------------------------------

    def _learn(self, batch: Batch, look: _Look, over: Bool) -> None:
        state, value = look.state, batch.value
        time_s = batch.time_ns / 1e9
        normal = ~over
        state["over"] = np.where(over, state["over"] + 1, 0.0)
        state["over_since_s"] = np.where(state["over"] == 1, time_s, state["over_since_s"])
        self._learn_level(state, look, value, normal)
        calibrate.learn(
            state,
            look.strangeness,
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
        seasonal.learn(self._memory.profile, batch.rows, state, batch.time_ns, value, normal=normal & warm, warm=warm)
        interval_s = np.nan_to_num(batch.interval_s)
        state["interval_s"] += (
            np.where(state["interval_s"] > 0, 0.125, 1.0) * (interval_s - state["interval_s"]) * (interval_s > 0)
        )
        late = over & (time_s - state["over_since_s"] >= self.config.adapt_after)
        if late.any():
            _accept(state, look, late, time_s)
            # Few points known: what follows is learned fast, under a higher threshold.
            state["points"][late] = self.config.warmup_points

    def _learn_level(self, state: State, look: _Look, value: F64, normal: Bool) -> None:
        """Level, scale and the short means; only what is normal counts for what is usual."""
        state["points"] = np.minimum(state["points"] + normal, MOST_POINTS)
        weight = np.maximum(1.0 / np.maximum(state["points"], 1.0), 1.0 / self.config.memory_points) * normal
        error = value - state["level"]
        limit = CLIP * np.maximum(SIGMA * state["level_error"], look.scale * 0.1)
        limit[state["points"] <= UNCLIPPED] = np.inf
        state["level"] = state["level"] + weight * _clipped(error, limit)
        state["level_error"] = state["level_error"] + weight * (np.minimum(np.abs(error), limit) - state["level_error"])
        seen = normal & ~np.isnan(look.profile)
        if seen.any():
            _learn_season(state, value - look.profile, seen, self.config.memory_points)
        state["drift"], state["power"] = look.drift, look.power
        slow = np.maximum(weight / SPREAD_MEMORY, normal / np.maximum(state["points"], 1.0))
        state["drift_error"] = state["drift_error"] + slow * (np.abs(look.drift) - state["drift_error"])
        square = np.minimum(np.abs(look.residual), CLIP_POWER * look.scale) ** 2
        state["usual_power"] = state["usual_power"] + weight * (square - state["usual_power"])
        state["power_error"] = state["power_error"] + slow * (np.abs(look.log_ratio) - state["power_error"])


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


def _expected(state: State, profile: F64) -> tuple[F64, F64, Bool]:
    """(expected value, mean absolute error, whether the season gave them): the better one of level and season."""
    with np.errstate(invalid="ignore"):
        seasoned = (
            ~np.isnan(profile)
            & (state["season_points"] >= SEASON_POINTS)
            & (state["season_error"] < SEASON_BETTER * state["level_error"])
        )
    expected = np.where(seasoned, profile + state["offset"], state["level"])
    return expected, np.where(seasoned, state["season_error"], state["level_error"]), seasoned


def _learn_season(state: State, error: F64, seen: Bool, memory_points: int) -> None:
    """How far the profile is off on average, and at present."""
    state["season_points"] = np.minimum(state["season_points"] + seen, MOST_POINTS)
    weight = np.maximum(1.0 / np.maximum(state["season_points"], 1.0), 1.0 / memory_points)
    rest = np.where(seen, error - state["offset"], 0.0)
    known = state["season_points"] > UNCLIPPED
    limit = np.where(known, CLIP * SIGMA * np.maximum(state["season_error"], state["level_error"]), np.inf)
    spread = np.minimum(np.abs(rest), limit)
    quick = np.maximum(OFFSET_WEIGHT, 1.0 / np.maximum(state["points"], 1.0))  # also after a new normal
    state["season_error"] = state["season_error"] + np.where(seen, weight * (spread - state["season_error"]), 0.0)
    state["offset"] = state["offset"] + np.where(seen, quick * _clipped(rest, limit), 0.0)


def _accept(state: State, look: _Look, late: Bool, time_s: F64) -> None:
    """Make what the last points were the normal of some series, in place."""
    drift = look.drift[late]
    far = np.abs(look.residual[late]) > CLIP_SHORT * look.scale[late]  # the drift is clipped; the value is not
    state["level"][late] = look.expected[late] + np.where(far, look.residual[late], drift)
    ratio = np.sqrt(np.clip(np.exp(look.log_ratio[late]), 0.01, 100.0))
    for name in ("level_error", "season_error"):
        state[name][late] *= ratio
    state["usual_power"][late] = look.power[late]
    state["drift"][late] = 0.0
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
