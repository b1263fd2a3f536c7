"""The circle: what a run of the lifecycle is made with, the plan that it follows, and which run is gone on with."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from otel_aiops import __version__
from otel_aiops.detect.lessons import Verdict
from otel_aiops.detect.serving import Action, Rollout
from otel_aiops.errors import BadInput, StateError
from otel_aiops.incidents.journal import FILE, Journal, JournalConfig
from otel_aiops.lifecycle import sources
from otel_aiops.lifecycle.assemble import WINDOW_S, Around, Wanted, window_of
from otel_aiops.lifecycle.cases import Cases, freeze_verdicts
from otel_aiops.lifecycle.dataset import DatasetConfig
from otel_aiops.lifecycle.evaluate import EvaluationConfig
from otel_aiops.lifecycle.gate import GateConfig
from otel_aiops.lifecycle.manifest import digest
from otel_aiops.lifecycle.objective import Objective
from otel_aiops.lifecycle.registry import RegistryConfig
from otel_aiops.lifecycle.runs import ABANDONED, FAILED, FOLDER, REFUSED, REGISTERED, Run, Runs
from otel_aiops.lifecycle.search import TuneConfig
from otel_aiops.lifecycle.train import plain
from otel_aiops.lifecycle.truth import read_labels
from otel_aiops.lifecycle.version import FamilyName, Models, Settings, families_of
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.archive import Archive

SettingsFrom = Literal["config", "champion", "tuned"]
DIGITS = 16
COMPARED = ("objective_id", "settings", "labels", "config", "code", "champion")  # if these differ a run begins anew
MOST_ROLLOUTS = 10_000
STALE_NS = 86_400_000_000_000  # an unfinished run whose data ends so long ago is not gone on with by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Circle:
    """Everything that a run is made with: the configuration, and what is wanted of this one."""

    directory: Path  # the data directory of a service, which may be running
    pipeline: PipelineConfig
    datasets: DatasetConfig = field(default_factory=DatasetConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    registry: RegistryConfig = field(default_factory=RegistryConfig)
    around: Around = field(default_factory=Around)
    objective: Objective | None = None  # by which it is tuned and judged; without one all series, under the budgets
    settings: SettingsFrom = "config"
    families: tuple[FamilyName, ...] = ()  # of the configuration, beside the engine
    tuning: TuneConfig = field(default_factory=TuneConfig)
    labels: tuple[Path, ...] = ()
    window_s: float = WINDOW_S
    champion: str = ""  # id of the version that it is to replace
    processes: int = 1
    who: str = ""
    why: str = ""
    origin: str = ""

    def __post_init__(self) -> None:
        """Raises: BadInput."""
        if self.settings not in get_args(SettingsFrom):
            raise BadInput(f"settings: expected one of {', '.join(get_args(SettingsFrom))}, got {self.settings!r}")

    @property
    def configured(self) -> Settings:
        """The settings of the configuration."""
        return Settings(self.pipeline.detection, families_of(self.families))

    def inputs(self) -> dict[str, str]:
        """The hash of every part of the configuration that decides what comes out."""
        parts = {name: getattr(self.pipeline, name) for name in PipelineConfig.__dataclass_fields__}
        parts |= {"datasets": (self.datasets.limits, self.datasets.load_tests), "evaluation": self.evaluation}
        parts |= {"families": sorted(set(self.families))}
        parts |= {"gate": self.gate, "tuning": self.tuning if self.settings == "tuned" else ""}
        return {name: digest(plain(tree_of(value)))[:DIGITS] for name, value in parts.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run will do. Its hash is the id of the run."""

    objective: str
    objective_id: str
    start_ns: int
    end_ns: int
    series: int  # that are recorded
    in_scope: int  # of the objective
    settings: str
    champion: str
    labels: tuple[tuple[str, str], ...]  # files and their SHA-256
    verdicts: int  # in the journal
    known: str  # hash of the labels and exclusions of the journal
    config: Mapping[str, str]
    code: str = __version__

    @property
    def id(self) -> str:
        """16 hexadecimal digits."""
        return digest(self.to_json())[:DIGITS]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "labels": [list(one) for one in self.labels]}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Plan:
        """What `to_json` gave. Raises: StateError."""
        try:
            labels = tuple((str(path), str(sha256)) for path, sha256 in tree["labels"])
            return cls(**{**tree, "labels": labels})
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"run: expected a plan, got {error!r}") from error

    def lines(self, circle: Circle) -> list[str]:
        """For people: what will be done, over which time, for what."""
        budget = f", under its budget of {circle.objective.budget}" if circle.objective else ", under all budgets"
        scope = f"the {self.in_scope} series of objective {self.objective}" if self.objective else "all series"
        hours = (self.end_ns - self.start_ns) / 3.6e12
        held = circle.evaluation.holdout
        beside = f", with {' and '.join(sorted(set(circle.families)))}" if circle.families else ""
        configured = f"those of the configuration{beside}"
        how = {
            "config": configured,
            "champion": f"those of the champion {self.champion}" if self.champion else configured,
            "tuned": f"the best of {circle.tuning.trials} that are tried, under the alert budget",
        }
        against = f"the champion {self.champion}" if self.champion else "no champion, since no version serves yet"
        labels = f", {len(self.labels)} files of labels" if self.labels else ""
        return [
            f"run {self.id}{': ' + circle.why if circle.why else ''}",
            f"1 dataset   {moment(self.start_ns)} to {moment(self.end_ns)} ({hours:.0f} h) of all {self.series} series,"
            f" with what the journal knows ({self.verdicts} verdicts){labels}",
            "2 quality   refuse to learn from data that is not good enough",
            f"3 settings  {how[self.settings]}",
            f"4 train     one version that knows all {self.series} series, in {circle.processes} processes",
            f"5 evaluate  on {scope}{budget}: the newest {held:.0%} of the time is held out; against seasonal-naive and"
            f" {against}",
            "6 gate      better than seasonal-naive, not worse than the champion, no frozen case lost, within its cost",
            "7 register  only if the gate says yes: as challenger",
            "8 rollout   order it as shadow, where a service is named; canary and champion follow by its rules",
        ]


