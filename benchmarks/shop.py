"""The simulated shop with faults whose causes are known: recorded by seed, replayed through the program, and judged.

    python -m benchmarks.shop record DIR [--seeds 1 2 3] [--rate 8]   DIR/seed-N/bodies.zst and labels.json
    python -m benchmarks.shop replay DIR [--speed 0]                  through `otel-aiops serve`, into incidents.jsonl;
                                                              made anew where nothing is recorded
    python -m benchmarks.shop inside DIR                              the same without a service, in this process
    python -m benchmarks.shop judge DIR                               what was found, kind by kind

Each seed is a working day of its own: three quarters of an hour without faults, each kind of fault once at a random
place in random order, two deployments that go well, with 7 to 14 minutes of quiet after each, and a quiet hour at the
end. Three seeds have every kind three times.

The judge reads lines {"id", "state", "detected_at", "suspects": [{"service", "edge", …}], …}. A fault is detected by
the first incident that is opened between its start and two minutes after its end; later ones are extra. The ranking
that counts is that of the last line of the incident up to 60 s after it was opened (by "updated_at" where a line has
it). Who is a right answer stands in the labels (`accept`, `accept_edges`): where a database or the cache is slow, its
name or a call of it; where one statement is slow, also the service that waits; where a cache has lost what a service
kept there, the service or the cache; where users come in excess, "web" or no suspect at all. An incident further than
five minutes from all faults is false. A prediction, whatever became of it, is a hit where one of its suspects, or
services where it has none, is that of a fault that fills something up, before it is full; otherwise it is false.
"""

from __future__ import annotations

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import requests
import zstandard

from benchmarks.table import Row
from otel_aiops.demo.service import Service
from otel_aiops.incidents.codec import to_line
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.otlp.decode_logs import decode_logs
from otel_aiops.otlp.decode_spans import decode_traces
from otel_aiops.otlp.memo import Memo
from otel_aiops.pipeline import Pipeline, PipelineConfig
from otel_aiops.shop import LIVE_STEP_S, Kind, LiveShop, draw_plan, label

START_S = 1_767_598_200.0  # a Monday, 07:30 UTC
WARM_S, QUIET_S, LAST_S = 2700.0, 420.0, 3600.0
SEEDS, RATE = (1, 2, 3), 8.0
SIGNALS = ("metrics", "traces", "logs")
HEADER = struct.Struct("<BQI")  # signal, received_ns, bytes
LATE_S, NEAR_S, RANKED_S = 120.0, 300.0, 60.0

Receive = Callable[[str, bytes, int], object]  # signal, body, received_ns
Labels = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Day:
    """A day of the shop with its faults."""

    shop: LiveShop
    steps: int
    labels: Labels

    def bodies(self) -> Iterator[tuple[str, bytes, int]]:
        """(signal, body, received_ns), in order of time."""
        for step in range(self.steps):
            received_ns = round(self.shop.time_s(step + 1) * 1e9)
            for signal, body in zip(SIGNALS, self.shop.requests(step), strict=True):
                if body:
                    yield signal, body, received_ns


def day(seed: int, *, rate: float = RATE, kinds: Iterable[Kind] = tuple(Kind)) -> Day:
    """The day of a seed: each kind of fault once, deployments that go well twice."""
    start_s = START_S + 7 * 86_400 * seed
    wanted = [*kinds, *(kind for kind in kinds if kind is Kind.GOOD_DEPLOY)]
    plan, end_s = draw_plan(wanted, start_s + WARM_S, seed=seed, quiet_s=QUIET_S)
    end_s += LAST_S
    faults = [label(fault, plan) for fault in plan]
    labels = {
        "seed": seed,
        "rate": rate,
        "start": start_s,
        "warm_until": start_s + WARM_S,
        "end": end_s,
        "faults": [fault for fault in faults if fault["kind"] != Kind.GOOD_DEPLOY],
        "deployments": [fault for fault in faults if fault["kind"] == Kind.GOOD_DEPLOY],
    }
    return Day(LiveShop(start_s, seed=seed, rate=rate, plan=plan), int((end_s - start_s) / LIVE_STEP_S), labels)


