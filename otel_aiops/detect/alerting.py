"""Alerting: which scored points are alerts under the budgets, and what operators' verdicts have moved."""

from __future__ import annotations

import json
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.budget import Alerted, Budget, BudgetConfig
from otel_aiops.detect.detector import Scores
from otel_aiops.detect.lessons import Verdict
from otel_aiops.detect.raised import Ledger
from otel_aiops.detect.verdicts import KINDS, TEACHING, Verdicts
from otel_aiops.errors import BadInput, StateError
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import F64, I32
from otel_aiops.series.batch import Batch
from otel_aiops.series.columns import Arrays, checked, pack, unpack

NAMES = 1 << 13  # metric names that are told apart; two with the same place share their verdicts
MOST_TOLD = 1_000  # verdicts that are remembered to be shown


class Alerting:
    """What stands behind the scores and never changes them: budgets, verdicts, and the alerts that were raised.

    Which budget and which verdicts hold for a row follows from its labels: assign every row when it gets them, and all
    of them after a restore. Equal calls give equal bits.
    """

    def __init__(
        self, budgets: Sequence[BudgetConfig], budget: str | float, fingerprint: Callable[[I32], NDArray[np.uint64]]
    ) -> None:
        """`budget` is for the series that `budgets` leave; `fingerprint` names rows. Raises: ConfigError."""
        self.budget = Budget(budgets, default=BudgetConfig(budget=budget))
        self.ledger = Ledger()
        self._verdicts = Verdicts()
        self._told: deque[Verdict] = deque(maxlen=MOST_TOLD)
        self._fingerprint = fingerprint

    def assign(self, rows: I32, labels: Sequence[Labels]) -> None:
        """Rows are given to series with these labels."""
        if len(rows):
            self.budget.assign(rows, labels)
            places = [zlib.crc32(one.name.encode("utf-8", "replace")) % NAMES for one in labels]
            self._verdicts.assign(rows, np.array(places, np.int32))

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series start anew; their alerts end."""
        self.end(rows)
        self.budget.forget(rows)
        self._verdicts.forget(rows)

    def end(self, rows: I32) -> None:
        """Series that end have no alert any more."""
        if len(rows):
            self.budget.end(rows)
            self.ledger.end(rows)

    def judge(self, batch: Batch, scores: Scores, *, event_ns: int) -> Alerted:
        """Say which of K points are alerts; `event_ns` is the event clock."""
        alerted = self.budget.update(batch, scores, event_ns=event_ns, shift=self._shift(batch.rows))
        self.ledger.follow(batch, alerted, self._fingerprint)
        return alerted

    def learn(self, verdicts: Sequence[Verdict], rows: Sequence[int | None]) -> int:
        """Take in verdicts on rows, None for those whose series is gone; returns how many could be learned."""
        told = zip(verdicts, rows, strict=True)
        known = [(verdict, row) for verdict, row in told if row is not None and verdict.kind in TEACHING]
        self._told.extend(verdicts)
        self._verdicts.learn(
            np.array([row for _, row in known], np.int32),
            np.array([verdict.ratio for verdict, _ in known], np.float64),
            np.array([KINDS.index(verdict.kind) for verdict, _ in known], np.int64),
        )
        return len(known)

    def told(self) -> list[Verdict]:
        """The newest verdicts, the newest first."""
        return list(reversed(self._told))

    def shift(self, row: int) -> float:
        """By what verdicts have moved the logarithm of the threshold of a row."""
        return float(self._verdicts.shift(np.array([row], np.int32))[0])

    def _shift(self, rows: I32) -> F64 | None:
        return self._verdicts.shift(rows) if len(self._verdicts) else None

    def state(self) -> Arrays:
        """Everything learned."""
        flat, ends = pack([json.dumps(one.to_json()).encode() for one in self._told])
        parts: dict[str, Arrays] = {
            "budget": self.budget.state(),
            "verdicts": self._verdicts.state(),
            "ledger": self.ledger.state(),
            "told": {"bytes": flat, "ends": ends},
        }
        return {f"{part}/{name}": array for part, of in parts.items() for name, array in of.items()}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take over a state; one without alerts changes nothing. Raises: StateError."""
        if not arrays:
            return
        parts: dict[str, Arrays] = {"budget": {}, "verdicts": {}, "ledger": {}, "told": {}}
        for path, array in arrays.items():
            part, _, name = path.partition("/")
            if part not in parts:
                raise StateError(f"expected arrays of {', '.join(parts)}, got {path}")
            parts[part][name] = array
        self.budget.restore(parts["budget"])
        self._verdicts.restore(parts["verdicts"])
        self.ledger.restore(parts["ledger"])
        checked(parts["told"], {"bytes": (np.uint8, ("bytes",)), "ends": (np.int64, ("n",))})
        lines = unpack(parts["told"]["bytes"], parts["told"]["ends"])
        try:
            self._told = deque((Verdict.from_json(json.loads(line)) for line in lines), maxlen=MOST_TOLD)
        except (ValueError, BadInput) as error:
            raise StateError(f"told: {error}") from error
