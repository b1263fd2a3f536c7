"""Points that somebody sends to be scored: checked, scored beside the step loop by a copy, and told as plain values."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_aiops.desk import asked as get
from otel_aiops.detect.detector import CHANNELS
from otel_aiops.errors import BadInput, Overloaded, TooLarge
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.apart import Apart, Known, Loaded, champion
from otel_aiops.lifecycle.scoring import CHAMPION, apart, rules_of

if TYPE_CHECKING:
    from otel_aiops.app import Service
    from otel_aiops.batch.score import Result
    from otel_aiops.series.table import SeriesTable
    from otel_aiops.series.tables import Rows

MOST_SERIES, MOST_POINTS = 1_000, 10_000  # of one request
AT_ONCE = 2  # requests that are scored; the step loop needs its share of the machine
PATIENCE_S = 10.0  # that others wait for their turn
ROWS_A_LOOK = 2_000  # series that are looked at between two steps
KEYS, OF_SERIES = ("model", "series"), ("labels", "timestamps", "values")
OF_LABELS = ("name", "unit", "kind", "stat", "resource", "scope", "attributes")
NUMBERS = ("score", "probability", "expected", "lower", "upper")
LATEST_S = 9_000_000_000.0  # of int64 nanoseconds


class ScoreViews:
    """Any thread; at most so many at once."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._turn = threading.BoundedSemaphore(AT_ONCE)
        self._loading = threading.Lock()
        self._loaded: tuple[str, Loaded] | None = None  # the version that was asked for last

    def score(self, asked: Any) -> dict[str, Any] | None:
        """The scores; None where there is no such version. Raises: BadInput, TooLarge, StateError, Overloaded."""
        asked = get.known_keys(asked, KEYS)
        name = get.text(asked, "model") or CHAMPION
        labels, rows = _points(asked.get("series"))
        if name != CHAMPION and name not in self._service.models.list():
            return None
        from otel_aiops.batch.score import scored_rows

        with self._turns():
            version, copy = self._champion(labels) if name == CHAMPION else (name, self._version(name, labels))
            known = [place >= 0 for place in copy.places]
            verdict, result = scored_rows(rows, copy)
        told = [_told(one, known[k], verdict, result, rows["code"] == k) for k, one in enumerate(labels)]
        return {"model": version, "series": told}

    @contextmanager
    def _turns(self) -> Iterator[None]:
        if not self._turn.acquire(timeout=PATIENCE_S):
            raise Overloaded(f"{AT_ONCE} requests are being scored; come again", retry_after_s=PATIENCE_S)
        try:
            yield
        finally:
            self._turn.release()

    def _version(self, name: str, labels: Sequence[Labels]) -> Apart:
        with self._loading:
            if self._loaded is None or self._loaded[0] != name:
                self._loaded = name, Loaded(self._service.models.trained(name))
            return apart(self._loaded[1], labels, rules_of(self._service.config.pipeline()))

    def _champion(self, labels: Sequence[Labels]) -> tuple[str, Apart]:
        """What serves, with what it has learned up to now."""
        texts = [one.to_json() for one in labels]
        found = self._rows({text: k for k, text in enumerate(texts)})

        def answer() -> tuple[str, Known, list[int]]:
            pipeline = self._service.pipeline
            # A row may have been given to another series since it was looked for.
            held = [k for k, row in found.items() if _holds(pipeline.table, row, texts[k])]
            rows = np.array([found[k] for k in held], np.int32)
            serves = pipeline.serving.champion
            return serves.name, champion(serves, rows), held

        name, known, held = self._service.ask(answer)
        place = {k: i for i, k in enumerate(held)}
        places = [place.get(k, -1) for k in range(len(labels))]
        return name, Apart(known, places, labels, rules_of(self._service.config.pipeline()))

    def _rows(self, wanted: Mapping[str, int]) -> dict[int, int]:
        """The live row of each series that has one; looked for between steps, some at a time."""
        found: dict[int, int] = {}
        names = {Labels.from_json(text).name for text in wanted}
        for start in range(0, self._service.pipeline.table.size, ROWS_A_LOOK):
            if len(found) == len(wanted):
                break
            found |= self._service.ask(partial(self._among, wanted, names, start))
        return found

    def _among(self, wanted: Mapping[str, int], names: set[str], start: int) -> dict[int, int]:
        table, found = self._service.pipeline.table, {}
        for row in range(start, min(start + ROWS_A_LOOK, table.size)):
            if table.is_live(row) and table.source(row).stream.name in names:
                k = wanted.get(table.labels(row).to_json())
                if k is not None:
                    found[k] = row
        return found