def record(made: Day, folder: Path) -> int:
    """Write a day into a folder; how many bytes it takes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.json").write_text(json.dumps(made.labels, indent=1) + "\n")
    path = folder / "bodies.zst"
    with path.open("wb") as file, zstandard.ZstdCompressor(3).stream_writer(file) as out:
        for signal, body, received_ns in made.bodies():
            out.write(HEADER.pack(SIGNALS.index(signal), received_ns, len(body)) + body)
    return path.stat().st_size


def recorded(folder: Path) -> Iterator[tuple[str, bytes, int]]:
    """(signal, body, received_ns) of a recorded day, in order."""
    with (folder / "bodies.zst").open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as source:
        while header := source.read(HEADER.size):
            signal, received_ns, size = HEADER.unpack(header)
            yield SIGNALS[signal], source.read(size), received_ns


def feed(receive: Receive, bodies: Iterable[tuple[str, bytes, int]]) -> int:
    """Give everything to a callable, as fast as it takes it; how many bodies there were."""
    count = 0
    for signal, body, received_ns in bodies:
        receive(signal, body, received_ns)
        count += 1
    return count


def replay(bodies: Iterable[tuple[str, bytes, int]], out: Path, *, speed: float = 0.0) -> float:
    """Send bodies to `otel-aiops serve` in a process of its own, which writes incidents to `out`; seconds it took.

    `speed` is how many times as fast as life, 0 as fast as the service takes it.
    Raises: RuntimeError when the service does not start or refuses a body.
    """
    with tempfile.TemporaryDirectory(prefix="otel-aiops-shop-") as folder:
        service = Service(Path(folder), "--incidents-out", str(out.resolve()))
        try:
            service.wait()
            session, began, first_ns = requests.Session(), time.monotonic(), 0

            def post(signal: str, body: bytes, received_ns: int) -> None:
                nonlocal first_ns
                first_ns = first_ns or received_ns
                if speed:
                    time.sleep(max(0.0, (received_ns - first_ns) / 1e9 / speed - (time.monotonic() - began)))
                _post(session, f"http://127.0.0.1:{service.http}/v1/{signal}", body)

            feed(post, bodies)
            service.settle()
            return time.monotonic() - began
        finally:
            service.stop()


def inside(bodies: Iterable[tuple[str, bytes, int]], out: Path) -> float:
    """Give bodies to a pipeline in this process, which writes incidents to `out` as the service would; seconds it took.

    The same bodies give the same lines, every time.
    """
    pipeline, memo, began = Pipeline(PipelineConfig()), Memo(), time.monotonic()

    with out.open("w") as file:

        def take(signal: str, body: bytes, received_ns: int) -> None:
            if signal == "traces":
                step = pipeline.traces(decode_traces(body).spans, now_ns=received_ns)
            elif signal == "logs":
                step = pipeline.logs(decode_logs(body).records, now_ns=received_ns)
            else:
                step = pipeline.metrics(decode_metrics(body, memo).points, now_ns=received_ns)
            for incident in step.incidents:
                line = {**to_line(incident), "updated_at": step.event_ns / 1e9}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")

        feed(take, bodies)
    return time.monotonic() - began


def _post(session: requests.Session, url: str, body: bytes) -> None:
    """Send a body, again where the service is busy. Raises: RuntimeError."""
    for _ in range(600):
        answer = session.post(url, body, headers={"Content-Type": "application/x-protobuf"}, timeout=60)
        if answer.status_code not in {429, 503}:
            break
        time.sleep(0.1)
    if answer.status_code != 200:
        raise RuntimeError(f"{url} expected to answer 200, got {answer.status_code}: {answer.text[:200]}")


@dataclass(slots=True)
class Tally:
    """What was found of the faults of one kind."""

    faults: int = 0
    delays_s: list[float] = field(default_factory=list)
    top1: int = 0
    top3: int = 0
    extra: int = 0
    leads_s: list[float] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.faults += other.faults
        self.delays_s += other.delays_s
        self.top1 += other.top1
        self.top3 += other.top3
        self.extra += other.extra
        self.leads_s += other.leads_s


@dataclass(slots=True)
class Judgement:
    """What was found on one day or on some: kind by kind, and what was false."""

    kinds: dict[str, Tally] = field(default_factory=dict)
    false: list[dict[str, Any]] = field(default_factory=list)
    false_predictions: list[dict[str, Any]] = field(default_factory=list)
    said: list[tuple[float, bool]] = field(default_factory=list)  # of each suspect: confidence, and whether it is right
    quiet_h: float = 0.0
    hours: float = 0.0

    def add(self, other: Judgement) -> None:
        for kind, tally in other.kinds.items():
            self.kinds.setdefault(kind, Tally()).add(tally)
        self.false += other.false
        self.false_predictions += other.false_predictions
        self.said += other.said
        self.quiet_h += other.quiet_h
        self.hours += other.hours

    @property
    def total(self) -> Tally:
        """All kinds together."""
        total = Tally()
        for tally in self.kinds.values():
            total.add(tally)
        return total


def judge(lines: Iterable[dict[str, Any]], labels: Labels) -> Judgement:
    """Judge the incidents of a day, given as the lines of `--incidents-out`."""
    opened, predicted = _stories(lines)
    faults, made = labels["faults"], Judgement()
    made.hours = (labels["end"] - labels["warm_until"]) / 3600
    made.quiet_h = made.hours - sum(fault["end"] - fault["start"] + NEAR_S for fault in faults) / 3600
    taken: set[str] = set()
    for fault in faults:
        tally = made.kinds.setdefault(fault["kind"], Tally())
        tally.faults += 1
        found = [
            one for one in opened if fault["start"] <= one["at"] <= fault["end"] + LATE_S and one["id"] not in taken
        ]
        taken |= {one["id"] for one in found}
        if found:
            suspects = found[0]["suspects"]
            tally.delays_s.append(found[0]["at"] - fault["start"])
            tally.top1 += _right(suspects[:1], fault)
            tally.top3 += _right(suspects[:3], fault)
            tally.extra += len(found) - 1
            made.said += [(one["confidence"], _right([one], fault)) for one in suspects if "confidence" in one]
        leads = [fault["limit"] - one["at"] for one in predicted if _foreseen(one, fault)]
        tally.leads_s += [max(leads)] if leads else []
    near = [(fault["start"], fault["end"] + NEAR_S) for fault in faults]
    made.false = [
        one for one in opened if one["at"] >= labels["warm_until"] and not any(a <= one["at"] <= b for a, b in near)
    ]
    made.false_predictions = [one for one in predicted if not any(_foreseen(one, fault) for fault in faults)]
    return made


def _stories(lines: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Incidents in order of time, with the ranking that counts, and predictions, each once."""
    opened: dict[str, dict[str, Any]] = {}
    predicted: dict[str, dict[str, Any]] = {}
    for line in lines:
        key, suspects = str(line["id"]), line.get("suspects", [])
        if line.get("prediction") or line.get("state") in {"predicted", "expired"}:
            about = suspects or [{"service": service} for service in line.get("services", [])]
            predicted.setdefault(key, {"id": key, "at": line["detected_at"], "suspects": about})
            continue
        story = opened.setdefault(key, {"id": key, "at": line["detected_at"], "suspects": suspects})
        if line.get("updated_at", line["detected_at"]) <= story["at"] + RANKED_S:
            story["suspects"] = suspects
    return sorted(opened.values(), key=lambda one: one["at"]), list(predicted.values())


