"""Who changed what: all that is journalled anywhere, as one list."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from otel_aiops.audit.configurations import Configurations
from otel_aiops.audit.notes import readable
from otel_aiops.errors import BadInput, StateError
from otel_aiops.incidents.journal import Journal
from otel_aiops.lifecycle import governed
from otel_aiops.lifecycle.dataset import Datasets
from otel_aiops.lifecycle.version import MODEL, Models
from otel_aiops.responses.ledger import Ledger
from otel_aiops.server.access.tokens import TokenFile

S = 1_000_000_000
KINDS = (
    "config",
    "governance",
    "verdict",
    "decision",
    "dataset",
    "version",
    "registration",
    "rollout",
    "run",
    "response",
    "access",
)
MOST = 10_000  # of each journal
CLOCK_OF_RUNS = ("made_ns", "started_ns", "began_ns", "start_ns", "time_ns")
LONGEST = 400  # characters of a value in `details` of a configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something that somebody, or the service itself, changed. `data` and `code` are "" where they say nothing.

    Decisions, and rollouts that know no other, have the event time at which they hold, all others that of the machine.
    """

    time_ns: int
    kind: str  # of KINDS
    what: str
    who: str = ""
    why: str = ""
    data: str = ""  # on which data: dataset, series or incident
    code: str = ""  # with which code
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values, the time in unix seconds."""
        tree = asdict(self)
        return {"time": tree.pop("time_ns") / 1e9, **tree}


@dataclass(frozen=True, slots=True)
class Trail:
    """The newest entries first, how many there are, and what could not be read, in plain words."""

    total: int
    entries: tuple[Entry, ...]
    problems: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"total": self.total, "entries": [one.to_json() for one in self.entries], "problems": self.problems}


def trail(
    directory: Path,
    journal: Journal | None,
    *,
    since_ns: int = 0,
    kinds: Sequence[str] = (),
    who: str = "",
    limit: int = 100,
    registrations: Callable[[], Iterable[Mapping[str, str]]] | None = None,
    ledger: Ledger | None = None,
) -> Trail:
    """All that was changed since a time, of some kinds or all, by somebody or anybody (any part of the name).

    Every journal stays where it is, nothing is stored twice. `registrations` gives tags of the registry where it is at
    hand. What cannot be read is told as a problem, and the rest is there. Raises: BadInput.
    """
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise BadInput(f"kind: expected some of {', '.join(KINDS)}, got {unknown[0][:100]!r}")
    sources: Mapping[str, Callable[[], Iterable[Entry]]] = {
        "config": lambda: _configs(directory),
        "governance": lambda: _governance(directory),
        "verdict": lambda: _verdicts(journal),
        "decision": lambda: _decisions(journal),
        "dataset": lambda: _datasets(directory),
        "version": lambda: _versions(directory),
        "registration": lambda: _registrations(registrations),
        "rollout": lambda: _rollouts(journal),
        "run": lambda: _runs(directory),
        "response": lambda: _responses(ledger),
        "access": lambda: _tokens(directory),
    }
    found: list[Entry] = []
    problems: list[str] = []
    for kind in kinds or KINDS:
        entries = iter(sources[kind]())
        while True:
            try:
                one = next(entries)
            except StopIteration:
                break
            except StateError as error:
                problems.append(f"{kind}: {error}")
                break
            if one.time_ns >= since_ns and who.lower() in one.who.lower():
                found.append(one)
    if "dataset" in (kinds or KINDS):
        problems += [f"dataset: {one}" for one in Datasets.of(directory).damaged()]
    # Of the same moment, rollouts stay in the order of their journal: one may follow from the other.
    found.sort(key=lambda one: (-one.time_ns, one.kind, "" if one.kind == "rollout" else one.what))
    return Trail(len(found), tuple(found[:limit]), tuple(problems))


def _configs(directory: Path) -> Iterator[Entry]:
    for one in Configurations(directory).list():
        keys = sorted(one.changed)
        what = "no change of the configuration" if not keys else f"{len(keys)} keys: {', '.join(keys[:3])}"
        details = {key: [str(value)[:LONGEST] for value in one.changed[key]] for key in keys}
        yield Entry(
            time_ns=one.time_ns,
            kind="config",
            what=f"{one.how}: {what}{' …' if len(keys) > 3 else ''}",
            who=one.who,
            data=f"from record {one.sequence + 1}",
            code=one.code,
            details={"id": one.id, "machine": one.machine, "changed": details},
        )


def _tokens(directory: Path) -> Iterator[Entry]:
    for one in TokenFile(directory).read().values():
        opens = ", ".join(one.paths) or "everything"
        for event in one.events:
            what = f"token {one.id} {event.what}: {one.role} {one.name}, for {opens}"
            yield Entry(time_ns=event.time_ns, kind="access", what=what, who=event.who)


def _governance(directory: Path) -> Iterator[Entry]:
    for one in governed.held(directory, 0, 2**63 - 1):
        yield Entry(time_ns=one["from_ns"], kind="governance", what="rules of governance", details=one["rules"])


def _verdicts(journal: Journal | None) -> Iterator[Entry]:
    for series, one in journal.verdicts() if journal else ():
        tree = one.to_json()
        yield Entry(
            time_ns=one.given_ns or one.time_ns,
            kind="verdict",
            what=f"{one.kind} at {_moment(one.time_ns)}",
            who=one.by,
            why=one.note,
            data=readable(series) or tree.get("incident") or tree["fingerprint"],
            details=tree,
        )


def _moment(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _decisions(journal: Journal | None) -> Iterator[Entry]:
    for one in journal.decisions(limit=MOST) if journal else ():
        rule = one.silence or one.maintenance
        about = one.incident or one.name or (rule.name if rule else "")
        hits = ", ".join(rule.services) or "all services" if rule else ""
        yield Entry(
            time_ns=one.time_ns,
            kind="decision",
            what=f"{one.action} {about}".strip(),
            who=one.who,
            why=one.why,
            data=hits or one.incident,
        )


def _datasets(directory: Path) -> Iterator[Entry]:
    for one in Datasets.of(directory).list():
        forced = f", forced: {one.forced}" if one.forced else ""
        yield Entry(
            time_ns=one.made_ns,
            kind="dataset",
            what=f"built {one.id}{forced}",
            who=one.who,
            why=one.why,
            data=one.id,
            details=one.summary(),
        )


def _versions(directory: Path) -> Iterator[Entry]:
    models = Models(directory / "lifecycle" / "models")
    for name in models.list():
        of = models.version(name).lineage
        yield Entry(
            time_ns=(models.folder(name) / MODEL).stat().st_mtime_ns,  # the content knows no clock
            kind="version",
            what=f"made {name}",
            who=of.who,
            why=of.why,
            data=of.dataset or "what the service had learned",
            code=of.code,
            details=asdict(of),
        )


def _registrations(known: Callable[[], Iterable[Mapping[str, str]]] | None) -> Iterator[Entry]:
    for one in known() if known else ():
        yield Entry(
            time_ns=int(one.get("time_ns") or 0),
            kind="registration",
            what=f"registered {one.get('id', '')} as {one.get('number', '')}",
            who=one.get("who", ""),
            why=one.get("why", ""),
            data=one.get("dataset", ""),
            code=one.get("code", ""),
            details=dict(one),
        )


def _rollouts(journal: Journal | None) -> Iterator[Entry]:
    for one in journal.rollouts(limit=MOST) if journal else ():
        share = f", {one.share:.0%} of the series" if one.share else ""
        yield Entry(
            time_ns=one.given_ns or one.time_ns,
            kind="rollout",
            what=f"{one.action} {one.version}{share}".strip(),
            who=one.who,
            why=one.why,
            data=one.version,
            details={"champion": one.champion, "evidence": json.loads(one.evidence) if one.evidence else None},
        )


def _responses(ledger: Ledger | None) -> Iterator[Entry]:
    for line in ledger.deeds(limit=MOST) if ledger else ():
        try:
            one = line.deed()
        except (ValueError, TypeError) as error:
            raise StateError(f"line {line.number} cannot be read, `otel-aiops audit verify` says more") from error
        action = str(one.details.get("action") or one.details.get("playbook") or "")
        yield Entry(
            time_ns=one.time_ns,
            kind="response",
            what=f"{one.what} {action}".strip(),
            who=one.who,
            why=one.why,
            data=one.run or str(one.details.get("incident") or ""),
            details={"line": line.number, "hash": line.hash, "execution": one.execution, **one.details},
        )


def _runs(directory: Path) -> Iterator[Entry]:
    """Journals of whole runs; any that can be read as JSON."""
    for path in sorted((directory / "lifecycle" / "runs").glob("*.json")):
        try:
            tree = json.loads(path.read_bytes())
            at = next((int(tree[key]) for key in CLOCK_OF_RUNS if key in tree), path.stat().st_mtime_ns)
            texts = {key: str(tree.get(key) or "") for key in ("who", "why", "dataset", "code", "state", "version")}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise StateError(f"{path}: expected a run as JSON, got {error}") from error
        said = " ".join(filter(None, (f"run {path.stem}", texts["state"], texts["version"])))
        known = {key: texts[key] for key in ("who", "why", "code")}
        yield Entry(time_ns=at, kind="run", what=said, data=texts["dataset"], details=tree, **known)


def since_of(text: str, now_ns: int) -> int:
    """A time as ISO 8601, unix seconds or -7d; also 7d for so long ago. Raises: BadInput."""
    from otel_aiops.batch.times import moment_ns

    text = text.strip()
    if not text:
        return 0
    ago = text[:-1].replace(".", "", 1).isdigit() and text[-1] in "smhdw"
    found = moment_ns(f"-{text}" if ago else text, now_ns, "since")
    return found if math.isfinite(found) else 0