def named(circle: Circle, *, who: str, why: str, origin: str = "") -> Circle:
    """The same, by somebody for something."""
    return replace(circle, who=who, why=why, origin=origin)


def planned(circle: Circle, now_ns: int) -> Plan:
    """What a run would do now; nothing is written. Raises: BadInput where nothing is recorded, StateError."""
    window = window_of(circle.directory, Wanted(window_s=circle.window_s), now_ns)
    labels = tuple((str(path), sha256_of(path)) for path in circle.labels)
    for path in circle.labels:
        read_labels(path)
    if circle.champion:
        Models(circle.directory / FOLDER / "models").version(circle.champion)
    objective = circle.objective
    every = Archive(circle.directory).labels(without_damaged=True)
    verdicts, known = _known(circle, window.start_ns, window.end_ns)
    return Plan(
        objective=objective.name if objective else "",
        objective_id=objective.id if objective else "",
        start_ns=window.start_ns,
        end_ns=window.end_ns,
        series=len(every),
        in_scope=sum(objective is None or objective.matches(one) for one in every.values()),
        settings=circle.settings,
        champion=circle.champion,
        labels=labels,
        verdicts=verdicts,
        known=known,
        config=circle.inputs(),
    )


def begun(runs: Runs, plan: Plan, circle: Circle, *, resume: bool | None, now_ns: int) -> Run:
    """The run to make: the unfinished one where nothing has changed since, or the finished one of the same plan, or one
    that begins; who has the lock calls this.

    `resume` True wants the unfinished one, False one that begins. Raises: BadInput when there is none to go on with.
    """
    runs.sweep()
    mine = [one for one in runs.list() if one.plan.get("objective") == plan.objective]
    waiting = next((one for one in mine if one.unfinished), None)
    registered = waiting is not None and (step := waiting.step("register")) is not None and step.ended
    differs = different(Plan.from_json(waiting.plan), plan) if waiting and not registered else []
    if resume and (waiting is None or differs):
        why = f"{', '.join(differs)} changed since run {waiting.id} began" if waiting else "there is none"
        raise BadInput(f"expected an unfinished run to go on with, but {why}; begin one with --new")
    if waiting is not None and not registered and not resume and plan.end_ns - waiting.plan["end_ns"] > STALE_NS:
        differs.append("more than a day of data")
    if waiting is not None and not differs and resume is not False:
        return waiting
    if waiting is not None:
        what = f"{', '.join(differs)} changed" if differs else "another was begun instead"
        last = replace(waiting.steps[-1], state=FAILED, error=f"given up: {what}") if waiting.steps else None
        runs.write(replace(waiting.having(last) if last else waiting, state=ABANDONED, ended_ns=now_ns))
    done = next((one for one in mine if one.id == plan.id and one.state in (REGISTERED, REFUSED)), None)
    if done is not None and resume is None:
        return done
    shutil.rmtree(runs.staging(plan.id), ignore_errors=True)
    told: dict[str, Any] = {"who": circle.who, "why": circle.why, "origin": circle.origin}
    return runs.write(Run(id=plan.id, plan=plan.to_json(), began_ns=now_ns, **told))


