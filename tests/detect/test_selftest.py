"""The self-test passes a plain detector that works, and says of each way to break it what is wrong."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from otel_aiops.detect.detector import Detector, Scores
from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.detect.faults import FAULTS, Copies, Injected
from otel_aiops.detect.report import Limits, Played, Report, alarms, judge
from otel_aiops.detect.selftest import SelfTest, SelfTestConfig, Variant, engine_variants, play
from otel_aiops.detect.specimens import clean
from otel_aiops.errors import ConfigError
from otel_aiops.otlp.points import F64, I32
from otel_aiops.series.align import AlignConfig
from otel_aiops.series.batch import Batch

START_NS = 1_760_313_600_000_000_000
WARM = 50
MOST_ROWS = 4096


class Plain:
    """A detector that works on noise around a level: the distance from a mean in standard deviations."""

    channels = ("none", "level")

    def __init__(self, threshold: float = 3.5) -> None:
        self.threshold = threshold
        self.count, self.mean, self.square = np.zeros((3, MOST_ROWS))

    def strange(self, batch: Batch) -> F64:
        """Standard deviations from the mean."""
        deviation = np.sqrt(self.square[batch.rows] / np.maximum(self.count[batch.rows], 1))
        return np.abs(batch.value - self.mean[batch.rows]) / np.maximum(deviation, 1e-9)

    def score(self, batch: Batch) -> Scores:
        strange = self.strange(batch)
        known = np.where(self.count[batch.rows] >= WARM, 0.0, np.nan)
        some = np.minimum(strange, 50.0)
        probability = np.tanh(0.7979 * some * (1 + 0.0447 * some**2))  # nearly that of a normal distribution
        return self.answer(strange / self.threshold + known, probability + known)

    def answer(self, score: F64, probability: F64) -> Scores:
        absent = np.full(len(score), np.nan)
        return Scores(score, probability, absent, absent, absent, np.ones(len(score), np.uint8), absent, score)

    def learn(self, batch: Batch, scores: Scores) -> None:
        with np.errstate(invalid="ignore"):
            kept = ~(scores.score >= 1)
        rows = batch.rows[kept]
        self.count[rows] += 1
        step = batch.value[kept] - self.mean[rows]
        self.mean[rows] += step / self.count[rows]
        self.square[rows] += step * (batch.value[kept] - self.mean[rows])

    def silent_scores(self, silence_s: F64, limit_s: F64) -> Scores:
        return self.answer(silence_s / limit_s, np.full(len(silence_s), np.nan))

    def forget(self, rows: I32) -> None: ...

    def reason(self, batch: Batch, scores: Scores, k: int) -> str:
        return ""

    def state(self) -> dict[str, NDArray[np.generic]]:
        return {}

    def restore(self, arrays: dict[str, NDArray[np.generic]]) -> None: ...


Change = Callable[[Plain, Batch, Scores], Scores]


def broken(change: Change, threshold: float = 3.5) -> Plain:
    """A plain detector whose scores are changed on their way out, and learned as they were."""

    class Broken(Plain):
        def score(self, batch: Batch) -> Scores:
            return change(self, batch, super().score(batch))

        def learn(self, batch: Batch, scores: Scores) -> None:
            super().learn(batch, Plain.score(self, batch))

    return Broken(threshold)


def like(scores: Scores, score: float | F64) -> Scores:
    return replace(scores, score=np.broadcast_to(np.float64(score), scores.score.shape).copy())


def noise(series: int = 6, points: int = 260) -> F64:
    return clean("noise", series, points, seed=3, start_ns=START_NS)


CONFIG = SelfTestConfig(tested=0.5)


def examined(make: Callable[[], Plain], *variants: Variant, values: F64 | None = None) -> Report:
    return SelfTest(CONFIG, make, variants=variants).run(noise() if values is None else values, 60.0, START_NS, 1)


class TestWhatWorks:
    def test_nothing_is_wrong(self) -> None:
        report = examined(Plain, Variant("threshold", lambda: Plain(8.0), quieter=True))
        assert report.verdict() == ()
        assert report.series == 6 and report.clean_points == 6 * 130
        assert set(report.faults) == set(FAULTS) - {"season_shift", "season_flat"}
        for name in CONFIG.limits.required:
            assert report.faults[name].recall == 1.0 and report.faults[name].chance < 0.2
        assert report.held > 0.8 and report.faults["shift_up"].covered == report.held
        assert report.faults["spike"].delay == 0
        assert report.faults["missing"].delay == 5  # five intervals of silence are not over the limit
        assert 0.005 < report.unusual < 0.03
        assert report.unscored == 0 and report.false_alarms < 2

    def test_metrics(self) -> None:
        report = examined(Plain)
        metrics = {(name, labels.get("fault")): value for name, labels, value in report.metrics()}
        assert metrics["otel_aiops.selftest.recall", "spike"] == 1.0
        assert metrics["otel_aiops.selftest.covered", "shift_up"] == report.held
        assert metrics["otel_aiops.selftest.false_alarms", None] == report.false_alarms
        assert metrics["otel_aiops.selftest.problems", None] == 0
        assert ("otel_aiops.selftest.delay", "variance_down") not in metrics  # never found: nothing to measure
        assert all(np.isfinite(value) for value in metrics.values())

    def test_equal_input_gives_an_equal_report(self) -> None:
        one, other = (examined(Plain) for _ in range(2))
        assert repr(one) == repr(other)
        assert repr(one) != repr(SelfTest(CONFIG, Plain).run(noise(), 60.0, START_NS, 2))

    def test_series_stay_as_they_are(self) -> None:
        values = noise()
        examined(Plain, values=values)
        np.testing.assert_array_equal(values, noise())


BREAKS: dict[str, tuple[Change, str]] = {
    "a constant": (lambda _, __, s: like(s, 0.3), r"same score for every point, 0\.3"),
    "zero": (lambda _, __, s: like(s, 0.0), "same score for every point, 0"),
    "always above": (lambda _, __, s: like(s, 1.0 + s.score), "it always fires: 100% of the points"),
    "constant and above": (lambda _, __, s: like(s, 2.0), "it always fires"),
    "never": (lambda _, __, s: like(s, np.minimum(s.score, 0.99)), "it never fires"),
    "no score": (lambda _, __, s: like(s, np.nan), "it gives no score at all"),
    "a score seldom": (
        lambda d, b, s: like(s, np.where(b.time_ns // 60_000_000_000 % 4 == 0, s.score, np.nan)),
        "7.% of the points have no score",
    ),
    "below zero": (lambda _, __, s: like(s, -s.score), "expected to be 0 or more and finite, got -.* to"),
    "infinite": (lambda _, __, s: like(s, np.where(s.score >= 1, np.inf, s.score)), "expected to be 0 or more"),
    "only what is above": (
        lambda d, b, s: like(s, np.where(b.value > d.mean[b.rows], s.score, 0.0)),
        "dip: found in 0% of the 6 series in which it is plain",
    ),
    "single points only": (
        lambda d, b, s: like(s, np.where(b.time_ns // 60_000_000_000 % 2, s.score, 0.5)),
        "a lasting shift of 5 spreads stays over the threshold for 4.% of its half hour",
    ),
    "the wrong way round": (
        lambda _, __, s: like(s, 1 / np.maximum(s.score, 0.01)),
        "shift_up: found in 0% of the 6 series",
    ),
    "dice": (
        lambda d, b, s: like(s, 1.05 * np.abs(np.sin(b.value * 1e6 + b.rows))),
        "false alarms a series-day, expected at most 3",
    ),
    "probabilities too high": (
        lambda _, __, s: replace(s, probability=s.probability**0.2),
        r"probabilities are too high: \d+\.\d% of the points",
    ),
    "no probabilities": (
        lambda _, __, s: replace(s, probability=np.full(len(s.score), np.nan)),
        "no point has a probability",
    ),
    "probabilities above 1": (
        lambda _, __, s: replace(s, probability=s.probability * 100),
        r"probabilities are expected in 0 to 1, got 0",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_caught(name: str) -> None:
    change, expected = BREAKS[name]
    verdict = examined(lambda: broken(change)).verdict()
    assert any(re.search(expected, line) for line in verdict), verdict
    assert not any("nan" in line for line in verdict), verdict


class TestWhatElseIsCaught:
    def test_probabilities_that_never_come_near_one(self) -> None:
        halved: Change = lambda _, __, s: replace(s, probability=s.probability / 2)  # noqa: E731
        report = replace(examined(lambda: broken(halved)), clean_points=30_000)
        assert report.unusual == 0
        assert any("probabilities are too low: 0.00%" in line for line in report.verdict())
        assert not any("too low" in line for line in replace(report, clean_points=1000).verdict())

    def test_a_parameter_that_is_ignored(self) -> None:
        report = examined(Plain, Variant("threshold", Plain, quieter=True))
        assert report.verdict() == ("it ignores threshold: with another value all scores are the same",)

    def test_a_parameter_that_works_the_wrong_way(self) -> None:
        report = examined(Plain, Variant("threshold", lambda: Plain(2.0), quieter=True))
        assert len(report.verdict()) == 1
        assert "threshold works the wrong way: with a value that should make it quieter" in report.verdict()[0]
        assert examined(Plain, Variant("sensitivity", lambda: Plain(2.0))).verdict() == ()

    def test_a_detector_that_does_not_notice_silence(self) -> None:
        class Deaf(Plain):
            silent_scores = None  # type: ignore[assignment]

        report = examined(Deaf)
        assert report.faults["missing"].recall == 0
        assert report.verdict() == ("missing: found in 0% of the 6 series in which it is plain, expected at least 50%",)

    def test_one_series_is_not_enough_to_say_so(self) -> None:
        upward = BREAKS["only what is above"][0]
        report = examined(lambda: broken(upward), values=noise(2))
        assert report.plain["dip"].recall == 0 and report.verdict() == ()

    def test_a_detector_that_learns_nothing(self) -> None:
        class Forgetful(Plain):
            def learn(self, batch: Batch, scores: Scores) -> None: ...

        assert "it gives no score at all" in examined(Forgetful).verdict()

    def test_a_detector_that_learns_what_it_flags(self) -> None:
        class Credulous(Plain):
            def learn(self, batch: Batch, scores: Scores) -> None:
                self.count[batch.rows] = np.minimum(self.count[batch.rows], 60)
                self.square[batch.rows] *= self.count[batch.rows] / (1 + self.count[batch.rows])
                super().learn(batch, replace(scores, score=np.zeros(len(scores.score))))

        assert any("a lasting shift of 5 spreads stays" in line for line in examined(Credulous).verdict())

    def test_alarms_that_were_there_anyway_find_nothing(self) -> None:
        half: Change = lambda _, b, s: like(s, np.where(b.time_ns // 60_000_000_000 % 5 < 3, 1.5, 0.5))  # noqa: E731
        verdict = examined(lambda: broken(half)).verdict()
        assert any("there is an alarm at that place without the fault too" in line for line in verdict)


class Mutant(Engine):
    """The engine that runs, with one thing broken."""

    def changed(self, scores: Scores) -> Scores:
        return scores

    def score(self, batch: Batch) -> Scores:
        return self.changed(super().score(batch))


class Constant(Mutant):
    def changed(self, scores: Scores) -> Scores:
        return like(scores, 0.3)


class Silent(Mutant):
    def changed(self, scores: Scores) -> Scores:
        return like(scores, np.minimum(scores.score, 0.99))


class Alarmist(Mutant):
    def changed(self, scores: Scores) -> Scores:
        return like(scores, 1.0 + scores.score)


class Unteachable(Mutant):
    def learn(self, batch: Batch, scores: Scores) -> None: ...


class Gullible(Mutant):
    """Takes in at once what it flags, as if it had always been there."""

    def learn(self, batch: Batch, scores: Scores) -> None:
        over = np.flatnonzero(scores.score >= 1)
        super().learn(batch, like(scores, np.minimum(scores.score, np.float64(0.5))))
        if len(over):
            memory, rows = self._deviation.memory, batch.rows[over]
            state = memory.read(rows)
            state["level"] = batch.value[over]
            memory.write(rows, state)


MUTANTS: dict[type[Mutant], str] = {
    Constant: r"same score for every point, 0\.3",
    Silent: "it never fires",
    Alarmist: "it always fires",
    Unteachable: "it gives no score at all",
    Gullible: "a lasting shift of 5 spreads stays over the threshold for|shift_up: found in",
}


class TestTheEngineThatRuns:
    def test_nothing_is_wrong_and_every_parameter_counts(self) -> None:
        config, told = EngineConfig(), []
        test = SelfTest(
            CONFIG,
            lambda: Engine(config),
            variants=engine_variants(config),
            told=lambda done, total: told.append((done, total)),
        )
        report = test.run(noise(4), 60.0, START_NS, 1)
        assert report.verdict() == ()
        assert told[0] == (1, 260 * 9) and told[-1] == (260 * 9, 260 * 9)
        of_scores = set(EngineConfig.__dataclass_fields__) - {"sensitivity"}  # which changes what an alert is worth
        assert {variant.parameter for variant in engine_variants(config)} == of_scores

    @pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
    def test_one_that_is_broken_is_caught(self, mutant: type[Mutant]) -> None:
        verdict = SelfTest(CONFIG, lambda: mutant(EngineConfig())).run(noise(4, 200), 60.0, START_NS, 1).verdict()
        assert any(re.search(MUTANTS[mutant], line) for line in verdict), verdict

    def test_each_parameter_that_is_ignored_is_named(self) -> None:
        """All are ignored here: whatever the configuration, the engine has the default one."""
        variants = engine_variants(EngineConfig(), lambda _: Engine(EngineConfig()))
        report = SelfTest(CONFIG, lambda: Engine(EngineConfig()), variants=variants).run(noise(4), 60.0, START_NS, 1)
        assert report.problems == tuple(
            f"it ignores {name}: with another value all scores are the same"
            for name in ("preset", "threshold", "memory_points", "warmup_points", "adapt_after", "novelty_memory")
        )

    def test_nothing_is_said_of_what_cannot_show(self) -> None:
        """No anomaly lasts for a day here, so that nothing can tell what would follow then."""
        variants = [replace(v, lasting_s=86_400.0) for v in engine_variants(EngineConfig(), lambda _: Plain())]
        report = SelfTest(CONFIG, Plain, variants=variants).run(noise(4), 60.0, START_NS, 1)
        assert report.verdict() == ()

    @pytest.mark.parametrize(
        "config",
        [
            EngineConfig(),
            EngineConfig(threshold=1.0, warmup_points=5, memory_points=10, adapt_after=60.0, novelty_memory=0),
            EngineConfig(memory_points=100_000, warmup_points=10_000, adapt_after=1e9, novelty_memory=1),
        ],
    )
    def test_variants_differ_in_one_parameter_each(self, config: EngineConfig) -> None:
        made: list[EngineConfig] = []

        def make(changed: EngineConfig) -> Detector:
            made.append(changed)
            return Plain()

        for variant in engine_variants(config, make):
            variant.make()
            different = [n for n in config.__dataclass_fields__ if getattr(made[-1], n) != getattr(config, n)]
            assert different == [variant.parameter]


class TestBounds:
    def test_the_newest_points_of_some_series_are_used(self) -> None:
        seen: set[tuple[int, int]] = set()

        class Watching(Plain):
            def score(self, batch: Batch) -> Scores:
                seen.update((int(batch.time_ns[0]), int(row)) for row in batch.rows)
                return super().score(batch)

        config = SelfTestConfig(max_series=3, max_points=400)
        report = SelfTest(config, Watching).run(noise(10, 700), 60.0, START_NS, 1)
        assert report.series == 3
        assert min(time for time, _ in seen) == START_NS + 300 * 60_000_000_000
        assert len({time for time, _ in seen}) == 400
        assert max(row for _, row in seen) < 3 * (len(FAULTS) + 1)

    def test_series_that_are_too_short_are_left_out(self) -> None:
        values = noise(3, 700)
        values[1, 59:] = np.nan
        assert examined(Plain, values=values).series == 2
        nothing = examined(Plain, values=values[1:2])
        assert nothing.verdict() == ("nothing was tested: no series has 60 points before the first fault",)
        assert dict((name, value) for name, _, value in nothing.metrics()) == {
            "otel_aiops.selftest.series": 0.0,
            "otel_aiops.selftest.problems": 1.0,
        }

    def test_what_is_no_number_is_absent(self) -> None:
        values = noise(4, 700)
        values[0, 100], values[1, 101], values[2, 102] = np.inf, -np.inf, 1e308
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert examined(Plain, values=values).verdict() == ()

    @pytest.mark.parametrize(
        ("make", "words"),
        [
            (lambda: SelfTestConfig(max_series=0), "max_series: must be >= 1, got 0"),
            (lambda: SelfTestConfig(max_points=10), "max_points: must be >= 120, got 10"),
            (lambda: SelfTestConfig(tested=1.0), r"tested: must be in \(0, 1\), got 1.0"),
            (lambda: Limits(found_share=0.0), r"found_share: must be in \(0, 1\], got 0.0"),
            (lambda: Limits(most_false_alarms=0.0), "most_false_alarms: must be > 0, got 0.0"),
            (lambda: Limits(required=("spike", "flood")), "required: expected some of spike, .* got flood"),
        ],
    )
    def test_settings_are_checked(self, make: Callable[[], object], words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            make()


class TestPlay:
    def test_it_scores_as_the_pipeline_does(self) -> None:
        """One row at a time by hand: score, then learn, with the interval since the row's last point."""
        values = noise(2, 120)
        values[1, 70:75] = np.nan
        played = play(Plain(), values, interval_s=60.0, start_ns=START_NS, align=AlignConfig())
        by_hand = Plain()
        for step in range(120):
            for row in np.flatnonzero(np.isfinite(values[:, step])):
                batch = Batch(
                    np.array([row], np.int32), np.array([START_NS]), values[row, step : step + 1], np.array([60.0])
                )
                scores = by_hand.score(batch)
                by_hand.learn(batch, scores)
                assert played.score[row, step] == pytest.approx(scores.score[0], rel=1e-6, nan_ok=True)
        assert np.isnan(played.score[1, 70:75]).all()

    def test_silence_has_a_score_until_it_is_normal(self) -> None:
        values = noise(2, 300)
        values[1, 100:] = np.nan
        played = play(Plain(), values, interval_s=60.0, start_ns=START_NS, align=AlignConfig())
        silent = np.flatnonzero(played.score[1, 100:] >= 1)
        assert silent[0] == 5 and silent[-1] == 59  # longer than five intervals, not longer than an hour


