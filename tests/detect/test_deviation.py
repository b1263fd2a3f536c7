"""The deviation tier: equal to its slow twin, in what it says of each point and in all that it remembers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.detect import calibrate
from otel_aiops.detect.detector import CHANNELS
from otel_aiops.detect.deviation import Deviation, Look
from otel_aiops.detect.engine import LARGEST, EngineConfig
from otel_aiops.detect.seasonal import Clock
from otel_aiops.series.batch import Batch, Wall
from tests.detect.made_series import KINDS, values_of
from tests.detect.naive_deviation import GUIDES, TRACKED, NaiveDeviation, NaiveLook, Point, State

DAY_S = 86_400
START_NS = 1_790_000_000 * 1_000_000_000  # a Monday's afternoon


class Stretch(NamedTuple):
    """Points of one kind, on top of a day's wave or not, after a gap."""

    kind: str
    size: int
    seed: int
    wave: float  # height of the wave, in the unit of the series
    gap_s: int


class Cycle(NamedTuple):
    """That of a profile which is not the week."""

    cells: int
    back: int
    newest: float


class Made(NamedTuple):
    """A series, and what else is said of its points."""

    time_s: list[int]
    value: list[float]
    strange: list[bool]  # to somebody else
    special: list[bool]


stretches = st.lists(
    st.builds(
        Stretch,
        st.sampled_from((*KINDS, "noise", "noise", "calm", "ramp", "flat")),
        st.integers(1, 150),
        st.integers(0, 1_000_000),
        st.sampled_from((0.0, 0.0, 10.0, 10.0, 1000.0)),
        st.sampled_from((0, 0, 0, 1_000, 90_000, 700_000)),
    ),
    min_size=1,
    max_size=6,
)
configs = st.builds(
    EngineConfig,
    threshold=st.sampled_from((6.0, 3.0)),
    warmup_points=st.sampled_from((20, 5)),
    memory_points=st.sampled_from((300, 40)),
    seasons=st.sampled_from(("week", "week", "off")),
    adapt_after=st.sampled_from((7_200.0, 600.0, 40_000.0)),
)
intervals = st.sampled_from((60, 300, 3_600))
cycles = st.sampled_from((None, None, Cycle(30, 1, 0.2)))


