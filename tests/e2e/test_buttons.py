"""Every button of every page: all are found in Chromium, each is pressed, and the API says what came of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from otel_aiops.server.access import Role
from otel_aiops.server.access.roles import listed
from tests.e2e.browsing import visiting
from tests.e2e.everything import Rich
from tests.incident_feed import call
from tests.server.test_web_roles import Guarded
from tests.servers import wait_for

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]

Told = Callable[[Rich], list[tuple[str, str]]]

PARTS = ("/series/{fingerprint}/plot", "/series/{fingerprint}/forecast")  # of pages
NO_PAGES = ("/live", "/metrics", "/static/{name}", "/-/healthy", "/-/ready", "/sign-in/issuer", "/sign-in/callback")
SIGNING = ("/sign-in",)  # only where people sign in: below

BUTTONS = """() => [...document.querySelectorAll(
    "button, [type=submit], [type=button], [type=image], [role=button], form")]
    .filter(one => one.tagName !== "FORM" || !one.querySelector("button"))
    .map(one => ({
        method: one.form?.getAttribute("method") ?? "",
        action: one.type === "submit" ? one.getAttribute("formaction") ?? one.form?.getAttribute("action") ?? "" : "",
        name: one.name ?? "", value: one.value ?? "", text: one.textContent.trim(),
    }))"""


# -- what the API says was done ------------------------------------------------------------------------------------


def decisions(rich: Rich) -> list[tuple[str, str]]:
    found = rich.up.get(f"/api/v1/incidents/{rich.incident}")
    return [(one["action"], one["why"]) for one in found["decisions"]]


def verdicts(rich: Rich) -> list[tuple[str, str]]:
    found = rich.up.get(f"/api/v1/incidents/{rich.incident}")
    return [(one["verdict"], one["why"]) for one in found["verdicts"]]


def verdicts_of_series(rich: Rich) -> list[tuple[str, str]]:
    return [(one["verdict"], one["note"]) for one in rich.up.get("/api/v1/verdicts")["verdicts"]]


def silences(rich: Rich) -> list[tuple[str, str]]:
    return [(" ".join(one["services"]), one["why"]) for one in rich.up.get("/api/v1/silences")["silences"]]


def silences_of_all(rich: Rich) -> list[tuple[str, str]]:
    """Those of all services of the incident."""
    services = set(rich.up.get(f"/api/v1/incidents/{rich.incident}")["services"])
    found = rich.up.get("/api/v1/silences")["silences"]
    return [("all services", one["why"]) for one in found if set(one["services"]) == services]


def windows(rich: Rich) -> list[tuple[str, str]]:
    return [(" ".join(one["services"]), one["why"]) for one in rich.up.get("/api/v1/maintenance")["maintenance"]]


def ends(rich: Rich) -> list[tuple[str, str]]:
    """That the silence of `payments*` holds no more."""
    return [] if any("payments*" in services for services, _ in silences(rich)) else [("ended", "")]


def audited(rich: Rich) -> list[tuple[str, str]]:
    return [(one["what"], one["why"]) for one in rich.up.get("/api/v1/responses/audit")["newest"]]


def rollouts(rich: Rich) -> list[tuple[str, str]]:
    return [(one["action"], one["why"]) for one in rich.up.get("/api/v1/rollout/history")["rollouts"]]


def versions(rich: Rich) -> list[tuple[str, str]]:
    return [("saved", one["lineage"]["why"]) for one in rich.up.get("/api/v1/models")["models"]]


def runs(rich: Rich) -> list[tuple[str, str]]:
    found = rich.up.get("/api/v1/lifecycle/runs")
    return [("begun", "")] if found["running"] or found["total"] or found["problem"] else []


# -- what must be there first --------------------------------------------------------------------------------------


def state(wanted: str) -> Callable[[Rich], None]:
    """The incident is in a state."""

    def ready(rich: Rich) -> None:
        way = {"open": ("resolve", "reopen"), "acknowledged": ("acknowledge",), "resolved": ("resolve",)}
        path = f"incidents/{rich.incident}"
        if rich.up.get(f"/api/v1/{path}")["state"] != wanted:
            for action in way[wanted]:
                rich.post(path, {"action": action, "who": "bob"})

    return ready


def beside(rich: Rich) -> None:
    """A version runs beside the champion, as canary."""
    if rich.up.get("/api/v1/rollout")["other"] is None:
        rich.roll("canary", version=rich.idle, share=0.5)


def replaced(rich: Rich) -> None:
    """There is a version to go back to."""
    beside(rich)
    rich.roll("promote", version=rich.up.get("/api/v1/rollout")["other"])


def stopped(rich: Rich) -> None:
    rich.post("responses/stop", {"who": "bob"})


def single(rich: Rich) -> None:
    """Only the silence of `payments*` holds."""
    for one in rich.up.get("/api/v1/silences")["silences"]:
        if one["services"] != ["payments*"]:
            assert call(rich.up, "DELETE", f"silences/{one['name']}", who="bob").ok


def alone(rich: Rich) -> None:
    if rich.up.get("/api/v1/rollout")["other"] is not None:
        rich.roll("stop")


def nothing(_: Rich) -> None: ...


# -- the table -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Press:
    """A button that does something: where it is, what the page says then, and what the API must tell that it has not
    told before. `why` is what is written into the field of that name.
    """

    on: str
    says: str
    told: Told
    what: str
    why: str = "pressed in a test"
    who: str = "ann"
    ready: Callable[[Rich], None] = nothing
    fields: Mapping[str, str] = field(default_factory=dict)


KEPT = "The verdict is kept; thresholds, labels and cases follow."
INCIDENT, SERIES, RUN = "/incidents/{incident}", "/series/{alerted}", "/responses/{run}"

DEEDS: Mapping[str, Press] = {
    "POST /responses/{id}/vote action=approve": Press(
        on="/responses", says="Your approval is kept.", told=audited, what="approved"
    ),
    "POST /responses/{id}/vote action=refuse": Press(
        on=RUN, says="It is refused.", told=audited, what="refused by a person", who="eve"
    ),
    "POST /incidents/{id}/mark action=acknowledge": Press(
        on=INCIDENT, says="The incident is acknowledged.", told=decisions, what="acknowledge", ready=state("open")
    ),
    "POST /incidents/{id}/mark action=resolve": Press(
        on=INCIDENT, says="The incident is resolved.", told=decisions, what="resolve", ready=state("open")
    ),
    "POST /incidents/{id}/mark action=reopen": Press(
        on=INCIDENT, says="The incident is open again.", told=decisions, what="reopen", ready=state("resolved")
    ),
    "POST /incidents/{id}/verdict verdict=real": Press(on=INCIDENT, says=KEPT, told=verdicts, what="true_alert"),
    "POST /incidents/{id}/verdict verdict=false": Press(on=INCIDENT, says=KEPT, told=verdicts, what="false_alert"),
    "POST /incidents/{id}/verdict verdict=expected": Press(on=INCIDENT, says=KEPT, told=verdicts, what="expected"),
    "POST /incidents/{id}/verdict verdict=duplicate": Press(
        on=INCIDENT, says=KEPT, told=verdicts, what="duplicate", fields={"of": "i1"}
    ),
    "POST /incidents/{id}/silence Silence": Press(
        on=INCIDENT,
        says="The silence holds.",
        told=silences_of_all,
        what="all services",
        ready=state("open"),
        fields={"scope": "services", "for": "1h"},
    ),
    "POST /series/{fingerprint}/verdict verdict=real": Press(
        on=SERIES, says=KEPT, told=verdicts_of_series, what="true_alert", why="really"
    ),
    "POST /series/{fingerprint}/verdict verdict=false": Press(
        on="/feedback", says=KEPT, told=verdicts_of_series, what="false_alert", why="of the queue"
    ),
    "POST /series/{fingerprint}/verdict verdict=expected": Press(
        on="/feedback", says=KEPT, told=verdicts_of_series, what="expected", why="load test"
    ),
    "POST /silences Silence": Press(
        on="/silences", says="The silence holds.", told=silences, what="pay* cart", fields={"services": "pay*, cart"}
    ),
    "POST /silences Begin now": Press(
        on="/silences", says="The maintenance window holds.", told=windows, what="web", fields={"services": "web"}
    ),
    "POST /silences/end End it": Press(
        on="/silences", says="It has ended.", told=ends, what="ended", why="", ready=single
    ),
    "POST /responses/switch action=stop": Press(
        on="/responses", says="All responses are stopped.", told=audited, what="stopped"
    ),
    "POST /responses/switch action=resume": Press(
        on="/responses",
        says="Responses go on.",
        told=audited,
        what="resumed",
        ready=stopped,
    ),
    "POST /models/roll action=promote": Press(
        on="/models", says="The version is the champion now.", told=rollouts, what="promote", ready=beside
    ),
    "POST /models/roll action=rollback": Press(
        on="/models",
        says="The version before serves again.",
        told=rollouts,
        what="rollback",
        ready=replaced,
    ),
    "POST /models/roll action=shadow": Press(
        on="/models/{idle}",
        says="The version runs beside the champion now.",
        told=rollouts,
        what="shadow",
        ready=alone,
    ),
    "POST /models/roll action=canary": Press(
        on="/models",
        says="The version serves a share of the series now.",
        told=rollouts,
        what="canary",
        ready=alone,
        fields={"share": "30"},
    ),
    "POST /models/roll action=stop": Press(
        on="/models", says="The version beside the champion has stopped.", told=rollouts, what="stop", ready=beside
    ),
    "POST /models/save Register": Press(
        on="/models", says="What serves is registered as a version.", told=versions, what="saved"
    ),
    "POST /models/run Begin a run": Press(
        on="/models", says="A run of the lifecycle begins in a moment.", told=runs, what="begun", why=""
    ),
}


def show_incidents(tab: Page, rich: Rich) -> None:
    tab.goto("/incidents?view=all")
    tab.get_by_label("Severity").select_option("info")
    tab.get_by_role("button", name="Show").click()
    expect(tab.get_by_text("There are none of these.")).to_be_visible()
    tab.get_by_label("Severity").select_option("any")
    tab.get_by_label("Service", exact=True).fill("catalog")
    tab.get_by_role("button", name="Show").click()
    expect(tab.locator("#list tbody tr")).to_contain_text("catalog")
    assert re.search(r"view=all&severity=&service=catalog$", tab.url)


def show_responses(tab: Page, rich: Rich) -> None:
    tab.goto("/responses")
    tab.get_by_label("State").select_option("dry run")
    tab.get_by_role("button", name="Show").click()
    expect(tab.locator("#history tbody tr")).to_have_count(1)
    expect(tab.locator("#history tbody tr")).to_contain_text("try")
    tab.get_by_label("Playbook", exact=True).fill("heal")
    tab.get_by_role("button", name="Show").click()
    expect(tab.locator("#history")).to_contain_text("None of these.")


def search(tab: Page, rich: Rich) -> None:
    tab.goto("/series")
    tab.get_by_label("Name, service or labels").fill("memory catalog")
    tab.get_by_role("button", name="Search").click()
    expect(tab.locator("#found tbody tr").first).to_contain_text("k8s.pod.memory")


def forecast(tab: Page, rich: Rich) -> None:
    tab.goto(f"/series/{rich.series}")
    tab.get_by_text("Forecast of the next day").click()
    tab.get_by_label("How far").select_option("6h")
    tab.get_by_label("the limit").fill("1000000")
    tab.get_by_role("button", name="Forecast").click()
    expect(tab.locator("details figure").locator("svg, p").first).to_be_visible()
    assert "horizon=6h" in tab.url and "limit=1000000" in tab.url


def theme(tab: Page, rich: Rich) -> None:
    tab.goto("/")
    tab.get_by_role("button", name="Theme: auto").click()
    expect(tab.locator("html")).to_have_attribute("data-theme", "light")


LOOKS: Mapping[str, Callable[[Page, Rich], None]] = {
    "GET /incidents Show": show_incidents,
    "GET /responses Show": show_responses,
    "GET /series Search": search,
    "GET /series/{fingerprint} Forecast": forecast,
    "Theme": theme,
}
SIGNS = ("POST /sign-in Sign in", "POST /sign-out Sign out")  # pressed by the last test
KNOWN = {*DEEDS, *LOOKS, *SIGNS}


# -- finding and pressing ------------------------------------------------------------------------------------------


def routes() -> list[tuple[str, re.Pattern[str]]]:
    found = [(route, re.sub(r"{\w+}", "[^/]+", route.split()[1])) for route in listed()]
    return [(route, re.compile(f"{route.split()[0]} {path}")) for route, path in found]


def named(one: Mapping[str, str]) -> str:
    """A button by the route that it is sent to, and by its name and value, or by its text."""
    what = f"{one['name']}={one['value']}" if one["name"] else one["text"]
    if not one["action"]:
        return what.split(":")[0]  # which theme
    asked = f"{one['method'].upper()} {one['action'].split('#')[0]}"
    return f"{next((route for route, form in routes() if form.fullmatch(asked)), asked)} {what}"


def buttons(tab: Page) -> list[str]:
    return [named(one) for one in tab.evaluate(BUTTONS)]


def seen(tab: Page) -> set[str]:
    """The buttons of a page, all of which are known."""
    found = set(buttons(tab))
    assert found <= KNOWN, f"{tab.url}: say in the table what these do, and press them: {sorted(found - KNOWN)}"
    return found


def test_every_page_has_only_buttons_that_are_pressed_here(tab: Page, rich: Rich) -> None:
    pages = rich.pages()
    gets = {route.split()[1] for route in listed() if route.startswith("GET ")}
    assert {path for path in gets if not path.startswith("/api/")} == {*pages, *PARTS, *NO_PAGES, *SIGNING}
    found = set[str]()
    for path in rich.addresses():
        answer = tab.goto(path)
        assert answer is not None and answer.ok and answer.headers["content-type"].startswith("text/html"), path
        found |= seen(tab)
    hidden = {"reopen", "resume", "Sign in", "Sign out"}  # of other states
    missing = {one for one in KNOWN - found if not any(word in one for word in hidden)}
    assert not missing, f"no page has these any more: {sorted(missing)}"


@pytest.mark.parametrize("button", LOOKS)
def test_what_only_shows(tab: Page, rich: Rich, button: str) -> None:
    LOOKS[button](tab, rich)
    seen(tab)


@pytest.mark.parametrize("button", DEEDS)
def test_what_does_something(tab: Page, rich: Rich, button: str) -> None:
    about = DEEDS[button]
    about.ready(rich)
    wanted = about.what, about.why
    assert wanted not in about.told(rich)
    tab.goto(re.sub(r"{(\w+)}", lambda name: getattr(rich, name[1]), about.on))
    seen(tab)
    place = tab.locator("button").nth(buttons(tab).index(button))
    for closed in place.locator("xpath=ancestor::details[not(@open)]/summary").all():
        closed.click()
    form = place.locator("xpath=ancestor::form")
    for name, value in {"who": about.who, "why": about.why, **about.fields}.items():
        fill(form.locator(f"[name={name}]"), value)
    place.click()
    expect(tab.locator("#said")).to_have_text(about.says)
    wait_for(lambda: wanted in about.told(rich), f"{wanted} to be told", timeout_s=60)
    seen(tab)


def fill(one: Locator, value: str) -> None:
    if one.evaluate("one => one.tagName") == "SELECT":
        one.select_option(value)
    else:
        one.fill(value)


def test_who_signs_in_and_out(rich: Rich, browser: Browser, tmp_path: Path) -> None:
    """As each role; what it may not send, no page shows."""
    guarded, complaints = Guarded(rich.up, tmp_path), list[str]()
    try:
        for role in Role:
            with visiting(browser, rich.up, complaints, base_url=guarded.base) as tab:
                tab.goto("/models")
                assert seen(tab) == {SIGNS[0], "Theme"}
                tab.get_by_label("Token").fill(guarded.tokens[role])
                tab.get_by_role("button", name="Sign in").click()
                expect(tab.locator(".tools")).to_contain_text(f"{role}-1 {role}")
                found = seen(tab)
                assert ("POST /models/save Register" in found) == (role is Role.ADMIN) and SIGNS[1] in found
                tab.get_by_role("button", name="Sign out").click()
                expect(tab.get_by_label("Token")).to_be_visible()
                tab.goto("/models")
                assert "/sign-in" in tab.url
    finally:
        guarded.server.stop(1.0)
    assert not complaints
