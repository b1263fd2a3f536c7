"""Incidents of a running service: what the API shows, what operators decide, and that a crash repeats nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from typer.testing import CliRunner

from otel_aiops.chronicle import IncidentFiles
from otel_aiops.cli import app
from otel_aiops.errors import BadInput
from otel_aiops.incidents.advice import advise
from otel_aiops.incidents.codec import from_line
from otel_aiops.incidents.incident import State
from otel_aiops.otlp.semconv import INCIDENT_EVENTS
from otel_aiops.otlp.signal import Signal
from otel_aiops.server.grpc_receiver import GrpcConfig
from otel_aiops.server.http_receiver import HttpConfig
from otel_aiops.server.receiver import Receiver
from tests.desk.makers import prediction
from tests.incident_feed import BREAKS_S, START_S, broken, call, feed, started, steps
from tests.server.sending import Sink
from tests.servers import wait_for
from tests.test_app import Running


@pytest.fixture(scope="module")
def sink() -> Iterator[tuple[Sink, str]]:
    """Where scores and events go."""
    found = Sink()
    receiver = Receiver(GrpcConfig(endpoint="127.0.0.1:0"), HttpConfig(endpoint="127.0.0.1:0"), found)
    receiver.bind()
    receiver.start()
    yield found, f"127.0.0.1:{receiver.ports['grpc']}"
    receiver.stop(1.0)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> IncidentFiles:
    folder = tmp_path_factory.mktemp("told")
    return IncidentFiles(folder / "incidents.jsonl", folder / "predictions.jsonl")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, sink: tuple[Sink, str], files: IncidentFiles) -> Iterator[Running]:
    more = f"exporters: {{otlp: {{endpoint: '{sink[1]}', tls: {{insecure: true}}}}}}\n"
    with broken(tmp_path_factory.mktemp("state"), more, told=files) as found:
        yield found


def first(up: Running) -> dict[str, Any]:
    found: dict[str, Any] = up.get("/api/v1/incidents")["incidents"][-1]
    return found


class TestShown:
    def test_a_list_has_what_one_decides_by(self, up: Running) -> None:
        found = first(up)
        assert found["suspects"][0]["service"] == "catalog" and found["suspects"][0]["confidence"] > 0.5
        assert found["start"] - START_S == pytest.approx(BREAKS_S, abs=20) and found["detected_at"] >= found["start"]
        assert found["severity"] in ("warning", "critical") and "catalog" in found["services"] and found["title"]
        assert not {"findings", "timeline"} & found.keys() and "evidence" not in found["suspects"][0]

    @pytest.mark.parametrize(
        ("asked", "taken"),
        [
            ({"state": "open,acknowledged,resolved"}, True),
            ({"state": "expired"}, False),
            ({"state": "predicted"}, False),
            ({"predicted": "true"}, True),
            ({"service": "catalog"}, True),
            ({"service": "nobody"}, False),
            ({"suspect": "catalog", "channel": "errors"}, True),
            ({"from": "2026-01-05T12:02:00Z", "until": "2026-01-05T13:00:00Z"}, True),
            ({"from": "2026-01-05T13:00:00Z"}, False),
            ({"until": str(START_S)}, False),
            ({"limit": "0"}, False),
            ({"offset": "1000"}, False),
        ],
    )
    def test_a_list_keeps_what_is_asked_for(self, up: Running, asked: dict[str, str], taken: bool) -> None:
        name = first(up)["id"]
        assert (name in [one["id"] for one in up.get("/api/v1/incidents", **asked)["incidents"]]) is taken

    def test_live_and_past_take_the_same(self, up: Running) -> None:
        live = up.get("/api/v1/incidents", state="open,acknowledged")
        journal = up.get("/api/v1/incidents", state="open,acknowledged,expired")
        assert live == journal

    def test_one_has_everything(self, up: Running) -> None:
        found = up.get(f"/api/v1/incidents/{first(up)['id']}")
        assert found["findings"] and found["suspects"][0]["evidence"] and found["similar_incidents"] == []
        assert {"opened", "ranked"} <= {line["kind"] for line in found["timeline"]}
        assert from_line(found).suspects[0].service == "catalog"

    def test_its_timeline_goes_up_to_now(self, up: Running) -> None:
        name = first(up)["id"]
        found = up.get(f"/api/v1/incidents/{name}/timeline")
        revisions = [one["revision"] for one in found["revisions"]]
        assert revisions == list(range(1, found["revision"] + 1))
        assert [one["time"] for one in found["revisions"]] == sorted(one["time"] for one in found["revisions"])
        assert all(one["suspects"][0]["service"] == "catalog" for one in found["revisions"])
        last = up.get(f"/api/v1/incidents/{name}/timeline", limit=1)["revisions"]
        assert [one["revision"] for one in last] == revisions[-1:]

    def test_its_report_is_markdown(self, up: Running) -> None:
        answer = call(up, "GET", f"incidents/{first(up)['id']}/report")
        assert answer.headers["Content-Type"] == "text/markdown; charset=utf-8"
        assert answer.text.startswith("# Post-mortem: ") and "## Suspects" in answer.text

    def test_surroundings(self, up: Running) -> None:
        graph = up.get("/api/v1/service-graph")
        edges = {(edge["caller"], edge["callee"]): edge for edge in graph["edges"]}
        assert edges["web", "catalog"]["calls_s"] > 0 and edges["web", "catalog"]["error_ratio"] > 0.05
        assert {"name": "postgresql:shop", "kind": "database"} in graph["nodes"]
        (found,) = up.get("/api/v1/deployments", service="catalog")["deployments"]
        assert (found["what"], found["before"], found["after"]) == ("version", "1.4.0", "1.4.1")
        assert up.get("/api/v1/deployments", service="web")["total"] == 0
        advice = up.get("/api/v1/advice")
        assert advice["advice"] == [] and advice["series"] > 0  # a week of history is needed
        told = up.get("/api/v1/predictions")
        assert len(told["reliability"]) == 10 and told["lead_s"]["count"] == told["hits"]

    def test_is_described(self, up: Running) -> None:
        paths = up.get("/api/v1/openapi.json")["paths"]
        assert set(paths["/api/v1/incidents/{id}"]) == {"get", "post"}
        assert set(paths["/api/v1/silences/{name}"]) == {"delete"}


BAD = [
    ("GET", "incidents", {"state": "broken"}, None, "state: expected one of predicted, open, "),
    ("GET", "incidents", {"severity": "bad"}, None, "severity: expected one of info, warning, critical, got 'bad'"),
    ("GET", "incidents", {"from": "yesterday"}, None, "from: expected ISO 8601"),
    ("GET", "incidents", {"from": "-2h", "until": "-3h"}, None, "until: expected a time after `from`"),
    ("GET", "incidents", {"until": "9" * 40}, None, "until: expected a time from 1970"),
    ("GET", "incidents", {"limit": "many"}, None, "limit: expected a whole number, got 'many'"),
    ("GET", "incidents", {"limit": "1001"}, None, "limit: expected at most 1000"),
    ("GET", "incidents", {"offset": "-1"}, None, "offset: expected at least 0"),
    ("GET", "incidents", {"predicted": "maybe"}, None, "predicted: expected true or false"),
    ("GET", "incidents", {"status": "open"}, None, "status: is not a known key; known here: state, severity"),
    ("GET", "deployments", {"from": "x"}, None, "from: expected ISO 8601"),
    ("GET", "predictions", {"limit": "-1"}, None, "limit: expected at least 0"),
    ("GET", "advice", {"limit": "1.5"}, None, "limit: expected a whole number"),
    ("POST", "incidents/{id}", {}, {"action": "acknowledge"}, "who: expected a value, got none"),
    ("POST", "incidents/{id}", {}, {"action": "delete", "who": "me"}, "action: expected one of acknowledge, resolve"),
    ("POST", "incidents/{id}", {}, {"action": "resolve", "who": "me", "when": 1}, "when: is not a known key"),
    ("POST", "incidents/{id}", {}, [], "expected an object with action, who, why"),
    ("POST", "silences", {}, {"for": "2h"}, "who: expected a value"),
    ("POST", "silences", {}, {"who": "me"}, "until: expected a time, or `for` with how long it lasts; got neither"),
    ("POST", "silences", {}, {"who": "me", "for": "2h", "until": "now"}, "until: expected a time, or `for`"),
    ("POST", "silences", {}, {"who": "me", "for": "long"}, "for: expected a span of time such as 90s"),
    ("POST", "silences", {}, {"who": "me", "for": -1}, "for: expected a span of time"),
    ("POST", "silences", {}, {"who": "me", "until": "-1h"}, "until: expected a time that is still to come"),
    ("POST", "silences", {}, {"who": "me", "until": [1]}, "until: expected ISO 8601 or unix seconds"),
    ("POST", "silences", {}, {"who": "me", "for": "1h", "name": "a/b"}, "name: expected 1 to 100 letters"),
    ("POST", "silences", {}, {"who": "me", "for": "1h", "services": 3}, "services: expected a list"),
    ("POST", "silences", {}, {"who": "me", "for": "1h", "services": [3]}, "services: expected texts"),
    ("POST", "silences", {}, {"who": "me", "for": "1h", "channels": ["x"]}, "channels: expected one of deployment"),
    ("POST", "silences", {}, {"who": 3, "for": "1h"}, "who: expected a text"),
    ("POST", "maintenance", {}, {"who": "me"}, "end: expected a time, or `for`"),
    ("POST", "maintenance", {}, {"who": "me", "start": "now", "end": "-1h"}, "end: expected an end after the start"),
    ("POST", "maintenance", {}, {"who": "me", "for": "2h", "every": "1h"}, "every: expected at least the length"),
    ("POST", "maintenance", {}, {"who": "me", "start": "-3h", "for": "1h"}, "end: expected a time that is still to"),
    ("DELETE", "maintenance/nightly", {"who": "me"}, None, "name: 'nightly' is in the configuration"),
    ("DELETE", "silences/x", {}, None, "who: expected a value"),
]


class TestBadInput:
    @pytest.mark.parametrize(("method", "path", "params", "tree", "said"), BAD, ids=lambda one: str(one)[:40])
    def test_is_refused_in_words(
        self, up: Running, method: str, path: str, params: dict[str, str], tree: Any, said: str
    ) -> None:
        answer = call(up, method, path.replace("{id}", first(up)["id"]), tree, **params)
        assert answer.status_code == 400 and answer.json()["error"].startswith(said), answer.text

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "incidents/none"),
            ("GET", "incidents/none/timeline"),
            ("GET", "incidents/none/report"),
            ("POST", "incidents/none"),
            ("DELETE", "silences/none"),
            ("DELETE", "maintenance/none"),
        ],
    )
    def test_what_is_not_there_is_not_found(self, up: Running, method: str, path: str) -> None:
        tree = {"action": "resolve", "who": "me"} if method == "POST" else None
        params = {"who": "me"} if method == "DELETE" else {}
        answer = call(up, method, path, tree, **params)
        assert answer.status_code == 404 and "'none'" in answer.json()["error"]

    def test_no_json(self, up: Running) -> None:
        url = f"http://127.0.0.1:{up.ports['api']}/api/v1/silences"
        for body in (b"", b"{", b"\xff", b"[" * 100_000):
            answer = requests.post(url, data=body, timeout=30)
            assert answer.status_code == 400 and answer.json()["error"].startswith("expected a silence as JSON")


class TestDecided:
    def test_rules_hold_until_they_end(self, up: Running) -> None:
        asked = {"name": "migration", "for": "2h", "services": ["shipping*"], "channels": ["errors"], "who": "ann"}
        made = call(up, "POST", "silences", asked | {"why": "a new index"}).json()
        assert made["active"] and made["services"] == ["shipping*"] and made["channels"] == ["errors"]
        assert made["until"] - up.service.pipeline.event_ns / 1e9 == pytest.approx(7200, abs=60)
        longer = call(up, "POST", "silences", asked | {"for": 10_800, "why": "slow"}).json()
        assert up.get("/api/v1/silences")["silences"] == [longer] and longer["why"] == "slow"
        clash = call(up, "POST", "maintenance", {"name": "migration", "for": "1h", "who": "ann"})
        assert clash.status_code == 400 and "because a silence has the name 'migration'" in clash.text
        window = call(up, "POST", "maintenance", {"for": "1h", "start": "2030-01-01", "every": "7d", "who": "bob"})
        assert window.json()["start"] == 1_893_456_000 and not window.json()["active"], window.text
        names = [one["name"] for one in up.get("/api/v1/maintenance")["maintenance"]]
        assert names == [window.json()["name"], "nightly"]
        assert call(up, "DELETE", f"maintenance/{names[0]}", who="bob").json() == {"ended": names[0]}
        assert call(up, "DELETE", "silences/migration", who="ann").status_code == 200
        assert up.get("/api/v1/silences")["total"] == 0

    def test_of_one_is_done_when_the_answer_comes_and_remembered(self, up: Running) -> None:
        name = first(up)["id"]
        found = call(up, "POST", f"incidents/{name}", {"action": "acknowledge", "who": "ann", "why": "on it"}).json()
        assert found["state"] == "acknowledged"
        assert (found["decisions"][0]["who"], found["decisions"][0]["why"]) == ("ann", "on it")
        assert found["timeline"][-1]["text"] == "By ann: on it."
        assert call(up, "POST", f"incidents/{name}", {"action": "resolve", "who": "ann"}).json()["state"] == "resolved"
        assert name not in [one["id"] for one in up.get("/api/v1/incidents", state="open")["incidents"]]
        again = call(up, "POST", f"incidents/{name}", {"action": "reopen", "who": "bob"}).json()
        assert again["state"] == "open" and len(again["decisions"]) == 3

    def test_a_silence_is_told_in_the_incident(self, up: Running) -> None:
        name = first(up)["id"]
        call(up, "POST", "silences", {"name": "all", "for": "1h", "who": "ann", "why": "a drill"})
        assert up.get(f"/api/v1/incidents/{name}")["suppressed_by"] == "silence all by ann: a drill"
        call(up, "DELETE", "silences/all", who="ann")
        assert up.get(f"/api/v1/incidents/{name}")["suppressed_by"] == ""


class TestTold:
    def test_metrics(self, up: Running) -> None:
        name = first(up)["id"]
        wait_for(lambda: up.metric("otel_aiops_incidents_open") >= 1, "the counts to be made")
        text = requests.get(f"http://127.0.0.1:{up.ports['api']}/metrics", timeout=30).text
        line = next(line for line in text.splitlines() if line.startswith("otel_aiops_incident_active{"))
        assert f'incident_id="{name}"' in line and 'service="catalog"' in line and line.endswith(" 1.0")
        assert up.metric("otel_aiops_incidents_opened_total") >= 1
        assert up.metric("otel_aiops_incident_detection_delay_seconds_count") >= 1
        assert up.metric("otel_aiops_spans_read_total") > 1000 < up.metric("otel_aiops_log_records_read_total")
        for known in ("services_known", "operations_known", "templates_known", "service_edges", "traces_waiting"):
            assert up.metric(f"otel_aiops_{known}") > 0, known
        assert up.metric("otel_aiops_journal_failures_total") == 0 == up.metric("otel_aiops_step_failures_total")

    def test_events(self, up: Running, sink: tuple[Sink, str]) -> None:
        name = first(up)["id"]
        wait_for(lambda: up.metric("otel_aiops_exporter_sent_log_records_total") >= 1, "events to be sent")
        groups = [group for request in sink[0].requests(Signal.LOGS) for group in request.resource_logs]
        assert {pair.value.string_value for group in groups for pair in group.resource.attributes} >= {"otel-aiops"}
        assert {scope.scope.name for group in groups for scope in group.scope_logs} == {"otel_aiops"}
        records = [record for group in groups for scope in group.scope_logs for record in scope.log_records]
        known = {event for event, _ in INCIDENT_EVENTS.values()}
        assert all(record.event_name in known and record.body.string_value for record in records)
        opened = next(record for record in records if record.event_name == "otel_aiops.incident.opened")
        attributes = {pair.key: pair.value for pair in opened.attributes}
        assert attributes["incident.id"].string_value == name
        assert attributes["incident.suspect"].string_value == "catalog"
        assert 0 < attributes["incident.confidence"].double_value <= 1 and opened.severity_number in (13, 17)
        assert opened.time_unix_nano / 1e9 - START_S == pytest.approx(BREAKS_S, abs=60)

    def test_lines(self, up: Running, files: IncidentFiles) -> None:
        assert files.incidents is not None and files.predictions is not None and files.predictions.exists()
        lines = [json.loads(line) for line in files.incidents.read_text().splitlines()]
        mine = [line for line in lines if line["id"] == first(up)["id"]]
        assert [line["revision"] for line in mine] == list(range(1, len(mine) + 1))
        for line in mine:
            assert {"id", "state", "start", "detected_at", "end", "severity", "suspects"} <= line.keys()
            assert line["start"] <= line["detected_at"] and line["suspects"][0].keys() >= {"service", "score", "reason"}
        assert mine[0]["state"] == "open" and mine[0]["updated_at"] >= mine[0]["detected_at"]


class TestForeseen:
    def test_predictions_with_what_became_of_them(self, up: Running) -> None:
        analysis, now_ns = up.service.pipeline.analysis, up.service.pipeline.event_ns
        made = prediction()
        assert made.prediction is not None
        said = replace(made.prediction, expires_ns=now_ns + 10**15)
        made = replace(made, start_ns=now_ns, detected_ns=now_ns, prediction=said)
        over = replace(made, id="p-2", prediction=replace(said, outcome="hit"), state=State.RESOLVED, revision=2)

        def foresee() -> None:
            told = analysis.incidents.foresee([made], now_ns)
            analysis.foresight.reliability.add(0.8, lead_s=6_000.0)
            up.service.chronicle.write([*told, over], now_ns)

        up.service.ask(foresee)
        found = up.get("/api/v1/predictions")
        assert [one["id"] for one in found["standing"]] == ["p-1"] and found["standing"][0]["prediction"]["lead_s"]
        assert [one["id"] for one in found["decided"]] == ["p-2"]
        record = found["records"]["exhaustion"]
        assert record["hits"] == found["hits"] == 1 and found["records"]["precursor"]["hits"] == 0
        assert record["reliability"][8] == {"from": 0.8, "predicted": 0.8, "count": 1, "happened": 1.0}
        assert record["lead_s"]["p50"] == 6_000 and record["brier"] == pytest.approx(0.04)
        assert up.get("/api/v1/incidents/p-1")["state"] == "predicted"
        assert "p-1" not in [one["id"] for one in up.get("/api/v1/incidents")["incidents"]]
        for asked in ({"predicted": "true"}, {"state": "predicted"}):
            assert "p-1" in [one["id"] for one in up.get("/api/v1/incidents", **asked)["incidents"]]
        refused = call(up, "POST", "incidents/p-1", {"action": "resolve", "who": "ann"})
        assert refused.status_code == 400 and "got the prediction 'p-1'" in refused.text
        wait_for(lambda: up.metric("otel_aiops_predictions_standing") == 1, "the counts to be made")
        assert up.metric("otel_aiops_predictions_reliability_happened") == 1
        assert made.summary in up.get("/api/v1/advice")["foreseen"]
        url = f"http://127.0.0.1:{up.ports['api']}"
        listed = CliRunner().invoke(app, ["predictions", "--url", url], env={"COLUMNS": "200"}).output
        assert "Disk of db runs out" in listed and "1 h 40 min" in listed and "0.80" in listed

    def test_advice_reads_the_history(self, up: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        read: list[Any] = []

        def advised(uses: Any, config: Any) -> Any:
            read.extend(uses)
            return advise(uses, replace(config, history=60.0, coverage=0.01, slack=1.0))

        monkeypatch.setattr("otel_aiops.desk.surroundings.advise", advised)
        up.service.history.snapshot(up.service.sequence, up.service.ask(up.service.pipeline.state))
        assert up.get("/api/v1/advice")["total"] == 0  # the shop tells no requests in cores
        assert read and all((one.time_ns[1:] >= one.time_ns[:-1]).all() and len(one.time_ns) > 2 for one in read)


class TestCommands:
    def run(self, up: Running, *arguments: str) -> str:
        """What a command prints."""
        url = f"http://127.0.0.1:{up.ports['api']}"
        done = CliRunner().invoke(app, [*arguments, "--url", url], env={"USER": "ann", "COLUMNS": "200"})
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    def test_show_what_there_is(self, up: Running, tmp_path: Path) -> None:
        name = first(up)["id"]
        listed = self.run(up, "incidents", "list", "--suspect", "catalog")
        assert name in listed and "catalog 9" in listed and listed.endswith("incidents\n")
        assert json.loads(self.run(up, "incidents", "list", "--from", "now", "--predicted", "--json"))["total"] == 0
        shown = self.run(up, "incidents", "show", name)
        assert "shown by: catalog" in shown and "suspect" in shown and "what was found" in shown
        assert json.loads(self.run(up, "incidents", "show", name, "--json"))["id"] == name
        timeline = self.run(up, "incidents", "timeline", name)
        assert "opened" in timeline and "revision" in timeline
        assert self.run(up, "incidents", "export", name).startswith("# Post-mortem: ")
        self.run(up, "incidents", "export", name, "-o", str(tmp_path / "report.md"))
        assert (tmp_path / "report.md").read_text().startswith("# Post-mortem: ")
        assert "web" in self.run(up, "graph") and "14 nodes" in self.run(up, "graph")
        assert "stand" in self.run(up, "predictions") and "pieces of advice" in self.run(up, "advice")
        for command in ("graph", "predictions", "advice"):
            assert json.loads(self.run(up, command, "--json"))

    def test_decide(self, up: Running) -> None:
        name = first(up)["id"]
        assert f"{name} is acknowledged" in self.run(up, "incidents", "ack", name, "--why", "on it")
        assert f"{name} is resolved" in self.run(up, "incidents", "resolve", name)
        assert json.loads(self.run(up, "incidents", "reopen", name, "--json"))["state"] == "open"
        added = ("incidents", "silence", "add", "--for", "2h", "--service", "ship*", "--severity", "info")
        assert "quiet holds until" in self.run(up, *added, "--name", "quiet", "--why", "a drill")
        listed = self.run(up, "incidents", "silence", "list")
        assert "quiet" in listed and "ship*" in listed and "yes" in listed
        assert "quiet is over" in self.run(up, "incidents", "silence", "end", "quiet")
        weekly = ("incidents", "maintenance", "add", "--for", "1h", "--start", "2030-01-01", "--every", "7d")
        assert json.loads(self.run(up, *weekly, "--name", "weekly", "--json"))["every"] == 604_800
        listed = self.run(up, "incidents", "maintenance", "list")
        assert "7 d" in listed and "nightly" in listed and "all" in listed
        assert "weekly is over" in self.run(up, "incidents", "maintenance", "end", "weekly")

    def test_say_what_is_wrong(self, up: Running) -> None:
        url = f"http://127.0.0.1:{up.ports['api']}"
        with pytest.raises(BadInput, match="answered 404: there is no incident 'none'"):
            CliRunner().invoke(app, ["incidents", "show", "none", "--url", url], catch_exceptions=False)
        with pytest.raises(BadInput, match="who: expected a value, got none"):
            wrong = ["incidents", "silence", "add", "--for", "1h", "--who", "", "--url", url]
            CliRunner().invoke(app, wrong, catch_exceptions=False)


def revisions(up: Running) -> list[tuple[str, int, str]]:
    """What the journal has, in order."""
    found = up.get("/api/v1/incidents", limit=1000)["incidents"]
    journal = up.service.chronicle.journal
    return [(one["id"], each.revision, str(each.state)) for one in found for _, each in journal.history(one["id"])]


def test_a_restart_keeps_incidents_and_a_crash_repeats_nothing(tmp_path: Path) -> None:
    with broken(tmp_path, still=True) as up:
        name = first(up)["id"]
        call(up, "POST", f"incidents/{name}", {"action": "acknowledge", "who": "ann"})
        call(up, "POST", "silences", {"name": "all", "for": "1h", "who": "ann"})
        before, state = revisions(up), up.service.ask(up.service.pipeline.state)
        decisions = len(up.service.chronicle.journal.decisions())
        up.service._snapshot = lambda *_: None  # type: ignore[method-assign]  # as if it were killed here
    with started(tmp_path, still=True) as up:
        assert revisions(up) == before and len(up.service.chronicle.journal.decisions()) == decisions == 2
        again = up.service.ask(up.service.pipeline.state)
        assert all(state[key].tobytes() == again[key].tobytes() for key in state if key.startswith("analysis/"))
        found = up.get(f"/api/v1/incidents/{name}")
        assert found["state"] == "acknowledged" and found["suppressed_by"].startswith("silence all by ann")
        feed(up, steps(BREAKS_S + 60), steps(BREAKS_S + 90))
    with started(tmp_path, still=True) as up:
        assert up.get(f"/api/v1/incidents/{name}")["state"] == "acknowledged"
        assert up.get("/api/v1/silences")["total"] == 1


def test_a_decision_that_came_too_late_changes_nothing(up: Running) -> None:
    from otel_aiops.incidents.suppress import Action, Decision

    failures = up.metric("otel_aiops_step_failures_total")
    sequence = up.service.ingest.decide(Decision(action=Action.RESOLVE, who="ann", time_ns=1, incident="gone"))
    wait_for(lambda: up.service.sequence >= sequence, "the decision to be taken in")
    assert up.metric("otel_aiops_step_failures_total") == failures


def test_reading_works_while_the_journal_does_not(up: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = up.service.chronicle.journal
    name = first(up)["id"]
    with monkeypatch.context() as patch:
        patch.setattr(journal._database, "_engine", None)
        assert name in [one["id"] for one in up.get("/api/v1/incidents", state="open,acknowledged")["incidents"]]
        assert up.get(f"/api/v1/incidents/{name}")["decisions"] == []
        assert call(up, "GET", "incidents").status_code == 503
