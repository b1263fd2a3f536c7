"""Site: what all pages share, from asking the backend to rendering, forms, and who somebody is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, quote, unquote, urlencode

from markupsafe import Markup
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from otel_aiops.errors import BadInput
from otel_aiops.server.access.roles import NOBODY, Identity, Needs
from otel_aiops.server.access.sessions import Session
from otel_aiops.server.asking import posted
from otel_aiops.server.web.deeds import SHOWN_STEPS, bounded, deed, guarded, matching
from otel_aiops.server.web.render import environment

T = TypeVar("T")

FORM_BYTES: Final = 64 << 10
NAME_COOKIE, THEME_COOKIE = "otel_aiops_name", "otel_aiops_theme"
YEAR_S: Final = 31_536_000
LONGEST_NAME: Final = 100
THEMES: Final = ("light", "dark")
FORM: Final = re.compile(r'<form method="post"[^>]*>')
SECTIONS: Final = (
    ("overview", "/", "Overview"),
    ("incidents", "/incidents", "Incidents"),
    ("series", "/series", "Series"),
    ("objectives", "/objectives", "Objectives"),
    ("models", "/models", "Models"),
    ("responses", "/responses", "Responses"),
    ("silences", "/silences", "Silences"),
    ("feedback", "/feedback", "Feedback"),
    ("system", "/system", "Data and self"),
)
FIGURES: Final = {
    "precision": "precision",
    "recall": "recall",
    "covered": "covered",
    "delay_s": "delay in s",
    "false_a_week": "false a week",
    "fault_recall": "faults found",
    "calibration_error": "calibration error",
    "cases_wrong": "cases wrong",
    "us_per_point": "µs a point",
}  # of a report, those that are asked for first
SAID: Final = {
    "acknowledge": "The incident is acknowledged.",
    "resolve": "The incident is resolved.",
    "reopen": "The incident is open again.",
    "silence": "The silence holds.",
    "maintenance": "The maintenance window holds.",
    "unsilence": "It has ended.",
    "approve": "Your approval is kept.",
    "refuse": "It is refused.",
    "halt": "All responses are stopped.",
    "resume": "Responses go on.",
    "verdict": "The verdict is kept; thresholds, labels and cases follow.",
    "shadow": "The version runs beside the champion now.",
    "canary": "The version serves a share of the series now.",
    "promote": "The version is the champion now.",
    "rollback": "The version before serves again.",
    "stop": "The version beside the champion has stopped.",
    "save": "What serves is registered as a version.",
    "run": "A run of the lifecycle begins in a moment.",
}  # what was done, by a word that stands in an address: no text of an address is shown


class Site:
    """Renders pages; every question to the backend is asked in a thread."""

    def __init__(self, *, signs_in: bool = False) -> None:
        """`signs_in` says that there is a page for it; `needs` is set when all routes are known."""
        self._templates = environment()
        self._signs_in = signs_in
        self.needs = Needs(())
        self._templates.filters |= {"deed": deed, "matching": matching, "guarded": guarded, "bounded": bounded}
        self._templates.globals |= {"SHOWN_STEPS": SHOWN_STEPS, "FIGURES": FIGURES}

    async def ask(self, question: Callable[[], T]) -> T:
        """Ask the backend without holding the event loop."""
        return await run_in_threadpool(question)

    def page(self, request: Request, template: str, section: str, *, code: int = 200, **values: Any) -> Response:
        """A page; nobody keeps it, because it shows what is now."""
        theme = request.cookies.get(THEME_COOKIE, "")
        shared = {
            "section": section,
            "sections": SECTIONS,
            "theme": theme if theme in THEMES else "",
            "said": SAID.get(request.query_params.get("done", ""), ""),
            "user": user_of(request),
            "identity": identity_of(request),
            "session": session_of(request),
            "signs_in": self._signs_in,
            "may": lambda address: identity_of(request).may(self.needs.sending(address)),
            "who": self.name_of(request),
            "path": request.url.path,
        }
        text = self._templates.get_template(template).render(shared | {"code": code} | values)
        text, headers = self._sealed(request, text), {"Cache-Control": "no-store"}
        return HTMLResponse(text.encode("utf-8", "replace"), code, headers)  # senders may use letters that are none

    def _sealed(self, request: Request, text: str) -> str:
        """A page in whose forms stands what no other site knows. What senders name is escaped: no form is theirs."""
        session = session_of(request)
        if session is None:
            return text
        field = Markup('<input type="hidden" name="csrf" value="{}">').format(session.csrf)
        return FORM.sub(lambda found: found[0] + str(field), text)

    def part(self, template: str, **values: Any) -> Response:
        """A part of a page that the script asks for."""
        text = self._templates.get_template(template).render(values)
        return HTMLResponse(text.encode("utf-8", "replace"), headers={"Cache-Control": "no-store"})

    def problem(self, request: Request, status: int, message: str) -> Response:
        """What went wrong, as a page."""
        return self.page(request, "problem.html", "", code=status, message=message)

    def name_of(self, request: Request) -> str:
        """Who is at the browser: the user who has signed in, else the name that was given once."""
        return user_of(request) or unquote(request.cookies.get(NAME_COOKIE, ""))[:LONGEST_NAME]

    async def fields(self, request: Request) -> dict[str, str]:
        """The fields of a form. Raises: BadInput, TooLarge."""
        body = await posted(request, FORM_BYTES)
        try:
            found = parse_qs(body.decode("ascii"), errors="strict", max_num_fields=100)
        except ValueError as error:
            raise BadInput(f"expected the fields of a form: {error}") from error
        return {key: values[-1].strip() for key, values in found.items()}

    async def form(self, request: Request) -> dict[str, str]:
        """The fields of a form, `who` among them as it is known here. Raises: BadInput, TooLarge."""
        fields = await self.fields(request)
        fields["who"] = user_of(request) or fields.get("who", "")[:LONGEST_NAME] or self.name_of(request)
        if not fields["who"]:
            raise BadInput("who: expected your name, so that others know who decided")
        return fields

    def done(self, request: Request, fields: Mapping[str, str], path: str, what: str) -> Response:
        """Back to a page, which says what was done; the name is remembered in this browser."""
        answer = RedirectResponse(f"{path}?{urlencode({'done': what})}", 303)
        if not user_of(request):
            answer.set_cookie(
                NAME_COOKIE,
                quote(fields["who"]),
                max_age=YEAR_S,
                httponly=True,
                samesite="strict",
                secure=request.url.scheme == "https",
            )
        return answer


def user_of(request: Request) -> str:
    """Who has signed in, "" where nobody must."""
    return str(getattr(request.state, "user", ""))


def identity_of(request: Request) -> Identity:
    """Who asks, and as which role."""
    found: Identity = getattr(request.state, "identity", NOBODY)
    return found


def session_of(request: Request) -> Session | None:
    """The session of who has signed in on the page."""
    found: Session | None = getattr(request.state, "session", None)
    return found


def back(fields: Mapping[str, str], default: str) -> str:
    """The page of ours that a form was sent from.

    >>> back({"back": "/feedback"}, "/"), back({"back": "//evil.example"}, "/"), back({}, "/")
    ('/feedback', '/', '/')
    """
    path = fields.get("back", "")
    ours = path.startswith("/") and not path.startswith("//") and not set(path) & set("\\\r\n?#")
    return quote(path, safe="/%") if ours else default
