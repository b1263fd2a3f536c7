"""Incidents and causes on recorded faults: `python -m benchmarks incidents --data DIR --harness DIR`.

The harness (`replay.py`, `cases.py`, `run_rca.py`, `e2e_metrics.py`) turns a recorded application into OTLP/JSON in
order of event time and judges what comes out; DIR/nezha_ob is OnlineBoutique (Yu et al., Nezha, ESEC/FSE 2023).
Everything goes through the pipeline as the service runs it, both days one after the other, with the defaults. No
incident times are given to find incidents; for the causes given the time, the pipeline is asked 180 s after each fault
began.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from otel_aiops.incidents.codec import to_line
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.otlp.decode_logs import decode_logs
from otel_aiops.otlp.decode_spans import decode_traces
from otel_aiops.otlp.json_body import json_to_protobuf
from otel_aiops.otlp.memo import Memo
from otel_aiops.pipeline import Pipeline, PipelineConfig, Step

KIND = "ob"
HORIZON_S = 180.0
BASELINES = ("nsigma", "baro")
S = 1_000_000_000


class Program:
    """The pipeline behind OTLP/JSON bodies; incidents go to a file as lines."""

    def __init__(self, out: TextIO) -> None:
        self.pipeline = Pipeline(PipelineConfig())
        self.spans = 0
        self.busy_s = 0.0
        self._memo = Memo()
        self._out = out

    def take(self, signal: str, body: dict[str, Any], now_ns: int) -> None:
        """One request; only the time from protobuf on counts as busy."""
        raw = json_to_protobuf(signal, json.dumps(body).encode())
        began = time.process_time()
        step = self._step(signal, raw, now_ns)
        self.busy_s += time.process_time() - began
        for incident in step.incidents:
            if incident.prediction is None:
                self._out.write(json.dumps(to_line(incident)) + "\n")

    def _step(self, signal: str, raw: bytes, now_ns: int) -> Step:
        if signal == "metrics":
            return self.pipeline.metrics(decode_metrics(raw, self._memo).points, now_ns=now_ns)
        if signal == "logs":
            return self.pipeline.logs(decode_logs(raw).records, now_ns=now_ns)
        spans = decode_traces(raw).spans
        self.spans += len(spans)
        return self.pipeline.traces(spans, now_ns=now_ns)


def main(arguments: list[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks incidents", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder that holds nezha_ob")
    parser.add_argument("--harness", type=Path, required=True, help="the folder that holds replay.py")
    parser.add_argument("--no-baselines", action="store_true")
    asked = parser.parse_args(arguments)
    os.environ["RCA_DATA"] = str(asked.data)
    sys.path.insert(0, str(asked.harness))
    warnings.simplefilter("ignore")
    nezha, replay = (importlib.import_module(name) for name in ("nezha", "replay"))
    with tempfile.TemporaryDirectory(prefix="otel-aiops-incidents-") as folder:
        path = Path(folder) / "incidents.jsonl"
        with path.open("w") as out:
            program = Program(out)
            ranks = [rank for day in nezha.DAYS[KIND] for rank in _day(program, replay, day)]
        print(f"\n{program.spans:,} spans in {program.busy_s:.0f} s of processor time after decoding JSON")
        _causes(ranks)
        print("\nend to end, without incident times")
        replay.judge(KIND, str(path))
    if not asked.no_baselines:
        _baselines()
    return 0


def _day(program: Program, replay: Any, day: str) -> Iterator[tuple[str, int]]:
    """Replay a day; (kind of fault, rank of the service with the fault) of each fault, 99 where it is not suspected."""
    stream = replay.Stream(KIND, day)
    due = sorted(stream.D.labels, key=lambda label: label["start_unix"])
    now_ns = time.time_ns()
    for time_s, batch in stream.batches():
        now_ns += S // 20
        for signal, body in stream.to_otlp(batch):
            program.take(signal, body, now_ns)
        while due and time_s >= due[0]["start_unix"] + HORIZON_S:
            label = due.pop(0)
            start_ns = round(label["start_unix"] * 1e9)
            suspects = program.pipeline.analysis.causes(start_ns, start_ns + round(HORIZON_S * 1e9))
            names = [suspect.service for suspect in suspects]
            yield label["type"], names.index(label["service"]) + 1 if label["service"] in names else 99
    print(f"{day}: {program.spans:,} spans so far", flush=True)


def _causes(ranks: list[tuple[str, int]]) -> None:
    print("\ncauses, given the time        faults   AS@1   AS@3   AS@5")
    for kind in [*sorted({kind for kind, _ in ranks}), "all"]:
        of = np.array([rank for one, rank in ranks if kind in (one, "all")])
        shares = "  ".join(f"{(of <= most).mean():.3f}" for most in (1, 3, 5))
        print(f"{kind:28}  {len(of):6}  {shares}")


def _baselines() -> None:
    """The usual methods on the same recording, in the harness."""
    baselines, run_rca, e2e = (importlib.import_module(name) for name in ("baselines", "run_rca", "e2e_metrics"))
    found = run_rca.evaluate(KIND, {name: getattr(baselines, name) for name in BASELINES})
    print("\nbaselines, given the time")
    print(run_rca.table(found, list(BASELINES)).to_string())
    print("\nbaselines, end to end on all metrics (a threshold a line)")
    with contextlib.redirect_stderr(io.StringIO()):
        print(e2e.judge(KIND, e2e.det_nsigma, (6, 8, 12)).round(3).to_string(index=False))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