def different(before: Plan, after: Plan) -> list[str]:
    """What differs between two plans but the time that passed, in words."""
    found = []
    for name in COMPARED:
        a, b = getattr(before, name), getattr(after, name)
        if name == "config":
            found += [f"config {part}" for part in sorted({*a, *b}) if a.get(part) != b.get(part)]
        elif a != b:
            found.append("objective" if name == "objective_id" else name)
    return found


def champion_of(orders: Iterable[Rollout]) -> str:
    """The version that serves after these orders, the oldest first; "" where none does."""
    champion, other, former, previous = "", "", False, ""
    for one in orders:
        champion = champion or one.champion
        if one.action in (Action.SHADOW, Action.CANARY):
            other, former = one.version, False
        elif one.action == Action.PROMOTE:
            champion, other, former, previous = one.version, champion, True, champion
        elif one.action == Action.ROLLBACK and other and not former:
            other = ""
        elif one.action == Action.ROLLBACK:
            champion, other, former, previous = other or previous, "", False, ""
        else:
            other, former = "", False
    return champion


def champion_in(directory: Path, config: JournalConfig) -> str:
    """The version that serves, as the journal of a data directory says. Raises: StorageError, StateError."""
    with opened_journal(directory, config) as journal:
        orders = journal.rollouts(limit=MOST_ROLLOUTS) if journal else ()
    name = champion_of(reversed(orders))
    return name if name in Models(directory / FOLDER / "models").list() else ""


def freeze(directory: Path, config: JournalConfig, cases: Cases) -> tuple[tuple[str, Verdict], ...]:
    """Make cases of the verdicts of the journal, while the points around them are still recorded; all verdicts."""
    with opened_journal(directory, config) as journal:
        verdicts = journal.verdicts() if journal else ()
    named = sorted({series for series, _ in verdicts if series})
    if named and (directory / "segments").is_dir():
        points = Archive(directory).points(named, without_damaged=True)
        freeze_verdicts(cases, verdicts, points, named)
    return tuple(verdicts)


def moment(time_ns: int) -> str:
    """A time for people."""
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M")


@contextmanager
def opened_journal(directory: Path, config: JournalConfig) -> Iterator[Journal | None]:
    """The journal of a data directory; None where there is none."""
    if not config.url and not (directory / FILE).exists():
        yield None
        return
    with closing(Journal(config, directory)) as journal:
        journal.open()
        yield journal


def _known(circle: Circle, start_ns: int, end_ns: int) -> tuple[int, str]:
    """(verdicts of the journal, the hash of what it knows of a time)."""
    with opened_journal(circle.directory, circle.around.journal) as journal:
        if journal is None:
            return 0, ""
        found = sources.of_journal(journal, start_ns, end_ns)
        count = len(journal.verdicts())
    tree = [[one.to_json() for one in sorted(found.labels)], [one.to_json() for one in sorted(found.exclusions)]]
    return count, digest(tree)[:DIGITS]


def sha256_of(path: Path) -> str:
    """Of the content of a file. Raises: BadInput."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{path}: expected a file, got {error.strerror or error}") from error


def tree_of(value: Any) -> Any:
    """Settings as plain values, however they are nested."""
    if hasattr(value, "__dataclass_fields__"):
        return {name: tree_of(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): tree_of(inner) for key, inner in value.items()}
    return [tree_of(inner) for inner in value] if isinstance(value, list | tuple) else value
