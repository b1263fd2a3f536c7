"""Steps that draw an incident in Grafana, as an annotation of its dashboards."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass, field
from urllib.parse import urlencode

from otel_aiops.responses.http import HttpConfig, Unreachable, joined, send
from otel_aiops.responses.order import Ended, Lost, Order, Outcome, absent, target_of
from otel_aiops.responses.values import filled

PATH = "api/annotations"
TAG = "otel-aiops"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrafanaConfig:
    """A Grafana; it needs a token of a service account with annotations:create in `to.headers`."""

    name: str  # by which steps use it
    to: HttpConfig = field(default_factory=lambda: HttpConfig(url="http://localhost:3000"))  # without /api
    dashboard: str = ""  # uid of the only one that shows it; without it all of the organisation
    tags: tuple[str, ...] = ()  # besides otel-aiops, the severity and the service


class Annotator:
    """Posts annotations; a tag says by which order each was made, so that one is never made twice."""

    def __init__(self, grafanas: tuple[GrafanaConfig, ...]) -> None:
        self._grafanas = {one.name: one for one in grafanas}

    def plan(self, order: Order) -> str:
        target_of(self._grafanas, order)
        return f"annotate incident {order.incident.id} in {order.action.use}: {_text(order)[:200]}"

    def replicas(self, order: Order) -> None:
        return None

    def run(self, order: Order) -> Outcome:
        config, incident = target_of(self._grafanas, order), order.incident
        service = order.values["service"]
        tags = [TAG, order.id, str(incident.severity), *([f"service:{service}"] if service else []), *config.tags]
        tree = {"time": incident.start_ns // 1_000_000, "tags": tags, "text": html.escape(_text(order))}
        tree |= {"timeEnd": incident.end_ns // 1_000_000} if incident.end_ns else {}
        tree |= {"dashboardUID": config.dashboard} if config.dashboard else {}
        body, headers = json.dumps(tree).encode(), {"Content-Type": "application/json"}
        try:
            answer = send("POST", config.to, joined(config.to.url, PATH), body=body, headers=headers, repeatable=False)
        except Unreachable as error:
            return error.outcome()
        made = answer.tree()
        return Outcome(ended=Ended.DONE, text=f"annotation {made.get('id', '') if isinstance(made, dict) else ''}")

    def lost(self, order: Order) -> Outcome | Lost:
        config = target_of(self._grafanas, order)
        url = f"{joined(config.to.url, PATH)}?{urlencode({'tags': order.id, 'limit': 1})}"
        try:
            found = send("GET", config.to, url).tree()
        except Unreachable:
            return Lost.UNKNOWN
        if not isinstance(found, list):
            return Lost.UNKNOWN
        return Outcome(ended=Ended.DONE, text="it is annotated") if found else absent(order, config.to.timeout)


def _text(order: Order) -> str:
    return filled(order.action.text or "{title}: {summary}", order.values)
