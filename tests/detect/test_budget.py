"""The alert budget is kept, without bursts, between floor and ceiling, and after a restart as before."""

from __future__ import annotations

import numpy as np
import pytest

from otel_aiops.detect.budget import Alerted, Budget, BudgetConfig, per_week
from otel_aiops.detect.detector import Scores
from otel_aiops.errors import ConfigError, StateError
from otel_aiops.labels import Labels
from otel_aiops.series.batch import Batch

HOUR_S, DAY_S = 3600, 86_400
BEGIN_S = 1_700_438_400


def labels(service: str, name: str = "m") -> Labels:
    return Labels(name, resource=(("service.name", service),))


def made(size: int = 20, *configs: BudgetConfig, default: BudgetConfig | None = None) -> Budget:
    budget = Budget(configs, default=default)
    budget.assign(np.arange(size, dtype=np.int32), [labels(f"s{k}") for k in range(size)])
    return budget


def step(
    budget: Budget,
    time_s: float,
    alert: np.ndarray | list[float],
    *,
    score: float | None = None,
    probability: np.ndarray | None = None,
    shift: np.ndarray | None = None,
) -> Alerted:
    alert = np.array(alert, np.float64)
    size, absent = len(alert), np.full(len(alert), np.nan)
    times = np.full(size, int((BEGIN_S + time_s) * 1e9), np.int64)
    scores = Scores(
        score=np.zeros(size) if score is None else np.full(size, score),
        probability=absent if probability is None else probability,
        expected=absent,
        lower=absent,
        upper=absent,
        channel=np.zeros(size, np.uint8),
        warmup_s=np.zeros(size),
        alert=alert,
    )
    batch = Batch(np.arange(size, dtype=np.int32), times, absent, absent)
    return budget.update(batch, scores, event_ns=int((BEGIN_S + time_s) * 1e9), shift=shift)


def noise(rng: np.random.Generator, size: int, chance: float) -> np.ndarray:
    """Alert scores with a heavy tail, as real ones have."""
    return np.where(rng.random(size) < chance, 0.5 * (1 + rng.pareto(1.2, size)), 0.0)


def live(budget: Budget, days: int, *, size: int = 20, chance: float = 0.01, seed: int = 0) -> np.ndarray:
    """Alerts of each day, with a step every twenty minutes."""
    rng, counts = np.random.default_rng(seed), np.zeros(days, int)
    for k in range(days * 72):
        counts[k // 72] += step(budget, 1200 * k, noise(rng, size, chance)).counted.sum()
    return counts


@pytest.mark.parametrize(("text", "weekly"), [("2/week", 2.0), ("1/day", 7.0), ("0.5/hour", 84.0), (3, 3.0)])
def test_budgets_are_read(text: str | float, weekly: float) -> None:
    assert per_week(text) == weekly


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"budget": "often"}, "budget"),
        ({"budget": "2/year"}, "budget"),
        ({"budget": 0}, "budget"),
        ({"name": ""}, "name"),
        ({"match": {"name": "~("}}, "match.name"),
        ({"hold": -1}, "hold"),
        ({"group": 1e9}, "group"),
        ({"floor": 3.0, "ceiling": 2.0}, "floor"),
        ({"false_discoveries": 0}, "false_discoveries"),
    ],
)
def test_wrong_settings_are_named(keys: dict[str, object], path: str) -> None:
    with pytest.raises(ConfigError) as error:
        BudgetConfig(**keys)  # type: ignore[arg-type]
    assert error.value.path == path


def test_names_are_different() -> None:
    with pytest.raises(ConfigError, match="twice"):
        Budget([BudgetConfig()])


@pytest.mark.parametrize("chance", [0.002, 0.02])
def test_the_budget_is_kept_from_the_first_week_on(chance: float) -> None:
    # 3 or 29 points a day that look strange, and one alert a day that is wanted.
    budget = made()
    weeks = live(budget, 35, chance=chance).reshape(5, 7).sum(axis=1)
    assert 1 <= weeks[0] <= 20
    assert 4 <= weeks[1:].mean() <= 10
    (report,) = budget.reports()
    assert report.actual == weeks[-1]
    assert report.alerts == weeks.sum()
    assert report.series == 20
    assert 3 < report.projected < 14


