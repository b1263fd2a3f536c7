"""`python -m benchmarks [part …] [--data DIR]`: ingest, road, recovery, faults, held, seasons, joint, predictions."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from benchmarks.table import show
from otel_aiops.allocator import keep_memory

PARTS = ("ingest", "road", "recovery", "faults", "held", "seasons", "joint", "predictions")


def main() -> int:
    """Run the named parts, all when none is named; 2 for one that does not exist."""
    arguments, data = sys.argv[1:], None
    if "--data" in arguments[:-1]:  # of NAB, which predictions look at
        at = arguments.index("--data")
        data = Path(arguments[at + 1])
        del arguments[at : at + 2]
    wanted = arguments or list(PARTS)
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        print(f"expected some of {', '.join(PARTS)}, got {', '.join(unknown)}", file=sys.stderr)
        return 2
    keep_memory()  # as the service does
    for name in wanted:
        print(f"\n{name}")
        run = importlib.import_module(f"benchmarks.{name}").run
        show(run(data) if name == "predictions" else run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
