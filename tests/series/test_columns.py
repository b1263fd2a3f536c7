"""Columns: rows that get what others have, and plain values as bytes."""

from __future__ import annotations

import numpy as np
import pytest

from otel_aiops.errors import StateError
from otel_aiops.series.columns import Columns, json_array, json_tree


def test_copied_rows_are_equal_and_apart() -> None:
    columns = Columns({"number": (np.float64, (), 0), "several": (np.int32, (3,), -1)})
    columns.reserve(5)
    columns.of["number"][:2], columns.of["several"][1] = [1.5, 2.5], [7, 8, 9]
    columns.copy(np.array([4, 2]), np.array([1, 1]))
    columns.of["several"][1, 0] = 0
    assert columns.of["number"][:5].tolist() == [1.5, 2.5, 2.5, 0, 2.5]
    assert columns.of["several"][[2, 4]].tolist() == [[7, 8, 9], [7, 8, 9]]


@pytest.mark.parametrize("tree", [None, [], {"a": [1, 2.5, "ü\ud800", None, True]}, [[2**60, -1e-300]]])
def test_plain_values_come_back_from_bytes(tree: object) -> None:
    array = json_array(tree)
    assert array.dtype == np.uint8 and array.flags.writeable
    assert json_tree({"x": array}, "x") == tree


def test_numbers_that_are_none_come_back_too() -> None:
    found = json_tree({"x": json_array([np.nan, np.inf])}, "x")
    assert np.isnan(found[0]) and found[1] == np.inf


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe\xfd", b"[1,]"])
def test_bytes_that_are_no_json(raw: bytes) -> None:
    with pytest.raises(StateError, match="x: expected JSON"):
        json_tree({"x": np.frombuffer(raw, np.uint8)}, "x")
    with pytest.raises(StateError, match="x"):
        json_tree({"y": json_array(1)}, "x")
