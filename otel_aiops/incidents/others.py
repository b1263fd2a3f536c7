"""Others: alerts of Alertmanager and Grafana in the journal, and what is still to be done with them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import sqlalchemy as sql

from otel_aiops.errors import Overloaded
from otel_aiops.incidents.codec import decode, encode
from otel_aiops.incidents.cut import CUTS, Cut, Cuts
from otel_aiops.incidents.database import Database, storable
from otel_aiops.incidents.known import KnownAlert

EVIDENCE, PLAYBOOKS = 1, 2  # for which they wait

KNOWN = sql.Table(
    "known_alerts",
    sql.MetaData(),
    sql.Column("id", sql.Text, primary_key=True),  # of group, fingerprint, start and status
    sql.Column("incident", sql.Text, nullable=False, index=True),  # as playbooks know it
    sql.Column("starts_ns", sql.BigInteger, nullable=False, index=True),
    sql.Column("status", sql.Text, nullable=False),
    sql.Column("waits", sql.Integer, nullable=False, index=True),  # 1 for evidence, 2 for playbooks, 3 for both
    sql.Column("told_ns", sql.BigInteger, nullable=False),
    sql.Column("group_key", sql.Text, nullable=False, server_default="", index=True),
    sql.Column("body", sql.Text, nullable=False),
)


class Others:
    """What others told, once however often they tell it. Any method may raise StorageError: then nothing was written.

    What is told anew goes through `durable`: once it is answered, nobody tells it again.
    """

    def __init__(self, database: Database, durable: Database) -> None:
        self._database, self._durable = database, durable
        self.cuts = Cuts(database)

    def create(self, connection: sql.Connection) -> None:
        """Make the tables where there are none, in a transaction of the journal."""
        for table in (KNOWN, CUTS):
            table.create(connection, checkfirst=True)
        _add_group(connection)

    def know(self, alerts: Sequence[KnownAlert], told_ns: int, *, most: int, cut: Cut | None = None) -> tuple[int, int]:
        """Write alerts of others, all or none; (how many were new, how many wait now). What is known is passed over.

        `cut` is what their notification left out. Raises: Overloaded where more than `most` would wait.
        """
        new = 0
        with self._durable.transaction() as connection:
            if cut is not None:
                self.cuts.keep(connection, cut)
            for one in alerts:
                row = {
                    "id": one.id,
                    "incident": one.incident,
                    "starts_ns": one.starts_ns,
                    "status": one.status,
                    "waits": EVIDENCE | PLAYBOOKS,
                    "told_ns": told_ns,
                    "group_key": storable(one.group),
                    "body": json.dumps(encode(one), separators=(",", ":")),
                }
                new += connection.execute(self._database.once(KNOWN, row).returning(KNOWN.c.id)).first() is not None
            waiting = connection.scalar(sql.select(sql.func.count()).select_from(KNOWN).where(KNOWN.c.waits > 0)) or 0
            if new and waiting > most:
                raise Overloaded(f"{waiting - new} alerts wait to be looked at; at most {most} may", retry_after_s=10.0)
        return new, int(waiting)

    def waiting(self, what: int, *, limit: int = 500) -> tuple[KnownAlert, ...]:
        """Alerts of others that wait for EVIDENCE or PLAYBOOKS, those that were told first come first."""
        query = sql.select(KNOWN.c.body).where(KNOWN.c.waits.in_([what, EVIDENCE | PLAYBOOKS]))
        with self._database.transaction() as connection:
            bodies = connection.scalars(query.order_by(KNOWN.c.told_ns, KNOWN.c.id).limit(limit))
            return tuple(decode(KnownAlert, json.loads(body)) for body in bodies)

    def seen(self, what: int, alerts: Sequence[KnownAlert]) -> None:
        """These wait no more for EVIDENCE or PLAYBOOKS."""
        with self._database.transaction() as connection:
            for one in alerts:
                mine = KNOWN.c.id == one.id, KNOWN.c.waits.in_([what, EVIDENCE | PLAYBOOKS])
                connection.execute(sql.update(KNOWN).where(*mine).values(waits=KNOWN.c.waits - what))

    def firing(self, group: str, *, before_ns: int) -> tuple[KnownAlert, ...]:
        """Alerts of others in a group that were told before a time, and that nobody has told the end of."""
        ended = KNOWN.alias("ended")
        over = sql.exists().where(ended.c.incident == KNOWN.c.incident, ended.c.status == "resolved")
        query = sql.select(KNOWN.c.body).where(KNOWN.c.group_key == storable(group), KNOWN.c.status == "firing", ~over)
        with self._database.transaction() as connection:
            bodies = connection.scalars(query.where(KNOWN.c.told_ns < before_ns).order_by(KNOWN.c.starts_ns))
            return tuple(decode(KnownAlert, json.loads(body)) for body in bodies)

    def told(
        self, *, incident: str = "", from_ns: int = 0, until_ns: int = 2**63 - 1, limit: int = 100_000
    ) -> tuple[KnownAlert, ...]:
        """Alerts of others by their start, the first first, each as it was told: firing, then resolved."""
        query = sql.select(KNOWN.c.body).where(KNOWN.c.starts_ns >= from_ns, KNOWN.c.starts_ns < until_ns)
        if incident:
            query = query.where(KNOWN.c.incident == incident)
        query = query.order_by(KNOWN.c.starts_ns, KNOWN.c.incident, KNOWN.c.status).limit(limit)
        with self._database.transaction() as connection:
            return tuple(decode(KnownAlert, json.loads(body)) for body in connection.scalars(query))

    def page(self, *, limit: int, offset: int) -> tuple[int, tuple[KnownAlert, ...]]:
        """(how many, alerts of others), those that began last first, each as it was told last."""
        began = sql.func.max(KNOWN.c.starts_ns)
        newest = sql.select(KNOWN.c.incident).group_by(KNOWN.c.incident).order_by(began.desc(), KNOWN.c.incident)
        with self._database.transaction() as connection:
            total = connection.scalar(sql.select(sql.func.count(KNOWN.c.incident.distinct()))) or 0
            names = list(connection.scalars(newest.limit(limit).offset(offset)))
            query = sql.select(KNOWN.c.incident, KNOWN.c.body).where(KNOWN.c.incident.in_(names))
            rows = connection.execute(query.order_by(KNOWN.c.status)).all()  # firing, then resolved
        last = {str(row.incident): row.body for row in rows}
        return int(total), tuple(decode(KnownAlert, json.loads(last[name])) for name in names)

    def forget(self, connection: sql.Connection, least_ns: int) -> None:
        """Delete those that began before a time, in a transaction of the journal."""
        connection.execute(sql.delete(KNOWN).where(KNOWN.c.starts_ns < least_ns))


def _add_group(connection: sql.Connection) -> None:
    """Give the alerts of others the column of their group, which journals of earlier releases have not."""
    if KNOWN.c.group_key.name not in {one["name"] for one in sql.inspect(connection).get_columns(KNOWN.name)}:
        column = sql.schema.CreateColumn(KNOWN.c.group_key).compile(dialect=connection.dialect)
        connection.execute(sql.text(f"ALTER TABLE {KNOWN.name} ADD COLUMN {column}"))
        for index in KNOWN.indexes:
            index.create(connection, checkfirst=True)
