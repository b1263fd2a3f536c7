"""The ledger of responses: runs, executions, votes and the audit, in tables beside the journal of incidents.

Whatever changes together is one transaction, with the lines of the audit that tell of it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sql

from otel_aiops.incidents.codec import decode, encode
from otel_aiops.incidents.database import Database
from otel_aiops.incidents.incident import Incident
from otel_aiops.incidents.journal import CHANGES, FILE, INCIDENTS, JournalConfig
from otel_aiops.responses.audit import Deed, Line, line_after
from otel_aiops.responses.playbook import read_playbook
from otel_aiops.responses.runs import (
    ASK,
    DO,
    ESCALATE,
    LIVE,
    UNDO,
    UNFINISHED,
    Execution,
    Run,
    RunState,
    Standing,
    Vote,
)

S = 1_000_000_000
AT_ONCE = 500  # revisions or runs that are looked at in one go

META = sql.MetaData()
STATE = sql.Table("response_state", META, sql.Column("name", sql.Text, primary_key=True), sql.Column("value", sql.Text))
KNOWN = sql.Table(  # the newest revision of each incident that was looked at
    "response_incidents",
    META,
    sql.Column("incident", sql.Text, primary_key=True),
    sql.Column("revision", sql.BigInteger, nullable=False),
    sql.Column("event_ns", sql.BigInteger, nullable=False, index=True),
    sql.Column("state", sql.Text, nullable=False),
    sql.Column("severity", sql.Text, nullable=False),
    sql.Column("suspect", sql.Text, nullable=False),
    sql.Column("since", sql.BigInteger, nullable=False),  # the revision that opened it
)
NOTICES = sql.Table(  # open incidents whose alert has come back from Alertmanager: it lets people know
    "response_notices",
    META,
    sql.Column("incident", sql.Text, primary_key=True),
    sql.Column("time_ns", sql.BigInteger, nullable=False, index=True),
    sql.Column("waits", sql.Integer, nullable=False, index=True),  # 1 until it was looked at
)
RUNS = sql.Table(
    "response_runs",
    META,
    sql.Column("id", sql.Text, primary_key=True),
    sql.Column("incident", sql.Text, nullable=False, index=True),
    sql.Column("playbook", sql.Text, nullable=False),
    sql.Column("state", sql.Text, nullable=False, index=True),
    sql.Column("made_ns", sql.BigInteger, nullable=False, index=True),
    sql.Column("body", sql.Text, nullable=False),
)
LISTED = (  # all that lists are counted and ordered by: bodies are long, and most are not shown
    sql.Index("ix_response_runs_listed", RUNS.c.state, RUNS.c.made_ns, RUNS.c.id, RUNS.c.playbook),
    sql.Index("ix_response_runs_tallied", RUNS.c.playbook, RUNS.c.state, RUNS.c.made_ns, RUNS.c.id),
)
EXECUTIONS = sql.Table(
    "response_executions",
    META,
    sql.Column("id", sql.Text, primary_key=True),
    sql.Column("run", sql.Text, nullable=False, index=True),
    sql.Column("action", sql.Text, nullable=False),  # kind and name
    sql.Column("target", sql.Text, nullable=False),
    sql.Column("standing", sql.Text, nullable=False, index=True),
    sql.Column("intended_ns", sql.BigInteger, nullable=False, index=True),  # 0 where it never was
    sql.Column("body", sql.Text, nullable=False),
)
VOTES = sql.Table(
    "response_votes",
    META,
    sql.Column("execution", sql.Text, primary_key=True),
    sql.Column("who", sql.Text, primary_key=True),
    sql.Column("body", sql.Text, nullable=False),
)
AUDIT = sql.Table(
    "response_audit",
    META,
    sql.Column("number", sql.BigInteger, primary_key=True, autoincrement=False),
    sql.Column("time_ns", sql.BigInteger, nullable=False, index=True),
    sql.Column("run", sql.Text, nullable=False, index=True),
    sql.Column("hash", sql.Text, nullable=False),
    sql.Column("body", sql.Text, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What was last seen of an incident. `since` is the revision that opened it, or opened it again."""

    incident: str
    revision: int
    event_ns: int
    state: str
    severity: str
    suspect: str
    since: int


@dataclass(frozen=True, slots=True)
class Tally:
    """How many runs of a playbook stand in each state, and when the newest began."""

    by_state: Mapping[str, int]
    newest_ns: int


