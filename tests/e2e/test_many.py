"""The page with 10,000 incidents, 2,000 responses and 100,000 series: what it shows stays as small as with few."""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import sqlalchemy as sql
from playwright.sync_api import Browser, Page, expect

from otel_aiops.incidents.incident import Channel, Entry, Evidence, Finding, Incident, Severity, State, Suspect
from otel_aiops.incidents.journal import Journal, JournalConfig
from otel_aiops.labels import Labels
from otel_aiops.otlp.encode import encode_series, series_of
from otel_aiops.responses.audit import Deed
from otel_aiops.responses.ledger import Ledger
from otel_aiops.responses.playbook import Playbook, read_playbook
from otel_aiops.responses.runs import DO, Execution, Run, RunState, Standing, execution_id, run_id
from tests.e2e.browsing import address, visiting
from tests.incident_feed import started
from tests.servers import wait_for
from tests.test_app import Running

pytestmark = pytest.mark.servers

S = 1_000_000_000
INCIDENTS, RUNS = 10_000, 2_000
SERVICES, METRICS, PODS = 100, 10, 100
POINTS = 2
AT_ONCE = 2_000  # points of a body, so that the service can answer in between
FILLED_S = 1_500.0  # on a machine that has much else to do
LARGEST_BYTES = 100_000  # of any page
MOST_ROWS = 120  # of all its tables
MOST_QUERIES = 100  # of SQL; the list of responses asks for the steps of each
PATIENCE_MS = 60_000
LARGE = "incidents|changes|traits|decisions|verdicts|alerts|known_alerts|response_(runs|executions|votes|audit)"
WHOLE_TABLE = re.compile(f"SCAN ({LARGE})$")  # of a plan; where an index is read, it says which


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder, now_s = tmp_path_factory.mktemp("many"), int(time.time())
    fill_incidents(folder, now_s)
    fill_responses(folder, now_s)
    with started(folder, still=True) as found:
        fill_series(found, now_s)
        yield found


def fill_series(up: Running, now_s: int) -> None:
    resources = [(("service.name", f"svc-{service}"),) for service in range(SERVICES)]
    labels = [
        Labels(
            f"metric.{metric}", kind="gauge", unit="1", resource=resource, attributes=(("k8s.pod.name", f"pod-{pod}"),)
        )
        for resource in resources
        for metric in range(METRICS)
        for pod in range(PODS)
    ]
    series = [series_of(one) for one in labels]
    rng = np.random.default_rng(7)
    for point in range(POINTS):
        times = np.full(len(series), (now_s - 60 * (POINTS - point)) * S)
        for request in encode_series(
            series, np.arange(len(series)), times, rng.normal(50, 1, len(series)), max_points=AT_ONCE
        ):
            while not up.send(request.body).ok:
                time.sleep(0.2)
    wait_for(lambda: not up.service.history.stats()["queue_bodies"], "all to be scored", timeout_s=FILLED_S)
    up.settle()
    assert up.get("/api/v1/status")["series"] == SERVICES * METRICS * PODS


def fill_incidents(folder: Path, now_s: int) -> None:
    journal = Journal(JournalConfig(), folder)
    journal.open()
    for first in range(0, INCIDENTS, 500):
        journal.append([incident(number, now_s) for number in range(first, first + 500)], now_s * S)
    journal.close()


def incident(number: int, now_s: int) -> Incident:
    start_ns = (now_s - 600 * (INCIDENTS - number)) * S
    services = tuple(f"svc-{(number + k) % SERVICES}" for k in range(3))
    findings = tuple(finding(service, start_ns) for service in services)
    suspects = (
        Suspect(service=services[0], score=3.0, confidence=0.8, reason="fails", evidence=(findings[0].evidence,)),
    )
    return Incident(
        id=f"inc-{number:05d}",
        revision=1,
        state=State.RESOLVED,
        severity=list(Severity)[number % 3],
        start_ns=start_ns,
        detected_ns=start_ns + 30 * S,
        end_ns=start_ns + 300 * S,
        title=f"{services[0]} fails ({number})",
        summary="It fails.",
        services=services,
        suspects=suspects,
        findings=findings,
        timeline=tuple(Entry(time_ns=start_ns, kind="joined", text=service) for service in services),
    )


