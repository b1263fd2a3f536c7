"""The page on which people sign in, with a token or at the issuer, and how they sign out."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from otel_aiops.errors import AiopsError, BadInput, Forbidden, Overloaded, Unauthorized
from otel_aiops.server.access.access import COOKIE, Access
from otel_aiops.server.access.throttle import Slower
from otel_aiops.server.web.site import Site, back

BROWSER = "otel_aiops_signing"  # shows at the way back that it began in this browser
SIGNING_S = 600


class Signing:
    """Sign in and out."""

    def __init__(self, site: Site, access: Access) -> None:
        self._site = site
        self._access = access

    def routes(self) -> list[Route]:
        """Their addresses."""
        return [
            Route("/sign-in", self.show, methods=["GET"]),
            Route("/sign-in", self.token, methods=["POST"]),
            Route("/sign-in/issuer", self.send),
            Route("/sign-in/callback", self.receive),
            Route("/sign-out", self.leave, methods=["POST"]),
        ]

    async def show(self, request: Request) -> Response:
        """Where somebody signs in; who has signed in already goes on."""
        there = back({"back": request.query_params.get("next", "")}, "/")
        if not self._access.signs_in or request.state.identity.how:
            return RedirectResponse(there, 303)
        return self._page(request, there)

    async def token(self, request: Request) -> Response:
        """With a token."""
        fields = await self._site.fields(request)
        there, text = back(fields, "/"), fields.get("token", "")
        if not self._access.signs_in:
            raise BadInput("nobody needs to sign in here")
        address = request.client.host if request.client else ""
        try:
            cookie = await run_in_threadpool(self._access.sign_in, text, address)
        except (Unauthorized, Forbidden, Overloaded) as error:
            return self._page(request, there, error)
        return self._signed_in(request, RedirectResponse(there, 303), cookie)

    async def send(self, request: Request) -> Response:
        """To the issuer."""
        issuer = self._access.issuer
        if issuer is None:
            raise BadInput("there is no issuer in api.access.oidc")
        there = back({"back": request.query_params.get("next", "")}, "/")
        redirect = f"{request.base_url}sign-in/callback"
        try:
            place, browser = await run_in_threadpool(issuer.send, redirect, there)
        except Overloaded as error:
            return self._page(request, there, error)
        answer = RedirectResponse(place, 303, {"Cache-Control": "no-store"})
        # Lax: the way back from the issuer is a link of another site.
        answer.set_cookie(
            BROWSER, browser, max_age=SIGNING_S, path="/sign-in", httponly=True, samesite="lax", secure=_secure(request)
        )
        return answer

    async def receive(self, request: Request) -> Response:
        """From the issuer."""
        query, browser = request.query_params, request.cookies.get(BROWSER, "")
        if self._access.issuer is None:
            raise BadInput("there is no issuer in api.access.oidc")
        try:
            if "error" in query:
                raise Unauthorized(f"the issuer refused: {query['error'][:100]}")
            cookie, there = await run_in_threadpool(
                self._access.come_back, query.get("state", ""), query.get("code", ""), browser
            )
        except (Unauthorized, Forbidden, Overloaded) as error:
            if isinstance(error, Unauthorized):
                self._access.refused("issuer")
            return self._page(request, "/", error)
        # A page of our own leads on: a browser keeps a strict cookie from where another site has sent it.
        answer = self._site.page(request, "signed_in.html", "", there=there)
        answer.delete_cookie(BROWSER, path="/sign-in")
        return self._signed_in(request, answer, cookie)

    async def leave(self, request: Request) -> Response:
        """Sign out."""
        if cookie := request.cookies.get(COOKIE):
            self._access.sessions.end(cookie)
        answer = RedirectResponse("/sign-in", 303, {"Clear-Site-Data": '"cache"'})
        answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict", secure=_secure(request))
        return answer

    def _page(self, request: Request, there: str, error: AiopsError | None = None) -> Response:
        code = 200 if error is None else next(code for kind, code in _CODES if isinstance(error, kind))
        access = self._access
        return self._site.page(
            request,
            "sign_in.html",
            "",
            code=code,
            there=there,
            message=str(error) if error else "",
            tokens=access.config.tokens,
            issuer=access.config.oidc.issuer if access.config.oidc else "",
        )

    def _signed_in(self, request: Request, answer: Response, cookie: str) -> Response:
        answer.set_cookie(
            COOKIE,
            cookie,
            max_age=round(self._access.sessions.lasts_s),
            path="/",
            httponly=True,
            samesite="strict",
            secure=_secure(request),
        )
        return answer


_CODES = ((Unauthorized, 401), (Forbidden, 403), (Slower, 429), (Overloaded, 503))


def _secure(request: Request) -> bool:
    """Whether the browser speaks TLS with us."""
    return request.url.scheme == "https"
