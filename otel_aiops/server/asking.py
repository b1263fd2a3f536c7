"""What a request to the API asks for: numbers and texts of its query, its page of a list, and its body, checked."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from otel_aiops.errors import BadInput, TooLarge, WrongType

PAGE: Final = 100  # entries of a list that are told unless another number is asked for
MOST: Final = 1_000  # of one answer
FURTHEST: Final = 10_000_000  # entries that may be passed over
DEEPEST: Final = 50  # levels of lists and objects in a body
BODY_S: Final = 30.0  # in which a body must come
JSON: Final = re.compile(r"application/(?:[\w.-]+\+)?json\s*(?:;.*)?", re.IGNORECASE | re.ASCII)
_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # what neither UTF-8 nor a database can hold
_ESCAPED = re.compile(rb"\\u(?:0000|[dD][89a-fA-F])")


@dataclass(frozen=True, slots=True)
class Page:
    """The part of a list that is asked for: at most `limit` entries after the first `offset`."""

    limit: int
    offset: int

    def of(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """An answer that is this page of a list of `total` entries, with where the next one begins, if any."""
        end = self.offset + self.limit
        return {**found, "next": end if self.limit and end < found["total"] else None}

    def cut(self, found: Mapping[str, Any], key: str) -> dict[str, Any]:
        """The same of an answer with the whole list."""
        rows = found[key]
        return self.of({**found, key: rows[self.offset : self.offset + self.limit], "total": len(rows)})


def page(request: Request, *, limit: int = PAGE, most: int = MOST) -> Page:
    """Which part of a list is wanted. Raises: BadInput."""
    return Page(integer(request, "limit", limit, most), integer(request, "offset", 0, FURTHEST))


def wants_page(request: Request) -> bool:
    """Whether a browser asks, for a person."""
    return "text/html" in request.headers.get("accept", "")


def required(request: Request, name: str) -> str:
    """A text of the query. Raises: BadInput."""
    value = request.query_params.get(name)
    if not value:
        raise BadInput(f"{name}: expected a value, got none")
    return value


def integer(request: Request, name: str, default: int, largest: int, *, least: int = 0) -> int:
    """A whole number of the query. Raises: BadInput."""
    value = request.query_params.get(name)
    if value is None:
        return default
    try:
        number = int(value if value.isascii() else "")
    except ValueError:
        raise BadInput(f"{name}: expected a whole number, got {value[:100]!r}") from None
    if number < least:
        raise BadInput(f"{name}: expected at least {least}, got {number}")
    if number > largest:
        raise BadInput(f"{name}: expected at most {largest}, got {number}")
    return number


async def posted(request: Request, most_bytes: int) -> bytes:
    """The body, which must come within some time. Raises: TooLarge, HTTPException."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most_bytes:
                    raise TooLarge(f"body is larger than {most_bytes} bytes")
    except TimeoutError:
        message = f"expected the whole body within {BODY_S:g} s, got {len(body)} bytes"
        raise HTTPException(408, message, {"Connection": "close"}) from None
    except ClientDisconnect:
        raise HTTPException(400, "the connection ended within the body") from None
    return bytes(body)


def in_own_name(request: Request, asked: Any, key: str = "who") -> Any:
    """What is asked, by whoever has signed in; what it says of that itself counts only where nobody must."""
    user = str(getattr(request.state, "user", ""))
    if not user:
        return asked
    if isinstance(asked, list):
        return [in_own_name(request, one, key) for one in asked]
    return {**asked, key: user} if isinstance(asked, dict) else asked


async def posted_json(request: Request, most_bytes: int, what: str) -> Any:
    """The body as plain values; `what` says in an error what was expected. Raises: BadInput, TooLarge, WrongType."""
    check_type(request, what)
    return await run_in_threadpool(plain, await posted(request, most_bytes), what)


def check_type(request: Request, what: str) -> None:
    """See that a body is JSON as it is; who says nothing of it sends that. Raises: WrongType."""
    kind = request.headers.get("content-type", "application/json")
    if not JSON.fullmatch(kind.strip()):
        raise WrongType(f"expected {what} as application/json, got {kind[:100]!r}")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise WrongType(f"expected {what} without Content-Encoding, got {encoding[:100]!r}")


def plain(body: bytes, what: str) -> Any:
    """JSON as plain values that can be kept and told again: finite numbers, texts without NUL. Raises: BadInput."""
    try:
        tree = json.loads(body, parse_constant=_refuse, parse_float=_finite)
        if body.count(b"[") + body.count(b"{") > DEEPEST:
            _check_depth(tree)
        if _ESCAPED.search(body) or b"\0" in body:
            check_texts(tree)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"expected {what} as JSON: {error}") from error
    return tree


def check_texts(tree: Any) -> None:
    """See that every text can be written down. Raises: ValueError."""
    left = [tree]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left += [*one, *one.values()]
        elif isinstance(one, list):
            left += one
        elif isinstance(one, str) and _NO_TEXT.search(one):
            raise ValueError(f"expected texts without NUL and halves of characters, got {one[:100]!r}")


def _check_depth(tree: Any) -> None:
    level = [tree] if isinstance(tree, dict | list) else []
    for _ in range(DEEPEST):
        level = [below for one in level for below in (one.values() if isinstance(one, dict) else one)]
        level = [one for one in level if isinstance(one, dict | list)]
        if not level:
            return
    raise ValueError(f"expected at most {DEEPEST} levels of lists and objects")


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"expected finite numbers, got {name}")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _refuse(text[:100])
    return number
