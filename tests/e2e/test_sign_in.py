"""Signing in and out in real Chromium, with a token and at an issuer that is another site."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from otel_aiops.server.access import AccessConfig, Role
from otel_aiops.server.access.issuer import IssuerConfig
from tests.e2e.browsing import PATIENCE_MS, watched
from tests.server.issuer import CLIENT, SECRET, Issuer
from tests.server.test_access import COOKIE, Door, open_door

pytestmark = pytest.mark.servers


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    issuer = Issuer()
    oidc = IssuerConfig(issuer=issuer.url, client_id=CLIENT, client_secret=SECRET, roles={"sre": Role.OPERATOR})
    with open_door(tmp_path, AccessConfig(oidc=oidc), hosts=()) as found:
        found.base = found.base.replace("127.0.0.1", "localhost")  # so that the issuer is another site
        yield found
    issuer.close()


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def tab(browser: Browser, door: Door, complaints: list[str]) -> Iterator[Page]:
    context = browser.new_context(base_url=door.base)
    context.set_default_timeout(PATIENCE_MS)
    yield watched(context, complaints)
    context.close()
    assert not [one for one in complaints if "400" not in one]  # what is behind this door refuses everything


def test_with_a_token(tab: Page, door: Door, complaints: list[str]) -> None:
    tab.goto("/models")
    assert tab.url.endswith("/sign-in?next=%2Fmodels")
    expect(tab.get_by_role("heading", name="Sign in")).to_be_visible()
    tab.get_by_label("Token").fill("oat_00000000_wrong")
    tab.get_by_role("button", name="Sign in").click()
    expect(tab.get_by_role("alert")).to_contain_text("wrong, expired or revoked")
    assert all("400" in one or "401" in one for one in complaints)  # Chromium writes down every answer of that kind
    complaints.clear()
    tab.get_by_label("Token").fill(door.tokens[Role.APPROVER])
    tab.get_by_role("button", name="Sign in").click()
    expect(tab.locator(".tools")).to_contain_text("approver-1 approver")
    assert tab.url.endswith("/models")
    (cookie,) = (one for one in tab.context.cookies() if one["name"] == COOKIE)
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
    tab.get_by_role("button", name="Sign out").click()
    expect(tab.get_by_label("Token")).to_be_visible()
    tab.goto("/models")
    assert "/sign-in" in tab.url


def test_at_an_issuer_that_is_another_site(tab: Page) -> None:
    tab.goto("/models")
    tab.get_by_role("link", name="Sign in with 127.0.0.1").click()
    expect(tab.locator(".tools")).to_contain_text("ana@example.com operator")
    tab.wait_for_url("**/models")
    expect(tab.get_by_role("button", name="Sign out")).to_be_visible()
