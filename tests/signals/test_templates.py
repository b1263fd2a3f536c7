"""Templates: the same as the slow twin, bounded, the same after a restore."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.errors import ConfigError, StateError
from otel_aiops.signals import masking
from otel_aiops.signals import templates as module
from otel_aiops.signals.masking import WILDCARD
from otel_aiops.signals.templates import Templates, TemplatesConfig
from tests.signals.naive_templates import NaiveTemplates

Line = tuple[int, int, str, str]

WORDS = ("user", "alice", "bob", "carol", "failed", "accepted", "order", "cart", "getCart", "[main]", "7", "id:", "to",
         "k=v", WILDCARD, "stock")  # fmt: skip
lines = st.tuples(
    st.integers(0, 2),
    st.sampled_from((3, 5)),
    st.lists(st.sampled_from(WORDS), min_size=0, max_size=5).map(" ".join),
    st.sampled_from(("", "", "", "", "cart.empty", "cart.full")),
)
configs = st.builds(
    TemplatesConfig,
    per_class=st.sampled_from((3, 8, 300)),
    total=st.sampled_from((5, 1_000)),
    width=st.sampled_from((1, 2, 64)),
    similarity=st.sampled_from((0.3, 0.6, 1.0)),
)


def find(templates: Templates, some: Sequence[Line]) -> list[int]:
    services, classes, bodies, names = zip(*some, strict=True) if some else ((), (), (), ())
    return templates.find(np.array(services, np.int32), np.array(classes, np.int64), bodies, names).tolist()


def mine(templates: Templates, bodies: Sequence[str], *, service: int = 0, severity: int = 3) -> list[int]:
    return find(templates, [(service, severity, body, "") for body in bodies])


def texts(templates: Templates) -> list[str]:
    return [templates.text(number) for number in range(1, len(templates))]


@settings(max_examples=300, deadline=None)
@given(st.lists(lines, max_size=60), configs, st.integers(1, 9))
def test_the_same_as_the_slow_twin(some: list[Line], config: TemplatesConfig, size: int) -> None:
    fast, slow = Templates(config), NaiveTemplates(config)
    found = [number for k in range(0, len(some), size) for number in find(fast, some[k : k + size])]
    assert found == [slow.find((service, severity), body, name) for service, severity, body, name in some]
    assert [fast._tokens[k] for k in range(1, len(fast))] == [kept.tokens for kept in slow.kept[1:]]
    assert fast.refused == found.count(0)


@settings(max_examples=100, deadline=None)
@given(st.lists(lines, max_size=60), configs, st.integers(0, 60))
def test_goes_on_after_a_restore_as_if_nothing_had_been(some: list[Line], config: TemplatesConfig, at: int) -> None:
    straight, first, second = Templates(config), Templates(config), Templates(config)
    expected = find(straight, some)
    before = find(first, some[:at])
    second.restore(first.state())
    assert before + find(second, some[at:]) == expected
    for name, array in straight.state().items():
        np.testing.assert_array_equal(second.state()[name], array, strict=True)


def test_what_is_forgotten_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = [f"user {name} reads page {name}" for name in ("ann", "ben", "joe")] * 3 + ["cart is full"] * 3
    expected = mine(Templates(TemplatesConfig()), bodies)
    monkeypatch.setattr(module, "_REMEMBERED", 1)
    assert mine(Templates(TemplatesConfig()), bodies) == expected


def test_a_parameter_becomes_a_wildcard_and_the_lines_keep_their_number() -> None:
    templates = Templates(TemplatesConfig())
    assert mine(templates, [f"mail for user {name} was put aside" for name in ("ann", "ben", "joe", "ann")]) == [1] * 4
    assert texts(templates) == ["mail for user <*> was put aside"]


def test_lines_that_differ_in_how_it_went_are_different_events() -> None:
    templates = Templates(TemplatesConfig())
    bodies = ["payment of order 7 accepted by bank", "payment of order 8 rejected by bank", "cache hit for key x",
              "cache miss for key x", "[getCart] was called here", "[addItem] was called here"]  # fmt: skip
    assert mine(templates, bodies) == [1, 2, 3, 4, 5, 6]


def test_services_and_classes_have_their_own() -> None:
    templates = Templates(TemplatesConfig())
    assert find(templates, [(1, 3, "cart is full", ""), (2, 3, "cart is full", ""), (1, 5, "cart is full", "")]) == [
        1,
        2,
        3,
    ]
    service, severity = templates.owners()
    assert service[1:].tolist() == [1, 2, 1]
    assert severity[1:].tolist() == [3, 3, 5]


def test_a_name_is_the_event_whatever_the_body_says() -> None:
    templates = Templates(TemplatesConfig())
    same = [(1, 3, "body one", "cart.emptied"), (1, 3, "another", "cart.emptied"), (1, 3, "cart.emptied", "")]
    assert find(templates, same) == [1, 1, 2]
    assert find(templates, [(1, 3, "", "session.0a1b2c3d4e")]) == [3]
    assert "0a1b" not in templates.text(3)


def test_a_flood_of_distinct_lines_is_bounded_and_leaves_room_for_errors() -> None:
    config = TemplatesConfig(per_class=100)
    templates = Templates(config)
    letters = "abcdefghij"
    flood = [f"{''.join(letters[int(d)] for d in str(k))} zz{letters[k % 10]} " * (1 + k % 9) for k in range(50_000)]
    found = mine(templates, flood, severity=3)
    assert len(templates) <= 101
    assert sum(len(group.known) for group in templates._groups.values()) <= module._REMEMBERED
    assert len(templates._masking._words) <= masking._MOST_WORDS
    assert len(templates._masking._plain) <= masking._MOST_WORDS
    assert templates.refused == found.count(0) > 0
    assert mine(templates, ["disk is full"], severity=5) == [len(templates) - 1]


def test_templates_of_all_services_are_bounded() -> None:
    templates = Templates(TemplatesConfig(total=3))
    assert find(templates, [(k, 3, "cart is full", "") for k in range(5)]) == [1, 2, 3, 0, 0]
    assert find(templates, [(2, 3, "cart is full", ""), (9, 3, "", "a.name")]) == [3, 0]


@pytest.mark.parametrize("body", ["", "\x00\xff" * 50, "\ud800 lone", "\ufffd" * 300, "x" * 10_000_000, "<*>", " \t "])
def test_bad_lines_are_lines(body: str) -> None:
    templates, after = Templates(TemplatesConfig()), Templates(TemplatesConfig())
    assert mine(templates, [body, body]) == [1, 1]
    after.restore(templates.state())
    assert mine(after, [body]) == [1]


def test_a_state_that_does_not_fit_is_refused() -> None:
    templates = Templates(TemplatesConfig())
    mine(templates, ["cart is full"])
    good = templates.state()
    for bad in (
        {},
        good | {"keys": good["keys"][:1]},
        good | {"ends": good["ends"] + 1},
        good | {"keys": -1 - good["keys"]},
        {name: array[:0] for name, array in good.items()},
    ):
        with pytest.raises(StateError):
            templates.restore(bad)
    assert mine(templates, ["cart is full"]) == [1]


@pytest.mark.parametrize("wrong", [{"per_class": 0}, {"total": 0}, {"width": 0}, {"similarity": 0}, {"similarity": 2}])
def test_bounds_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TemplatesConfig(**wrong)  # type: ignore[arg-type]
