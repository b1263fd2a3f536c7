"""What is predicted, in real Chromium: a leak is foreseen, told on every page that should, and comes true."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.browsing import visiting
from tests.feed import Feed
from tests.incident_feed import START_S, started

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]

MEMORY = "k8s.pod.memory_limit_utilization"
FORESEEN, FULL = 140, 230  # minutes


def test_a_prediction_is_shown_until_it_comes_true(browser: Browser, tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    values = 0.4 + np.maximum(0, np.arange(FULL) - 60) * 0.004 + random.normal(0, 0.005, FULL)
    complaints: list[str] = []
    with started(tmp_path, still=True) as up, visiting(browser, up, complaints) as tab:

        def leak(first: int, last: int) -> None:
            for k in range(first, last):
                told = Feed("cart").gauge(MEMORY, START_S + 60 * k, float(values[k]), unit="1")
                assert up.send(told).status_code == 200
            up.settle()

        tab.goto("/incidents?view=predicted")
        expect(tab.get_by_text("Nothing is predicted now.")).to_be_visible()
        leak(0, FORESEEN)
        (said,) = up.get("/api/v1/predictions")["standing"]
        row = tab.locator("#list tbody tr")
        expect(row).to_contain_text("Memory of cart runs out")  # without reload
        expect(row).to_contain_text(re.compile(r"stands.*cart.*\d+ %\s+within", re.DOTALL))
        tab.goto("/")
        expect(tab.get_by_role("link", name="predicted 1")).to_be_visible()
        tab.get_by_role("link", name="Memory of cart runs out").click()
        expect(tab.locator("h1")).to_have_text(said["title"])
        facts = tab.locator("#head dl")
        for told in (
            "the way of a series to its limit",
            "ahead; half of the futures come",
            "what has not come by then",
        ):
            expect(facts).to_contain_text(told)
        expect(tab.locator("#members")).to_contain_text("cart")
        tab.locator("#evidence").scroll_into_view_if_needed()  # plots are drawn when they are looked at
        expect(tab.locator("#evidence svg.plot").first).to_be_visible()
        assert not tab.get_by_role("button", name=re.compile("Acknowledge|Resolve|Real")).count()
        leak(FORESEEN, FULL)
        expect(facts).to_contain_text("came true")  # without reload
        tab.get_by_role("link", name="Predicted").click()
        expect(tab.get_by_text(re.compile(r"1 came true, half of them .* or more ahead; 0 did not\."))).to_be_visible()
        expect(tab.locator("#list tbody tr")).to_contain_text("came true")
    assert not complaints
