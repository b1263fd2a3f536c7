"""A database of our own state: SQLite in a file or PostgreSQL, with transactions that are whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sql
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from otel_aiops.errors import StorageError


class Database:
    """A connection to a URL, or without one to a file. `what` names it in errors.

    `durable`: a commit survives a power cut too; without it only the end of the process, however that comes.
    """

    def __init__(self, url: str, file: Path, *, wait_s: float, what: str, durable: bool = False) -> None:
        self._url = _with_driver(url) or f"sqlite:///{file}"
        self._wait_s, self._what, self._durable = wait_s, what, durable
        self._engine: sql.Engine | None = None

    @property
    def is_lite(self) -> bool:
        """Whether it is SQLite."""
        return self._url.startswith("sqlite:")

    def open(self) -> None:
        """Connect."""
        options: dict[str, Any] = {"connect_args": {"timeout": self._wait_s}} if self.is_lite else {}
        engine = sql.create_engine(self._url, **(options or {"pool_pre_ping": True}))
        if self.is_lite:
            sql.event.listen(engine, "connect", self._prepare)
        self._engine = engine

    def close(self) -> None:
        """Let go of it. May be called twice."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    @contextmanager
    def transaction(self) -> Iterator[sql.Connection]:
        """A transaction that is whole or not at all. Raises: StorageError in words."""
        if self._engine is None:
            raise StorageError(f"{self._what}: expected it to be open, it is closed")
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise StorageError(f"{self._what}: {type(cause).__name__}: {cause}") from error

    def insert(self, table: sql.Table) -> Any:
        """An insert that knows what to do where a row is there already."""
        return sqlite.insert(table) if self.is_lite else postgresql.insert(table)

    def once(self, table: sql.Table, row: Mapping[str, Any]) -> Any:
        """Insert a row unless it is there."""
        return self.insert(table).values(row).on_conflict_do_nothing()

    def _prepare(self, connection: Any, _: Any) -> None:
        """Readers do not wait for the writer."""
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={'FULL' if self._durable else 'NORMAL'}")
        cursor.close()


def storable(text: str) -> str:
    """What every database takes as text: senders may use letters that are none."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def _with_driver(url: str) -> str:
    """`postgresql:…` names no driver, and then SQLAlchemy takes one that is not kept up."""
    return f"postgresql+psycopg:{url.removeprefix('postgresql:')}" if url.startswith("postgresql:") else url
