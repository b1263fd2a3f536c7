"""Domain rules on the real way: series by the conventions in, scores out, a real Prometheus with the rules."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import yaml

from otel_aiops.otlp.prometheus import label_name
from tests.feed import Feed
from tests.servers import Aiops, Prometheus, wait_for

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

ALERTS = Path(__file__).parents[2] / "grafana" / "alerts"
PROVISIONED = ALERTS.parent / "provisioning" / "alerting" / "rules.yaml"
QUICK = "detection: {warmup_points: 5}\nemit: {interval: 1s}\n"
STEP_S, CALM = 10.0, 60
BOUNDS = (0.01, 0.1, 1.0, 10.0)

# Attributes of the conventions that the unit tests of the rules name as labels.
OF_RESOURCE = (
    "host.name",
    "process.executable.name",
    "rabbitmq.queue.name",
    *(f"k8s.{kind}.name" for kind in ("namespace", "pod", "container", "node", "deployment", "volume", "hpa", "job")),
)
OF_POINTS = (
    "http.route",
    "http.request.method",
    "http.response.status_code",
    "server.address",
    "error.type",
    "rpc.service",
    "rpc.method",
    "rpc.grpc.status_code",
    "db.system.name",
    "db.namespace",
    "db.operation.name",
    "db.client.connection.pool.name",
    "db.client.connection.state",
    "messaging.system",
    "messaging.destination.name",
    "messaging.operation.name",
    "jvm.memory.type",
    "jvm.memory.pool.name",
    "jvm.gc.name",
    "jvm.gc.action",
    "jvm.thread.state",
    "go.memory.type",
    *("state", "status", "device", "direction", "mountpoint", "group", "topic", "transport"),
    *("exporter", "receiver", "processor"),
)
KEYS = {label_name(key): key for key in (*OF_RESOURCE, *OF_POINTS)}


def rules() -> Iterator[dict[str, Any]]:
    for path in sorted(ALERTS.glob("domain-*.rules.yaml")):
        yield from (rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"])


def asked_by_grafana() -> Iterator[tuple[str, str]]:
    """Titles of the rules of Grafana's own alerting, and what they ask Prometheus."""
    for group in yaml.safe_load(PROVISIONED.read_text())["groups"]:
        yield from ((rule["title"], rule["data"][0]["model"]["expr"]) for rule in group["rules"])


def series() -> list[dict[str, str]]:
    """Labels of the series with which the unit tests make each rule fire."""
    found = []
    for path in sorted(ALERTS.glob("domain-*.test.yaml")):
        for one in yaml.safe_load(path.read_text())["tests"][1]["input_series"]:
            found.append(dict(re.findall(r'(\w+)="([^"]*)"', one["series"])))
    return found


class Telemetry:
    """What sends these series: a request for each resource, calm for a while, then far off."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)
        self._total: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(len(BOUNDS) + 1))

    def step(self, now_s: float, *, strange: bool) -> list[Feed]:
        feeds: dict[tuple[tuple[str, str], ...], Feed] = {}
        for number, labels in enumerate(series()):
            own = {KEYS[name]: value for name, value in labels.items() if name in KEYS}
            place = {key: value for key, value in own.items() if key in OF_RESOURCE}
            place |= {"service.instance.id": labels["instance"]}
            feed = feeds.setdefault(tuple(sorted(place.items())), Feed(labels["job"], **place))
            point = {key: value for key, value in own.items() if key not in OF_RESOURCE}
            self._point(feed, number, labels, point, now_s, strange)
        return list(feeds.values())

    def _point(
        self, feed: Feed, number: int, labels: dict[str, str], point: dict[str, str], now_s: float, strange: bool
    ) -> None:
        name, stat = labels["anomaly_metric_name"], labels.get("anomaly_stat", "")
        noise, times = float(self._rng.normal(0, 1)), 30.0 if strange else 1.0
        if not stat:
            feed.gauge(name, now_s, (100 + noise) * times, **point)
        elif stat == "rate" and not name.endswith("duration"):
            self._total[number][0] += round((100 + noise) * times)
            feed.counter(name, now_s, float(self._total[number][0]), **point)
        else:
            counts = np.array([0, 0, 0, 0, 500] if strange else [5, 100 + round(noise), 5, 0, 0])
            self._total[number] += counts
            total = float(self._total[number] @ np.array([0.005, 0.05, 0.5, 5, 50]))
            feed.histogram(name, now_s, self._total[number].astype(int).tolist(), BOUNDS, total, **point)


def at_once(folder: Path) -> Path:
    """The rules as they are shipped, but without the wait."""
    path = folder / "rules.yaml"
    rest = [{key: value for key, value in rule.items() if key not in ("for", "keep_firing_for")} for rule in rules()]
    path.write_text(yaml.safe_dump({"groups": [{"name": "domains", "interval": "1s", "rules": rest}]}))
    return path


def test_every_domain_rule_fires_on_what_the_service_emits(tmp_path: Path) -> None:
    names = {rule["alert"] for rule in rules()}
    with Aiops(tmp_path, QUICK) as aiops:
        prometheus = Prometheus(tmp_path, {"otel-aiops": aiops.api}, rules=at_once(tmp_path))
        telemetry, start_s = Telemetry(), time.time() - STEP_S * (CALM + 2)

        def send(step: int, *, strange: bool) -> None:
            for feed in telemetry.step(start_s + STEP_S * step, strange=strange):
                answer = requests.post(
                    f"http://127.0.0.1:{aiops.http}/v1/metrics",
                    data=feed.body(),
                    headers={"Content-Type": "application/x-protobuf"},
                    timeout=30,
                )
                assert answer.status_code == 200

        with prometheus:
            for step in range(CALM):
                send(step, strange=False)
            wait_for(lambda: aiops.metric("otel_aiops_step_queue_size") == 0, "all to be scored")
            calm = {row["metric"]["alertname"] for row in prometheus.query("ALERTS")}
            assert len(calm) < len(names) / 5, f"without a cause: {calm}"
            for step in (CALM, CALM + 1):
                send(step, strange=True)

            def firing() -> list[dict[str, Any]]:
                found = requests.get(f"{prometheus.url}/api/v1/alerts", timeout=10).json()["data"]["alerts"]
                return found if names <= {one["labels"]["alertname"] for one in found} else []

            try:
                alerts = wait_for(firing, "every rule to fire", timeout_s=60)
            except AssertionError:
                found = requests.get(f"{prometheus.url}/api/v1/alerts", timeout=10).json()["data"]["alerts"]
                raise AssertionError(f"silent: {names - {one['labels']['alertname'] for one in found}}") from None
            silent = {title for title, expression in asked_by_grafana() if not prometheus.query(expression)}
            assert not silent & names, f"fires in Prometheus, and not in Grafana: {silent & names}"
    for one in alerts:
        summary = one["annotations"]["summary"]
        assert "<" not in summary and "  " not in summary and float(one["value"]) >= 1, summary
        assert not re.search(r"(^|[ /])(of|to|on|for) *(\(|$)| / |(^| )/ ", summary), summary
    pods = {
        one["labels"].get("k8s_pod_name") for one in alerts if one["labels"]["alertname"].startswith("KubernetesPod")
    }
    assert pods == {"cart-1"}
