"""Completion: asks Alertmanager for what its notifications left out, until all is known or it is too late."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from otel_aiops.errand import Errand
from otel_aiops.errors import Overloaded
from otel_aiops.incidents.cut import Cut
from otel_aiops.incidents.known import KnownAlert
from otel_aiops.incidents.others import Others
from otel_aiops.responses.http import HttpConfig, Unreachable
from otel_aiops.responses.listing import Listing, listing

if TYPE_CHECKING:
    from otel_aiops.app import Service

log = structlog.get_logger("otel_aiops")

S = 1_000_000_000
LOOK_S = 0.5
LONGEST_PAUSE_S = 60.0
GIVE_UP_S = 3_600.0
AT_ONCE = 1_000  # alerts that are written in one transaction
INCOMPLETE = "otel_aiops.alertmanager.incomplete"

Know = Callable[[Sequence[KnownAlert], str], None]  # alerts and who tells of them
Count = Callable[[str, str, int], None]  # who tells, outcome, how many


class Completion:
    """What was left out is in the journal: a crash forgets none of it. `know` writes down what is found."""

    def __init__(self, service: Service, know: Know, count: Count) -> None:
        self._service, self._know, self._count = service, know, count
        self._away: frozenset[str] = frozenset()
        failure = "what notifications left out could not be asked for; it is tried again"
        self.errand = Errand("left-out", self.look, every_s=lambda: LOOK_S, failure=failure)

    @property
    def _others(self) -> Others:
        return self._service.chronicle.journal.others

    def look(self) -> None:
        """Ask for what is due, every server of alertmanager.to. Raises: StorageError."""
        cuts = self._others.cuts
        away: dict[str, str] = {}  # a server that does not answer is not asked again in one look
        due = cuts.due(self._service.clock_ns())
        for cut in due:
            if self.errand.stopping:
                return
            self._ask(cut, away)
        for url in away.keys() - self._away:
            log.warning("a notification could not be completed; it is tried again", error=away[url])
        self._away = frozenset(away) if due else self._away
        self._service.telemetry.set(INCOMPLETE, cuts.count())

    def _ask(self, cut: Cut, away: dict[str, str]) -> None:
        servers, now_ns = self._service.config.alertmanager.to, self._service.clock_ns()
        listed = [one for server in servers if (one := self._listing(server, cut, now_ns, away)) is not None]
        alerts = _merged(listed)
        cut = replace(cut, asked=cut.asked + 1, found=max(cut.found, len(alerts.keys() - set(cut.fires))))
        taken = self._take(cut, list(alerts.values()))
        there = frozenset().union(*(one.there for one in listed))
        told = len(listed) == len(servers) and all(one.settled for one in listed)
        if servers and taken and told and _know_it(cut, there):
            self._complete(cut, there, now_ns)
        elif not servers or now_ns - cut.since_ns >= GIVE_UP_S * S:
            self._give_up(cut, f"{len(listed)} of {len(servers)}")
        else:
            pause_s = min(2.0 ** min(cut.asked - 1, 10), LONGEST_PAUSE_S)
            self._others.cuts.later(cut, now_ns + round(pause_s * S))

    def _listing(self, server: HttpConfig, cut: Cut, now_ns: int, away: dict[str, str]) -> Listing | None:
        if server.url in away:
            return None
        try:
            return listing(server, cut, now_ns, stopping=lambda: self.errand.stopping)
        except Unreachable as error:
            away[server.url] = str(error)
            return None

    def _take(self, cut: Cut, alerts: list[KnownAlert]) -> bool:
        """Write down what was found; False where too many wait, then the rest is taken the next time."""
        try:
            for first in range(0, len(alerts), AT_ONCE):
                self._know(alerts[first : first + AT_ONCE], cut.sender)
        except Overloaded:
            return False
        return True

    def _complete(self, cut: Cut, there: frozenset[str], asked_ns: int) -> None:
        """All that fires is known, and what was left out besides has ended: Alertmanager tells that once only.

        So what we know as firing in the group, and no server lists, silenced or not, has ended too.
        """
        firing = self._others.firing(cut.group, before_ns=asked_ns)
        gone = [one for one in firing if one.fingerprint not in there]
        if self._take(cut, [replace(one, status="resolved", ends_ns=max(asked_ns, one.starts_ns)) for one in gone]):
            self._others.cuts.over(cut)
            self._count(cut.sender, "ended", max(cut.number - cut.found, 0))

    def _give_up(self, cut: Cut, answered: str) -> None:
        lost = max(cut.number - cut.found, 0)
        self._others.cuts.over(cut)
        self._count(cut.sender, "lost", lost)
        about = {"group": cut.group, "found": cut.found, "answered": answered}
        if lost:
            said = "alerts that a notification left out are lost: the servers of alertmanager.to did not tell of all"
            log.warning(said, alerts=lost, **about)
        else:
            log.info(
                "as many alerts as a notification left out were found; not every server of alertmanager.to told",
                **about,
            )


def _know_it(cut: Cut, there: frozenset[str]) -> bool:
    """Whether servers that list these know the group, and are not others than the one that told of it."""
    return cut.over or (not there.isdisjoint(cut.fires) if cut.fires else bool(there))


def _merged(listed: Sequence[Listing]) -> dict[str, KnownAlert]:
    """The alerts of all servers by fingerprint, each with its earliest start."""
    found: dict[str, KnownAlert] = {}
    for alert in (alert for one in listed for alert in one.alerts):
        known = found.get(alert.fingerprint)
        if known is None or alert.starts_ns < known.starts_ns:
            found[alert.fingerprint] = alert
    return found
