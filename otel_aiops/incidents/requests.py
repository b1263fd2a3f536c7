"""Requests: how many of users pass through each service, and what share of them fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import numpy as np

from otel_aiops.errors import StateError
from otel_aiops.incidents.severity import SloConfig
from otel_aiops.series.columns import Arrays, json_array, json_tree
from otel_aiops.signals.trees import Trees

BUCKET_NS = 300_000_000_000
KEPT = 864  # buckets: three days, the longest window of a burn rate
HOUR_NS = 12 * BUCKET_NS
KEPT_HOURS = 366 * 24

Counts = dict[int, list[float]]  # bucket or hour → requests, failures


class Requests:
    """Counts of requests. Failures over time are kept for the services that have an objective."""

    def __init__(self, objectives: Collection[str] = ()) -> None:
        self._objectives = frozenset(objectives)
        self._users: dict[str, float] = {}  # since they were taken last
        self._buckets: dict[str, Counts] = {}  # by service
        self._hours: dict[str, Counts] = {}

    def add(self, trees: Trees, name: Callable[[int], str], event_ns: int) -> None:
        """Count the spans of complete traces at an event time; those of a clock that is ahead count as of now."""
        user = np.flatnonzero(trees.user)
        weight = np.zeros(int(trees.trace[-1]) + 1 if len(trees) else 0)
        weight[trees.trace[user]] = trees.weight[user]
        through = np.unique(np.stack([trees.service, trees.trace], 1), axis=0)
        for service in np.unique(through[:, 0]).tolist():
            requests = float(weight[through[through[:, 0] == service, 1]].sum())
            self._users[name(service)] = self._users.get(name(service), 0.0) + requests
        if self._objectives:
            self._count_failures(trees, name, event_ns)

    def _count_failures(self, trees: Trees, name: Callable[[int], str], event_ns: int) -> None:
        entries = np.flatnonzero(trees.entry)
        buckets = np.minimum(trees.end_ns[entries], event_ns) // BUCKET_NS
        key = np.stack([trees.service[entries], buckets], 1)
        distinct, which = np.unique(key, axis=0, return_inverse=True)
        requests = np.bincount(which, trees.weight[entries], len(distinct)).tolist()
        failures = np.bincount(which, trees.weight[entries] * trees.error[entries], len(distinct)).tolist()
        for (service, bucket), count, failed in zip(distinct.tolist(), requests, failures, strict=True):
            if name(service) in self._objectives:
                _count(self._buckets.setdefault(name(service), {}), bucket, count, failed, KEPT)
                hour = bucket * BUCKET_NS // HOUR_NS
                _count(self._hours.setdefault(name(service), {}), hour, count, failed, KEPT_HOURS)

    def take_users(self) -> dict[str, float]:
        """Requests of users through each service since the last call."""
        taken, self._users = self._users, {}
        return taken

    def failing(self, service: str, over_s: float, event_ns: int) -> float:
        """The share of a service's requests that failed in the seconds before an event time; NaN when unknown."""
        first = (event_ns - int(over_s * 1e9)) // BUCKET_NS
        kept = [counts for bucket, counts in sorted(self._buckets.get(service, {}).items()) if bucket >= first]
        requests = sum(count for count, _ in kept)
        return sum(failed for _, failed in kept) / requests if requests else math.nan

    def budget_left(self, slo: SloConfig, event_ns: int) -> float:
        """The share of a service's error budget that is left at an event time; below 0 when overspent, NaN if unknown.

        The budget is of as many requests as a whole window has at the rate that was seen in it.
        """
        first = (event_ns - int(slo.window * 1e9)) // HOUR_NS
        kept = {hour: counts for hour, counts in self._hours.get(slo.service, {}).items() if hour > first}
        requests = sum(count for count, _ in kept.values())
        if not requests:
            return math.nan
        seen_s = max(event_ns - min(kept) * HOUR_NS, HOUR_NS) / 1e9
        budget = (1 - slo.objective) * requests * max(slo.window / seen_s, 1.0)
        return 1 - sum(failed for _, failed in kept.values()) / budget

    def state(self) -> Arrays:
        """Everything counted."""
        buckets = {service: sorted(kept.items()) for service, kept in self._buckets.items()}
        hours = {service: sorted(kept.items()) for service, kept in self._hours.items()}
        return {"requests": json_array({"users": self._users, "buckets": buckets, "hours": hours})}

    def restore(self, arrays: Arrays) -> None:
        """Take over a state. Raises: StateError."""
        tree = json_tree(arrays, "requests")
        try:
            self._users = {str(name): float(count) for name, count in tree["users"].items()}
            self._buckets, self._hours = (
                {name: {int(k): list(v) for k, v in kept} for name, kept in tree.get(key, {}).items()}
                for key in ("buckets", "hours")  # there were no hours at first
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateError(f"expected counts of requests, got {error!r}") from error


def _count(kept: Counts, bucket: int, requests: float, failures: float, most: int) -> None:
    old = kept.get(bucket, [0.0, 0.0])
    kept[bucket] = [old[0] + requests, old[1] + failures]
    for gone in [one for one in kept if one <= bucket - most]:
        del kept[gone]
