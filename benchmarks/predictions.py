"""Predictions of exhaustion: how early, how often false and how reliable, on simulated faults and quiet series; NAB."""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.table import Row, show
from otel_aiops.incidents.foresee import Foresight, ForesightConfig
from otel_aiops.incidents.incident import Incident, Prediction
from otel_aiops.incidents.targets import PredictRule
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import F64
from otel_aiops.series.batch import Batch

START_S = 1_780_272_000  # a Monday
DAY_S, HOUR_S = 86_400, 3_600
STEP_S = 60
DAYS = 4
COPIES = 3  # series of each story and seed
SEEDS = (11, 12, 13)  # never looked at while rules were chosen; those were 1, 2 and 3
MACHINE = "realKnownCause/machine_temperature_system_failure.csv"
FAILURE_C = 50.0  # the machine has failed below; it runs at 80 to 100

Made = tuple[F64, int]  # values (T,), step at which the limit is reached (T: never)
Story = Callable[[F64, np.random.Generator], Made]


def leak(at_s: F64, random: np.random.Generator) -> Made:
    """Memory that leaks for two to eight hours, on top of a small daily cycle."""
    start, lasts = random.uniform(0.2, 0.8) * at_s[-1], random.uniform(2, 8) * HOUR_S
    base = 0.4 + 0.05 * np.sin(2 * np.pi * at_s / DAY_S)
    return _until(base + 0.7 * np.clip((at_s - start) / lasts, 0, None) + random.normal(0, 0.01, len(at_s)))


def teeth_leak(at_s: F64, random: np.random.Generator) -> Made:
    """A heap whose garbage collection brings it down less and less."""
    start, lasts, period = random.uniform(0.2, 0.8) * at_s[-1], random.uniform(3, 8) * HOUR_S, random.uniform(240, 900)
    floor = 0.3 + 0.7 * np.clip((at_s - start) / lasts, 0, None)
    return _until(floor + 0.15 * np.mod(at_s / period, 1) + random.normal(0, 0.005, len(at_s)))


def fill(at_s: F64, random: np.random.Generator) -> Made:
    """A disk that something fills within one to six hours."""
    start, lasts = random.uniform(0.2, 0.8) * at_s[-1], random.uniform(1, 6) * HOUR_S
    base = 0.5 + 2e-8 * at_s
    return _until(base + 0.6 * np.clip((at_s - start) / lasts, 0, None) + random.normal(0, 0.001, len(at_s)))


def slow_fill(at_s: F64, random: np.random.Generator) -> Made:
    """A disk that is full after days, mostly by what is written at day."""
    lasts, phase = random.uniform(0.4, 0.95) * at_s[-1], random.uniform(0, 2 * np.pi)
    day = 2 * np.pi * at_s / DAY_S + phase
    return _until(0.3 + 0.7 * at_s / lasts + 0.03 * np.sin(day) + random.normal(0, 0.002, len(at_s)))


def certificate(at_s: F64, random: np.random.Generator) -> Made:
    """Seconds left of a certificate that nobody renews."""
    left = random.uniform(0.3, 0.95) * at_s[-1] - at_s
    return left, int(np.argmax(left <= 0))


def daily(at_s: F64, random: np.random.Generator) -> Made:
    """Rises and falls every day, up to 60 to 90 % at noon."""
    top = random.uniform(0.6, 0.9)
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * at_s / DAY_S + random.uniform(0, 6))
    return _never(0.3 + (top - 0.3) * wave + random.normal(0, 0.01, len(at_s)))


def noise(at_s: F64, random: np.random.Generator) -> Made:
    """Noise around a level."""
    return _never(random.uniform(0.3, 0.9) + random.normal(0, 0.02, len(at_s)))


def sawtooth(at_s: F64, random: np.random.Generator) -> Made:
    """Rises to 60 to 85 % and falls back: garbage collection, log rotation."""
    period, top = np.exp(random.uniform(np.log(600), np.log(DAY_S))), random.uniform(0.6, 0.85)
    return _never(0.3 + (top - 0.3) * np.mod(at_s / period + random.uniform(), 1) + random.normal(0, 0.005, len(at_s)))


def wandering(at_s: F64, random: np.random.Generator) -> Made:
    """A random walk that is drawn to its level."""
    x, moves = np.empty(len(at_s)), random.normal(0, 0.003, len(at_s))
    last = 0.0
    for k, move in enumerate(moves.tolist()):
        last = 0.998 * last + move
        x[k] = last
    return _never(0.6 + x)


def warming(at_s: F64, random: np.random.Generator) -> Made:
    """Caches that fill after each of a few restarts, up to 60 to 85 %."""
    restarts = np.sort(random.uniform(0, at_s[-1], 4))
    since = at_s - np.concatenate(([0.0], restarts))[np.searchsorted(restarts, at_s)]
    top, slow = random.uniform(0.6, 0.85), random.uniform(0.5, 6) * HOUR_S
    return _never(0.2 + (top - 0.2) * (1 - np.exp(-since / slow)) + random.normal(0, 0.005, len(at_s)))


