"""Incidents that have been, by type: of the journal, and labels of others such as alerts of Alertmanager."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from otel_aiops.errors import BadInput
from otel_aiops.incidents.incident import Channel, Incident
from otel_aiops.otlp.points import I64

S = 1_000_000_000
CHANNELS = frozenset(map(str, Channel))
MOST_LABELS = 100_000  # lines of a file that are read
LONGEST_LINE = 100_000  # characters
SERVICE_LABELS = ("service", "service_name", "job")  # of alerts, the first that is there counts


@dataclass(frozen=True, slots=True)
class Past:
    """N incidents that have been: the type of each, and its start and end, sorted by start."""

    type: tuple[str, ...]  # such as "payment|latency"
    start_ns: I64
    end_ns: I64  # 0 while it lasts

    def __post_init__(self) -> None:
        if not len(self.type) == len(self.start_ns) == len(self.end_ns):
            raise BadInput(f"expected as many types as times, got {len(self.type)} and {len(self.start_ns)}")
        if (np.diff(self.start_ns) < 0).any():
            raise BadInput("expected incidents in the order of their starts")


def type_of(incident: Incident) -> str:
    """What kind of incident it is: the service that is its likeliest cause, and what that shows most."""
    strongest = incident.findings[0].service if incident.findings else ""
    service = incident.suspects[0].service if incident.suspects else strongest
    own = [one for one in incident.findings if one.service == service] or incident.findings
    return f"{service}|{own[0].channel if own else 'unknown'}"


def meets(kind: str, incident: Incident) -> bool:
    """Whether an incident is of a type; one of a type that others name is told by its service."""
    service, _, what = kind.rpartition("|")
    if what in CHANNELS:
        return type_of(incident) == kind
    return service in incident.services or any(one.service == service for one in incident.suspects[:1])


def past_of(incidents: Iterable[Incident], labels: Iterable[tuple[str, int, int]] = ()) -> Past:
    """Incidents and labels (type, start, end) together, in order."""
    rows = [(one.start_ns, type_of(one), one.end_ns) for one in incidents]
    rows = sorted([*rows, *((start_ns, kind, end_ns) for kind, start_ns, end_ns in labels)])
    start_ns, end_ns = (np.array([row[k] for row in rows], np.int64) for k in (0, 2))
    return Past(tuple(row[1] for row in rows), start_ns, end_ns)


def read_labels(path: Path) -> tuple[list[tuple[str, int, int]], str]:
    """(type, start, end) of each line of a file of JSON, and what was wrong with the others in one sentence.

    A line is `{"service": …, "name": …, "start": …, "end": …}` with ISO 8601 or unix seconds, or an alert of
    Alertmanager with `labels`, `startsAt` and `endsAt`.
    """
    found, wrong = list[tuple[str, int, int]](), list[str]()
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(islice(lines, MOST_LABELS), 1):
                try:
                    found += [_label(json.loads(line[:LONGEST_LINE]))] if line.strip() else []
                except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
                    wrong.append(f"line {number}: {error}")
            if lines.readline():
                wrong.append(f"only the first {MOST_LABELS} lines were read")
    except OSError as error:
        return [], f"{path} cannot be read: {error.strerror}"
    return found, f"{len(wrong)} lines of {path} cannot be read, as {wrong[0]}" if wrong else ""


def _label(tree: Mapping[str, Any]) -> tuple[str, int, int]:
    """One label. Raises: ValueError, TypeError, AttributeError, OverflowError."""
    labels = tree.get("labels")
    of: Mapping[str, Any] = tree if labels is None else labels
    service = next((str(of[key]) for key in SERVICE_LABELS if of.get(key)), "")
    name = str(of.get("name" if labels is None else "alertname") or "")
    if not service or not name:
        raise ValueError("expected a service and a name")
    starts, ends = ("start", "end") if labels is None else ("startsAt", "endsAt")
    start_ns = _time_ns(tree.get(starts))
    if not start_ns > 0:
        raise ValueError(f"expected {starts} as ISO 8601 or unix seconds")
    end_ns = _time_ns(tree.get(ends) or 0)
    return f"{service}|{name}", start_ns, end_ns if end_ns >= start_ns else 0


def _time_ns(value: Any) -> int:
    if isinstance(value, str):
        moment = datetime.fromisoformat(value)
        value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return round(float(value) * S)
