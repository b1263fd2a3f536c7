"""Runs of playbooks from the journal of incidents to what is done, with real commands, hooks and notices."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from otel_aiops.errors import Overloaded
from otel_aiops.incidents.incident import Channel, Incident, Severity, State
from otel_aiops.incidents.journal import Journal, JournalConfig
from otel_aiops.responses.audit import verify
from otel_aiops.responses.http import signature
from tests.incidents.makers import T0, finding
from tests.responses.makers import COMMAND, NOTIFY, incident, playbook, prediction
from tests.responses.receiver import Receiver
from tests.responses.stage import Stage, appending, revised
from tests.servers import wait_for

HOOK = {"kind": "webhook", "use": "hook"}
VERIFIED = {"do": COMMAND, "verify": {"by": "resolved", "within": 60.0}}
FREE = {"cooldown": 0}
SURE = {"approvals": 1, "expiry": 60.0}


class TestTriggers:
    def test_an_incident_that_opens_is_responded_to_once(self, stage: Stage) -> None:
        stage.happens(incident())
        stage.happens(revised(incident(), severity=Severity.CRITICAL))
        assert stage.lines() == ["cart"] and stage.states() == ["done"]
        assert stage.told == ["heal do done"]

    def test_one_that_matches_later_is_too(self, stage: Stage) -> None:
        stage.with_playbooks(playbook(match={"severity": "critical"}))
        one = incident()
        stage.happens(one)
        assert stage.lines() == []
        stage.happens(revised(one, severity=Severity.CRITICAL))
        assert stage.lines() == ["cart"]

    def test_one_that_opens_again_is_again(self, stage: Stage) -> None:
        stage.happens(incident())
        stage.happens(incident(revision=2, state=State.RESOLVED))
        stage.now += 1000
        stage.happens(incident(revision=3))
        stage.happens(incident(revision=4))
        assert stage.lines() == ["cart", "cart"]

    def test_an_acknowledged_one_is_left_to_people(self, stage: Stage) -> None:
        stage.happens(incident(state=State.ACKNOWLEDGED))
        assert stage.runs() == []

    def test_a_suppressed_one_begins_nothing_until_it_is_not(self, stage: Stage) -> None:
        stage.happens(incident(suppressed_by="night work"))
        assert stage.runs() == []
        stage.happens(incident(revision=2))
        assert stage.lines() == ["cart"]

    def test_alerts_of_others_begin_only_their_playbooks_and_once(self, stage: Stage) -> None:
        stage.with_playbooks(playbook(on="alert"), playbook("opens", [{"do": NOTIFY}]))
        stage.foreign = [incident("alert-1"), incident("alert-1"), incident("alert-2", suppressed_by="silence s")]
        stage.settle()
        assert [one.incident.id for one in stage.runs()] == ["alert-1"] and stage.lines() == ["cart"]

    def test_those_of_which_alertmanager_lets_people_know(self, stage: Stage) -> None:
        stage.with_playbooks(playbook(on="notified", match={"severity": "critical"}))
        one = incident()
        stage.happens(one)
        stage.notice(one.id, "another", "another")
        assert stage.runs() == [], "it does not match yet"
        stage.happens(revised(one, severity=Severity.CRITICAL))
        stage.notice(one.id)
        assert [run.trigger for run in stage.runs()] == ["notified"] and stage.lines() == ["cart"]
        stage.happens(incident(revision=3, state=State.RESOLVED))
        stage.notice(one.id)  # what was sent before it was over
        stage.now += 1000
        stage.happens(incident(revision=4, severity=Severity.CRITICAL))
        assert stage.lines() == ["cart"], "nobody was told that it is open again"
        stage.notice(one.id)
        assert stage.lines() == ["cart", "cart"] and len(stage.runs()) == 2

    def test_a_notice_before_its_incident_is_looked_at_is_kept(self, stage: Stage) -> None:
        stage.with_playbooks(playbook(on="notified"))
        stage.notice(incident().id)
        stage.again()
        stage.happens(incident())
        assert stage.lines() == ["cart"]

    def test_updates_and_ends(self, stage: Stage) -> None:
        stage.with_playbooks(
            playbook("more", [{"do": NOTIFY}], on="updated"), playbook("end", [{"do": NOTIFY}], on="resolved")
        )
        stage.happens(incident())
        stage.happens(incident(revision=2, title="another"))
        stage.happens(incident(revision=3, severity=Severity.CRITICAL))
        stage.now += 1
        stage.happens(incident(revision=4, severity=Severity.CRITICAL, state=State.RESOLVED))
        assert [(run.playbook.name, run.incident.revision) for run in stage.runs()] == [("more", 3), ("end", 4)]

    def test_predictions_begin_only_playbooks_that_say_so(self, stage: Stage) -> None:
        stage.with_playbooks(
            playbook(), playbook("updates", on="updated"), playbook("before", [{"do": NOTIFY}], on="predicted")
        )
        stage.happens(prediction())
        stage.happens(prediction(revision=2, severity=Severity.CRITICAL))
        assert [run.playbook.name for run in stage.runs()] == ["before"]
        stage.happens(incident())
        assert [run.playbook.name for run in stage.runs()] == ["before", "heal"]

    def test_what_was_there_before_responses_is_left_alone(self, tmp_path: Path) -> None:
        journal = Journal(JournalConfig(), tmp_path)
        journal.open()
        journal.append([incident()], T0)
        journal.close()
        found = Stage(tmp_path, None, (playbook(),))
        found.settle()
        found.happens(incident(revision=2), incident("i2"))
        assert {run.incident.id for run in found.runs()} == {"i1", "i2"}, "the next change of an open one begins it"
        found.close()

    def test_changes_that_are_old_when_they_are_seen_begin_nothing(self, stage: Stage) -> None:
        stage.journal.append([incident()], stage.now_ns())
        stage.passes(901)
        assert stage.runs() == []
        (line,) = stage.ledger.lines()
        assert line.deed().what == "passed over" and line.deed().why == "the change of the incident is 901 s old"


class TestSteps:
    def test_in_their_order_each_after_the_one_before(self, stage: Stage, receiver: Receiver) -> None:
        stage.with_playbooks(playbook(steps=[{"do": NOTIFY}, {"do": HOOK}, {"do": COMMAND}]))
        stage.happens(incident())
        assert [one.path for one in receiver.asked] == ["/told", "/hook"] and stage.lines() == ["cart"]
        assert stage.standings() == ["do done"] * 3
        assert stage.executions()[2].output == "did cart\n"

    def test_people_are_told_in_text(self, stage: Stage, receiver: Receiver) -> None:
        stage.with_playbooks(
            playbook(steps=[{"do": {**NOTIFY, "text": "{title}, {severity}: {suspect} {probability}"}}])
        )
        stage.happens(incident(title="<b>cart</b> fails"))
        (one,) = receiver.asked
        assert (
            one.json()["message"] == "<b>cart</b> fails, warning: cart 0.80"
            and one.json()["title"] == "<b>cart</b> fails"
        )

    def test_hooks_are_signed_and_have_a_key(self, stage: Stage, receiver: Receiver) -> None:
        stage.with_playbooks(playbook(steps=[{"do": HOOK}]))
        stage.happens(incident())
        (one,) = receiver.asked
        (execution,) = stage.executions()
        assert one.headers["Idempotency-Key"] == execution.id == one.json()["id"]
        at = one.headers["X-Otel-Aiops-Timestamp"]
        assert one.headers["X-Otel-Aiops-Signature"] == signature("a secret of tests", at, one.body)
        assert one.json()["incident"]["suspects"][0]["service"] == "cart"

    def test_hooks_are_tried_again_with_the_same_key(self, stage: Stage, receiver: Receiver) -> None:
        receiver.answers = [(503, b"busy"), (0, b""), (200, b"taken")]
        stage.with_playbooks(playbook(steps=[{"do": HOOK}]))
        stage.happens(incident())
        assert len({one.headers["Idempotency-Key"] for one in receiver.asked}) == 1 and len(receiver.asked) == 3
        assert stage.executions()[0].text.endswith("answered 200") and stage.executions()[0].output == "taken"

    @pytest.mark.parametrize(
        ("status", "tries", "standing"),
        [(400, 1, "failed"), (500, 3, "failed"), (504, 3, "unknown"), (302, 1, "failed")],
    )
    def test_hooks_that_fail(self, stage: Stage, receiver: Receiver, status: int, tries: int, standing: str) -> None:
        receiver.answers, receiver.headers = [(status, b"no")], {"Location": f"{receiver.url}/elsewhere"}
        stage.with_playbooks(playbook(steps=[{"do": HOOK}, {"do": COMMAND}]))
        stage.happens(incident())
        assert [one.path for one in receiver.asked] == ["/hook"] * tries, "redirects are not followed"
        assert stage.standings() == [f"do {standing}"] and stage.states() == [standing] and stage.lines() == []
        assert f"answered {status}: " in stage.executions()[0].text

    def test_a_notice_that_fails_does_not_hold_up_the_rest(self, stage: Stage, receiver: Receiver) -> None:
        receiver.answers = [(500, b"")]
        stage.with_playbooks(playbook(steps=[{"do": NOTIFY}, {"do": COMMAND}]))
        stage.happens(incident())
        assert stage.standings() == ["do failed", "do done"] and stage.lines() == ["cart"]
        assert stage.executions()[0].text == "told 0 of 1 targets, not JSON"
        assert stage.states() == ["failed"], "a run is as good as its worst step"

    def test_a_command_that_fails_ends_the_run(self, stage: Stage) -> None:
        stage.change(commands=(replace(appending(stage.file), argv=("/bin/false",)),))
        stage.with_playbooks(playbook(steps=[{"do": COMMAND}, {"do": COMMAND, "guard": {"cooldown": 0}}]))
        stage.happens(incident())
        assert stage.standings() == ["do failed"] and stage.executions()[0].text == "it ended with exit code 1"

    @pytest.mark.parametrize("hostile", ["-rf", "$(touch /tmp/x)", "../../etc/passwd", "a b; c"])
    def test_hostile_names_of_services_reach_no_command(self, stage: Stage, hostile: str) -> None:
        stage.happens(incident(service=hostile))
        assert stage.lines() == [] and stage.standings() == ["do refused"]
        assert "expected 1 to 253 letters" in stage.executions()[0].text


class TestGuards:
    def test_nothing_is_done_before_it_is_switched_on(self, stage: Stage) -> None:
        stage.change(enabled=False)
        stage.happens(incident())
        assert stage.lines() == [] and stage.standings() == ["do dry_run"] and stage.states() == ["dry_run"]
        assert stage.executions()[0].plan.startswith("run [") and "cart" in stage.executions()[0].plan

    def test_dry_runs_show_every_step(self, stage: Stage, receiver: Receiver) -> None:
        steps = [{"do": NOTIFY}, {"do": HOOK}, {"do": COMMAND, "guard": SURE}]
        stage.with_playbooks(replace(playbook(steps=steps), dry_run=True))
        stage.happens(incident())
        assert stage.standings() == ["do dry_run"] * 3 and receiver.asked == [] and stage.lines() == []

    def test_a_second_incident_of_the_same_service_waits_for_the_cooldown(self, stage: Stage) -> None:
        stage.happens(incident("i1"))
        stage.passes(10)
        stage.happens(incident("i2"), incident("i3", service="pay"))
        assert stage.lines() == ["cart", "pay"] and stage.states().count("refused") == 1
        stage.passes(600)
        stage.happens(incident("i4"))
        assert stage.lines() == ["cart", "pay", "cart"]

    def test_a_storm_reaches_only_so_many(self, stage: Stage) -> None:
        stage.happens(*(incident(f"i{k}", service=f"s{k}") for k in range(9)))
        assert sorted(stage.lines()) == ["s0", "s1", "s2"]
        assert "it reaches 4 services, at most 3 are wanted" in stage.executions()[-1].text

    def test_a_stop_holds_everything_until_it_is_taken_back(self, stage: Stage) -> None:
        (stage.folder / "stop").touch()
        stage.happens(incident("i1"))
        assert stage.states() == ["refused"] and "there is the file" in stage.executions()[0].text
        (stage.folder / "stop").unlink()
        stage.happens(incident("i2"))
        assert stage.lines() == ["cart"]

    def test_a_model_that_drifts_does_nothing_but_people_are_told(self, stage: Stage, receiver: Receiver) -> None:
        stage.change(problem="cart drifts", tell="ops")
        stage.happens(incident())
        assert stage.standings() == ["do refused", "escalate.0 done"] and stage.lines() == []
        assert "the model is not to be trusted: cart drifts" in receiver.asked[0].json()["message"]


class TestWorkers:
    def test_nothing_is_intended_that_cannot_begin_and_notices_do_not_wait(
        self, stage: Stage, receiver: Receiver
    ) -> None:
        gate = stage.folder / "gate"
        wait = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)"
        stage.change(commands=(replace(appending(stage.file), argv=(sys.executable, "-S", "-c", wait)),))
        free = {"cooldown": 0, "targets": 100, "most": 100}
        stage.with_playbooks(playbook("slow", [{"do": COMMAND, "guard": free}]), playbook("told", [{"do": NOTIFY}]))
        stage.journal.append([incident(f"i{k}", service=f"s{k}") for k in range(9)], stage.now_ns())

        def told() -> bool:
            stage.engine.tick()
            return len(receiver.asked) == 9

        wait_for(told, "people to be told", every_s=0.01)
        assert stage.standings().count("do intended") == 4
        gate.touch()
        stage.settle()
        assert stage.standings() == ["do done"] * 18


class TestApproval:
    @pytest.fixture(autouse=True)
    def sure(self, stage: Stage) -> None:
        stage.with_playbooks(playbook(steps=[{"do": COMMAND, "guard": {**SURE, "approvals": 2}}]))

    def test_two_people_must_agree(self, stage: Stage, receiver: Receiver) -> None:
        stage.change(tell="ops")
        stage.happens(incident())
        assert stage.states() == ["waiting"] and stage.ledger.waiting() == 1 == len(stage.ledger.asked())
        asked = receiver.asked[0].json()["message"]
        assert "heal wants to run [" in asked and f"responses approve {stage.runs()[0].id}" in asked
        assert stage.votes("ann") and not stage.votes("Ann "), "one person is one"
        stage.passes(1)
        assert stage.lines() == []
        assert stage.votes("bob")
        stage.passes(1)
        assert stage.lines() == ["cart"] and stage.states() == ["done"] and stage.ledger.waiting() == 0

    def test_one_may_refuse(self, stage: Stage) -> None:
        stage.happens(incident())
        stage.votes("ann", agrees=False, why="we deploy")
        stage.passes(1)
        assert stage.states() == ["refused"] and stage.executions()[0].text == "refused by ann: we deploy"

    def test_it_expires(self, stage: Stage) -> None:
        stage.happens(incident())
        stage.passes(61)
        assert stage.states() == ["refused"] and "within 60 s" in stage.executions()[0].text

    def test_what_is_over_is_not_done_any_more(self, stage: Stage, receiver: Receiver) -> None:
        stage.change(tell="ops")
        stage.happens(incident())
        receiver.asked.clear()
        stage.happens(incident(revision=2, state=State.RESOLVED))
        assert stage.states() == ["refused"] and stage.executions()[-1].text != "" and receiver.asked == []

    def test_it_goes_on_after_a_restart(self, stage: Stage) -> None:
        stage.happens(incident())
        stage.votes("ann")
        stage.again()
        stage.votes("bob")
        stage.passes(1)
        assert stage.lines() == ["cart"]


class TestAfter:
    def test_a_step_that_helps(self, stage: Stage) -> None:
        stage.with_playbooks(playbook(steps=[VERIFIED, {"do": NOTIFY}]))
        stage.happens(incident())
        assert stage.states() == ["active"] and stage.standings() == ["do done"]
        stage.passes(30)
        stage.happens(incident(revision=2, state=State.RESOLVED))
        assert stage.states() == ["done"] and stage.executions()[0].seen == "recovered" and len(stage.executions()) == 2

    def test_one_that_does_not_is_undone_and_people_are_told(self, stage: Stage, receiver: Receiver) -> None:
        undo = {"kind": "command", "use": "undo"}
        stage.change(commands=(appending(stage.file), appending(stage.folder / "undone", "undo")))
        steps = [
            {**VERIFIED, "undo": undo, "escalate": [{"do": {**NOTIFY, "text": "help with {service}"}}]},
            {"do": HOOK},
        ]
        stage.with_playbooks(playbook(steps=steps))
        stage.happens(incident())
        stage.passes(59)
        assert stage.states() == ["active"]
        stage.passes(1)
        assert stage.standings() == ["do done", "undo done", "escalate.0 done"] and stage.states() == ["undone"]
        assert (stage.folder / "undone").read_text() == "cart\n"
        assert [one.json()["message"] for one in receiver.asked] == ["help with cart"]
        assert stage.executions()[0].seen_text == "not recovered within 60 s: the incident is open"

    @pytest.mark.parametrize("channel", [Channel.SERIES, Channel.ERRORS])
    def test_scores_under_the_threshold(self, stage: Stage, channel: Channel) -> None:
        """The score of one series does not say that an alarm that looks at many is over."""
        stage.with_playbooks(playbook(steps=[{"do": COMMAND, "verify": {"by": "score", "within": 60.0}}]))
        shown = finding("cart", channel=channel)
        shown = replace(shown, evidence=replace(shown.evidence, series="00000000000000aa"))
        stage.strange = {"00000000000000aa": 1.5}
        stage.happens(incident(findings=(shown,)))
        stage.passes(5)
        assert stage.states() == ["active"]
        stage.strange = {"00000000000000aa": 0.4}
        stage.passes(5)
        assert stage.states() == ["done" if channel is Channel.SERIES else "active"]
        stage.happens(incident(revision=2, findings=(replace(shown, end_ns=stage.now_ns()),)))
        stage.passes(5)
        assert stage.states() == ["done"]

    def test_scores_that_are_not_known_are_asked_again_and_hold_up_nothing(self, stage: Stage) -> None:
        verify = {"by": "score", "within": 60.0}
        stage.with_playbooks(
            playbook(steps=[{"do": COMMAND, "verify": verify}]), playbook("two", [{"do": COMMAND, "guard": FREE}])
        )
        busy = True

        def scores(_: Incident) -> dict[str, float]:
            if busy:
                raise Overloaded("the step loop is busy")
            return {}

        stage.scores = scores  # type: ignore[method-assign]
        one = incident()
        stage.happens(one)
        stage.passes(5)
        assert {run.playbook.name: str(run.state) for run in stage.runs()} == {"heal": "active", "two": "done"}
        busy = False
        stage.happens(revised(one, findings=(replace(one.findings[0], end_ns=stage.now_ns()),)))
        stage.passes(5)
        assert stage.states() == ["done", "done"]

    def test_a_step_that_was_escalated_may_need_approval_too(self, stage: Stage) -> None:
        stage.change(commands=(replace(appending(stage.file), argv=("/bin/false",)), appending(stage.file, "other")))
        other = {"do": {"kind": "command", "use": "other"}, "guard": SURE}
        stage.with_playbooks(playbook(steps=[{"do": COMMAND, "escalate": [other]}]))
        stage.happens(incident())
        assert stage.standings() == ["do failed", "escalate.0 waiting"]
        stage.votes("ann")
        stage.passes(1)
        assert stage.lines() == ["cart"] and stage.states() == ["failed"]


class TestAudit:
    def test_it_tells_everything_and_the_chain_holds(self, stage: Stage) -> None:
        stage.with_playbooks(playbook(steps=[{"do": COMMAND, "guard": SURE}]))
        stage.happens(incident())
        stage.votes("ann")
        stage.passes(1)
        lines = list(stage.ledger.lines())
        deeds = [(one.deed().what, one.deed().who) for one in lines]
        ours = "otel-aiops"
        assert deeds == [
            ("begun", ours),
            ("asked", ours),
            ("approved", "ann"),
            ("intended", ours),
            ("done", ours),
            ("ended: done", ours),
        ]
        assert verify(lines).lines == 6 and verify(lines, lines[3].hash).known and not verify(lines, "0").known

    @pytest.mark.parametrize("number", [1, 3, 6])
    def test_a_changed_line_is_named(self, stage: Stage, number: int) -> None:
        stage.with_playbooks(playbook(steps=[{"do": NOTIFY}, {"do": NOTIFY}]))
        stage.happens(incident())
        lines = list(stage.ledger.lines())
        body = json.loads(lines[number - 1].body)
        changed = replace(lines[number - 1], body=json.dumps({**body, "who": "eve"}))
        found = verify([*lines[: number - 1], changed, *lines[number:]])
        assert found.broken == number
        assert verify([*lines[: number - 1], *lines[number:]]).broken == (number if number < len(lines) else 0)

    def test_no_secret_is_written(self, stage: Stage) -> None:
        stage.with_playbooks(playbook(steps=[{"do": HOOK}, {"do": NOTIFY}, {"do": COMMAND}]))
        stage.happens(incident())
        stage.close()
        for path in stage.folder.rglob("*"):
            assert path.is_dir() or b"a secret of tests" not in path.read_bytes(), path
