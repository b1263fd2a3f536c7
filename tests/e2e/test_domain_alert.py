"""A fault from threshold to webhook: OTLP in, score, shipped rule in Prometheus, Alertmanager; and its end."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests

from tests.feed import Feed
from tests.responses.receiver import Receiver, receiving
from tests.servers import Aiops, Alertmanager, Prometheus, wait_for

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

ALERTS = Path(__file__).parents[2] / "grafana" / "alerts"
QUICK = "detection: {warmup_points: 5}\nemit: {interval: 1s}\n"
CALM = 120
BOUNDS = (0.01, 0.1, 1.0, 10.0)
USUAL, SLOW = (5, 100, 5, 0, 0), (0, 0, 0, 5, 105)
Alerts = dict[tuple[str, str], dict[str, Any]]


class Shop:
    """Two hosts that use a processor, and a route that answers; a point of each for every second."""

    def __init__(self, url: str) -> None:
        self._url, self._rng = url, np.random.default_rng(0)
        self._at_s, self._counts = time.time() - CALM, np.zeros(len(USUAL), int)

    def goes_on(self, *, broken: bool) -> None:
        """Send what was measured since the last time."""
        told = {name: Feed("shop", **{"service.instance.id": name}) for name in ("web-1", "web-2", "pay")}
        while self._at_s < time.time():
            self._measure(told, broken)
            self._at_s += 1
        for one in told.values():
            headers = {"Content-Type": "application/x-protobuf"}
            assert requests.post(f"{self._url}/v1/metrics", data=one.body(), headers=headers, timeout=30).ok

    def _measure(self, told: dict[str, Feed], broken: bool) -> None:
        for host in ("web-1", "web-2"):
            busy = 0.97 if broken and host == "web-1" else 0.3
            of = {"host.name": host, "state": "user"}
            told[host].gauge("system.cpu.utilization", self._at_s, busy + self._rng.uniform(-0.01, 0.01), **of)
        self._counts += SLOW if broken else USUAL
        total = float(self._counts @ np.array([0.005, 0.05, 0.5, 5, 50]))
        of = {"http.route": "/pay", "http.request.method": "POST"}
        name = "http.server.request.duration"
        told["pay"].histogram(name, self._at_s, self._counts.tolist(), BOUNDS, total, **of)


def shortened(folder: Path) -> Path:
    """The files as they are shipped, but for the two waits of five minutes; expressions are untouched."""
    folder.mkdir()
    for domain in ("host", "http"):
        text = (ALERTS / f"domain-{domain}.rules.yaml").read_text()
        text, waits = re.subn(r"^( +(?:for|keep_firing_for)): 5m$", r"\1: 1s", text, flags=re.M)
        assert waits == 2 * text.count("- alert: ")
        (folder / f"{domain}.yaml").write_text(text)
    return folder / "*.yaml"


def told(hook: Receiver, status: str) -> Alerts:
    """The alerts that the webhook was told of, by rule and host or route."""
    found = [one for asked in hook.asked for one in asked.json()["alerts"] if one["status"] == status]
    place = ("host_name", "http_route")
    return {
        (one["labels"]["alertname"], next(one["labels"][key] for key in place if key in one["labels"])): one
        for one in found
    }


def test_a_fault_pages_by_the_rule_of_its_domain_until_it_is_over(tmp_path: Path) -> None:
    both = {("HostCpuUnusual", "web-1"), ("HttpServerLatencyUnusual", "/pay")}
    with (
        receiving() as hook,
        Alertmanager(tmp_path, f"{hook.url}/hook") as alertmanager,
        Aiops(tmp_path, QUICK) as aiops,
        Prometheus(
            tmp_path,
            {"otel-aiops": aiops.api},
            rules=shortened(tmp_path / "rules"),
            alertmanager=alertmanager.port,
        ) as prometheus,
    ):
        shop = Shop(f"http://127.0.0.1:{aiops.http}")

        def until(status: str, *, broken: bool) -> Alerts:
            def seen() -> bool:
                shop.goes_on(broken=broken)
                return both <= told(hook, status).keys()

            wait_for(seen, f"the webhook to be told of {status} alerts", every_s=0.5, timeout_s=240)
            return told(hook, status)

        shop.goes_on(broken=False)
        wait_for(lambda: aiops.metric("otel_aiops_points_scored_total") > CALM, "what is calm to be scored")
        wait_for(lambda: aiops.metric("otel_aiops_step_queue_size") == 0, "all of it to be scored")
        assert not told(hook, "firing")

        firing = until("firing", broken=True)
        worst = prometheus.query('max(otel_aiops_anomaly_score{host_name="web-1"})')
        assert float(worst[0]["value"][1]) >= 1
        cpu, pay = firing["HostCpuUnusual", "web-1"], firing["HttpServerLatencyUnusual", "/pay"]
        assert cpu["labels"] == {
            "alertname": "HostCpuUnusual",
            "severity": "warning",
            "job": "shop",
            "instance": "web-1",
            "host_name": "web-1",
            "state": "user",
        }
        assert re.fullmatch(r"Processors of web-1 are used unusually \(score [\d.]+\)", cpu["annotations"]["summary"])
        assert re.fullmatch(r"/pay of shop answers in unusual time \(score [\d.]+\)", pay["annotations"]["summary"])
        runbook = urlsplit(cpu["annotations"]["runbook_url"])
        assert f'id="{runbook.fragment}"' in requests.get(f"{aiops.url}{runbook.path}", timeout=10).text

        resolved = until("resolved", broken=False)
        for key in both:
            assert resolved[key]["startsAt"] == firing[key]["startsAt"] < resolved[key]["endsAt"]
        hosts = {host for rule, host in told(hook, "firing") if rule.startswith("Host")}
        assert hosts == {"web-1"}, "the other host was never unusual"
        open_now = requests.get(f"{alertmanager.url}/api/v2/alerts", params={"active": True}, timeout=10).json()
        assert not {one["labels"]["alertname"] for one in open_now} & {rule for rule, _ in both}