def test_a_storm_raises_the_threshold_and_quiet_lowers_it_slowly() -> None:
    budget = made()
    live(budget, 7)
    before = budget.reports()[0].threshold
    rng = np.random.default_rng(1)
    for k in range(48):
        step(budget, 7 * DAY_S + 600 * k, noise(rng, 20, 0.1))
    path = [budget.reports()[0].threshold]
    assert path[0] > 1.5 * before
    for k in range(80):
        step(budget, 8 * DAY_S + 6 * HOUR_S * k, np.zeros(20))
        path.append(budget.reports()[0].threshold)
    falls = -np.diff(np.log(path))
    assert falls[1:].max() <= 6 * 0.02 + 1e-9
    assert path[-1] < 0.8 * path[0]


def test_a_threshold_that_falls_opens_no_alert_for_what_has_been_so_for_long() -> None:
    budget = made(default=BudgetConfig(budget=20.0, floor=0.5))
    first = float(step(budget, 0, np.zeros(20)).threshold[0])
    level = 0.9 * first
    for k in range(500):
        assert not step(budget, HOUR_S * k, [level] * 20).opened.any()
    assert budget.reports()[0].threshold < level
    step(budget, 501 * HOUR_S, np.zeros(20))
    assert step(budget, 502 * HOUR_S, [level] * 20).opened.all()


def test_floor_and_ceiling() -> None:
    quiet = made(default=BudgetConfig(budget="10/hour", floor=2.0))
    for k in range(200):
        assert not step(quiet, HOUR_S * k, [1.9 if k % 2 else 0.0] * 20).opened.any()
    assert quiet.reports()[0].threshold == 2.0
    loud = made(default=BudgetConfig(budget=0.01, ceiling=30.0))
    assert live(loud, 5, chance=0.1).sum() > 0
    assert loud.reports()[0].threshold == pytest.approx(30.0)
    assert step(loud, 6 * DAY_S, [30.5] * 20, probability=np.zeros(20)).opened.all()


