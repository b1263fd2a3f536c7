"""Steps that post JSON to an address of the configuration: signed, retried, with a key that tells repeats."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from otel_aiops.errors import ConfigError
from otel_aiops.incidents.codec import to_line
from otel_aiops.incidents.journal import brief
from otel_aiops.responses.http import HttpConfig, Unreachable, send, shown, signature
from otel_aiops.responses.order import Ended, Lost, Order, Outcome, target_of
from otel_aiops.responses.values import filled

SIGNATURE, TIMESTAMP, KEY = "X-Otel-Aiops-Signature", "X-Otel-Aiops-Timestamp", "Idempotency-Key"


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookConfig:
    """An address that is posted to."""

    name: str  # by which steps use it
    to: HttpConfig = field(default_factory=lambda: HttpConfig(url="http://localhost"))  # the address
    secret: str = field(default="", repr=False)  # signs every request, as ${env:HOOK_SECRET}; without it none is

    def __post_init__(self) -> None:
        if self.secret and len(self.secret) < 8:
            raise ConfigError("secret", f"expected at least 8 characters, got {len(self.secret)}")


class Webhook:
    """Posts the incident, and what wants something done about it."""

    def __init__(self, targets: tuple[WebhookConfig, ...], clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._targets = {one.name: one for one in targets}
        self._clock_ns = clock_ns

    def plan(self, order: Order) -> str:
        target = target_of(self._targets, order)
        signed = "signed" if target.secret else "unsigned"
        return f"post incident {order.incident.id} to {target.name} at {shown(target.to.url)}, {signed}"

    def replicas(self, order: Order) -> None:
        return None

    def run(self, order: Order) -> Outcome | None:
        target, body = target_of(self._targets, order), body_of(order)
        headers = {"Content-Type": "application/json", KEY: order.id}
        if target.secret:
            headers[TIMESTAMP] = str(self._clock_ns() // 1_000_000_000)
            headers[SIGNATURE] = signature(target.secret, headers[TIMESTAMP], body)
        again = order.action.repeatable
        try:
            answer = send("POST", target.to, body=body, headers=headers, repeatable=again, stopping=order.stopping)
        except Unreachable as error:
            return None if order.stopping() and again else error.outcome()
        said = answer.body.decode("utf-8", "replace")
        return Outcome(ended=Ended.DONE, text=f"{shown(target.to.url)} answered {answer.status}", output=said)

    def lost(self, order: Order) -> Lost:
        return Lost.UNKNOWN


def body_of(order: Order) -> bytes:
    """What is posted: the same for the same order, so that receivers can compare."""
    tree = {
        "version": "1",
        "id": order.id,
        "run": order.run,
        "playbook": order.playbook,
        "trigger": order.trigger,
        "text": filled(order.action.text or "{title}", order.values),
        "values": dict(order.values),
        "incident": to_line(brief(order.incident)),
    }
    return json.dumps(tree, separators=(",", ":")).encode()
