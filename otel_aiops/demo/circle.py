"""The second part of the demo: the life of a model in miniature, from its objective to the audit of an alert."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from otel_aiops.demo.operator import Operator
from otel_aiops.demo.service import Service
from otel_aiops.shop.queues import QUEUES, STEP_S, STEPS_AN_HOUR, Queues

START_S = 1_759_968_000  # 2025-10-09T00:00:00Z: each demo has the same days
HISTORY_DAYS, MOVED_DAYS = 4, 4.1
ODD, ODD_DEPTH = "parcels", 420.0
OBJECTIVE = "{name: orders, match: {service: orders}, budget: 2/day, incidents: [rate], data: {least_history: 2d}}"
SETTINGS = f"""
detection: {{warmup_points: 20}}
service: {{snapshot_interval: 500ms, tick_interval: 200ms}}
storage: {{min_free_bytes: 0, segments_keep: 36500d}}
objectives: [{OBJECTIVE}]
lifecycle:
  rollout:
    {{automatic: true, interval: 0.2, shadow: 1h, canary: 1h, probation: 1h, share: 0.5, least_points: 50,
     calibration: 0.4}}
  monitoring: {{interval: 1s, window: 6h, looks: 84, reference: 2d, gap: 1d}}
  retrain: {{enabled: true, reasons: [drift], min_interval: 20s, objective: orders, window: 4d, processes: 2}}
  gate: {{recall_margin: 0.2, confidence: 0.8}}  # of few days and series
  registry: {{enabled: false}}
