"""Real Chromium for tests of pages: tabs of which every complaint is heard."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from tests.servers import require
from tests.test_app import Running
from tests.tools import chromium

ARGUMENTS = ("--no-sandbox", "--disable-dev-shm-usage")
PATIENCE_MS = 20_000
HERE = ("127.0.0.1", "localhost")
PHONE = {"width": 390, "height": 800}


@contextmanager
def launched() -> Iterator[Browser]:
    """The browser; what is expected of its pages may take a while where much else is done."""
    program = require(chromium.chromium)
    expect.set_options(timeout=PATIENCE_MS)
    environment: dict[str, Any] = {**os.environ, **chromium.browser().environment}
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS), env=environment)
        yield started
        started.close()


@contextmanager
def visiting(browser: Browser, up: Running, complaints: list[str], **options: Any) -> Iterator[Page]:
    """A tab of a service, without cookies of another one."""
    context = browser.new_context(**{"base_url": address(up), **options})
    context.set_default_timeout(PATIENCE_MS)
    yield watched(context, complaints)
    context.close()


def watched(context: BrowserContext, complaints: list[str]) -> Page:
    """A tab of which every error is written down, and every request that leaves the service."""
    found = context.new_page()

    def heard(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    found.on("console", heard)
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.on("request", lambda one: None if urlsplit(one.url).hostname in HERE else complaints.append(one.url))
    return found


def address(up: Running) -> str:
    return f"http://127.0.0.1:{up.ports['api']}"
