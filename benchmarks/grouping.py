"""Grouping: ten thousand open findings, and a storm of a hundred thousand, against looking at all pairs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from benchmarks.table import Row, best_s, show
from otel_aiops.incidents.group import GroupConfig, Groups
from otel_aiops.incidents.incident import Channel, Evidence, Finding, Incident, Suspect
from otel_aiops.incidents.incidents import Incidents, IncidentsConfig

S = 1_000_000_000
T0 = 1_700_000_000 * S
SERVICES = 300
OPEN = 10_000
STORM = 100_000
STORM_STEPS = 12  # five seconds each
NAIVE = 2_000  # findings for the peer, which needs their square


class Tree:
    """A service graph in which each service calls three."""

    def __init__(self) -> None:
        names = [f"s{n}" for n in range(SERVICES)]
        self._callers = {name: [names[n // 3]] if n else [] for n, name in enumerate(names)}
        self._callees = {name: names[max(3 * n, 1) : 3 * n + 3] for n, name in enumerate(names)}

    def callers(self, service: str) -> Sequence[str]:
        """Who calls it."""
        return self._callers[service]

    def callees(self, service: str) -> Sequence[str]:
        """Whom it calls."""
        return self._callees[service]


def found(count: int, over_s: int, last_s: int) -> list[Finding]:
    """Open findings of all services that begin within a time."""
    findings = []
    for n in range(count):
        service, start_ns = f"s{n % SERVICES}", T0 + (n * 7_919) % over_s * S
        seen = Evidence(
            channel=Channel.LATENCY,
            service=service,
            what=f"op{n}",
            before=0.1,
            after=1.0,
            unit="s",
            resource=f"pod-{n % 900}",
        )
        findings.append(
            Finding(
                key=f"latency|{service}|op{n}",
                service=service,
                channel=Channel.LATENCY,
                start_ns=start_ns,
                last_ns=max(start_ns, T0 + last_s * S),
                evidence=seen,
            )
        )
    return findings


def group(findings: Sequence[Finding]) -> int:
    """How many incidents they are."""
    groups = Groups(GroupConfig(), Tree())
    groups.add(findings, T0)
    return len(groups.settle())


def naive(findings: Sequence[Finding]) -> int:
    """The same by looking at all pairs, with what is near looked up once."""
    tree, config = Tree(), GroupConfig()
    names = {finding.service for finding in findings}
    near = {}
    for name in names:
        one = {name, *tree.callers(name), *tree.callees(name)}
        near[name] = {other for service in one for other in (service, *tree.callers(service), *tree.callees(service))}
    boss = list(range(len(findings)))

    def root(n: int) -> int:
        while boss[n] != n:
            boss[n] = n = boss[boss[n]]
        return n

    for n, a in enumerate(findings):
        for m in range(n):
            b = findings[m]
            alike = b.service in near[a.service] or a.evidence.resource == b.evidence.resource
            if alike and max(a.start_ns, b.start_ns) - min(a.last_ns, b.last_ns) <= config.join * S:
                boss[root(n)] = root(m)
    return sum(root(n) == n for n in range(len(findings)))


def grouping() -> Iterator[Row]:
    """Findings at once, from nothing; seconds for ten thousand."""
    few = found(NAIVE, 86_400, 0)
    if group(few) != naive(few):
        raise AssertionError("the two ways differ")
    peer_s = best_s(lambda: naive(few), 1) * (OPEN / NAIVE) ** 2
    for title, over_s, last_s in (("over a day", 86_400, 0), ("in ten minutes", 600, 600)):
        findings = found(OPEN, over_s, last_s)
        ours_s = best_s(lambda findings=findings: group(findings), 3)  # type: ignore[misc]
        yield Row(f"group {OPEN:,} open findings that began {title}", ours_s, peer_s, "s", "all pairs, scaled", "less")


def storming() -> Iterator[Row]:
    """A minute of storm in steps of five seconds: seconds in all, and of the longest step."""
    storm = found(STORM, 60, 60)

    def rank(incident: Incident, event_ns: int) -> tuple[Suspect, ...]:
        return ()

    incidents = Incidents(IncidentsConfig(), graph=Tree(), rank=rank)
    steps = []
    last: dict[str, Incident] = {}
    for step in range(STORM_STEPS):
        start = time.perf_counter()
        told = incidents.update(storm[step::STORM_STEPS], T0 + (step + 1) * 5 * S)
        steps.append(time.perf_counter() - start)
        last.update((incident.id, incident) for incident in told)
    told = incidents.step(T0 + 70 * S)
    last.update((incident.id, incident) for incident in told)
    lost = STORM - sum(len(one.findings) + one.more_findings for one in last.values() if not one.merged_into)
    yield Row(f"a storm of {STORM:,} findings in a minute, whole", sum(steps), 60.0, "s", "the minute", "less")
    yield Row("  its longest step of five seconds", max(steps), 5.0, "s", "the five seconds", "less")
    yield Row("  findings lost", float(lost), 0.0, "findings", "none")
    start = time.perf_counter()
    size = incidents.state()["incidents"].nbytes / 1e6
    yield Row(f"  saving its state, {size:.0f} MB", time.perf_counter() - start, 0.0, "s", "none")


def run() -> Iterator[Row]:
    """All of it."""
    yield from grouping()
    yield from storming()


if __name__ == "__main__":
    show(run())
