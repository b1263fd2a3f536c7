"""Holt-Winters forecasts: the kernel filters as statsmodels does, and a version has them only where they are better."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.detect.detector import FORECAST, LEVEL, Scores
from otel_aiops.detect.engine import EngineConfig
from otel_aiops.detect.forest import series_key
from otel_aiops.detect.serving import Action, Rollout, Trained
from otel_aiops.detect.smoothing import DAY_NS, SLOTS, TRAINED, Smoothing, smooth
from otel_aiops.errors import BadInput, ConfigError, StateError
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.dataset import Datasets
from otel_aiops.lifecycle.forecasts import fit, train_forecasts
from otel_aiops.lifecycle.manifest import Window
from otel_aiops.lifecycle.stretch import Stored
from otel_aiops.lifecycle.train import Wanted, train
from otel_aiops.lifecycle.version import ForecastConfig, Models, Settings, families_of
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.otlp.memo import Memo
from otel_aiops.pipeline import Pipeline, PipelineConfig
from otel_aiops.series.batch import Batch
from otel_aiops.series.columns import Arrays
from otel_aiops.series.segments import HOUR_NS
from tests.feed import Feed
from tests.lifecycle.recording import START_NS, columns, record

DAYS, STEP_NS = 6, DAY_NS // SLOTS
NOW_NS = START_NS + DAYS * DAY_NS + 2 * HOUR_NS
PLAIN = EngineConfig(seasons="off", novelty_memory=0)


def named(name: str) -> Labels:
    return Labels(name, resource=(("service.name", "cart"),), scope_name="app")


WALK, NOISE, FLAT = named("walk"), named("noise"), named("flat")


def history(rng: np.random.Generator, steps: int = DAYS * SLOTS) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    day = np.arange(steps) * 2 * np.pi / SLOTS
    return 500 + 100 * np.sin(day) + 30 * np.sign(np.sin(5 * day)) + np.cumsum(rng.normal(0, 2.0, steps))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Datasets, str]:
    directory, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    texts, steps = [one.to_json() for one in (WALK, NOISE, FLAT)], DAYS * SLOTS
    value = np.stack([history(rng), rng.normal(100, 5, steps), np.full(steps, 3.0)], axis=1)
    value[50:60, 0] = np.nan
    time_ns, code = START_NS + np.repeat(np.arange(steps), 3) * STEP_NS, np.tile(np.arange(3), steps)
    some = np.isfinite(value.ravel())
    record(directory, columns(texts, code[some], time_ns[some], value.ravel()[some]), merge=False).compact(
        NOW_NS, through=1
    )
    datasets = Datasets.of(directory)
    return datasets, datasets.build(
        Window(START_NS, START_NS + DAYS * DAY_NS), now_ns=NOW_NS + HOUR_NS, force="a test"
    ).id


def forecasts_of(dataset: tuple[Datasets, str], config: ForecastConfig, processes: int = 1) -> Arrays:
    datasets, name = dataset
    span = {"start_ns": START_NS, "end_ns": START_NS + DAYS * DAY_NS}
    return train_forecasts(
        Stored(datasets.directory, name), datasets.series(name).names, config, PLAIN, **span, processes=processes
    )


@pytest.fixture(scope="module")
def arrays(dataset: tuple[Datasets, str]) -> Arrays:
    return forecasts_of(dataset, ForecastConfig())


@pytest.mark.filterwarnings("ignore::Warning")
def test_the_kernel_filters_as_statsmodels_does() -> None:
    from statsmodels.tsa.holtwinters import ExponentialSmoothing

    rng, slots = np.random.default_rng(1), 12
    y = 10 + np.tile(rng.normal(0, 3, slots), 10) + np.cumsum(rng.normal(0, 0.3, 10 * slots))
    level, season = float(y[:slots].mean()), y[:slots] - y[:slots].mean()
    model = ExponentialSmoothing(
        y,
        trend="add",
        damped_trend=True,
        seasonal="add",
        seasonal_periods=slots,
        initialization_method="known",
        initial_level=level,
        initial_trend=0.0,
        initial_seasonal=season,
    )
    for wanted in ((0.4, 0.2, 0.3, 0.95), (0.9, 0.0, 0.0, 1.0), (0.05, 0.5, 0.9, 0.8)):
        names = ("smoothing_level", "smoothing_trend", "smoothing_seasonal", "damping_trend")
        theirs = model.fit(optimized=False, **dict(zip(names, wanted, strict=True)))
        expected, end, ours = np.empty(len(y)), np.empty(2), season.copy()
        smooth(y, ours, 0, np.array([level, 0.0]), np.array(wanted), np.inf, expected, end)
        assert expected == pytest.approx(theirs.fittedvalues, abs=1e-9)
        assert end == pytest.approx([theirs.level[-1], theirs.trend[-1]], abs=1e-9)
        assert ours == pytest.approx(theirs.season[-slots:], abs=1e-9)


def trained(limit: float = 30.0, slots: int = SLOTS) -> Arrays:
    season = np.zeros((1, SLOTS))
    season[0, :slots] = 10 * np.sin(np.arange(slots) * 2 * np.pi / slots)
    of = {"alpha": 0.4, "beta": 0.1, "gamma": 0.2, "phi": 0.9, "level": 100.0, "trend": 0.0, "limit": limit}
    found: Arrays = {name: np.array([value]) for name, value in of.items()}
    found |= {"key": np.array([series_key(WALK)], np.uint64), "slots": np.array([slots], np.int64), "season": season}
    found["slot"] = np.array([START_NS // (DAY_NS // slots) - 1])
    return {name: found[name] for name in TRAINED}


def point(time_ns: int, value: float, row: int = 0) -> Batch:
    return Batch(np.array([row], np.int32), np.array([time_ns]), np.array([value]), np.array([60.0]))


def own(size: int = 1, score: float = 0.3) -> Scores:
    parts = [np.full(size, score) for _ in range(5)]
    return Scores(*parts, np.full(size, LEVEL, np.uint8), np.zeros(size), np.zeros(size))


@given(st.lists(st.one_of(st.none(), st.floats(-80, 80)), min_size=3, max_size=40), st.sampled_from([24, 96]))
@settings(max_examples=40, deadline=None)
def test_points_one_by_one_give_what_the_means_give_at_once(changes: list[float | None], slots: int) -> None:
    arrays, width_ns = trained(slots=slots), DAY_NS // slots
    smoothing = Smoothing(arrays)
    smoothing.assign(np.array([7], np.int32), [WALK])
    first, said = START_NS // width_ns, []
    y = np.array([np.nan if one is None else 100 + one for one in changes])
    for t, mean in enumerate(y.tolist()):
        for part in (0.2, 0.8) if mean == mean else ():
            found = smoothing.combined(
                point((first + t) * width_ns + int(part * width_ns), mean + 10 * part - 5, 7), own()
            )
            said.append(float(found.score[0]))
        state = smoothing.state()
        restored = Smoothing.restored(state)
        assert restored is not None
        smoothing = restored
    expected, end = np.empty(len(y)), np.empty(2)
    season = arrays["season"][0, :slots].copy()
    parameters = np.array([arrays[name][0] for name in ("alpha", "beta", "gamma", "phi")])
    smooth(y, season, first, np.array([100.0, 0.0]), parameters, 30.0, expected, end)
    error = np.abs(y - expected)[np.isfinite(y)][:-1] / 30.0
    told = np.array(said)[2::2]  # at the first point of the next stretch that has one
    assert told == pytest.approx(np.where(error >= 1, error, 0.3))


def test_a_strange_mean_is_told_once_with_its_reason() -> None:
    smoothing = Smoothing(trained())
    smoothing.assign(np.array([0, 1], np.int32), [WALK, NOISE])
    for t in range(4):
        smoothing.combined(point(START_NS + t * STEP_NS, 100.0 if t < 3 else 400.0), own())
    found = smoothing.combined(point(START_NS + 4 * STEP_NS, 100.0), own())
    assert found.channel.tolist() == [FORECAST] and found.score[0] > 8 and np.isnan(found.probability[0])
    assert found.alert[0] > 0
    assert "The mean of the last 15 minutes is 400 ms, where level" in smoothing.reason(0, "ms")
    high = smoothing.combined(point(START_NS + 5 * STEP_NS, 400.0), own(score=99.0))
    assert high.channel.tolist() == [LEVEL], "its own score is higher"
    cold = smoothing.combined(point(START_NS + 6 * STEP_NS, 400.0), own(score=np.nan))
    assert np.isnan(cold.score).all(), "no point gets a score that had none"
    late = smoothing.combined(point(START_NS + 900 * STEP_NS, 400.0), own())
    later = smoothing.combined(point(START_NS + 901 * STEP_NS, 400.0), own())
    assert late.channel.tolist() == [FORECAST] and later.score.tolist() == [0.3], "after a long gap it begins anew"
    smoothing.combined(point(START_NS + 10 * STEP_NS, np.nan), own())  # one that is late, and absent
    smoothing.forget(np.array([0, 900], np.int32))
    assert smoothing.combined(point(START_NS + 902 * STEP_NS, 900.0), own()).score.tolist() == [0.3]
    assert smoothing.combined(point(0, 1.0, 5_000), own()).score.tolist() == [0.3]


def test_forecasts_are_kept_where_they_beat_the_engine(dataset: tuple[Datasets, str], arrays: Arrays) -> None:
    assert arrays["key"].tolist() == [series_key(WALK)]
    again = forecasts_of(dataset, ForecastConfig(), processes=2)
    assert all(arrays[name].tobytes() == again[name].tobytes() for name in TRAINED)
    assert forecasts_of(dataset, ForecastConfig(gain=0.99)) == {}
    assert fit(np.full(300, 2.0), 96) is None and fit(np.arange(100.0), 96) is None


@pytest.mark.parametrize("name", ["limit", "slots", "season", "level", "key"])
def test_arrays_that_are_no_forecasts_are_refused(arrays: Arrays, name: str) -> None:
    wrong = {**arrays, name: arrays[name][:0] if name == "key" else np.zeros_like(arrays[name])}
    wrong = {**wrong, name: arrays[name] * np.nan} if name in ("season", "level") else wrong
    with pytest.raises(StateError):
        Smoothing(wrong)
    state = Smoothing(arrays).state()
    with pytest.raises(StateError):
        Smoothing.restored({**state, "row": np.array([0], np.int32)})
    assert Smoothing.restored({}) is None


def test_settings_of_forecasts_are_checked() -> None:
    for wrong in ({"most_series": 0}, {"gain": 1.0}, {"spreads": 0.5}):
        with pytest.raises(ConfigError):
            ForecastConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="family: expected some of forecast, forest, got tree"):
        families_of(["tree"])
    both = Settings(families=families_of(["forest", "forecast", "forest"]))
    assert Settings.from_json(both.to_json()) == both and len(both.families) == 2


def test_a_version_with_forecasts_serves(dataset: tuple[Datasets, str], tmp_path: Path) -> None:
    datasets, name = dataset
    wanted = Settings(PLAIN, (ForecastConfig(),))
    models = Models(tmp_path)
    version, bundle = models.load(train(datasets, models, Wanted(dataset=name), wanted, PipelineConfig()).id)
    assert version.settings == wanted and bundle.forecast
    learned = Trained(PLAIN, bundle.labels, bundle.engine, bundle.budget, bundle.prototypes, forecast=bundle.forecast)
    pipeline = Pipeline(PipelineConfig(detection=PLAIN))
    level = float(bundle.forecast["level"][0])

    def feed(of: Pipeline, quarter: int, value: float) -> tuple[list[float], list[str]]:
        body, time_ns = Feed("cart"), START_NS + DAYS * DAY_NS + quarter * STEP_NS
        body.gauge("walk", time_ns / 1e9, value)
        points = decode_metrics(body.request.SerializeToString(), Memo()).points
        scored = of.metrics(points, now_ns=time_ns).scored[0]
        said = [of.reason(scored, k) for k in np.flatnonzero(scored.scores.channel == FORECAST).tolist()]
        return scored.scores.score.tolist(), said

    feed(pipeline, 0, level)
    pipeline.roll(Rollout(action=Action.SHADOW, version=version.id, time_ns=1), lambda _: learned)
    pipeline.roll(Rollout(action=Action.PROMOTE, version=version.id, time_ns=1), lambda _: learned)
    spread = float(bundle.forecast["limit"][0])
    feed(pipeline, 1, level)
    feed(pipeline, 2, level + 40 * spread)
    after = Pipeline(PipelineConfig(detection=PLAIN))
    after.restore(pipeline.state())
    found, same = feed(pipeline, 3, level), feed(after, 3, level)
    assert found == same
    assert replace(version.lineage, who="x") and len(found[1]) == 1 and "time of day" in found[1][0]
