"""Needs: why a retraining is due now, from what is known, without a clock or a disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from otel_aiops.errors import ConfigError
from otel_aiops.lifecycle.assemble import WINDOW_S
from otel_aiops.lifecycle.circle import SettingsFrom

Kind = Literal["schedule", "drift", "verdicts", "config"]
DAY_S = 86_400.0
KINDS: tuple[Kind, ...] = ("schedule", "drift", "verdicts", "config")
SHOWN = 3  # drifts, in words


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainConfig:
    """When the service makes new versions by itself. Off by default."""

    enabled: bool = False  # retrain by itself; what comes out runs as shadow, and the rules of the rollout go on
    reasons: tuple[Kind, ...] = KINDS  # for which reasons
    schedule: float = 7 * DAY_S  # after the newest run, however it ended
    min_interval: float = DAY_S  # between two runs, whatever the reason
    verdicts: int = 10  # so many new ones are a reason
    objective: str = ""  # by which versions are tuned and judged; without one all series, under all budgets
    settings: SettingsFrom = "champion"  # champion, config, or tuned; when the configuration changed not champion
    window: float = WINDOW_S  # how far back is learned from
    labels: tuple[str, ...] = ()  # files of labels
    processes: int = 1  # at once, all of low priority
    timeout: float = 6 * 3600.0  # a run that takes longer is ended, and gone on with later

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        for name in ("schedule", "min_interval", "window", "timeout"):
            if not getattr(self, name) > 0:
                raise ConfigError(name, f"must be > 0 s, got {getattr(self, name)}")
        for name in ("verdicts", "processes"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be >= 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Need:
    """A reason for a retraining, in plain words."""

    kind: Kind
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What is known when it is asked whether a retraining is due.

    `waited_s` is the time since the newest run ended, or since the service started, by a clock that is never set;
    `ran_here` whether that run was this process's. `last_ns` is when the newest run began, 0 without any.
    """

    now_ns: int
    last_ns: int = 0
    since_ns: int = 0  # of the oldest recorded point, 0 without any
    waited_s: float = 0.0
    ran_here: bool = False
    verdicts: int = 0  # since the newest run
    changed: Sequence[str] = ()  # parts of the configuration that are others than in the newest run
    drifts: Sequence[str] = ()  # that persist, in words

    @property
    def elapsed_s(self) -> float:
        """The time since the newest run.

        The clock of the day is only believed where no other was running: of a run of another process, and when it has
        not gone back since. So one that is set back or forward makes no run come again and again, nor never more.
        """
        from_ns = self.last_ns or self.since_ns  # where nothing was made yet, of what is recorded since
        if not from_ns or self.ran_here or from_ns > self.now_ns:
            return self.waited_s
        return max(self.waited_s, (self.now_ns - from_ns) / 1e9)


def needs(config: RetrainConfig, seen: Seen) -> tuple[Need, ...]:
    """Why a retraining is due; nothing when none is, or when the last one is not long ago."""
    if (seen.last_ns or seen.ran_here) and seen.elapsed_s < config.min_interval:
        return ()
    return tuple(one for one in _all(config, seen) if one.kind in config.reasons)


def _all(config: RetrainConfig, seen: Seen) -> Iterator[Need]:
    if seen.elapsed_s >= config.schedule:
        since = "since the last run" if seen.last_ns else "of data, and no version was made yet"
        yield Need("schedule", f"{seen.elapsed_s / 3600:.3g} h {since}")
    if seen.drifts:
        more = f", and {len(seen.drifts) - SHOWN} more" if len(seen.drifts) > SHOWN else ""
        yield Need("drift", f"drift that persists: {'; '.join(seen.drifts[:SHOWN])}{more}")
    if seen.verdicts >= config.verdicts:
        yield Need("verdicts", f"{seen.verdicts} new verdicts")
    if seen.last_ns and seen.changed:
        yield Need("config", f"the configuration changed since the last run: {', '.join(seen.changed)}")
