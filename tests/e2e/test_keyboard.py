"""Pages for who has no mouse or sees little: everything is reached by keys, seen when it is, named, and readable."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.browsing import visiting
from tests.e2e.everything import Rich
from tests.incident_feed import call

pytestmark = [pytest.mark.servers, pytest.mark.timeout(900)]

MOST_STOPS = 400
SEEN_PX = 2  # of an outline
READABLE, READABLE_LARGE = 4.5, 3.0  # WCAG 2.2, 1.4.3
NAMED = {"button", "link", "textbox", "searchbox", "combobox", "spinbutton", "DisclosureTriangle", "image", "figure"}

INTERACTIVE = """() => [...document.querySelectorAll(
    "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex]:not([tabindex='-1'])")]
    .filter(one => one.checkVisibility() && !one.disabled)
    .map((one, k) => (one.inOrder = k, one.outerHTML.slice(0, 120)))"""
FOCUSED = """() => {
    const one = document.activeElement, style = getComputedStyle(one), box = one.getBoundingClientRect();
    return {
        stop: one === document.body ? -1 : Number(one.inOrder ?? -2), html: one.outerHTML.slice(0, 120),
        outline: style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth),
        inside: box.bottom > 0 && box.top < innerHeight && box.right > 0 && box.left < innerWidth,
    };
}"""
NAME = """() => {
    const one = document.activeElement;
    return one.getAttribute("aria-label") || one.labels?.[0]?.firstChild.textContent.trim() || one.textContent.trim();
}"""
# Every text that is seen with its ground: the nearest below it that is painted.
TEXTS = """() => {
    const rgba = text => (text.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
    const light = ([r, g, b]) => {
        const [x, y, z] = [r, g, b].map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const ground = one => {
        const rect = one.closest("svg a, svg g")?.querySelector("rect");
        if (rect) return rgba(getComputedStyle(rect).fill);
        for (let at = one; at; at = at.parentElement) {
            const found = rgba(getComputedStyle(at).backgroundColor);
            if (found.length < 4 || found[3] > 0) return found;
        }
        return [255, 255, 255];
    };
    const found = {};
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const one = walk.currentNode.parentElement;
        const text = walk.currentNode.data.trim();
        if (!text || !one.checkVisibility() || one.closest(".unseen, script, noscript")) continue;
        const style = getComputedStyle(one), size = parseFloat(style.fontSize);
        const ink = rgba(one.closest("svg") ? style.fill : style.color);
        const [high, low] = [light(ink), light(ground(one))].sort((a, b) => b - a);
        const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
        const key = `${one.tagName}.${one.className.baseVal ?? one.className} ${ink} on ${ground(one)}`;
        found[key] = {ratio: (high + 0.05) / (low + 0.05), large};
    }
    return found;
}"""


def opened(tab: Page, path: str) -> None:
    """A page that is whole; what is renewed in it stays the same element."""
    tab.goto(path)
    expect(tab.locator("h1")).to_be_visible()


def test_tab_reaches_everything_in_its_order_and_shows_where_it_is(tab: Page, rich: Rich) -> None:
    for path, *_ in rich.pages().values():
        opened(tab, path)
        wanted = tab.evaluate(INTERACTIVE)
        reached: list[int] = []
        for _ in range(MOST_STOPS):
            tab.keyboard.press("Tab")
            at = tab.evaluate(FOCUSED)
            if at["stop"] == -1 or at["stop"] in reached:  # out of the page, or at its beginning again
                break
            assert at["outline"] >= SEEN_PX and at["inside"], f"{path}: it is not seen where the focus is: {at}"
            if at["stop"] >= 0:  # Chromium stops at what scrolls too
                reached.append(at["stop"])
        missed = [wanted[k] for k in range(len(wanted)) if k not in reached]
        assert not missed, f"{path}: Tab does not reach {missed[:5]}"
        assert reached == sorted(reached), f"{path}: Tab jumps: {reached}"


def test_everything_has_a_name_and_pages_have_landmarks(tab: Page, rich: Rich) -> None:
    session = tab.context.new_cdp_session(tab)
    for path in rich.addresses():
        opened(tab, path)
        tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
        tree = session.send("Accessibility.getFullAXTree")["nodes"]
        found = [(value(one, "role"), value(one, "name")) for one in tree if not one["ignored"]]
        nameless = [role for role, name in found if role in NAMED and not name.strip()]
        roles = [role for role, _ in found]
        assert not nameless, f"{path}: these have no name: {nameless}"
        assert [roles.count(one) for one in ("main", "banner", "contentinfo")] == [1, 1, 1], path
        assert ("navigation", "Pages") in found, path
        assert tab.locator("h1").count() == 1 and tab.title().endswith(" · otel-aiops"), path
        ids = tab.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)")
        assert len(ids) == len(set(ids)), path


def value(node: dict[str, Any], what: str) -> str:
    return str(node.get(what, {}).get("value", ""))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read(browser: Browser, rich: Rich, scheme: Any) -> None:
    with visiting(browser, rich.up, [], color_scheme=scheme) as tab:
        for path in rich.addresses():
            opened(tab, path)
            found = tab.evaluate(TEXTS)
            assert len(found) >= 5, path
            for what, one in found.items():
                least = READABLE_LARGE if one["large"] else READABLE
                assert one["ratio"] >= least, f"{path}: {what} has {one['ratio']:.2f}, at least {least} can be read"


def test_pages_fit_a_phone_with_their_pictures(browser: Browser, rich: Rich) -> None:
    with visiting(browser, rich.up, [], viewport={"width": 390, "height": 6_000}) as tab:
        for path in rich.addresses():
            opened(tab, path)
            expect(tab.locator("figure.loading")).to_have_count(0)
            tab.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
            wide = tab.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{path} is {wide} px too wide"


# -- with keys alone -----------------------------------------------------------------------------------------------


def to(tab: Page, name: str) -> None:
    """Press Tab until what is focused has a name that begins so."""
    for _ in range(MOST_STOPS):
        tab.keyboard.press("Tab")
        if tab.evaluate(NAME).startswith(name):
            return
    raise AssertionError(f"Tab does not lead to {name!r}")


def said(tab: Page, text: str) -> None:
    expect(tab.locator("#said")).to_have_text(text)


def test_a_response_is_approved(tab: Page, rich: Rich) -> None:
    opened(tab, f"/responses/{rich.run}")
    to(tab, "Your name")
    tab.keyboard.type("ann")
    to(tab, "Approve")
    tab.keyboard.press("Enter")
    said(tab, "Your approval is kept.")
    (step, *_) = rich.up.get(f"/api/v1/responses/{rich.run}")["steps"]
    assert [one["who"] for one in step["approvals"]] == ["ann"]


def test_an_incident_is_acknowledged_judged_and_silenced(tab: Page, rich: Rich) -> None:
    opened(tab, f"/incidents/{rich.incident}")
    to(tab, "Skip to the content")
    tab.keyboard.press("Enter")
    to(tab, "Your name")
    tab.keyboard.type("Eve")
    to(tab, "Acknowledge")
    tab.keyboard.press("Enter")
    said(tab, "The incident is acknowledged.")
    to(tab, "For")
    tab.keyboard.type("8")  # hours
    to(tab, "Silence")
    tab.keyboard.press("Enter")
    said(tab, "The silence holds.")
    (silence,) = (one for one in rich.up.get("/api/v1/silences")["silences"] if one["who"] == "Eve")
    start = rich.up.service.pipeline.event_ns / 1e9
    assert 7 < (silence["until"] - start) / 3_600 <= 8
    to(tab, "Real")
    tab.keyboard.press("Space")
    said(tab, "The verdict is kept; thresholds, labels and cases follow.")
    found = rich.up.get(f"/api/v1/incidents/{rich.incident}")
    assert found["state"] == "acknowledged" and found["verdicts"][0]["who"] == "Eve"


def test_a_version_is_promoted(tab: Page, rich: Rich) -> None:
    version = rich.up.get("/api/v1/rollout")["other"]
    opened(tab, "/models")
    to(tab, "Promote")
    tab.keyboard.press("Enter")
    to(tab, "Your name")
    tab.keyboard.type("Eve")
    to(tab, "Promote")
    tab.keyboard.press("Enter")
    said(tab, "The version is the champion now.")
    assert rich.up.get("/api/v1/rollout")["champion"] == version
    assert call(rich.up, "POST", "rollout", {"action": "rollback", "who": "ana"}).ok


def test_a_series_is_searched(tab: Page, rich: Rich) -> None:
    opened(tab, "/series")
    to(tab, "Name, service or labels")
    tab.keyboard.type("memory catalog")
    tab.keyboard.press("Enter")
    tab.wait_for_url("**search=memory+catalog**")
    to(tab, "k8s.pod.memory")
    tab.keyboard.press("Enter")
    expect(tab.locator("h1.series")).to_contain_text("catalog")
    to(tab, "Forecast of the next day")
    tab.keyboard.press("Enter")
    expect(tab.get_by_label("How far")).to_be_visible()
