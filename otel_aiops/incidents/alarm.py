"""Alarm: when what a service does is strange enough, and for long enough, to be a finding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from otel_aiops.errors import ConfigError, StateError
from otel_aiops.incidents.behaviour import SLOT_S
from otel_aiops.incidents.codec import decode, encode
from otel_aiops.incidents.incident import Channel, Evidence, Finding
from otel_aiops.incidents.look import Look
from otel_aiops.series.columns import Arrays, json_array, json_tree

SHARE = 0.4  # of the strongest channel that another needs to be a finding of its own
WEAK = 0.5  # of the threshold: joins an incident, and keeps a finding alive
FAINT = 0.25  # of the threshold: it may last
SURE = 1.5  # of the threshold: one step is enough
NOISE = 1.3  # of what a service reaches in normal times, at least
QUIET = 0.1  # of the threshold, below which a total is no noise
LONGEST_S = 120.0
NOISE_DECAY = 0.5 ** (SLOT_S / 3600.0)


@dataclass(frozen=True, slots=True)
class AlarmConfig:
    """When what services do becomes a finding."""

    threshold: float = 6.0  # strangeness of a service, over all that its spans and logs show
    warmup: float = 240.0  # s after the first span in which everything is only learned
    observations: float = 20.0  # of an operation, call or step before it can be strange
    # s that are looked at: the shortest is quick, the longest finds what is little or rare
    windows: tuple[float, ...] = (15.0, 30.0, 90.0)
    quick: int = 2  # of these show by themselves whether it lasts
    settle: float = 60.0  # s until a total counts as one of normal times: a fault that grows is none
    calm: float = 20.0  # s without strangeness after which a finding ends
    series: int = 3  # series of one service that have an alert at once make an incident; fewer only join one

    def __post_init__(self) -> None:
        for name in ("threshold", "observations", "calm", "series", "quick"):
            if getattr(self, name) <= 0:
                raise ConfigError(name, f"must be > 0, got {getattr(self, name)}")
        if not self.windows or list(self.windows) != sorted(self.windows):
            raise ConfigError("windows", f"must be rising times, got {list(self.windows)}")
        if not SLOT_S <= self.windows[0] <= self.windows[-1] <= LONGEST_S:
            raise ConfigError("windows", f"must be from {SLOT_S:g} to {LONGEST_S:g} s, got {list(self.windows)}")
        if not 0 <= self.settle <= LONGEST_S:
            raise ConfigError("settle", f"must be from 0 to {LONGEST_S:g} s, got {self.settle}")


@dataclass(frozen=True, slots=True)
class _Service:
    """Where one service stands."""

    noise: float = 0.0  # the highest total of normal times, decayed
    over: int = 0  # steps of the last three over the threshold, as bits
    calm_ns: int = 0  # since when it has been calm while it has findings
    recent: tuple[tuple[int, float], ...] = ()  # (when, total), not yet known to be of normal times


class Alarm:
    """Findings of what services do. One step each slot."""

    def __init__(self, config: AlarmConfig) -> None:
        self.config = config
        self._services: dict[str, _Service] = {}
        self._open: dict[str, Finding] = {}  # by key

    @property
    def open(self) -> Mapping[str, Finding]:
        """Findings that last, by key."""
        return self._open

    def strange(self) -> frozenset[str]:
        """Services with a finding that lasts."""
        return frozenset(finding.service for finding in self._open.values() if finding.score >= 1)

    def step(
        self,
        looks: Sequence[Look],
        users: Mapping[str, float],
        event_ns: int,
        widen: Callable[[str], float] = lambda service: 1.0,
    ) -> list[Finding]:
        """Take in what is seen at an event time in windows of different length; the findings that changed.

        `users` are requests of users through each service since the last step. `widen` is how many times the threshold
        of a service is what it usually is.
        """
        changed: list[Finding] = []
        strange = self.strange()
        services = sorted({service for one in looks for service in one.strengths} | self._services.keys())
        for service in services:
            which = self._clearest(looks, service)
            hit, others = users.get(service, 0.0), bool(strange - {service})
            changed += self._follow(service, which, hit, event_ns, others=others, wide=widen(service))
        return changed

    def _clearest(self, looks: Sequence[Look], service: str) -> Look:
        """The window in which a service is the strangest. Long ones count while it lasts: they remember it too long."""
        lasts = looks[: self.config.quick]
        lasting = max(one.total(service) for one in lasts) >= FAINT * self.config.threshold
        return max(looks if lasting else lasts, key=lambda one: one.total(service))

    def _follow(
        self, service: str, seen: Look, users: float, event_ns: int, *, others: bool, wide: float
    ) -> list[Finding]:
        state = self._services.get(service, _Service())
        total = seen.total(service)
        threshold = wide * max(self.config.threshold, NOISE * state.noise)
        ratio = total / threshold
        over = (state.over << 1 | (ratio >= 1)) & 0b111
        mine = [finding for finding in self._open.values() if finding.service == service]
        alarmed = ratio >= SURE or over.bit_count() >= 2 or any(finding.score >= 1 for finding in mine)
        if mine and ratio < WEAK:
            calm_ns = state.calm_ns or event_ns
            self._services[service] = replace(state, over=over, calm_ns=calm_ns)
            return self._end(mine, event_ns) if event_ns - calm_ns >= self.config.calm * 1e9 else []
        noise, recent = self._noise(state, 0.0 if mine or alarmed else total, event_ns)
        self._services[service] = _Service(noise=noise, over=over, recent=() if mine or alarmed else recent)
        if not noise and not over and not mine and not recent:
            del self._services[service]
        if (ratio >= 1 and alarmed) or (ratio >= WEAK and (others or mine)):
            score = ratio if alarmed else min(ratio, 0.99)
            return self._findings(service, seen, score, users, event_ns)
        return []

    def _noise(self, state: _Service, total: float, event_ns: int) -> tuple[float, tuple[tuple[int, float], ...]]:
        """(the highest total of normal times, what has yet to turn out to be of them)."""
        settled_ns = event_ns - int(self.config.settle * 1e9)
        came = [(event_ns, min(total, self.config.threshold))] if total > QUIET * self.config.threshold else []
        every = [*state.recent, *came]
        normal = max((value for when_ns, value in every if when_ns <= settled_ns), default=0.0)
        noise = max(state.noise * NOISE_DECAY, normal)
        return noise, tuple((when_ns, value) for when_ns, value in every if when_ns > settled_ns)

    def _findings(self, service: str, seen: Look, score: float, users: float, event_ns: int) -> list[Finding]:
        strengths = seen.strengths[service]
        enough = SHARE * max(strengths.values())
        changed = []
        for channel in sorted(channel for channel, strength in strengths.items() if strength >= enough):
            evidence = _evidence(seen, service, channel)
            key = f"{channel}|{service}"
            old = self._open.get(key)
            finding = Finding(
                key=key,
                service=service,
                channel=channel,
                start_ns=old.start_ns if old else event_ns - int(self.config.windows[0] * 1e9),
                last_ns=event_ns,
                score=max(score, old.score if old else 0.0),
                users=(old.users if old else 0.0) + users * _share_hit(evidence),
                evidence=evidence if not old or evidence.strength >= old.evidence.strength else old.evidence,
            )
            self._open[key] = finding
            changed.append(finding)
        return changed

    def _end(self, findings: list[Finding], event_ns: int) -> list[Finding]:
        ended = [replace(finding, end_ns=finding.last_ns) for finding in findings]
        for finding in findings:
            del self._open[finding.key]
        service = findings[0].service
        self._services[service] = replace(self._services[service], over=0, calm_ns=0)
        return ended

    # -- state --------------------------------------------------------------------------------------------------------

    def state(self) -> Arrays:
        """Where all services stand, as arrays."""
        services = {name: [one.noise, one.over, one.calm_ns, one.recent] for name, one in self._services.items()}
        tree = {"services": services, "open": [encode(finding) for finding in self._open.values()]}
        return {"alarm": json_array(tree)}

    def restore(self, arrays: Arrays) -> None:
        """Take over a state. Raises: StateError."""
        tree = json_tree(arrays, "alarm")
        try:
            self._services = {
                name: _Service(noise, over, calm_ns, tuple((when_ns, value) for when_ns, value in recent))
                for name, (noise, over, calm_ns, recent) in tree["services"].items()
            }
            findings = [decode(Finding, one) for one in tree["open"]]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateError(f"expected services and findings of an alarm, got {error}") from error
        self._open = {finding.key: finding for finding in findings}


def _evidence(seen: Look, service: str, channel: Channel) -> Evidence:
    for evidence in seen.evidence.get(service, ()):
        if evidence.channel == channel:
            return evidence
    strength = seen.strengths[service][channel]
    return Evidence(channel=channel, service=service, what="", before=np.nan, after=np.nan, strength=strength)


def _share_hit(evidence: Evidence) -> float:
    """The share of requests that meets what was found."""
    shares = (Channel.ERRORS, Channel.SEQUENCE, Channel.LOGS)
    return min(1.0, max(0.0, evidence.after)) if evidence.channel in shares and evidence.after >= 0 else 1.0
