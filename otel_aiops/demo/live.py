"""The last part of the demo: minutes of spans, logs and metrics with faults, and the incidents made of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import requests
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from otel_aiops.demo.oncall import OnCall
from otel_aiops.demo.service import Service
from otel_aiops.shop import LIVE_STEP_S, Kind, LiveFault, LiveShop

RATE = 8.0  # requests of users a second
ASK_EVERY = 4  # steps
STEPS_A_MINUTE = round(60 / LIVE_STEP_S)
SIGNALS = ("metrics", "traces", "logs")
SUSPECTS, EVIDENCE = 3, 2  # that are told of an incident, and of a suspect
AFTERMATH_S = 120.0  # after a fault in which an incident is still put down to it


@dataclass(slots=True)
class Told:
    """What went wrong, and what the service has said of it."""

    plan: tuple[LiveFault, ...]
    spans: int = 0
    logs: int = 0
    took_s: float = 0.0
    incidents: dict[str, dict[str, Any]] = field(default_factory=dict)
    done: Mapping[str, str] = field(default_factory=dict)  # about incidents

    def summary(self, console: Console) -> None:
        """Print what went wrong beside what was found."""
        columns = ("fault", "incident after", "severity", "first suspect", "what was done")
        table = Table(*columns, title="\nWhat became an incident")
        for fault in self.plan:
            found = self.of(fault)
            if found is None:
                table.add_row(fault.what, "[red]no incident[/]", "", "", "")
                continue
            first = next(iter(found["suspects"]), {"service": "no candidate"})
            after = f"{found['detected_at'] - fault.start_s:.0f} s"
            done = self.done.get(found["id"], "")
            table.add_row(fault.what, after, found["severity"], escape(first["service"]), escape(done))
        console.print(table)
        console.print(f"{self.spans:,} spans and {self.logs:,} log records were read in {self.took_s:.0f} s.\n")

    def of(self, fault: LiveFault) -> dict[str, Any] | None:
        """The first incident that was opened while a fault went on."""
        opened = sorted(self.incidents.values(), key=lambda one: float(one["detected_at"]))
        during = (one for one in opened if fault.start_s <= one["detected_at"] <= fault.end_s + AFTERMATH_S)
        return next(during, None)


def story(start_s: float, minutes: float) -> tuple[LiveFault, ...]:
    """Three faults within some minutes: a bad deployment, a slow statement, a dead pod."""

    def at(part: float) -> float:
        return start_s + round(part * minutes * 60 / LIVE_STEP_S) * LIVE_STEP_S

    charge = "payment shop.PaymentService/Charge"
    return (
        LiveFault(
            kind=Kind.BAD_DEPLOY,
            service="payment",
            operation=charge,
            start_s=at(0.35),
            end_s=at(0.48),  # at the latest
            size=0.5,
            what="a new version of payment throws",
        ),
        LiveFault(
            kind=Kind.SLOW_QUERY,
            service="postgresql",
            table="prices",
            start_s=at(0.62),
            end_s=at(0.74),
            size=30,
            what="a statement of catalog has lost its index",
        ),
        LiveFault(
            kind=Kind.PARTIAL_OUTAGE,
            service="inventory",
            pod=1,
            start_s=at(0.86),
            end_s=at(0.98),
            size=1,
            what="one pod of inventory is dead",
        ),
    )


def tell(
    console: Console,
    service: Service,
    start_s: float,
    minutes: int,
    minute: Callable[[int], None],
    on_call: OnCall | None = None,
) -> Told:
    """Send some minutes to the service, and print each incident when it is there; `minute` is called every minute."""
    told, began_s, session = Told(story(start_s, minutes)), time.monotonic(), requests.Session()
    shop = LiveShop(start_s, rate=RATE / LiveShop.season(start_s), plan=told.plan)
    console.print(f"\nThe last {minutes} minutes come with spans and logs of {RATE:g} requests a second.")
    if on_call is not None:
        on_call.join(shop)
        told.done = on_call.done
    console.print()
    steps = minutes * STEPS_A_MINUTE
    for step in range(steps):
        for fault in told.plan:
            if fault.start_s == shop.time_s(step):
                console.print(f"{_clock(fault.start_s)}  [yellow]fault[/]    {fault.what}")
        if step % STEPS_A_MINUTE == 0:
            minute(step // STEPS_A_MINUTE)
        for signal, body in zip(SIGNALS, shop.requests(step), strict=True):
            if body:
                _post(session, f"http://127.0.0.1:{service.http}/v1/{signal}", body)
        if step % ASK_EVERY == ASK_EVERY - 1 or step == steps - 1:
            service.settle()
            _news(console, service.incidents(), told, start_s)
            if on_call is not None:
                on_call.look(shop.time_s(step + 1), told.incidents.values())
    told.spans, told.logs, told.took_s = shop.spans, shop.logs, time.monotonic() - began_s
    return told


def _news(console: Console, incidents: list[dict[str, Any]], told: Told, start_s: float) -> None:
    """Print incidents that are new, have another first suspect, or are over."""
    for incident in incidents:
        if incident["detected_at"] < start_s:
            continue
        before = told.incidents.get(incident["id"])
        told.incidents[incident["id"]] = incident
        if before is None:
            _print(console, incident)
        elif before["state"] != incident["state"]:
            console.print(f"           [cyan]{incident['state']}[/]  {escape(incident['title'])}")
        elif _first(before) != _first(incident):
            console.print(f"           [cyan]now suspected[/]  {escape(_first(incident))}")


def _print(console: Console, incident: dict[str, Any]) -> None:
    """Print an incident for a person."""
    when, title = _clock(incident["detected_at"]), escape(incident["title"])
    console.print(f"{when}  [red]incident[/] {title} ({incident['severity']}, {incident['state']})")
    for rank, suspect in enumerate(incident["suspects"][:SUSPECTS], 1):
        console.print(f"           {rank}. [bold]{escape(suspect['service'])}[/]: {escape(suspect.get('reason', ''))}")
        for evidence in suspect.get("evidence", [])[:EVIDENCE]:
            console.print(f"              - {escape(evidence.get('text', ''))}")
    if incident.get("summary"):
        console.print(f"           {escape(incident['summary'])}")


def _first(incident: dict[str, Any]) -> str:
    return next((str(suspect["service"]) for suspect in incident["suspects"]), "nobody")


def _post(session: requests.Session, url: str, body: bytes) -> None:
    """Send a body, again where the service is busy. Raises: RequestException."""
    while True:
        answer = session.post(url, body, headers={"Content-Type": "application/x-protobuf"}, timeout=60)
        if answer.status_code not in {429, 503}:
            answer.raise_for_status()
            return
        time.sleep(0.05)


def _clock(time_s: float) -> str:
    return time.strftime("%a %H:%M:%S UTC", time.gmtime(time_s))
