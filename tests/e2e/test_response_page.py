"""Responses, silences and alerts of others in real Chromium: every button does what it says, with Alertmanager."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.e2e.browsing import PATIENCE_MS, PHONE, visiting
from tests.incident_feed import broken, call
from tests.responses.receiver import receiving
from tests.servers import Alertmanager, wait_for
from tests.test_app import Running
from tests.test_responses import configured, responses

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

FIRING = {
    "status": "firing",
    "labels": {"alertname": "HighErrorRate", "severity": "critical", "service": "catalog", "team": "<b>shop</b>"},
    "annotations": {"summary": "Too many errors", "description": "5 % of the requests fail"},
    "startsAt": "2026-01-05T12:03:00Z",
    "endsAt": "0001-01-01T00:00:00Z",
    "fingerprint": "f1",
}


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alertmanager]:
    with Alertmanager(tmp_path_factory.mktemp("alertmanager")) as found:
        yield found


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, alertmanager: Alertmanager) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("state")
    to = {"to": [{"url": alertmanager.url}], "resend": 2, "silences": 1}
    with receiving() as receiver:
        more = configured(folder, receiver.url, f"alertmanager: {json.dumps(to)}\n")
        with broken(folder, more, still=True) as found:
            wait_for(lambda: responses(found, state="waiting"), "somebody to be asked")
            tree = {"version": "4", "groupKey": "g", "status": "firing", "receiver": "x", "alerts": [FIRING]}
            assert call(found, "POST", "webhooks/alertmanager", tree).json()["taken"] == 1
            yield found


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def tab(browser: Browser, up: Running, complaints: list[str]) -> Iterator[Page]:
    with visiting(browser, up, complaints, color_scheme="dark") as found:
        yield found
    assert not complaints


def incident(up: Running) -> dict[str, Any]:
    found: dict[str, Any] = up.get(f"/api/v1/incidents/{up.get('/api/v1/incidents')['incidents'][-1]['id']}")
    return found


def alert(up: Running) -> str:
    (found,) = up.get("/api/v1/known-alerts")["alerts"]
    return str(found["id"])


def silences(server: Alertmanager) -> list[dict[str, Any]]:
    found = requests.get(f"{server.url}/api/v2/silences", timeout=10).json()
    return [one for one in found if one["status"]["state"] == "active"]


def named(part: Locator, who: str, why: str = "") -> None:
    part.get_by_label("Your name").fill(who)
    part.get_by_label("Why").fill(why)


def test_pages_open_without_complaint_and_fit_a_phone(browser: Browser, up: Running, complaints: list[str]) -> None:
    found = incident(up)["id"]
    paths = ["/responses", "/silences", "/incidents?view=alerts", f"/incidents/{alert(up)}"]
    paths += [f"/incidents/{name}/playbooks" for name in (found, alert(up))]
    paths += [f"/responses/{one['id']}" for one in responses(up)]
    for options in ({"color_scheme": "light", "viewport": PHONE}, {"color_scheme": "dark"}):
        with visiting(browser, up, complaints, **options) as tab:
            for path in paths:
                assert tab.goto(path).ok, path  # type: ignore[union-attr]
                expect(tab.locator("h1")).to_be_visible()
                expect(tab.locator("#pulse.live")).to_be_visible()
                assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
    assert not complaints


def test_an_alert_of_others_leads_somewhere(tab: Page, up: Running) -> None:
    tab.goto("/incidents")
    tab.get_by_role("link", name="Alerts of others").click()
    expect(tab.locator("#pulse.live")).to_be_visible()
    over = {**FIRING, "status": "resolved", "endsAt": "2026-01-05T12:09:00Z"}
    tree = {"version": "4", "groupKey": "g", "status": "resolved", "receiver": "x", "alerts": [over]}

    def ends_first(route: Route) -> None:
        assert call(up, "POST", "webhooks/alertmanager", tree).ok
        route.continue_()

    tab.route("**/live", ends_first)  # after the page is drawn, and before it listens
    tab.get_by_role("link", name="HighErrorRate").click()
    expect(tab.locator("h1")).to_have_text("Too many errors")
    expect(tab.get_by_text("<b>shop</b>")).to_be_visible()
    expect(tab.get_by_text("5 % of the requests fail").first).to_be_visible()
    expect(tab.locator("#head .badge").first).to_have_text("resolved")  # without reload
    expect(tab.locator("#told li")).to_have_count(2)
    assert requests.get(f"http://127.0.0.1:{up.ports['api']}/incidents/alert-none", timeout=30).status_code == 404


def test_an_incident_is_silenced_in_alertmanager_and_says_by_what(
    tab: Page, up: Running, alertmanager: Alertmanager
) -> None:
    found = incident(up)
    tab.goto(f"/incidents/{found['id']}")
    act = tab.locator("#decide")
    named(act, "Ana", "we know")
    act.get_by_label("For").select_option("1 hour")
    act.get_by_role("button", name="Silence").click()
    expect(tab.locator("#said")).to_have_text("The silence holds.")
    (one,) = silences(alertmanager)
    assert one["createdBy"] == "Ana" and one["comment"] == f"we know [otel-aiops {found['id']}]"
    assert [(m["name"], m["value"]) for m in one["matchers"]] == [("incident_id", found["id"])]
    expect(tab.locator("#suppressed")).to_contain_text(f"silence alertmanager:{one['id']} by Ana: we know")
    tab.get_by_role("link", name="silences").first.click()
    row = tab.locator("#silences tbody tr")
    expect(row).to_contain_text(f'incident_id="{found["id"]}"')
    row.locator("summary").click()
    named(row, "Ana", "over")
    row.get_by_role("button", name="End it").click()
    expect(tab.locator("#said")).to_have_text("It has ended.")
    expect(tab.get_by_text("None holds.")).to_be_visible()
    assert not silences(alertmanager)
    tab.goto(f"/incidents/{found['id']}")
    expect(tab.locator("#suppressed")).to_have_count(0)


def test_all_of_its_services_are_silenced(tab: Page, up: Running, alertmanager: Alertmanager) -> None:
    found = incident(up)
    for asked, said in (
        ({"for": "1h"}, "who: expected a value"),
        ({"who": "a"}, "for: expected how long"),
        ({"who": "a", "for": "1h", "scope": "world"}, "scope: expected one of incident, services"),
    ):
        answer = call(up, "POST", f"incidents/{found['id']}/silence", asked)
        assert answer.status_code == 400 and said in answer.json()["error"]
    assert call(up, "POST", "incidents/none/silence", {"who": "a", "for": "1h"}).status_code == 404
    assert not silences(alertmanager)
    made = call(up, "POST", f"incidents/{found['id']}/silence", {"who": "bob", "for": "1h", "scope": "services"}).json()
    assert made["where"] == "Alertmanager" and made["ends_here"]
    (one,) = silences(alertmanager)
    (matcher,) = one["matchers"]
    assert matcher["name"] == "service_name" and set(matcher["value"].split("|")) == set(found["services"])
    tab.goto("/silences")
    expect(tab.locator("#silences tbody tr")).to_have_count(1)
    assert call(up, "DELETE", f"silences/{made['name']}", who="bob").ok and not silences(alertmanager)
    expect(tab.locator("#silences tbody tr")).to_have_count(0)  # without reload


def test_services_are_silenced_and_worked_on_here(tab: Page, up: Running) -> None:
    tab.goto("/silences")
    for title, button, listed in (
        ("Silence services", "Silence", "#silences"),
        ("Announce work on services", "Begin now", "#windows"),
    ):
        form = tab.locator("details", has_text=title)
        form.locator("summary").click()
        form.get_by_label("Services").fill("payments*")
        named(form, "Eve", "moves a database")
        form.get_by_role("button", name=button).click()
        row = tab.locator(f"{listed} tbody tr", has_text="payments*")
        expect(row).to_contain_text("moves a database")
        row.locator("summary").click()
        row.get_by_label("Your name").fill("Eve")
        row.get_by_role("button", name="End it").click()
        expect(tab.locator(f"{listed} tbody tr", has_text="payments*")).to_have_count(0)
    expect(tab.locator("#windows")).to_contain_text("in the configuration")  # nightly has no button


def test_what_playbooks_would_do(tab: Page, up: Running) -> None:
    tab.goto(f"/incidents/{incident(up)['id']}")
    tab.get_by_role("link", name="what playbooks would do now").click()
    expect(tab.locator("section", has_text="command heal")).to_contain_text("would wait for people")
    expect(tab.locator("section", has_text="other does not match")).to_contain_text("types: expected one of silence")


def test_the_switch_stops_all(tab: Page, up: Running) -> None:
    tab.goto("/responses")
    switch = tab.locator("#switch")
    expect(switch).to_contain_text("On.")
    named(switch, "ann", "a storm")
    switch.get_by_role("button", name="Stop all responses").click()
    expect(tab.locator("#said")).to_have_text("All responses are stopped.")
    expect(switch.get_by_role("alert")).to_contain_text("ann: a storm")
    expect(tab.locator("#playbooks tbody tr").first).to_contain_text("stopped")
    assert up.get("/api/v1/playbooks")["stopped"] == "ann: a storm"
    tab.goto("/")
    expect(tab.get_by_role("alert")).to_contain_text("All responses are stopped: ann: a storm")
    tab.goto("/responses")
    tab.locator("#switch").get_by_role("button", name="Resume responses").click()  # the name is remembered
    expect(tab.locator("#said")).to_have_text("Responses go on.")
    assert up.get("/api/v1/playbooks")["stopped"] is None


def test_a_broken_audit_is_seen(browser: Browser, tmp_path: Path, complaints: list[str]) -> None:
    from tests.test_app import running

    with running(tmp_path) as up:
        for who in ("ann", "bob"):
            assert call(up, "POST", "responses/stop", {"who": who}).ok
        with sqlite3.connect(tmp_path / "incidents.db") as connection:
            connection.execute("update response_audit set body = replace(body, 'ann', 'eve') where number = 1")
        connection.close()
        with visiting(browser, up, complaints) as tab:
            tab.goto("/responses")
            expect(tab.locator("#audit")).to_contain_text("The chain is broken at line 1")
            assert not up.get("/api/v1/responses/audit")["holds"]
    assert not complaints


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A service with a response that waits for two people."""
    folder = tmp_path_factory.mktemp("second")
    with receiving() as receiver, broken(folder, configured(folder, receiver.url), still=True) as found:
        wait_for(lambda: responses(found, state="waiting"), "somebody to be asked")
        yield found


