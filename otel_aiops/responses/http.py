"""Requests to addresses of the configuration: bounded, retried, signed; redirects are not followed."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from otel_aiops.errors import ConfigError
from otel_aiops.responses.order import Ended, Outcome

MOST_BYTES = 64 << 10  # of an answer
SHOWN = 500  # characters of an answer in a sentence
LONGEST_WAIT_S = 10.0
LATER = frozenset({408, 425, 429, 500, 502, 503, 504})  # answers after which another try may succeed
NOT_TAKEN = frozenset({425, 429, 503})  # answers that say that nothing was done
HIDDEN = frozenset({408, 502, 504})  # answers that do not say what was done


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpConfig:
    """How an address is asked."""

    url: str = field(default="", repr=False)  # http:// or https://; redirects are not followed
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # sent with every request, as Authorization
    timeout: float = 10.0  # s that an answer may take
    attempts: int = 4  # at most, where another one may succeed
    ca_file: str = ""  # certificates of authorities to trust instead of those of the system
    cert_file: str = ""  # our certificate, where the server asks for one
    key_file: str = ""  # its key
    username: str = ""  # for basic authentication
    password: str = field(default="", repr=False)  # of `username`

    def __post_init__(self) -> None:
        check_url(self.url)
        if not 0 < self.timeout <= 300:
            raise ConfigError("timeout", f"must be in (0, 300] s, got {self.timeout}")
        if not 1 <= self.attempts <= 10:
            raise ConfigError("attempts", f"must be 1 to 10, got {self.attempts}")
        for one, other in (("cert_file", "key_file"), ("username", "password")):
            if bool(getattr(self, one)) != bool(getattr(self, other)):
                raise ConfigError(one, f"expected {one} and {other} together, got one of them")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said, as far as it was read."""

    status: int
    body: bytes

    def tree(self) -> Any:
        """The body as JSON; None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


class Unreachable(Exception):
    """There is no usable answer; `perhaps` says that the request may have been carried out all the same.

    `status` is that of the answer, 0 where there was none.
    """

    def __init__(self, message: str, *, perhaps: bool, status: int = 0) -> None:
        super().__init__(message)
        self.perhaps, self.status = perhaps, status

    def outcome(self) -> Outcome:
        """The same as the end of an order."""
        return Outcome(ended=Ended.UNKNOWN if self.perhaps else Ended.FAILED, text=str(self))


def check_url(url: str) -> None:
    """See that it is an address. Raises: ConfigError, without the address, which may be secret."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        raise ConfigError("url", f"expected http://host/… or https://host/…, got {url.split(':', 1)[0][:20]}:…")


def shown(url: str) -> str:
    """An address without what may be secret in it.

    >>> shown("https://user:pass@hooks.example.com/services/T0/B1?key=1")
    'https://hooks.example.com/…'
    """
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{'/…' if parts.path.strip('/') else ''}"


def joined(base: str, path: str) -> str:
    """An address below another one."""
    return f"{base.rstrip('/')}/{path.lstrip('/')}"


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 of ``timestamp + ":" + body``, in hexadecimal digits, as Grafana signs its own."""
    return hmac.new(secret.encode(), timestamp.encode() + b":" + body, hashlib.sha256).hexdigest()


def send(
    method: str,
    config: HttpConfig,
    url: str = "",
    *,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    repeatable: bool = True,
    most_bytes: int = MOST_BYTES,
    stopping: Callable[[], bool] = lambda: False,
) -> Answer:
    """Ask, again where that may help and does no harm. Raises: Unreachable also for an answer over 299.

    Not `repeatable` is what must not be done twice: it is asked again only where surely nothing was done. `url` is
    below that of the configuration: nothing else is ever asked.
    """
    import tenacity

    from otel_aiops.responses.destinations import is_below

    if url and not is_below(url, config.url):
        raise Unreachable(f"expected an address below {shown(config.url)}, got {shown(url)}", perhaps=False)

    def attempt() -> Answer:
        asked = _Asked(method, url or config.url, body, {**config.headers, **(headers or {})}, most_bytes)
        return _once(config, asked, repeatable)

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(config.attempts) | tenacity.stop_when_event_set(_Event(stopping)),  # type: ignore[arg-type]
        wait=tenacity.wait_random_exponential(multiplier=0.3, max=LONGEST_WAIT_S),
        retry=tenacity.retry_if_exception_type(_Again),
        reraise=True,
    )
    answer: Answer = retrying(attempt)
    return answer


class _Again(Unreachable):
    """Another try may succeed, and does no harm."""


class _Event:
    """What tenacity looks at to stop."""

    def __init__(self, stopping: Callable[[], bool]) -> None:
        self.is_set = stopping


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, and how much of the answer is read."""

    method: str
    url: str
    body: bytes | None
    headers: Mapping[str, str]
    most_bytes: int


