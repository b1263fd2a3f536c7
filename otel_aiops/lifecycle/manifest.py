"""Manifest: what a dataset consists of, as a value that never changes, with a hash of its content as its name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from otel_aiops.errors import StateError
from otel_aiops.lifecycle.profile import GateVerdict, Profile
from otel_aiops.lifecycle.truth import Exclusion, Label

FORMAT = 1
ID_DIGITS = 16
Match = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Window:
    """Event time in [start_ns, end_ns)."""

    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Piece:
    """The segment of one hour: its bytes by their SHA-256, which is its file name too, and how many rows were taken."""

    hour: int  # since the epoch
    sha256: str
    bytes: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A dataset. Equal content gives an equal `id`; who, when, why and a forced gate stand beside it.

    `matches` are selectors of series, of which one must hold; none takes all. `lost` are hours whose segment is damaged
    and was left out. `series_sha256` names the table of series. `governance` says which attributes were dropped or
    hashed before anything was stored. `forced` is why somebody wants to train although the gate says no.
    """

    window: Window
    matches: tuple[Match, ...] = ()
    labels: tuple[Label, ...] = ()
    exclusions: tuple[Exclusion, ...] = ()
    pieces: tuple[Piece, ...] = ()
    lost: tuple[tuple[int, str], ...] = ()  # hour, reason
    schema: tuple[tuple[str, str], ...] = ()
    rows: int = 0
    series: int = 0
    series_sha256: str = ""
    profile: Profile
    gate: GateVerdict
    governance: tuple[Mapping[str, Any], ...] = ()
    parents: tuple[str, ...] = ()
    who: str = ""
    why: str = ""
    made_ns: int = 0
    forced: str = ""

    @property
    def id(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the content."""
        return digest(self.content())[:ID_DIGITS]

    @property
    def trainable(self) -> bool:
        """Whether models may learn from it: the gate says so, or somebody who gave a reason."""
        return self.gate.passed or bool(self.forced)

    @property
    def bytes(self) -> int:
        """Bytes of its segments."""
        return sum(piece.bytes for piece in self.pieces)

    def content(self) -> dict[str, Any]:
        """All that its id is made of."""
        return {
            "format": FORMAT,
            "window": [self.window.start_ns, self.window.end_ns],
            "match": [dict(match) for match in self.matches],
            "labels": [label.to_json() for label in self.labels],
            "exclusions": [exclusion.to_json() for exclusion in self.exclusions],
            "segments": [[one.hour, one.sha256, one.bytes, one.rows] for one in self.pieces],
            "lost": [list(one) for one in self.lost],
            "schema": [list(column) for column in self.schema],
            "rows": self.rows,
            "series": self.series,
            "series_sha256": self.series_sha256,
            "profile": self.profile.to_json(),
            "gate": self.gate.to_json(),
            "governance": [dict(one) for one in self.governance],
            "parents": list(self.parents),
        }

    def summary(self) -> dict[str, Any]:
        """What a list shows, times in unix seconds."""
        return {
            "id": self.id,
            "start": self.window.start_ns / 1e9,
            "end": self.window.end_ns / 1e9,
            "match": [dict(match) for match in self.matches],
            "rows": self.rows,
            "series": self.series,
            "bytes": self.bytes,
            "segments": len(self.pieces),
            "labels": len(self.labels),
            "exclusions": len(self.exclusions),
            "gate": self.gate.passed,
            "reasons": list(self.gate.reasons),
            "trainable": self.trainable,
            "forced": self.forced,
            "parents": list(self.parents),
            "who": self.who,
            "why": self.why,
            "made": self.made_ns / 1e9,
        }

    def to_json(self) -> dict[str, Any]:
        """As plain values, with a seal over all of them."""
        about = {"who": self.who, "why": self.why, "made_ns": self.made_ns, "forced": self.forced}
        tree = {"id": self.id, "content": self.content(), "about": about}
        return {**tree, "seal": digest(tree)}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Manifest:
        """What `to_json` gave. Raises: StateError when it is another format, or when anything in it was changed."""
        try:
            content, about = tree["content"], tree["about"]
            if content["format"] != FORMAT:
                raise StateError(f"expected a manifest of format {FORMAT}, got {content['format']}")
            sealed = {name: tree[name] for name in ("id", "content", "about")}
            if tree["seal"] != digest(sealed) or tree["id"] != digest(content)[:ID_DIGITS]:
                raise StateError(f"the manifest of dataset {tree['id']} was changed: its hash does not fit its content")
            return _read(content, about)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateError(f"expected a manifest of a dataset, got one that does not fit: {error!r}") from error

    def force(self, who: str, why: str) -> Manifest:
        """The same with a reason to train although the gate says no."""
        return replace(self, forced=f"{who}: {why}" if who else why)


def canonical(tree: Any) -> bytes:
    """Equal values as equal bytes: JSON with sorted keys and without spaces."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode(
        "utf-8", "surrogatepass"
    )


def digest(tree: Any) -> str:
    """SHA-256 of plain values, as hexadecimal digits."""
    return hashlib.sha256(canonical(tree)).hexdigest()


def matches_of(given: Sequence[Mapping[str, Any]]) -> tuple[Match, ...]:
    """Selectors as a manifest keeps them: sorted, each once.

    >>> matches_of([{"service": "cart", "name": "a"}, {"name": "a", "service": "cart"}])
    ((('name', 'a'), ('service', 'cart')),)
    """
    return tuple(sorted({tuple(sorted((str(k), str(v)) for k, v in match.items())) for match in given}))


def _read(content: Mapping[str, Any], about: Mapping[str, Any]) -> Manifest:
    return Manifest(
        window=Window(*map(int, content["window"])),
        matches=matches_of(content["match"]),
        labels=tuple(map(Label.from_json, content["labels"])),
        exclusions=tuple(map(Exclusion.from_json, content["exclusions"])),
        pieces=tuple(Piece(int(a), str(b), int(c), int(d)) for a, b, c, d in content["segments"]),
        lost=tuple((int(hour), str(why)) for hour, why in content["lost"]),
        schema=tuple((str(name), str(kind)) for name, kind in content["schema"]),
        rows=int(content["rows"]),
        series=int(content["series"]),
        series_sha256=str(content["series_sha256"]),
        profile=Profile.from_json(content["profile"]),
        gate=GateVerdict.from_json(content["gate"]),
        governance=tuple(content["governance"]),
        parents=tuple(map(str, content["parents"])),
        who=str(about["who"]),
        why=str(about["why"]),
        made_ns=int(about["made_ns"]),
        forced=str(about["forced"]),
    )
