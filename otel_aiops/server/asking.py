"""What a request to the API asks for: numbers and texts of its query, and its body, checked."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request

from otel_aiops.errors import BadInput, TooLarge


def wants_page(request: Request) -> bool:
    """Whether a browser asks, for a person."""
    return "text/html" in request.headers.get("accept", "")


def required(request: Request, name: str) -> str:
    """A text of the query. Raises: BadInput."""
    value = request.query_params.get(name)
    if not value:
        raise BadInput(f"{name}: expected a value, got none")
    return value


def integer(request: Request, name: str, default: int, largest: int, *, least: int = -1) -> int:
    """A whole number of the query. Raises: BadInput."""
    value = request.query_params.get(name)
    if value is None:
        return default
    try:
        number = int(value)
    except ValueError:
        raise BadInput(f"{name}: expected a whole number, got {value[:100]!r}") from None
    if number < least:
        raise BadInput(f"{name}: expected at least {least}, got {number}")
    if number > largest:
        raise BadInput(f"{name}: expected at most {largest}, got {number}")
    return number


async def posted(request: Request, most_bytes: int) -> bytes:
    """The body. Raises: TooLarge."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most_bytes:
            raise TooLarge(f"body is larger than {most_bytes} bytes")
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
    """The body as plain values; `what` says in an error what was expected. Raises: BadInput, TooLarge."""
    try:
        return json.loads(await posted(request, most_bytes))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"expected {what} as JSON: {error}") from error