class TestJudge:
    def test_alarms_that_last_come_again_every_hour(self) -> None:
        over = np.zeros((4, 200), bool)
        over[1, 10:12] = over[1, 20] = True  # two alarms
        over[2, 10:140] = True  # more than two hours: three
        over[3, 10:14] = True
        scored = np.ones((4, 200), bool)
        scored[3, 11:13] = False
        over[3, 11:13] = False  # without a score in between it is still one
        assert alarms(over, scored, 60.0).tolist() == [0, 2, 3, 1]
        assert alarms(np.ones((1, 10), bool), np.ones((1, 10), bool), 7200.0).tolist() == [10]

    def test_a_fault_is_found_by_duration(self) -> None:
        values, truth = np.zeros((3, 20)), np.zeros((3, 20), bool)
        truth[:2, 5:15] = True
        score = np.zeros((6, 20), np.float32)
        score[3, 10:15] = 1.0  # five of ten points, the first after five
        score[4, 5:9] = 1.0  # four of ten
        score[0, 5:10] = 1.0  # its clean copy fires there too
        copies = Copies(values, {"shift_up": Injected(values, truth, truth[:, 5])})
        report = judge(Played(score, score), copies, 0, interval_s=60.0, limits=Limits())
        found = report.faults["shift_up"]
        assert (found.series, found.recall, found.chance) == (2, 0.5, 0.5)
        assert found.covered == pytest.approx(0.45) and report.held == found.covered
        assert found.delay == 2.5
        assert report.false_alarms == pytest.approx(1 / (60 * 60 / 86_400))
        assert report.false_share == pytest.approx(5 / 60)

    def test_a_spike_may_be_found_at_the_next_point(self) -> None:
        values, truth = np.zeros((3, 9)), np.zeros((3, 9), bool)
        truth[:, 4] = True
        values[:, 5] = np.nan  # the next point is at step 6
        score = np.zeros((6, 9), np.float32)
        score[3, 4] = score[4, 6] = score[5, 7] = 1.0
        report = judge(
            Played(score, score),
            Copies(values, {"spike": Injected(values, truth, truth[:, 4])}),
            0,
            interval_s=60.0,
            limits=Limits(),
        )
        assert report.faults["spike"].recall == pytest.approx(2 / 3)
        assert report.faults["spike"].covered == pytest.approx(1 / 3)
        assert report.faults["spike"].delay == 0