class Ledger:
    """One process writes; any thread may. Any method may raise StorageError: then nothing was written."""

    def __init__(self, config: JournalConfig, folder: Path) -> None:
        self._retention_ns = round(config.retention * S)
        what = "ledger of responses"
        self._database = Database(config.url, folder / FILE, wait_s=config.wait, what=what, durable=True)
        self._lock = threading.Lock()
        self.changes = 0  # since the start: how often something was written

    def open(self) -> None:
        """Connect beside an open journal. The first time, incidents that are there already are known."""
        self._database.open()
        with self._database.transaction() as connection:
            META.create_all(connection)
            for index in LISTED:  # which ledgers of earlier releases have not
                index.create(connection, checkfirst=True)
            if connection.scalar(sql.select(STATE.c.value).where(STATE.c.name == "began")) is None:
                self._set(connection, "began", "1")
                for row in connection.execute(sql.select(INCIDENTS.c.event_ns, INCIDENTS.c.body)).all():
                    self._know(connection, known_of(_incident(row.body), row.event_ns, None))

    def attach(self) -> bool:
        """Connect only to read; False where responses were never opened."""
        self._database.open()
        with self._database.transaction() as connection:
            return bool(sql.inspect(connection).has_table(AUDIT.name))

    def close(self) -> None:
        """Let go of the database. May be called twice."""
        self._database.close()

    # -- incidents ------------------------------------------------------------------------------------------------

    def fresh(self, *, most: int = AT_ONCE) -> list[tuple[int, Incident, Known | None]]:
        """(event time, revision, what was seen of it before) of revisions that were not looked at, in their order.

        Of an incident at most one, the oldest: what was seen before changes with it.
        """
        with self._database.transaction() as connection:
            cursor_ns = connection.scalar(sql.select(sql.func.max(KNOWN.c.event_ns))) or 0
            later = sql.or_(KNOWN.c.revision.is_(None), CHANGES.c.revision > KNOWN.c.revision)
            query = sql.select(
                CHANGES.c.event_ns, CHANGES.c.body, *(column.label(f"k_{column.name}") for column in KNOWN.c)
            )
            query = query.select_from(CHANGES.outerjoin(KNOWN, KNOWN.c.incident == CHANGES.c.incident))
            query = query.where(CHANGES.c.event_ns >= cursor_ns, later)
            rows = connection.execute(
                query.order_by(CHANGES.c.event_ns, CHANGES.c.incident, CHANGES.c.revision).limit(most)
            ).all()
        found: dict[str, tuple[int, Incident, Known | None]] = {}
        for row in rows:
            one = _incident(row.body)
            if one.id in found:
                break
            found[one.id] = int(row.event_ns), one, _known(row)
        return list(found.values())

    def take(
        self, known: Sequence[Known], runs: Sequence[Run], deeds: Sequence[Deed], *, notices: Sequence[str] = ()
    ) -> list[Run]:
        """Note that revisions and notices were looked at, and the runs that they begin; those that are new."""
        new = []
        with self._writing() as connection:
            for one in known:
                self._know(connection, one)
            if notices:
                connection.execute(sql.update(NOTICES).where(NOTICES.c.incident.in_(notices)).values(waits=0))
            over = sql.select(KNOWN.c.incident).where(KNOWN.c.state.not_in([str(one) for one in LIVE]))
            connection.execute(sql.delete(NOTICES).where(NOTICES.c.incident.in_(over)))
            for run in runs:
                insert = self._database.insert(RUNS).values(_run_row(run)).on_conflict_do_nothing()
                if connection.execute(insert.returning(RUNS.c.id)).first():
                    new.append(run)
            names = {run.id for run in new}
            self._audit(connection, [one for one in deeds if not one.run or one.run in names])
        return new

    def notice(self, incidents: Sequence[str], time_ns: int) -> None:
        """Note that Alertmanager lets people know of incidents; it tells the same again and again."""
        with self._writing() as connection:
            for name in incidents:
                row = {"incident": _column(name), "time_ns": time_ns, "waits": 1}
                connection.execute(self._database.insert(NOTICES).values(row).on_conflict_do_nothing())

    def notices(self, *, most: int = AT_ONCE) -> list[str]:
        """Incidents with a notice that was not looked at, the oldest first."""
        query = sql.select(NOTICES.c.incident).where(NOTICES.c.waits == 1).order_by(NOTICES.c.time_ns)
        with self._database.transaction() as connection:
            return [str(name) for name in connection.scalars(query.limit(most))]

    def noticed(self, incident: str) -> bool:
        """Whether Alertmanager has let people know of an incident since it opened."""
        query = sql.select(NOTICES.c.incident).where(NOTICES.c.incident == incident)
        with self._database.transaction() as connection:
            return connection.scalar(query) is not None

    def known(self, incident: str) -> Known | None:
        """What was last seen of an incident."""
        query = sql.select(*(column.label(f"k_{column.name}") for column in KNOWN.c))
        with self._database.transaction() as connection:
            row = connection.execute(query.where(KNOWN.c.incident == incident)).first()
        return None if row is None else _known(row)

    # -- runs and executions --------------------------------------------------------------------------------------

    def unfinished(self) -> list[Run]:
        """Runs that are not at their end, the oldest first."""
        query = sql.select(RUNS.c.body).where(RUNS.c.state.in_([str(one) for one in UNFINISHED]))
        with self._database.transaction() as connection:
            return [_run(body) for body in connection.scalars(query.order_by(RUNS.c.made_ns, RUNS.c.id))]

    def runs(
        self, *, incident: str = "", playbook: str = "", states: Sequence[str] = (), limit: int = 100, offset: int = 0
    ) -> tuple[int, list[Run]]:
        """(how many, runs), the newest first."""
        wanted = [RUNS.c.incident == incident] if incident else []
        wanted += [RUNS.c.playbook == playbook] if playbook else []
        wanted += [RUNS.c.state.in_(states)] if states else []
        with self._database.transaction() as connection:
            total = connection.scalar(sql.select(sql.func.count()).select_from(RUNS).where(*wanted)) or 0
            order = (RUNS.c.made_ns.desc(), RUNS.c.id)
            query = sql.select(RUNS.c.id).where(*wanted).order_by(*order).limit(limit).offset(offset)
            shown = RUNS.c.id.in_(list(connection.scalars(query)))
            bodies = connection.scalars(sql.select(RUNS.c.body).where(shown).order_by(*order))
            return int(total), [_run(body) for body in bodies]

    def tallies(self) -> dict[str, Tally]:
        """How the runs of each playbook ended, by its name."""
        query = sql.select(RUNS.c.playbook, RUNS.c.state, sql.func.count(), sql.func.max(RUNS.c.made_ns))
        found: dict[str, Tally] = {}
        with self._database.transaction() as connection:
            rows = connection.execute(query.group_by(RUNS.c.playbook, RUNS.c.state).order_by(RUNS.c.state)).all()
        for playbook, state, number, newest_ns in rows:
            before = found.get(playbook, Tally({}, 0))
            by_state = {**before.by_state, str(state): int(number)}
            found[str(playbook)] = Tally(by_state, max(before.newest_ns, int(newest_ns)))
        return found

    def run(self, name: str) -> Run | None:
        """One by its id."""
        with self._database.transaction() as connection:
            body = connection.scalar(sql.select(RUNS.c.body).where(RUNS.c.id == name))
        return None if body is None else _run(body)

    def executions(self, run: str) -> dict[str, Execution]:
        """Those of a run by id, in the order in which they were made."""
        query = sql.select(EXECUTIONS.c.body).where(EXECUTIONS.c.run == run)
        with self._database.transaction() as connection:
            found = [decode(Execution, json.loads(body)) for body in connection.scalars(query)]
        return {one.id: one for one in sorted(found, key=_order)}

    def waiting(self) -> int:
        """How many executions wait for people."""
        query = sql.select(sql.func.count()).select_from(EXECUTIONS)
        with self._database.transaction() as connection:
            return int(connection.scalar(query.where(EXECUTIONS.c.standing == str(Standing.WAITING))) or 0)

    def asked(self) -> list[Execution]:
        """Executions that wait for people, those that were asked for first come first."""
        query = sql.select(EXECUTIONS.c.body).where(EXECUTIONS.c.standing == str(Standing.WAITING))
        with self._database.transaction() as connection:
            found = [decode(Execution, json.loads(body)) for body in connection.scalars(query)]
        return sorted(found, key=lambda one: (one.asked_ns, one.id))

    def write(self, *, executions: Sequence[Execution] = (), run: Run | None = None, deeds: Sequence[Deed]) -> None:
        """Write how executions and a run stand now, and what is to be said of it."""
        with self._writing() as connection:
            for one in executions:
                self._replace(connection, EXECUTIONS, _execution_row(one))
            if run is not None:
                self._replace(connection, RUNS, _run_row(run))
            self._audit(connection, deeds)

    def lately(self, action: str, since_ns: int) -> list[tuple[int, str]]:
        """(when, to whom) an action was done, or was to be, after a time."""
        query = sql.select(EXECUTIONS.c.intended_ns, EXECUTIONS.c.target)
        query = query.where(EXECUTIONS.c.action == action, EXECUTIONS.c.intended_ns > since_ns)
        with self._database.transaction() as connection:
            return [(int(at), str(target)) for at, target in connection.execute(query).all()]

    # -- people ---------------------------------------------------------------------------------------------------

    def votes(self, execution: str) -> list[Vote]:
        """What people said to an execution."""
        query = sql.select(VOTES.c.body).where(VOTES.c.execution == execution)
        with self._database.transaction() as connection:
            found = [decode(Vote, json.loads(body)) for body in connection.scalars(query)]
        return sorted(found, key=lambda one: one.time_ns)

    def vote(self, execution: str, who: str, vote: Vote, deed: Deed) -> bool:
        """Write what somebody said, who is known by `who`; False where they have said something already."""
        row = {"execution": execution, "who": who, "body": _json(vote)}
        with self._writing() as connection:
            insert = self._database.insert(VOTES).values(row).on_conflict_do_nothing().returning(VOTES.c.who)
            if connection.execute(insert).first() is None:
                return False
            self._audit(connection, [deed])
        return True

    def stopped(self) -> str:
        """Who has stopped all responses, and why; "" where nobody has."""
        with self._database.transaction() as connection:
            return str(connection.scalar(sql.select(STATE.c.value).where(STATE.c.name == "stopped")) or "")

    def stop(self, why: str, deed: Deed) -> None:
        """Stop all responses, or with "" let them go on."""
        with self._writing() as connection:
            self._set(connection, "stopped", why)
            self._audit(connection, [deed])

    # -- audit ----------------------------------------------------------------------------------------------------

    def lines(self, *, run: str = "") -> Iterator[Line]:
        """The chain of the audit in its order, or what it has of one run."""
        after = 0
        while True:
            query = sql.select(AUDIT.c.number, AUDIT.c.body, AUDIT.c.hash)
            query = query.where(AUDIT.c.number > after, *([AUDIT.c.run == run] if run else []))
            query = query.order_by(AUDIT.c.number)
            with self._database.transaction() as connection:
                rows = connection.execute(query.limit(AT_ONCE)).all()
            yield from (Line(int(number), str(body), str(chained)) for number, body, chained in rows)
            if len(rows) < AT_ONCE:
                return
            after = rows[-1].number

    def deeds(self, *, since_ns: int = 0, limit: int = 1_000) -> list[Line]:
        """The newest lines of the audit first."""
        query = sql.select(AUDIT.c.number, AUDIT.c.body, AUDIT.c.hash).where(AUDIT.c.time_ns >= since_ns)
        with self._database.transaction() as connection:
            rows = connection.execute(query.order_by(AUDIT.c.number.desc()).limit(limit)).all()
        return [Line(int(number), str(body), str(chained)) for number, body, chained in rows]

    def forget(self, now_ns: int) -> None:
        """Delete runs that ended before the retention; the audit is kept for good."""
        gone = sql.select(RUNS.c.id).where(
            RUNS.c.made_ns < now_ns - self._retention_ns, RUNS.c.state.not_in([str(one) for one in UNFINISHED])
        )
        with self._writing() as connection:
            of = sql.select(EXECUTIONS.c.id).where(EXECUTIONS.c.run.in_(gone))
            connection.execute(sql.delete(VOTES).where(VOTES.c.execution.in_(of)))
            connection.execute(sql.delete(EXECUTIONS).where(EXECUTIONS.c.run.in_(gone)))
            connection.execute(sql.delete(RUNS).where(RUNS.c.id.in_(gone)))
            newest = connection.scalar(sql.select(sql.func.max(KNOWN.c.event_ns))) or 0
            connection.execute(sql.delete(KNOWN).where(KNOWN.c.event_ns < newest - self._retention_ns))
            connection.execute(sql.delete(NOTICES).where(NOTICES.c.time_ns < now_ns - self._retention_ns))

    # -- inside ---------------------------------------------------------------------------------------------------

    def _writing(self) -> _Writing:
        return _Writing(self._lock, self._database, self._written)

    def _written(self) -> None:
        self.changes += 1

    def _audit(self, connection: sql.Connection, deeds: Sequence[Deed]) -> None:
        if not deeds:
            return
        query = sql.select(AUDIT.c.number, AUDIT.c.body, AUDIT.c.hash).order_by(AUDIT.c.number.desc()).limit(1)
        last = connection.execute(query).first()
        line = Line(int(last.number), str(last.body), str(last.hash)) if last else None
        for deed in deeds:
            line = line_after(line, deed)
            known = {"time_ns": deed.time_ns, "run": deed.run, "hash": line.hash, "body": line.body}
            connection.execute(sql.insert(AUDIT).values({"number": line.number, **known}))

    def _know(self, connection: sql.Connection, one: Known) -> None:
        row = {column.name: getattr(one, column.name) for column in KNOWN.c}
        self._replace(connection, KNOWN, {**row, "suspect": _column(one.suspect)})

    def _set(self, connection: sql.Connection, name: str, value: str) -> None:
        self._replace(connection, STATE, {"name": name, "value": _column(value)})

    def _replace(self, connection: sql.Connection, table: sql.Table, row: dict[str, Any]) -> None:
        insert = self._database.insert(table).values(row)
        key = [column.name for column in table.primary_key]
        values = {name: insert.excluded[name] for name in row if name not in key}
        connection.execute(insert.on_conflict_do_update(index_elements=key, set_=values))


