"""Cut: notifications that left alerts of their group out, in the journal until those were asked for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sql

from otel_aiops.errors import Overloaded
from otel_aiops.incidents.codec import decode, encode
from otel_aiops.incidents.database import Database
from otel_aiops.incidents.known import Pairs, Told

MOST = 1_000  # groups that wait; a notification of one more is refused, and told again later
RETRY_S = 10.0

CUTS = sql.Table(
    "cut_notifications",
    sql.MetaData(),
    sql.Column("id", sql.Text, primary_key=True),  # of sender, receiver and group
    sql.Column("told_ns", sql.BigInteger, nullable=False),  # the newest of the group
    sql.Column("since_ns", sql.BigInteger, nullable=False),  # the first since the group was whole
    sql.Column("ask_ns", sql.BigInteger, nullable=False, index=True),  # not earlier
    sql.Column("body", sql.Text, nullable=False),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """One notification that left `number` alerts out; `fires` are the fingerprints of those that it says fire.

    `over`: it says that none of the whole group fires any more. `asked` is how often the others were asked for, `found`
    how many of them there were then.
    """

    sender: str
    group: str
    receiver: str
    group_labels: Pairs
    number: int
    fires: tuple[str, ...]
    over: bool
    told_ns: int
    since_ns: int
    asked: int = 0
    found: int = 0

    @property
    def id(self) -> str:
        """The same for later notifications of the group."""
        text = json.dumps([self.sender, self.receiver, self.group])
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def cut_of(told: Told, now_ns: int) -> Cut:
    """What a notification told at a time has left out."""
    return Cut(
        sender=told.sender,
        group=told.group,
        receiver=told.receiver,
        group_labels=told.group_labels,
        number=told.truncated,
        fires=tuple(sorted({one.fingerprint for one in told.alerts if one.status == "firing"})),
        over=told.over,
        told_ns=now_ns,
        since_ns=now_ns,
    )


class Cuts:
    """Those that are not complete, one a group: a later one takes the place of an earlier one, and is due at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keep(self, connection: sql.Connection, cut: Cut) -> None:
        """Write one down, in a transaction of the journal. Raises: Overloaded where too many wait."""
        row = {"id": cut.id, "told_ns": cut.told_ns, "since_ns": cut.since_ns, "ask_ns": cut.told_ns}
        insert = self._database.insert(CUTS).values({**row, "body": json.dumps(encode(cut))})
        newer = {name: insert.excluded[name] for name in ("told_ns", "ask_ns", "body")}
        connection.execute(insert.on_conflict_do_update(index_elements=["id"], set_=newer))
        if (waiting := _count(connection)) > MOST:
            said = f"{waiting - 1} notifications that leave alerts out wait to be completed; at most {MOST} may"
            raise Overloaded(said, retry_after_s=RETRY_S)

    def count(self) -> int:
        """How many wait."""
        with self._database.transaction() as connection:
            return _count(connection)

    def due(self, now_ns: int, *, limit: int = 20) -> tuple[Cut, ...]:
        """Those to be asked for at a time."""
        query = sql.select(CUTS.c.since_ns, CUTS.c.body).where(CUTS.c.ask_ns <= now_ns)
        with self._database.transaction() as connection:
            rows = connection.execute(query.order_by(CUTS.c.ask_ns, CUTS.c.id).limit(limit)).all()
        return tuple(replace(decode(Cut, json.loads(body)), since_ns=int(since_ns)) for since_ns, body in rows)

    def later(self, cut: Cut, ask_ns: int) -> None:
        """It was asked for and is not complete, unless a later one has taken its place meanwhile."""
        self._change(sql.update(CUTS).values(ask_ns=ask_ns, body=json.dumps(encode(cut))), cut)

    def over(self, cut: Cut) -> None:
        """It is complete or given up, unless a later one has taken its place meanwhile."""
        self._change(sql.delete(CUTS), cut)

    def _change(self, statement: Any, cut: Cut) -> None:
        with self._database.transaction() as connection:
            connection.execute(statement.where(CUTS.c.id == cut.id, CUTS.c.told_ns == cut.told_ns))


def _count(connection: sql.Connection) -> int:
    return int(connection.scalar(sql.select(sql.func.count()).select_from(CUTS)) or 0)
