"""OpenWindows: counts by key and by template in the windows of event time that are still open."""

from __future__ import annotations

import numpy as np

from otel_aiops.errors import StateError
from otel_aiops.otlp.points import I32, I64
from otel_aiops.series.columns import Arrays, checked

KEY, TEMPLATE = 0, 1


class OpenWindows:
    """How often each key and each template came in each open window."""

    def __init__(self) -> None:
        self._windows: dict[int, tuple[dict[int, int], dict[int, int]]] = {}

    def add(self, window: I64, key: I64, template: I32) -> None:
        """Count N records, (N,); template 0 is none."""
        for number in np.unique(window).tolist():
            inside = window == number
            counts = self._windows.setdefault(number, ({}, {}))
            for kind, values in ((KEY, key[inside]), (TEMPLATE, template[inside])):
                distinct, times = np.unique(values, return_counts=True)
                for value, count in zip(distinct.tolist(), times.tolist(), strict=True):
                    if value or kind == KEY:
                        counts[kind][value] = counts[kind].get(value, 0) + count

    def so_far(self, window: I64, key: I64) -> I64:
        """How often each of K keys came in its window, (K,)."""
        none: tuple[dict[int, int], dict[int, int]] = ({}, {})
        pairs = zip(window.tolist(), key.tolist(), strict=True)
        return np.array([self._windows.get(number, none)[KEY].get(value, 0) for number, value in pairs], np.int64)

    def until(self, last: int) -> list[int]:
        """The windows up to this one, oldest first."""
        return sorted(number for number in self._windows if number <= last)

    def take(self, number: int) -> tuple[I64, I64, I64, I64]:
        """(keys, counts, templates, counts) of a window, each sorted, which is then forgotten."""
        keys, templates = self._windows.pop(number)
        return *_columns(keys), *_columns(templates)

    def state(self) -> Arrays:
        """All counts, one row each."""
        rows = [
            (number, kind, value, count)
            for number, counts in sorted(self._windows.items())
            for kind in (KEY, TEMPLATE)
            for value, count in sorted(counts[kind].items())
        ]
        return {"rows": np.array(rows, np.int64).reshape(-1, 4)}

    def restore(self, arrays: Arrays, *, keys: int, templates: int) -> None:
        """Take over a state whose keys and templates are below these numbers. Raises: StateError."""
        checked(arrays, {"rows": (np.int64, ("N", 4))})
        _, kind, value, count = arrays["rows"].T
        fits = ((kind == KEY) & (value < keys)) | ((kind == TEMPLATE) & (value < templates))
        if not (fits & (value >= 0) & (count > 0)).all():
            raise StateError(f"expected counts of keys below {keys} and templates below {templates}, got others")
        self._windows = {}
        for number, kind, value, count in arrays["rows"].tolist():
            self._windows.setdefault(number, ({}, {}))[kind != KEY][value] = count


def _columns(counts: dict[int, int]) -> tuple[I64, I64]:
    rows = np.array(sorted(counts.items()), np.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]
