"""The engine: one score for each point, from how far it deviates and how new it is, and what is worth an alert."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect import calibrate, explain, periods
from otel_aiops.detect.alerts import Alerts, alarming, not_held
from otel_aiops.detect.compiled import compiled, preparation
from otel_aiops.detect.detector import CHANNELS, NONE, NOVELTY, STOPPED, Scores
from otel_aiops.detect.deviation import MOST, Deviation, Look, Rules
from otel_aiops.detect.memory import HOURS, Known, indices, place_of
from otel_aiops.detect.novelty import Novelty, NoveltyTier
from otel_aiops.detect.seasonal import Clock
from otel_aiops.errors import ConfigError, StateError
from otel_aiops.otlp.points import F64, I32, Bool
from otel_aiops.series.batch import Batch
from otel_aiops.series.columns import checked

GONE, TRAINED = -1, -2
ORIGINS = {GONE: "a peer that is gone", TRAINED: "a series like it that was trained"}
LARGEST = 4e18  # values beyond are taken for this one, so that squares of differences fit float32


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How strange a point must be, and how fast a series is learned."""

    preset: Literal["default", "novelty"] = "default"  # novelty: level, season, shift, flat lines do not count
    threshold: float = 6.0  # spreads from what is expected that make a score of 1
    warmup_points: int = 20  # points before the first score
    memory_points: int = 300  # points that level and scale remember
    seasons: Literal["auto", "week", "off"] = "auto"  # by any period that is found, by hours of the week, or none
    adapt_after: float = 7200.0  # an anomaly that lasts longer is the new normal
    sensitivity: float = 1.0  # times what a point is worth an alert, before the alert budget; the score stays
    novelty_memory: int = 512 << 20  # bytes for what values series have had; those beyond have level and season alone

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise ConfigError("threshold", f"must be > 0, got {self.threshold}")
        if not 0.1 <= self.sensitivity <= 10:
            raise ConfigError("sensitivity", f"must be in 0.1 .. 10, got {self.sensitivity}")
        if not 5 <= self.warmup_points <= 10_000:
            raise ConfigError("warmup_points", f"must be in 5 .. 10000, got {self.warmup_points}")
        if not 10 <= self.memory_points <= 100_000:
            raise ConfigError("memory_points", f"must be in 10 .. 100000, got {self.memory_points}")
        if self.novelty_memory < 0:
            raise ConfigError("novelty_memory", f"must be >= 0 bytes, got {self.novelty_memory}")
        if not self.adapt_after > 0:
            raise ConfigError("adapt_after", f"must be > 0 s, got {self.adapt_after}")


@dataclass(frozen=True, slots=True)
class _Last:
    """What the newest call of `score` looked up, so that `learn` need not look again."""

    batch: Batch
    value: F64
    look: Look
    clock: Clock
    novelty: Novelty
    score: F64
    alert: F64


class _Told(NamedTuple):
    """The scores of K points but the time they need to warm up, before those of new series are taken out."""

    score: F64
    probability: F64
    expected: F64
    lower: F64
    upper: F64
    channel: NDArray[np.uint8]
    alert: F64


