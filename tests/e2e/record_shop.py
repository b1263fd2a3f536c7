"""Records what the real shop sends before, while and after each fault: `python -m tests.e2e.record_shop FOLDER`.

FOLDER/<fault>/wal gets the log of `otel-aiops serve` (OTLP bodies as they were received, for `series.records.read_log`)
up to the end of the fault's recovery, and `faults.json` with when what was wrong, in nanoseconds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

from tests.e2e.real_shop import Shop

FAULTS = ("slow_query", "crashed_database", "cpu_hog", "crashed_service")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--faults", nargs="+", default=FAULTS, choices=FAULTS)
    parser.add_argument("--baseline", type=float, default=330, help="seconds before the first fault")
    parser.add_argument("--fault", type=float, default=75, help="seconds of each fault")
    parser.add_argument("--recovery", type=float, default=100, help="seconds after each fault")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="otel-aiops-shop-") as work:
        record(asked, Path(work))


def record(asked: argparse.Namespace, work: Path) -> None:
    faults: list[dict[str, object]] = []
    with Shop(work, "") as shop:
        started_ns = time.time_ns()
        print(f"baseline of {asked.baseline:.0f} s", flush=True)
        time.sleep(asked.baseline)
        for name in asked.faults:
            print(f"{name}: answers so far {shop.load.answered}", flush=True)
            start_ns = time.time_ns()
            with getattr(shop, name)():
                time.sleep(asked.fault)
                end_ns = time.time_ns()
            faults.append({"fault": name, "start_ns": start_ns, "end_ns": end_ns})
            time.sleep(asked.recovery)
            home = asked.folder / name
            shutil.rmtree(home, ignore_errors=True)
            shutil.copytree(shop.aiops.data / "wal", home / "wal")
            (home / "faults.json").write_text(json.dumps({"started_ns": started_ns, "faults": faults}, indent=1))
        print(f"answers {shop.load.answered}", flush=True)


if __name__ == "__main__":
    main()
