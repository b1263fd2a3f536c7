"""What a real Alertmanager and a real Prometheus say of alerts and silences, as labels and exclusions of a dataset."""

from __future__ import annotations

import subprocess
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from otel_aiops.batch.client import Api
from otel_aiops.lifecycle import sources
from tests.servers import Prometheus, Server, answers, free_port, require
from tests.tools.prometheus import alertmanager, promtool

S = 1_000_000_000
HOUR_S = 3_600


def moment(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat()


def matcher(name: str, value: str, **more: bool) -> dict[str, Any]:
    return {"name": name, "value": value, "isRegex": False, "isEqual": True, **more}


@pytest.mark.timeout(120)
def test_alertmanager_tells_its_alerts_and_silences(tmp_path: Path) -> None:
    now_s, port = time.time(), free_port()
    url = f"http://127.0.0.1:{port}"
    (tmp_path / "alertmanager.yml").write_text("route: {receiver: none}\nreceivers: [{name: none}]\n")
    program = require(alertmanager)
    server = Server(
        [
            str(program),
            f"--config.file={tmp_path / 'alertmanager.yml'}",
            f"--storage.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ],
        tmp_path / "alertmanager.log",
        cwd=program.parent,
    )
    server.start(answers(f"{url}/-/ready"))
    try:
        alerts = [{"alertname": "Slow", "service": "cart"}, {"alertname": "Watchdog"}]
        body = [{"labels": one, "startsAt": moment(now_s - 600)} for one in alerts]
        requests.post(f"{url}/api/v2/alerts", json=body, timeout=10).raise_for_status()
        wanted: dict[str, list[dict[str, Any]]] = {
            "move": [matcher("service", "pay-.*", isRegex=True)],
            "over": [matcher("job", "web"), matcher("severity", "low")],
            "others": [matcher("namespace", "shop", isEqual=False)],
            "one alert": [matcher("alertname", "Slow")],
        }
        for comment, matchers in wanted.items():
            times = {"startsAt": moment(now_s), "endsAt": moment(now_s + HOUR_S)}
            silence = {"matchers": matchers, "comment": comment, "createdBy": "ann", **times}
            answer = requests.post(f"{url}/api/v2/silences", json=silence, timeout=10)
            answer.raise_for_status()
            if comment == "over":
                time.sleep(0.05)
                name = answer.json()["silenceID"]
                requests.delete(f"{url}/api/v2/silence/{name}", timeout=10).raise_for_status()
        with closing(Api("Alertmanager", url)) as api:
            found = sources.of_alertmanager(api.get, round((now_s - HOUR_S) * S), round((now_s + 2 * HOUR_S) * S))
    finally:
        server.stop()
    (label,) = found.labels
    assert (label.service, label.note, label.confidence) == ("cart", "Slow", sources.FIRING)
    assert abs(label.start_ns / S - (now_s - 600)) < 1
    out = {one.reason: (dict(one.match), (one.end_ns - one.start_ns) / S) for one in found.exclusions}
    assert out["move by ann"][0] == {"service": "~pay-.*"} and out["move by ann"][1] > HOUR_S - 60
    assert out["over by ann"][0] == {"service": "web"} and out["over by ann"][1] < 60, "it was ended early"
    assert out["others by ann"][0] == {"k8s.namespace.name": "~(?!(?:shop)$).*"}
    assert len(out) == 3 and len(found.notes) == 2 and "Watchdog" in found.notes[0]


@pytest.mark.timeout(120)
def test_prometheus_tells_what_fired(tmp_path: Path) -> None:
    end_s = int(time.time()) // HOUR_S * HOUR_S - 4 * HOUR_S
    firing = {"cart": (20, 35), "pay": (50, 52)}  # minutes of the hour before
    lines = [
        f'ALERTS{{alertname="Slow",alertstate="{state}",service="{service}"}} 1 {end_s - HOUR_S + 60 * minute}'
        for service, (first, last) in firing.items()
        for state, start, stop in (("pending", first - 5, first), ("firing", first, last))
        for minute in range(start, stop)
    ]
    (tmp_path / "data.om").write_text("# TYPE ALERTS gauge\n" + "\n".join(lines) + "\n# EOF\n")
    create = ["tsdb", "create-blocks-from", "openmetrics", str(tmp_path / "data.om"), str(tmp_path / "tsdb")]
    subprocess.run([str(require(promtool)), *create], check=True, capture_output=True, timeout=60)
    with Prometheus(tmp_path) as prometheus, closing(Api("Prometheus", prometheus.url)) as api:
        found = sources.of_prometheus(api.get, (end_s - 24 * HOUR_S) * S, end_s * S)
    times = {one.service: (one.start_ns / S - end_s + HOUR_S, one.end_ns / S - end_s + HOUR_S) for one in found.labels}
    assert set(times) == set(firing) and {one.confidence for one in found.labels} == {sources.FIRED}
    for service, (first, last) in firing.items():
        start_s, stop_s = times[service]
        assert start_s == 60 * first and 0 <= stop_s - 60 * last <= 300, "Prometheus looks back for 5 minutes"