def _holds(table: SeriesTable, row: int, text: str) -> bool:
    return bool(row < table.size and table.is_live(row) and table.labels(row).to_json() == text)


# -- what is asked ----------------------------------------------------------------------------------------------------


def _points(asked: Any) -> tuple[list[Labels], Rows]:
    """(series, their points). Raises: BadInput, TooLarge."""
    from otel_aiops.series.tables import ROW

    if not isinstance(asked, list) or not asked:
        raise BadInput(f"series: expected a list of at least one, got {str(asked)[:100]!r}")
    if len(asked) > MOST_SERIES:
        raise TooLarge(f"series: expected at most {MOST_SERIES}, got {len(asked)}")
    labels: list[Labels] = []
    times: list[int] = []
    values: list[float] = []
    codes: list[int] = []
    for k, one in enumerate(asked):
        path = f"series[{k}]"
        one = get.known_keys(one, OF_SERIES)
        labels.append(_labels(one.get("labels"), path))
        some, these = one.get("timestamps"), one.get("values")
        if not isinstance(some, list) or not isinstance(these, list) or len(some) != len(these):
            raise BadInput(f"{path}: expected timestamps and values, lists of equal length")
        if len(times) + len(some) > MOST_POINTS:
            raise TooLarge(f"expected at most {MOST_POINTS} points in a request, got more")
        times += [_time_ns(of, path) for of in some]
        values += [_value(of, path) for of in these]
        codes += [k] * len(some)
    if len(set(labels)) != len(labels):
        raise BadInput("series: expected each once, got two with the same labels")
    rows = np.empty(len(times), ROW)
    rows["time_ns"], rows["value"], rows["code"] = times, values, codes
    return labels, rows


def _labels(asked: Any, path: str) -> Labels:
    tree = get.known_keys(asked, OF_LABELS)
    texts = {key: get.text(tree, key) for key in ("name", "unit", "stat")}
    if not texts["name"]:
        raise BadInput(f"{path}.labels.name: expected the name of a metric, got none")
    objects = {key: tree.get(key, {}) for key in ("resource", "scope", "attributes")}
    if not all(isinstance(of, dict) for of in objects.values()):
        raise BadInput(f"{path}.labels: expected objects as resource, scope and attributes")
    scope = {"name": "", "version": "", **objects.pop("scope")}
    kind = get.text(tree, "kind") or "gauge"
    try:
        return Labels.from_json(json.dumps({**texts, "kind": kind, **objects, "scope": scope}))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}.labels: {error}") from error


def _time_ns(value: Any, path: str) -> int:
    """Unix seconds, to the microsecond, or ISO 8601, to the nanosecond."""
    if isinstance(value, str):
        from otel_aiops.batch.times import moment_ns

        found = moment_ns(value[: get.LONGEST], 0, f"{path}.timestamps")
        if not 0 <= found <= LATEST_S * 1e9:
            raise BadInput(f"{path}.timestamps: expected times from 1970 on, got {value[:100]!r}")
        return found
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LATEST_S:
        raise BadInput(f"{path}.timestamps: expected unix seconds or ISO 8601, got {str(value)[:100]!r}")
    return value * 1_000_000_000 if isinstance(value, int) else round(value * 1e6) * 1_000


def _value(value: Any, path: str) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadInput(f"{path}.values: expected numbers or null, got {str(value)[:100]!r}")
    try:
        return float(value)
    except OverflowError:
        raise BadInput(f"{path}.values: expected a number that fits 64 bits, got {str(value)[:30]}...") from None


# -- what is told ----------------------------------------------------------------------------------------------------


def _told(labels: Labels, known: bool, verdict: Any, result: Result, mine: Any) -> dict[str, Any]:
    """One series, its points in the order that they came in."""
    from otel_aiops.batch.score import REASONS

    numbers = {name: [_number(of) for of in getattr(result, name)[mine].tolist()] for name in NUMBERS}
    scored = ~np.isnan(result.score[mine])
    why = result.reason[mine].tolist()
    return {
        "series": str(labels),
        "known": known,
        **numbers,
        "p_value": [None if of is None else 1.0 - of for of in numbers["probability"]],
        "alert_score": result.alert[mine].tolist(),
        "channel": [CHANNELS[of] for of in result.channel[mine].tolist()],
        "reason": [result.reasons[of] if of >= len(REASONS) else "" for of in why],
        "skipped": _skipped(verdict[mine].tolist(), scored.tolist()),
    }


def _skipped(verdict: Sequence[int], scored: Sequence[bool]) -> list[str]:
    from otel_aiops.batch.score import GOOD, REASONS

    warming = "The series warms up."
    return ["" if ok else REASONS[of] if of != GOOD else warming for of, ok in zip(verdict, scored, strict=True)]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no others
