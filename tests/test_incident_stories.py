"""What incidents promise, seen as users see it: through the API and the commands of a running service."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from otel_aiops.cli import app
from otel_aiops.incidents.incident import Channel, Finding
from tests.feed import Feed
from tests.incident_feed import call, started
from tests.incidents.makers import T0, at, finding
from tests.test_app import Running

T0_S = T0 / 1e9
STORM, MINUTE_S = 100_000, 60


def of_collector(up: Running) -> None:
    """What the connectors service_graph and span_metrics say of a minute of calls; no span comes."""
    for k in range(7):
        time_s = T0_S - 70 + 10 * k
        calls = Feed("collector")
        for client, server in (("web", "cart"), ("cart", "stock"), ("web", "pay")):
            ends: dict[str, Any] = {"client": client, "server": server, "connection_type": ""}
            calls.counter("traces_service_graph_request_total", time_s, 100 + 20 * k, **ends)
            calls.counter("traces_service_graph_request_failed_total", time_s, 10 + 5 * k, **ends)
        database: dict[str, Any] = {"client": "stock", "server": "postgresql", "connection_type": "database"}
        calls.counter("traces_service_graph_request_total", time_s, 100 + 20 * k, **database)
        spans: list[tuple[str, dict[str, Any]]] = [
            ("cart", {"span.kind": "SPAN_KIND_CLIENT", "db.system.name": "redis", "server.address": "r1"}),
            ("web", {"span.kind": "SPAN_KIND_PRODUCER", "messaging.system": "kafka"}),
            ("mailer", {"span.kind": "SPAN_KIND_CONSUMER", "messaging.system": "kafka"}),
        ]
        assert up.send(calls).status_code == 200
        for service, has in spans:
            if "messaging.system" in has:
                has["messaging.destination.name"] = "orders"
            told = Feed(service).counter("traces.span.metrics.calls", time_s, 100 + 20 * k, **{"span.name": "x", **has})
            assert up.send(told).status_code == 200
    up.settle()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with started(tmp_path_factory.mktemp("state"), still=True) as found:
        of_collector(found)
        yield found


def give(up: Running, at_s: float, *findings: Finding) -> None:
    """Let these be found, and time pass until then."""

    def update() -> None:
        told = up.service.pipeline.analysis.incidents.update(findings, at(at_s))
        up.service.chronicle.write(told, at(at_s))

    up.service.ask(update)


def opened(up: Running, at_s: float, found: Finding) -> str:
    """Let this be found; the id of its incident."""
    give(up, at_s, found)
    (one,) = up.get("/api/v1/incidents", service=found.service, state="open")["incidents"]
    name: str = one["id"]
    return name


def shown(up: Running, name: str) -> dict[str, Any]:
    found: dict[str, Any] = up.get(f"/api/v1/incidents/{name}")
    return found


def kinds(one: dict[str, Any]) -> list[str]:
    return [line["kind"] for line in one["timeline"]]


def command(up: Running, *words: str) -> str:
    url = f"http://127.0.0.1:{up.ports['api']}"
    done = CliRunner().invoke(app, [*words, "--url", url], env={"COLUMNS": "250", "USER": "ann"})
    assert done.exit_code == 0, done.output
    return done.output


def test_the_service_graph_comes_of_metrics_alone(up: Running) -> None:
    found = up.get("/api/v1/service-graph")
    edges = {(one["caller"], one["callee"]): one for one in found["edges"]}
    kinds_of = {one["name"]: one["kind"] for one in found["nodes"]}
    assert edges["web", "cart"]["calls_s"] == pytest.approx(2.0) and edges["web", "cart"]["error_ratio"] == 0.25
    assert ("stock", "postgresql") in edges and kinds_of["postgresql"] == "database"
    assert ("cart", "redis:r1") in edges and kinds_of["redis:r1"] == "database"
    assert {("web", "kafka:orders"), ("kafka:orders", "mailer")} <= edges.keys()
    assert kinds_of["kafka:orders"] == "messaging" and kinds_of["cart"] == "service"
    assert up.metric("otel_aiops_spans_read_total") == 0
    assert "kafka:orders" in command(up, "graph")


def test_no_candidate_is_said(up: Running) -> None:
    name = opened(up, 12, finding("alone", 0))
    one = shown(up, name)
    assert one["suspects"] == [] and one["title"] == "alone is slow"
    assert one["summary"] == (
        "Since 22:13 UTC alone is slow: `charge` takes 1.2 s instead of 80 ms (310 requests). "
        "No candidate for the cause."
    )
    assert "No candidate for the cause" in command(up, "incidents", "show", name)
    assert "No candidate for the cause" in command(up, "incidents", "export", name)


def test_what_comes_back_is_the_same_incident(up: Running) -> None:
    name = opened(up, 1_000, finding("flaps", 990, 998, end_s=998))
    give(up, 1_140)
    assert shown(up, name)["state"] == "resolved"
    assert opened(up, 1_182, finding("flaps", 1_175, 1_180)) == name
    one = shown(up, name)
    assert one["state"] == "open" and one["flaps"] == 1 and {"resolved", "reopened"} <= set(kinds(one))
    states = [each["state"] for each in up.get(f"/api/v1/incidents/{name}/timeline")["revisions"]]
    assert states[0] == "open" and "resolved" in states and states[-1] == "open"
    assert "reopened" in command(up, "incidents", "timeline", name)
    assert len(up.get("/api/v1/incidents", service="flaps")["incidents"]) == 1


def test_two_become_one_and_one_becomes_two(up: Running) -> None:
    left = opened(up, 3_012, finding("cart", 3_000))
    right = opened(up, 3_032, finding("pay", 3_000, 3_030))
    give(up, 3_062, finding("web", 3_050, 3_060))
    gone, survivor = shown(up, right), shown(up, left)
    assert gone["state"] == "merged" and gone["merged_into"] == left and "merged" in kinds(survivor)
    assert survivor["services"] == ["cart", "pay", "web"]
    assert f"merged into `{left}`" in command(up, "incidents", "export", right)

    bridge = finding("splits", 5_000, 5_480, what="bridge")
    give(up, 5_490, bridge)
    whole = opened(up, 5_512, finding("splits", 5_500, 5_510, what="later"))
    give(up, 5_520, replace(bridge, last_ns=at(5_520), end_ns=at(5_100)))
    give(up, 5_560)
    parts = up.get("/api/v1/incidents", service="splits")["incidents"]
    assert len(parts) == 2 and whole in [one["id"] for one in parts]
    assert all("split" in kinds(shown(up, one["id"])) for one in parts)


def test_whoever_suppresses_is_told(up: Running) -> None:
    about = {
        "name": "move",
        "start": str(T0_S + 6_900),
        "for": "10m",
        "services": ["pay"],
        "who": "bob",
        "why": "disks",
    }
    made = call(up, "POST", "maintenance", about)
    assert made.status_code == 200, made.text
    name = opened(up, 7_012, finding("pay", 7_000, 7_010, end_s=7_010))
    assert shown(up, name)["suppressed_by"] == "maintenance move by bob: disks"
    assert shown(up, name)["blast_radius"] == ["pay", "web"], "and who depends on it"
    assert "suppressed by maintenance move by bob: disks" in command(up, "incidents", "show", name)
    call(up, "DELETE", "maintenance/move", who="bob")
    give(up, 7_300)

    cause = opened(up, 9_005, finding("postgresql", 9_000, channel=Channel.RESOURCE))
    symptom = opened(up, 9_020, finding("web", 9_010))
    assert shown(up, symptom)["suppressed_by"] == f"dependency postgresql: incident {cause}"
    assert f"dependency postgresql: incident {cause}" in command(up, "incidents", "show", symptom)


def test_similar_ones_of_the_past_are_shown_with_their_cause(up: Running) -> None:
    past = opened(up, 11_012, finding("again", 11_000, 11_010, end_s=11_010))
    give(up, 11_400)
    now = opened(up, 13_012, finding("again", 13_000))
    one = shown(up, now)
    first = one["similar_incidents"][0]
    assert (first["id"], first["state"], first["title"]) == (past, "resolved", "again is slow")
    assert past in command(up, "incidents", "show", now)


def test_a_prediction_can_be_checked_at_its_series(tmp_path: Path) -> None:
    """A leak is foreseen, told with its series, and comes true."""
    random = np.random.default_rng(3)
    values = 0.4 + np.maximum(0, np.arange(230) - 60) * 0.004 + random.normal(0, 0.005, 230)
    with started(tmp_path, still=True) as up:

        def leak(first: int, last: int) -> None:
            for k in range(first, last):
                told = Feed("cart").gauge("k8s.pod.memory_limit_utilization", T0_S + 60 * k, float(values[k]), unit="1")
                assert up.send(told).status_code == 200
            up.settle()

        leak(0, 140)
        (said,) = up.get("/api/v1/predictions")["standing"]
        about = said["prediction"]
        assert about["what"] == "exhaustion" and 0 < about["probability"] <= 1 and about["horizon_s"] > 0
        assert 0 < about["earliest_s"] < about["lead_s"] < about["latest_s"] and about["expires"] > said["detected_at"]
        (found,) = shown(up, said["id"])["findings"]
        series = up.get(f"/api/v1/series/{found['evidence']['series']}")
        assert "k8s.pod.memory_limit_utilization" in str(series)
        assert "Memory of cart runs out" in command(up, "predictions")
        leak(140, 230)
        told = up.get("/api/v1/predictions")
        (hit,) = told["decided"]
        assert hit["id"] == said["id"] and hit["prediction"]["outcome"] == "hit"
        assert told["records"]["exhaustion"]["hits"] == 1 and told["lead_s"]["p50"] > 600


@pytest.mark.slow
def test_a_storm_of_a_hundred_thousand_neither_blocks_nor_is_lost(tmp_path: Path) -> None:
    """A minute of 100 k findings of 400 services: points are taken while they are grouped, and every finding is in an
    incident. Steps are measured in processor time, against what telling of all findings each time would cost.
    """
    found = [finding(f"s{n % 400}", n * MINUTE_S // STORM, MINUTE_S, what=f"op{n}") for n in range(STORM)]
    with started(tmp_path, still=True) as up, ThreadPoolExecutor(1) as beside:
        waited_s: list[float] = []
        took_s: list[float] = []

        def storm(at_s: float, *some: Finding) -> None:
            def update() -> None:
                begun_s = time.thread_time()
                told = up.service.pipeline.analysis.incidents.update(some, at(at_s))
                up.service.chronicle.write(told, at(at_s))
                took_s.append(time.thread_time() - begun_s)

            up.service.ask(update)

        for step in range(12):
            part = found[step * STORM // 12 : (step + 1) * STORM // 12]
            grouped = beside.submit(storm, 5 * step + 5, *part)
            while not grouped.done() or len(waited_s) <= step:
                sent_s = time.monotonic()
                body = Feed("cart").gauge("cpu", T0_S + 5 * step + len(waited_s) % 5, 50.0)
                assert up.send(body).status_code == 200
                waited_s.append(time.monotonic() - sent_s)
                time.sleep(0.1)
            grouped.result()
        assert max(waited_s) < 10, "what is sent is taken meanwhile"
        assert max(took_s) < 10, "a step takes one or two seconds, on whatever machine less than five times that"
        for second in range(61, 70):
            give(up, second)
        live = up.service.ask(up.service.pipeline.analysis.incidents.open)
        assert len(live) == 400 and sum(len(one.findings) + one.more_findings for one in live) == STORM
        kept = up.service.chronicle.journal.page(limit=1_000).incidents
        assert len(kept) == 400 and sum(len(one.findings) + one.more_findings for one in kept) == STORM
        assert sum(len(one.findings) for one in kept) <= 10_000, "rows of the journal are bounded, the others counted"
        assert up.metric("otel_aiops_step_failures_total") == 0
