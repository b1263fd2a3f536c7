"""Values that people ask with: what is taken, and that nothing else is but in words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aiops.desk import asked as get
from otel_aiops.errors import BadInput
from otel_aiops.incidents.incident import Severity

NOW_NS = 1_767_614_400 * 10**9
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("now", NOW_NS / 1e9),
        ("-2h", NOW_NS / 1e9 - 7_200),
        ("2026-01-05T12:00:00Z", NOW_NS / 1e9),
        ("2026-01-05T13:00:00+01:00", NOW_NS / 1e9),
        (1_767_614_400, NOW_NS / 1e9),
        ("1767614400.5", NOW_NS / 1e9 + 0.5),
        (None, 0),
        ("", 0),
    ],
)
def test_times(value: Any, seconds: float) -> None:
    assert get.time_ns({"at": value}, "at", NOW_NS) == round(seconds * 1e9)


@pytest.mark.parametrize(("value", "seconds"), [("2h", 7200), ("1m30s", 90), (5, 5), ("1.5", 1.5), (None, 0)])
def test_spans(value: Any, seconds: float) -> None:
    assert get.seconds({"for": value}, "for") == seconds


def test_lists_and_words() -> None:
    assert get.texts({"k": "a, b,,"}, "k") == get.texts({"k": ["a", "b"]}, "k") == ("a", "b")
    assert get.words({"k": "info,critical"}, "k", Severity) == (Severity.INFO, Severity.CRITICAL)
    assert get.yes({"k": "true"}, "k") and not get.yes({}, "k") and not get.yes({"k": "false"}, "k")
    assert get.text({"k": " x "}, "k", needed=True) == " x "


@given(value=ANYTHING)
def test_whatever_comes_is_taken_or_refused_in_words(value: Any) -> None:
    asked = {"key": value}
    readers: list[Any] = [
        lambda: get.time_ns(asked, "key", NOW_NS),
        lambda: get.seconds(asked, "key"),
        lambda: get.text(asked, "key", needed=True),
        lambda: get.texts(asked, "key"),
        lambda: get.words(asked, "key", Severity),
        lambda: get.yes(asked, "key"),
    ]
    for read in readers:
        try:
            read()
        except BadInput as error:
            assert str(error).startswith("key: expected ")


@given(value=ANYTHING)
def test_only_objects_of_known_keys(value: Any) -> None:
    try:
        assert get.known_keys(value, ("a", "b")).keys() <= {"a", "b"}
    except BadInput as error:
        assert "a, b" in str(error)
