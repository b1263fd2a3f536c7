"""One line of a benchmark, and how it is printed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured, ours beside the peer, both in `unit`; `better` says which direction wins."""

    title: str
    ours: float
    peer: float
    unit: str
    peer_name: str
    better: str = "more"

    @property
    def ratio(self) -> float:
        """How many times better than the peer."""
        if not self.peer or not self.ours:
            return float("nan")
        return self.ours / self.peer if self.better == "more" else self.peer / self.ours


def show(rows: Iterable[Row]) -> None:
    """Print rows as they come."""
    print(f"{'':58} {'ours':>12} {'peer':>12} {'ratio':>7}  unit")
    for row in rows:
        ratio = f"{row.ratio:7.1f}" if row.ratio == row.ratio else f"{'':7}"
        peer = f"{row.peer:12,.4g}" if row.peer else f"{'':12}"
        print(f"{row.title:58} {row.ours:12,.4g} {peer} {ratio}  {row.unit} (peer: {row.peer_name})", flush=True)


def best_s(run: Callable[[], object], repeats: int = 7) -> float:
    """Seconds of the fastest of some runs: the others were disturbed."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
