"""Versions side by side: what serves, what only watches, and that neither a swap nor a restart loses a point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from otel_aiops.detect.engine import Engine, EngineConfig, gathered, placed
from otel_aiops.detect.lessons import Lesson, Verdict
from otel_aiops.detect.scorer import Scored
from otel_aiops.detect.serving import Action, Rollout, Trained
from otel_aiops.errors import BadInput, StateError
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.otlp.memo import Memo
from otel_aiops.otlp.points import Points
from otel_aiops.pipeline import Pipeline, PipelineConfig, Step
from tests.feed import Feed, ns

START_S, STEP_S = 1_700_000_000, 60
SERIES = 40
PLAIN = EngineConfig(novelty_memory=0)  # so that scores go with the threshold
STRICT = EngineConfig(novelty_memory=0, threshold=3.0)  # twice the score


def points(k: int, values: Mapping[str, float]) -> Points:
    feed = Feed()
    for name, value in values.items():
        feed.gauge("load", START_S + k * STEP_S, value, queue=name)
    return decode_metrics(feed.request.SerializeToString(), Memo()).points


class Line:
    """A pipeline with queues whose load is noise."""

    def __init__(self, config: PipelineConfig | None = None) -> None:
        self.pipeline = Pipeline(config or PipelineConfig(detection=PLAIN))
        self.k = 0

    def step(self, *, names: int = SERIES, first: int = 0, **odd: float) -> Step:
        noise = np.random.default_rng(self.k).normal(100, 3, SERIES)
        values = {f"q{n}": float(noise[n]) for n in range(first, names)} | odd
        step = self.pipeline.metrics(points(self.k, values), now_ns=ns(START_S + self.k * STEP_S))
        self.k += 1
        return step

    def run(self, steps: int, **more: int) -> Line:
        for _ in range(steps):
            self.step(**more)
        return self

    def trained(self, detection: EngineConfig | None = None) -> Trained:
        """What it has learned, as a version."""
        rows = self.pipeline.table.live()[::-1]
        labels = tuple(one.to_json() for one in self.pipeline.table.labels_of(rows))
        state = gathered(self.pipeline.engine.state(), rows)
        return Trained(detection or self.pipeline.engine.config, labels, state)

    def roll(self, action: Action, trained: Trained | None = None, **more: object) -> None:
        def load(name: str) -> Trained:
            if trained is None:
                raise BadInput(f"expected no other version than those that run, got {name}")
            return trained

        order = Rollout(action=action, time_ns=self.pipeline.event_ns, **more)  # type: ignore[arg-type]
        self.pipeline.roll(order, load)


def score(step: Step) -> np.ndarray:
    return np.concatenate([one.scores.score for one in step.scored])


def pairs(scored: Scored) -> Iterator[tuple[int, float]]:
    return zip(scored.batch.rows.tolist(), scored.scores.score.tolist(), strict=True)


@pytest.fixture(scope="module")
def strict() -> Trained:
    """A version with another threshold, trained on some of the series, in another order, and on one that is gone."""
    line = Line(PipelineConfig(detection=STRICT))
    for k in range(60):
        noise = np.random.default_rng(k).normal(100, 3, SERIES)
        values = {"gone": 5.0 + k % 3} | {f"q{n}": float(noise[n]) for n in reversed(range(0, SERIES, 2))}
        line.pipeline.metrics(points(k, values), now_ns=ns(START_S + k * STEP_S))
    return line.trained()


def test_a_state_on_other_rows_gives_the_same_scores(strict: Trained) -> None:
    rows = np.random.default_rng(0).permutation(50)[: len(strict.labels)].astype(np.int32)
    moved = placed(strict.engine, rows, 50)
    size = {name: len(array) for name, array in moved.items() if name.startswith("deviation/")}
    assert set(size.values()) == {50}
    for name, array in strict.engine.items():  # the slow way, row by row
        if name in size or name == "novelty/slot":
            assert all(moved[name][rows[i]].tobytes() == array[i].tobytes() for i in range(len(array))), name
    with pytest.raises(StateError, match="expected the state of 3 rows"):
        placed(strict.engine, rows[:3], 50)


def test_slots_of_rows_that_are_left_out_are_free_again() -> None:
    line = Line(PipelineConfig()).run(30)
    engine = Engine(EngineConfig())
    engine.restore(gathered(line.pipeline.engine.state(), np.arange(0, SERIES, 2, dtype=np.int32)))
    assert engine.novelty_series == SERIES / 2


@pytest.mark.parametrize("detection", [PLAIN, EngineConfig()], ids=["plain", "novelty"])
def test_a_version_on_other_rows_scores_the_same_bits(detection: EngineConfig) -> None:
    config = PipelineConfig(detection=detection)
    trained = Line(config).run(60).trained()
    backwards = Line(config)
    backwards.step(first=SERIES - 1)  # so that no series has the row that it was trained on
    backwards.pipeline.serving.forget(np.arange(1, dtype=np.int32))
    backwards.step(first=5)
    backwards.k = 60
    backwards.roll(Action.CANARY, trained, version="s", share=1.0)
    for _ in range(5):
        known = dict(pairs(backwards.step(first=5, q9=140.0).scored[0]))
        labels = backwards.pipeline.table.labels
        served = {dict(labels(row).attributes)["queue"]: value for row, value in known.items()}
    alone = Line(config).run(60)
    for _ in range(5):
        (scored,) = alone.step(first=5, q9=140.0).scored
        labels = alone.pipeline.table.labels
        own = {dict(labels(row).attributes)["queue"]: value for row, value in pairs(scored)}
    assert served == own and own["q9"] > 1


def test_a_shadow_changes_nothing_of_what_is_served(strict: Trained) -> None:
    alone, watched = Line().run(60), Line().run(60)
    watched.roll(Action.SHADOW, strict, version="s")
    for _ in range(20):
        a, b = alone.step(q3=150.0), watched.step(q3=150.0)
        assert score(a).tobytes() == score(b).tobytes()
    other = watched.pipeline.serving.other
    assert other is not None and watched.pipeline.serving.role == "shadow"
    assert other.seen["points"][0] == 20 * SERIES
    left, right = alone.pipeline.engine.state(), watched.pipeline.engine.state()
    assert all(left[name].tobytes() == right[name].tobytes() for name in left)


def test_a_shadow_begins_with_what_it_was_trained_with(strict: Trained) -> None:
    line = Line().run(60)
    line.roll(Action.SHADOW, strict, version="s")
    line.roll(Action.CANARY, version="s", share=1.0)
    served = line.step(q2=130.0, q3=130.0)
    by_row = {row: value for one in served.scored for row, value in pairs(one)}
    assert by_row[2] > 0  # known to the version
    assert np.isnan(by_row[3])  # not in its training: it warms up
    alone = Line(PipelineConfig(detection=STRICT)).run(60).step(q2=130.0)
    assert by_row[2] == score(alone)[2] > 1


def test_a_canary_serves_its_share_and_always_the_same_series(strict: Trained) -> None:
    def canary(share: float) -> set[int]:
        line = Line().run(60)
        alone = Line().run(60)
        line.roll(Action.CANARY, line.trained(STRICT), version="s", share=share)
        odd = {f"q{n}": 130.0 for n in range(SERIES)}
        served, own = score(line.step(**odd)), score(alone.step(**odd))
        assert np.allclose(served[served != own], 2 * own[served != own], rtol=0.05)
        return set(np.flatnonzero(served != own).tolist())

    few, many = canary(0.25), canary(0.6)
    assert few < many and 3 <= len(few) <= 17 and 17 <= len(many) <= 31


def test_alerts_and_reasons_of_a_canary_are_those_of_who_serves(strict: Trained) -> None:
    line = Line(PipelineConfig(detection=PLAIN, budget=100_000)).run(80)
    line.roll(Action.CANARY, line.trained(EngineConfig(threshold=600.0, novelty_memory=0)), version="s", share=0.5)
    serving = line.pipeline.serving
    step = line.step(**{f"q{n}": 130.0 for n in range(SERIES)})
    (scored,) = step.scored
    assert scored.alerted is not None
    by_other = np.array([serving.of(row) is serving.other for row in scored.batch.rows.tolist()])
    assert 5 < by_other.sum() < 35
    assert ((scored.scores.score < 1) == by_other).all()
    assert scored.alerted.active.any() and not scored.alerted.active[by_other].any()
    wide = np.array(["(band -" in line.pipeline.reason(scored, k) for k in range(SERIES)])
    assert (wide == by_other).all(), "its band is a hundred times as wide"


def test_a_promotion_and_a_rollback_lose_no_point(strict: Trained) -> None:
    line = Line().run(60)
    line.roll(Action.SHADOW, line.trained(STRICT), version="new", champion="old")
    line.run(5)
    line.roll(Action.PROMOTE, version="new")
    serving = line.pipeline.serving
    assert (serving.champion.name, serving.role) == ("new", "former")
    assert serving.other is not None and serving.other.name == "old"
    line.run(5)
    line.roll(Action.ROLLBACK)
    assert (line.pipeline.serving.champion.name, line.pipeline.serving.role) == ("old", "")
    always = Line().run(70)
    assert score(line.step()).tobytes() == score(always.step()).tobytes(), "the former one learned on all the time"


def test_a_rollback_long_after_begins_with_what_was_registered() -> None:
    line = Line().run(60)
    old = line.trained()
    line.roll(Action.SHADOW, line.trained(STRICT), version="new", champion="old")
    line.roll(Action.PROMOTE, version="new")
    line.roll(Action.STOP)
    with pytest.raises(BadInput, match="got old"):
        line.roll(Action.ROLLBACK)
    line.roll(Action.ROLLBACK, old)
    assert line.pipeline.serving.champion.name == "old"
    assert not np.isnan(score(line.step())).any()


def test_both_learn_from_verdicts_and_forget_rows(strict: Trained) -> None:
    line = Line().run(60)
    line.roll(Action.SHADOW, line.trained(STRICT), version="s")
    series = int(line.pipeline.table.fingerprint(np.array([3], np.int32))[0])
    verdict = Verdict(series=series, time_ns=line.pipeline.event_ns, kind="false_alert", ratio=1.5)
    assert line.pipeline.learn(Lesson((verdict,))).counts == {"verdicts": 1}
    for model in line.pipeline.serving.models:
        assert model.alerting.shift(3) > 0
    line.pipeline.serving.forget(np.array([3], np.int32))
    for model in line.pipeline.serving.models:
        assert model.alerting.shift(3) <= 0.05
        assert model.scorer.engine.note(3).startswith("Still learning")


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_restart_goes_on_with_the_same_bits(strict: Trained, share: float) -> None:
    line = Line().run(60)
    action = Action.CANARY if share else Action.SHADOW
    line.roll(action, strict, version="s", champion="c", share=share)
    line.run(10)
    again = Line()
    again.pipeline.restore(line.pipeline.state())
    again.k = line.k
    for _ in range(5):
        assert score(line.step(q5=140.0)).tobytes() == score(again.step(q5=140.0)).tobytes()
    a, b = line.pipeline.state(), again.pipeline.state()
    assert set(a) == set(b) and all(a[name].tobytes() == b[name].tobytes() for name in a)
    assert again.pipeline.serving.other is not None
    assert again.pipeline.serving.other.scorer.engine.config == STRICT


def test_a_registered_champion_keeps_its_settings_when_the_configuration_changes() -> None:
    line = Line().run(60)
    line.roll(Action.SHADOW, line.trained(STRICT), version="new", champion="old")
    line.roll(Action.PROMOTE, version="new")
    other = Line(PipelineConfig(detection=EngineConfig(threshold=9.0, novelty_memory=0)))
    other.pipeline.restore(line.pipeline.state())
    assert other.pipeline.engine.config == STRICT
    unnamed = Line(PipelineConfig(detection=EngineConfig(threshold=9.0, novelty_memory=0)))
    unnamed.pipeline.restore(Line().run(60).pipeline.state())
    assert unnamed.pipeline.engine.config.threshold == 9.0


def test_a_state_from_before_there_were_versions_is_taken_over() -> None:
    line = Line().run(60)
    state = line.pipeline.state()
    prefix = "serving/champion/"
    old = {
        name.removeprefix(prefix): of
        for name, of in state.items()
        if not name.startswith(("serving/rollout", prefix + "seen"))
    }
    again = Line()
    again.pipeline.restore(old)
    again.k = line.k
    assert score(again.step()).tobytes() == score(line.step()).tobytes()


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({"action": Action.SHADOW}, "expected the one to shadow, got none"),
        ({"action": Action.CANARY, "version": "s", "share": 1.5}, r"expected one in \(0, 1\], got 1.5"),
        ({"action": Action.STOP}, "expected a version beside the champion, there is none"),
        ({"action": Action.PROMOTE, "version": "s"}, "expected the one beside the champion, which is none, got s"),
        ({"action": Action.ROLLBACK}, "expected a version before the champion, there was none"),
        ({"action": Action.SHADOW, "version": "c", "champion": "c"}, "expected another than the champion, got c"),
    ],
)
def test_an_impossible_order_is_refused(order: dict[str, object], message: str) -> None:
    line = Line().run(2)
    with pytest.raises(BadInput, match=message):
        line.roll(**order)  # type: ignore[arg-type]
    assert line.pipeline.serving.other is None
    line.step()


def test_an_order_is_the_same_after_the_log() -> None:
    order = Rollout(action=Action.CANARY, version="a", share=0.25, champion="b", time_ns=7, who="ana", why="x")
    assert Rollout.from_bytes(order.to_bytes()) == order
    for wrong in (b"{", b"[]", b'{"action": "jump"}', b'{"action": "shadow", "colour": 1, "version": "a"}'):
        with pytest.raises(BadInput, match="expected a rollout as JSON"):
            Rollout.from_bytes(wrong)