def _right(suspects: list[dict[str, Any]], fault: dict[str, Any]) -> bool:
    """Whether one of the suspects is a right answer."""
    if not suspects:
        return "" in fault["accept"]
    return any(
        _shortened(one["service"]) in fault["accept"] or _shortened(one.get("edge") or "-") in fault["accept_edges"]
        for one in suspects
    )


def _shortened(name: str) -> str:
    """A name without what is inside the database that ends it: "postgresql" of "postgresql:shop"."""
    return name.partition(":")[0]


def _foreseen(prediction: dict[str, Any], fault: dict[str, Any]) -> bool:
    if fault["limit"] is None or not fault["start"] <= prediction["at"] < fault["limit"]:
        return False
    return any(one["service"] == fault["service"] for one in prediction["suspects"])


def table(found: Judgement) -> str:
    """A judgement as a table."""
    lines = [f"{'':22}faults  found  median s  p90 s  top-1  top-3  extra  foreseen  lead min"]
    for kind, tally in [*sorted(found.kinds.items()), ("all", found.total)]:
        times = np.array(tally.delays_s or [np.nan])
        lead = np.median(tally.leads_s) / 60 if tally.leads_s else np.nan
        lines.append(
            f"{kind:22}{tally.faults:6} {len(tally.delays_s):6} {np.median(times):9.0f} {np.quantile(times, 0.9):6.0f}"
            f" {tally.top1:6} {tally.top3:6} {tally.extra:6} {len(tally.leads_s):9} {lead:9.1f}"
        )
    lines.append(f"false incidents: {len(found.false)} in {found.quiet_h:.1f} quiet hours")
    lines.append(f"false predictions: {len(found.false_predictions)} in {found.hours:.1f} hours")
    if found.said:
        said, right = np.array(found.said, float).T
        brier, least = float(np.mean((said - right) ** 2)), float(np.mean((right.mean() - right) ** 2))
        lines.append(
            f"confidence of {len(said)} suspects: {said.mean():.2f} said, {right.mean():.2f} right, "
            f"Brier score {brier:.3f} ({least:.3f} if all were the same)"
        )
    return "\n".join(lines)


