"""Members of a group are compared with the others at the same time, given how each usually differs from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.detect.peers import LEAST_PEERS, Peers, PeersConfig, PeerScores, peer_key
from otel_aiops.errors import ConfigError, StateError
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import F64
from otel_aiops.series.batch import Batch

STEP_S = 10.0
BEGIN = 1_700_000_000


def tick(peers: Peers, i: int, value: F64, rows: list[int] | None = None) -> PeerScores:
    found = said(peers, i, value, rows)
    assert found is not None
    return found


def said(peers: Peers, i: int, value: F64, rows: list[int] | None = None) -> PeerScores | None:
    at = int((BEGIN + i * STEP_S) * 1e9)
    ids = np.arange(len(value), dtype=np.int32) if rows is None else np.array(rows, np.int32)
    peers.update(Batch(ids, np.full(len(value), at, np.int64), value, np.full(len(value), STEP_S)))
    return peers.step(at)


def together(count: int, **settings: float) -> Peers:
    peers = Peers(PeersConfig(interval=STEP_S, **settings))
    peers.assign(np.arange(count, dtype=np.int32), np.zeros(count, np.int32))
    return peers


def usual(count: int, i: int) -> F64:
    """A load that rises and falls twentyfold, with noise; the first member always does three times the work."""
    load = 105 + 95 * np.sin(i / 40)
    return np.asarray(load * (1 + 0.03 * np.random.default_rng(i).normal(size=count)) * np.r_[3.0, np.ones(count - 1)])


def learned(count: int, steps: int = 150, **settings: float) -> Peers:
    peers = together(count, **settings)
    for i in range(steps):
        tick(peers, i, usual(count, i))
    return peers


def test_a_member_that_always_differs_is_not_flagged() -> None:
    peers, highest = together(8), 0.0
    for i in range(500):
        highest = max(highest, float(np.nan_to_num(tick(peers, i, usual(8, i)).score).max()))
    assert highest < 1


def test_a_member_that_leaves_the_others_is_flagged_and_described() -> None:
    peers = learned(12)
    value = usual(12, 150)
    value[5] *= 3.2
    scores = tick(peers, 150, value)
    assert np.flatnonzero(scores.score >= 1).tolist() == [5]
    assert scores.probability[5] > 0.999
    assert scores.peers[5] == 11
    assert np.isclose(scores.value[5] / scores.median[5], 3.2, rtol=0.1)
    text = peers.reason(scores, 5, "ms")
    assert " ms, 2.9 times the median of its 11 peers (51.85 ms)" in text and "usually" not in text
    assert "; it usually is 3.0 times it; 0." in peers.reason(scores, 0)


def test_a_slow_departure_is_not_learned_on_its_way() -> None:
    peers, flagged = learned(10, steps=300), []
    for i in range(300, 500):
        value = usual(10, i)
        value[4] *= 1 + min((i - 300) / 100, 1.0)
        flagged.append(bool(tick(peers, i, value).score[4] >= 1))
    assert all(flagged[60:])


def test_all_members_together_are_no_anomaly_of_one() -> None:
    peers = learned(8)
    assert tick(peers, 150, usual(8, 150) * 40).score.max() < 1


def test_the_smallest_group() -> None:
    assert len(tick(together(LEAST_PEERS), 0, np.ones(LEAST_PEERS)).rows) == LEAST_PEERS
    assert said(together(LEAST_PEERS - 1), 0, np.ones(LEAST_PEERS - 1)) is None


def test_a_group_that_begins_is_not_judged_and_a_new_member_of_a_warm_one_is_at_once() -> None:
    peers = together(6)
    assert np.isnan(tick(peers, 0, np.array([1.0, 1, 1, 1, 1, 50])).score).all()
    peers = learned(6)
    peers.assign(np.array([6], np.int32), np.zeros(1, np.int32))
    value = usual(7, 150)
    value[6] *= 5
    scores = tick(peers, 150, value)
    assert scores.score[6] > 1
    assert np.isnan(scores.probability[6])


def test_what_lasts_becomes_normal() -> None:
    peers = learned(8, adapt_after=300.0)
    score = []
    for i in range(150, 220):
        value = usual(8, i)
        value[3] *= 2.5
        score.append(float(tick(peers, i, value).score[3]))
    assert min(score[:29]) > 1
    assert max(score[40:]) < 1


def test_low_counts_are_not_compared_as_ratios_to_nothing() -> None:
    peers, rng, highest = together(10), np.random.default_rng(5), 0.0
    for i in range(800):
        scores = tick(peers, i, rng.poisson(0.05, 10).astype(float))
        highest = max(highest, float(np.nan_to_num(scores.score).max()))
    assert highest < 1
    value = np.zeros(10)
    value[7] = 40.0
    scores = tick(peers, 800, value)
    assert scores.score[7] > 1
    assert peers.reason(scores, 7, "1").startswith("40, above the median of its 9 peers (0)")


def test_members_that_have_always_been_zero_are_not_judged() -> None:
    peers = together(5)
    for i in range(40):
        scores = tick(peers, i, np.zeros(5))
    assert np.isnan(scores.score).all()
    assert "at the median" in peers.reason(scores, 0)


def test_signs_and_small_ratios_in_words() -> None:
    peers = together(5)
    for i in range(40):
        tick(peers, i, np.full(5, -10.0) + 0.1 * np.random.default_rng(i).normal(size=5))
    scores = tick(peers, 40, np.array([-90.0, -10, -10, -10, -10]))
    assert scores.score[0] > 1
    assert "below the median of its 4 peers" in peers.reason(scores, 0)
    peers = learned(6)
    value = usual(6, 150)
    value[2] = 0.0
    assert "0 times the median" in peers.reason(tick(peers, 150, value), 2)


def test_the_median_of_the_others_is_that_of_the_others() -> None:
    rng = np.random.default_rng(3)
    for size in (4, 5, 9):
        value = rng.normal(size=2 * size)
        peers = Peers(PeersConfig())
        peers.assign(np.arange(2 * size, dtype=np.int32), (np.arange(2 * size) % 2).astype(np.int32))
        scores = tick(peers, 0, value)
        for k, row in enumerate(scores.rows):
            others = [v for r, v in enumerate(value) if r % 2 == row % 2 and r != row]
            assert np.isclose(scores.median[k], np.median(others))


def test_a_new_row_begins_from_the_most_typical_peer() -> None:
    peers = learned(8)
    peers.assign(np.array([8, 9, 20], np.int32), np.array([0, 0, 1], np.int32))
    source = peers.inherit(np.array([8, 20, 9, 5_000], np.int32))
    assert source[0] == source[2] and source[0] in range(1, 8)  # row 0 always does more
    assert source[1] == source[3] == -1
    assert peers.inherit(source[:1])[0] not in (-1, source[0])
    value = usual(8, 150)
    value[source[0]] *= 5
    tick(peers, 150, value)
    assert peers.inherit(np.array([8], np.int32))[0] != source[0]  # flagged now


def test_two_replicas_may_inherit_though_they_are_not_compared() -> None:
    peers = together(3)
    for i in range(30):
        assert said(peers, i, np.ones(2), rows=[0, 1]) is None
    assert peers.inherit(np.array([2], np.int32)).tolist() == [0]
    assert Peers(PeersConfig()).inherit(np.array([2], np.int32)).tolist() == [-1]
    assert not len(peers.inherit(np.empty(0, np.int32)))


def test_forgotten_members_and_groups_begin_anew() -> None:
    peers = learned(6)
    peers.forget(np.arange(6, dtype=np.int32))
    peers.assign(np.arange(6, dtype=np.int32), np.zeros(6, np.int32))
    assert np.isnan(tick(peers, 150, usual(6, 150)).score).all()
    assert peers.inherit(np.array([0], np.int32)).tolist() == [-1]


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1e308, -1e308, np.inf, np.nan, 5e-324, -3.0]), min_size=6, max_size=6))
def test_nothing_poisons_it(values: list[float]) -> None:
    peers = learned(6, steps=60)
    for i in range(3):
        found = said(peers, 60 + i, np.array(values))
        assert found is None or not np.isinf(found.score).any()
    for i in range(70, 100):
        scores = tick(peers, i, usual(6, i))
    assert (scores.score < 1).all()
    begun = together(6)
    for i in range(60):
        found = said(begun, i, np.array(values) if i < 3 else usual(6, i))
    assert found is not None
    assert np.isfinite(found.score).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 29))
def test_a_restored_one_goes_on_with_the_same_bits(seed: int, cut: int) -> None:
    rng, one, two = np.random.default_rng(seed), together(7), together(7)
    for i in range(30):
        if i == cut:
            saved = two.state()
            two = Peers(PeersConfig(interval=STEP_S))
            two.restore(saved)
        value = rng.lognormal(size=7)
        a, b = tick(one, i, value), tick(two, i, value)
        np.testing.assert_array_equal(a.score, b.score)
    left, right = one.state(), two.state()
    assert all(left[name].tobytes() == right[name].tobytes() for name in left)
    with pytest.raises(StateError, match="expected arrays"):
        two.restore({})


def test_the_key_of_peers_is_without_the_instance() -> None:
    def pod(name: str, **more: str) -> Labels:
        resource = (("k8s.deployment.name", "cart"), ("k8s.pod.name", name), ("service.instance.id", name + "-1"))
        return Labels("http.server.duration", resource=resource, attributes=tuple(sorted(more.items())))

    assert peer_key(pod("a", pod="a", route="/pay")) == peer_key(pod("b", pod="b", route="/pay"))
    assert peer_key(pod("a", route="/pay")) != peer_key(pod("a", route="/buy"))
    assert dict(peer_key(pod("a")).resource) == {"k8s.deployment.name": "cart"}


def test_where_requests_go_is_not_an_instance_but_what_was_scraped_is() -> None:
    labels = Labels("x", resource=(("server.address", "10.0.0.7"),), attributes=(("server.address", "db"),))
    assert peer_key(labels) == Labels("x", attributes=(("server.address", "db"),))


@pytest.mark.parametrize(("key", "value"), [("threshold", 0.0), ("interval", 0.1), ("adapt_after", -1.0)])
def test_settings_out_of_range_are_named(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=key):
        PeersConfig(**{key: value})