def _once(config: HttpConfig, asked: _Asked, repeatable: bool) -> Answer:
    url = asked.url
    import requests

    from otel_aiops.responses.destinations import session

    try:
        with (
            session() as client,
            client.request(
                asked.method,
                url,
                data=asked.body,
                headers={"User-Agent": "otel-aiops", **asked.headers},
                timeout=config.timeout,
                allow_redirects=False,
                stream=True,
                verify=config.ca_file or True,
                cert=(config.cert_file, config.key_file) if config.cert_file else None,
                auth=(config.username, config.password) if config.username else _as_it_is,
            ) as response,
        ):
            answer = Answer(response.status_code, response.raw.read(asked.most_bytes, decode_content=True) or b"")
    except requests.exceptions.ConnectTimeout as error:
        raise _Again(f"{shown(url)} cannot be reached in {config.timeout:g} s", perhaps=False) from error
    except requests.RequestException as error:
        if why := _forbidden(error):
            raise Unreachable(f"{shown(url)} is not asked: {why}", perhaps=False) from error
        begun = not _refused(error)
        text = f"{shown(url)} cannot be asked: {_said(error)}"
        raise (_Again if repeatable or not begun else Unreachable)(text, perhaps=begun) from error
    if answer.status in range(200, 300):
        return answer
    text = f"{shown(url)} answered {answer.status}{_words(answer)}"
    if answer.status in range(300, 400):
        raise Unreachable(f"{text}: redirects are not followed", perhaps=False, status=answer.status)
    again = answer.status in (LATER if repeatable else NOT_TAKEN)
    raise (_Again if again else Unreachable)(text, perhaps=answer.status in HIDDEN, status=answer.status)


def _as_it_is(request: Any) -> Any:
    """Authorization comes from the configured headers, never from a .netrc file, which requests would prefer."""
    return request


def _refused(error: Exception) -> bool:
    """Whether no connection came about."""
    from urllib3.exceptions import MaxRetryError, NameResolutionError, NewConnectionError

    inner = error.args[0] if error.args else error
    reason = inner.reason if isinstance(inner, MaxRetryError) else inner
    return isinstance(reason, NewConnectionError | NameResolutionError)


def _forbidden(error: Exception) -> str:
    """Why an address is not asked, "" where it is."""
    from otel_aiops.responses.destinations import Forbidden

    inner = error.args[0] if error.args else error
    reason = getattr(inner, "reason", None)
    return str(reason.__cause__ or reason)[:SHOWN] if isinstance(reason, Forbidden) else ""


def _said(error: Exception) -> str:
    """What is wrong, without the address, which perhaps it repeats."""
    inner = error.args[0] if error.args else error
    return type(getattr(inner, "reason", None) or inner).__name__


def _words(answer: Answer) -> str:
    text = " ".join(answer.body.decode("utf-8", "replace").split())[:SHOWN]
    return f": {text}" if text else ""