def judged(folders: Iterable[Path]) -> Judgement:
    """Judge incidents.jsonl of recorded days against their labels."""
    found = Judgement()
    for folder in folders:
        lines = [json.loads(line) for line in (folder / "incidents.jsonl").read_text().splitlines() if line.strip()]
        found.add(judge(lines, json.loads((folder / "labels.json").read_text())))
    return found


def ready() -> bool:
    """Whether the program can write incidents."""
    command = [sys.executable, "-m", "otel_aiops", "serve", "--help"]
    return "--incidents-out" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def speed(steps: int = 120, rate: float = 40.0) -> list[Row]:
    """How fast the shop is simulated, and how much it says."""
    shop = LiveShop(START_S + 4 * 3600, rate=rate)
    began, size = time.process_time(), 0
    for step in range(steps):
        size += sum(map(len, shop.requests(step)))
    took_s, life_s = time.process_time() - began, steps * LIVE_STEP_S
    title = f"simulate {rate:g} requests/s"
    return [
        Row(f"{title}, times as fast as life", life_s / took_s, 20, "x", "goal"),
        Row(f"{title}, spans", shop.spans / took_s, 0, "spans/s of a core", "none"),
        Row(f"{title}, spans in a second of the shop", shop.spans / life_s, 0, "spans/s", "none"),
        Row(f"{title}, log records in a second of the shop", shop.logs / life_s, 0, "records/s", "none"),
        Row(f"{title}, OTLP in a second of the shop", size / life_s / 1e3, 0, "kB/s", "none"),
    ]


def run() -> Iterator[Row]:
    """The speed of the simulation, and what the program finds on the day of the first seed."""
    yield from speed()
    if not ready():
        return
    with tempfile.TemporaryDirectory(prefix="otel-aiops-shop-") as folder:
        made, out = day(SEEDS[0]), Path(folder) / "incidents.jsonl"
        took_s = replay(made.bodies(), out)
        lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    found = judge(lines, made.labels)
    total = found.total
    yield Row("replay through the service, spans", made.shop.spans / took_s, 0, "spans/s", "none")
    for kind, tally in sorted(found.kinds.items()):
        yield Row(f"{kind}: first suspect right", tally.top1 / tally.faults, 0.9, "of the faults", "goal")
    yield Row("faults found", len(total.delays_s) / total.faults, 1, "of the faults", "goal")
    yield Row("first suspect right", total.top1 / total.faults, 0.9, "of the faults", "goal")
    yield Row("false incidents", len(found.false) / found.quiet_h, 0.03, "a quiet hour", "goal", better="less")


def _bodies(folder: Path, seed: int, rate: float) -> Iterator[tuple[str, bytes, int]]:
    """What is recorded in a folder, or where nothing is, the same made anew."""
    if (folder / "bodies.zst").exists():
        return recorded(folder)
    made = day(seed, rate=rate)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.json").write_text(json.dumps(made.labels, indent=1) + "\n")
    return made.bodies()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("record", "replay", "inside", "judge"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--rate", type=float, default=RATE, help="requests of users a second at noon")
    parser.add_argument("--speed", type=float, default=0.0, help="times as fast as life, 0 for as fast as can be")
    asked = parser.parse_args()
    folders = [asked.folder / f"seed-{seed}" for seed in asked.seeds]
    if asked.command == "judge":
        print(table(judged(folders)))
        return 0
    for seed, folder in zip(asked.seeds, folders, strict=True):
        if asked.command == "record":
            made = day(seed, rate=asked.rate)
            size = record(made, folder)
            print(
                f"{folder}: {made.shop.spans:,} spans, {made.shop.logs:,} log records, {size / 1e6:.0f} MB", flush=True
            )
        else:
            out = folder / "incidents.jsonl"
            out.unlink(missing_ok=True)
            bodies = _bodies(folder, seed, asked.rate)
            took_s = inside(bodies, out) if asked.command == "inside" else replay(bodies, out, speed=asked.speed)
            print(f"{folder}: {took_s:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
