"""A real PostgreSQL for tests, gone when the test is."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from tests.servers import Server, free_port, require
from tests.tools.postgres import libraries, postgres


class Postgres:
    """A server with one database; under root it runs as a user who may do less, as it demands."""

    def __init__(self, folder: Path, database: str, schema: str = "") -> None:
        """`schema` is run in the new database."""
        self.database, self._schema = database, schema
        self.port = free_port()
        self.programs = require(postgres)
        self._user = _user_for_postgres() if os.geteuid() == 0 else ""
        self._data = Path(tempfile.mkdtemp(prefix="otel-aiops-postgres-"))  # pytest's folders are closed to others
        self._paths = {"LD_LIBRARY_PATH": found} if (found := libraries(self.programs)) else {}
        if self._user:
            shutil.chown(self._data, self._user)
        settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = self._command("postgres", "-D", str(self._data), "-p", str(self.port), *options)
        self.server = Server(command, folder / "postgres.log", env=self._paths)

    def __enter__(self) -> Postgres:
        auth = ["--auth=trust", "--username=shop", "--no-sync", "--encoding=UTF8", "--locale=C"]
        try:
            self._run(self._command("initdb", "-D", str(self._data), *auth))
            self.start()
            self.sql(f"CREATE DATABASE {self.database}", database="postgres")
            self.sql(self._schema)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.stop(signal.SIGQUIT)
        shutil.rmtree(self._data, ignore_errors=True)

    @property
    def uri(self) -> str:
        return f"postgresql://shop@127.0.0.1:{self.port}/{self.database}"

    def start(self) -> None:
        self.server.start(lambda: self._succeeds("SELECT 1"))

    def sql(self, text: str, *, database: str = "") -> None:
        self._run(self._psql(text, database or self.database))

    def _psql(self, text: str, database: str) -> list[str]:
        where = f"postgresql://shop@127.0.0.1:{self.port}/{database}"
        return [str(self.programs / "psql"), "-qX", "-v", "ON_ERROR_STOP=1", where, "-c", text]

    def _succeeds(self, text: str) -> bool:
        command = self._psql(text, "postgres")
        return subprocess.run(command, env={**os.environ, **self._paths}, capture_output=True).returncode == 0

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, env={**os.environ, **self._paths}, capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    def _command(self, program: str, *arguments: str) -> list[str]:
        """setpriv ends PostgreSQL with the test as `Server` ends others: changing the user would undo that."""
        as_user = ["setpriv", f"--reuid={self._user}", f"--regid={_group(self._user)}", "--clear-groups"]
        prefix = [*as_user, "--pdeathsig=KILL"] if self._user else []
        return [*prefix, str(self.programs / program), *arguments]


def _user_for_postgres() -> str:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _group(user: str) -> int:
    return pwd.getpwnam(user).pw_gid if user else 0
