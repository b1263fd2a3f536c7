"""Guards: whether a step may be done now, must wait for people, or is refused, and why; a function of values only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from otel_aiops.detect.explain import duration
from otel_aiops.detect.windows import WindowConfig, covers, window
from otel_aiops.errors import ConfigError

S = 1_000_000_000
MOST_APPROVALS = 2


@dataclass(frozen=True, slots=True)
class GuardConfig:
    """What must hold for a step to be done. What is not set depends on the kind of the step: see `ACTS` and `TELLS`."""

    cooldown: float | None = None  # s since the same was last done to the same service; 10m, 0 for steps that tell
    most: int | None = None  # times that the same is done within `per`; 6, for steps that tell 60
    per: float = 3_600.0  # the time in which `most` and `targets` count
    targets: int | None = None  # different services that the same is done to within `per`; 3, for steps that tell all
    share: float = 0.5  # of the replicas that a step may add or take away
    windows: tuple[WindowConfig, ...] = ()  # only in these windows: start, end, days, from, to, tz; none is always
    approvals: int = 0  # people who must agree: 0, 1 or 2
    expiry: float = 1_800.0  # s after they were asked that they may
    healthy: bool | None = None  # not while the model drifts or a canary serves; true, for steps that tell false

    def __post_init__(self) -> None:
        for name, least in (("cooldown", 0.0), ("most", 1), ("targets", 1)):
            value = getattr(self, name)
            if value is not None and not least <= value < float("inf"):
                raise ConfigError(name, f"must be >= {least:g}, got {value}")
        for name in ("per", "expiry"):
            if not 0 < getattr(self, name) <= 30 * 86_400:
                raise ConfigError(name, f"must be in (0, 30 d], got {getattr(self, name)} s")
        if not 0 < self.share <= 1:
            raise ConfigError("share", f"must be in (0, 1], got {self.share}")
        if not 0 <= self.approvals <= MOST_APPROVALS:
            raise ConfigError("approvals", f"must be 0, 1 or 2, got {self.approvals}")
        for number, one in enumerate(self.windows):
            try:
                window(one)
            except ConfigError as error:
                raise ConfigError(f"windows.{number}.{error.path}".rstrip("."), error.message) from error


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for a kind of step where its guard says nothing."""

    cooldown: float
    most: int
    targets: int | None
    healthy: bool
    over: bool  # whether it may be done when the incident is over


ACTS = Defaults(cooldown=600.0, most=6, targets=3, healthy=True, over=False)  # changes something
TELLS = Defaults(cooldown=0.0, most=60, targets=None, healthy=False, over=True)  # tells people


class Verdict(StrEnum):
    """What the guards say."""

    ALLOWED = "allowed"
    DRY_RUN = "dry_run"  # nothing is done, all is shown
    WAITS = "waits"  # for people
    REFUSED = "refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that the guards know of a step besides its configuration. Times of 0 are never."""

    enabled: bool = True  # responses as a whole
    dry_run: bool = False  # of the playbook
    stopped: str = ""  # who has stopped all responses, and why
    over: str = ""  # why there is nothing to do any more
    unwanted: str = ""  # why the objective of the series does not want it
    target: str = ""  # the service that it is done to
    last_ns: int = 0  # when the same was last done to it
    done_ns: tuple[int, ...] = ()  # when the same was done to any
    targets: tuple[str, ...] = ()  # to whom, one for each of `done_ns`
    replicas: tuple[int, int] | None = None  # now, and wanted
    model: str = ""  # why the model is not to be trusted now
    asked_ns: int = 0  # when people were asked
    approved: tuple[str, ...] = ()  # who agreed
    refused: str = ""  # who did not, and why


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One guard: whether it lets the step through, in one plain sentence."""

    name: str
    holds: bool
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What all guards together say; `checks` are those that had something to say, also those that hold."""

    verdict: Verdict
    checks: tuple[Check, ...] = ()

    @property
    def reason(self) -> str:
        """Why it is not done, in one line; "" where it is."""
        return "; ".join(one.text for one in self.checks if not one.holds)

    @property
    def moot(self) -> bool:
        """Refused because there is nothing to do, or nothing is to be done: no news for anybody."""
        return any(one.name in ("stop", "incident") for one in self.checks if not one.holds)


