"""Assembling: a dataset with everything that is known of its time, from the data directory and from other servers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otel_aiops.errors import BadInput, StateError
from otel_aiops.incidents.journal import FILE, Journal, JournalConfig
from otel_aiops.incidents.suppress import Maintenance
from otel_aiops.lifecycle import governed, sources
from otel_aiops.lifecycle.dataset import DatasetConfig, Datasets, Show, cited, complete_ns
from otel_aiops.lifecycle.manifest import Manifest, Window
from otel_aiops.lifecycle.objective import ExclusionSource, Objective
from otel_aiops.lifecycle.sources import Get, Truth
from otel_aiops.lifecycle.truth import Exclusion, Label
from otel_aiops.series.segments import Segments

WINDOW_S = 14 * 86_400.0
LEFT_OUT: Mapping[ExclusionSource, tuple[str, ...]] = {  # what exclusions say of where they come from
    "incident": ("incident",),
    "maintenance": ("maintenance",),
    "silence": ("silence", "alertmanager silence"),
    "load_test": ("load test",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which points: of the last `window_s`, as far as there are, up to `end_ns` (without it, the newest complete hour);
    or from `start_ns`.
    """

    selectors: tuple[Mapping[str, Any], ...] = ()
    start_ns: int | None = None
    end_ns: int | None = None
    window_s: float = WINDOW_S
    labels: tuple[Label, ...] = ()
    exclusions: tuple[Exclusion, ...] = ()
    with_incidents: bool = False  # learn from confirmed incidents too
    objective: Objective | None = None  # its series, when there are no selectors, its label sources and exclusions


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What there is besides the recorded points. `get` of Alertmanager and Prometheus ask them by path and query."""

    journal: JournalConfig = field(default_factory=JournalConfig)
    maintenance: tuple[Maintenance, ...] = ()
    alertmanager: Get | None = None
    prometheus: Get | None = None


def assemble(
    data_directory: Path,
    wanted: Wanted,
    *,
    config: DatasetConfig,
    around: Around,
    now_ns: int,
    who: str = "",
    why: str = "",
    parents: Sequence[str] = (),
    force: str = "",
    progress: Show | None = None,
) -> tuple[Manifest, tuple[str, ...]]:
    """Make a dataset, and delete old ones that nothing needs; (its manifest, what there is to say).

    Raises: as `Datasets.build`, and of the sources.
    """
    window = window_of(data_directory, wanted, now_ns)
    found = truth(data_directory, window, config, around, wanted.objective)
    labels, exclusions = (*wanted.labels, *found.labels), found.exclusions
    if wanted.with_incidents:
        exclusions = tuple(one for one in exclusions if one.source != "incident")
    selectors = wanted.selectors
    if objective := wanted.objective:
        selectors = selectors or (dict(objective.match),)
        labels = tuple(one for one in labels if one.source in (objective.data.labels or (one.source,)))
        left_out = {source for name in objective.data.leave_out for source in LEFT_OUT[name]}
        exclusions = tuple(one for one in exclusions if one.source in (left_out or (one.source,)))
    datasets = Datasets.of(data_directory)
    made = datasets.build(
        window,
        selectors,
        labels,
        (*wanted.exclusions, *exclusions),
        now_ns=now_ns,
        who=who,
        why=why,
        parents=parents,
        governance=governed.held(data_directory, window.start_ns, window.end_ns),
        limits=config.limits,
        force=force,
        progress=progress,
    )
    return made, (*found.notes, *_tidied(datasets, data_directory, config.keep, {made.id, *made.parents}))


def _tidied(datasets: Datasets, data_directory: Path, keep: int, needed: set[str]) -> list[str]:
    """Delete the oldest datasets beyond `keep` that nothing needs; what to say about it."""
    try:
        gone = datasets.prune(keep, cited=needed | cited(data_directory).keys())
    except StateError as error:
        return [f"no old dataset is deleted: {error}"]
    return [f"deleted, because only {keep} are kept that no model cites: {', '.join(gone)}"] if gone else []


def window_of(data_directory: Path, wanted: Wanted, now_ns: int) -> Window:
    """The stretch of time that is meant. Raises: BadInput when nothing is recorded."""
    oldest_ns, newest_ns = complete_ns(Segments(data_directory / "segments"), now_ns)
    if not newest_ns:
        raise BadInput(f"expected recorded points of at least one complete hour in {data_directory}/segments, got none")
    end_ns = newest_ns if wanted.end_ns is None else wanted.end_ns
    if wanted.start_ns is not None:
        return Window(wanted.start_ns, end_ns)
    return Window(max(end_ns - round(wanted.window_s * 1e9), min(oldest_ns, end_ns - 1)), end_ns)


def truth(
    data_directory: Path, window: Window, config: DatasetConfig, around: Around, objective: Objective | None = None
) -> Truth:
    """What is known of a stretch of time; of incidents, those of the objective's types are labels.

    Raises: StorageError, StateError, BadInput, Overloaded.
    """
    start_ns, end_ns = window.start_ns, window.end_ns
    found = Truth(exclusions=tuple(sources.of_maintenance(around.maintenance, start_ns, end_ns)))
    if around.journal.url or (data_directory / FILE).exists():
        journal = Journal(around.journal, data_directory)
        with closing(journal):
            journal.open()
            found += sources.of_journal(journal, start_ns, end_ns, objective.incidents if objective else ())
            found += sources.of_webhooks(journal, start_ns, end_ns)
    rules = [(rule.match, rule.services) for rule in config.load_tests]
    segments = Segments(data_directory / "segments")
    found += Truth(exclusions=tuple(sources.of_load_tests(segments, rules, start_ns, end_ns)))
    if around.alertmanager:
        found += sources.of_alertmanager(around.alertmanager, start_ns, end_ns)
    if around.prometheus:
        found += sources.of_prometheus(around.prometheus, start_ns, end_ns)
    return found
