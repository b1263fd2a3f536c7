"""A listing: what an Alertmanager's API tells of the alerts of one group, whatever a notification of it left out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from otel_aiops.incidents.cut import Cut
from otel_aiops.incidents.known import KnownAlert, alert_of, time_ns
from otel_aiops.responses.alertmanager import PATH
from otel_aiops.responses.http import HttpConfig, Unreachable, joined, send, shown

STATUS = "api/v2/status"
ANSWER_BYTES = 16 << 20
S = 1_000_000_000
SETTLED_S = 300.0  # after its start until an Alertmanager was told of all alerts again: Prometheus does each minute
_PLAIN = re.compile(r"[^{}!=~,\\\"'`\s]+")  # names of labels that stand in a matcher as they are


@dataclass(frozen=True, slots=True)
class Listing:
    """`alerts` fire and are told; `there` are the fingerprints of those too that are silenced or inhibited.

    `settled`: what is not listed is not there. An Alertmanager that has just begun knows nothing yet.
    """

    alerts: tuple[KnownAlert, ...]
    there: frozenset[str]
    settled: bool


def listing(server: HttpConfig, cut: Cut, now_ns: int, *, stopping: Callable[[], bool] = lambda: False) -> Listing:
    """Ask one server for the group of a notification, once. Raises: Unreachable."""
    once = replace(server, attempts=1)
    asked = [("receiver", re.escape(cut.receiver))] if cut.receiver else []
    asked += [("filter", f"{_name(name)}={_quoted(value)}") for name, value in cut.group_labels]
    url = joined(server.url, PATH) + (f"?{urlencode(asked)}" if asked else "")
    tree = send("GET", once, url, most_bytes=ANSWER_BYTES, stopping=stopping).tree()
    if not isinstance(tree, list):
        expected = f"expected a list of alerts of at most {ANSWER_BYTES >> 20} MiB"
        raise Unreachable(f"{shown(url)}: {expected}, got something else", perhaps=False)
    # In this order: of one that begins anew in between nothing is concluded.
    began_ns = _began_ns(once, stopping)
    listed = [(one, alert) for one in tree if (alert := alert_of(one, cut.sender, cut.group)) is not None]
    return Listing(
        alerts=tuple(alert for one, alert in listed if not _suppressed(one)),
        there=frozenset(alert.fingerprint for _, alert in listed),
        settled=began_ns <= cut.told_ns or now_ns - began_ns >= SETTLED_S * S,
    )


def _began_ns(server: HttpConfig, stopping: Callable[[], bool]) -> int:
    """When it started; 0 where it does not say. Raises: Unreachable."""
    try:
        url = joined(server.url, STATUS)
        tree = send("GET", server, url, most_bytes=ANSWER_BYTES, stopping=stopping).tree()
    except Unreachable as error:
        if error.status not in range(400, 500):
            raise
        return 0
    return time_ns(tree.get("uptime")) if isinstance(tree, dict) else 0


def _suppressed(tree: Any) -> bool:
    status = tree.get("status")
    return isinstance(status, dict) and status.get("state") == "suppressed"


def _name(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else _quoted(name)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
