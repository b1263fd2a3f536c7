"""Samples from a Prometheus-compatible API: which series there are, how often they come, and their past."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from otel_aiops.batch.client import Api
from otel_aiops.errors import BadInput
from otel_aiops.otlp.points import F64, I64

MOST_POINTS = 11_000  # of a series that Prometheus gives to one query
MOST_SAMPLES = 400_000  # of all series that are asked for at once; about 12 MB of JSON
INTERVAL_WINDOW_S = 900.0  # in which points are counted to learn how often a series comes
MOST_VALUES = 200  # of a label in one selector; with more of them the label is left open

_PLAIN = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")

Labels = Mapping[str, str]
Key = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of one series, (N,) each, by time; times in ns."""

    time_ns: I64
    value: F64

    def __len__(self) -> int:
        return len(self.time_ns)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time to read. With a step, values are read at a grid; without one, samples as they are."""

    start_s: float
    end_s: float
    step_s: float | None = None


def key_of(labels: Labels, *without: str) -> Key:
    """What names a series, without its metric name and some more labels."""
    return frozenset((k, v) for k, v in labels.items() if k != "__name__" and k not in without)


class Prometheus:
    """The questions that a backfill and a plan ask."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def series(self, name: str, start_s: float, end_s: float) -> list[dict[str, str]]:
        """The label sets that a metric has had in a time."""
        found = self._ask("/api/v1/series", {"match[]": selector(name, []), **_span(start_s, end_s)})
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise BadInput(f"Prometheus: expected a list of label sets, got {found!r:.200}")
        return found

    def count(self, matchers: str) -> int:
        """How many series there are now that a selector selects."""
        result = _vector(self._ask("/api/v1/query", {"query": f"count({matchers})"}))
        try:
            return int(float(result[0]["value"][1])) if result else 0
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise BadInput(f"Prometheus: expected one number, got {result!r:.200}") from error

    def intervals_s(self, name: str, end_s: float) -> dict[Key, float]:
        """How often the series of a metric came lately."""
        query = f"count_over_time({selector(name, [])}[{INTERVAL_WINDOW_S:.0f}s])"
        result = self._ask("/api/v1/query", {"query": query, "time": f"{end_s:.3f}"})
        counted = ((key_of(one["metric"]), float(one["value"][1])) for one in _vector(result))
        return {key: INTERVAL_WINDOW_S / count for key, count in counted if count > 0}

    def samples(self, name: str, keys: Sequence[Key], windows: Iterable[Window], *spread: str) -> dict[Key, Samples]:
        """The samples of some series of a metric in some windows, which follow each other in time.

        `spread` are labels of which each of these series has many values (`le`, `quantile`); they are in the result.
        """
        parts: dict[Key, list[tuple[I64, F64]]] = {}
        matching = selector(name, keys)
        for window in windows:
            for one in self._window(matching, window):
                values = one.get("values") or []
                if values:
                    parts.setdefault(key_of(one["metric"]), []).append(_columns(values))
        wanted = set(keys)
        return {key: _joined(found) for key, found in parts.items() if _without(key, spread) in wanted}

    def _window(self, matching: str, window: Window) -> Iterable[dict[str, Any]]:
        if window.step_s is not None:
            parameters = {"query": matching, "step": f"{window.step_s:.3f}", **_span(window.start_s, window.end_s)}
            return _vector(self._ask("/api/v1/query_range", parameters))
        length_ms = max(1, round((window.end_s - window.start_s) * 1000))
        parameters = {"query": f"{matching}[{length_ms}ms]", "time": f"{window.end_s:.3f}"}
        return _vector(self._ask("/api/v1/query", parameters))

    def _ask(self, path: str, parameters: dict[str, str]) -> Any:
        answer = self._api.get(path, parameters)
        if not isinstance(answer, dict) or answer.get("status") != "success":
            raise BadInput(f"Prometheus: expected an answer with status success, got {answer!r:.200}")
        return answer.get("data")


def selector(name: str, keys: Sequence[Key]) -> str:
    """A selector of a metric for series with these labels; without any, for all. It may select more than these.

    >>> selector("up", [frozenset({("job", "a"), ("zone", "x")}), frozenset({("job", "b.c"), ("zone", "x")})])
    '{__name__="up",job=~"a|b\\\\\\\\.c",zone="x"}'
    """
    matchers = [f"__name__={_quoted(name)}"]
    for label in sorted({label for key in keys for label, _ in key}):
        values = sorted({dict(key).get(label, "") for key in keys})
        shown = label if _PLAIN.fullmatch(label) else _quoted(label)
        if len(values) == 1:
            matchers.append(f"{shown}={_quoted(values[0])}")
        elif len(values) <= MOST_VALUES:
            matchers.append(f"{shown}=~{_quoted('|'.join(map(_escaped, values)))}")
    return f"{{{','.join(matchers)}}}"


def chunks(window: Window, interval_s: float, series: int) -> list[Window]:
    """A window in pieces that one query each may ask for."""
    points = max(1, min(MOST_POINTS, MOST_SAMPLES // max(1, series)) - 1)
    length_s = points * (window.step_s or interval_s)
    cuts = np.arange(window.start_s, window.end_s, length_s).tolist()
    # On a grid both ends count, so the next piece begins one step behind the last.
    gap_s = window.step_s or 0.0
    ends = [start - gap_s for start in cuts[1:]] + [window.end_s]
    return [Window(start, end, window.step_s) for start, end in zip(cuts, ends, strict=True)]


def _span(start_s: float, end_s: float) -> dict[str, str]:
    return {"start": f"{start_s:.3f}", "end": f"{end_s:.3f}"}


def _vector(data: Any) -> list[dict[str, Any]]:
    result = data.get("result") if isinstance(data, dict) else None
    if not isinstance(result, list):
        raise BadInput(f"Prometheus: expected a result with a list of series, got {data!r:.200}")
    return result


def _columns(values: list[list[Any]]) -> tuple[I64, F64]:
    """Samples as JSON has them, [seconds, "value"], without those that are not finite."""
    times, numbers = zip(*values, strict=True)
    time_ns = np.round(np.array(times, np.float64) * 1000).astype(np.int64) * 1_000_000
    value = np.array(numbers, np.str_).astype(np.float64)
    finite = np.isfinite(value)
    return time_ns[finite], value[finite]


def _joined(parts: list[tuple[I64, F64]]) -> Samples:
    """Pieces that may overlap at their ends."""
    time_ns = np.concatenate([part[0] for part in parts])
    time_ns, first = np.unique(time_ns, return_index=True)
    return Samples(time_ns, np.concatenate([part[1] for part in parts])[first])


def _without(key: Key, labels: Sequence[str]) -> Key:
    return frozenset(pair for pair in key if pair[0] not in labels) if labels else key


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _escaped(text: str) -> str:
    """A text as a regular expression that matches just it."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", text)
