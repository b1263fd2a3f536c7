"""Columns: rows that get what others have."""

from __future__ import annotations

import numpy as np

from otel_aiops.series.columns import Columns


def test_copied_rows_are_equal_and_apart() -> None:
    columns = Columns({"number": (np.float64, (), 0), "several": (np.int32, (3,), -1)})
    columns.reserve(5)
    columns.of["number"][:2], columns.of["several"][1] = [1.5, 2.5], [7, 8, 9]
    columns.copy(np.array([4, 2]), np.array([1, 1]))
    columns.of["several"][1, 0] = 0
    assert columns.of["number"][:5].tolist() == [1.5, 2.5, 2.5, 0, 2.5]
    assert columns.of["several"][[2, 4]].tolist() == [[7, 8, 9], [7, 8, 9]]
