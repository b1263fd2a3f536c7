"""A running service that responds: the shop breaks, people are asked, a command runs, the audit tells of it."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from typer.testing import CliRunner

from otel_aiops.cli import app
from otel_aiops.config import parse
from otel_aiops.errors import ConfigError
from otel_aiops.responses.playbook import load_playbooks
from otel_aiops.server.access.roles import Role
from otel_aiops.server.access.tokens import TokenFile
from tests.incident_feed import broken, call
from tests.responses.receiver import Receiver, receiving
from tests.responses.stage import APPEND
from tests.server.test_web_roles import Guarded
from tests.servers import wait_for
from tests.test_app import Running

ROOT = Path(__file__).parent.parent


def configured(folder: Path, url: str, more: str = "") -> str:
    """With one playbook that asks, and one that is a dry run."""
    steps = [{"do": {"kind": "command", "use": "heal"}, "guard": {"approvals": 2}, "verify": {"within": "1h"}}]
    hook = [
        {"do": {"kind": "webhook", "use": "hook"}, "guard": {"cooldown": 0}},
        {"do": {"kind": "notify", "use": "ops"}},
    ]
    other = {"name": "other", "match": {"types": ["silence"]}, "dry_run": False, "steps": hook}
    playbooks = [
        {"name": "heal", "match": {"suspects": ["catalog"]}, "dry_run": False, "steps": steps},
        {"name": "tell", "dry_run": False, "steps": hook},
        {"name": "try", "steps": hook},
        other,
    ]
    tree = {
        "enabled": True,
        "late": "10000d",
        "tell": "ops",
        "approvers": ["ann", "bob", "eve"],
        "notify": [{"name": "ops", "urls": [f"{url.replace('http', 'json')}/told"]}],
        "webhooks": [{"name": "hook", "to": {"url": f"{url}/hook"}, "secret": "${env:NONE:-a planted secret}"}],
        "commands": [{"name": "heal", "argv": [sys.executable, "-c", APPEND, str(folder / "healed"), "{service}"]}],
    }
    return f"responses: {json.dumps(tree)}\nplaybooks: {json.dumps(playbooks)}\n{more}"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("state")
    with broken(folder, configured(folder, receiver.url)) as found:
        wait_for(lambda: len(responses(found, state="waiting")) == 1, "somebody to be asked")
        yield found


def responses(up: Running, **asked: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = up.get("/api/v1/responses", **asked)["responses"]
    return found


def cli(up: Running, *arguments: str) -> str:
    url = () if arguments[0] == "audit" else ("--url", f"http://127.0.0.1:{up.ports['api']}")
    answer = CliRunner().invoke(app, [*arguments, *url], env={"COLUMNS": "200"})
    assert answer.exit_code == 0, answer.output
    return answer.output


def test_people_are_asked_and_told(up: Running, receiver: Receiver) -> None:
    (one,) = responses(up, state="waiting")
    assert one["playbook"] == "heal" and one["steps"][0]["approvals_needed"] == 2 and one["steps"][0]["expires"]
    assert "catalog" in one["steps"][0]["plan"]

    def said() -> list[str]:
        return [asked.json()["message"] for asked in receiver.asked if asked.path == "/told"]

    wait_for(lambda: any(f"responses approve {one['id']}" in text for text in said()), "people to be asked")
    wait_for(lambda: responses(up, playbook="tell")[0]["state"] == "done", "the others to be told")
    assert [asked.path for asked in receiver.asked].count("/hook") == 1, "a dry run posts nothing"
    assert {step["state"] for step in responses(up, playbook="try")[0]["steps"]} == {"dry_run"}
    assert responses(up, playbook="other") == []


def test_what_would_happen(up: Running) -> None:
    incident = responses(up)[0]["incident"]
    found = call(up, "POST", "playbooks/test", {"incident": incident}).json()
    tested = {one["name"]: one for one in found["playbooks"]}
    assert tested["heal"]["matches"] and tested["heal"]["steps"][0]["verdict"] == "waits"
    assert tested["try"]["steps"][0]["verdict"] == "dry_run"
    assert tested["other"]["why_not"][0].startswith("types: expected one of silence, got ")
    text = cli(up, "playbooks", "test", incident)
    assert (
        "heal (on opened" in text
        and "1. command heal: would wait" in text
        and "- approval: 2 of 2 approvals are missing" in text
    )
    assert "other: does not match" in text


def test_an_objective_says_what_may_be_done(tmp_path: Path, receiver: Receiver) -> None:
    """Of its services and its types of incidents; what it does not allow is refused by its name."""
    objectives = [
        {
            "name": "careful",
            "match": {"service": "catalog"},
            "incidents": ["errors"],
            "responses": ["notify", "webhook"],
        },
        {"name": "elsewhere", "match": {"service": "db"}, "responses": []},
        {"name": "disks", "match": {"service": "~.*"}, "incidents": ["silence"], "responses": []},
    ]
    with broken(tmp_path, configured(tmp_path, receiver.url, f"objectives: {json.dumps(objectives)}\n")) as found:
        wait_for(lambda: {one["playbook"] for one in responses(found)} >= {"heal", "tell"}, "playbooks to begin")
        wait_for(lambda: responses(found, playbook="tell")[0]["state"] == "done", "what it allows to be done")
        (healing,) = responses(found, playbook="heal")
        assert "the objective careful allows notify and webhook, not command" in str(healing["steps"][0])
    assert not (tmp_path / "healed").exists()


def test_lists(up: Running) -> None:
    assert "command heal" in cli(up, "playbooks", "list") and "suspects catalog" in cli(up, "playbooks", "list")
    assert "waiting" in cli(up, "responses", "list", "--state", "waiting")


@pytest.mark.parametrize(
    ("path", "tree", "status", "said"),
    [
        ("responses/{id}/approve", {}, 400, "who: expected a value, got none"),
        ("responses/{id}/approve", {"who": "mallory"}, 400, "who: expected one of responses.approvers, got 'mallory'"),
        ("responses/{id}/approve", {"who": "ann", "for": "me"}, 400, "for: is not a known key"),
        ("responses/none/approve", {"who": "ann"}, 404, "no response has the id none"),
        ("responses/stop", {"who": "mallory"}, 400, "who: expected one of responses.approvers"),
        ("playbooks/test", {"incident": "none"}, 404, "no incident has the id none"),
        ("playbooks/test", {"incident": "x", "playbook": "y"}, 400, "playbook: expected one of heal, tell, try, other"),
    ],
)
def test_what_is_asked_wrongly(up: Running, path: str, tree: Any, status: int, said: str) -> None:
    (one,) = responses(up, state="waiting")
    answer = call(up, "POST", path.format(id=one["id"]), tree)
    assert answer.status_code == status and said in answer.json()["error"]


def test_unknown_keys_of_a_query(up: Running) -> None:
    answer = call(up, "GET", "responses", state="sleeping")
    assert answer.status_code == 400 and answer.json()["error"].startswith("state: expected one of active, waiting")
    assert call(up, "GET", "responses", stat="x").status_code == 400
    assert call(up, "GET", "responses/none").status_code == 404


def test_two_approve_and_it_is_done_once(up: Running) -> None:
    (one,) = responses(up, state="waiting")
    assert "command heal: 1 of 2 approvals" in cli(
        up, "responses", "approve", one["id"], "--who", "ann", "--why", "yes"
    )
    again = call(up, "POST", f"responses/{one['id']}/approve", {"who": " ANN"})
    assert again.status_code == 400 and "who has not said anything" in again.json()["error"]
    assert call(up, "POST", f"responses/{one['id']}/approve", {"who": "bob"}).status_code == 200
    healed = up.service.directory / "healed"
    wait_for(lambda: healed.exists(), "the command to run")
    wait_for(lambda: up.get(f"/api/v1/responses/{one['id']}")["steps"][0]["verified"] == "pending", "it to be watched")
    assert healed.read_text() == "catalog\n"
    shown = cli(up, "responses", "show", one["id"])
    assert "approved by: ann yes" in shown and "| did catalog" in shown
    late = call(up, "POST", f"responses/{one['id']}/approve", {"who": "eve"})
    assert late.status_code == 400 and "expected a response that waits for approval" in late.json()["error"]


def test_the_audit_tells_and_verifies(up: Running) -> None:
    entries = up.get("/api/v1/audit", kind="response")["entries"]
    whats = [one["what"] for one in entries]
    assert {"asked command heal", "approved", "done command heal"} <= set(whats)
    assert {one["who"] for one in entries if one["what"] == "approved"} == {"ann", "bob"}
    directory = str(up.service.directory)
    assert "lines hold, the head is" in cli(up, "audit", "verify", "--data-dir", directory)
    head = json.loads(cli(up, "audit", "verify", "--data-dir", directory, "--json"))["head"]
    assert "lines hold" in cli(up, "audit", "verify", "--data-dir", directory, "--head", head)
    wrong = CliRunner().invoke(app, ["audit", "verify", "--data-dir", directory, "--head", "00"])
    assert wrong.exit_code == 1 and "some are missing at the end" in wrong.output


def test_metrics(up: Running) -> None:
    wait_for(lambda: up.metric("otel_aiops_response_waiting") == 0, "nobody to be asked")
    assert up.metric("otel_aiops_response_runs_total") >= 5 and up.metric("otel_aiops_response_stopped") == 0
    assert up.metric("otel_aiops_response_waiting_longest_seconds") == 0
    assert up.metric("otel_aiops_response_enabled") == 1 and up.metric("otel_aiops_response_active") >= 1
    assert up.metric("otel_aiops_response_delay_seconds_count") >= 3
    text = requests.get(f"http://127.0.0.1:{up.ports['api']}/metrics", timeout=10).text
    never = 'otel_aiops_response_runs_total{kind="command",outcome="failed",playbook="heal"} 0.0'
    assert never in text, "what may happen is counted from the start, or a rule would miss the first time"


def test_a_changed_audit_is_noticed(up: Running) -> None:
    up.service.responder.verify()
    lines = up.metric("otel_aiops_response_audit_lines")
    assert lines >= 5 and up.metric("otel_aiops_response_audit_broken") == 0
    with sqlite3.connect(up.service.directory / "incidents.db") as database:
        (body,) = database.execute("SELECT body FROM response_audit WHERE number = 3").fetchone()
        database.execute("UPDATE response_audit SET body = ? WHERE number = 3", (body.replace("otel-aiops", "nobody"),))
    up.service.responder.verify()
    assert up.metric("otel_aiops_response_audit_broken") == 1 and up.metric("otel_aiops_response_audit_lines") == 2
    with sqlite3.connect(up.service.directory / "incidents.db") as database:
        database.execute("UPDATE response_audit SET body = ? WHERE number = 3", (body,))
    up.service.responder.verify()
    assert up.metric("otel_aiops_response_audit_lines") == lines


def test_stop_and_resume(up: Running) -> None:
    assert "stopped: ann: it loops" in cli(up, "responses", "stop", "--who", "ann", "--why", "it loops")
    assert up.get("/api/v1/playbooks")["stopped"] == "ann: it loops"
    tested = call(up, "POST", "playbooks/test", {"incident": responses(up)[0]["incident"], "playbook": "tell"}).json()
    assert {one["verdict"] for one in tested["playbooks"][0]["steps"]} == {"refused"}
    assert "responses go on" in cli(up, "responses", "resume", "--who", "ann")
    assert up.get("/api/v1/playbooks")["stopped"] is None


def test_no_secret_is_shown_or_kept(up: Running) -> None:
    shown = json.dumps([up.get("/api/v1/playbooks"), up.get("/api/v1/responses"), up.get("/api/v1/audit")])
    assert "a planted secret" not in shown and "/told" not in shown
    files = [path for path in up.service.directory.rglob("*") if path.is_file()]
    assert not [path for path in files if b"a planted secret" in path.read_bytes()]


def test_examples_of_the_repository_are_right(tmp_path: Path) -> None:
    assert {one.name for one in load_playbooks(ROOT / "playbooks")} == {
        "tell-on-call",
        "restart-suspect",
        "before-it-fills",
    }
    config = tmp_path / "a.yaml"
    names = "notify: [{name: on-call, urls: ['json://localhost']}]\n  webhooks: [{name: tickets, to: {url: 'http://localhost'}}]"
    config.write_text(f"responses:\n  {names}\n  commands: [{{name: restart, argv: [/bin/true]}}]\n")
    answer = CliRunner().invoke(app, ["playbooks", "check", str(ROOT / "playbooks"), "--config", str(config)])
    assert answer.exit_code == 0 and "restart-suspect: ok" in answer.output
    bare = CliRunner().invoke(app, ["playbooks", "check", str(ROOT / "playbooks")])
    assert bare.exit_code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "responses: {commands: [{name: a, argv: [ls]}]}",
            "responses.commands.0.argv: expected a program by its absolute path, got 'ls'",
        ),
        (
            "responses: {commands: [{name: a, argv: [/bin/ls, 'x{service}']}]}",
            "argv.1: expected a value as a whole argument",
        ),
        (
            "responses: {commands: [{name: a, argv: [/bin/sh, -c, '{service}']}]}",
            "expected no values of incidents for a shell",
        ),
        (
            "responses: {webhooks: [{name: a, to: {url: 'file:///etc/passwd'}}]}",
            "url: expected http://host/… or https://host/…, got file:…",
        ),
        ("responses: {notify: [{name: a}]}", "urls: expected at least one URL of apprise"),
        ("responses: {tell: ops}", "responses.tell: expected a name of `notify`, got 'ops'"),
        (
            "playbooks: [{name: a, steps: [{do: {kind: notify, use: b}}]}]",
            "playbooks.a.steps.0.do.use: expected one of none that is configured, got 'b'",
        ),
    ],
)
def test_wrong_configurations_are_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert said in str(error.value)


def test_a_restart_keeps_what_waits(tmp_path: Path, receiver: Receiver) -> None:
    with broken(tmp_path, configured(tmp_path, receiver.url)) as first:
        wait_for(lambda: len(responses(first, state="waiting")) == 1, "somebody to be asked")
        before = responses(first)
    again = Running(tmp_path, configured(tmp_path, receiver.url))
    again.service.start()
    try:
        wait_for(lambda: len(responses(again)) == len(before), "the same responses")
        (one,) = responses(again, state="waiting")
        for who in ("ann", "bob"):
            call(again, "POST", f"responses/{one['id']}/approve", {"who": who})
        wait_for(lambda: (tmp_path / "healed").exists(), "the command to run")
        assert {run["id"] for run in responses(again)} == {run["id"] for run in before}
    finally:
        again.service.stop()


def test_two_identities_approve_in_time(tmp_path: Path, receiver: Receiver) -> None:
    """Whoever a token stands for is asked once, whoever they say they are."""
    ask = {"do": {"kind": "command", "use": "heal"}, "guard": {"approvals": 2, "cooldown": 0, "expiry": "10h"}}
    late = {**ask, "guard": {**ask["guard"], "expiry": "1h"}}
    books = [
        {"name": name, "match": {"suspects": ["catalog"]}, "dry_run": False, "steps": [step]}
        for name, step in (("heal", ask), ("late", late))
    ]
    heal = {"name": "heal", "argv": [sys.executable, "-c", APPEND, str(tmp_path / "healed"), "{service}"]}
    tree = {"enabled": True, "late": "10000d", "approvers": ["ann", "bob"], "commands": [heal]}
    tokens = TokenFile(tmp_path / "access")
    roles = {"ann": Role.APPROVER, "bob": Role.ADMIN, "eve": Role.APPROVER, "ops": Role.OPERATOR}
    shown = {name: tokens.create(name=name, role=role, who="test")[1] for name, role in roles.items()}
    passed_s = 0.0

    def clock_ns() -> int:
        return time.time_ns() + round(passed_s * 1e9)

    config = f"responses: {json.dumps(tree)}\nplaybooks: {json.dumps(books)}\n"
    with broken(tmp_path / "data", config, still=True, clock_ns=clock_ns) as up:
        guarded = Guarded(up, tmp_path / "access")

        def approve(name: str, playbook: str, **said: str) -> str:
            url = f"{guarded.base}/api/v1/responses/{asked[playbook]}/approve"
            headers = {"Authorization": f"Bearer {shown[name]}"}
            answer = requests.post(url, json=said, headers=headers, timeout=30)
            return "" if answer.status_code == 200 else f"{answer.status_code} {answer.json()['error']}"

        try:
            wait_for(lambda: len(responses(up, state="waiting")) == 2, "somebody to be asked")
            asked = {one["playbook"]: one["id"] for one in responses(up)}
            assert approve("ops", "heal").startswith("403 ")
            assert approve("eve", "heal", who="ann").startswith(
                "400 who: expected one of responses.approvers, got 'eve'"
            )
            for playbook in asked:
                assert approve("ann", playbook) == ""
                assert approve("ann", playbook, who="bob").startswith("400 who: expected somebody who has not said")
            passed_s = 2 * 3_600.0
            wait_for(lambda: responses(up, playbook="late")[0]["state"] == "refused", "it to expire")
            (step,) = responses(up, playbook="late")[0]["steps"]
            assert step["result"] == "it was not approved and done within 3600 s"
            assert approve("bob", "late").startswith("400 id: expected a response that waits for approval")
            assert not (tmp_path / "healed").exists()
            assert approve("bob", "heal", who="ann") == ""
            wait_for(lambda: responses(up, playbook="heal")[0]["state"] == "done", "it to be done")
            assert (tmp_path / "healed").read_text() == "catalog\n"
            (step,) = responses(up, playbook="heal")[0]["steps"]
            assert [one["who"] for one in step["approvals"]] == ["ann", "bob"]
        finally:
            guarded.server.stop(1.0)


def test_health_checks_answer_beside_it(up: Running) -> None:
    assert requests.get(f"http://127.0.0.1:{up.ports['api']}/-/ready", timeout=10).status_code == 200
