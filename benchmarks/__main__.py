"""`python -m benchmarks [part …]`: ingest, road, recovery, faults, held, seasons, joint, shop; all if none is named."""

from __future__ import annotations

import importlib
import sys

from benchmarks.table import show
from otel_aiops.allocator import keep_memory

PARTS = ("ingest", "road", "recovery", "faults", "held", "seasons", "joint", "shop")


def main() -> int:
    """Run the named parts; 2 for one that does not exist."""
    wanted = sys.argv[1:] or list(PARTS)
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        print(f"expected some of {', '.join(PARTS)}, got {', '.join(unknown)}", file=sys.stderr)
        return 2
    keep_memory()  # as the service does
    for name in wanted:
        print(f"\n{name}")
        show(importlib.import_module(f"benchmarks.{name}").run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
