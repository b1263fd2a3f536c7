"""Gate: lets a request in whose sender may ask for what it asks, and writes down who that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs, urlencode

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from otel_aiops.errors import AiopsError, Forbidden, Overloaded, TooLarge, Unauthorized
from otel_aiops.server.access.access import Access
from otel_aiops.server.access.roles import EVERYBODY, NOBODY, PROBE, SIGNING, Identity, Need, Needs, Role
from otel_aiops.server.access.sessions import Session, sealed
from otel_aiops.server.access.throttle import Slower
from otel_aiops.server.asking import posted, wants_page
from otel_aiops.server.shield import SAFE

SEAL: Final = "X-CSRF-Token"  # of who has no form
FIELD: Final = "csrf"  # of a form
FORM_BYTES: Final = 64 << 10
Tell = Callable[[Request, int, str], Response]  # a page that says what is wrong

_log = structlog.get_logger(__name__)


class Gate:
    """Asks for what the table of roles says; `request.state` has `identity`, `user` and `session` behind it."""

    def __init__(self, app: ASGIApp, access: Access, needs: Needs, tell: Tell) -> None:
        self._app, self._access, self._needs, self._tell = app, access, needs, tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        need = self._need(request)
        _write(request, NOBODY, None)
        try:
            identity, session = await self._who(request, need)
            _write(request, identity, session)
            self._let_in(request, identity, need)
            if session is not None and request.method not in SAFE:
                receive = await self._own_form(request, session)
        except AiopsError as error:
            await self._refuse(request, error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _need(self, request: Request) -> Need:
        if request.url.path == "/" and not wants_page(request):
            return PROBE
        need = self._needs.of(request.scope)
        return Role.VIEWER if need == SIGNING and not self._access.signs_in else need

    async def _who(self, request: Request, need: Need) -> tuple[Identity, Session | None]:
        if self._access.open:
            return EVERYBODY, None
        if need == PROBE:
            return NOBODY, None
        try:
            return await run_in_threadpool(self._access.identify, request)
        except (Unauthorized, Overloaded):
            if need == SIGNING:  # who shows something that is no good any more signs in again
                return NOBODY, None
            raise

    def _let_in(self, request: Request, identity: Identity, need: Need) -> None:
        """Raises: Unauthorized, Forbidden."""
        path, refused = request.url.path, self._access.refused
        if not identity.may(need):
            if identity.how:
                refused("role")
                role = identity.role or "no role"
                raise Forbidden(f"expected the role {need} or one above it, {identity.name or 'you'} has {role}")
            refused("missing")
            raise Unauthorized(f"expected an Authorization header ({self._access.challenge}), got none")
        if need != PROBE and not identity.reaches(path):
            refused("path")
            raise Forbidden(f"expected a path below {', '.join(identity.paths)}, which the token is limited to")

    async def _own_form(self, request: Request, session: Session) -> Receive:
        """The body once more, which only our own pages can have sent: a browser shows the cookie for any site.

        Raises: Forbidden, TooLarge.
        """
        shown = request.headers.get(SEAL)
        if shown is None:
            body = await posted(request, FORM_BYTES)
            fields = _fields(body)
            shown, receive = fields.get(FIELD, [""])[-1], _again(body, request.receive)
        else:
            receive = request.receive
        if not sealed(session, shown):
            self._access.refused("csrf")
            raise Forbidden("expected a form of this page; load the page again and send it once more")
        return receive

    def _refuse(self, request: Request, error: AiopsError) -> Response:
        path, said = request.url.path, str(error)
        status = next(status for kind, status in _STATUS if isinstance(error, kind))
        _log.debug("refused", status=status, path=path, why=said)
        page = wants_page(request) and not path.startswith("/api/")
        if status == 401 and page and self._access.signs_in:
            query = {"next": path} if request.method in SAFE and path != "/" else {}
            return RedirectResponse("/sign-in" + (f"?{urlencode(query)}" if query else ""), 303)
        headers = {"WWW-Authenticate": self._access.challenge} if status == 401 else {}
        if isinstance(error, Overloaded):
            headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
        if page and status != 401:
            answer = self._tell(request, status, said)
            answer.headers.update(headers)
            return answer
        return JSONResponse({"error": said}, status, headers)


_STATUS: Final = (
    (Unauthorized, 401),
    (Forbidden, 403),
    (TooLarge, 413),
    (Slower, 429),
    (Overloaded, 503),
    (AiopsError, 500),
)


def _write(request: Request, identity: Identity, session: Session | None) -> None:
    request.state.identity, request.state.user, request.state.session = identity, identity.name, session


def _fields(body: bytes) -> dict[str, list[str]]:
    try:
        return parse_qs(body.decode("ascii"), max_num_fields=100)
    except ValueError:
        return {}


def _again(body: bytes, rest: Receive) -> Receive:
    """What receives a body that was read already, and then whatever comes."""
    told = False

    async def receive() -> Message:
        nonlocal told
        if told:
            return await rest()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
