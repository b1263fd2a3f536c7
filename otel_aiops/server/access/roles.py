"""Roles: what each may do, which role every route of the API and the page asks for, and who somebody is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from starlette.routing import BaseRoute, Match, Route
from starlette.types import Scope


class Role(StrEnum):
    """From the least to the most; each may do what those before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"


MAY: Final[Mapping[Role, str]] = {
    Role.VIEWER: "look at everything but tokens",
    Role.OPERATOR: "give verdicts, acknowledge and resolve incidents, silence, announce work, score, test playbooks",
    Role.APPROVER: "approve and refuse what responses wait with, stop and resume all responses",
    Role.ADMIN: "change which model serves, run the lifecycle, backfill, give tokens",
}
_ORDER: Final = tuple(Role)

PROBE: Final = "probe"  # anybody: orchestrators ask without credentials
SIGNING: Final = "signing"  # what signing in needs: anybody, where people sign in on the page
ITSELF: Final = "itself"  # the route sees to it itself: who tells of alerts may sign instead
Need = Role | str

# Every route, once. One that is not here is for admins, and a test fails.
NEEDS: Final[Mapping[Need, str]] = {
    PROBE: "GET /-/healthy, GET /-/ready",
    SIGNING: """
        GET /sign-in, POST /sign-in, POST /sign-out, GET /sign-in/issuer, GET /sign-in/callback, GET /static/{name}
    """,
    ITSELF: "POST /api/v1/webhooks/alertmanager, POST /api/v1/webhooks/grafana",
    Role.VIEWER: """
        GET /, GET /live, GET /metrics, GET /api/v1/openapi.json, GET /api/v1/me,
        GET /incidents, GET /incidents/{id}, GET /series, GET /series/{fingerprint}, GET /series/{fingerprint}/plot,
        GET /series/{fingerprint}/forecast, GET /objectives, GET /objectives/{name}, GET /models, GET /models/{id},
        GET /feedback, GET /system, GET /responses, GET /responses/{id}, GET /incidents/{id}/playbooks, GET /silences,
        GET /runbooks, GET /runbooks/{name},
        GET /api/v1/status, GET /api/v1/anomalies, GET /api/v1/alerts, GET /api/v1/budgets, GET /api/v1/objectives,
        GET /api/v1/objectives/{name}, GET /api/v1/verdicts, GET /api/v1/services, GET /api/v1/quality,
        GET /api/v1/series, GET /api/v1/series/{fingerprint}, GET /api/v1/explain, GET /api/v1/forecast,
        GET /api/v1/selftest, GET /api/v1/datasets, GET /api/v1/datasets/{id},
        GET /api/v1/incidents, GET /api/v1/incidents/{id}, GET /api/v1/incidents/{id}/timeline,
        GET /api/v1/incidents/{id}/report, GET /api/v1/silences, GET /api/v1/maintenance, GET /api/v1/predictions,
        GET /api/v1/precursors, GET /api/v1/service-graph, GET /api/v1/deployments, GET /api/v1/advice,
        GET /api/v1/models, GET /api/v1/models/health, GET /api/v1/models/{id}, GET /api/v1/models/{id}/report,
        GET /api/v1/rollout, GET /api/v1/rollout/history, GET /api/v1/lifecycle/runs,
        GET /api/v1/feedback/queue, GET /api/v1/audit,
        GET /api/v1/playbooks, GET /api/v1/responses, GET /api/v1/responses/{id}, GET /api/v1/responses/audit,
        GET /api/v1/known-alerts
    """,
    Role.OPERATOR: """
        POST /incidents/{id}/silence, POST /silences, POST /silences/end, POST /api/v1/incidents/{id}/silence,
        POST /incidents/{id}/mark, POST /incidents/{id}/verdict, POST /series/{fingerprint}/verdict,
        POST /api/v1/incidents/{id}, POST /api/v1/incidents/{id}/verdict, POST /api/v1/verdicts,
        POST /api/v1/silences, DELETE /api/v1/silences/{name},
        POST /api/v1/maintenance, DELETE /api/v1/maintenance/{name},
        POST /api/v1/score, POST /api/v1/playbooks/test
    """,
    Role.APPROVER: """
        POST /responses/{id}/vote, POST /responses/switch,
        POST /api/v1/responses/{id}/approve, POST /api/v1/responses/{id}/refuse,
        POST /api/v1/responses/stop, POST /api/v1/responses/resume
    """,
    Role.ADMIN: """
        POST /models/roll, POST /models/save, POST /models/run,
        POST /api/v1/models, POST /api/v1/rollout, POST /api/v1/lifecycle/runs, POST /api/v1/backfill,
        GET /api/v1/tokens, POST /api/v1/tokens, POST /api/v1/tokens/{id}/rotate, DELETE /api/v1/tokens/{id}
    """,
}


def listed() -> dict[str, list[Need]]:
    """Every route of the table, as in ``GET /metrics``, with all that it stands under."""
    found: dict[str, list[Need]] = {}
    for need, routes in NEEDS.items():
        for route in routes.split(","):
            found.setdefault(" ".join(route.split()), []).append(need)
    return found


_NEED: Final = {route: needs[0] for route, needs in listed().items()}


class Needs:
    """Which role a request asks for, by the route that will answer it."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._routes = [route for route in routes if isinstance(route, Route)]

    def of(self, scope: Scope) -> Need:
        """Of a request; what no route answers may be asked by whoever may look."""
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        for route in self._routes:
            if route.matches(scope)[0] is Match.FULL:
                return _NEED.get(f"{method} {route.path}", Role.ADMIN)
        return Role.VIEWER

    def sending(self, path: str) -> Need:
        """Of sending a form to an address."""
        return self.of({"type": "http", "method": "POST", "path": path, "root_path": "", "headers": []})


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who asks. `name` is "" where nobody signed in, or where what was shown names nobody."""

    name: str = ""
    role: Role | None = None
    how: str = ""  # token, program, password, shared, issuer, certificate; "" of who shows nothing
    paths: tuple[str, ...] = ()  # only below these; none is everywhere

    def may(self, need: Need) -> bool:
        """Whether a route that asks for a role lets this one in."""
        if not isinstance(need, Role):
            return True
        return self.role is not None and _ORDER.index(self.role) >= _ORDER.index(need)

    def reaches(self, path: str) -> bool:
        """Whether a path is one of those that this one is limited to.

        >>> Identity(paths=("/metrics",)).reaches("/metrics"), Identity(paths=("/api",)).reaches("/apis")
        (True, False)
        """
        return not self.paths or any(f"{path}/".startswith(f"{one.rstrip('/')}/") for one in self.paths)


NOBODY: Final = Identity()
EVERYBODY: Final = Identity(role=Role.ADMIN)  # where nobody must sign in


def highest(roles: Iterable[Role]) -> Role | None:
    """The one that may most; None of none."""
    return max(roles, key=_ORDER.index, default=None)