def finding(service: str, start_ns: int) -> Finding:
    evidence = Evidence(
        channel=Channel.ERRORS, service=service, what="GET /", before=0.0, after=0.5, text="GET / fails"
    )
    return Finding(
        key=f"errors|{service}|GET /",
        service=service,
        channel=Channel.ERRORS,
        start_ns=start_ns,
        last_ns=start_ns + 300 * S,
        end_ns=start_ns + 300 * S,
        score=2.0,
        evidence=evidence,
    )


def fill_responses(folder: Path, now_s: int) -> None:
    """Runs that have ended, each with one step that said much."""
    ledger = Ledger(JournalConfig(), folder)
    ledger.open()
    playbook = read_playbook({"name": "tell", "steps": [{"do": {"kind": "webhook", "use": "hook"}}]})
    for first in range(0, RUNS, 500):
        made = [response(playbook, number, now_s) for number in range(first, first + 500)]
        deeds = [Deed(time_ns=run.made_ns, what="done", who="otel-aiops", run=run.id) for run, _ in made]
        ledger.take([], [run for run, _ in made], deeds)
        ledger.write(executions=[step for _, step in made], deeds=[])
    ledger.close()


def response(playbook: Playbook, number: int, now_s: int) -> tuple[Run, Execution]:
    about, made_ns = incident(number, now_s), (now_s - number) * S
    name = run_id(playbook.name, about.id, "opened", 1)
    run = Run(
        id=name,
        playbook=playbook,
        version=playbook.version,
        trigger="opened",
        incident=about,
        made_ns=made_ns,
        ended_ns=made_ns + S,
        state=RunState.DONE,
    )
    step = Execution(
        id=execution_id(name, 0, DO),
        run=name,
        step=0,
        role=DO,
        action=playbook.steps[0].do,
        standing=Standing.DONE,
        text="posted",
        output="line of output\n" * 3_000,
        made_ns=made_ns,
        ended_ns=made_ns + S,
    )
    return run, step


@contextmanager
def counted() -> Iterator[list[tuple[str, Any]]]:
    """The statements of SQL that answers to requests ask with; what goes on beside them is not counted."""
    found: list[tuple[str, Any]] = []

    def heard(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
        if threading.current_thread().name.startswith("AnyIO"):
            found.append((statement, parameters))

    sql.event.listen(sql.Engine, "before_cursor_execute", heard)
    try:
        yield found
    finally:
        sql.event.remove(sql.Engine, "before_cursor_execute", heard)


PAGES = (
    "/",
    "/incidents",
    "/incidents?view=all",
    "/incidents?view=past&page=200",
    "/incidents?view=past&severity=critical&service=svc-7",
    "/incidents?view=alerts",
    "/incidents/inc-05000",
    "/incidents/inc-00001",
    "/responses",
    "/responses?page=40",
    "/responses?state=failed",
    "/series",
    "/series?search=pod-99+svc-42",
    "/series?search=nothing-has-this",
    "/series?service=svc-99",
    "/silences",
    "/objectives",
    "/models",
    "/feedback",
    "/system",
)


@pytest.mark.timeout(2_400)
def test_pages_stay_small(up: Running) -> None:
    for path in PAGES:
        with counted() as asked:
            began_s = time.perf_counter()
            answer = requests.get(f"{address(up)}{path}", headers={"Accept": "text/html"}, timeout=60)
            took_s = time.perf_counter() - began_s
        rows = answer.text.count("<tr>") + answer.text.count("<tr ")
        print(f"{path:56} {took_s:6.3f} s {len(answer.content):8,} bytes {rows:4} rows {len(asked):4} queries")
        assert answer.status_code == 200, path
        assert len(answer.content) <= LARGEST_BYTES and rows <= MOST_ROWS and len(asked) <= MOST_QUERIES, path


@pytest.mark.timeout(2_400)
def test_no_page_reads_a_whole_table(up: Running) -> None:
    """By the plans of SQLite for what pages really ask: a table is searched by an index, or only its index is read."""
    asked = dict[str, Any]()
    with counted() as heard:
        for path in PAGES:
            assert requests.get(f"{address(up)}{path}", headers={"Accept": "text/html"}, timeout=60).ok
        asked.update((statement, parameters) for statement, parameters in heard if statement.startswith("SELECT"))
    assert len(asked) >= 10
    with closing(sqlite3.connect(up.service.directory / "incidents.db")) as connection:
        for statement, parameters in asked.items():
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]
            whole = [one for one in plan if WHOLE_TABLE.match(one)]
            assert not whole, f"{whole}: {statement}"


