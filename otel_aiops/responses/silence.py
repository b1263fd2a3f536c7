"""Steps that silence alerts in Alertmanager while something is done, for a bounded time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from otel_aiops.errors import ConfigError
from otel_aiops.responses.http import HttpConfig, Unreachable, joined, send
from otel_aiops.responses.order import Ended, Lost, Order, Outcome, Refused, absent, target_of
from otel_aiops.responses.values import NAMES, filled, places

PATH = "api/v2/silences"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertmanagerConfig:
    """An Alertmanager, and which of its alerts belong to an incident."""

    name: str  # by which steps use it
    to: HttpConfig = field(default_factory=lambda: HttpConfig(url="http://localhost:9093"))  # without /api/v2
    match: Mapping[str, str] = field(default_factory=lambda: {"service_name": "{service}"})  # label and its value

    def __post_init__(self) -> None:
        if not self.match:
            raise ConfigError("match", "expected at least one label: a silence of everything is none")
        for label, value in self.match.items():
            for name in set(places(value)) - set(NAMES):
                raise ConfigError(f"match.{label}", f"{{{name}}} is not a known value; known: {', '.join(NAMES)}")


class Silencer:
    """Posts silences; each says by which order it was made, so that one is never made twice."""

    def __init__(
        self, alertmanagers: tuple[AlertmanagerConfig, ...], clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._alertmanagers = {one.name: one for one in alertmanagers}
        self._clock_ns = clock_ns

    def plan(self, order: Order) -> str:
        matchers = ", ".join(f'{one["name"]}="{one["value"]}"' for one in self._matchers(order))
        return f"silence alerts with {matchers} in {order.action.use} for {order.action.duration:.0f} s"

    def replicas(self, order: Order) -> None:
        return None

    def run(self, order: Order) -> Outcome:
        config, now_s = target_of(self._alertmanagers, order), self._clock_ns() / 1e9
        comment = filled(order.action.text or "{title}", order.values)[:500]
        tree = silence(
            self._matchers(order),
            now_s,
            now_s + order.action.duration,
            who=f"otel-aiops, playbook {order.playbook}",
            why=f"{comment} [{order.id}]",
        )
        try:
            name = post(config.to, tree)
        except Unreachable as error:
            return error.outcome()
        return Outcome(ended=Ended.DONE, text=f"silence {name} until {tree['endsAt']}")

    def lost(self, order: Order) -> Outcome | Lost:
        config = target_of(self._alertmanagers, order)
        try:
            found = send("GET", config.to, joined(config.to.url, PATH), most_bytes=16 << 20).tree()
        except Unreachable:
            return Lost.UNKNOWN
        if not isinstance(found, list):
            return Lost.UNKNOWN
        for one in found:
            if isinstance(one, dict) and f"[{order.id}]" in str(one.get("comment")):
                return Outcome(ended=Ended.DONE, text=f"silence {one.get('id')} until {one.get('endsAt')}")
        return absent(order, config.to.timeout)

    def _matchers(self, order: Order) -> list[dict[str, Any]]:
        """Exact ones. Raises: Refused where a value is empty, which would match alerts without the label."""
        found = []
        for label, template in target_of(self._alertmanagers, order).match.items():
            value = filled(template, order.values)
            if not value.strip():
                raise Refused(f"the label {label} of the silence would be empty: {template} is not known")
            found.append(matcher(label, value))
        return found


def matcher(name: str, value: str, *, regex: bool = False) -> dict[str, Any]:
    """A condition on a label, as Alertmanager reads it."""
    return {"name": name, "value": value, "isRegex": regex, "isEqual": True}


def silence(matchers: list[dict[str, Any]], from_s: float, until_s: float, *, who: str, why: str) -> dict[str, Any]:
    """A silence as it is posted; times in unix seconds."""
    times = {"startsAt": _time(from_s), "endsAt": _time(until_s)}
    return {"matchers": matchers, **times, "createdBy": who, "comment": why}


def post(to: HttpConfig, tree: Mapping[str, Any]) -> str:
    """Have an Alertmanager keep a silence; its id there. Never twice. Raises: Unreachable."""
    body, headers = json.dumps(tree).encode(), {"Content-Type": "application/json"}
    made = send("POST", to, joined(to.url, PATH), body=body, headers=headers, repeatable=False).tree()
    return str(made.get("silenceID", "")) if isinstance(made, dict) else ""


def _time(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
