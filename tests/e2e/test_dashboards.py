"""Every query of every dashboard returns data from a real Prometheus that scrapes services that have seen it all."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from otel_aiops import checkup
from otel_aiops.config import ServiceConfig
from otel_aiops.detect.serving import Action, Rollout
from otel_aiops.lifecycle.version import BUNDLE
from tests.feed import Feed
from tests.incident_feed import BREAKS_S, SHORT, START_S, call, feed, steps
from tests.promql import substituted
from tests.responses.receiver import receiving
from tests.server.destinations import NEVER, over_grpc
from tests.servers import Prometheus, wait_for
from tests.test_app import Running
from tests.test_bad_signals import logs_of, record, span, traces_of
from tests.test_rollout import Shop

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(1800)]

DASHBOARDS = sorted((Path(__file__).parents[2] / "grafana" / "dashboards").glob("*.json"))
HOUR_S, PODS, DAYS = 3_600, 8, 12
LEARNED_S = (int(time.time()) // HOUR_S - 24 * DAYS - 1) * HOUR_S  # whose hours are all over
MOVED = 24 * DAYS - 30  # hours after it
SCRAPED_S = 10  # a scrape of everything takes a third of a second, and on a slow machine may take as long as this
SEEN_S = 1_800  # how far the panels look back: over all that the slowest machine has done
EVERYTHING = "emit: {series: all, expected: true, interval: 1s}\n"
ASIDE = "lifecycle: {registry: {enabled: false}, "  # what goes on beside would only take the machine's time
RESPONDS = """
responses:
  {enabled: true, late: 10000d, commands: [{name: right, argv: [/bin/true]}, {name: wrong, argv: [/bin/false]}]}
