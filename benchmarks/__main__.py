"""`python -m benchmarks [part …]`: the parts of PARTS, all when none is named; `part -h` for those of ALONE.

Those of ALONE take arguments of their own, such as where recorded data lies, and run only when they are named.
"""

from __future__ import annotations

import importlib
import sys

from benchmarks.table import show
from otel_aiops.allocator import keep_memory

PARTS = ("ingest", "road", "recovery", "faults", "held", "seasons", "joint", "logs", "signals", "grouping", "shop")
ALONE = ("petshop", "predictions", "incidents", "train", "drift", "lifecycle")


def main() -> int:
    """Run the named parts; 2 for one that does not exist."""
    if sys.argv[1:] and sys.argv[1] in ALONE:
        keep_memory()  # as the service does
        code: int = importlib.import_module(f"benchmarks.{sys.argv[1]}").main(sys.argv[2:])
        return code
    wanted = sys.argv[1:] or list(PARTS)
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        print(f"expected some of {', '.join(PARTS)}, or one of {', '.join(ALONE)}, got {', '.join(unknown)}")
        return 2
    keep_memory()
    for name in wanted:
        print(f"\n{name}")
        show(importlib.import_module(f"benchmarks.{name}").run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
