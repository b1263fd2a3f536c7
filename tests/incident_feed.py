"""A running service that has seen the simulated shop break: what tests of incidents look at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import requests

from otel_aiops.config import ServiceConfig
from otel_aiops.shop import LIVE_STEP_S, Kind, LiveFault, LiveShop
from tests.test_app import Running

START_S = 1_767_614_400.0  # a Monday, noon UTC
BREAKS_S, LASTS_S = 180.0, 90.0
SHORT = """
incidents:
  alarm: {warmup: 90s}
  grouping: {maintenance: [{name: nightly, start: 2026-01-05T03:00:00Z, end: 2026-01-05T04:00:00Z, every: 1d}]}
"""
OUTAGE = LiveFault(
    kind=Kind.BAD_DEPLOY,
    service="catalog",
    operation="catalog shop.CatalogService/GetProduct",
    start_s=START_S + BREAKS_S,
    end_s=START_S + BREAKS_S + LASTS_S,
    size=0.8,
    what="a bad version of catalog",
)


def feed(up: Running, start: int, end: int, *, fault: bool = True) -> None:
    """Send steps of the shop, from its beginning so that it is always the same shop."""
    shop = LiveShop(START_S, rate=12, plan=[OUTAGE] if fault else [])
    for step in range(end):
        bodies = shop.requests(step)
        for signal, body in zip(("metrics", "traces", "logs"), bodies, strict=True):
            if body and step >= start:
                answer = up.send(body, signal)
                assert answer.status_code == 200, answer.text
    up.settle()


def steps(seconds: float) -> int:
    return int(seconds / LIVE_STEP_S)


@contextmanager
def started(folder: Path, more: str = "", *, still: bool = False, **options: Any) -> Iterator[Running]:
    """A service that finds incidents soon; `still`: no time passes in it by itself."""
    found = Running(folder, SHORT + more, **options)
    if still:
        found.service.config = replace(found.service.config, service=ServiceConfig(tick_interval=3600))
    found.service.start()
    try:
        yield found
    finally:
        found.service.stop()


@contextmanager
def broken(folder: Path, more: str = "", **options: Any) -> Iterator[Running]:
    """A service with an incident that is open."""
    with started(folder, more, **options) as found:
        feed(found, 0, steps(BREAKS_S + 60))
        yield found


def call(up: Running, method: str, path: str, tree: Any = None, **params: str) -> requests.Response:
    """Ask the API, whatever it answers."""
    url = f"http://127.0.0.1:{up.ports['api']}/api/v1/{path}"
    return requests.request(method, url, json=tree, params=params, timeout=30)