def test_two_people_approve(browser: Browser, second: Running, complaints: list[str]) -> None:
    up = second
    (one,) = responses(up, state="waiting")
    with visiting(browser, up, complaints, color_scheme="light") as tab:
        tab.goto(f"/incidents/{one['incident']}")
        card = tab.locator("#responses article.wait")
        expect(card).to_contain_text("0 of 2 approvals")
        expect(card).to_contain_text("may be approved until")
        named(card, "mallory")
        card.get_by_role("button", name="Approve").click()
        expect(tab.locator("#said.bad")).to_contain_text("who: expected one of responses.approvers")
        assert complaints and all(
            "400" in text for text in complaints
        )  # Chromium writes down every answer of that kind
        complaints.clear()
        named(card, "ann", "go")
        card.get_by_role("button", name="Approve").click()
        expect(tab.locator("#said")).to_have_text("Your approval is kept.")
        expect(card).to_contain_text("1 of 2 approvals: approved by ann")
        with visiting(browser, up, complaints) as other:
            other.goto("/responses")
            card = other.locator("#waiting article.wait")
            expect(card).to_contain_text("approved by ann")
            card.get_by_label("Your name").focus()
            other.keyboard.type("bob")
            for _ in range(2):
                other.keyboard.press("Tab")
            assert other.evaluate("document.activeElement.textContent") == "Approve"
            other.keyboard.press("Enter")
            expect(other.locator("#said")).to_have_text("Your approval is kept.")
            expect(other.get_by_text("Nothing waits for an approval.")).to_be_visible()
            expect(other.locator("#running tbody tr", has_text="heal")).to_contain_text("pending")
        expect(tab.locator("#responses article.wait")).to_have_count(0)  # without reload
        tab.goto(f"/responses/{one['id']}")
        step = tab.locator("#steps article").first
        expect(step).to_contain_text("Whether it helped is looked at until")
        expect(step.locator("pre.output")).to_contain_text("did catalog")
        expect(tab.locator("#timeline")).to_contain_text("bob")
        assert call(up, "POST", f"incidents/{one['incident']}", {"action": "resolve", "who": "ann"}).ok
        expect(tab.locator("#head .badge").first).to_have_text("done", timeout=2 * PATIENCE_MS)  # without reload
        expect(step).to_contain_text("recovered")
        tab.goto("/responses?state=done&playbook=heal")
        expect(tab.locator("#history tbody tr")).to_have_count(1)
        expect(tab.locator("#audit")).to_contain_text("The chain holds")
    assert not complaints


def test_one_refuses(browser: Browser, tmp_path: Path, complaints: list[str]) -> None:
    with receiving() as receiver, broken(tmp_path, configured(tmp_path, receiver.url), still=True) as up:
        (one,) = wait_for(lambda: responses(up, state="waiting"), "somebody to be asked")
        with visiting(browser, up, complaints) as tab:
            tab.goto(f"/responses/{one['id']}")
            named(tab.locator("#steps"), "eve", "not now")
            tab.get_by_role("button", name="Refuse").click()
            expect(tab.locator("#said")).to_have_text("It is refused.")
            expect(tab.locator("#head .badge").first).to_have_text("refused")
            expect(tab.locator("#steps")).to_contain_text("refused by eve: not now")
    assert not complaints