@pytest.mark.timeout(2_400)
def test_lists_are_read_from_end_to_end(up: Running, browser: Browser) -> None:
    complaints: list[str] = []
    with visiting(browser, up, complaints) as tab:
        tab.set_default_timeout(PATIENCE_MS)
        opened(tab, "/incidents?view=all")
        expect(tab.locator(".pages")).to_contain_text("page 1 of 200, 10,000 incidents")
        assert tab.locator("#list tbody tr").count() == 50
        first = tab.locator("#list tbody tr").first.inner_text()
        taken("older", lambda: tab.get_by_role("link", name="older").click())
        expect(tab.locator(".pages")).to_contain_text("page 2 of 200")
        assert tab.locator("#list tbody tr").first.inner_text() != first
        opened(tab, "/incidents?view=all&page=200")
        expect(tab.get_by_role("link", name="older")).to_have_count(0)
        expect(tab.locator("#list tbody tr").last).to_contain_text("(0)")
        tab.get_by_label("Service", exact=True).fill("svc-7")
        tab.get_by_label("Severity").select_option("critical")
        taken("filter", lambda: tab.get_by_role("button", name="Show").click())
        expect(tab.locator(".pages")).to_contain_text("100 incidents")
        taken("incident", lambda: tab.locator("#list tbody a").first.click())
        expect(tab.locator("h1")).to_contain_text("fails (")

        opened(tab, "/series")
        assert tab.locator("#found tbody tr").count() == 50
        tab.get_by_label("Name, service or labels").fill("metric.3 pod-99")
        taken("search", lambda: tab.get_by_role("button", name="Search").click())
        expect(tab.locator("#found tbody tr")).to_have_count(50)
        seen = tab.locator("#found tbody a").all_inner_texts()
        taken("more", lambda: tab.get_by_role("link", name="more").click())
        expect(tab.locator("#found tbody tr")).to_have_count(50)
        expect(tab.get_by_role("link", name="more")).to_have_count(0)  # one of each service
        assert set(seen) == {"metric.3"}
        taken("series", lambda: tab.locator("#found tbody a").first.click())
        expect(tab.locator("h1")).to_contain_text("pod-99")
        expect(tab.locator("svg.plot, figure p").first).to_be_visible()

        opened(tab, "/responses")
        expect(tab.locator(".pages")).to_contain_text(re.compile("page 1 of 40, 2,000 responses"))
        taken("response", lambda: tab.locator("#history tbody a").first.click())
        output = tab.locator("pre.output").first
        expect(output).to_contain_text("line of output")
        assert len(output.inner_text()) <= 8_000
        expect(tab.get_by_text("characters before are left out")).to_be_visible()
    assert not complaints


def opened(tab: Page, path: str) -> None:
    taken(path, lambda: tab.goto(path))


def taken(what: str, do: Callable[[], object]) -> None:
    """Do something, and say how long it took."""
    began_s = time.perf_counter()
    do()
    print(f"{what:56} {time.perf_counter() - began_s:6.3f} s in Chromium")
