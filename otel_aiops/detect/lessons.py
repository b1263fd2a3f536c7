"""Lessons: what operators teach the detection, as it stands in the log, so that a replay learns the same again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from otel_aiops.detect.verdicts import KINDS
from otel_aiops.errors import BadInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What somebody said of a series at a time: one of KINDS.

    `series` is its fingerprint, 0 where it is said of an incident that no series shows. `ratio` is the alert score
    then, in unmoved thresholds of its objective; `source` says where that comes from: alert, history, given or
    incident. `incident` is the one that it was said of, `of` the one that a duplicate is a part of.
    """

    series: int
    time_ns: int
    kind: str
    ratio: float
    source: str = "given"
    by: str = ""
    note: str = ""
    given_ns: int = 0
    incident: str = ""
    of: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain values; without `incident` and `of` where there are none, as before there were any."""
        about = {"incident": self.incident, "of": self.of}
        return {key: value for key, value in about.items() if value} | {
            "fingerprint": f"{self.series:016x}",
            "time_ns": self.time_ns,
            "verdict": self.kind,
            "ratio": self.ratio,
            "source": self.source,
            "by": self.by,
            "note": self.note,
            "given_ns": self.given_ns,
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Verdict:
        """What `to_json` gave. Raises: BadInput."""
        try:
            found = cls(
                series=int(tree["fingerprint"], 16),
                time_ns=int(tree["time_ns"]),
                kind=str(tree["verdict"]),
                ratio=float(tree["ratio"]),
                source=str(tree["source"]),
                by=str(tree["by"]),
                note=str(tree["note"]),
                given_ns=int(tree["given_ns"]),
                incident=str(tree.get("incident", "")),
                of=str(tree.get("of", "")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(f"expected a resolved verdict, got {str(tree)[:200]}") from error
        if found.kind not in KINDS or not (math.isfinite(found.ratio) and found.ratio >= 0):
            raise BadInput(f"expected one of {', '.join(KINDS)} with a ratio >= 0, got {found.kind} with {found.ratio}")
        return found


@dataclass(frozen=True, slots=True)
class Lesson:
    """What is learned in one step; kinds of lessons that only other versions know are left out."""

    verdicts: tuple[Verdict, ...] = ()

    def __len__(self) -> int:
        return len(self.verdicts)

    def to_bytes(self) -> bytes:
        """The body of its record in the log."""
        return json.dumps({"verdicts": [one.to_json() for one in self.verdicts]}, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Lesson:
        """What `to_bytes` wrote. Raises: BadInput."""
        try:
            tree = json.loads(data)
            verdicts = tree.get("verdicts", [])
        except (ValueError, AttributeError) as error:
            raise BadInput(f"expected a lesson as JSON, got {data[:200]!r}") from error
        return cls(tuple(Verdict.from_json(one) for one in verdicts))
