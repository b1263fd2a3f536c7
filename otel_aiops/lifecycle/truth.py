"""Truth: what is known of stretches of time, as labels to judge by, and as exclusions that nobody should learn from."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path
from typing import Any

from otel_aiops.errors import BadInput
from otel_aiops.labels import Selector

S = 1_000_000_000
ANOMALY, NORMAL, EXPECTED, DUPLICATE = "anomaly", "normal", "expected", "duplicate"
# Real trouble; nothing was wrong; strange, and nobody needs to know; a part of trouble that has its own label.
KINDS = (ANOMALY, NORMAL, EXPECTED, DUPLICATE)
LONGEST_TEXT = 2_000
LABEL_KEYS = ("start", "end", "series", "service", "kind", "confidence", "source", "note")
EXCLUSION_KEYS = ("start", "end", "match", "reason", "source")
_SERVICES = "service"


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Label:
    """What somebody or something says of [start_ns, end_ns): one of KINDS, of a series, of a service, or of all.

    `series` is a canonical text (`Labels.to_json`) or, where only that is known, a fingerprint of 16 hexadecimal
    digits. `confidence` is in (0, 1]: verdicts of people 1, rules of others less. `source` says where it comes from.
    """

    start_ns: int
    end_ns: int
    series: str = ""
    service: str = ""
    kind: str = ANOMALY
    confidence: float = 1.0
    source: str = "file"
    note: str = ""

    def __post_init__(self) -> None:
        """Raises: BadInput."""
        if self.kind not in KINDS:
            raise BadInput(f"kind: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        if not self.end_ns > self.start_ns:
            raise BadInput(f"end: expected one after the start, got {self.start_ns} to {self.end_ns} ns")
        if not (math.isfinite(self.confidence) and 0 < self.confidence <= 1):
            raise BadInput(f"confidence: expected a number in (0, 1], got {self.confidence}")

    def to_json(self) -> dict[str, Any]:
        """As plain values, times in ns."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Label:
        """What `to_json` gave. Raises: BadInput, TypeError."""
        return cls(**tree)


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Exclusion:
    """Points in [start_ns, end_ns) that no model learns from: those of series that `match` selects, or all.

    `match` are keys and values of a Selector, sorted by key.
    """

    start_ns: int
    end_ns: int
    match: tuple[tuple[str, str], ...] = ()
    reason: str = ""
    source: str = "file"

    def __post_init__(self) -> None:
        """Raises: BadInput."""
        if not self.end_ns > self.start_ns:
            raise BadInput(f"end: expected one after the start, got {self.start_ns} to {self.end_ns} ns")
        selector(dict(self.match))

    def to_json(self) -> dict[str, Any]:
        """As plain values, times in ns."""
        tree = {name: getattr(self, name) for name in self.__slots__}
        return {**tree, "match": dict(self.match)}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Exclusion:
        """What `to_json` gave. Raises: BadInput, TypeError."""
        return cls(**{**tree, "match": tuple(sorted(tree.get("match", {}).items()))})


def selector(match: Mapping[str, str]) -> Selector:
    """A selector. Raises: BadInput when an expression cannot be read."""
    try:
        return Selector(match)
    except re.error as error:
        raise BadInput(f"match: not a regular expression in {dict(match)}: {error}") from error


def of_services(patterns: Iterable[str]) -> tuple[tuple[tuple[str, str], ...], ...]:
    """Selectors of services by name, where names may have * and ?; of all when there is no name.

    >>> of_services(["cart"]), of_services([]), of_services(["pay-*"])
    (((('service', 'cart'),),), ((),), ((('service', '~(?s:pay\\\\-.*)\\\\Z'),),))
    """
    names = list(patterns)
    if not names:
        return ((),)
    return tuple(
        ((_SERVICES, f"~{translate(name)}" if re.search(r"[*?\[]", name) or name.startswith("~") else name),)
        for name in names
    )


def clipped(exclusions: Iterable[Exclusion], start_ns: int, end_ns: int) -> tuple[Exclusion, ...]:
    """Those of a window, cut to it, each once and in order."""
    found = set()
    for one in exclusions:
        start, end = max(one.start_ns, start_ns), min(one.end_ns, end_ns)
        if end > start:
            found.add(Exclusion(start_ns=start, end_ns=end, match=one.match, reason=one.reason, source=one.source))
    return tuple(sorted(found))


