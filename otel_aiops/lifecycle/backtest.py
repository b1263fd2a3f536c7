"""The backtest: what recorded days would have been like with a version or a configuration, before anybody saves it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from otel_aiops.errors import BadInput
from otel_aiops.lifecycle.evaluate import Candidate, EvaluationConfig, recording_of
from otel_aiops.lifecycle.events import Alert, Event, alerts_of, caught, events_of
from otel_aiops.lifecycle.play import Beginning, Recording, play
from otel_aiops.lifecycle.truth import Label
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.archive import Archive

DAY_NS = 86_400_000_000_000
WARMUP = 0.2  # of what is recorded, the oldest, at least of which is learned from
TOTAL = 100.0

Show = Callable[[float, float, str], None]


@dataclass(frozen=True, slots=True)
class Setup:
    """What would run: a configuration, and perhaps a version whose settings take the place of its own."""

    name: str
    config: PipelineConfig
    version: Candidate | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a setup would have told in the days: its alerts, and the events that had none."""

    name: str
    begun: str
    alerts: tuple[Alert, ...]
    missed: tuple[Event, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backtest:
    """A setup beside the one that is in use, over the same recorded days."""

    start_ns: int
    end_ns: int
    series: int
    drawn_of: int
    events: tuple[Event, ...]
    before: Outcome
    after: Outcome

    @property
    def days(self) -> float:
        """How long it is about."""
        return (self.end_ns - self.start_ns) / DAY_NS

    @property
    def newly_missed(self) -> tuple[Event, ...]:
        """Events that have an alert now, and would not have had one."""
        return tuple(one for one in self.after.missed if one not in self.before.missed)

    def sentence(self) -> str:
        """The answer in one sentence."""
        count, were, known = len(self.after.alerts), len(self.before.alerts), len(self.events)
        alerts = f"you would have had {count} alert{'s' if count != 1 else ''} instead of {were}"
        missed = "none" if not self.after.missed else f"{len(self.after.missed)}"
        of = f"missing {missed} of {known} incident{'s' if known != 1 else ''}" if known else "no incident is known"
        return f"With {self.after.name} {alerts} in the last {self.days:.3g} days, {of}."

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        told = {"days": self.days, "sentence": self.sentence()}
        return {**asdict(self), **told, "newly_missed": [asdict(one) for one in self.newly_missed]}


def backtest(
    archive: Archive,
    after: Setup,
    before: Setup,
    labels: Sequence[Label],
    *,
    days: float = 30.0,
    limits: EvaluationConfig | None = None,
    progress: Show | None = None,
) -> Backtest:
    """Run two setups over the newest recorded days, each scoring every point before it learns from it.

    What came before the days is learned from; where less is recorded the days are fewer, so that a fifth of it is. A
    version begins with what it had learned when that is older than the days. Of very many points some series are drawn.
    Raises: BadInput where nothing is recorded, StateError, StorageError.
    """
    limits = limits or EvaluationConfig()
    texts = archive.series()
    drawn = _drawn(archive, texts, limits)
    points = archive.points(drawn)
    if not len(points):
        raise BadInput(f"{archive.directory}: expected recorded points, got none")
    first_ns, last_ns = int(points.time_ns[0]), int(points.time_ns[-1])
    since_ns = max(last_ns - round(days * DAY_NS), first_ns + round(WARMUP * (last_ns - first_ns)))
    recording = recording_of(points, drawn, since_ns, last_ns + 1)
    events = events_of(labels, since_ns, last_ns + 1)
    tolerance_ns = round(limits.tolerance * 1e9)
    outcomes = [
        _outcome(setup, recording, events, labels, tolerance_ns, _told(progress, k, setup.name))
        for k, setup in enumerate((before, after))
    ]
    return Backtest(
        start_ns=since_ns,
        end_ns=last_ns,
        series=len(drawn),
        drawn_of=len(texts),
        events=events,
        before=outcomes[0],
        after=outcomes[1],
    )


def _drawn(archive: Archive, texts: Sequence[str], limits: EvaluationConfig) -> list[str]:
    """All series, or of too many points those of some, by chance. Raises: BadInput where nothing is recorded."""
    if not texts:
        raise BadInput(f"{archive.directory}: expected recorded points, got none")
    most = max(1, int(limits.most_points / max(1.0, archive.points_of_a_series())))
    if len(texts) <= most:
        return list(texts)
    chosen = np.random.default_rng(limits.seed).choice(len(texts), most, replace=False)
    return [texts[k] for k in sorted(chosen.tolist())]


def _outcome(
    setup: Setup,
    recording: Recording,
    events: tuple[Event, ...],
    labels: Sequence[Label],
    tolerance_ns: int,
    told: Callable[[float], None],
) -> Outcome:
    """What a setup would have told; a version that has learned of the days begins with what was before them."""
    version = setup.version
    knows = version is not None and version.lineage.until_ns <= recording.since_ns
    bundle = version.bundle if version and knows else None
    beginning = Beginning(
        version.settings.detection if version else setup.config.detection,
        bundle,
        version.lineage.until_ns if version and knows else 0,
    )
    played = play(recording, beginning, setup.config, kinds=(), told=told)
    return Outcome(
        name=setup.name,
        begun="history" if bundle is None else "bundle",
        alerts=alerts_of(played.opened, events, labels, tolerance_ns),
        missed=tuple(one.event for one in caught(events, played.opened, tolerance_ns) if not one.caught),
    )


def _told(progress: Show | None, k: int, name: str) -> Callable[[float], None]:
    """Shows how far the first or the second setup is."""

    def told(share: float) -> None:
        if progress is not None:
            progress(TOTAL * (k + share) / 2, TOTAL, name)

    return told
