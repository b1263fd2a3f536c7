"""The registry: model versions, their lineage and who serves, in MLflow, where other tools can see them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from otel_aiops.errors import AiopsError, BadInput, ConfigError, Overloaded, StateError
from otel_aiops.lifecycle.report import Report, saved
from otel_aiops.lifecycle.version import BUNDLE, Models, ModelVersion
from otel_aiops.series.disk import FILE_MODE, make_directory, storage_errors

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

NAME = "otel-aiops"
FILE = "mlflow.db"
FOLDER = "lifecycle"
LOCK = "registry.lock"
ALIASES = ("champion", "challenger", "shadow", "previous")
ID, DIGEST, SIGNATURE = "otel_aiops.version", "otel_aiops.digest", "otel_aiops.signature"
MOST_VALUE = 5_000  # characters of a tag
MOST_PARAM = 6_000
MOST_PARAMS = 100  # of one request
RETRIES = "0"  # of a request; whoever asks tries again later
COMMAND = [sys.executable, "-m", "otel_aiops.lifecycle.registry"]
POLL_S = 0.2
FAILED, CHANGED = 1, 4  # exit codes: it did not work; what is registered is something else


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryConfig:
    """Where MLflow is. What it does not answer in time is tried again later, and serving never waits for it."""

    enabled: bool = True  # tell it of versions, of who serves, and of what is tried
    # of its tracking server or database; "" is MLFLOW_TRACKING_URI, or a file in the data directory
    uri: str = field(default="", repr=False)
    name: str = NAME  # of the registered model
    timeout: float = 30.0  # for one change with its process, and for what is still to be told of trials at the end
    retry: float = 300.0  # after a failure

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        if not self.name or any(one in self.name for one in "/:"):
            raise ConfigError("name", f"expected a name without / and :, got {self.name!r}")
        for name in ("timeout", "retry"):
            if not getattr(self, name) > 0:
                raise ConfigError(name, f"must be > 0 s, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Registered:
    """A version as the registry has it; `number` is that of MLflow."""

    id: str
    number: str
    digest: str
    aliases: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    made_ns: int = field(default=0, compare=False)  # when it was registered, 0 where that was not asked


class Registry:
    """One registered model of MLflow. Every call may wait for its server, at most about `timeout` a request.

    Raises: Overloaded when it does not answer, or refuses. Nothing is unpickled, and no model flavour is used: a
    version's source is its folder, which serving reads and checks itself.
    """

    def __init__(self, directory: Path, config: RegistryConfig | None = None) -> None:
        """`directory` is the data directory of a service."""
        self.config = config or RegistryConfig()
        self._directory = directory
        self._made: MlflowClient | None = None

    @property
    def uri(self) -> str:
        """Of the tracking server or the database."""
        own = f"sqlite:///{(self._directory / FOLDER / FILE).resolve()}"
        return self.config.uri or os.environ.get("MLFLOW_TRACKING_URI") or own

    @property
    def place(self) -> str:
        """The same for people: without a password.

        >>> Registry(Path("."), RegistryConfig(uri="https://ann:secret@mlflow:5000/x")).place
        'https://mlflow:5000/x'
        """
        return _bare(self.uri)

    @property
    def exists(self) -> bool:
        """Whether there may be anything in it: nothing is made by looking."""
        return not self.uri.startswith("sqlite:") or Path(self.uri.removeprefix("sqlite:///")).exists()

    def register(self, version: ModelVersion, report: Report | None = None, **tags: str) -> Registered:
        """Put a version into the registry with its lineage, settings and figures; one that is there already stays.

        Raises: StateError when the registry has another digest under this id.
        """
        with self._client() as client:
            found = self._find(client, version.id)
            if found is not None:
                verify(found, version)
            else:
                run = client.create_run(self._experiment(client), run_name=version.id)
                _log(client, run.info.run_id, flat(version.settings.to_json()), {})
                about = {**_tags(version), **tags}
                made = client.create_model_version(
                    self.config.name,
                    source=self._source(version.id),
                    run_id=run.info.run_id,
                    tags=about,
                    await_creation_for=0,  # there is nothing to upload
                )
                client.set_terminated(run.info.run_id)
                found = Registered(version.id, str(made.version), version.digest, (), about)
            if report is not None:
                self._figures(client, found, report)
            return found

    def set_aliases(self, wanted: Mapping[str, str]) -> None:
        """Say who serves: the id of a registered version by alias; of ALIASES, those that are not named have none."""
        if unknown := sorted(set(wanted) - set(ALIASES)):
            raise BadInput(f"alias: expected one of {', '.join(ALIASES)}, got {unknown[0]!r}")
        with self._client() as client:
            numbers = {one.id: one.number for one in self._all(client)}
            now = dict(client.get_registered_model(self.config.name).aliases)
            for alias in ALIASES:
                number = numbers.get(wanted.get(alias, ""))
                if number is not None and str(now.get(alias)) != number:
                    client.set_registered_model_alias(self.config.name, alias, number)
                elif number is None and alias in now:
                    client.delete_registered_model_alias(self.config.name, alias)

    def versions(self) -> list[Registered]:
        """All that are registered, in the order of their numbers."""
        with self._client() as client:
            aliases: dict[str, list[str]] = {}
            for alias, number in client.get_registered_model(self.config.name).aliases.items():
                aliases.setdefault(str(number), []).append(alias)
            return [replace(one, aliases=tuple(sorted(aliases.get(one.number, ())))) for one in self._all(client)]

    def check(self, version: ModelVersion) -> None:
        """See that a version is the one that was registered. Raises: StateError when it is not."""
        with self._client() as client:
            found = self._find(client, version.id)
        if found is None:
            raise StateError(f"version {version.id} is not in the registry {self.place}")
        verify(found, version)

    def begin(self, name: str, parent: str | None = None) -> str:
        """Make a run, perhaps below another one; its id."""
        tags = {"mlflow.parentRunId": parent} if parent else {}
        with self._client() as client:
            return str(client.create_run(self._experiment(client), run_name=name, tags=tags).info.run_id)

    def log(self, run: str, settings: Mapping[str, Any], figures: Mapping[str, float], step: int = 0) -> None:
        """Add parameters and numbers to a run."""
        with self._client() as client:
            _log(client, run, settings, figures, step)

    def finish(self, run: str, status: str) -> None:
        """End a run as FINISHED, FAILED or KILLED."""
        with self._client() as client:
            client.set_terminated(run, status)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _source(self, name: str) -> str:
        """Where a version is: its folder; a server takes no paths of other machines, so there it is only named."""
        if "://" in self.uri and self.uri.split("://")[0] in ("http", "https"):
            return f"{NAME}:/{name}"
        return (self._directory / FOLDER / "models" / name).resolve().as_uri()

    def _figures(self, client: MlflowClient, found: Registered, report: Report) -> None:
        number = client.get_model_version(self.config.name, found.number)
        metrics = {f"{side.role}.{name}": float(v) for side in report.sides for name, v in side.figures().items()}
        _log(client, number.run_id, {}, metrics)

    def _find(self, client: MlflowClient, name: str) -> Registered | None:
        return next((one for one in self._all(client) if one.id == name), None)

    def _all(self, client: MlflowClient) -> list[Registered]:
        found, token = [], None
        while True:
            page = client.search_model_versions(f"name='{self.config.name}'", page_token=token)
            found += [
                Registered(
                    one.tags[ID],
                    str(one.version),
                    one.tags.get(DIGEST, ""),
                    (),
                    dict(one.tags),
                    int(one.creation_timestamp or 0) * 1_000_000,
                )
                for one in page
                if ID in one.tags
            ]
            token = page.token
            if not token:
                return sorted(found, key=lambda one: int(one.number))

    def _experiment(self, client: MlflowClient) -> str:
        known = client.get_experiment_by_name(self.config.name)
        if known is not None:
            return str(known.experiment_id)
        artifacts = None
        if self.uri.startswith("sqlite:"):
            artifacts = (self._directory / FOLDER / "artifacts").resolve().as_uri()
        return str(client.create_experiment(self.config.name, artifact_location=artifacts))

    @contextmanager
    def _client(self) -> Iterator[MlflowClient]:
        """The client, with the registered model made. Raises: Overloaded."""
        try:
            yield self._made or self._open()
        except AiopsError:
            raise
        except Exception as error:  # of MLflow, its database, and the network: it has no common root
            raise Overloaded(f"registry {self.place}: {_bare(str(error).splitlines()[0])[:300]}") from error

    def _open(self) -> MlflowClient:
        if self.uri.startswith("sqlite:"):
            make_directory(self._directory / FOLDER)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", RETRIES)
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(max(1, int(self.config.timeout))))
        for name in ("mlflow", "alembic"):  # what they say of their tables is of no use here
            logging.getLogger(name).setLevel(logging.WARNING)
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        try:
            client.get_registered_model(self.config.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            client.create_registered_model(self.config.name)
        self._made = client
        return client


def verify(found: Registered, version: ModelVersion) -> None:
    """See that a version is what the registry has under its id. Raises: StateError."""
    if found.digest != version.digest or found.tags.get(SIGNATURE) != _signature(version):
        raise StateError(f"version {version.id}: the registry has another digest or signature: it was changed")


def _log(
    client: MlflowClient, run: str, settings: Mapping[str, Any], figures: Mapping[str, float], step: int = 0
) -> None:
    """Parameters and numbers of a run; NaN is left out."""
    from mlflow.entities import Metric, Param

    params = [Param(name, str(value)[:MOST_PARAM]) for name, value in settings.items()]
    metrics = [
        Metric(name, float(value), time.time_ns() // 10**6, step) for name, value in figures.items() if value == value
    ]
    for first in range(0, max(len(params), 1), MOST_PARAMS):
        client.log_batch(run, metrics=metrics if not first else [], params=params[first : first + MOST_PARAMS])


def _tags(version: ModelVersion) -> dict[str, str]:
    """Where a version comes from."""
    lineage = {f"lineage.{name}": str(value)[:MOST_VALUE] for name, value in asdict(version.lineage).items() if value}
    return {ID: version.id, DIGEST: version.digest, SIGNATURE: _signature(version), "bundle": BUNDLE, **lineage}


def _signature(version: ModelVersion) -> str:
    """The hash of the signature: names, dtypes and shapes of the arrays."""
    text = json.dumps(version.to_json()["signature"], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted path."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


# -- beside a service -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Job:
    """What another process is to tell the registry: who serves, by alias; without roles it only looks.

    `challenger` is a version to register under this alias, while the others stay as they are.
    """

    directory: str
    config: RegistryConfig
    roles: Mapping[str, str] = field(default_factory=dict)
    challenger: str = ""


def tell(job: Job, stopped: Callable[[], bool] = lambda: False) -> list[Registered]:
    """Register the versions that serve, set their aliases, and say what is registered, in a process of its own.

    MLflow is large and its server may never answer: so it costs a service no memory, and what takes longer than
    `timeout`, or is `stopped`, is killed. Raises: StateError when the registry has something else, Overloaded.
    """
    pipe = subprocess.PIPE
    data: bytes | None = json.dumps(asdict(job)).encode()
    until_s = time.monotonic() + job.config.timeout
    with subprocess.Popen(COMMAND, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True) as child:
        while True:
            try:
                out, words = child.communicate(data, timeout=POLL_S)
                break
            except subprocess.TimeoutExpired:
                data = None
                if stopped() or time.monotonic() > until_s:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.communicate()
                    raise Overloaded(f"registry: no answer within {job.config.timeout:g} s") from None
    if child.returncode == 0:
        return [Registered(**{**one, "aliases": tuple(one["aliases"])}) for one in json.loads(out)]
    lines = _bare(words.decode("utf-8", "replace")).strip().splitlines() or [f"it ended with {child.returncode}"]
    raise (StateError if child.returncode == CHANGED else Overloaded)(lines[-1][:300])


def main() -> int:
    """A job on the standard input; what is registered then on the standard output."""
    tree = json.loads(sys.stdin.read())
    config = RegistryConfig(**tree["config"])
    directory, roles = Path(tree["directory"]), tree["roles"]
    registry, models = Registry(directory, config), Models(directory / FOLDER / "models")
    challenger = tree.get("challenger", "")
    try:
        lock = _alone(directory)  # two that tell at once would register a version twice
        for name in dict.fromkeys([*roles.values(), *filter(None, [challenger])]):
            registry.register(models.version(name), saved(models.folder(name)))
        if challenger:
            now = {alias: one.id for one in registry.versions() for alias in one.aliases if alias in ALIASES}
            registry.set_aliases({**now, "challenger": challenger})
        if roles:
            registry.set_aliases(roles)
        print(json.dumps([asdict(one) for one in registry.versions()]))
    except AiopsError as error:
        print(str(error), file=sys.stderr)
        return CHANGED if isinstance(error, StateError) else FAILED
    os.close(lock)
    return 0


def _alone(directory: Path) -> int:
    """Wait until no other process of this data directory tells the registry; the descriptor of the lock."""
    with storage_errors(f"locking {directory / FOLDER}"):
        make_directory(directory / FOLDER)
        descriptor = os.open(directory / FOLDER / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


if __name__ == "__main__":
    sys.exit(main())


def _bare(text: str) -> str:
    """A text without the passwords in its addresses, which MLflow repeats in what it says.

    >>> _bare("cannot reach https://ann:secret@mlflow:5000/x")
    'cannot reach https://mlflow:5000/x'
    """
    return re.sub(r"//[^/\s]*@", "//", text)
