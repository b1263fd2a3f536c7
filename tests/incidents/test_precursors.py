"""Precursors are learned only from enough incidents, and only where they are better than the base rate."""

from __future__ import annotations

import numpy as np
import pytest

from otel_aiops.errors import BadInput, ConfigError, StateError
from otel_aiops.incidents.past import Past
from otel_aiops.incidents.precursors import Precursor, PrecursorsConfig, from_body, labelled, to_body, train
from otel_aiops.incidents.signs import FeatureWindows, Seen, features

S = 1_000_000_000
CONFIG = PrecursorsConfig()


def history(incidents: int, *, telling: bool) -> tuple[Past, FeatureWindows]:
    """Incidents about every four hours; a finding 20 minutes before each, or at any time."""
    random = np.random.default_rng(4)
    start_s = np.cumsum(random.integers(3, 6, incidents)) * 3_600
    past = Past(("payment|latency",) * incidents, start_s * S, (start_s + 600) * S)
    before = start_s - 1_200 if telling else random.integers(0, start_s[-1], incidents)
    other = random.integers(0, start_s[-1], 3 * incidents)
    told = [*((at, "payment|resource") for at in before), *((at, "search|resource") for at in other)]
    seen = seen_of([*told, *((at, "search|deployment") for at in other)])
    return past, features(seen, seen.names, np.arange(0, int(start_s[-1]), 300) * S)


def seen_of(signs: list[tuple[int, str]]) -> Seen:
    """Signs as they were seen, of score 1."""
    signs = sorted(signs)
    names = sorted({name for _, name in signs})
    numbers = np.array([names.index(name) for _, name in signs], np.int32)
    return Seen(tuple(names), np.array([at for at, _ in signs], np.int64) * S, numbers, np.ones(len(signs)), 0)


def test_what_comes_before_is_learned_and_kept_as_json() -> None:
    past, windows = history(40, telling=True)
    (trained,) = train(past, windows, CONFIG)
    model = trained.model
    assert model is not None and model.brier < 0.6 * model.base_brier and trained.incidents == 40
    assert from_body(to_body([model, model])) == (model, model) and from_body(to_body([])) == ()
    at = int(np.searchsorted(windows.time_ns, past.start_ns[-1] - 900 * S))
    assert model.names == windows.names and model.probability(windows.value[at : at + 1])[0] > 0.5
    never = FeatureWindows((*windows.names, "never"), windows.time_ns, np.insert(windows.value, 18, 0.0, axis=1))
    (same,) = train(past, never, CONFIG)
    assert same.model is not None and same.model.names == windows.names


def test_without_enough_or_without_a_sign_there_is_no_model_but_numbers() -> None:
    (few,) = train(*history(5, telling=True), CONFIG)
    assert few.model is None and few.reason == "not enough incidents yet: 5 of 12"
    (chance,) = train(*history(40, telling=False), CONFIG)
    assert chance.model is None and "no better than the base rate" in chance.reason
    past, windows = history(40, telling=True)
    short = FeatureWindows(windows.names, windows.time_ns[:20], windows.value[:20])
    assert train(past, short, CONFIG)[0].model is None


def test_labels_look_ahead_and_say_nothing_during_an_incident() -> None:
    past = Past(("a", "b", "a"), np.array([1_000, 2_000, 9_000]) * S, np.array([1_500, 2_500, 0]) * S)
    truth, wait_s = labelled(past, "a", np.array([0, 1_200, 1_600, 8_000, 9_500]) * S, CONFIG)
    np.testing.assert_array_equal(truth, [1, np.nan, 0, 1, 0])
    assert wait_s[:4].tolist() == [1_000, 7_800, 7_400, 1_000] and np.isinf(wait_s[4])


def test_bad_input_is_refused() -> None:
    with pytest.raises(BadInput):
        Past(("a",), np.array([1, 2]), np.array([1, 2]))
    with pytest.raises(BadInput):
        Past(("a", "a"), np.array([2, 1]), np.array([2, 1]))
    with pytest.raises(BadInput):
        FeatureWindows(("a",), np.array([1]), np.zeros((2, 1)))
    with pytest.raises(BadInput):
        FeatureWindows(("a",), np.array([1, 1]), np.zeros((2, 1)))
    for line in ("", "[]", '{"format": 2}', '{"format": 1}'):
        with pytest.raises(StateError):
            Precursor.from_json(line)
    with pytest.raises(BadInput):
        from_body(b"{}")
    (trained,) = train(*history(40, telling=True), CONFIG)
    assert trained.model is not None
    with pytest.raises(StateError):
        Precursor.from_json(trained.model.to_json().replace('"bias": ', '"bias": 1e999, "was": '))
    wrong = {"horizon": 1.0, "gap": -1.0, "least_incidents": 2, "probability": 0.0, "history": 60.0, "interval": 0.0}
    for name, value in wrong.items():
        with pytest.raises(ConfigError):
            PrecursorsConfig(**{name: value})  # type: ignore[arg-type]


def test_probabilities_of_a_true_precursor_are_calibrated_on_time_that_was_not_known() -> None:
    random = np.random.default_rng(6)
    signs_s = np.cumsum(random.integers(5_400, 14_400, 600))  # a finding, after which 7 of 10 times an incident comes
    right = random.random(len(signs_s)) < 0.7
    start_s = (signs_s + random.integers(300, 1_500, len(signs_s)))[right]
    past = Past(("payment|latency",) * len(start_s), start_s * S, (start_s + 300) * S)
    seen = seen_of([(int(at), "payment|resource") for at in signs_s])
    windows = features(seen, seen.names, np.arange(0, int(signs_s[-1]), 300) * S)
    cut_s = int(0.6 * signs_s[-1])
    known, times = start_s < cut_s, windows.time_ns < cut_s * S
    older = Past(past.type[: int(known.sum())], past.start_ns[known], past.end_ns[known])
    (trained,) = train(older, FeatureWindows(windows.names, windows.time_ns[times], windows.value[times]), CONFIG)
    assert trained.model is not None
    truth, _ = labelled(past, "payment|latency", windows.time_ns, CONFIG)
    later = ~times & np.isfinite(truth)
    said, came = trained.model.probability(windows.value[later]), truth[later]
    for low, high in ((0.0, 0.2), (0.5, 1.0)):
        some = (said >= low) & (said < high)
        assert some.sum() > 100 and abs(said[some].mean() - came[some].mean()) < 0.1
    assert np.mean((said - came) ** 2) < 0.8 * np.mean((came - came.mean()) ** 2)
    few = Past(past.type[:8], past.start_ns[:8], past.end_ns[:8])
    (untrained,) = train(few, windows, CONFIG)
    assert untrained.model is None and "not enough incidents yet" in untrained.reason