def bursts(at_s: F64, random: np.random.Generator) -> Made:
    """Bursts at random times that drain again, such as backlogs of a queue."""
    x = np.full(len(at_s), 0.1)
    for start in random.uniform(0, at_s[-1], 20):
        up, down = random.uniform(300, 1800), random.uniform(300, 3600)
        height = random.uniform(0.2, 0.6)
        since = at_s - start
        x += height * np.clip(np.minimum(since / up, 1 - (since - up) / down), 0, 1)
    return _never(np.minimum(x, 0.9) + random.normal(0, 0.01, len(at_s)))


def renewed(at_s: F64, random: np.random.Generator) -> Made:
    """A certificate of three days that is renewed when a third of it is left."""
    left = 3 * DAY_S - np.mod(at_s + random.uniform(0, 2 * DAY_S), 2 * DAY_S)
    return left, len(at_s)


FAULTS: dict[str, Story] = {f.__name__: f for f in (leak, teeth_leak, fill, slow_fill, certificate)}
QUIET: dict[str, Story] = {f.__name__: f for f in (daily, noise, sawtooth, wandering, warming, bursts, renewed)}
NAMES = {
    "leak": "k8s.pod.memory_limit_utilization",
    "teeth_leak": "k8s.pod.memory_limit_utilization",
    "fill": "system.filesystem.utilization",
    "slow_fill": "system.filesystem.utilization",
    "certificate": "tlscheck.time_left",
    "renewed": "tlscheck.time_left",
    "bursts": "otelcol.exporter.queue.utilization",
    "sawtooth": "system.filesystem.utilization",
}


@dataclass(slots=True)
class Result:
    """What became of the predictions of all series."""

    begun: dict[str, tuple[int, int]] = field(default_factory=dict)  # id → (series, when)
    hit: dict[str, float] = field(default_factory=dict)  # id → lead in seconds
    outcomes: dict[str, str] = field(default_factory=dict)
    first: dict[str, Incident] = field(default_factory=dict)
    seconds: float = 0.0
    foresight: Foresight | None = None


def replay(
    values: F64, labels: list[Labels], *, step_s: float = STEP_S, config: ForesightConfig | None = None
) -> Result:
    """Predict S series (T, S) as they come, one batch a step; NaN is no point."""
    foresight, result = Foresight(config or ForesightConfig()), Result()
    for row, of in enumerate(labels):
        foresight.assign(row, of, f"{row:016x}")
    rows = np.arange(len(labels), dtype=np.int32)
    number = {of.service: row for row, of in enumerate(labels)}
    begin = time.perf_counter()
    for step, x in enumerate(values):
        event_ns = int((START_S + step * step_s) * 1e9)
        k = np.flatnonzero(np.isfinite(x))
        batch = Batch(rows[k], np.full(len(k), event_ns, np.int64), x[k], np.full(len(k), step_s))
        foresight.update(batch)
        for incident in foresight.due(event_ns):
            assert incident.prediction is not None
            if incident.id not in result.begun:
                result.begun[incident.id] = (number[incident.services[0]], step)
                result.first[incident.id] = incident
            if incident.prediction.outcome:
                result.outcomes[incident.id] = incident.prediction.outcome
            if incident.prediction.outcome == "hit":
                result.hit[incident.id] = (incident.end_ns - incident.detected_ns) / 1e9
    result.seconds, result.foresight = time.perf_counter() - begin, foresight
    return result


def made(
    stories: dict[str, Story], *, days: float, copies: int, seed: int
) -> tuple[F64, list[Labels], list[int], list[str]]:
    """(values (T, S), labels, steps at which limits are reached, stories) of all series."""
    at_s = np.arange(round(days * DAY_S / STEP_S), dtype=np.float64) * STEP_S
    columns, labels, ends, names = list[F64](), list[Labels](), list[int](), list[str]()
    for number, (name, story) in enumerate(stories.items()):
        for copy in range(copies):
            x, end = story(at_s, np.random.default_rng([seed, number, copy]))
            x = x.copy()
            x[end + 10 :] = np.nan  # it has crashed
            metric = NAMES.get(name, "k8s.pod.memory_limit_utilization")
            service = (("service.name", f"{name}-{copy}"),)
            labels.append(Labels(metric, unit="s" if "left" in metric else "1", resource=service))
            columns.append(x)
            ends.append(end)
            names.append(name)
    return np.stack(columns, axis=1), labels, ends, names


