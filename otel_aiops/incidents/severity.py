"""How bad an incident is: by users hit, services, scores, and how fast it burns the budgets of objectives."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from otel_aiops.errors import ConfigError
from otel_aiops.incidents.incident import Channel, Finding, Severity

# (share of the error budget, long window, short window in s, severity). Source: Beyer et al., The Site Reliability
# Workbook, chapter 5, table 5-8: for an objective over 30 days these are burn rates of 14.4, 6 and 1.
BURNS = (
    (0.02, 3_600.0, 300.0, Severity.CRITICAL),
    (0.05, 21_600.0, 1_800.0, Severity.WARNING),
    (0.10, 259_200.0, 21_600.0, Severity.INFO),
)
ORDER = (Severity.INFO, Severity.WARNING, Severity.CRITICAL)

Failing = Callable[[str, float, int], float]
"""(service, seconds, event_ns) → share of its requests that failed in the seconds before; NaN where unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SloConfig:
    """An objective of a service: this share of its requests is good, over a window."""

    service: str  # name of the service
    objective: float = 0.999  # share of its requests that is good
    window: float = 30 * 86_400.0  # s over which

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        if not self.service:
            raise ConfigError("service", "expected the name of a service, got nothing")
        if not 0 < self.objective < 1:
            raise ConfigError("objective", f"expected a ratio between 0 and 1, got {self.objective}")
        if not self.window >= 3_600:
            raise ConfigError("window", f"expected at least 3600 s, got {self.window}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SeverityConfig:
    """Where incidents begin to be bad, without objectives: two upper bounds are critical, one lower is a warning."""

    critical_users: float = 1_000.0  # requests of users that are hit; two of the three critical ones must be reached
    critical_services: int = 4  # services that show something
    critical_score: float = 5.0  # of the strongest finding, in thresholds
    warning_users: float = 1.0  # the same; one of the three is enough
    warning_services: int = 2  # the same
    warning_score: float = 2.0  # the same


def worse(one: Severity, other: Severity) -> Severity:
    """The worse of two."""
    return max(one, other, key=ORDER.index)


def impact(users: float, services: int, score: float, config: SeverityConfig) -> Severity:
    """How bad it is by what is seen."""
    upper = (users >= config.critical_users) + (services >= config.critical_services) + (score >= config.critical_score)
    if upper >= 2:
        return Severity.CRITICAL
    lower = users >= config.warning_users or services >= config.warning_services or score >= config.warning_score
    return Severity.WARNING if lower else Severity.INFO


def burning(
    services: Collection[str], slos: Sequence[SloConfig], failing: Failing, event_ns: int
) -> tuple[float, Severity | None]:
    """(the highest burn rate of the last hour, the severity that the burn rates of all windows give, or None).

    A window gives its severity when both the long one and the short one burn over its rate.
    """
    most, worst = 0.0, None
    for slo in slos:
        if slo.service not in services:
            continue
        for share, long_s, short_s, severity in BURNS:
            limit = share * slo.window / long_s
            long = failing(slo.service, long_s, event_ns) / (1 - slo.objective)
            short = failing(slo.service, short_s, event_ns) / (1 - slo.objective)
            if long_s == BURNS[0][1] and math.isfinite(long):
                most = max(most, long)
            if min(long, short) >= limit:  # NaN is not
                worst = severity if worst is None else worse(worst, severity)
    return most, worst


def failing_of(findings: Iterable[Finding]) -> Failing:
    """Shares of failed requests as findings of errors tell them, where nobody counts all requests."""
    shares: dict[str, float] = {}
    for finding in findings:
        seen = finding.evidence
        if finding.channel is Channel.ERRORS and seen.unit in ("1", "ratio") and 0 <= seen.after <= 1:
            shares[finding.service] = max(shares.get(finding.service, 0.0), seen.after)
    return lambda service, over_s, event_ns: shares.get(service, math.nan)
