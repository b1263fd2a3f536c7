"""The journal of incidents: every revision and decision in an SQL database, once however often it is repeated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sql

from otel_aiops.detect.lessons import Verdict
from otel_aiops.detect.serving import Rollout
from otel_aiops.errors import ConfigError, StateError
from otel_aiops.incidents.alert_note import AlertNote
from otel_aiops.incidents.codec import decode, encode
from otel_aiops.incidents.database import Database, storable
from otel_aiops.incidents.incident import Incident, Severity, State
from otel_aiops.incidents.others import Others
from otel_aiops.incidents.suppress import Decision

SCHEMA_VERSION = 1
S = 1_000_000_000
KEPT_FINDINGS = 20  # of each revision; the last revision has all, unless many are told of at once
KEPT_LINES = 10
TOGETHER = 10_000  # findings that revisions told of at once have in all, but each at least KEPT_FINDINGS
FILE = "incidents.db"
STANDING = (State.OPEN, State.ACKNOWLEDGED, State.PREDICTED)
PREDICTION = "prediction"  # the trait that only predictions have

META = sql.MetaData()
ABOUT = sql.Table("about", META, sql.Column("name", sql.Text, primary_key=True), sql.Column("value", sql.Text))
CHANGES = sql.Table(
    "changes",
    META,
    sql.Column("incident", sql.Text, primary_key=True),
    sql.Column("revision", sql.BigInteger, primary_key=True),
    sql.Column("event_ns", sql.BigInteger, nullable=False, index=True),
    sql.Column("body", sql.Text, nullable=False),
)
INCIDENTS = sql.Table(
    "incidents",
    META,
    sql.Column("incident", sql.Text, primary_key=True),
    sql.Column("revision", sql.BigInteger, nullable=False),
    sql.Column("event_ns", sql.BigInteger, nullable=False, index=True),
    sql.Column("state", sql.Text, nullable=False, index=True),
    sql.Column("severity", sql.Text, nullable=False),
    sql.Column("start_ns", sql.BigInteger, nullable=False, index=True),
    sql.Column("suspect", sql.Text, nullable=False),
    sql.Column("body", sql.Text, nullable=False),
)
TRAITS = sql.Table(  # what incidents are found by: services, channels, and of predictions what they predict
    "traits",
    META,
    sql.Column("kind", sql.Text, primary_key=True),
    sql.Column("name", sql.Text, primary_key=True),
    sql.Column("incident", sql.Text, primary_key=True, index=True),
)
TRAITS_OF = sql.delete(TRAITS).where(TRAITS.c.incident == sql.bindparam("of"))
NEW_TRAITS = sql.insert(TRAITS)
DECISIONS = sql.Table(
    "decisions",
    META,
    sql.Column("id", sql.Text, primary_key=True),  # of its content: repeated ones are one
    sql.Column("event_ns", sql.BigInteger, nullable=False, index=True),
    sql.Column("incident", sql.Text, nullable=False, index=True),
    sql.Column("who", sql.Text, nullable=False),
    sql.Column("action", sql.Text, nullable=False),
    sql.Column("body", sql.Text, nullable=False),
)
VERDICTS = sql.Table(
    "verdicts",
    META,
    sql.Column("id", sql.Text, primary_key=True),  # of its content
    sql.Column("time_ns", sql.BigInteger, nullable=False, index=True),  # what it is about
    sql.Column("series", sql.Text, nullable=False),  # canonical text, "" where the series was not known any more
    sql.Column("body", sql.Text, nullable=False),
)
ROLLOUTS = sql.Table(
    "rollouts",
    META,
    sql.Column("id", sql.Text, primary_key=True),  # of its content
    sql.Column("number", sql.BigInteger, nullable=False),  # in the order in which they were done
    sql.Column("event_ns", sql.BigInteger, nullable=False),
    sql.Column("body", sql.Text, nullable=False),
)
ALERTS = sql.Table(
    "alerts",
    META,
    sql.Column("id", sql.Text, primary_key=True),  # of sequence, series and time
    sql.Column("time_ns", sql.BigInteger, nullable=False, index=True),  # of the point
    sql.Column("series", sql.Text, nullable=False),  # fingerprint
    sql.Column("body", sql.Text, nullable=False),
)
LATER = (VERDICTS, ROLLOUTS, ALERTS)  # tables that journals of earlier releases have not
LISTED = sql.Index(  # all that lists are counted and ordered by: bodies are long, and most are not shown
    "ix_incidents_listed", INCIDENTS.c.state, INCIDENTS.c.start_ns, INCIDENTS.c.incident, INCIDENTS.c.severity
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalConfig:
    """Where incidents are kept, and for how long. Without a URL they are in an SQLite file of the data directory."""

    url: str = field(default="", repr=False)  # sqlite:… or postgresql:…; without it incidents.db in storage.directory
    retention: float = 400 * 86_400.0  # s after its last change that an incident is kept
    wait: float = 5.0  # for a database that another process has locked

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        if self.url and not self.url.startswith(("sqlite:", "postgresql:", "postgresql+")):
            raise ConfigError("url", f"expected sqlite:… or postgresql:…, got {self.url.split(':', 1)[0]}:…")
        if not self.retention > 0:
            raise ConfigError("retention", f"expected more than 0 s, got {self.retention}")
        if not self.wait >= 0:
            raise ConfigError("wait", f"expected at least 0 s, got {self.wait}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which incidents; empty takes all. Times are those of the start. `predicted` takes only predictions, or none."""

    states: tuple[State, ...] = ()
    severities: tuple[Severity, ...] = ()
    service: str = ""
    channel: str = ""
    suspect: str = ""
    from_ns: int = 0
    until_ns: int = 0
    predicted: bool | None = None

    def takes(self, incident: Incident) -> bool:
        """Whether an incident is one of them."""
        return (
            (not self.states or incident.state in self.states)
            and (not self.severities or incident.severity in self.severities)
            and (not self.service or self.service in incident.services)
            and (not self.channel or any(finding.channel == self.channel for finding in incident.findings))
            and (not self.suspect or _suspect(incident) == self.suspect)
            and (not self.from_ns or incident.start_ns >= self.from_ns)
            and (not self.until_ns or incident.start_ns < self.until_ns)
            and (self.predicted is None or self.predicted == (incident.prediction is not None))
        )