class _Writing:
    """A transaction that is the only one of this process: the chain of the audit has one end."""

    def __init__(self, lock: threading.Lock, database: Database, written: Callable[[], None]) -> None:
        self._lock, self._transaction, self._written = lock, database.transaction(), written

    def __enter__(self) -> sql.Connection:
        self._lock.acquire()
        try:
            return self._transaction.__enter__()
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *exc: Any) -> bool | None:
        try:
            held = self._transaction.__exit__(*exc)
            if exc[0] is None:
                self._written()
            return held
        finally:
            self._lock.release()


def known_of(incident: Incident, event_ns: int, before: Known | None) -> Known:
    """What is kept of a revision."""
    again = before is None or before.state not in LIVE
    return Known(
        incident=incident.id,
        revision=incident.revision,
        event_ns=event_ns,
        state=str(incident.state),
        severity=str(incident.severity),
        suspect=incident.suspects[0].service if incident.suspects else "",
        since=incident.revision if again else before.since,  # type: ignore[union-attr]
    )


def _known(row: Any) -> Known | None:
    if row.k_incident is None:
        return None
    return Known(**{column.name: getattr(row, f"k_{column.name}") for column in KNOWN.c})


def _run_row(run: Run) -> dict[str, Any]:
    body = {
        "id": run.id,
        "playbook": run.playbook.plain_values(),
        "version": run.version,
        "trigger": run.trigger,
        "incident": encode(run.incident),
        "made_ns": run.made_ns,
        "ended_ns": run.ended_ns,
        "state": str(run.state),
    }
    return {
        "id": run.id,
        "incident": run.incident.id,
        "playbook": run.playbook.name,
        "state": str(run.state),
        "made_ns": run.made_ns,
        "body": json.dumps(body, separators=(",", ":")),
    }


def _run(body: str) -> Run:
    tree = json.loads(body)
    return Run(
        **{
            **tree,
            "playbook": read_playbook(tree["playbook"]),
            "incident": decode(Incident, tree["incident"]),
            "state": RunState(tree["state"]),
        }
    )


def _execution_row(one: Execution) -> dict[str, Any]:
    return {
        "id": one.id,
        "run": one.run,
        "action": f"{one.action.kind} {one.action.use}",
        "target": _column(one.target),
        "standing": str(one.standing),
        "intended_ns": one.intended_ns,
        "body": _json(one),
    }


def _order(one: Execution) -> tuple[int, int, int, str]:
    """As they follow each other."""
    roles = (DO, UNDO, ESCALATE)
    role = one.role.removeprefix(f"{ASK}.")
    return one.step, roles.index(role.split(".")[0]), one.made_ns, one.role


def _incident(body: str) -> Incident:
    return decode(Incident, json.loads(body))


def _json(value: Any) -> str:
    return json.dumps(encode(value), separators=(",", ":"))


def _column(text: str) -> str:
    """What every database takes as text: senders may use letters that are none."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