def within(labels: Iterable[Label], start_ns: int, end_ns: int) -> tuple[Label, ...]:
    """Those that reach into a window, each once and in order."""
    return tuple(sorted({one for one in labels if one.end_ns > start_ns and one.start_ns < end_ns}))


# -- files ------------------------------------------------------------------------------------------------------------


def read_labels(path: Path) -> list[Label]:
    """Labels of a file of JSON lines or CSV (by its ending) with LABEL_KEYS. Raises: BadInput naming file and line.

    `start` and `end` are ISO 8601 or unix seconds; all else may be missing.
    """
    return [_at(path, line, lambda tree=tree: label_of(tree)) for line, tree in _lines(path)]


def read_exclusions(path: Path) -> list[Exclusion]:
    """Exclusions of a file with EXCLUSION_KEYS; `match` is an object, in CSV as JSON. Raises: as `read_labels`."""
    return [_at(path, line, lambda tree=tree: exclusion_of(tree)) for line, tree in _lines(path)]


def label_of(tree: Mapping[str, Any]) -> Label:
    """A label as people write it. Raises: BadInput."""
    _known(tree, LABEL_KEYS)
    given = {key: str(tree[key]) for key in ("series", "service", "kind", "source", "note") if _given(tree, key)}
    if any(len(value) > LONGEST_TEXT for value in given.values()):
        raise BadInput(f"expected texts of at most {LONGEST_TEXT} characters")
    if _given(tree, "confidence"):
        try:
            given["confidence"] = float(tree["confidence"])  # type: ignore[assignment]
        except (TypeError, ValueError):
            raise BadInput(f"confidence: expected a number, got {tree['confidence']!r}") from None
    return Label(start_ns=time_ns(tree, "start"), end_ns=time_ns(tree, "end"), **given)  # type: ignore[arg-type]


def exclusion_of(tree: Mapping[str, Any]) -> Exclusion:
    """An exclusion as people write it. Raises: BadInput."""
    _known(tree, EXCLUSION_KEYS)
    match = tree.get("match") or {}
    if isinstance(match, str):
        try:
            match = json.loads(match)
        except ValueError:
            raise BadInput(f"match: expected a JSON object, got {match!r}") from None
    if not isinstance(match, dict):
        raise BadInput(f"match: expected an object of keys and values, got {match!r}")
    return Exclusion(
        start_ns=time_ns(tree, "start"),
        end_ns=time_ns(tree, "end"),
        match=tuple(sorted((str(key), str(value)) for key, value in match.items())),
        reason=str(tree.get("reason") or ""),
        source=str(tree.get("source") or "file"),
    )


def time_ns(tree: Mapping[str, Any], key: str) -> int:
    """A time that people wrote, as ISO 8601 (UTC without a zone) or unix seconds. Raises: BadInput."""
    from datetime import UTC, datetime

    value = tree.get(key)
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return round(value * S)
        text = str(value).strip()
        if text.replace(".", "", 1).isdigit():
            return round(float(text) * S)
        at = datetime.fromisoformat(text)
        return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000_000) * 1_000
    except (ValueError, OverflowError):
        raise BadInput(f"{key}: expected ISO 8601 as 2026-05-03T14:00:00Z, or unix seconds, got {value!r}") from None


def _given(tree: Mapping[str, Any], key: str) -> bool:
    return tree.get(key) not in (None, "")


def _known(tree: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    if not isinstance(tree, Mapping):
        raise BadInput(f"expected an object with {', '.join(keys)}, got {str(tree)[:100]!r}")
    unknown = sorted(str(key) for key in tree if key not in keys)
    if unknown:
        raise BadInput(f"{unknown[0]}: is not a known key; known here: {', '.join(keys)}")


def _at(path: Path, line: int, make: Any) -> Any:
    try:
        return make()
    except BadInput as error:
        raise BadInput(f"{path}, line {line}: {error}") from error


def _lines(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    """(line, object) of a file. Raises: BadInput."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = (error.strerror if isinstance(error, OSError) else "") or error
        raise BadInput(f"{path}: expected a file of JSON lines or CSV, got {why}") from error
    if path.suffix == ".csv":
        reader = csv.DictReader(text.splitlines())
        return [(reader.line_num, {str(key): value for key, value in row.items()}) for row in reader]
    found: list[tuple[int, Mapping[str, Any]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                found.append((number, json.loads(line)))
            except ValueError as error:
                raise BadInput(f"{path}, line {number}: expected JSON, got {line[:100]!r}: {error}") from error
    return found