@dataclass(frozen=True, slots=True)
class Head:
    """What is asked most often of the last revision of an incident; `event_ns` is when that was made."""

    incident: str
    revision: int
    event_ns: int
    state: State
    severity: Severity


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the incidents that a filter takes, the latest first, and how many there are."""

    incidents: tuple[Incident, ...]
    total: int


class Journal:
    """Revisions of incidents, and decisions. Any method may raise StorageError: then nothing was written."""

    def __init__(self, config: JournalConfig, folder: Path) -> None:
        self._config = config
        # After a power cut the log of the service is read again: it repeats what is missing here.
        what, file = "journal of incidents", folder / FILE
        self._database = Database(config.url, file, wait_s=config.wait, what=what)
        # What others tell is in no log of ours, and once it is answered they tell it no more.
        self._durable = Database(config.url, file, wait_s=config.wait, what=what, durable=True)
        self.others = Others(self._database, self._durable)

    def open(self) -> None:
        """Connect, and make the tables where there are none. Raises: StateError if they are of another version."""
        self._database.open()
        self._durable.open()
        with self._database.transaction() as connection:
            found = None
            if sql.inspect(connection).has_table(ABOUT.name):
                found = connection.scalar(sql.select(ABOUT.c.value).where(ABOUT.c.name == "schema"))
            for table in LATER:
                table.create(connection, checkfirst=True)
            self.others.create(connection)
            if found is None:
                META.create_all(connection)
                connection.execute(self._database.once(ABOUT, {"name": "schema", "value": str(SCHEMA_VERSION)}))
                return
            if found == str(SCHEMA_VERSION):
                LISTED.create(connection, checkfirst=True)
        if found != str(SCHEMA_VERSION):
            self.close()
            raise StateError(f"journal of incidents: expected schema version {SCHEMA_VERSION}, got {found}")

    def close(self) -> None:
        """Let go of the database. May be called twice."""
        self._database.close()
        self._durable.close()

    def append(self, incidents: Sequence[Incident], event_ns: int) -> int:
        """Write revisions, all or none; those that are there already are passed over. Returns how many were new."""
        new = 0
        change = self._database.insert(CHANGES).on_conflict_do_nothing().returning(CHANGES.c.revision)
        keep = self._keeping()
        with self._database.transaction() as connection:
            for incident in incidents:
                row = {
                    "incident": incident.id,
                    "revision": incident.revision,
                    "event_ns": event_ns,
                    "body": _json(brief(incident)),
                }
                if connection.execute(change, row).first():
                    new += 1
                    self._keep(connection, keep, incident, event_ns)
        return new

    def decided(self, decision: Decision) -> None:
        """Write what an operator decided; the same again is passed over."""
        body = _json(decision)
        row = {
            "id": _name(body),
            "event_ns": decision.time_ns,
            "incident": decision.incident,
            "who": storable(decision.who),
            "action": str(decision.action),
            "body": body,
        }
        with self._database.transaction() as connection:
            connection.execute(self._database.once(DECISIONS, row))

    def judged(self, verdict: Verdict, series: str) -> None:
        """Write what somebody said of a series, whose canonical text is given; the same again is passed over."""
        body = json.dumps(verdict.to_json(), sort_keys=True, separators=(",", ":"))
        row = {"id": _name(body), "time_ns": verdict.time_ns, "series": storable(series), "body": body}
        with self._database.transaction() as connection:
            connection.execute(self._database.once(VERDICTS, row))

    def verdicts(self, *, from_ns: int = 0, until_ns: int = 2**63 - 1) -> tuple[tuple[str, Verdict], ...]:
        """(canonical text of the series, verdict) on a stretch of time, in its order."""
        query = sql.select(VERDICTS.c.series, VERDICTS.c.body)
        query = query.where(VERDICTS.c.time_ns >= from_ns, VERDICTS.c.time_ns < until_ns)
        with self._database.transaction() as connection:
            rows = connection.execute(query.order_by(VERDICTS.c.time_ns, VERDICTS.c.id)).all()
        return tuple((str(series), Verdict.from_json(json.loads(body))) for series, body in rows)

    def rolled(self, order: Rollout) -> None:
        """Write what was done with model versions, with its evidence; the same again is passed over."""
        body = order.to_bytes().decode()
        with self._database.transaction() as connection:
            number = (connection.scalar(sql.select(sql.func.max(ROLLOUTS.c.number))) or 0) + 1
            row = {"id": _name(body), "number": number, "event_ns": order.time_ns, "body": body}
            connection.execute(self._database.once(ROLLOUTS, row))

    def rollouts(self, *, limit: int = 100) -> tuple[Rollout, ...]:
        """What was done with model versions, the latest first; kept for good."""
        return self.rollout_page(limit=limit)[1]

    def rollout_page(self, *, limit: int, offset: int = 0) -> tuple[int, tuple[Rollout, ...]]:
        """(how many there are, a page of them), the latest first."""
        query = sql.select(ROLLOUTS.c.body).order_by(ROLLOUTS.c.number.desc()).limit(limit).offset(offset)
        with self._database.transaction() as connection:
            total = connection.scalar(sql.select(sql.func.count()).select_from(ROLLOUTS)) or 0
            return total, tuple(Rollout.from_bytes(body.encode()) for body in connection.scalars(query))

    def raised(self, notes: Sequence[AlertNote]) -> None:
        """Write with what alerts began, all or none; what was told first stays, however often it is repeated."""
        with self._database.transaction() as connection:
            for one in notes:
                row = {
                    "id": _name(f"{one.sequence} {one.fingerprint} {one.time_ns}"),
                    "time_ns": one.time_ns,
                    "series": one.fingerprint,
                    "body": _json(one),
                }
                connection.execute(self._database.once(ALERTS, row))

    def alerts(
        self, *, series: str = "", from_ns: int = 0, until_ns: int = 2**63 - 1, limit: int = 1_000
    ) -> tuple[AlertNote, ...]:
        """With what alerts began, the latest first; of one series by its fingerprint, or of all."""
        query = sql.select(ALERTS.c.body).where(ALERTS.c.time_ns >= from_ns, ALERTS.c.time_ns < until_ns)
        if series:
            query = query.where(ALERTS.c.series == series)
        query = query.order_by(ALERTS.c.time_ns.desc(), ALERTS.c.id).limit(limit)
        with self._database.transaction() as connection:
            return tuple(decode(AlertNote, json.loads(body)) for body in connection.scalars(query))

    def page(self, wanted: Filter | None = None, *, limit: int = 100, offset: int = 0) -> Page:
        """The last revisions of incidents, those that started last first."""
        where = _where(wanted or Filter())
        order = (INCIDENTS.c.start_ns.desc(), INCIDENTS.c.incident)
        with self._database.transaction() as connection:
            total = connection.scalar(sql.select(sql.func.count()).select_from(INCIDENTS).where(*where)) or 0
            query = sql.select(INCIDENTS.c.incident).where(*where).order_by(*order).limit(limit).offset(offset)
            names = list(connection.scalars(query))
            bodies = connection.scalars(
                sql.select(INCIDENTS.c.body).where(INCIDENTS.c.incident.in_(names)).order_by(*order)
            )
            found = tuple(_incident(body) for body in bodies)
        return Page(found, total)

    def get(self, name: str) -> Incident | None:
        """The last revision of an incident by id, None where there is none."""
        with self._database.transaction() as connection:
            body = connection.scalar(sql.select(INCIDENTS.c.body).where(INCIDENTS.c.incident == name))
        return None if body is None else _incident(body)

    def standing(self, *, since_ns: int) -> tuple[Head, ...]:
        """Incidents and predictions that stand, and those that changed since an event time, the latest first."""
        standing = INCIDENTS.c.state.in_([str(one) for one in STANDING])
        columns = (INCIDENTS.c.incident, INCIDENTS.c.revision, INCIDENTS.c.event_ns, INCIDENTS.c.state)
        query = sql.select(*columns, INCIDENTS.c.severity).where(sql.or_(standing, INCIDENTS.c.event_ns >= since_ns))
        with self._database.transaction() as connection:
            rows = connection.execute(query.order_by(INCIDENTS.c.start_ns.desc(), INCIDENTS.c.incident)).all()
        return tuple(
            Head(str(name), int(revision), int(event_ns), State(state), Severity(severity))
            for name, revision, event_ns, state, severity in rows
        )

    def history(self, name: str, *, most: int = 10_000, after: int = -1) -> tuple[tuple[int, Incident], ...]:
        """(event time, revision) of an incident, the first first; with the strongest findings and last lines only.

        Those `after` a revision; of more than `most`, the last ones.
        """
        query = sql.select(CHANGES.c.event_ns, CHANGES.c.body)
        query = query.where(CHANGES.c.incident == name, CHANGES.c.revision > after)
        with self._database.transaction() as connection:
            rows = connection.execute(query.order_by(CHANGES.c.revision.desc()).limit(most)).all()
        return tuple((int(event_ns), _incident(body)) for event_ns, body in reversed(rows))

    def past(
        self, *, service: str = "", channel: str = "", from_ns: int = 0, most: int = 10_000
    ) -> tuple[Incident, ...]:
        """Incidents that really were, by service and channel, in the order in which they started."""
        states = (State.OPEN, State.ACKNOWLEDGED, State.RESOLVED)
        wanted = Filter(states=states, service=service, channel=channel, from_ns=from_ns, predicted=False)
        query = sql.select(INCIDENTS.c.body).where(*_where(wanted))
        query = query.order_by(INCIDENTS.c.start_ns.desc(), INCIDENTS.c.incident).limit(most)
        with self._database.transaction() as connection:
            found = [_incident(body) for body in connection.scalars(query)]
        return tuple(reversed(found))

    def decisions(self, *, incident: str = "", from_ns: int = 0, limit: int = 1_000) -> tuple[Decision, ...]:
        """What operators decided, the latest first."""
        query = sql.select(DECISIONS.c.body).where(DECISIONS.c.event_ns >= from_ns)
        if incident:
            query = query.where(DECISIONS.c.incident == incident)
        query = query.order_by(DECISIONS.c.event_ns.desc(), DECISIONS.c.id).limit(limit)
        with self._database.transaction() as connection:
            return tuple(decode(Decision, json.loads(body)) for body in connection.scalars(query))

    def forget(self, event_ns: int) -> int:
        """Delete incidents and decisions that nothing was written of for the retention; how many incidents."""
        least_ns = event_ns - round(self._config.retention * S)
        with self._database.transaction() as connection:
            query = sql.select(INCIDENTS.c.incident).where(INCIDENTS.c.event_ns < least_ns)
            gone = list(connection.scalars(query))
            for table in (CHANGES, TRAITS, INCIDENTS):
                for first in range(0, len(gone), 500):
                    connection.execute(sql.delete(table).where(table.c.incident.in_(gone[first : first + 500])))
            connection.execute(sql.delete(DECISIONS).where(DECISIONS.c.event_ns < least_ns))
            connection.execute(sql.delete(VERDICTS).where(VERDICTS.c.time_ns < least_ns))
            connection.execute(sql.delete(ALERTS).where(ALERTS.c.time_ns < least_ns))
            self.others.forget(connection, least_ns)
        return len(gone)

    def _keeping(self) -> Any:
        """The statement that makes a revision the last one, if it is: made once for all of a step."""
        insert = self._database.insert(INCIDENTS)
        values = {column.name: insert.excluded[column.name] for column in INCIDENTS.c}
        newer = insert.excluded.revision > INCIDENTS.c.revision
        kept = insert.on_conflict_do_update(index_elements=["incident"], set_=values, where=newer)
        return kept.returning(INCIDENTS.c.incident)

    def _keep(self, connection: sql.Connection, keep: Any, incident: Incident, event_ns: int) -> None:
        """Make a revision the last one, if it is; `keep` comes from `_keeping`."""
        row = {
            "incident": incident.id,
            "revision": incident.revision,
            "event_ns": event_ns,
            "state": str(incident.state),
            "severity": str(incident.severity),
            "start_ns": incident.start_ns,
            "suspect": storable(_suspect(incident)),
            "body": _json(incident),
        }
        if not connection.execute(keep, row).first():
            return
        connection.execute(TRAITS_OF, {"of": incident.id})
        traits = {("service", service) for service in incident.services}
        traits |= {("channel", str(finding.channel)) for finding in incident.findings}
        if incident.prediction is not None:
            traits.add((PREDICTION, incident.prediction.what))
        rows = [
            {"kind": kind, "name": name, "incident": incident.id}
            for kind, name in sorted({(kind, storable(name)) for kind, name in traits})
        ]
        if rows:
            connection.execute(NEW_TRAITS, rows)


def _where(wanted: Filter) -> list[Any]:
    found: list[Any] = []
    if wanted.states:
        found.append(INCIDENTS.c.state.in_([str(state) for state in wanted.states]))
    if wanted.severities:
        found.append(INCIDENTS.c.severity.in_([str(severity) for severity in wanted.severities]))
    if wanted.suspect:
        found.append(INCIDENTS.c.suspect == storable(wanted.suspect))
    if wanted.from_ns:
        found.append(INCIDENTS.c.start_ns >= wanted.from_ns)
    if wanted.until_ns:
        found.append(INCIDENTS.c.start_ns < wanted.until_ns)
    for kind, name in (("service", wanted.service), ("channel", wanted.channel)):
        if name:
            named = sql.select(TRAITS.c.incident).where(TRAITS.c.kind == kind, TRAITS.c.name == storable(name))
            found.append(INCIDENTS.c.incident.in_(named))
    if wanted.predicted is not None:
        named = sql.select(TRAITS.c.incident).where(TRAITS.c.kind == PREDICTION)
        found.append(INCIDENTS.c.incident.in_(named) if wanted.predicted else INCIDENTS.c.incident.not_in(named))
    return found


def _suspect(incident: Incident) -> str:
    return incident.suspects[0].service if incident.suspects else ""


def _name(body: str) -> str:
    """An id by content, so that the same is written once."""
    return hashlib.blake2b(body.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(encode(value), separators=(",", ":"))


def _incident(body: str) -> Incident:
    return decode(Incident, json.loads(body))


def brief(incident: Incident) -> Incident:
    """A revision without what the last one has anyway."""
    return replace(_shortened(incident, KEPT_FINDINGS), timeline=incident.timeline[-KEPT_LINES:])


def together(incidents: Sequence[Incident]) -> tuple[Incident, ...]:
    """Revisions that are told of at once, with as many findings as can be written while others wait.

    Up to fifty have all; of more, each has its strongest and the others are only counted, in `more_findings`.
    """
    most = max(KEPT_FINDINGS, TOGETHER // max(len(incidents), 1))
    return tuple(one if len(one.findings) <= most else _shortened(one, most) for one in incidents)


def _shortened(incident: Incident, most: int) -> Incident:
    """With the strongest findings only; the others are counted."""
    findings = incident.findings[:most]
    more = incident.more_findings + len(incident.findings) - len(findings)
    return replace(incident, findings=findings, more_findings=more)