def rule(guard: GuardConfig, defaults: Defaults, facts: Facts, now_ns: int) -> Ruling:
    """Whether a step may be done now."""
    checks = tuple(_checks(guard, defaults, facts, now_ns))
    if not all(one.holds for one in checks):
        return Ruling(verdict=Verdict.REFUSED, checks=checks)
    if dry := _dry(facts):
        return Ruling(verdict=Verdict.DRY_RUN, checks=(*checks, dry))
    missing = guard.approvals - len(people(facts.approved))
    if missing > 0:
        text = f"{missing} of {guard.approvals} approvals {'is' if missing == 1 else 'are'} missing"
        return Ruling(verdict=Verdict.WAITS, checks=(*checks, Check(name="approval", holds=False, text=text)))
    return Ruling(verdict=Verdict.ALLOWED, checks=checks)


def people(names: tuple[str, ...]) -> frozenset[str]:
    """Who they are, however they write themselves."""
    return frozenset(" ".join(name.split()).casefold() for name in names)


def _dry(facts: Facts) -> Check | None:
    if facts.enabled and not facts.dry_run:
        return None
    why = "the playbook is a dry run" if facts.enabled else "responses are not enabled"
    return Check(name="dry_run", holds=False, text=f"{why}: nothing is done")


def _checks(guard: GuardConfig, defaults: Defaults, facts: Facts, now_ns: int) -> Iterator[Check]:
    if facts.stopped:
        yield Check(name="stop", holds=False, text=f"all responses are stopped: {facts.stopped}")
    if facts.over and not defaults.over:
        yield Check(name="incident", holds=False, text=facts.over)
    if facts.unwanted:
        yield Check(name="objective", holds=False, text=facts.unwanted)
    yield from _often(guard, defaults, facts, now_ns)
    if facts.replicas is not None:
        yield _share(guard, *facts.replicas)
    if guard.windows:
        inside = bool(covers([window(one) for one in guard.windows], np.array([now_ns]))[0])
        yield Check(name="windows", holds=inside, text=f"it is {'' if inside else 'not '}a time at which this is done")
    if defaults.healthy if guard.healthy is None else guard.healthy:
        text = f"the model is not to be trusted: {facts.model}" if facts.model else "the model is healthy"
        yield Check(name="model", holds=not facts.model, text=text)
    if guard.approvals:
        yield from _approval(guard, facts, now_ns)


def _often(guard: GuardConfig, defaults: Defaults, facts: Facts, now_ns: int) -> Iterator[Check]:
    cooldown_s = defaults.cooldown if guard.cooldown is None else guard.cooldown
    if cooldown_s and facts.last_ns:
        ago_s = (now_ns - facts.last_ns) / S
        ago = f"{duration(ago_s)} ago, the cooldown is {duration(cooldown_s)}"
        text = f"it was last done to {facts.target or 'this'} {ago}"
        yield Check(name="cooldown", holds=ago_s >= cooldown_s, text=text)
    since_ns = now_ns - round(guard.per * S)
    lately = [target for at, target in zip(facts.done_ns, facts.targets, strict=True) if at > since_ns]
    most = defaults.most if guard.most is None else guard.most
    text = f"it was done {_many(len(lately), 'time')} in the last {duration(guard.per)}, at most {most} are wanted"
    yield Check(name="rate", holds=len(lately) < most, text=text)
    reach = defaults.targets if guard.targets is None else guard.targets
    if reach is not None:
        reached = len({*lately, facts.target})
        many = _many(reached, "service")
        text = f"with {facts.target or 'this'} it reaches {many}, at most {reach} are wanted"
        yield Check(name="targets", holds=reached <= reach, text=text)


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _share(guard: GuardConfig, now: int, wanted: int) -> Check:
    share = abs(wanted - now) / max(now, 1)
    text = f"{now} to {wanted} replicas are {share:.0%} of them, at most {guard.share:.0%} are wanted"
    return Check(name="share", holds=share <= guard.share, text=text)


def _approval(guard: GuardConfig, facts: Facts, now_ns: int) -> Iterator[Check]:
    if facts.refused:
        yield Check(name="approval", holds=False, text=f"refused by {facts.refused}")
    elif facts.asked_ns and now_ns - facts.asked_ns > guard.expiry * S:
        yield Check(name="approval", holds=False, text=f"it was not approved and done within {guard.expiry:.0f} s")
