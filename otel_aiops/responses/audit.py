"""The audit of responses: every decision and deed as a line of a chain in which each line holds the hash of all before.

A line that was changed, left out or put in breaks the chain there. Lines cut off at the end break nothing: who wants to
see that keeps the head of the chain elsewhere, and has it looked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

FIRST = "0" * 64  # what the first line holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """Something that responses did or decided; `who` is a person or otel-aiops itself."""

    time_ns: int
    what: str  # begun, asked, approved, refused, intended, done, failed, unknown, recovered, stopped …
    who: str
    why: str = ""
    run: str = ""
    execution: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the chain: what was written, and the hash of it and all before."""

    number: int
    body: str
    hash: str

    def deed(self) -> Deed:
        """What it tells. Raises: ValueError, TypeError where it was changed into something else."""
        return Deed(**json.loads(self.body))


@dataclass(frozen=True, slots=True)
class Verified:
    """How much of a chain holds; `broken` is the number of the first line that does not, 0 where all do."""

    lines: int
    head: str
    broken: int = 0
    why: str = ""
    known: bool = True  # whether the head that was asked for is in it


def line_after(before: Line | None, deed: Deed) -> Line:
    """The line that follows."""
    number = before.number + 1 if before else 1
    body = json.dumps(asdict(deed), sort_keys=True, separators=(",", ":"), default=str)
    return Line(number, body, _hash(before.hash if before else FIRST, number, body))


def verify(lines: Iterable[Line], head: str = "") -> Verified:
    """Whether every line follows from the one before, in order of their numbers; `head` is the hash of one of them."""
    before, count, known = FIRST, 0, not head
    for one in lines:
        count += 1
        if one.number != count:
            return Verified(count - 1, before, count, f"expected line {count}, got line {one.number}", known)
        if one.hash != _hash(before, one.number, one.body):
            return Verified(count - 1, before, count, "its hash is not that of its content and the lines before", known)
        before = one.hash
        known = known or one.hash == head
    return Verified(count, before, known=known)


def _hash(before: str, number: int, body: str) -> str:
    return hashlib.sha256(f"{before}\n{number}\n{body}".encode("utf-8", "surrogatepass")).hexdigest()
