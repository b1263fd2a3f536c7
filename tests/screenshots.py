"""Pictures of the page for the README, of real services in real Chromium: `python -m tests.screenshots docs/images`."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from playwright.sync_api import Page, sync_playwright
from rich.console import Console

from otel_aiops.demo import circle
from otel_aiops.demo.live import RATE, SIGNALS, STEPS_A_MINUTE, story
from otel_aiops.demo.oncall import settings
from otel_aiops.demo.service import Service, running
from otel_aiops.shop import LIVE_STEP_S, LiveShop
from otel_aiops.shop.control import command
from tests.tools import chromium

COMMAND = "/usr/local/bin/roll-back"
SIZE: Any = {"width": 1280, "height": 900}
MINUTES = 30
AFTER = 8  # steps that the shop goes on, so that plots have something to show
TALL, ABOVE = 1_250, 8  # of the picture of an incident, and of what is shown above where it begins
SETTLE_MS = 1_500  # for pictures that a page draws when it is open
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"]


def main(folder: Path) -> None:
    """Take all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    with camera() as page:
        with running(configured()) as service:
            service.wait()
            incident = open_incident(service)
            take(page, folder, "overview", f"{service.url}/")
            take(page, folder, "incident", f"{service.url}/incidents/{incident}", at="#graph", height=TALL)
            take(page, folder, "responses", f"{service.url}/responses")
        with running(circle.SETTINGS) as service:
            service.wait()
            circle.tell(Console(file=io.StringIO()), service)
            take(page, folder, "models", f"{service.url}/models")


def configured() -> str:
    """As in the demo; a command that is not run has the path that it would have elsewhere."""
    nowhere = Path("/nowhere")
    return settings(nowhere, "").replace(json.dumps(command(nowhere)), json.dumps([COMMAND, "{service}"]))


@contextmanager
def camera() -> Iterator[Page]:
    """A page of Chromium that is as wide as the pictures."""
    browser = chromium.browser()
    environment: dict[str, Any] = {**os.environ, **browser.environment}
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=browser.program, args=ARGUMENTS, env=environment)
        try:
            yield found.new_page(viewport=SIZE, color_scheme="light")
        finally:
            found.close()


def open_incident(service: Service) -> str:
    """Let the demo's shop live until its bad deployment is an incident for which a playbook waits; its id."""
    start_s = time.time() // 60 * 60 - 60 * MINUTES
    shop = LiveShop(start_s, rate=RATE / LiveShop.season(start_s), plan=story(start_s, MINUTES))
    found, left = "", AFTER
    with requests.Session() as session:
        for step in range(MINUTES * STEPS_A_MINUTE):
            for signal, body in zip(SIGNALS, shop.requests(step), strict=True):
                send(session, f"http://127.0.0.1:{service.http}/v1/{signal}", body)
            service.settle()
            if not found and (waiting := service.get("/api/v1/responses?state=waiting")["responses"]):
                found = str(waiting[0]["incident"])
            left -= bool(found)
            if not left:
                return found
    raise SystemExit(f"expected a playbook to wait within {MINUTES * STEPS_A_MINUTE * LIVE_STEP_S:g} s, none does")


def send(session: requests.Session, url: str, body: bytes) -> None:
    """Send a body until it is taken."""
    headers = {"Content-Type": "application/x-protobuf"}
    while body and session.post(url, body, headers=headers, timeout=60).status_code in (429, 503):
        time.sleep(0.1)


def take(page: Page, folder: Path, name: str, url: str, *, at: str = "body", height: int = SIZE["height"]) -> None:
    """One picture of a page, from an element on."""
    page.set_viewport_size({**SIZE, "height": height})
    answer = page.goto(url)
    if answer is None or not answer.ok:
        raise SystemExit(f"{name}: expected a page at {url}, got {answer and answer.status}")
    page.evaluate("([at, above]) => scrollTo(0, document.querySelector(at).offsetTop - above)", [at, ABOVE])
    page.wait_for_timeout(SETTLE_MS)
    path = folder / f"{name}.png"
    page.screenshot(path=path)
    print(f"{path}: {path.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) == 2 else sys.exit("usage: python -m tests.screenshots FOLDER"))
