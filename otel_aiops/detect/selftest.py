"""The self-test: whether a detector still finds faults that were put in copies of series, and what is wrong if not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from otel_aiops.detect.detector import Detector
from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.detect.faults import Copies
from otel_aiops.detect.report import Limits, Played, Report, judge
from otel_aiops.errors import ConfigError
from otel_aiops.otlp.points import F64, I32, I64, Bool, Kind, Points, Stream, Temporality
from otel_aiops.series.align import Align, AlignConfig
from otel_aiops.series.forms import VALUE, Form
from otel_aiops.series.table import Rows

LARGEST = 1e100  # what is larger is no measurement, and its square no number
LEAST_KNOWN = 60  # points before the first fault, or a series is not used
PROBED = 8  # series that each variant is run on,
PROBES = ("spike", "shift_up", "variance_up", "stuck")  # clean and with these faults,
PROBED_BEFORE = 300  # from so many points before the first fault
SOON_S = 600.0  # an anomaly that lasts longer is normal to a variant
LITTLE_BYTES = 1 << 20  # a smaller memory of values is as good as none
GAUGE = Stream(b"", b"", "", "", Kind.GAUGE, Temporality.UNSPECIFIED, False)

Make = Callable[[], Detector]
Told = Callable[[int, int], None]  # (steps done, steps in all)


@dataclass(frozen=True, slots=True)
class SelfTestConfig:
    """How much is tested, what is expected, and how the running service does it beside its work."""

    enabled: bool = True  # whether the running service tests itself
    interval: float = 86_400.0  # time between two tests
    at_start: bool = True  # test soon after the start too, and not only after the first interval
    timeout: float = 900.0  # a test that takes longer is ended, and counted as failed
    max_memory: int = 2 << 30  # bytes of data that the process of a test may have, on Linux
    max_series: int = 20  # drawn from those that there are
    max_points: int = 4320  # the newest of each series
    tested: float = 0.25  # share of the points, the newest, in which faults begin
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for name in ("interval", "timeout"):
            if not getattr(self, name) > 0:
                raise ConfigError(name, f"must be > 0 s, got {getattr(self, name)}")
        for name, least in (("max_memory", 256 << 20), ("max_series", 1), ("max_points", 2 * LEAST_KNOWN)):
            if not getattr(self, name) >= least:
                raise ConfigError(name, f"must be >= {least}, got {getattr(self, name)}")
        if not 0 < self.tested < 1:
            raise ConfigError("tested", f"must be in (0, 1), got {self.tested}")


@dataclass(frozen=True, slots=True)
class Variant:
    """The live configuration with one parameter changed: the scores must change with it.

    `quieter` says that no more points may be over the threshold then. `lasting_s` says that the parameter only shows
    where points stay over the threshold for that long: without such a place nothing is said of it. One that is not
    `always` seen may change nothing, as the season of series that have none.
    """

    parameter: str
    make: Make
    quieter: bool = False
    lasting_s: float = 0.0
    always: bool = True


def engine_variants(config: EngineConfig, make: Callable[[EngineConfig], Detector] = Engine) -> tuple[Variant, ...]:
    """Each parameter of scores with another value, far enough from its own to show in some hundred points."""
    other: dict[str, float | str] = {
        "preset": "novelty" if config.preset == "default" else "default",
        "threshold": 2 * config.threshold,
        "seasons": "week" if config.seasons == "off" else "off",
        "memory_points": 30 if config.memory_points > 60 else 10 * config.memory_points,
        "warmup_points": 5 if config.warmup_points != 5 else 10,
        "adapt_after": SOON_S if config.adapt_after > 2 * SOON_S else 100 * config.adapt_after,
        "novelty_memory": 0 if config.novelty_memory >= LITTLE_BYTES else EngineConfig().novelty_memory,
    }
    lasting_s = {"adapt_after": 1.5 * min(config.adapt_after, SOON_S)}

    def made(name: str, value: float | str) -> Make:
        changed = replace(config, **{name: value})  # type: ignore[arg-type]  # the type of that field
        return lambda: make(changed)

    return tuple(
        Variant(
            name,
            made(name, value),
            quieter=name == "threshold",
            lasting_s=lasting_s.get(name, 0.0),
            always=name != "seasons",
        )
        for name, value in other.items()
    )


class SelfTest:
    """Puts faults in copies of series and has a detector score them as the pipeline does.

    `make` returns a fresh detector of the live configuration. Every fault has a copy of its own, and all copies are
    scored at once. Cost: at most (faults + 1) * max_series * max_points points, and for each variant, and once more for
    what they are compared with, those of 8 series and 4 faults from shortly before the first fault on.
    `told` is called after every step.
    """

    def __init__(
        self,
        config: SelfTestConfig,
        make: Make,
        *,
        variants: Sequence[Variant] = (),
        align: AlignConfig | None = None,
        told: Told | None = None,
    ) -> None:
        self.config = config
        self._make = make
        self._variants = tuple(variants)
        self._align = align or AlignConfig()
        self._told = told
        self._done = self._steps = 0

    def run(self, values: F64, interval_s: float, start_ns: int, seed: int) -> Report:
        """Test with series whose steps are `interval_s` apart from `start_ns` on; equal input gives an equal report.

        Shape: `values` (S, T), NaN is absent; they stay as they are.
        """
        chosen, start_ns = self._chosen(values, interval_s, start_ns, seed)
        if not len(chosen):
            problem = f"nothing was tested: no series has {LEAST_KNOWN} points before the first fault"
            return Report(self.config.limits, 0, 0, problems=(problem,))
        begin = self._begin(chosen)
        copies = Copies.of(chosen, begin, interval_s=interval_s, seed=seed)
        rows = copies.rows()
        since = max(begin - PROBED_BEFORE, 0)
        plays = 1 + len(self._variants) if self._variants else 0
        self._done, self._steps = 0, chosen.shape[1] + plays * (chosen.shape[1] - since)
        played = self._play(self._make, rows, interval_s, start_ns)
        later_ns = start_ns + round(since * interval_s * 1e9)
        problems = (*_broken(played, np.isfinite(rows)), *self._ignored(copies, since, interval_s, later_ns))
        return judge(played, copies, begin, interval_s=interval_s, limits=self.config.limits, problems=problems)

    def _chosen(self, values: F64, interval_s: float, start_ns: int, seed: int) -> tuple[F64, int]:
        """The newest points of some series that have enough of them, and when they begin."""
        skipped = max(values.shape[1] - self.config.max_points, 0)
        newest = values[:, skipped:]
        with np.errstate(invalid="ignore"):
            newest = np.where(np.abs(newest) <= LARGEST, newest, np.nan)
        usable = np.flatnonzero(np.isfinite(newest[:, : self._begin(newest)]).sum(axis=1) >= LEAST_KNOWN)
        if len(usable) > self.config.max_series:
            usable = np.sort(np.random.default_rng(seed).choice(usable, self.config.max_series, replace=False))
        return newest[usable], start_ns + round(skipped * interval_s * 1e9)

    def _begin(self, values: F64) -> int:
        """The first step at which a fault may begin."""
        return int(values.shape[1] * (1 - self.config.tested))

    def _ignored(self, copies: Copies, since: int, interval_s: float, start_ns: int) -> Iterator[str]:
        """Parameters that change nothing, or work in the wrong direction; looked at from step `since` on."""
        if not self._variants:
            return
        wanted = [copies.faulty[name].values[:PROBED] for name in PROBES if name in copies.faulty]
        rows = np.concatenate([copies.clean[:PROBED], *wanted])[:, since:]
        live = self._play(self._make, rows, interval_s, start_ns)
        longest_s = _longest(live.over) * interval_s
        for variant in self._variants:
            other = self._play(variant.make, rows, interval_s, start_ns)
            before, after = int(live.over.sum()), int(other.over.sum())
            if np.array_equal(live.score, other.score, equal_nan=True):
                if variant.always and longest_s >= variant.lasting_s:
                    yield f"it ignores {variant.parameter}: with another value all scores are the same"
            elif variant.quieter and after > before:
                yield (
                    f"{variant.parameter} works the wrong way: with a value that should make it quieter {after} points "
                    f"are over the threshold instead of {before}"
                )

    def _play(self, make: Make, values: F64, interval_s: float, start_ns: int) -> Played:
        def step() -> None:
            self._done += 1
            if self._told is not None:
                self._told(self._done, self._steps)

        return play(make(), values, interval_s=interval_s, start_ns=start_ns, align=self._align, after=step)


def _longest(over: Bool) -> int:
    """The most steps in a row that any row is over the threshold."""
    steps = np.arange(over.shape[1])
    return int(np.max(steps - np.maximum.accumulate(np.where(over, -1, steps), axis=1), initial=0))


def play(
    detector: Detector,
    values: F64,
    *,
    interval_s: float,
    start_ns: int,
    align: AlignConfig,
    after: Callable[[], None] | None = None,
) -> Played:
    """Score R series step by step as the pipeline does: align, score, learn, then look for what has fallen silent.

    Shape: `values` (R, T), NaN is absent. A detector without `silent_scores` says nothing of silent series. `after` is
    called after every step.
    """
    count, steps = values.shape
    aligner = Align(align)
    silent_scores = getattr(detector, "silent_scores", None)
    score = np.full((steps, count), np.nan, np.float32)
    probability = np.full((steps, count), np.nan, np.float32)
    for step, column in enumerate(np.ascontiguousarray(values.T)):
        time_ns = start_ns + round(step * interval_s * 1e9)
        for batch in aligner.step(*_present(column, time_ns), now_ns=time_ns).batches:
            scores = detector.score(batch)
            detector.learn(batch, scores)
            score[step, batch.rows], probability[step, batch.rows] = scores.score, scores.probability
        silence = aligner.silence(time_ns)
        if silent_scores is not None and len(silence.rows):
            score[step, silence.rows] = silent_scores(silence.silence_s, silence.limit_s).score
        if after is not None:
            after()
    return Played(score.T, probability.T)


def _present(column: F64, time_ns: int) -> tuple[Points, Rows]:
    """What is present in a column, (R,), as points that all came at one time, and their rows."""
    rows = np.flatnonzero(np.isfinite(column)).astype(np.int32)
    return gauges(rows, np.full(len(rows), time_ns, np.int64), column[rows])


def gauges(rows: I32, time_ns: I64, value: F64) -> tuple[Points, Rows]:
    """K values of series, (K,) each, as points of gauges that came together, and their rows."""
    count = len(rows)
    zeros = np.zeros(count, np.int32)
    points = Points(
        streams=(GAUGE,),
        stream=zeros,
        attributes=[b""] * count,
        start_ns=np.zeros(count, np.int64),
        time_ns=time_ns,
        value=value,
        count=np.full(count, np.nan),
        stale=np.zeros(count, np.bool_),
        layouts=(),
        layout=zeros - 1,
        cells=np.empty(0),
        cell_offset=np.zeros(count + 1, np.int64),
    )
    return points, Rows(rows, zeros + VALUE, (Form(("",)),), rows[:0], rows[:0], {})


def _broken(played: Played, present: Bool) -> Iterator[str]:
    """What no detector that works does at points, whatever the series are; silence is scored by a rule of its own."""
    score, probability = played.score[present], played.probability[present]
    score, probability = score[~np.isnan(score)], probability[~np.isnan(probability)]
    if not len(score):
        yield "it gives no score at all"
        return
    low, high = float(score.min()), float(score.max())
    if low < 0 or high == np.inf:
        yield f"scores are expected to be 0 or more and finite, got {low:.3g} to {high:.3g}"
    if (probability < 0).any() or (probability > 1).any():
        yield f"probabilities are expected in 0 to 1, got {probability.min():.3g} to {probability.max():.3g}"
    if low == high:
        yield f"it returns the same score for every point, {low:.3g}"
    elif not high >= 1:
        yield f"it never fires: the largest score is {high:.3g}, with faults and without"
