"""The judge of a rollout: rules that say from a comparison whether a challenger goes on, is promoted, or goes back."""

from __future__ import annotations

import math
from dataclasses import dataclass

from otel_aiops.detect.explain import duration
from otel_aiops.detect.serving import Action
from otel_aiops.errors import ConfigError
from otel_aiops.lifecycle.comparison import Comparison, Side

SURE = 0.95  # probability with which something must be worse before a challenger is stopped for it
# of a distance between distributions of n points each, times the root of 2 / n, by chance at that probability
# (Smirnov, 1948, Table for estimating the goodness of fit of empirical distributions)
CHANCE = 1.36


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutConfig:
    """How a challenger goes from shadow over canary to champion, and what stops it. Off by default: people decide."""

    automatic: bool = False  # carry out what the rules say; without it they only advise
    interval: float = 60.0  # s between two looks
    shadow: float = 86_400.0  # s that a challenger is watched before it serves anything
    canary: float = 86_400.0  # s that it serves a share
    probation: float = 86_400.0  # s that the former champion goes on beside a new one
    share: float = 0.1  # of the series, for the canary
    least_points: int = 10_000  # scored by it before anything is concluded
    more_alerts: float = 1.25  # times those of the champion, or of the budget where that is more, that are too many
    missed: int = 0  # alerts that people said were true and it did not raise, beyond those that the champion missed
    calibration: float = 0.05  # that its probabilities may be farther off than the champion's

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        for name in ("interval", "shadow", "canary", "probation"):
            if not getattr(self, name) > 0:
                raise ConfigError(name, f"must be > 0 s, got {getattr(self, name)}")
        if not 0 < self.share < 1:
            raise ConfigError("share", f"must be in (0, 1), got {self.share}")
        for name, least in (("least_points", 1), ("missed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(name, f"must be >= {least}, got {getattr(self, name)}")
        if not self.more_alerts >= 1:
            raise ConfigError("more_alerts", f"must be >= 1, got {self.more_alerts}")
        if not 0 < self.calibration <= 1:
            raise ConfigError("calibration", f"must be in (0, 1], got {self.calibration}")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is to be done now, None for waiting, and why in plain words."""

    action: Action | None
    reasons: tuple[str, ...]


def judge(found: Comparison, role: str, budget: float, config: RolloutConfig) -> Judgement:
    """What the rules say of the version beside the champion; `budget` is the alerts a week that are wanted.

    What is plainly worse goes back at once, however early. `role` is that of `Serving`.
    """
    if role == "former":  # now the roles are the other way round: is the new champion worse than the one before?
        worse = _worse(found.champion, found.other, found, budget, config)
        if worse:
            return Judgement(Action.ROLLBACK, worse)
        if _lasted_s(found) >= config.probation:
            return Judgement(Action.STOP, (f"the new champion has held for {duration(_lasted_s(found))}",))
        return Judgement(None, (f"the new champion is on probation, {duration(_lasted_s(found))} so far",))
    worse = _worse(found.other, found.champion, found, budget, config)
    if worse:
        return Judgement(Action.ROLLBACK, worse)
    needed_s = config.canary if role == "canary" else config.shadow
    if found.other.points < config.least_points:
        return Judgement(None, (f"expected {config.least_points} points before a judgement, got {found.other.points}",))
    if _lasted_s(found) < needed_s:
        return Judgement(
            None, (f"{role} for {duration(_lasted_s(found))} of {duration(needed_s)}, nothing is worse so far",)
        )
    better = f"nothing was worse than the champion's in {duration(_lasted_s(found))}: {_words(found)}"
    return Judgement(Action.PROMOTE if role == "canary" else Action.CANARY, (better,))


def _worse(one: Side, before: Side, found: Comparison, budget: float, config: RolloutConfig) -> tuple[str, ...]:
    """In what a version is worse than the one before, for sure; nothing while too little is known."""
    from scipy import stats  # late, because the service pays for it

    reasons = []
    weeks = max(found.days / 7, 1e-9)
    allowed = config.more_alerts * max(before.alerts, budget * weeks)
    # Alerts come about as in a Poisson process, those of a crowd counted once at most a series.
    if one.alerts > allowed and stats.poisson.sf(one.alerts - 1, max(allowed, 1e-9)) < 1 - SURE:
        reasons.append(
            f"{one.alerts} alerts where at most {allowed:.1f} are allowed ({before.alerts} of the other version)"
        )
    if one.missed > before.missed + config.missed:
        reasons.append(f"it missed {one.missed} that people said were true, the other version {before.missed}")
    if one.points >= config.least_points and _farther(one, before, config):
        error, other = one.calibration_error, before.calibration_error
        reasons.append(f"its probabilities are off by {error:.3f}, those of the other version by {other:.3f}")
    return tuple(reasons)


def _farther(one: Side, before: Side, config: RolloutConfig) -> bool:
    """Whether probabilities are farther off than may be, by more than chance alone does with so few points."""
    if math.isnan(one.calibration_error) or math.isnan(before.calibration_error):
        return False
    chance = CHANCE * math.sqrt(1 / max(one.points, 1) + 1 / max(before.points, 1))
    return one.calibration_error > before.calibration_error + config.calibration + chance


def _lasted_s(found: Comparison) -> float:
    return found.days * 86_400


def _words(found: Comparison) -> str:
    one, other = found.champion, found.other
    alerts = f"{other.alerts} alerts, {one.alerts} of the champion, {found.both} of both"
    said = f"{other.false_alerts} said to be false and {other.missed} missed"
    return f"{alerts}; {said}, of the champion {one.false_alerts} and {one.missed}"