playbooks:
- {name: told, on: alert, dry_run: false, steps: [{do: {kind: command, use: right}, verify: {within: 1h}}]}
- {name: fails, dry_run: false, steps: [{do: {kind: command, use: wrong}}]}
- {name: asks, dry_run: false, steps: [{do: {kind: command, use: right}, guard: {approvals: 1, expiry: 10h}}]}
"""
QUIET = ASIDE + "monitoring: {enabled: false}}\nselftest: {enabled: false}\n"
WATCHED = ASIDE + "monitoring: {reference: 5d, gap: 2d, interval: 3600}}\n"
WATCHED += "selftest: {enabled: false, max_series: 4, max_points: 240, tested: 0.5}\n"
RECOVERED = "otel_aiops_response_recovery_seconds_count"
FORECAST = "forecast: [{match: {name: disk}, horizon: 2h, step: 1m, interval: 15s, history: 1d, limit: 0.9}]\n"
TIDY = "governance: {drop: [user.id]}\n"
RETRAINED = "series: {max_series: 5}\nselftest: {enabled: false}\n"
RETRAINED += ASIDE + "retrain: {enabled: true, schedule: 1ms, min_interval: 30s}}\n"


def shop_breaks(up: Running) -> None:
    """An incident of the shop; and nonsense among its spans and records."""
    parts = [*range(0, steps(BREAKS_S), 6), steps(BREAKS_S + 60)]
    for start, end in pairwise(parts):  # a busy machine has time for each
        feed(up, start, end)
    orphan, wrong = span(10**6, 2, 1, at_s=BREAKS_S), span(10**6 + 1, 1, at_s=BREAKS_S, name="x" * 100_000)
    for body in (traces_of([orphan, wrong]), traces_of([span(10**6 + 2, 1, at_s=-9_000)])):
        up.send(body, "traces")
    up.send(logs_of([record("x" * 200_000, at_s=BREAKS_S), record(at_s=-9_000)]), "logs")
    up.send(Feed("web").gauge("cpu", 0, 1.0))  # without a time
    at_s = START_S + BREAKS_S
    others_alert(up)
    twice = Feed("web").gauge("cpu", at_s, 1.0)
    for one in (twice, twice, Feed("web").gauge("cpu", at_s - 60, 1.0)):
        up.send(one)
    up.settle()


def others_alert(up: Running) -> None:
    """A playbook acts on an alert of others, and helps; another fails, and one asks."""
    wait_for(lambda: up.metric("otel_aiops_response_waiting") == 1, "a playbook to ask")
    alert = {"labels": {"alertname": "Disk", "service": "cart"}, "startsAt": "2026-01-05T12:00:00Z", "fingerprint": "a"}
    for status in ("firing", "resolved"):
        told = {"alerts": [{**alert, "status": status, "endsAt": "2026-01-05T12:10:00Z"}]}
        assert call(up, "POST", "webhooks/alertmanager", told).status_code == 202
        ran = "otel_aiops_response_delay_seconds_count" if status == "firing" else RECOVERED
        wait_for(lambda ran=ran: up.metric(ran) == 1, f"the playbook, {status}")  # type: ignore[misc]


def disk_fills(up: Running) -> None:
    now_s = time.time() // 60 * 60
    for k in range(180):
        told = Feed("cart").gauge("disk", now_s - 60 * (179 - k), 0.5 + 0.002 * k, unit="1", **{"user.id": k})
        told.counter("orders", now_s - 60 * (179 - k), 100 * k)
        assert up.send(told).status_code == 200
    up.settle()


def disk_is_beyond_its_limit(up: Running) -> None:
    now_s = time.time() // 60 * 60
    for k in range(3):
        up.send(Feed("cart").gauge("disk", now_s + 1 + k, 9.0, unit="1"))
    up.settle()


def leak_is_foreseen_and_comes(up: Running) -> None:
    values = 0.4 + np.maximum(0, np.arange(230) - 60) * 0.004 + np.random.default_rng(3).normal(0, 0.005, 230)
    for k, value in enumerate(values.tolist()):
        told = Feed("cart").gauge("k8s.pod.memory_limit_utilization", START_S + 60 * k, value, unit="1")
        assert up.send(told).status_code == 200
    up.settle()


def model_grows_old(up: Running) -> None:
    """Days of a wave that moves in the end; then a look, a verdict, a self-test, a rollout and one that fails."""
    rng = np.random.default_rng(0)
    for hour in range(24 * DAYS):
        told = Feed("pay")
        for minute in range(0, 60, 5):
            at_s = LEARNED_S + hour * HOUR_S + minute * 60
            wave = 100 + 20 * np.sin(2 * np.pi * at_s / 86_400) + 40 * (hour >= MOVED)
            for pod, noise in enumerate(rng.normal(0, 3, PODS).tolist()):
                told.gauge("load", at_s, wave + noise, pod=str(pod))
        assert up.send(told).status_code == 200
        if hour % 24 == 23:  # a busy machine has time for each
            up.settle()
    up.service._snapshot(up.service.sequence, up.service.ask(up.service.pipeline.state))
    at_s = LEARNED_S + 24 * DAYS * HOUR_S - 600
    for verdict in ("true_alert", "false_alert"):
        said = {"series": 'load{pod="0"}', "time": at_s, "verdict": verdict, "ratio": 1.2, "by": "ana"}
        assert call(up, "POST", "verdicts", said).status_code == 200
    up.settle()
    up.service.checkup.run()
    up.service.monitor.look()
    shop = Shop(up)
    version = shop.challenger()
    assert shop.roll("shadow", version=version).status_code == 200
    other = shop.challenger()
    path = up.service.models.folder(other) / BUNDLE
    path.write_bytes(path.read_bytes()[:-1])
    up.service.ingest.roll(Rollout(action=Action.CANARY, version=other, who="ana", share=0.5))
    wait_for(lambda: up.metric("otel_aiops_rollout_failures_total") == 1, "the order to fail")
    told = Feed("pay")
    for pod in range(PODS):
        told.gauge("load", at_s + 900, 140.0, pod=str(pod))
    up.send(told)
    up.settle()


def small_one_is_full(up: Running) -> None:
    """More series than it may know, and a retraining that there is not enough history for."""
    told = Feed()
    for k in range(20):
        told.gauge("cpu", time.time(), 1, session=k)
    up.send(told)
    up.settle()
    wait_for(lambda: up.metric("otel_aiops_series_worst") == 5, "the worst metric to be named")
    wait_for(lambda: up.metric("otel_aiops_lifecycle_runs_total") >= 1, "a retraining to end", timeout_s=300)
    up.service.retrainer.errand.stop()  # or it tries again and again beside the others


LIVES: dict[str, tuple[str, Callable[[Running], None]]] = {
    "small": (RETRAINED, small_one_is_full),
    "shop": (EVERYTHING + SHORT + QUIET + RESPONDS, shop_breaks),
    "models": (EVERYTHING + WATCHED, model_grows_old),
    "leak": (SHORT + QUIET, leak_is_foreseen_and_comes),
    "disk": (EVERYTHING + FORECAST + TIDY + QUIET, disk_fills),
}
STILL = ("leak", "shop")  # no time passes in them by itself, so that an incident stays open


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("dashboards")
    with ExitStack() as stack:
        patched = stack.enter_context(pytest.MonkeyPatch.context())
        patched.setattr(checkup, "NICE", 0)  # or a busy machine never comes to it
        destination = stack.enter_context(over_grpc())
        destination.replies += [NEVER] * 3
        alertmanager = stack.enter_context(receiving())
        alertmanager.routes["GET", "/api/v2/silences"] = []
        posts = f"alertmanager: {{to: [{{url: '{alertmanager.url}'}}]}}\n"
        sends = f"exporters: {{otlp: {{endpoint: '{destination.endpoint}', tls: {{insecure: true}}}}}}\n"
        running = {}
        for name, (config, _) in LIVES.items():
            up = running[name] = Running(folder / name, config + {"disk": sends, "shop": posts}.get(name, ""))
            if name in STILL:
                up.service.config = replace(up.service.config, service=ServiceConfig(tick_interval=HOUR_S))
            up.service.start()
            stack.callback(running[name].service.stop)
        scraped = {name: up.ports["api"] for name, up in running.items()}
        found = stack.enter_context(Prometheus(folder, scraped, every_s=SCRAPED_S))
        wait_for(lambda: len(found.query("otel_aiops_build_info")) == len(LIVES), "all to be scraped")
        for name, (_, live) in LIVES.items():
            live(running[name])
        for name in (
            "incident_active",
            "quality_problems_total",
            "forecast_expected",
            "forecast_exhaustion_time_seconds",
        ):
            wait_for(lambda name=name: found.query(f"otel_aiops_{name}"), f"{name} to be scraped")  # type: ignore[misc]
        disk_is_beyond_its_limit(running["disk"])
        yield found


def asked(prometheus: Prometheus, target: dict[str, Any]) -> list[Any]:
    now = time.time()
    query = {"query": substituted(target["expr"], interval=f"{4 * SCRAPED_S}s", span=f"{SEEN_S}s")}
    over = {"time": now} if target.get("instant") else {"start": now - SEEN_S, "end": now, "step": SCRAPED_S}
    path = "query" if target.get("instant") else "query_range"
    answer = requests.get(f"{prometheus.url}/api/v1/{path}", params={**query, **over}, timeout=30)
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()["data"]["result"]
    return found


def left(wanted: list[Any], holds: Callable[[Any], bool]) -> list[Any]:
    """Those that do not hold in a minute: a scrape that was missed makes what holds now empty until the next one."""
    ends_s = time.monotonic() + 60
    while wanted and time.monotonic() < ends_s:
        wanted = [one for one in wanted if not holds(one)]
    return wanted


def finite(results: list[Any]) -> bool:
    values = (value for one in results for _, value in one.get("values") or [one["value"]])
    return any(value not in ("NaN", "+Inf", "-Inf") for value in values)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_query_of_every_panel_returns_data(prometheus: Prometheus, path: Path) -> None:
    panels = json.loads(path.read_text())["panels"]
    told = [(panel["title"], target) for panel in panels for target in panel.get("targets", ())]
    empty = left(told, lambda one: finite(asked(prometheus, one[1])))
    assert not empty, "\n".join(f"{title}: {one['expr']}" for title, one in empty)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_variable_has_values(prometheus: Prometheus, path: Path) -> None:
    def has(variable: dict[str, Any]) -> bool:
        selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
        found = asked(prometheus, {"expr": f"count by ({label}) ({selector})", "instant": True})
        return any(one["metric"].get(label) for one in found)

    variables = json.loads(path.read_text())["templating"]["list"]
    empty = left([one for one in variables if one["type"] == "query"], has)
    assert not empty, ", ".join(one["name"] for one in empty)
