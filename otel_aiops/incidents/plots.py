"""Plots: which series draws what evidence of spans and log records says, so that a person can look at it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from otel_aiops.errors import StateError
from otel_aiops.incidents.incident import Channel, Evidence
from otel_aiops.labels import Labels, text
from otel_aiops.series.columns import Arrays, checked
from otel_aiops.signals import logs
from otel_aiops.signals.calls import TRACES_SCOPE
from otel_aiops.signals.red_points import CALLS, EDGE_METRICS, ERRORS, INSIDE, MEDIAN, OPERATION_METRICS

_OPERATIONS = frozenset(name for name, _ in OPERATION_METRICS)
_EDGES = frozenset(name for name, _ in EDGE_METRICS)
# of an operation, and of a call: what is drawn
_OF_OPERATION = {Channel.LATENCY: INSIDE, Channel.ERRORS: ERRORS, Channel.RATE: CALLS, Channel.SEQUENCE: CALLS}
_OF_CALL = {Channel.LATENCY: MEDIAN, Channel.NETWORK: MEDIAN, Channel.ERRORS: ERRORS, Channel.RATE: CALLS}
_SEVERITIES = ("error", "fatal", "warn")  # of log records: the first that there is a series of

Key = tuple[str, str, str]  # metric; service and operation, or caller and callee, or service and severity


class Plots:
    """Fingerprints of the series that are made of spans and log records here, by what they are about."""

    def __init__(self) -> None:
        self._keys: dict[int, Key] = {}  # by row
        self._series: dict[Key, dict[int, str]] = {}  # by row: the kinds of spans of an operation have their own

    def assign(self, row: int, labels: Labels, series: str) -> None:
        """Meet a new series; `series` is its fingerprint as 16 hexadecimal digits."""
        self.forget([row])
        key = _key_of(labels)
        if key is not None:
            self._keys[row] = key
            self._series.setdefault(key, {})[row] = series

    def forget(self, rows: Iterable[int]) -> None:
        """Rows that now belong to other series."""
        for row in rows:
            key = self._keys.pop(row, None)
            if key is not None:
                del self._series[key][row]
                if not self._series[key]:
                    del self._series[key]

    def drawn(self, evidence: Evidence) -> Evidence:
        """The evidence with the series that draws it, where it has none and there is one."""
        if evidence.series:
            return evidence
        found = next((self._series[key] for key in _wanted(evidence) if key in self._series), {})
        return replace(evidence, series=min(found.values())) if found else evidence

    def state(self) -> Arrays:
        """All that is known, as JSON in an array of bytes."""
        tree = [[row, *key, self._series[key][row]] for row, key in self._keys.items()]
        return {"json": np.frombuffer(json.dumps(tree).encode(), np.uint8).copy()}

    def restore(self, arrays: Arrays) -> None:
        """Take over a state; one from before there were plots holds nothing. Raises: StateError."""
        if not arrays:
            return
        checked(arrays, {"json": (np.uint8, ("B",))})
        self._keys, self._series = {}, {}
        try:
            for row, metric, of, what, series in json.loads(arrays["json"].tobytes()):
                key = (str(metric), str(of), str(what))
                self._keys[int(row)] = key
                self._series.setdefault(key, {})[int(row)] = str(series)
        except (ValueError, TypeError) as error:
            raise StateError(f"expected plots as JSON, got {error}") from error


def _key_of(labels: Labels) -> Key | None:
    has = dict(labels.attributes)

    def key(of: str, what: str) -> Key:
        return labels.name, of, what

    if labels.scope_name == TRACES_SCOPE and labels.name in _OPERATIONS:
        return key(labels.service, text(has.get("span.name")))
    if labels.scope_name == TRACES_SCOPE and labels.name in _EDGES:
        return key(text(has.get("client")), text(has.get("server")))
    if labels.scope_name == logs.SCOPE and labels.name == logs.COUNT_METRIC:
        return key(labels.service, text(has.get(logs.SEVERITY)))
    return None


def _wanted(evidence: Evidence) -> list[Key]:
    """The keys of what would draw it, the best first."""
    caller, channel = evidence.caller or evidence.service, evidence.channel
    if channel == Channel.LOGS:
        return [(logs.COUNT_METRIC, evidence.service, severity) for severity in _SEVERITIES]
    found = []
    if evidence.callee and channel in _OF_CALL:
        found.append((EDGE_METRICS[_OF_CALL[channel]][0], caller, evidence.callee))
    if channel in _OF_OPERATION:
        found.append((OPERATION_METRICS[_OF_OPERATION[channel]][0], caller, evidence.what))
    return found
