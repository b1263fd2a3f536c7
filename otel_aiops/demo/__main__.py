"""The demo itself: days of metrics with faults, half an hour of spans and logs with incidents, the life of a model."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import requests
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from otel_aiops.demo import alertmanager, circle
from otel_aiops.demo.live import Told, tell
from otel_aiops.demo.oncall import OnCall, settings
from otel_aiops.demo.service import Service, free_port, running
from otel_aiops.detect.engine import prepare
from otel_aiops.shop import FAULTS, STEP_S, Fault, Shop

SHOP, CIRCLE = PARTS = ("shop", "circle")
EXPORT = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
HISTORY_STEPS = 3 * 1440  # what the shop did before, so that the seasons are known
LIVE_STEPS = 1440
STEPS_A_REQUEST = 10  # of the history; the last day comes step by step
ASK_EVERY = 3  # steps of the last day
AFTERMATH = 120  # steps after a fault in which an anomaly of its service is still put down to it
LIVE_MINUTES = 30  # at the end of the last day: spans and logs too


@dataclass(slots=True)
class Seen:
    """What the service has said so far."""

    noticed: dict[str, dict[str, Any]] = field(default_factory=dict)  # fault → the anomaly that fits it
    others: dict[tuple[str, float], dict[str, Any]] = field(default_factory=dict)
    alerts: dict[tuple[str, float], dict[str, Any]] = field(default_factory=dict)


def main(parts: Sequence[str] = PARTS) -> int:
    """Run the demo, or some parts of it; 0 when it ran, whatever was noticed."""
    console = Console(highlight=False, soft_wrap=False)
    if unknown := set(parts) - set(PARTS):
        console.print(f"expected some of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: nothing that was started stays
    try:
        prepare(console.print)
        with ExitStack() as stack:
            end: Callable[[], None] = partial(_stay, console)
            if SHOP in parts:
                end = _shop(console, stack)
            if CIRCLE in parts:
                service = stack.enter_context(running(circle.SETTINGS))
                service.wait()
                circle.tell(console, service)
            end()
    except KeyboardInterrupt:
        console.print("\nstopped")
        return 130
    except (RuntimeError, grpc.RpcError, requests.RequestException) as error:
        console.print(f"[red]the demo failed:[/] {escape(str(error))}", markup=True)
        return 3
    return 0


def _shop(console: Console, stack: ExitStack) -> Callable[[], None]:
    """The first part; what it returns says where to look, and goes on at the speed of life where that is wanted."""
    short = os.environ.get("OTEL_AIOPS_DEMO") == "short"
    steps, live = (1440 + 480, 480) if short else (HISTORY_STEPS + LIVE_STEPS, LIVE_STEPS)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="otel-aiops-shop-")))
    program, port = alertmanager.program(), free_port()
    service = stack.enter_context(running(settings(folder, f"http://127.0.0.1:{port}" if program else "")))
    export = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{service.grpc}")).unary_unary(EXPORT)
    service.wait()
    hook, alerts = f"{service.url}/api/v1/webhooks/alertmanager", None
    if program is not None:
        alerts = stack.enter_context(alertmanager.alerting(program, port, hook))
    shop = Shop(int(time.time()) // STEP_S * STEP_S - steps * STEP_S, steps, last_day=live)
    console.print(f"A shop of services reports every minute. {shop.live / 1440:g} days of its past come first, ")
    console.print(f"then {live / 60:g} hours with faults, faster than life. Every point goes over OTLP/gRPC.\n")
    minutes = LIVE_MINUTES // 2 if short else LIVE_MINUTES
    seen, took_s = _drive(console, service, export, shop, minutes)
    told = _live(OnCall(console, service, folder, alerts), console, service, export, shop, minutes)
    _summary(console, service, shop, seen, took_s)
    told.summary(console)

    def end() -> None:
        _where_to_look(console, service)
        if os.environ.get("KEEP"):
            _keep(export, shop)

    return end


def _drive(console: Console, service: Service, export: Any, shop: Shop, minutes: int) -> tuple[Seen, float]:
    """Send all but the last minutes, and tell what is noticed as it happens; (what was seen, seconds it took)."""
    seen, began_s, end = Seen(), time.monotonic(), shop.steps - minutes
    with _progress(console, end) as advance:
        for step in range(0, shop.live, STEPS_A_REQUEST):
            last = min(step + STEPS_A_REQUEST, shop.live)
            export(b"".join(shop.request(k) for k in range(step, last)), timeout=60)
            advance(last, "learning the past")
        service.settle()
        status = service.get("/api/v1/status")
        console.print(
            f"{status['series']} series are known from {status['points_scored']:,} points. The last day begins.\n"
        )
        for step in range(shop.live, end):
            for fault in FAULTS:
                if shop.window(fault)[0] == step:
                    console.print(f"{_clock(shop, step)}  [yellow]fault[/]    {fault.service}: {fault.what}")
            export(shop.request(step), timeout=60)
            advance(step + 1, "the last day")
            if step % ASK_EVERY == 0 or step == end - 1:
                service.settle()
                _look(console, shop, service.get("/api/v1/anomalies?limit=200")["anomalies"], seen)
                for alert in service.get("/api/v1/alerts")["alerts"]:
                    if alert["since"] >= shop.time_s(shop.live):
                        seen.alerts[alert["fingerprint"], alert["since"]] = alert
    return seen, time.monotonic() - began_s


def _live(on_call: OnCall, console: Console, service: Service, export: Any, shop: Shop, minutes: int) -> Told:
    """The last minutes: metrics go on as before, and there are spans and logs of every request."""
    first = shop.steps - minutes

    def minute(number: int) -> None:
        export(shop.request(first + number), timeout=60)

    return tell(console, service, float(shop.time_s(first)), minutes, minute, on_call)


def _look(console: Console, shop: Shop, anomalies: list[dict[str, Any]], seen: Seen) -> None:
    """Put anomalies down to faults, and tell those that are new."""
    for anomaly in anomalies:
        step = (anomaly["since"] - shop.start_s) / STEP_S
        if step < shop.live:
            continue
        fault = next((one for one in FAULTS if _fits(shop, one, anomaly, step)), None)
        if fault is None:
            seen.others.setdefault((anomaly["fingerprint"], anomaly["since"]), anomaly)
            continue
        if fault.name not in seen.noticed and (not fault.metric or anomaly["series"].startswith(fault.metric)):
            seen.noticed[fault.name] = anomaly
            delay = max(0.0, step - shop.window(fault)[0])
            console.print(f"{_clock(shop, step)}  [green]noticed[/]  {fault.name}, {delay:.0f} min after it began")
            console.print(f"                  {anomaly['series']}\n                  {anomaly['reason']}")


def _fits(shop: Shop, fault: Fault, anomaly: dict[str, Any], step: float) -> bool:
    start, end = shop.window(fault)
    if not start <= step < end + AFTERMATH or anomaly["service"] != fault.service:
        return False
    return bool(fault.metric) or anomaly["channel"] == "stopped" or step >= end


def _summary(console: Console, service: Service, shop: Shop, seen: Seen, took_s: float) -> None:
    table = Table("fault", "service", "noticed after", "score", title="\nWhat was noticed")
    for fault in FAULTS:
        found = seen.noticed.get(fault.name)
        if found is None:
            table.add_row(fault.name, fault.service, "[red]not noticed[/]", "")
            continue
        delay = max(0.0, (found["since"] - shop.start_s) / STEP_S - shop.window(fault)[0])
        table.add_row(fault.name, fault.service, f"{delay:.0f} min", f"{found['peak']:.1f}")
    console.print(table)
    status = service.get("/api/v1/status")
    points, hours = status["points_scored"], (shop.steps - shop.live) * STEP_S / 3600
    noticed = f"{len(seen.noticed)} of {len(FAULTS)} faults were noticed"
    others = f"{len(seen.others)} other anomalies in {hours:g} hours of {status['series']} series"
    console.print(f"{noticed}; there were {others}.")
    (budget,) = service.get("/api/v1/budgets")["budgets"]
    console.print(f"Under the budget of {budget['budget'] / 7:g} alert a day {len(seen.alerts)} series had an alert:")
    for alert in seen.alerts.values():
        console.print(f"  {_clock(shop, (alert['since'] - shop.start_s) / STEP_S)}  {alert['series']}")
    console.print(f"{points:,} points were scored in {took_s:.0f} s.\n")


def _where_to_look(console: Console, service: Service) -> None:
    keep = bool(os.environ.get("KEEP"))
    console.print("The service is up until Ctrl-C:" if keep else "With KEEP=1 the service stays up, to look around:")
    console.print(
        f"  the page: {service.url if keep else 'http://localhost:9464'}/  open it in a browser", soft_wrap=True
    )
    for path, what in (
        ("/api/v1/alerts", "what is worth being woken for, under the alert budget"),
        ("/api/v1/incidents", "what is wrong, how bad, where and why"),
        ("/api/v1/anomalies", "what is anomalous now, and why"),
        ("/api/v1/series", "every series with its last score and band"),
        ("/metrics", "what Prometheus scrapes"),
    ):
        console.print(f"  curl {service.url if keep else 'http://localhost:9464'}{path:22} {what}", soft_wrap=True)
    console.print("Next: `otel-aiops serve`, and ten lines in your Collector; see README.md.")


def _keep(export: Any, shop: Shop) -> None:
    """Go on at the speed of life until Ctrl-C."""
    step = shop.steps
    while True:
        time.sleep(max(0.0, shop.time_s(step) - time.time()))
        export(shop.request(step), timeout=60)
        step += 1


def _stay(console: Console) -> None:
    """Leave what runs up until Ctrl-C, where that is wanted."""
    if os.environ.get("KEEP"):
        console.print("The service is up until Ctrl-C.")
        signal.pause()


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Any]:
    """A function (done, what) that shows how far it is: a bar on a terminal, some plain lines elsewhere."""
    if not console.is_terminal:
        shown = [0]

        def tell(done: int, what: str) -> None:
            if done * 10 // total > shown[0]:
                shown[0] = done * 10 // total
                console.print(f"{10 * shown[0]:3} %  {what}")

        yield tell
        return
    columns = (
        TextColumn("{task.description:18}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda done, what: progress.update(task, completed=done, description=what)


def _clock(shop: Shop, step: float) -> str:
    return time.strftime("%a %H:%M UTC", time.gmtime(shop.time_s(0) + step * STEP_S))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or PARTS))
