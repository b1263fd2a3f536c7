"""The page in real Chromium: pages open without complaint, buttons do what they say, news come by themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.e2e.browsing import PATIENCE_MS, PHONE, address, watched
from tests.feed import Feed
from tests.incident_feed import broken, call
from tests.servers import wait_for
from tests.test_app import Running, running
from tests.test_rollout import Shop

pytestmark = pytest.mark.servers

OBJECTIVE = """
objectives: [{name: catalog, description: of the catalog, match: {service: catalog}, budget: 2/week}]
"""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Running]:
    with broken(tmp_path_factory.mktemp("state"), OBJECTIVE, still=True) as found:
        yield found


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def context(browser: Browser, up: Running) -> Iterator[BrowserContext]:
    found = browser.new_context(base_url=address(up), color_scheme="light")
    found.set_default_timeout(PATIENCE_MS)
    yield found
    found.close()


@pytest.fixture
def tab(context: BrowserContext, complaints: list[str]) -> Iterator[Page]:
    found = watched(context, complaints)
    yield found
    assert not complaints


def incident(up: Running) -> dict[str, Any]:
    name = up.get("/api/v1/incidents")["incidents"][-1]["id"]
    found: dict[str, Any] = up.get(f"/api/v1/incidents/{name}")
    return found


def series(up: Running) -> str:
    found = incident(up)["findings"]
    return next(str(one["evidence"]["series"]) for one in found if one["evidence"]["series"])


def paths(up: Running) -> list[str]:
    lists = ["/", "/incidents", "/series", "/objectives", "/models", "/feedback", "/system", "/objectives/catalog"]
    lists += ["/runbooks", "/runbooks/host.md#hostmemoryunusual"]
    return [*lists, f"/incidents/{incident(up)['id']}", f"/series/{series(up)}"]


class TestPages:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    def test_open_without_complaint(self, browser: Browser, up: Running, scheme: Any, complaints: list[str]) -> None:
        context = browser.new_context(base_url=address(up), color_scheme=scheme)
        tab = watched(context, complaints)
        grounds = set()
        for path in paths(up):
            tab.goto(path)
            expect(tab.locator("h1")).to_be_visible()
            expect(tab.locator("#pulse.live")).to_be_visible()
            grounds.add(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert grounds == {"rgb(245, 246, 248)" if scheme == "light" else "rgb(17, 21, 26)"}
        context.close()
        assert not complaints

    def test_fit_a_phone(self, browser: Browser, up: Running) -> None:
        context = browser.new_context(base_url=address(up), viewport=PHONE)  # type: ignore[arg-type]
        tab = context.new_page()
        for path in paths(up):
            tab.goto(path)
            expect(tab.locator("h1")).to_be_visible()
            assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), path
        context.close()

    def test_plots_are_drawn_when_they_are_looked_at(self, tab: Page, up: Running) -> None:
        tab.goto(f"/incidents/{incident(up)['id']}")
        figure = tab.locator("figure.picture").first
        figure.scroll_into_view_if_needed()
        expect(figure.locator("svg.plot .line.value").first).to_be_visible()
        expect(tab.locator("#graph .node.suspect.first")).to_be_visible()

    def test_a_forecast_is_made_when_it_is_asked_for(self, tab: Page, up: Running) -> None:
        tab.goto(f"/series/{series(up)}")
        expect(tab.locator("svg.plot .line.value").first).to_be_visible()
        tab.get_by_text("Forecast of the next day").click()
        forecast = tab.locator("details figure")
        expect(forecast.locator("svg, p").first).to_be_visible()
        tab.get_by_label("the limit").fill("1000000")
        tab.get_by_role("button", name="Forecast").click()
        expect(forecast.locator("p").first).to_contain_text(
            re.compile("Above 1,000,000.*(in about|not within|too little)", re.DOTALL)
        )
        expect(tab.get_by_label("the limit")).to_have_value("1000000")

    def test_times_are_told_in_the_readers_own(self, browser: Browser, up: Running) -> None:
        context = browser.new_context(base_url=address(up), timezone_id="Asia/Tokyo", locale="en-GB")
        tab = context.new_page()
        tab.goto(f"/incidents/{incident(up)['id']}")
        first = tab.locator("time").first
        expect(first).to_have_text(re.compile(r"2026-01-05 12:\d\d:\d\d"))
        expect(first).to_have_attribute("title", re.compile("your time: 5 Jan 2026, 21:"))
        context.close()


class TestButtons:
    def test_acknowledge_and_verdicts(self, tab: Page, up: Running) -> None:
        name = incident(up)["id"]
        tab.goto(f"/incidents/{name}")
        tab.get_by_label("Your name").fill("Ana")
        tab.get_by_label("Why, or a note (optional)").fill("on it")
        tab.get_by_role("button", name="Acknowledge").click()
        expect(tab.locator("#said")).to_have_text("The incident is acknowledged.")
        expect(tab.locator("#head .badge").first).to_have_text("acknowledged")
        found = incident(up)
        assert found["state"] == "acknowledged" and found["decisions"][-1]["why"] == "on it"
        for verdict, kept in (("Real", "true_alert"), ("False", "false_alert"), ("Expected", "expected")):
            tab.get_by_role("button", name=verdict).click()
            expect(tab.locator("#said-before .verdict-row").first).to_contain_text(kept.replace("_", " "))
            assert incident(up)["verdicts"][0]["verdict"] == kept and incident(up)["verdicts"][0]["who"] == "Ana"
        for action, state in (("Resolve", "resolved"), ("Reopen", "open")):
            tab.get_by_role("button", name=action).click()
            expect(tab.locator("#head .badge").first).to_have_text(state)
            assert incident(up)["state"] == state

    def test_what_is_refused_is_told_and_changes_nothing(self, tab: Page, up: Running, complaints: list[str]) -> None:
        before = len(incident(up)["verdicts"])
        tab.goto(f"/incidents/{incident(up)['id']}")
        tab.get_by_label("Your name").fill("Ana")
        tab.get_by_role("button", name="Duplicate").click()
        expect(tab.locator("#said.bad")).to_contain_text("of: expected the id of the other incident")
        assert len(incident(up)["verdicts"]) == before
        assert all("400" in one for one in complaints)  # Chromium writes down every answer of that kind
        complaints.clear()

    def test_work_without_the_script(self, browser: Browser, up: Running) -> None:
        context = browser.new_context(base_url=address(up), java_script_enabled=False)
        tab = context.new_page()
        tab.goto(f"/incidents/{incident(up)['id']}")
        tab.get_by_label("Your name").fill("Cem")
        tab.get_by_role("button", name="Real").click()
        expect(tab.locator("#said")).to_contain_text("The verdict is kept")
        assert incident(up)["verdicts"][0]["who"] == "Cem"
        expect(tab.get_by_label("Your name")).to_have_value("Cem")  # it is asked once
        context.close()

    def test_the_theme(self, tab: Page) -> None:
        tab.goto("/")
        for theme, ground in (("light", "245, 246, 248"), ("dark", "17, 21, 26")):
            tab.get_by_role("button", name="Theme").click()
            expect(tab.get_by_role("button", name=f"Theme: {theme}")).to_be_visible()
            assert ground in tab.evaluate("getComputedStyle(document.body).backgroundColor")
        tab.goto("/models")
        expect(tab.locator("html")).to_have_attribute("data-theme", "dark")

    def test_search_and_filter(self, tab: Page, up: Running) -> None:
        tab.goto("/series")
        tab.get_by_label("Name, service or labels").fill("memory catalog")
        tab.get_by_role("button", name="Search").click()
        expect(tab.locator("#found tbody tr").first).to_contain_text("k8s.pod.memory")
        tab.goto("/incidents")
        tab.get_by_label("Service", exact=True).fill("nobody")
        tab.get_by_role("button", name="Show").click()
        expect(tab.get_by_text("There are none of these.")).to_be_visible()


class TestNews:
    def test_come_without_reload_and_leave_what_is_typed(self, tab: Page, up: Running) -> None:
        name = incident(up)["id"]
        tab.goto(f"/incidents/{name}")
        expect(tab.locator("#pulse.live")).to_be_visible()
        tab.evaluate("window.kept = true")
        note = tab.get_by_label("Why, or a note (optional)")
        note.fill("half a sent")
        tab.evaluate("window.scrollTo(0, 120)")
        call(up, "POST", f"incidents/{name}", {"action": "acknowledge", "who": "somebody else"})
        expect(tab.locator("#head .badge").first).to_have_text("acknowledged")
        expect(tab.locator("#said-before")).to_contain_text("somebody else")
        expect(note).to_have_value("half a sent")
        expect(note).to_be_focused()
        assert tab.evaluate("[window.kept, window.scrollY]") == [True, 120]
        for action in ("resolve", "reopen"):
            call(up, "POST", f"incidents/{name}", {"action": action, "who": "somebody else"})
        expect(tab.get_by_role("button", name="Acknowledge")).to_be_visible()

    def test_are_looked_for_where_they_cannot_be_told(self, context: BrowserContext, up: Running) -> None:
        name = incident(up)["id"]
        tab = context.new_page()
        tab.route("**/live", lambda route: route.fulfill(status=503))
        tab.goto(f"/incidents/{name}")
        expect(tab.locator("#pulse.polling")).to_be_visible()
        call(up, "POST", f"incidents/{name}/verdict", {"verdict": "real", "who": "dora"})
        expect(tab.locator("#said-before")).to_contain_text("dora", timeout=PATIENCE_MS)


class TestKeyboard:
    def test_reaches_the_content_and_decides(self, tab: Page, up: Running) -> None:
        tab.goto(f"/incidents/{incident(up)['id']}")
        tab.keyboard.press("Tab")
        skip = tab.get_by_text("Skip to the content")
        expect(skip).to_be_focused()
        expect(skip).to_be_in_viewport()
        tab.keyboard.press("Enter")
        for _ in range(60):
            tab.keyboard.press("Tab")
            outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid", tab.evaluate("document.activeElement.outerHTML")
            if tab.evaluate("document.activeElement.name") == "who":
                break
        tab.keyboard.type("Eve")
        for _ in range(20):
            tab.keyboard.press("Tab")
            if tab.evaluate("document.activeElement.textContent") == "Expected":
                break
        tab.keyboard.press("Enter")
        expect(tab.locator("#said")).to_contain_text("The verdict is kept")
        assert incident(up)["verdicts"][0]["who"] == "Eve"
        assert tab.evaluate("document.activeElement.textContent") == "Expected"


def test_models_are_promoted_and_rolled_back(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory, complaints: list[str]
) -> None:
    with running(tmp_path_factory.mktemp("models")) as up:
        shop = Shop(up)
        shop.feed(40)
        version = shop.challenger(threshold=2.0)
        context = browser.new_context(base_url=address(up))
        context.set_default_timeout(PATIENCE_MS)
        tab = watched(context, complaints)
        tab.goto("/models")
        row = tab.locator("#versions tbody tr", has_text=version)
        row.get_by_text("Shadow").first.click()
        row.get_by_label("Your name").first.fill("Ana")
        row.get_by_role("button", name="Shadow").click()
        expect(tab.locator("#said")).to_have_text("The version runs beside the champion now.")
        assert up.get("/api/v1/rollout")["role"] == "shadow"
        shop.feed(5, q3=115.0)
        tab.reload()
        order(tab, "Promote")
        expect(tab.locator("#said")).to_have_text("The version is the champion now.")
        assert up.get("/api/v1/rollout")["champion"] == version
        order(tab, "Roll back")
        expect(tab.locator("#said")).to_have_text("The version before serves again.")
        found = up.get("/api/v1/rollout")
        assert found["champion"] != version and found["other"] is None
        expect(tab.locator("#history tbody tr").first).to_contain_text("rollback")
        row = tab.locator("#versions tbody tr", has_text=version)
        row.get_by_text("Canary").first.click()
        row.get_by_label("Share of the series in %").fill("25")
        row.get_by_role("button", name="Canary").click()
        expect(tab.locator("#said")).to_have_text("The version serves a share of the series now.")
        expect(tab.locator("#rollout")).to_contain_text("serves 25 % of the series")
        assert up.get("/api/v1/rollout")["share"] == 0.25
        order(tab, "Stop")
        expect(tab.locator("#said")).to_have_text("The version beside the champion has stopped.")
        assert up.get("/api/v1/rollout")["other"] is None
        before = len(up.get("/api/v1/models")["models"])
        tab.get_by_text("Register what serves").click()
        tab.get_by_role("button", name="Register").click()
        expect(tab.locator("h1")).to_contain_text("Version ")
        assert len(up.get("/api/v1/models")["models"]) == before + 1
        tab.goto("/models")
        tab.get_by_text("Make a new version").click()
        tab.get_by_role("button", name="Begin a run").click()
        expect(tab.locator("#said")).to_have_text("A run of the lifecycle begins in a moment.")
        wait_for(lambda: not up.service.retrainer.busy, "it to end, as there is nothing to learn from yet")
        expect(tab.locator("#runs b, #runs details code").first).to_be_visible()  # what came of it, without reload
        tab.get_by_role("link", name=version).first.click()
        expect(tab.locator("h1")).to_contain_text(version)
        context.close()
    assert not complaints


def order(tab: Page, title: str) -> None:
    """Open what an order asks for, and give it."""
    form = tab.locator("#rollout details", has_text=title)
    form.locator("summary").click()
    form.get_by_role("button", name=title).click()


def test_the_queue_is_labelled(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory, complaints: list[str]
) -> None:
    with running(tmp_path_factory.mktemp("queue"), "budget: 1000/day\n") as up:
        shop = Shop(up)
        shop.feed(60)
        shop.feed(6, q3=500.0)
        wait_for(lambda: up.get("/api/v1/feedback/queue")["queue"], "an alert")
        (first, *_) = up.get("/api/v1/feedback/queue")["queue"]
        context = browser.new_context(base_url=address(up))
        context.set_default_timeout(PATIENCE_MS)
        tab = watched(context, complaints)
        tab.goto("/feedback")
        case = tab.locator("article.alert").first
        case.get_by_label("Your name").fill("Ana")
        case.get_by_role("button", name="False").click()
        expect(tab.locator("#said")).to_contain_text("The verdict is kept")
        expect(tab.locator("#verdicts .verdict-row")).to_contain_text("false alert")
        (said,) = up.get("/api/v1/verdicts")["verdicts"]
        assert (said["fingerprint"], said["verdict"], said["by"]) == (first["fingerprint"], "false_alert", "Ana")
        tab.goto(f"/series/{first['fingerprint']}")
        tab.locator("article.alert").first.get_by_role("button", name="Real").click()
        expect(tab.locator("#alerts .verdict-row").first).to_contain_text("true alert")
        context.close()
    assert not complaints


def test_the_first_series_appears_by_itself(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory, complaints: list[str]
) -> None:
    with running(tmp_path_factory.mktemp("news")) as up:
        tab = watched(browser.new_context(base_url=address(up)), complaints)
        tab.goto("/series")
        expect(tab.get_by_text("No series has come yet.")).to_be_visible()
        for k in range(10):
            up.send(Feed("cart").gauge("queue.depth", 1_760_000_000.0 + k, 50.0))
        expect(tab.locator("#found").get_by_role("link", name="queue.depth")).to_be_visible(timeout=PATIENCE_MS)
        assert requests.get(address(up), timeout=30).text == "otel-aiops is ready\n"
        tab.context.close()
    assert not complaints