def run(data: Path | None = None, *, seeds: Sequence[int] = SEEDS, verbose: bool = False) -> Iterator[Row]:
    """Lead times, false predictions and reliability on simulated fleets, one a seed, and on NAB with its folder.

    False predictions a day are those of a whole fleet of 36 series.
    """
    leads, hits, chances = dict[str, list[float]](), list[int](), list[tuple[float, bool]]()
    false = {seed: dict.fromkeys(FAULTS | QUIET, 0) for seed in seeds}
    seconds = looks = 0.0
    for seed in seeds:
        values, labels, ends, names = made(FAULTS | QUIET, days=DAYS, copies=COPIES, seed=seed)
        result = replay(values, labels)
        seconds, looks = seconds + result.seconds, looks + values.size
        for series, (name, end) in enumerate(zip(names, ends, strict=True)):
            own = [(i, step) for i, (of, step) in result.begun.items() if of == series]
            right = [step for i, step in own if i in result.hit]
            false[seed][name] += len(own) - len(right)
            hits.append(len(right))
            chances += [(prediction_of(result.first[i]).probability, i in result.hit) for i, _ in own]
            if name in FAULTS and end < len(values):
                leads.setdefault(name, []).append((end - right[0]) * STEP_S / 60 if right else 0.0)
            if verbose:
                for i, step in own:
                    if i not in result.hit:
                        print(f"  seed {seed} {name} series {series} step {step}: {result.first[i].summary}")
    yield from _told(leads, false, sum(hits), chances)
    yield _row("cost of a series and minute", 1e3 * seconds / looks, "ms")
    if data is not None:
        yield from machine(data)


def _told(
    leads: dict[str, list[float]], false: dict[int, dict[str, int]], hits: int, chances: list[tuple[float, bool]]
) -> Iterator[Row]:
    """The rows of all fleets together."""
    every = [lead for some in leads.values() for lead in some]
    for name, some in leads.items():
        yield _row(f"lead of {name}, median", float(np.median(some)), "min")
        yield _row(f"lead of {name}, least", float(np.min(some)), "min")
    yield _row(f"faults foreseen, of {len(every)}", sum(lead > 0 for lead in every) / max(len(every), 1), "of all")
    yield _row("lead time, median", float(np.median(every)) if every else 0.0, "min")
    for name in FAULTS | QUIET:
        count = sum(some[name] for some in false.values())
        if count:
            yield _row(f"false predictions of {name}", count / DAYS / len(false), "a day")
    by_seed = [sum(some.values()) / DAYS for some in false.values()]
    yield _row("false predictions of a fleet, mean", float(np.mean(by_seed)), "a day")
    yield _row("false predictions of a fleet, worst", float(np.max(by_seed)), "a day")
    yield _row("hit ratio", hits / max(len(chances), 1), "of predictions")
    said, came = np.array([x for x, _ in chances]), np.array([x for _, x in chances], bool)
    for low in np.arange(0.7, 1.0, 0.1):
        some_said = (said >= low) & (said < low + 0.1 + 1e-9)
        if some_said.any():
            title = f"happened of {some_said.sum()} predicted with {said[some_said].mean():.2f}"
            yield _row(title, float(came[some_said].mean()), "share")


def prediction_of(incident: Incident) -> Prediction:
    """What an incident predicts."""
    assert incident.prediction is not None
    return incident.prediction


def _row(title: str, value: float, unit: str) -> Row:
    return Row(title, value, 0.0, unit, "")


def machine(data: Path) -> Iterator[Row]:
    """What is reached on NAB's machine temperature: below 50 degrees, it has failed."""
    path = data / "data" / MACHINE if (data / "data" / MACHINE).exists() else data / MACHINE
    with path.open() as file:
        rows = [(_seconds(row["timestamp"]), float(row["value"])) for row in csv.DictReader(file)]
    at = np.array([(when - rows[0][0]) // 300 for when, _ in rows])
    values = np.full((int(at.max()) + 1, 1), np.nan)
    values[at, 0] = [value for _, value in rows]
    rule = PredictRule({"name": "temperature"}, limit=FAILURE_C, direction="below", horizon=DAY_S)
    labels = [Labels("temperature", unit="Cel", resource=(("service.name", "machine"),))]
    result = replay(values, labels, step_s=300, config=ForesightConfig(rules=(rule,)))
    failed = values[:, 0] < FAILURE_C
    entries = np.flatnonzero(failed[1:] & ~failed[:-1]) + 1
    episodes = entries[np.concatenate(([True], np.diff(entries) > 288))]
    yield _row("machine temperature: falls below 50 degrees, a day apart", float(len(episodes)), "failures")
    yield _row("machine temperature: predictions", float(len(result.begun)), "predictions")
    yield _row("machine temperature: hits", float(len(result.hit)), "predictions")
    for lead in result.hit.values():
        yield _row("machine temperature: lead", lead / 60, "min")
    false = len(result.begun) - len(result.hit)
    yield _row("machine temperature: false predictions", false / (len(values) / 288), "a day")


def _seconds(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


def _until(x: F64) -> Made:
    """The values until they reach 1."""
    return x, int(np.argmax(x >= 1)) if (x >= 1).any() else len(x)


def _never(x: F64) -> Made:
    return np.minimum(x, 0.95), len(x)


def main(arguments: Sequence[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks predictions", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of NAB, with data/realKnownCause in it")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="one fleet of 36 series each")
    parser.add_argument("-v", action="store_true", help="print each false prediction")
    given = parser.parse_args(arguments)
    show(run(given.data, seeds=given.seeds, verbose=given.v))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
