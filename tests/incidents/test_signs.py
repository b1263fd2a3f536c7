"""Signs are counted when they are first seen, again while they last, and never from the future."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aiops.errors import BadInput, StateError
from otel_aiops.incidents import signs as module
from otel_aiops.incidents.incident import Channel
from otel_aiops.incidents.signs import BACK_S, FeatureWindows, Seen, Signs, features, in_words, sign_of
from otel_aiops.signals.deployments import Deployment
from tests.incidents.makers import at, finding

DAY_S = 86_400.0
S = 1_000_000_000


def test_a_finding_counts_when_it_is_new_and_again_while_it_lasts() -> None:
    signs = Signs(DAY_S)
    lasting = finding("pay", 0)
    for second in range(0, 1_900, 10):
        signs.take([replace(lasting, score=1.0 + second)], at(second))
    signs.take([finding("bank", 1_880, 1_890, end_s=1_890, channel=Channel.LOGS)], at(1_900))  # over when it is told
    signs.take([replace(lasting, end_ns=at(1_900))], at(1_910))
    signs.take([finding("bank", 0, 10, end_s=10)], at(1_920))  # an old one, told again
    seen = signs.seen()
    assert seen.names == ("pay|latency", "bank|logs") and seen.name.tolist() == [0, 0, 0, 1]
    assert seen.time_ns.tolist() == [at(0), at(900), at(1_800), at(1_900)] and seen.since_ns == at(0)
    assert seen.score.tolist() == [1.0, 901.0, 1_801.0, 1.0]
    assert seen.most_frequent(1) == ["pay|latency"] and len(signs.seen(at(1_000)).time_ns) == 2


def test_deployments_and_foreseen_shortages_are_signs_too() -> None:
    signs = Signs(DAY_S)
    new = Deployment(service="pay", what="version", before="1", after="2", time_ns=at(1), resource="")
    signs.changed([new, replace(new, what="scaled")], at(1))
    signs.foreseen("db", 0.8, at(2))
    seen = signs.seen()
    assert seen.names == ("pay|deployment", "db|exhaustion") and seen.score.tolist() == [1.0, 0.8]


def test_everything_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_NAMES", 3)
    monkeypatch.setattr(module, "MOST_SIGNS", 20)
    monkeypatch.setattr(module, "MOST_REMEMBERED", 5)
    signs = Signs(DAY_S)
    for second in range(100):
        signs.take([finding(f"s{second % 4}", second, what=str(second))], at(second))
        assert len(signs) <= 20
    assert signs.refused == 25 and len(signs.seen().names) == 3
    seen = signs.seen()
    assert seen.since_ns > at(50) and (seen.time_ns >= seen.since_ns).all()
    for days in range(1, 5):
        signs.take([], at(days * DAY_S))
    assert len(signs) == 0 and signs.seen().since_ns == at(3 * DAY_S)


def test_before_there_is_telemetry_nothing_was_watched() -> None:
    signs = Signs(DAY_S)
    signs.take([], 5 * S)
    signs.take([], at(0))
    assert signs.seen().since_ns == at(0)


def test_a_restart_changes_nothing() -> None:
    one, other = Signs(DAY_S), Signs(DAY_S)
    one.take([finding("pay", 0), finding("bank", 0)], at(1))
    other.restore(one.state())
    for each in (one, other):
        each.take([finding("pay", 0), finding("bank", 300, what="x")], at(500))
    assert {key: array.tobytes() for key, array in one.state().items()} == {
        key: array.tobytes() for key, array in other.state().items()
    }


def test_states_that_do_not_fit_are_refused() -> None:
    one = Signs(DAY_S)
    one.take([finding("pay", 0)], at(1))
    state = one.state()
    for wrong in (
        {**state, "name": np.array([7], np.int32)},
        {**state, "score": np.zeros(3)},
        {**state, "rest": np.frombuffer(b"{}", np.uint8)},
        {key: state[key] for key in ("time_ns", "name", "score")},
    ):
        with pytest.raises(StateError):
            Signs(DAY_S).restore(wrong)


@given(
    st.lists(st.tuples(st.integers(0, 5_000), st.sampled_from("ab"), st.floats(0, 9)), max_size=20),
    st.lists(st.integers(0, 9_000), max_size=8, unique=True),
)
def test_features_equal_a_count_one_by_one(told: list[tuple[int, str, float]], times: list[int]) -> None:
    told, times = sorted(told), sorted(times)
    numbers = np.array(["ab".index(name) for _, name, _ in told], np.int32)
    score = np.array([one[2] for one in told], np.float64)
    seen = Seen(("a", "b"), np.array([one[0] for one in told], np.int64) * S, numbers, score, 0)
    found = features(seen, ["b", "never"], np.array(times, np.int64) * S)
    for row, now in zip(found.value, times, strict=True):
        for k, back_s in enumerate(BACK_S):
            own = [score for at_s, name, score in told if name == "b" and now - back_s < at_s <= now]
            assert row[2 * k] == len(own) and row[2 * k + 1] == max(own, default=0.0)
        assert not row[6:].any()
    assert found.names[0] == "b|count|300" and sign_of(found.names[0]) == "b"


def test_features_in_words() -> None:
    assert in_words("pay|resource|count|300") == "findings of resource in pay in the last 5 min"
    assert in_words("a|b|deployment|count|3600") == "deployments of a|b in the last 60 min"
    assert (
        in_words("|exhaustion|score|900")
        == "highest score of shortages foreseen in unknown services in the last 15 min"
    )


def test_windows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BadInput):
        FeatureWindows(("a",), np.array([1]), np.zeros((2, 1)))
    with pytest.raises(BadInput):
        FeatureWindows(("a",), np.array([1, 1]), np.zeros((2, 1)))
