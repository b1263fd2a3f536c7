"""Deployments: what counts as one, what belongs to another, what is only scaling, and how baselines widen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.errors import ConfigError, StateError
from otel_aiops.labels import AttributeValue
from otel_aiops.otlp.encode import encode_resource
from otel_aiops.signals import deployments
from otel_aiops.signals.deployments import OVER_FACETS, OVER_PLACES, Deployment, Deployments, DeploymentsConfig
from otel_aiops.signals.releases import release_of, replica_set_of
from tests.signals.made_trees import S


def raw(service: str = "cart", version: str = "", pod: str = "", **more: AttributeValue) -> bytes:
    """A Resource; underscores of other keys stand for dots."""
    has: dict[str, AttributeValue] = {"service.name": service}
    has |= {"service.version": version} if version else {}
    has |= {"k8s.pod.name": pod} if pod else {}
    has |= {key.replace("_", "."): value for key, value in more.items()}
    return encode_resource(tuple(sorted(has.items())))


class Story:
    """Deployments to which resources are told, second by second; what was found as short texts."""

    def __init__(self, **config: float) -> None:
        self.of = Deployments(DeploymentsConfig(**config))
        self.found: list[Deployment] = []

    def see(self, at_s: float, *resources: bytes) -> list[str]:
        found = self.of.see(resources, round(at_s * S))
        self.found += found
        return [str(one) for one in found]

    def steadily(self, first_s: int, last_s: int, *resources: bytes) -> list[str]:
        return [text for at_s in range(first_s, last_s, 10) for text in self.see(at_s, *resources)]


def test_the_first_version_is_no_deployment_and_the_next_is() -> None:
    story = Story()
    assert story.steadily(0, 1000, raw(version="1")) == []
    assert story.see(1000, raw(version="2")) == ["cart: version 1 -> 2"]
    assert story.steadily(1010, 3000, raw(version="2")) == []
    assert story.found[0].time_ns == 1000 * S and not story.found[0].weak


def test_nothing_is_a_deployment_while_a_service_is_new() -> None:
    story = Story()
    assert story.see(0, raw(version="1"), raw(version="2")) == []
    assert story.see(60, raw(version="3", pod="a")) == []
    assert story.steadily(120, 600, raw(version="1"), raw(version="2"), raw(version="3", pod="a")) == []
    assert story.see(5000, raw("new", "7")) == []  # a new service starts its own time
    assert story.see(5050, raw("new", "8")) == []
    assert story.see(5121, raw("new", "9")) == ["new: version 8 -> 9"]


def pods(version: str, template: str, count: int) -> list[bytes]:
    return [raw(version=version, pod=f"cart-{template}-bcdf{k}") for k in range(2, 2 + count)]


def test_a_rolling_deployment_is_one() -> None:
    old, new = pods("1", "5d9c7b8f6c", 6), pods("2", "6c8d9f7b5d", 6)
    story = Story()
    story.steadily(0, 1000, *old)
    for k in range(1, 7):
        story.steadily(1000 + k * 200, 1200 + k * 200, *old[k:], *new[:k])
    assert [str(one) for one in story.found] == ["cart: version 1 -> 2"]
    assert story.found[0].resource == "cart-6c8d9f7b5d-bcdf2"


def test_a_new_replica_set_of_the_same_version_is_a_deployment() -> None:
    story = Story()
    story.steadily(0, 1000, *pods("1", "5d9c7b8f6c", 2))
    assert story.see(1000, *pods("1", "6c8d9f7b5d", 2)) == ["cart: replica set cart-5d9c7b8f6c -> cart-6c8d9f7b5d"]
    assert story.see(1100, raw(version="2", pod="cart-7d8d9f7b5d-bcdf2")) == ["cart: version 1 -> 2"]  # stronger
    assert story.see(1200, raw(version="3", pod="cart-8d8d9f7b5d-bcdf2")) == ["cart: version 2 -> 3"]  # another one


def test_another_deployment_of_kubernetes_is_one() -> None:
    story = Story()
    blue = [raw(pod=f"cart-blue-5d9c7b8f6c-bcdf{k}", k8s_deployment_name="cart-blue") for k in (2, 4)]
    green = [raw(pod=f"cart-green-5d9c7b8f6c-bcdf{k}", k8s_deployment_name="cart-green") for k in (2, 4)]
    assert story.steadily(0, 1000, *blue) == []
    assert story.see(1000, *green) == ["cart: deployment cart-blue -> cart-green"], "with its replica set and pods"
    assert story.steadily(1010, 1500, *green) == []


def test_what_comes_with_a_deployment_belongs_to_it() -> None:
    story = Story()
    story.see(0, raw(version="1", container_image_tags=("b", "a"), k8s_replicaset_name="r1"))
    assert story.see(1000, raw(version="2")) == ["cart: version 1 -> 2"]
    assert story.see(1060, raw(container_image_tags=("c",))) == []
    assert story.see(1070, raw(k8s_replicaset_name="r2")) == []
    assert story.see(3000, raw(container_image_tags=("d",))) == ["cart: image c -> d"]
    assert story.see(3010, raw(container_image_tag="e")) == ["cart: image d -> e"]


def test_a_pod_that_is_replaced_is_only_scaled_and_told_once() -> None:
    story = Story()
    old = pods("1", "5d9c7b8f6c", 3)
    story.steadily(0, 2000, *old[:2])
    assert story.see(2000, *old) == ["cart: scaled 2 -> 3"]
    assert story.found[0].weak
    many = [raw(version="1", pod=f"cart-5d9c7b8f6c-xx{k:03d}") for k in range(40)]
    assert [text for k, one in enumerate(many) for text in story.see(2001 + 60 * k, one)] == []
    assert story.see(9000, raw(version="1", pod="another")) == ["cart: scaled 0 -> 1"]


def test_a_rollback_is_a_deployment() -> None:
    story = Story()
    story.steadily(0, 1000, *pods("1", "5d9c7b8f6c", 2))
    story.see(1000, *pods("2", "6c8d9f7b5d", 2))
    story.steadily(1010, 1400, *pods("2", "6c8d9f7b5d", 2))
    back = raw(version="1", pod="cart-5d9c7b8f6c-zzzzz")
    assert story.see(1400, back) == ["cart: version 2 -> 1"]


def test_two_versions_beside_each_other_do_not_flap() -> None:
    story = Story()
    stable, canary = raw(version="1", pod="a"), raw(version="2", pod="b")
    assert story.see(0, stable, canary) == []
    assert [text for k in range(1, 40) for text in story.see(k * 400, (stable, canary)[k % 2])] == []


def test_environments_and_namespaces_are_apart() -> None:
    story = Story()
    production = raw(version="1", deployment_environment="prod")
    staging = {"deployment_environment_name": "staging"}
    story.steadily(0, 1000, production, raw(version="2", **staging))
    assert story.see(1000, raw(version="3", **staging)) == ["cart: version 2 -> 3"]
    assert story.see(1001, production) == []
    assert story.see(1002, raw(version="2", deployment_environment="prod")) == ["cart: version 1 -> 2"]


def test_a_version_that_is_told_late_is_none() -> None:
    story = Story()
    story.see(0, raw())
    assert story.see(1000, raw(version="1")) == []
    assert story.see(2000, raw(version="2")) == ["cart: version 1 -> 2"]


def test_flags() -> None:
    story = Story()
    of, cart = story.of, raw()

    def flag(at_s: float, key: str, variant: str) -> list[str]:
        return [str(one) for one in of.flag(cart, key, variant, round(at_s * S))]

    story.see(0, cart)
    assert flag(10, "new-cart", "off") == [] and flag(500, "first-seen-late", "a") == []
    assert flag(590, "new-cart", "off") == []
    assert flag(600, "new-cart", "on") == ["cart: flag new-cart off -> on"]
    assert flag(610, "new-cart", "off") == []  # some users still have the other
    assert flag(700, "brand-new", "") == ["cart: flag brand-new (none) -> on"]
    assert flag(2000, "new-cart", "off") == ["cart: flag new-cart on -> off"]
    assert story.see(2100, raw(feature_flag_dark="yes")) == []  # another key
    assert of.flag(raw(""), "x", "y", 0) == ()
    in_resource = encode_resource((("feature_flag.dark", "yes"), ("service.name", "cart")))
    assert story.see(2200, in_resource) == ["cart: flag dark (none) -> yes"]


def test_recent_and_widen() -> None:
    story = Story()
    story.see(0, raw(version="1", pod="a"), raw("web", pod="w"))
    assert story.of.widen(["cart", "web"], 0) == 1.0 and story.of.widen([], 0) == 1.0
    story.see(1000, raw(version="2", pod="b"))
    story.see(1300, raw("web", pod="x"))
    factors = [story.of.widen(["cart"], round(at * S)) for at in (900, 1000, 1150, 1300, 1600, 9000)]
    assert factors == [2.0, 2.0, 1.75, 1.5, 1.0, 1.0]
    assert story.of.widen(["web"], 1300 * S) == 1.5 and story.of.widen(["web", "cart"], 1300 * S) == 1.5
    assert [one.what for one in story.of.recent("cart", 0)] == ["version"]
    assert story.of.recent("cart", 1001 * S) == ()
    assert [one.service for one in story.of.all_since(1000 * S)] == ["cart", "web"]


def test_unreadable_and_nameless_resources_are_nothing() -> None:
    story = Story()
    assert release_of(b"\xff\xff") is None and release_of(b"") is None
    assert story.see(0, b"\xff\xff", b"", raw("")) == []
    assert story.of.counts == {}


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        ("cart-5d9c7b8f6c-x2x4z", "cart-5d9c7b8f6c"),
        ("a-b-5d9c7b8f6c-x2x4z", "a-b-5d9c7b8f6c"),
        ("kafka-0", ""),
        ("node-exporter-x2x4z", ""),
        ("", ""),
    ],
)
def test_replica_sets_by_the_names_of_pods(pod: str, expected: str) -> None:
    assert replica_set_of(pod) == expected


def test_limits_are_kept_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"PLACES": 2, "FACETS": 3, "VALUES": 2, "INSTANCES": 5, "KEPT": 4, "READ": 3}
    for name, most in limits.items():
        monkeypatch.setattr(deployments, f"MOST_{name}", most)
    story = Story()
    story.see(0, raw("a", "1"), raw("b", "1"), raw("c", "1"))
    assert story.of.counts == {OVER_PLACES: 1}
    for k in range(20):
        story.see(1000 + 700 * k, raw("a", f"v{k}", f"pod{k}"))
        story.of.flag(raw("a"), f"flag{k}", "on", (1000 + 700 * k) * S)
    assert story.of.counts[OVER_FACETS] == 18
    assert len(story.of.all_since(0)) == 4 and str(story.found[-1]) == "a: version v18 -> v19"
    (place, _) = story.of._places.values()
    assert len(place.instances) == 5 and len(place.values["version"]) == 2
    assert len(story.of._read) <= 3


def test_many_pods_in_one_body_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    story, read = Story(), []

    def counted(one: bytes) -> object:
        read.append(one)
        return release_of(one)

    monkeypatch.setattr(deployments, "release_of", counted)
    resources = [raw(version="1", pod=f"p{k}") for k in range(200)]
    story.steadily(0, 100, *resources, *resources)
    assert len(read) == 200


@st.composite
def sights(draw: st.DrawFn) -> list[tuple[int, bytes]]:
    version, pod = st.sampled_from(["", "1", "2", "3"]), st.sampled_from(["", "a", "b", "cart-5d9c7b8f6c-x2x4z"])
    one = st.tuples(st.integers(0, 500), st.builds(raw, st.sampled_from(["cart", "web"]), version, pod))
    return draw(st.lists(one, min_size=1, max_size=30))


@given(sights(), st.integers(0, 30))
@settings(max_examples=80, deadline=None)
def test_restored_deployments_go_on_bit_for_bit(steps: list[tuple[int, bytes]], cut: int) -> None:
    ours, twin, now = Deployments(DeploymentsConfig()), Deployments(DeploymentsConfig()), 0
    for k, (later, one) in enumerate(steps):
        now += later * S
        if k == cut:
            state = twin.state()
            twin = Deployments(DeploymentsConfig())
            twin.restore(state)
        assert ours.see([one], now) == twin.see([one], now)
        assert ours.widen(["cart"], now) == twin.widen(["cart"], now)
    assert np.array_equal(ours.state()["json"], twin.state()["json"])
    assert ours.all_since(0) == twin.all_since(0)


def test_bad_states_and_settings_are_refused() -> None:
    for text in (b"", b"[]", b"{}", b'{"places": {"a": {"x": 1}}, "kept": [], "newest": []}'):
        with pytest.raises(StateError):
            Deployments(DeploymentsConfig()).restore({"json": np.frombuffer(text, np.uint8)})
    with pytest.raises(StateError):
        Deployments(DeploymentsConfig()).restore({})
    for config in ({"warm_up": -1.0}, {"joined": -1.0}, {"gone": -1.0}, {"widen": 0.5}, {"widen_for": 0.0}):
        with pytest.raises(ConfigError):
            DeploymentsConfig(**config)
