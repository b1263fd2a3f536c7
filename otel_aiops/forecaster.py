"""The forecaster: makes the configured forecasts beside the step loop, one rule at a time, on a schedule."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import structlog

from otel_aiops.detect.moments import DAY_S
from otel_aiops.errors import AiopsError
from otel_aiops.labels import Labels, Selector
from otel_aiops.otlp.points import F64, I64
from otel_aiops.series.table import Source
from otel_aiops.server.forecasts import ForecastRule, Told, told

if TYPE_CHECKING:
    from otel_aiops.app import Service

log = structlog.get_logger("otel_aiops")

ROWS_A_LOOK = 2_000  # series that are looked at between two steps
FIRST_S = 5.0  # after the start
RETRY_S = 60.0  # after nothing could be forecast
STOP_S = 10.0

Chosen = tuple[Labels, Source]


class Forecaster:
    """One thread. `take` gives what is new to the step loop; `shown` is what /metrics has."""

    def __init__(
        self, service: Service, rules: tuple[ForecastRule, ...], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._service = service
        self._rules = rules
        self._clock = clock
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._fresh: list[Told] = []
        self._told: dict[int, Told] = {}
        self._thread = threading.Thread(target=self._run, name="forecasts", daemon=True)

    def start(self) -> None:
        """Begin, if there is anything to forecast."""
        if self._rules:
            self._thread.start()

    def stop(self) -> None:
        """End after the series that is being read."""
        self._stopping.set()
        if self._thread.ident:
            self._thread.join(STOP_S)

    def take(self) -> list[Told]:
        """What was made since the last time."""
        with self._lock:
            fresh, self._fresh = self._fresh, []
        return fresh

    @property
    def shown(self) -> list[Told]:
        """The newest of every rule."""
        with self._lock:
            return [self._told[k] for k in sorted(self._told)]

    def _run(self) -> None:
        due = [self._clock() + min(FIRST_S, rule.interval) for rule in self._rules]
        while not self._stopping.wait(max(0.0, min(due) - self._clock())):
            k = int(np.argmin(due))
            try:
                found = self._made(self._rules[k])
            except AiopsError as error:
                log.warning("a forecast could not be made", rule=k, error=str(error))
                found = None
            if found is not None:
                with self._lock:
                    self._told[k] = found
                    self._fresh = [*self._fresh[-len(self._rules) :], found]
            again_s = self._rules[k].interval
            due[k] = self._clock() + (again_s if found is not None else min(again_s, RETRY_S))

    def _made(self, rule: ForecastRule) -> Told | None:
        """The forecasts of all series of a rule; None when there are none, or the service stops."""
        from otel_aiops.detect.exhaustion import exhaustion_many
        from otel_aiops.detect.forecast import ForecastConfig, forecast_many

        chosen, event_ns = self._chosen(rule)
        grid, time_ns = self._grid(rule, chosen, event_ns)
        known = np.isfinite(grid).sum(axis=1) >= 2
        if self._stopping.is_set() or not known.any():
            return None
        config = ForecastConfig(bounds=rule.bounds or (-np.inf, np.inf), most_steps=max(10, grid.shape[1]))
        season = DAY_S if rule.step < DAY_S else None
        found = forecast_many(grid[known], time_ns, horizon_s=rule.horizon, period_s=season, config=config)
        limits = None if rule.limit is None else np.full(int(known.sum()), rule.limit)
        reached = None if limits is None else exhaustion_many(found, limits, rule.direction)
        return told(rule, [one for one, k in zip(chosen, known.tolist(), strict=True) if k], found, reached)

    def _chosen(self, rule: ForecastRule) -> tuple[list[Chosen], int]:
        """(the series that a rule selects, up to its limit; the event clock)."""
        selector, chosen = Selector(rule.match), list[Chosen]()
        table = self._service.pipeline.table

        def some(start: int) -> list[Chosen]:
            rows = [row for row in range(start, min(start + ROWS_A_LOOK, table.size)) if table.is_live(row)]
            pairs = ((table.labels(row), table.source(row)) for row in rows)
            return [pair for pair in pairs if selector.matches(pair[0])]

        for start in range(0, table.size, ROWS_A_LOOK):
            chosen += self._service.ask(partial(some, start))
            if len(chosen) > rule.max_series:
                log.warning("a forecast rule selects more series than its limit", limit=rule.max_series)
                break
        return chosen[: rule.max_series], self._service.ask(lambda: self._service.pipeline.event_ns)

    def _grid(self, rule: ForecastRule, chosen: list[Chosen], event_ns: int) -> tuple[F64, I64]:
        """(means by step (S, T), times (T,)), up to the newest step that is over."""
        step_ns = round(rule.step * 1e9)
        steps = max(2, round(rule.history / rule.step))
        first_ns = event_ns // step_ns * step_ns - steps * step_ns
        grid = np.full((len(chosen), steps), np.nan)
        for k, (labels, _) in enumerate(chosen):
            if self._stopping.is_set():
                break
            end_ns = first_ns + steps * step_ns
            time_ns, value, _ = self._service.history.points(labels.to_json(), first_ns, end_ns)
            good = np.isfinite(value)
            step = (time_ns[good] - first_ns) // step_ns
            count = np.bincount(step, minlength=steps)
            with np.errstate(invalid="ignore", over="ignore"):
                grid[k] = np.bincount(step, weights=value[good], minlength=steps) / count
        empty = np.isnan(grid).all(axis=0)
        begin = min(int(np.argmin(empty)), steps - 2) if not empty.all() else steps - 2
        return grid[:, begin:], first_ns + np.arange(begin, steps) * step_ns
