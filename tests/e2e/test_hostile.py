"""A shop whose services, operations, metrics and logs have names that do harm: they are text wherever they come out."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from playwright.sync_api import Browser, Dialog, expect, sync_playwright
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from otel_aiops.cli import app
from otel_aiops.shop import LiveShop
from tests.feed import Feed
from tests.hostile import ALL, HOSTILE
from tests.incident_feed import BREAKS_S, OUTAGE, START_S, call, started, steps
from tests.responses.receiver import Receiver, receiving
from tests.servers import require, wait_for
from tests.test_app import Running
from tests.tools import chromium

pytestmark = pytest.mark.servers

NAME = ALL[:500]  # as much of a name as incidents keep
OPERATION = f"GET /{ALL}"
ECHO = "import json, sys; print(json.dumps(sys.argv[1:]))"
TEXT = "{title} {summary} {service} {operation} {reason} {resource}"
HIDDEN = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
PATHS = {
    *("/base", "/base/told", "/base/api/v2/silences", "/base/api/annotations", "/base/repos/team/shop/issues"),
    *("/base/repos/team/shop/actions/workflows/w.yml/dispatches", "/base/api/v2/alerts"),
    *("/base/shop%2Fcatalog", "/base/api/v1/query"),
}
REQUESTS = (
    (ExportMetricsServiceRequest, "metrics", "resource_metrics"),
    (ExportTraceServiceRequest, "traces", "resource_spans"),
    (ExportLogsServiceRequest, "logs", "resource_logs"),
)


def configured(url: str) -> str:
    """Every kind of step, each in a playbook of its own."""
    http = {"url": f"{url}/base", "attempts": 1}
    kinds = ("notify", "webhook", "command", "scale", "silence", "annotation", "issue", "workflow")
    books = []
    for kind in kinds:
        do: dict[str, Any] = {"kind": kind, "use": "it", "text": TEXT} | ({"add": 1} if kind == "scale" else {})
        step: dict[str, Any] = {"do": do, "guard": {"cooldown": 0, "targets": 100, "most": 100}}
        if kind == "webhook":
            step["verify"] = {"by": "promql", "query": "up == 1", "within": 1}
        books.append({"name": kind, "dry_run": False, "steps": [step]})
    tree = {
        "enabled": True,
        "late": "10000d",
        "prometheus": http,
        "notify": [{"name": "it", "urls": [f"{url.replace('http', 'json')}/base/told"]}],
        "webhooks": [{"name": "it", "to": http}],
        "commands": [{"name": "it", "argv": [sys.executable, "-c", ECHO, "{service}"]}],
        "scalers": [{"name": "it", "targets": {NAME: "shop/catalog"}, "http": http}],
        "alertmanagers": [{"name": "it", "to": http}],
        "grafanas": [{"name": "it", "to": http}],
        "trackers": [{"name": "it", "to": http, "project": "team/shop"}],
        "workflows": [
            {**{"name": "it", "to": http, "project": "team/shop", "workflow": "w.yml"}, "inputs": {"s": "{service}"}}
        ],
    }
    posted = {"to": [http], "resend": 1, "page": "https://aiops.example.com", "silences": 0}
    posted |= {"runbook": "https://wiki.example.com/{service}"}
    return f"responses: {json.dumps(tree)}\nplaybooks: {json.dumps(books)}\nalertmanager: {json.dumps(posted)}\n"


def renamed(body: bytes, request: Any, groups: str, names: dict[str, str]) -> bytes:
    """A request in which services have other names, and what they do too."""
    tree = request.FromString(body)
    for group in getattr(tree, groups):
        for one in group.resource.attributes:
            if one.key in ("service.name", "k8s.deployment.name"):
                own = one.value.string_value
                one.value.string_value = names.setdefault(own, own)
        for scope in getattr(group, groups.replace("resource", "scope")):
            for span in getattr(scope, "spans", ()):
                if "GetProduct" in span.name:
                    span.name = OPERATION
            for record in getattr(scope, "log_records", ()):
                record.body.string_value += f" {ALL}"
    found: bytes = tree.SerializeToString()
    return found


def fed(up: Running, names: dict[str, str]) -> None:
    shop = LiveShop(START_S, rate=12, plan=[OUTAGE])
    for step in range(steps(BREAKS_S + 60)):
        for body, (request, signal, groups) in zip(shop.requests(step), REQUESTS, strict=True):
            if body:
                assert up.send(renamed(body, request, groups, names), signal).status_code == 200
        if not step % 5:
            for name, value in HOSTILE.items():
                at_s = START_S + 5 * step
                more = {value[:200]: value, "which": name}
                feed = Feed(value[:2_000]).gauge(f"hostile {value[:200]}", at_s, step % 3, unit=value[:60], **more)
                answer = up.send(feed)
                assert answer.status_code == 200, (name, answer.text)
    up.settle()


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        found.routes["GET", "/base/shop%2Fcatalog"] = {"replicas": 2}
        found.routes["POST", "/base/api/v2/silences"] = {"silenceID": "s1"}
        found.routes["POST", "/base/api/annotations"] = {"id": 1}
        yield found


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Running]:
    odd = iter(value for name, value in HOSTILE.items() if name not in ("empty", "long"))
    names = {"catalog": NAME}
    shop = LiveShop(START_S, rate=12)
    for service in sorted({service for service in shop_services(shop)} - {"catalog"}):
        names[service] = next(odd, service)
    with started(tmp_path_factory.mktemp("state"), configured(receiver.url), still=True) as found:
        fed(found, names)
        yield found


def shop_services(shop: LiveShop) -> Iterator[str]:
    for group in ExportTraceServiceRequest.FromString(shop.requests(0)[1]).resource_spans:
        yield from (one.value.string_value for one in group.resource.attributes if one.key == "service.name")


@pytest.fixture(scope="module")
def incident(up: Running) -> dict[str, Any]:
    found = wait_for(lambda: up.get("/api/v1/incidents")["incidents"], "an incident")
    one: dict[str, Any] = up.get(f"/api/v1/incidents/{found[0]['id']}")
    return one


@pytest.fixture(scope="module")
def runs(up: Running, incident: dict[str, Any]) -> dict[str, dict[str, Any]]:
    ended = ("done", "failed", "refused", "unknown", "not_recovered", "undone", "dry_run")

    def over() -> Any:
        found = up.get("/api/v1/responses")["responses"]
        return found if len(found) == 8 and all(one["state"] in ended for one in found) else None

    return {one["playbook"]: one for one in wait_for(over, "the playbooks to end")}


class TestApi:
    def test_tells_names_as_they_came(self, up: Running, incident: dict[str, Any]) -> None:
        assert incident["suspects"][0]["service"] == NAME
        found = up.get("/api/v1/incidents", service=NAME)
        assert [one["id"] for one in found["incidents"]] == [incident["id"]]
        whole = {
            name: value for name, value in HOSTILE.items() if name not in ("empty", "long")
        }  # what is kept of them
        services = {one["service"] for one in up.get("/api/v1/quality", limit=1_000)["services"]}
        assert set(whole.values()) <= services
        for value in whole.values():
            some = up.get("/api/v1/series", service=value, limit=5)["series"]
            assert {one["service"] for one in some} == {value}

    def test_asks_for_a_series_by_its_own_name_and_gets_just_that(self, up: Running) -> None:
        for value in ("promql", "regex", "attribute"):
            (one, *_) = up.get("/api/v1/series", service=HOSTILE[value], limit=1)["series"]
            assert up.get("/api/v1/explain", series=one["fingerprint"])["series"] == one["series"]
            answer = call(up, "GET", "explain", series=f"hostile{HOSTILE[value]}")
            assert answer.status_code == 400 and answer.json()["error"]

    def test_exposes_metrics_that_can_be_read(self, up: Running) -> None:
        def families() -> list[Any]:
            text = requests.get(f"http://127.0.0.1:{up.ports['api']}/metrics", timeout=60).text
            return list(text_string_to_metric_families(text))

        def services() -> set[str | None]:
            return {one.labels.get("service_name") for family in families() for one in family.samples}

        wanted = {HOSTILE["promql"], HOSTILE["newline"], HOSTILE["tag"]}
        wait_for(lambda: wanted <= services(), "the figures of the services to be told")
        assert "owned" not in {one.name for family in families() for one in family.samples}

    def test_writes_a_report_without_marks_of_its_own(self, up: Running, incident: dict[str, Any]) -> None:
        url = f"http://127.0.0.1:{up.ports['api']}/api/v1/incidents/{incident['id']}/report"
        answer = requests.get(url, timeout=30)
        assert answer.headers["Content-Type"].startswith("text/markdown")
        assert not re.search(r"(?<!\\)(<script|<img|!?\[\w+\]\()", answer.text)


class TestResponses:
    def test_go_where_the_configuration_says(self, receiver: Receiver, runs: dict[str, dict[str, Any]]) -> None:
        assert set(runs) == {"notify", "webhook", "command", "scale", "silence", "annotation", "issue", "workflow"}
        assert {one.path.partition("?")[0] for one in receiver.asked} <= PATHS
        assert not any("X-Owned" in one.headers for one in receiver.asked)
        assert not Path("/tmp/owned").exists()

    def test_a_command_is_not_run_with_what_is_no_name(self, runs: dict[str, dict[str, Any]]) -> None:
        (step,) = [one for one in runs["command"]["steps"] if one["role"] == "do"]
        assert step["state"] in ("refused", "failed") and "expected 1 to 253 letters" in step["result"]
        (step,) = [one for one in runs["workflow"]["steps"] if one["role"] == "do"]
        assert step["state"] == "refused" and "expected 1 to 253 letters" in step["result"]

    def test_alerts_have_the_labels_and_links_stay(self, receiver: Receiver, incident: dict[str, Any]) -> None:
        def posted() -> Any:
            found = [one for one in receiver.asked if one.path == "/base/api/v2/alerts"]
            return [alert for one in found for alert in one.json()]

        (alert, *_) = wait_for(posted, "an alert")
        assert alert["labels"]["service_name"] == NAME[:200]
        assert re.fullmatch(r"https://wiki\.example\.com/[\w.~%-]+", alert["annotations"]["runbook_url"])

    def test_files_have_names_of_ours(self, up: Running, runs: dict[str, dict[str, Any]]) -> None:
        for path in up.service.directory.rglob("*"):
            assert re.fullmatch(r"[A-Za-z0-9._=-]+", path.name), path


COMMANDS = (
    *("incidents list", "incidents show {id}", "incidents timeline {id}", "incidents export {id}", "alerts", "budget"),
    *("responses list", "responses show {run}", "graph", "predictions", "advice", "explain {series} now"),
    *("forecast {series} --horizon 5m --step 10s", "models list", "feedback queue", "rollout show"),
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: one.split(" {")[0])
def test_a_terminal_obeys_nothing(
    up: Running, incident: dict[str, Any], runs: dict[str, dict[str, Any]], command: str
) -> None:
    series = up.get("/api/v1/series", service=HOSTILE["ansi"], limit=1)["series"][0]["fingerprint"]
    words = command.format(id=incident["id"], run=runs["notify"]["id"], series=series).split()
    url = f"http://127.0.0.1:{up.ports['api']}"
    answer = CliRunner().invoke(app, [*words, "--url", url], env={"COLUMNS": "200"}, color=True)
    assert answer.exit_code in (0, 1), answer.output
    assert not HIDDEN.search(answer.output), repr(answer.output[:2_000])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = require(chromium.chromium)
    environment: dict[str, Any] = {**os.environ, **chromium.browser().environment}
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        started = playwright.chromium.launch(executable_path=program, args=arguments, env=environment)
        yield started
        started.close()


OWNED = """() => [...document.querySelectorAll('*')].filter(one =>
    [...one.attributes].some(of => of.name.startsWith('on') || (/^\\s*javascript:/i.test(of.value)
        && ['href', 'src', 'action', 'formaction', 'xlink:href'].includes(of.name)))
    || (one.localName === 'script' && !one.src) || one.localName === 'img' || one.localName === 'iframe'
).map(one => one.outerHTML.slice(0, 200))"""


def test_a_page_shows_it_and_runs_nothing(browser: Browser, up: Running, incident: dict[str, Any]) -> None:
    context = browser.new_context(base_url=f"http://127.0.0.1:{up.ports['api']}")
    context.set_default_timeout(60_000)
    tab, complaints = context.new_page(), list[str]()
    tab.on("console", lambda one: complaints.append(one.text) if one.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))

    def asked(dialog: Dialog) -> None:
        complaints.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    tab.on("dialog", asked)
    tab.on("request", lambda one: None if "//127.0.0.1:" in one.url else complaints.append(one.url))
    paths = ["/", "/incidents", "/incidents?view=all", "/series", "/objectives", "/models", "/feedback", "/system"]
    paths += [f"/incidents/{incident['id']}"]
    for name in ("tag", "attribute", "ansi", "bidi", "newline", "nul", "up", "address"):
        (one,) = up.get("/api/v1/series", service=HOSTILE[name], search="hostile", limit=1)["series"]
        paths.append(f"/series/{one['fingerprint']}")
    paths += [target for target in linked(tab, paths[1]) if target not in paths][:20]
    for path in paths:
        tab.goto(path)
        expect(tab.locator("h1"), path).to_be_visible()
        assert tab.title() != "owned" and not tab.evaluate(OWNED), path
        assert not HIDDEN.search(tab.locator("main").inner_text()), path
    tab.goto(f"/incidents/{incident['id']}")
    assert HOSTILE["tag"] in tab.locator("main").inner_text(), "it is shown as what it is"
    context.close()
    assert not complaints


def linked(tab: Any, path: str) -> list[str]:
    """The pages that a page leads to."""
    tab.goto(path)
    hrefs = "() => [...document.querySelectorAll('a[href^=\"/\"]')].map(one => one.getAttribute('href'))"
    found: list[str] = tab.evaluate(hrefs)
    return [one for one in found if not one.startswith(("/api/", "/metrics"))]