class Engine:
    """One score for each point, from what is remembered of its series, learned as the points come.

    Two tiers: level, scale and season of every series in at most 512 bytes, and what values it has had in at most 4 KB
    for as many as `novelty_memory` allows. The score is the larger of both. `score` and `learn` are called in turns
    with the same batch.
    """

    channels = CHANNELS

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self._deviation = Deviation(config)
        self._novelty = NoveltyTier(config.novelty_memory, way_back=config.preset == "novelty")
        self._alerts = Alerts()
        self._rows = 0
        self._inherited = np.empty((0, 2), np.int32)  # rows that began with what others knew, and those, or ORIGINS
        self._last: _Last | None = None

    @property
    def bytes_per_series(self) -> int:
        """What is remembered of every series."""
        return self._deviation.bytes_per_series + self._alerts.bytes_per_row

    @property
    def novelty_bytes_per_series(self) -> int:
        """What is remembered besides of a series with a memory of its values."""
        return self._novelty.bytes_per_series

    def newest_ns(self, rows: I32) -> NDArray[np.int64]:
        """When the newest point of K rows was, 0 for those without a memory of their values."""
        return self._novelty.newest_ns(rows)

    @property
    def novelty_series(self) -> int:
        """How many series have a memory of their values."""
        return len(self._novelty)

    def score(self, batch: Batch) -> Scores:
        """Scores of K points; nothing is learned."""
        if len(batch.rows):
            self._rows = max(self._rows, int(batch.rows.max()) + 1)
            self._alerts.reserve(self._rows)
        value = np.clip(batch.value, -LARGEST, LARGEST)
        clock = self._novelty.clock(batch.rows, batch.time_ns, batch.wall_ns)
        look = self._deviation.look(batch, value, clock)
        novelty = self._novelty.look(batch.rows, batch.wall_ns, value)
        memory = self._deviation.memory.known
        points = memory.points[place_of(batch.rows)]
        cold = points < self.config.warmup_points
        if len(self._inherited) and cold.any():
            cold, novelty = self._with_inherited(batch.rows, cold, novelty)
        empty: Any = [np.empty(len(value), np.uint8 if name == "channel" else np.float64) for name in _Told._fields]
        told = _Told(*empty)
        of, peaks = self._alerts.of, self._alerts.peaks(batch.rows)
        alone = self.config.preset == "novelty"
        _tell(memory, self._deviation.rules, batch.rows, look, novelty, alone, of["age"], of["fatigue"], peaks, told)
        self._last = _Last(batch, value, look, clock, novelty, told.score, told.alert)
        if self.config.sensitivity != 1:  # hold and fatigue go by what it was without
            told = told._replace(alert=told.alert * self.config.sensitivity)
        if cold.any():
            absent: dict[str, float] = {"channel": NONE, "alert": 0.0}
            told = _Told(*[np.where(cold, absent.get(name, np.nan), part) for name, part in told._asdict().items()])
            told = told._replace(channel=told.channel.astype(np.uint8))
        return Scores(**told._asdict(), warmup_s=self._deviation.warmup_s(batch.rows, batch.interval_s))

    def learn(self, batch: Batch, scores: Scores, *, learnable: Bool | None = None, alert: F64 | None = None) -> None:
        """Take in the K points that were scored last. Raises: ValueError when they are others.

        Points that are not `learnable` (K,) leave no trace. `alert` (K,) is what rules made of the alerts of `scores`:
        only an alert that was raised holds back others.
        """
        last, self._last = self._last, None
        if last is None or last.batch is not batch:
            raise ValueError("expected the batch that was scored last")
        if learnable is not None and not learnable.all():
            k = indices(learnable)
            if len(k):
                some = batch.at(k)
                self.learn(some, self.score(some), alert=None if alert is None else alert[k])
            return
        told = (
            last.alert
            if alert is None
            else np.where(alert == scores.alert, last.alert, alert / self.config.sensitivity)
        )
        memory, place = self._deviation.memory.known, place_of(batch.rows)
        self._novelty.learn(memory.interval_s[place].astype(np.float64))
        self._alerts.learn(batch.rows, told)
        with np.errstate(invalid="ignore"):
            over = scores.score >= 1
        self._deviation.learn(batch, last.value, last.look, last.clock, last.score, over)
        if self.config.seasons == "auto":
            interval_s = memory.interval_s[place].astype(np.float64)
            known_s = np.where(memory.points[place] >= self.config.warmup_points, interval_s, 0.0)
            begun = self._novelty.learn_rhythm(batch.rows, batch.time_ns, last.value, known_s)
            if begun is not None:
                self._deviation.begin_seasons(*begun)

    def silent_scores(self, silence_s: F64, limit_s: F64) -> Scores:
        """Scores of K streams that have stopped: the threshold is the time after which one counts as stopped."""
        absent = np.full(len(silence_s), np.nan)
        score = np.minimum(silence_s / limit_s, MOST)
        return Scores(
            score=score,
            probability=absent,
            expected=absent,
            lower=absent,
            upper=absent,
            channel=np.full(len(silence_s), STOPPED, np.uint8),
            warmup_s=np.zeros(len(silence_s)),
            alert=score,
        )

    def inherit(self, rows: I32, sources: I32, donor: Engine | None = None) -> None:
        """Let K new rows (unique) begin with what K others have learned, where those are warm; rows of a donor if any.

        They are scored from their first point on. The threshold is six times as high at first and falls with every
        point of their own (see `Deviation.inherit`). The memory of values is copied too, and counts once they are warm.
        """
        source = donor or self
        self._deviation.memory.reserve(rows)
        source._deviation.memory.reserve(sources)
        warm = source._deviation.memory.read(sources)["points"] >= self.config.warmup_points
        rows, sources = rows[warm], sources[warm]
        if not len(rows):
            return
        self._novelty.forget(rows)
        self._deviation.inherit(rows, sources, source._deviation)
        self._novelty.inherit(rows, sources, source._novelty)
        without = rows[self._novelty.own_clock(rows) != source._novelty.own_clock(sources)]  # no slot for the period
        self._deviation.begin_seasons(without, np.full((len(without), HOURS), np.nan))
        kept = self._inherited[~np.isin(self._inherited[:, 0], rows)]
        still = self._deviation.memory.read(kept[:, 0])["points"] < self.config.warmup_points
        sources = sources if donor is None else np.full(len(rows), TRAINED, np.int32)
        self._inherited = np.concatenate([kept[still], np.stack([rows, sources], axis=1)])

    def _with_inherited(
        self, rows: I32, cold: NDArray[np.bool_], novelty: Novelty
    ) -> tuple[NDArray[np.bool_], Novelty]:
        """(which rows have no score, novelty) once rows that began with what others knew are told from new ones."""
        begun = cold & np.isin(rows, self._inherited[:, 0])
        absent = np.where(begun, np.nan, 0.0)  # to be unlike the values of another one is not strange in itself
        return cold & ~begun, novelty._replace(strange=novelty.strange + absent, novel=novelty.novel + absent)

    def excerpt(self, rows: I32) -> Engine:
        """Another engine whose first rows know what these rows, all different, know here; it costs what they take."""
        other, new = Engine(self.config), np.arange(len(rows), dtype=np.int32)
        other._rows = len(rows)
        other._deviation.memory.copy(new, rows, self._deviation.memory)
        other._novelty.copy(new, rows, self._novelty)
        self._alerts.reserve(int(rows.max(initial=-1)) + 1)
        other._alerts.reserve(len(rows))
        other._alerts.copy(new, rows, self._alerts)
        other._inherited = _renumbered(self._inherited, rows)
        return other

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series start anew."""
        self._deviation.memory.forget(rows)
        self._novelty.forget(rows)
        self._alerts.clear(rows[rows < self._alerts.rows])
        if len(self._inherited):
            self._inherited = self._inherited[~np.isin(self._inherited[:, 0], rows)]
            self._inherited[np.isin(self._inherited[:, 1], rows), 1] = GONE

    def reason(self, batch: Batch, scores: Scores, k: int, unit: str = "") -> str:
        """Why point k has its score, in one plain sentence; asked before anything later is learned."""
        rows = batch.rows[k : k + 1]
        memory = self._deviation.memory
        memory.reserve(rows)
        state = {name: float(value[0]) for name, value in memory.read(rows).items()}
        channel = CHANNELS[int(scores.channel[k])]
        story = self._novelty.story(int(batch.rows[k])) if channel == "novelty" else None
        rhythm = self._novelty.rhythm(int(batch.rows[k]))
        return explain.reason(channel, batch, scores, k, state, unit, story, rhythm)

    def note(self, row: int, name: Callable[[int], str] = str) -> str:
        """What there is to say about a series that is not anomalous; `name` says what another row is called."""
        rows = np.array([row], np.int32)
        self._deviation.memory.reserve(rows)
        state = self._deviation.memory.read(rows)
        warmup_s = float(self._deviation.warmup_s(rows, state["interval_s"])[0])
        origin = self._inherited[self._inherited[:, 0] == row, 1].tolist()
        begun = None
        if origin:
            begun = name(origin[0]) if origin[0] >= 0 else ORIGINS[origin[0]]
        now = {key: float(value[0]) for key, value in state.items()}
        return explain.note(now, self.config.warmup_points, warmup_s, begun, self._novelty.rhythm(row))

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything learned."""
        parts = {
            "deviation": self._deviation.memory.state(),
            "novelty": self._novelty.state(),
            "alerts": self._alerts.state(self._rows),
            "inherited": {"rows": self._inherited.copy()},
        }
        return {f"{part}/{name}": array for part, arrays in parts.items() for name, array in arrays.items()}

    def restore(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Take over a state. Raises: StateError."""
        parts: dict[str, dict[str, NDArray[Any]]] = {"deviation": {}, "novelty": {}, "alerts": {}, "inherited": {}}
        for path, array in arrays.items():
            part, _, name = path.partition("/")
            if part not in parts:
                raise StateError(f"expected arrays of {sorted(parts)}, got {path}")
            parts[part][name] = array
        checked(parts["alerts"], self._alerts.saved())
        self._deviation.memory.restore(parts["deviation"])
        self._novelty.restore(parts["novelty"])
        self._rows = len(parts["alerts"]["peak"])
        self._alerts.restore(parts["alerts"], self._rows)
        checked(parts["inherited"], {"rows": (np.int32, ("inherited", 2))})
        self._inherited = parts["inherited"]["rows"].copy()
        if self.config.seasons != "auto":
            self._drop_rhythms()
        self._last = None

    def _drop_rhythms(self) -> None:
        """Go by hours of the week again where a configuration before this one went by other periods."""
        rows = self._novelty.drop_rhythms()
        self._deviation.begin_seasons(rows, np.full((len(rows), HOURS), np.nan))


def placed(arrays: Mapping[str, NDArray[Any]], rows: I32, size: int) -> dict[str, NDArray[Any]]:
    """The state of an engine of `size` rows in which row `rows[i]`, all different, has what row i of `arrays` had.

    The rows that nothing is given to are as new. What is no state is found by `Engine.restore`. Raises: StateError.
    """
    found = {}
    for path, array in arrays.items():
        if path.startswith(("deviation/", "alerts/")) or path == "novelty/slot":
            if len(array) > len(rows):
                raise StateError(f"{path}: expected the state of {len(rows)} rows, got that of {len(array)}")
            wide = np.full((size, *array.shape[1:]), -1 if path == "novelty/slot" else 0, array.dtype)
            wide[rows[: len(array)]] = array  # a part is as long as the highest row that it has seen
            found[path] = wide
        elif path == "inherited/rows":
            found[path] = np.where(array >= 0, rows[np.maximum(array, 0)] if len(rows) else 0, array).astype(
                array.dtype
            )
        else:
            found[path] = array.copy()
    return found


def united(parts: Sequence[tuple[Mapping[str, NDArray[Any]], I32]], size: int) -> dict[str, NDArray[Any]]:
    """The state of an engine of `size` rows made of those of several, each with the rows that its own become.

    All these rows are different. What is no state is found by `Engine.restore`. Raises: StateError.
    """
    whole: dict[str, list[NDArray[Any]]] = {}
    shift = 0
    for arrays, rows in parts:
        of = placed(arrays, rows, size)
        for path in ("novelty/slot", "novelty/free"):
            of[path] = np.where(of[path] >= 0, of[path] + shift, of[path]).astype(of[path].dtype)
        shift += len(of["novelty/level/level"])
        for path, array in of.items():
            by_row = path.startswith(("deviation/", "alerts/")) or path == "novelty/slot"
            if by_row and path in whole:
                whole[path][0][rows] = array[rows]
            else:
                whole.setdefault(path, []).append(array)
    return {path: np.concatenate(arrays) if len(arrays) > 1 else arrays[0] for path, arrays in whole.items()}


def gathered(arrays: Mapping[str, NDArray[Any]], rows: I32) -> dict[str, NDArray[Any]]:
    """The state of an engine whose row i has what row `rows[i]`, all different, of `arrays` had; of no others."""
    found = {}
    for path, array in arrays.items():
        if path.startswith(("deviation/", "alerts/")) or path == "novelty/slot":
            empty = np.full((1, *array.shape[1:]), -1 if path == "novelty/slot" else 0, array.dtype)
            found[path] = np.concatenate([array, empty])[np.minimum(rows, len(array))]
        else:
            found[path] = array.copy()
    found["inherited/rows"] = _renumbered(arrays["inherited/rows"], rows)
    left = np.setdiff1d(arrays["novelty/slot"], found["novelty/slot"]).astype(np.int32)
    found["novelty/free"] = np.concatenate([arrays["novelty/free"], left[left >= 0]])
    return found


def _renumbered(inherited: NDArray[np.int32], rows: I32) -> NDArray[np.int32]:
    """Who of `rows` began with what which others knew, by their places among them."""
    inherited = inherited[np.isin(inherited[:, 0], rows)]
    place = {row: k for k, row in enumerate(rows.tolist())}
    found = [(place[row], of if of < 0 else place.get(of, GONE)) for row, of in inherited.tolist()]
    return np.array(found, np.int32).reshape(-1, 2)


def copied(arrays: Mapping[str, NDArray[Any]], rows: I32, times: int) -> dict[str, NDArray[Any]]:
    """The state of an engine that has what `rows`, all different, of `arrays` had so many times, one behind the other.

    Row ``k * len(rows) + i`` has what row ``rows[i]`` had. Who began with what another knew is not kept.
    """
    slot = np.append(arrays["novelty/slot"], np.int32(-1))[np.minimum(rows, len(arrays["novelty/slot"]))]
    held = slot[slot >= 0]
    number = np.where(slot >= 0, np.cumsum(slot >= 0) - 1, -1)
    found = {}
    for path, array in arrays.items():
        if path == "novelty/slot":
            many = [np.where(number >= 0, number + k * len(held), -1) for k in range(times)]
            found[path] = np.concatenate(many).astype(np.int32)
        elif path in ("novelty/free", "inherited/rows"):
            found[path] = array[:0].copy()
        elif path.startswith("novelty/"):
            found[path] = np.concatenate([array[held]] * times)
        else:
            empty = np.zeros((1, *array.shape[1:]), array.dtype)
            part = np.concatenate([array, empty])[np.minimum(rows, len(array))]
            found[path] = np.concatenate([part] * times)
    return found


def prepare(tell: Callable[[str], None]) -> None:
    """Have all kernels at hand before the first points come; `tell` is told when that takes more than a second."""
    hour_ns, rows = 3_600_000_000_000, np.zeros(1, np.int32)
    with preparation(tell):
        engine = Engine(EngineConfig())
        for step in range(3):
            batch = Batch(rows, np.full(1, step * hour_ns), np.full(1, float(step)), np.full(1, 3_600.0))
            engine.learn(batch, engine.score(batch))
        wave = np.sin(np.arange(224.0))[None] + np.random.default_rng(0).normal(0, 0.1, (1, 224))
        if periods.promising(wave).any():
            periods.find(wave, 3_600.0)


@compiled
def _tell(
    known: Known,
    rules: Rules,
    rows: I32,
    look: Look,
    novelty: Novelty,
    alone: bool,
    age: NDArray[np.uint16],
    fatigue: NDArray[np.float32],
    peak: F64,
    told: _Told,
) -> None:
    """Put both tiers together; with `alone` novelty counts alone where it is known."""
    for k in range(len(rows)):
        r, score, strange, points = rows[k], look.score[k], novelty.strange[k], novelty.points[k]
        if np.isnan(points):
            points = np.float64(known.points[r])
        channel = look.channel[k]
        if not np.isnan(strange) and (alone or strange > score):
            score = strange
            # A deviation is easier to understand than novelty, so it gives the reason where it suffices.
            channel = channel if look.score[k] >= min(score, 1.0) else np.uint8(NOVELTY)
        if alone and look.still[k]:
            score = max(score, 1.0)
        worth = alarming(score, 0.0 if alone else look.score[k], strange, novelty.novel[k], points)
        band = rules.threshold * look.scale[k] * look.factor[k]
        told.score[k], told.channel[k], told.expected[k] = score, channel, look.expected[k]
        told.lower[k], told.upper[k] = look.expected[k] - band, look.expected[k] + band
        told.probability[k] = calibrate.probability(known, r, score)
        told.alert[k] = not_held(age, fatigue, r, peak[k], worth, points)