def test_an_alert_opens_at_the_threshold_and_closes_below_four_fifths_of_it_for_a_while() -> None:
    budget = made(2, default=BudgetConfig(floor=1.0, ceiling=1.0, hold=300.0))
    alerts = [0.99, 1.0, 0.85, 0.7, 0.9, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.9]
    steps = [step(budget, 60 * k, [alert, 0.0]) for k, alert in enumerate(alerts)]
    assert [int(one.opened[0]) for one in steps] == [0, 1] + [0] * 10
    assert [int(one.active[0]) for one in steps] == [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    assert not any(one.active[1] for one in steps)
    assert steps[2].ratio[0] == pytest.approx(0.85)
    assert step(budget, 800, [1.2, 0.0]).opened[0]


def test_a_score_that_stays_high_keeps_an_alert_open_that_is_held_back() -> None:
    budget = made(1, default=BudgetConfig(floor=1.0, ceiling=1.0))
    step(budget, 0, [2.0], score=3.0)
    for k in range(1, 100):
        held = step(budget, 60 * k, [0.0], score=3.0)
        assert held.active[0]
        assert not held.opened[0]
    assert step(budget, 6_000, [np.nan]).active[0]
    assert not step(budget, 6_400, [np.nan]).active[0]


def test_series_of_one_service_are_paid_once() -> None:
    budget = Budget(default=BudgetConfig(floor=1.0, ceiling=1.0))
    budget.assign(np.arange(4, dtype=np.int32), [labels("cart"), labels("cart"), labels("pay"), labels("cart")])
    one = step(budget, 0, [2.0, 2.0, 2.0, 0.0])
    assert one.opened.tolist() == [True, True, True, False]
    assert one.counted.tolist() == [True, False, True, False]
    two = step(budget, 120, [2.0, 2.0, 2.0, 2.0])
    assert two.opened.tolist() == [False, False, False, True]
    assert not two.counted.any()
    assert budget.reports()[0].actual == 2


def test_the_first_objective_that_matches_owns_a_series() -> None:
    pay = BudgetConfig(name="pay", match={"service": "~pay.*"}, floor=5.0, ceiling=5.0)
    late = BudgetConfig(name="late", match={"service": "payments"}, floor=9.0, ceiling=9.0)
    budget = Budget([pay, late], default=BudgetConfig(floor=2.0, ceiling=2.0))
    budget.assign(np.arange(2, dtype=np.int32), [labels("payments"), labels("cart")])
    budget.assign(np.empty(0, np.int32), [])
    assert step(budget, 0, [3.0, 3.0]).opened.tolist() == [False, True]
    assert [report.series for report in budget.reports()] == [1, 0, 1]


def test_shifts_move_the_thresholds_of_series() -> None:
    budget = made(3, default=BudgetConfig(floor=1.0, ceiling=1.0))
    assert step(budget, 0, [1.5] * 3, shift=np.array([0.0, 1.0, -1.0])).opened.tolist() == [True, False, True]


def test_what_a_verdict_spares_goes_to_no_other_alert_and_lowers_no_threshold() -> None:
    rng = np.random.default_rng(5)
    plain, told = made(), made()
    half = np.where(np.arange(20) < 10, 1.2, 0.0)  # false ones of half of the series were said to be so
    counts = np.zeros((2, 2), np.int64)
    for k in range(28 * 72):
        alert = noise(rng, 20, 0.01)
        for j, opened in enumerate(
            (step(plain, k * 1200, alert).opened, step(told, k * 1200, alert, shift=half).opened)
        ):
            counts[j] += opened[:10].sum(), opened[10:].sum()
    assert counts[1, 0] < 0.7 * counts[0, 0]
    assert abs(counts[1, 1] - counts[0, 1]) <= 0.1 * counts[0, 1]
    assert told.reports()[0].threshold == pytest.approx(plain.reports()[0].threshold, rel=0.1)


def test_what_many_series_have_by_chance_is_no_alert() -> None:
    rare = np.full(5_000, 0.5)
    rare[7] = 0.9995
    alert = np.zeros(5_000)
    alert[7] = 3.0
    fixed = BudgetConfig(floor=1.0, ceiling=1.0)
    assert step(made(5_000, default=fixed), 0, alert, probability=rare).opened[7]  # at the ceiling
    strict = BudgetConfig(budget=1e5, floor=0.5, false_discoveries=0.2)
    assert not step(made(5_000, default=strict), 0, alert, probability=rare).opened.any()
    rare[7] = 0.999999
    assert step(made(5_000, default=strict), 0, alert, probability=rare).opened[7]


def test_many_series_make_a_higher_threshold_at_once() -> None:
    few, many = made(10), made(10_000)
    for budget, size in ((few, 10), (many, 10_000)):
        step(budget, 0, np.zeros(size))
    assert many.reports()[0].threshold > 5 * few.reports()[0].threshold


def test_forgotten_rows_start_anew() -> None:
    budget = made(2, default=BudgetConfig(floor=1.0, ceiling=1.0))
    step(budget, 0, [2.0, 2.0])
    budget.forget(np.array([0, 99], np.int32))
    assert step(budget, 60, [2.0, 2.0]).opened.tolist() == [True, False]


def test_gaps_of_years_and_empty_batches_do_no_harm() -> None:
    budget = made()
    step(budget, 0, noise(np.random.default_rng(0), 20, 0.5))
    assert len(step(budget, 60, []).ratio) == 0
    step(budget, 1000 * DAY_S, [np.inf] * 20)
    step(budget, 999 * DAY_S, [np.nan] * 20)
    assert np.isfinite(budget.reports()[0].threshold)
    assert live(budget, 2).sum() >= 0


def test_a_restored_budget_goes_on_with_the_same_bits() -> None:
    pay = BudgetConfig(name="pay", match={"service": "s3"})
    one, other = made(20, pay), made(20, pay)
    live(one, 3)
    live(other, 1, seed=5)
    other.restore(one.state())
    rng = np.random.default_rng(2)
    for k in range(200):
        alert = noise(rng, 20, 0.05)
        a, b = (step(budget, 3 * DAY_S + 600 * k, alert) for budget in (one, other))
        assert a.counted.tobytes() + a.threshold.tobytes() == b.counted.tobytes() + b.threshold.tobytes()
    state, same = one.state(), other.state()
    assert all(np.array_equal(state[name], same[name]) for name in state)


def test_a_state_from_before_spared_alerts_were_counted_is_taken() -> None:
    one, other = made(20), made(20)
    live(one, 3)
    older = {name: array for name, array in one.state().items() if not name.endswith(("spared", "spared_ns"))}
    assert len(older) == len(one.state()) - 3
    other.restore(older)
    state, same = one.state(), other.state()
    assert all(np.array_equal(state[name], same[name]) for name in older)


def test_objectives_are_restored_by_name_and_bad_state_is_refused() -> None:
    one = made(20, BudgetConfig(name="pay", match={"service": "s3"}))
    live(one, 3, chance=0.1)
    other = made(20, BudgetConfig(name="new", match={"service": "s4"}))
    other.restore(one.state())
    new, default = other.reports()
    assert default == one.reports()[1]
    assert (new.alerts, new.series) == (0, 0)
    with pytest.raises(StateError):
        other.restore({**one.state(), "clock": np.zeros(2, np.int64)})
    with pytest.raises(StateError):
        other.restore({**one.state(), "rows/what": np.zeros(2)})
