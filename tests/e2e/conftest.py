"""What tests of pages share: a browser, and a service with something for every page."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page

from tests.e2e.browsing import launched, visiting
from tests.e2e.everything import Rich, everything


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as found:
        yield found


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rich]:
    with everything(tmp_path_factory.mktemp("state")) as found:
        yield found


@pytest.fixture
def tab(browser: Browser, rich: Rich) -> Iterator[Page]:
    complaints: list[str] = []
    with visiting(browser, rich.up, complaints) as found:
        yield found
    assert not complaints
