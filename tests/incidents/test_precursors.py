"""Precursors are learned only from enough incidents, and only where they are better than the base rate."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from otel_aiops.errors import BadInput, ConfigError, StateError
from otel_aiops.incidents.incident import Channel, Evidence, Finding, State
from otel_aiops.incidents.precursors import (
    FeatureWindows,
    Past,
    Precursor,
    PrecursorsConfig,
    features,
    foretell,
    labelled,
    train,
)

S = 1_000_000_000
CONFIG = PrecursorsConfig()


def history(incidents: int, *, telling: bool) -> tuple[Past, FeatureWindows]:
    """Incidents about every four hours; a finding 20 minutes before each, or at any time."""
    random = np.random.default_rng(4)
    start_s = np.cumsum(random.integers(3, 6, incidents)) * 3_600
    past = Past(("payment|latency",) * incidents, start_s * S, (start_s + 600) * S)
    before = start_s - 1_200 if telling else random.integers(0, start_s[-1], incidents)
    other = random.integers(0, start_s[-1], 3 * incidents)
    found = [finding("payment", int(at)) for at in np.sort(before)] + [finding("search", int(at)) for at in other]
    return past, features(found, np.arange(0, int(start_s[-1]), 300) * S, deployments=other * S)


def finding(service: str, at_s: int) -> Finding:
    evidence = Evidence(channel=Channel.RESOURCE, service=service, what="memory", before=1.0, after=2.0)
    start_ns = at_s * S
    return Finding(
        key=service, service=service, channel=Channel.RESOURCE, start_ns=start_ns, last_ns=start_ns, evidence=evidence
    )


def test_what_comes_before_is_learned_kept_as_json_and_told() -> None:
    past, windows = history(40, telling=True)
    (trained,) = train(past, windows, CONFIG)
    model = trained.model
    assert model is not None and model.brier < 0.6 * model.base_brier and trained.incidents == 40
    again = Precursor.from_json(model.to_json())
    assert again == model
    at = int(np.searchsorted(windows.time_ns, past.start_ns[-1] - 900 * S))
    newest = FeatureWindows(windows.names, windows.time_ns[: at + 1], windows.value[: at + 1])
    (told,) = foretell([again], newest, CONFIG)
    assert told.state is State.PREDICTED and told.prediction is not None and told.prediction.what == "precursor"
    assert told.prediction.probability >= 0.5 and 0 < told.prediction.lead_s <= 1_800
    assert told.services == ("payment",) and "payment resource" in told.findings[0].evidence.what
    assert told.findings[0].channel is Channel.RESOURCE
    quiet = FeatureWindows(("other",), np.array([S]), np.zeros((1, 1)))
    assert foretell([again], quiet, CONFIG) == ()
    assert foretell([again], FeatureWindows((), np.empty(0, np.int64), np.empty((0, 0))), CONFIG) == ()


def test_without_enough_or_without_a_sign_there_is_no_model_but_numbers() -> None:
    (few,) = train(*history(5, telling=True), CONFIG)
    assert few.model is None and "5 of payment|latency" in few.reason and "12 needed" in few.reason
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


def test_features_count_what_was_before() -> None:
    found = [dataclasses.replace(finding("a", at), score=float(at)) for at in (100, 200, 900)]
    windows = features(found, np.array([50, 250, 1_000]) * S)
    assert windows.value[:, 0].tolist() == [0, 2, 1] and windows.value[:, 1].tolist() == [0, 200, 900]
    assert windows.value[:, 4].tolist() == [0, 2, 3]


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
    for settings in ({"horizon": 1.0}, {"gap": -1.0}, {"least_incidents": 2}, {"probability": 0.0}):
        with pytest.raises(ConfigError):
            PrecursorsConfig(**settings)  # type: ignore[arg-type]


def test_probabilities_of_a_true_precursor_are_calibrated_on_time_that_was_not_known() -> None:
    random = np.random.default_rng(6)
    signs_s = np.cumsum(random.integers(5_400, 14_400, 600))  # a finding, after which 7 of 10 times an incident comes
    right = random.random(len(signs_s)) < 0.7
    start_s = (signs_s + random.integers(300, 1_500, len(signs_s)))[right]
    past = Past(("payment|latency",) * len(start_s), start_s * S, (start_s + 300) * S)
    found = [finding("payment", int(at)) for at in signs_s]
    windows = features(found, np.arange(0, int(signs_s[-1]), 300) * S)
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