"""
AFTERMATH = 2 * STEPS_AN_HOUR  # in which the alert ends, before the next version is made
DEAF = ("{warmup_points: 20}", "{warmup_points: 20, threshold: 100, sensitivity: 0.1, novelty_memory: 0}")
FIGURES = (
    ("alerts", "alerts", "{:.0f}"),
    ("false_a_week", "false alerts a week", "{:.1f}"),
    ("recall", "known incidents found", "{:.0%}"),
    ("fault_recall", "injected faults found", "{:.0%}"),
    ("cases_wrong", "frozen cases wrong", "{:.0f}"),
    ("calibration_error", "error of the probabilities", "{:.3f}"),
    ("us_per_point", "CPU time a point", "{:.0f} µs"),
)
ROLES = {"candidate": "this version", "champion": "the champion", "baseline": "baseline"}


@dataclass(frozen=True, slots=True)
class Paged:
    """An alert that somebody was paged by."""

    fingerprint: str
    series: str
    since: float


def tell(console: Console, service: Service) -> None:
    """The whole circle on a service that has nothing yet. Raises: RuntimeError where the story goes otherwise."""
    began_s = time.monotonic()
    operator = Operator(console, service, Queues(START_S))
    _introduce(console, service)
    first = _first_champion(operator)
    paged = _verdict(operator)
    _bad_challenger(operator, first)
    second = _drift(operator)
    _rollback(operator, first, second)
    _audit(operator, paged)
    console.print(f"\nThat was the whole circle, in {time.monotonic() - began_s:.0f} s.\n")


def _introduce(console: Console, service: Service) -> None:
    console.print("\n[bold]The life of a model, in miniature[/]")
    console.print(
        f"The six queues of service orders report every {STEP_S // 60} minutes, faster than life, to a service with a "
        "data directory of its own. The depths are made up; each figure below is what the product says. Shadow, canary "
        "and probation take an hour of telemetry each, and the model is looked at every second, by the configuration "
        "of this demo; by default it is a day each, and every hour."
    )
    console.print(f"  configuration {service.config}\n  data          {service.data}", soft_wrap=True)
    console.print("  Type commands with --config and --data-dir, or --url, of these; they are left out below.")


# -- chapters ---------------------------------------------------------------------------------------------------------


def _first_champion(operator: Operator) -> str:
    operator.head("1  An objective")
    operator.say(f"objectives: [{OBJECTIVE}]")
    operator.show(operator.type("objectives", "list"))
    operator.head(f"2  {HISTORY_DAYS} days of history become a version, and the gate looks at it")
    operator.days(HISTORY_DAYS)
    operator.say(f"{operator.get('status')['points_scored']:,} points of {len(QUEUES)} series are recorded")
    run = _run(operator, "--why", "the first model")
    version = str(run["version"])
    _figures(operator, operator.service.data / "lifecycle" / "models" / version)
    _gate(operator, run)
    operator.head("3  Shadow, canary, champion: by the rules, while telemetry goes on")
    _carried_on(operator, version)
    return version


def _verdict(operator: Operator) -> Paged:
    operator.head("4  An alert, and a verdict")
    began_s = operator.queues.now_s

    def alert() -> Any:
        found = operator.get("alerts")["alerts"]
        return next((one for one in found if f'"{ODD}"' in one["series"] and one["since"] >= began_s), None)

    found = operator.until(alert, f"an alert of the queue {ODD}", odd={ODD: ODD_DEPTH})
    operator.say(f"The queue {ODD} is at {ODD_DEPTH:g}:")
    operator.show(operator.type("alerts"))
    at = f"{found['since']:.0f}"
    operator.show(operator.type("verdict", found["fingerprint"], at, "real", "--note", "parcels were late"))
    operator.send(AFTERMATH)
    operator.days(0)
    return Paged(found["fingerprint"], found["series"], found["since"])


def _bad_challenger(operator: Operator, champion: str) -> None:
    operator.head("5  A bad challenger, made on purpose, is stopped at the gate")
    deaf = operator.service.config.with_name("deaf.yaml")
    deaf.write_text(operator.service.config.read_text().replace(*DEAF))
    operator.say(f"deaf.yaml has another line: detection: {DEAF[1]}")
    run = _run(operator, "--config", "deaf.yaml", "--window", "5d", config=str(deaf), code=1)
    _figures(operator, operator.service.data / "lifecycle" / "runs" / run["id"])
    _gate(operator, run, only_no=True)
    operator.say(f"exit code 1: nothing was registered, {champion} is champion as before")
    _became(operator, run)


def _drift(operator: Operator) -> str:
    operator.head("6  Level and shape of all queues change for good: drift, and a new champion")
    known = {one["id"] for one in operator.get("lifecycle/runs")["runs"]}
    operator.queues.moved = True
    operator.days(MOVED_DAYS)
    operator.say(f"{MOVED_DAYS} days later:")

    def drifted() -> bool:
        """By a look at all of it: one that began before may end now, and another after it."""
        health = operator.get("models/health")
        return bool(health["problems"]) and (health["time"] or 0) >= operator.queues.now_s - STEP_S

    operator.wait(drifted, "the monitor to see the drift")
    found = operator.type("models", "health", code=1).splitlines()
    operator.say(*(line for line in found if line.startswith("problem")))
    operator.say("The service retrains for that reason, by itself:")
    steps = _Steps(operator)

    def retrained() -> Any:
        runs = [one for one in operator.get("lifecycle/runs")["runs"] if one["id"] not in known]
        for one in runs:
            steps.show(one)
        return next((one for one in runs if one["state"] not in ("running", "interrupted")), None)

    run = operator.wait(retrained, "the service to retrain", still=lambda: steps.going)
    if run["state"] != "registered":
        raise RuntimeError(f"expected the new version to be registered, got {run['state']}: {run['result']}")
    version = str(run["version"])
    _figures(operator, operator.service.data / "lifecycle" / "models" / version)
    _carried_on(operator, version)
    return version


def _rollback(operator: Operator, first: str, second: str) -> None:
    operator.head("7  Somebody lets the old version serve by mistake, and goes back")
    for action in ("shadow", "promote"):
        operator.type("rollout", action, first, "--why", "by mistake")
    operator.say(f"champion: {operator.get('rollout')['champion']}")
    began_s = time.monotonic()
    said = operator.type("rollback", "--why", "it knows the old level")
    took_s = time.monotonic() - began_s
    operator.show(said)
    if operator.get("rollout")["champion"] != second:
        raise RuntimeError(f"expected {second} to serve again, got {operator.get('rollout')['champion']}")
    before = operator.get("status")["points_scored"]
    operator.until(lambda: operator.get("status")["points_scored"] > before, "the champion to score on")
    operator.say(f"back in {took_s:.1f} s with the start of the command; points are scored on")
    for action in ("shadow", "promote"):
        operator.order(action=action, version=first, why="once more, for the API")
    began_s = time.monotonic()
    operator.order(action="rollback", why="it knows the old level")
    took_s = time.monotonic() - began_s
    if operator.get("rollout")["champion"] != second:
        raise RuntimeError(f"expected {second} to serve again after a rollback over the API")
    operator.say(f'back in {took_s:.2f} s over the API, as by POST /api/v1/rollout {{"action": "rollback"}}')


def _audit(operator: Operator, paged: Paged) -> None:
    operator.head("8  Why was I paged then? The alert of chapter 4, made again from the log")
    at = datetime.fromtimestamp(paged.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    told = operator.type("audit", "why", "--series", paged.fingerprint, "--at", at, files=True)
    operator.say(paged.series)
    operator.show(told.partition("\n")[2])  # the first line is the series in full


# -- what chapters share ----------------------------------------------------------------------------------------------


class _Steps:
    """Shows the steps of a run as they end."""

    def __init__(self, operator: Operator) -> None:
        self._operator, self._shown = operator, 0
        self.going = ""

    def show(self, run: dict[str, Any]) -> None:
        """What is new of it."""
        for step in run["steps"][self._shown :]:
            if step["state"] == "running":
                self.going = f"{step['name']} goes on"
                break
            self._shown += 1
            if step["state"] == "skipped":
                continue
            took_s = (step["ended_ns"] - step["began_ns"]) / 1e9
            words = step["words"].partition(":")[0] if step["name"] == "gate" else step["words"]  # its rules come below
            self._operator.say(f"{step['name']:9} {step['error'] or words} ({took_s:.1f} s)")


def _run(operator: Operator, *words: str, config: str = "", code: int = 0) -> dict[str, Any]:
    """A run of the lifecycle with its steps shown as they end."""
    command = ("lifecycle", "run", "--objective", "orders", *words)
    operator.show_typed(*command)
    given = [word for k, word in enumerate(command) if "--config" not in (word, command[k - 1])]
    known = {one["id"] for one in operator.get("lifecycle/runs")["runs"]}
    steps = _Steps(operator)

    def look() -> None:
        for one in operator.get("lifecycle/runs")["runs"]:
            if one["id"] not in known:
                steps.show(one)

    told: dict[str, Any] = json.loads(
        operator.run(*given, "--json", files=True, config=config, code=code, meanwhile=look)
    )
    look()
    return told


def _figures(operator: Operator, folder: Path) -> None:
    """What the report beside a version says, all sides next to each other."""
    report = json.loads((folder / "report.json").read_text())
    sides = report["sides"]
    days = (report["window"][1] - report["window"][0]) / 86_400e9
    operator.say(f"on the {days:.2g} newest days, which none of them has learned:")
    rows = []
    for key, words, form in FIGURES:
        cells = [side["figures"].get(key) for side in sides]
        if any(cell is not None for cell in cells):
            rows.append((words, *("-" if cell is None else form.format(cell) for cell in cells)))
    operator.table(("", *(f"{ROLES[side['role']]}\n{side['name']}" for side in sides)), rows)


def _gate(operator: Operator, run: dict[str, Any], *, only_no: bool = False) -> None:
    (step,) = (one for one in run["steps"] if one["name"] == "gate")
    for check in step["outputs"]["verdict"]["checks"]:
        if not (only_no and check["passed"]):
            operator.say(f"{'yes' if check['passed'] else 'NO '} {check['name']}: {check['words']}")


def _became(operator: Operator, run: dict[str, Any]) -> None:
    """What the verdict has become by this run: a label of its dataset, and a frozen case."""
    dataset = next(one["outputs"]["dataset"] for one in run["steps"] if one["name"] == "dataset")
    (label,) = operator.get(f"datasets/{dataset}")["content"]["labels"]
    operator.say("What the verdict of chapter 4 became:")
    span = f"{_clock(label['start_ns'] / 1e9)} to {_clock(label['end_ns'] / 1e9)}"
    operator.say(f"label  {label['kind']}, {span}, from a {label['source']}: {label['note']} (of dataset {dataset})")
    (path,) = sorted((operator.service.data / "lifecycle" / "cases").glob("*.json"))
    case = json.loads(path.read_text())
    operator.say(f"case   {path.stem}, {case['kind']} by {case['by']}: asked of each version from now on")
    report = json.loads((operator.service.data / "lifecycle" / "runs" / run["id"] / "report.json").read_text())
    for side in report["sides"]:
        for one in side["cases"]:
            said = "right" if one["right"] else "WRONG"
            operator.say(f"       {ROLES[side['role']]} is {said} there: {one['peak']:.2f} thresholds")


def _carried_on(operator: Operator, version: str) -> None:
    """Let time go by until a version serves alone, and tell each step that the rules take."""
    shown: set[str] = set()
    began_s = operator.queues.now_s

    def serves() -> bool:
        done = operator.get("rollout/history")["rollouts"]
        for one in reversed([one for one in done if one["version"] == version]):
            if one["action"] not in shown:
                shown.add(one["action"])
                operator.say(f"{one['action']:8} by {one['who']}: {one['why']}")
        now = operator.get("rollout")
        return (now["champion"], now["other"]) == (version, None)

    operator.until(serves, "the rules to carry the version on")
    hours = (operator.queues.now_s - began_s) / 3600
    operator.say(f"champion {version} alone, after {hours:.1f} hours of telemetry")


def _clock(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M")
