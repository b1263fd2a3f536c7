"""Requests to HTTP APIs of others: bearer token, timeouts, and another try for what may pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from otel_aiops.errors import AiopsError, BadInput, Overloaded, TooLarge, Unauthorized
from otel_aiops.responses.destinations import session

TIMEOUT_S = (5.0, 300.0)  # to connect; to answer, which a large backfill takes
TRIES = 5  # of a server that does not answer
PATIENCE_S = 600.0  # with one that says that it is busy; learning a large body takes it seconds
LONGEST_WAIT_S = 30.0
LONG_QUERY = 4_000  # characters; longer ones are posted
_SHOWN = 2_000  # characters of what a server said; series that match may be listed there

_backoff = wait_random_exponential(multiplier=0.5, max=LONGEST_WAIT_S)


class Busy(Overloaded):
    """The server is there, and asks to come back later."""


class Api:
    """JSON over HTTP at one base URL, which `name` calls by a word that users know."""

    def __init__(
        self, name: str, base_url: str, token: str | None = None, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise BadInput(f"{name}: expected a URL that begins with http:// or https://, got {base_url!r}")
        self._name = name
        self._base_url = base_url.rstrip("/")
        self._session = session()
        if token:
            self._session.headers["Authorization"] = f"Bearer {_read(name, token)}"
        self._sleep = sleep

    def get(self, path: str, parameters: dict[str, str]) -> Any:
        """The answer to a query; a long one is posted as a form.

        Raises: Overloaded when it does not pass, BadInput, TooLarge or Unauthorized when it never will.
        """
        if sum(map(len, parameters.values())) > LONG_QUERY:
            return self._send("POST", path, data=parameters)
        return self._send("GET", path, params=parameters)

    def post(self, path: str, body: bytes, headers: dict[str, str]) -> Any:
        """The answer to a body. Raises as `get`."""
        return self._send("POST", path, data=body, headers=headers)

    def delete(self, path: str, parameters: dict[str, str]) -> Any:
        """The answer when something is to go. Raises as `get`."""
        return self._send("DELETE", path, params=parameters)

    def text(self, path: str) -> str:
        """An answer that is no JSON, as it is. Raises as `get`."""
        found: str = self._send("GET", path, as_text=True)
        return found

    def close(self) -> None:
        """Let connections go."""
        self._session.close()

    def _send(self, method: str, path: str, **content: Any) -> Any:
        tries = Retrying(
            stop=_enough,
            wait=_wait_s,
            retry=retry_if_exception_type(Overloaded),
            sleep=self._sleep,
            reraise=True,
        )
        return tries(lambda: self._once(method, path, content))

    def _once(self, method: str, path: str, content: dict[str, Any]) -> Any:
        url, content = self._base_url + path, dict(content)
        as_text = content.pop("as_text", False)
        try:
            answer = self._session.request(method, url, timeout=TIMEOUT_S, allow_redirects=False, **content)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise Overloaded(f"{self._name}: {url} does not answer: {_why(error)}", retry_after_s=0.0) from error
        except requests.RequestException as error:
            raise BadInput(f"{self._name}: {url}: {error}") from error
        if answer.status_code >= 400:
            raise self._refusal(url, answer)
        if answer.status_code >= 300:
            where = answer.headers.get("Location", "somewhere else")[:200]
            raise BadInput(f"{self._name}: {url} leads to {where!r}: redirects are not followed, give that address")
        if as_text:
            return answer.text
        try:
            return answer.json()
        except ValueError:
            raise BadInput(f"{self._name}: expected JSON from {url}, got {answer.text[:_SHOWN]!r}") from None

    def _refusal(self, url: str, answer: requests.Response) -> AiopsError:
        """The error to raise for a status."""
        kind = ""
        try:
            tree = answer.json()
            said = str(tree.get("error") or tree) if isinstance(tree, dict) else str(tree)
            kind = str(tree.get("errorType")) if isinstance(tree, dict) else ""
        except ValueError:
            said = answer.text
        code = answer.status_code
        message = f"{self._name}: {url} answered {code}: {said[:_SHOWN]}"
        if code in (401, 403):
            return Unauthorized(message)
        if code == 413:
            return TooLarge(message)
        # Prometheus says 503 of a query that is too slow; asking again would be as slow.
        if code in (429, 503) and kind != "timeout":
            return Busy(message, retry_after_s=_seconds(answer.headers.get("Retry-After")))
        if code in (500, 502, 504):
            return Overloaded(message, retry_after_s=0.0)
        return BadInput(message)


def _read(name: str, token: str) -> str:
    """A token, or that of a file: ``@/run/secrets/token``. Raises: BadInput."""
    if not token.startswith("@"):
        return token
    try:
        return Path(token[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{name}: the file of the token cannot be read: {error}") from error


def _why(error: requests.RequestException) -> str:
    """The innermost reason: what wraps it repeats the whole URL."""
    inner = error.args[0] if error.args else error
    return str(getattr(inner, "reason", inner)).rsplit("): ", 1)[-1][:_SHOWN]


def _seconds(retry_after: str | None) -> float:
    """What a server asks to wait; 0 when it does not say, or says it as a date."""
    try:
        return max(0.0, float(retry_after or 0))
    except ValueError:
        return 0.0


def _enough(state: RetryCallState) -> bool:
    """Whether to give up."""
    if state.outcome and isinstance(state.outcome.exception(), Busy):
        return state.idle_for > PATIENCE_S
    return state.attempt_number >= TRIES


def _wait_s(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked_s = error.retry_after_s if isinstance(error, Overloaded) else 0.0
    return max(min(asked_s, LONGEST_WAIT_S), _backoff(state))
