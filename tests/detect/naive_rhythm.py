"""The memory of a rhythm as plain loops: means of stretches of time, joined two by two when all are full."""

from __future__ import annotations

from dataclasses import dataclass, field

from otel_aiops.detect.rhythm import CELLS, LONGEST_S, WIDTHS_S


@dataclass
class NaiveRhythm:
    """One series; `cells` by number since the epoch."""

    width_s: int = 0
    first: int = 0
    current: int = 0
    cells: dict[int, float] = field(default_factory=dict)
    points: list[float] = field(default_factory=list)  # of the current cell
    before: tuple[float, int] = (0.0, 0)  # mean and points that the current cell began with

    def learn(self, time_ns: int, value: float, interval_s: float) -> bool:
        """Take in a point; says whether the memory was full and has been joined."""
        if self.width_s == 0:
            fitting = [width for width in WIDTHS_S if width >= 0.95 * interval_s]
            if not fitting:
                return False
            self.width_s = fitting[0]
            self.first = self.current = time_ns // (self.width_s * 10**9)
            self.cells, self.points, self.before = {}, [], (0.0, 0)
        cell = time_ns // (self.width_s * 10**9)
        if cell == self.current:
            self.points.append(value)
        if cell <= self.current:
            return False
        self.cells[self.current] = self.mean()
        if cell >= self.first + CELLS:
            self.join()
            return True
        self.current, self.points, self.before = cell, [value], (0.0, 0)
        return False

    def mean(self) -> float:
        mean, count = self.before
        return (mean * count + sum(self.points)) / (count + len(self.points))

    def join(self) -> None:
        if self.width_s * CELLS >= LONGEST_S:
            self.width_s = 0
            return
        parts: dict[int, list[float]] = {}
        for cell, value in self.cells.items():
            parts.setdefault(cell // 2, []).append(value)
        count = self.before[1] + len(self.points)
        self.cells = {cell: sum(some) / len(some) for cell, some in parts.items()}
        self.first, self.current, self.width_s = self.first // 2, self.current // 2, 2 * self.width_s
        self.before, self.points = (self.cells[self.current], count), []
