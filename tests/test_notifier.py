"""What is posted to an Alertmanager that calls some of it bad."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from tests.incidents.makers import T0
from tests.responses.makers import incident
from tests.responses.receiver import Asked, receiving
from tests.servers import wait_for
from tests.test_app import running

BAD = "i5"


def test_one_that_is_bad_keeps_no_other_back(tmp_path: Path) -> None:
    """The whole request is refused, as of an Alertmanager that takes nothing of it."""
    taken: list[dict[str, Any]] = []

    def post(asked: Asked) -> Any:
        alerts = asked.json()
        if any(one["labels"]["incident_id"] == BAD and one["annotations"]["summary"] == "bad" for one in alerts):
            return 400, "invalid label set"
        taken.extend(alerts)
        return 200, ""

    names = [f"i{number}" for number in range(11)]
    with receiving() as server, capture_logs() as logs:
        server.routes["POST", "/api/v2/alerts"] = post
        more = f"alertmanager: {json.dumps({'to': [{'url': server.url}], 'resend': 3600, 'silences': 0})}\n"
        with running(tmp_path, more) as up:
            found = [incident(name, title="bad" if name == BAD else name) for name in names]
            up.service.chronicle.journal.append(found, T0)
            wait_for(lambda: up.metric("otel_aiops_alertmanager_sent_total") >= 10, "the others to be taken")
            wait_for(lambda: up.metric("otel_aiops_alertmanager_refused_total") == 1, "the bad one to be found")
            mended = replace(incident(BAD, title="mended"), revision=2)
            up.service.chronicle.journal.append([mended], T0)
            wait_for(lambda: up.metric("otel_aiops_alertmanager_sent_total") >= 11, "it to be taken when it is good")
            assert up.metric("otel_aiops_alertmanager_failures_total") == 0
            assert up.metric("otel_aiops_alertmanager_refused_total") == 1
    assert sorted(one["labels"]["incident_id"] for one in taken) == sorted(names), "each once"
    (said,) = [line for line in logs if line["event"] == "Alertmanager refused an alert"]
    assert said["alert"]["incident_id"] == BAD
    assert len([one for one in server.asked if one.method == "POST"]) < 2 * len(names)
