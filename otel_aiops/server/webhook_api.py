"""Where Alertmanager and Grafana tell of their alerts: who may, and an answer as soon as it is written down."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from otel_aiops.errors import ConfigError, Forbidden, Unauthorized
from otel_aiops.server.access import Identity, Role
from otel_aiops.server.asking import check_type, plain, posted

PREFIX: Final = "/api/v1/webhooks/"
SIGNATURE: Final = "X-Grafana-Alerting-Signature"
LARGEST_BYTES: Final = 16 << 20  # of a notification


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhooksConfig:
    """How those who send notifications show who they are, besides what `api.auth` asks of everybody."""

    secret: str = field(default="", repr=False)  # of HMAC-SHA256, as ${env:WEBHOOK_SECRET}; the same as in Grafana
    timestamp_header: str = ""  # the one that Grafana is told to send; then what is too old is refused
    tolerance: float = 300.0  # s that it may be old

    def __post_init__(self) -> None:
        if self.secret and len(self.secret) < 8:
            raise ConfigError("secret", f"expected at least 8 characters, got {len(self.secret)}")
        if self.timestamp_header and not self.secret:
            raise ConfigError("timestamp_header", "expected a secret beside it")
        if not self.tolerance > 0:
            raise ConfigError("tolerance", f"must be > 0 s, got {self.tolerance}")


class Doorkeeper:
    """Lets in who has signed with the secret, or may as an operator; where nobody must sign in, everybody."""

    def __init__(
        self,
        config: WebhooksConfig,
        *,
        guarded: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`guarded` says that people and programs must sign in."""
        self._config, self._guarded, self._clock = config, guarded, clock

    def check(self, headers: Headers, body: bytes, identity: Identity) -> None:
        """Raises: Unauthorized, Forbidden."""
        signed = headers.get(SIGNATURE)
        if self._config.secret and (signed is not None or not self._guarded):
            self._check_signature(signed, headers, body)
        elif not identity.may(Role.OPERATOR):
            if identity.how:
                raise Forbidden(f"expected the role {Role.OPERATOR} or one above it, got {identity.role}")
            raise Unauthorized("expected a signature or an Authorization header, got none")

    def _check_signature(self, signed: str | None, headers: Headers, body: bytes) -> None:
        config, text = self._config, body
        if not signed:
            raise Unauthorized(f"expected the header {SIGNATURE}, got none")
        if config.timestamp_header:
            at = headers.get(config.timestamp_header, "")
            if not at.isdecimal() or abs(self._clock() - int(at[:12])) > config.tolerance:
                expected = f"expected {config.timestamp_header} within {config.tolerance:g} s of now in unix seconds"
                raise Unauthorized(f"{expected}, got {at[:30]!r}")
            text = at.encode() + b":" + body
        wanted = hmac.new(config.secret.encode(), text, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(wanted.encode(), signed.strip().lower().encode()):
            raise Unauthorized(f"{SIGNATURE} is not that of the body with our secret")


class WebhookBackend(Protocol):
    """What takes notifications; any thread."""

    def notify(self, tree: Any) -> dict[str, Any]:
        """Write them down. Raises: BadInput, Overloaded, StorageError."""


def routes(backend: WebhookBackend, doorkeeper: Doorkeeper, max_body_bytes: int) -> list[Route]:
    """All of them, in the order of the documents."""
    of = _Routes(backend, doorkeeper, min(max_body_bytes, LARGEST_BYTES))
    return [
        Route(PREFIX + "alertmanager", of.alertmanager, methods=["POST"]),
        Route(PREFIX + "grafana", of.grafana, methods=["POST"]),
    ]


class _Routes:
    def __init__(self, backend: WebhookBackend, doorkeeper: Doorkeeper, max_body_bytes: int) -> None:
        self._backend, self._doorkeeper, self._max_body_bytes = backend, doorkeeper, max_body_bytes

    async def alertmanager(self, request: Request) -> Response:
        """
        summary: A notification of Alertmanager's webhook receiver; what is told again changes nothing.
        requestBody:
          content:
            application/json:
              schema:
                type: object
                required: [alerts]
                additionalProperties: true
                properties:
                  version: {description: "4"}
                  groupKey: {description: of the group}
                  truncatedAlerts: {description: "how many are left out; they are asked for"}
                  alerts: {type: array, maxItems: 10000, description: those that cannot be read are counted}
        responses:
          202: {description: it is written down, returns: Told}
          401: {description: the signature or the credentials are wrong}
          503: {description: too many wait; tell again later}
        """
        return await self._take(request)

    async def grafana(self, request: Request) -> Response:
        """
        summary: A notification of Grafana's webhook contact point; what is told again changes nothing.
        requestBody:
          content:
            application/json:
              schema:
                type: object
                required: [alerts]
                additionalProperties: true
                properties:
                  orgId: {description: of Grafana}
                  alerts: {type: array, maxItems: 10000, description: those that cannot be read are counted}
        responses:
          202: {description: it is written down, returns: Told}
          401: {description: the signature or the credentials are wrong}
          503: {description: too many wait; tell again later}
        """
        return await self._take(request)

    async def _take(self, request: Request) -> Response:
        body = await posted(request, self._max_body_bytes)
        try:
            self._doorkeeper.check(request.headers, body, request.state.identity)
        except Unauthorized as error:
            return JSONResponse({"error": str(error)}, 401, {"WWW-Authenticate": 'Basic realm="otel-aiops"'})
        except Forbidden as error:
            return JSONResponse({"error": str(error)}, 403)
        check_type(request, "a notification")
        tree = await run_in_threadpool(plain, body, "a notification")
        return JSONResponse(await run_in_threadpool(self._backend.notify, tree), 202)
