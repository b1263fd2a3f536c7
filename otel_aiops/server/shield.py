"""Shield: no other site may act through somebody's browser, frame what we show, or have it run anything."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# Nothing that stands in a page runs, and nothing comes from elsewhere.
POLICY: Final = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers send no Origin with our own forms
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Shield:
    """Refuses what changes something and was sent by another site; adds headers that an answer has not set itself."""

    def __init__(
        self, app: ASGIApp, hosts: Collection[str] | None = None, refused: Callable[[str], None] = lambda reason: None
    ) -> None:
        """`hosts` are all names by which it may be asked, besides addresses and localhost; None is any."""
        self._app, self._hosts, self._refused = app, hosts, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def shielded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        if self._hosts is not None and (why := unknown_host(headers.get("host"), self._hosts)):
            self._refused("host")
            await JSONResponse({"error": why}, 421)(scope, receive, shielded)
        elif scope["method"] not in SAFE and (why := foreign(headers)):
            self._refused("origin")
            await JSONResponse({"error": why}, 403)(scope, receive, shielded)
        else:
            await self._app(scope, receive, shielded)


def unknown_host(host: str | None, hosts: Collection[str]) -> str:
    """Why a request was meant for another host, "" where it was not.

    The owner of a name can let it lead to this machine, and then a page under that name may read what we say to it.
    Nobody can do that with an address, or with localhost.

    >>> unknown_host("[::1]:9464", ()), unknown_host("Aiops.example:9464", ("aiops.example",)), unknown_host(None, ())
    ('', '', '')
    >>> unknown_host("evil.example:9464", ("aiops.example",))
    "expected one of the hosts aiops.example, localhost or an address, got 'evil.example'; see api.hosts"
    """
    if host is None:  # no browser leaves it out
        return ""
    name = host
    try:
        name = urlsplit(f"//{host}").hostname or host
        if name == "localhost" or name in hosts or ipaddress.ip_address(name):
            return ""
    except ValueError:  # no host, or a name that is none of ours
        pass
    known = ", ".join((*sorted(hosts), "localhost"))
    return f"expected one of the hosts {known} or an address, got {name[:200]!r}; see api.hosts"


def foreign(headers: Headers) -> str:
    """Why a request comes from another site, "" where it does not; who is no browser says nothing of it.

    >>> foreign(Headers({"host": "a:1", "origin": "http://a:1"})), foreign(Headers({"host": "a:1"}))
    ('', '')
    >>> foreign(Headers({"host": "a:1", "origin": "http://b"}))
    'expected a request from this site, got one from http://b'
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:  # browsers tell it, and no page can change it
        same = site in ("same-origin", "none")
    else:
        same = origin is None or urlsplit(origin).netloc == headers.get("host")
    return "" if same else f"expected a request from this site, got one from {(origin or site or '')[:200]}"
