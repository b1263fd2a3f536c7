"""Charts are well-formed SVG whatever the numbers are, and show what they say."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_aiops.lifecycle.charts import bars, line, reliability, timeline

NAN = float("nan")
DAY_NS = 86_400_000_000_000
SVG = "{http://www.w3.org/2000/svg}"


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), max_size=30))
def test_a_line_of_any_values_is_well_formed(values: list[float]) -> None:
    drawn = parsed(line(values, (0, DAY_NS), [(5, 6, "a<b")], [(0, 9, "&")]))
    for one in drawn.iter(f"{SVG}polyline"):
        assert "nan" not in one.attrib["points"] and "inf" not in one.attrib["points"]


def test_a_gap_breaks_the_line() -> None:
    drawn = parsed(line([1.0, 2.0, 3.0, NAN, NAN, NAN, 4.0], (0, DAY_NS)))
    first, dot = (one.attrib["points"].split() for one in drawn.iter(f"{SVG}polyline"))
    assert len(first) == 3 and dot == dot[:1] * 2


def test_a_series_with_fewer_points_than_the_picture_has_is_one_line() -> None:
    values = [float(k) if k % 5 == 0 or k % 11 == 0 else NAN for k in range(200)]
    (drawn,) = parsed(line(values, (0, DAY_NS))).iter(f"{SVG}polyline")
    assert len(drawn.attrib["points"].split()) == sum(one == one for one in values)


def test_marks_stand_at_their_times_and_none_leaves_the_picture() -> None:
    marks = [(0, 0, "first"), (DAY_NS // 2, DAY_NS // 2, "noon"), (9 * DAY_NS, 10 * DAY_NS, "late")]
    drawn = parsed(timeline((0, DAY_NS), [("x" * 50, "#123456", marks)], [(-5, 5, "before")]))
    places = [float(one.attrib["x"]) for one in drawn.iter(f"{SVG}rect") if one.attrib.get("fill") == "#123456"]
    assert places[0] < places[1] < places[2] <= 900 and places[1] == pytest.approx((places[0] + places[2]) / 2, abs=0.2)


def test_bars_are_as_long_as_their_shares() -> None:
    drawn = parsed(bars({"spike": [("a", "#111111", 0.5, "1 of 2"), ("b", "#222222", NAN, "0 of 0")]}))
    widths = {
        one.attrib["fill"]: float(one.attrib["width"]) for one in drawn.iter(f"{SVG}rect") if "fill" in one.attrib
    }
    trough = next(float(one.attrib["width"]) for one in drawn.iter(f"{SVG}rect") if "fill" not in one.attrib)
    assert widths == {"#111111": pytest.approx(trough / 2), "#222222": 0}


def test_who_tells_the_truth_is_on_the_diagonal() -> None:
    drawn = parsed(reliability([("true", "#111111", [5.0] * 20), ("nothing", "#222222", [0.0] * 20)]))
    ends = next(one for one in drawn.iter(f"{SVG}line") if "stroke-dasharray" in one.attrib).attrib
    x1, y1, x2, y2 = (float(ends[name]) for name in ("x1", "y1", "x2", "y2"))
    for one in drawn.iter(f"{SVG}circle"):
        if one.attrib["fill"] == "#111111":
            share = (float(one.attrib["cx"]) - x1) / (x2 - x1)
            assert float(one.attrib["cy"]) == pytest.approx(y1 + share * (y2 - y1), abs=0.2)
