"""What a real Alertmanager leaves out of its notifications, since its receiver has `max_alerts`: all of it is known."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.responses.receiver import Asked, receiving
from tests.servers import Aiops, Alertmanager, wait_for

pytestmark = pytest.mark.servers

SERVICES = ("cart", "catalog", "payment")
BEGAN = datetime.now(UTC).replace(microsecond=123_456) - timedelta(minutes=5)


def post(server: Alertmanager, *services: str, ended: bool = False) -> None:
    ends = {"endsAt": datetime.now(UTC).isoformat()} if ended else {}
    alerts = [
        {"labels": {"alertname": "Errors", "service": one}, "startsAt": BEGAN.isoformat(), **ends} for one in services
    ]
    assert requests.post(f"{server.url}/api/v2/alerts", json=alerts, timeout=5).ok


def known(up: Aiops) -> dict[str, str]:
    """The services that alerts are known of, and whether these fire; each once."""
    page = requests.get(f"{up.url}/api/v1/known-alerts", timeout=30).json()
    found = {one["service"]: one["status"] for one in page["alerts"]}
    assert len(found) == page["total"], page
    return found


@pytest.mark.timeout(300)
def test_what_max_alerts_leaves_out_is_known_also_after_a_kill(tmp_path: Path) -> None:
    with receiving() as gate:
        gate.answers = [(503, b"")]
        to = {"to": [{"url": gate.url, "timeout": 5}], "silences": 0}
        up = Aiops(tmp_path, f"alertmanager: {json.dumps(to)}\n")
        with Alertmanager(tmp_path, f"{up.url}/api/v1/webhooks/alertmanager", most=1) as server, up:

            def forward(asked: Asked) -> Any:
                return requests.get(f"{server.url}{asked.path}", timeout=5).json()

            post(server, *SERVICES)
            wait_for(lambda: up.metric("otel_aiops_alertmanager_incomplete") == 1, "a notification that is cut")
            ((first, status),) = known(up).items()
            assert status == "firing"
            up.server.kill()
            gate.routes = {("GET", "/api/v2/alerts"): forward, ("GET", "/api/v2/status"): forward}
            up.start()
            wait_for(lambda: len(known(up)) == 3, "what was left out before the kill")
            assert known(up) == dict.fromkeys(SERVICES, "firing")

            second, third = (one for one in SERVICES if one != first)
            post(server, second, ended=True)
            wait_for(lambda: known(up)[second] == "resolved", "an end that was left out")
            assert known(up) == {first: "firing", second: "resolved", third: "firing"}
            post(server, first, third, ended=True)
            wait_for(lambda: set(known(up).values()) == {"resolved"}, "the end of all, of which one is told")
            wait_for(lambda: up.metric("otel_aiops_alertmanager_incomplete") == 0, "all to be complete")
            text = requests.get(f"{up.url}/metrics", timeout=30).text
            lost = [line for line in text.splitlines() if 'outcome="lost"' in line]
            assert lost and not any(float(line.rsplit(" ", 1)[1]) for line in lost), lost