def made_of(story: list[Stretch], interval_s: int) -> Made:
    made, now = Made([], [], [], []), 0
    for each in story:
        rng, now = np.random.default_rng(each.seed), now + each.gap_s
        time_s = now + interval_s * np.arange(1, each.size + 1)
        noise = rng.normal(size=each.size)
        own = {
            "calm": 50 + 0.01 * noise,
            "ramp": 50 + noise + 0.3 * np.arange(each.size),
            "flat": np.full(each.size, 50.0),
        }
        value = own[each.kind] if each.kind in own else values_of([each[:3]])
        value = value + each.wave * np.sin(2 * np.pi * time_s / DAY_S)
        made.time_s.extend(time_s.tolist())
        made.value.extend(np.clip(value, -LARGEST, LARGEST).tolist())
        made.strange.extend((rng.random(each.size) < 0.01).tolist())
        made.special.extend((time_s // DAY_S % 9 == each.seed % 9).tolist())
        now = int(time_s[-1])
    return made


def batch_of(rows: list[int], made: list[Made], i: int, wall: bool) -> Batch:
    """The i-th points of some series."""
    time_ns = START_NS + 1_000_000_000 * np.array([each.time_s[i] for each in made], np.int64)
    since = [float(each.time_s[i] - each.time_s[i - 1]) if i else math.nan for each in made]
    clocks = Wall(time_ns + 7_200 * 10**9, np.array([each.special[i] for each in made])) if wall else None
    value = np.array([each.value[i] for each in made])
    return Batch(np.array(rows, np.int32), time_ns, value, np.array(since), clocks)


def step(deviation: Deviation, batch: Batch, strange: list[bool], clock: Clock) -> Look:
    """Look at points and learn them, as the engine does. What is `strange` is over the threshold for another reason,
    and has no score before there is a threshold.
    """
    look = deviation.look(batch, batch.value, clock)
    told = Look._make([*(part.copy() for part in look[:-1]), look.season])
    warm = deviation.memory.known.points[batch.rows] >= deviation.config.warmup_points
    score = np.where(~warm & strange, np.nan, look.score)
    deviation.learn(batch, batch.value, look, clock, score, warm & ((look.score >= 1) | strange))
    return told


def twin_step(twin: NaiveDeviation, point: Point, strange: bool) -> NaiveLook:
    look = twin.look(point)
    warm = twin.state.points >= twin.warmup_points
    score = math.nan if strange and not warm else look.score
    twin.learn(point, look, score, warm and (look.score >= 1 or strange))
    return look


def twin_of(config: EngineConfig, cycle: Cycle | None = None) -> NaiveDeviation:
    rules = config.threshold, config.warmup_points, config.memory_points, config.adapt_after, config.seasons != "off"
    return NaiveDeviation(*rules, *(cycle or ()))


def clock_of(batch: Batch, cycle: Cycle | None) -> Clock:
    return Clock(batch.wall_ns, *(np.full(len(batch.rows), part) for part in cycle or ()))


NUMBERS = [name for name in NaiveLook.__annotations__ if name not in ("channel", "guide", "still")]
COLUMNS = list(State.__annotations__)
UNITLESS = {"log_ratio", "lasting", "score", "power_error", *TRACKED}


def assert_said(look: Look, k: int, twin: NaiveLook) -> None:
    told = CHANNELS[look.channel[k]], GUIDES[look.guide[k]], bool(look.still[k])
    assert told == (twin.channel, twin.guide, twin.still)
    found = {name: float(getattr(look, name)[k]) for name in NUMBERS}
    assert_close(found, {name: getattr(twin, name) for name in NUMBERS})


def assert_close(found: dict[str, float], expected: dict[str, float]) -> None:
    for name, value in expected.items():
        if found[name] != value:
            nearly = 1e-12 if name in UNITLESS else 0.0
            close = math.isclose(found[name], value, rel_tol=1e-6, abs_tol=nearly)
            assert close or (math.isnan(value) and math.isnan(found[name])), (name, found[name], value)


def assert_same(deviation: Deviation, row: int, twin: NaiveDeviation) -> None:
    known = deviation.memory.known
    assert_close(
        {name: float(getattr(known, name)[row]) for name in COLUMNS},
        {name: getattr(twin.state, name) for name in COLUMNS},
    )


def follow(
    config: EngineConfig, made: list[Made], wall: bool = False, cycle: Cycle | None = None
) -> Iterator[tuple[NaiveDeviation, NaiveLook]]:
    """Step by step through series and their twins, which must agree: every twin and what it said."""
    deviation, twins = Deviation(config), [twin_of(config, cycle) for _ in made]
    for i in range(max(len(each.value) for each in made)):
        some = [k for k in range(len(made)) if i < len(made[k].value)]
        batch = batch_of([2 * k for k in some], [made[k] for k in some], i, wall)
        look = step(deviation, batch, [made[k].strange[i] for k in some], clock_of(batch, cycle))
        for at, k in enumerate(some):
            clock_ns, special = int(batch.wall_ns[at]), wall and made[k].special[i]
            point = Point(int(batch.time_ns[at]), made[k].value[i], float(batch.interval_s[at]), clock_ns, special)
            told = twin_step(twins[k], point, made[k].strange[i])
            assert_said(look, at, told)
            assert_same(deviation, 2 * k, twins[k])
            if i % 50 == 0:
                assert_as_rare(deviation, 2 * k, twins[k])
            yield twins[k], told


def assert_as_rare(deviation: Deviation, row: int, twin: NaiveDeviation) -> None:
    quantiles = [math.exp(getattr(twin.state, name)) for name in TRACKED]
    for score in (0.0, *(share * quantile for quantile in quantiles for share in (0.99, 1.01)), 20.0):
        found = calibrate.probability(deviation.memory.known, row, score)
        assert math.isclose(found, twin.probability(score), rel_tol=1e-6, abs_tol=1e-12)


@settings(max_examples=18, deadline=None)
@given(configs, intervals, st.lists(stretches, min_size=1, max_size=3), st.booleans(), cycles)
def test_equals_its_slow_twin(
    config: EngineConfig, interval_s: int, stories: list[list[Stretch]], wall: bool, cycle: Cycle | None
) -> None:
    for _ in follow(config, [made_of(story, interval_s) for story in stories], wall, cycle):
        pass


def test_equals_its_slow_twin_over_weeks_in_which_everything_happens() -> None:
    rng, size = np.random.default_rng(11), 1_500
    hours = np.arange(size)
    value = 100 + 40 * np.sin(2 * np.pi * hours / 24) + rng.normal(size=size)
    value[700:724] = 30 + rng.normal(size=24)  # a day off, after which the season comes back
    value[900:960] += 4 * rng.normal(size=60)
    value[1_000:1_080] = 180.0
    value[1_100:1_125] += 3e6
    value[1_200:1_400] = np.cumsum(rng.normal(size=200)) * 20
    steady = np.where(hours == 300, 51.0, 50.0)
    steady[900:] = 50 + rng.normal(size=600)
    steady[1_300:1_310] += 30 - 3.6 * np.arange(10)
    walk = np.cumsum(rng.normal(size=size))
    none = [False] * size
    made = [Made((3_600 * hours).tolist(), each.tolist(), none, none) for each in (value, steady, walk)]
    channels, guides, happened = set(), set(), set()
    for twin, told in follow(EngineConfig(seasons="week", adapt_after=36_000.0), made):
        state = twin.state
        channels |= {told.channel}
        guides |= {told.guide}
        happened |= {name for name in ("former", "before", "accepted_s") if getattr(state, name)}
        happened |= {"still"} if told.still and told.far < 1 else set()
        happened |= {"growth"} if state.unit > 100 else set()
    assert channels == {"level", "season", "shift", "variance", "flat", "constant"}
    assert guides == set(GUIDES)
    assert happened == {"former", "before", "accepted_s", "still", "growth"}


@settings(max_examples=5, deadline=None)
@given(configs, intervals, st.lists(stretches, min_size=2, max_size=4), st.booleans())
def test_many_series_at_once_equal_one_at_a_time(
    config: EngineConfig, interval_s: int, stories: list[list[Stretch]], apart: bool
) -> None:
    made = [made_of(story, interval_s) for story in stories]
    together, alone = Deviation(config), Deviation(config)
    for i in range(max(len(each.value) for each in made)):
        some = [k for k in range(len(made)) if i < len(made[k].value)]
        rows = [9 * k if apart else k for k in some]
        batch = batch_of(rows, [made[k] for k in some], i, wall=True)
        look = step(together, batch, [made[k].strange[i] for k in some], Clock(batch.wall_ns))
        for at, k in enumerate(some):
            one = batch.at(np.array([at]))
            told = step(alone, one, [made[k].strange[i]], Clock(one.wall_ns))
            for name in Look._fields[:-1]:
                np.testing.assert_array_equal(getattr(look, name)[at], getattr(told, name)[0])
    for name, array in together.memory.state().items():
        np.testing.assert_array_equal(array, alone.memory.state()[name])


def test_many_rows_in_a_row_equal_one_at_a_time() -> None:
    rng, rows = np.random.default_rng(5), np.arange(200, dtype=np.int32)
    together, alone = Deviation(EngineConfig()), Deviation(EngineConfig())
    for i in range(100):
        since = np.full(200, 600.0)
        batch = Batch(rows, np.full(200, START_NS + i * 600 * 10**9), np.round(rng.normal(size=200), 1), since)
        look = step(together, batch, [False] * 200, Clock(batch.wall_ns))
        for row in (0, 63, 64, 199):
            one = batch.at(np.array([row]))
            told = step(alone, one, [False], Clock(one.wall_ns))
            assert [float(part[row]) for part in look[:3]] == [float(part[0]) for part in told[:3]]


def test_a_point_that_is_only_looked_at_changes_nothing() -> None:
    made = made_of([Stretch("noise", 150, 1, 10.0, 0), Stretch("jump", 20, 2, 0.0, 0)], 300)
    seen, unseen = Deviation(EngineConfig()), Deviation(EngineConfig())
    for i in range(len(made.value)):
        batch = batch_of([0], [made], i, wall=False)
        seen.look(batch, batch.value * 3 + 1, Clock(batch.wall_ns))
        if i:
            before, after = unseen.memory.state(), seen.memory.state()
            for name in before:
                np.testing.assert_array_equal(before[name], after[name])
        a, b = (step(each, batch, [False], Clock(batch.wall_ns)) for each in (seen, unseen))
        for one, other in zip(a, b, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("strange", [False, True])
def test_counts_stop_at_what_fits(strange: bool) -> None:
    config = EngineConfig(adapt_after=1e12)
    deviation, twin = Deviation(config), twin_of(config)
    made = made_of([Stretch("flat", 200, 0, 0.0, 0)], 60)
    made.value[::2] = [50.0 + (i % 7) for i in range(100)]
    made.value[60:] = [50.0] * 140
    full = {"run": 65_535, "settled": 65_535, "hour_points": 65_535, "over": 65_534, "points": 1e6, "calm": 255}
    full |= {"season_points": 1e6} if strange else {"burst": 255, "long_burst": 255}
    for i in range(len(made.value)):
        if i == 100:
            for name, most in full.items():
                getattr(deviation.memory.known, name)[0] = most
                setattr(twin.state, name, most)
        batch = batch_of([0], [made], i, wall=False)
        look = step(deviation, batch, [strange], Clock(batch.wall_ns))
        point = Point(int(batch.time_ns[0]), made.value[i], float(batch.interval_s[0]))
        assert_said(look, 0, twin_step(twin, point, strange))
        assert_same(deviation, 0, twin)


@pytest.mark.parametrize(("value", "still"), [(60.0, True), (55.0, False), (50.0, False)])
def test_an_anomaly_that_is_where_it_came_from_goes_on_beyond(value: float, still: bool) -> None:
    deviation, twin = Deviation(EngineConfig()), twin_of(EngineConfig())
    made = made_of([Stretch("noise", 100, 3, 0.0, 0)], 60)
    for i in range(100):
        batch = batch_of([0], [made], i, wall=False)
        step(deviation, batch, [False], Clock(batch.wall_ns))
        twin_step(twin, Point(int(batch.time_ns[0]), made.value[i], float(batch.interval_s[0])), False)
    for name, x in {"level": 50.0, "over": 1.0, "apart": 5.0, "before": 5.0, "extreme": -3.0}.items():
        getattr(deviation.memory.known, name)[0] = x
        setattr(twin.state, name, x)
    look = deviation.look(batch, np.array([value]), Clock(batch.wall_ns))
    assert_said(look, 0, twin.look(Point(int(batch.time_ns[0]), value)))
    assert bool(look.still[0]) is still
