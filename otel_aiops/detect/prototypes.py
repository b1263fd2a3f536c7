"""Prototypes: what a version expects of series that it has never seen, from those of their deployment or service."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.engine import Engine, EngineConfig, gathered
from otel_aiops.detect.groups import bits, kin_names
from otel_aiops.errors import StateError
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import I32
from otel_aiops.series.columns import Arrays, checked

KEYS = {"key": (np.uint64, ("keys",)), "row": (np.int32, ("keys",))}


def keys_of(labels: Sequence[Labels]) -> NDArray[np.uint64]:
    """The keys of K series, (K, 2): of all instances of its deployment (0 for none), and of its metric in its service.

    64 bits each, equal in every process.
    """
    kin = kin_names(labels)
    metric = [bits((one.name, one.unit, one.kind, one.stat, one.service)) for one in labels]
    return np.array([kin, metric], np.uint64).reshape(2, len(labels)).T


class Prototypes:
    """Typical series by key, and what was learned of them. Nothing here learns any more."""

    def __init__(self, config: EngineConfig, arrays: Mapping[str, NDArray[Any]], engine: Arrays) -> None:
        """`arrays` has the keys, sorted, and for each the row of `engine` that is typical. Raises: StateError."""
        checked(arrays, KEYS)
        self._key, self._row = arrays["key"], arrays["row"]
        if not (self._key[1:] > self._key[:-1]).all():
            raise StateError("prototypes: expected keys in order, each once")
        self.engine = Engine(config)
        self.engine.restore(engine)
        if len(self._row) and not 0 <= self._row.min() <= self._row.max() < len(engine["alerts/peak"]):
            raise StateError(f"prototypes: expected rows of {len(engine['alerts/peak'])} series, got others")

    @classmethod
    def among(cls, config: EngineConfig, arrays: Mapping[str, NDArray[Any]], engine: Arrays) -> Prototypes | None:
        """Those of a version whose `engine` has many more series; None where it has none. Raises: StateError.

        A version that was saved while it served brings what was learned of them besides, as in `state`.
        """
        if not arrays:
            return None
        if len(arrays) > len(KEYS):
            return cls.restored(config, arrays)
        checked(arrays, KEYS)
        used, row = np.unique(arrays["row"], return_inverse=True)
        if len(used) and not 0 <= used[0] <= used[-1] < len(engine["alerts/peak"]):
            raise StateError(f"prototypes: expected rows of {len(engine['alerts/peak'])} series, got others")
        few = compact(gathered(engine, used.astype(np.int32)))
        return cls(config, {"key": arrays["key"], "row": row.astype(np.int32)}, few)

    def find(self, labels: Sequence[Labels]) -> I32:
        """The prototype of each of K series, a row of `engine`, -1 for none, (K,)."""
        found = np.full(len(labels), -1, np.int32)
        if not len(self._key):
            return found
        for wanted in keys_of(labels).T[::-1]:  # what is nearer counts, so it comes last
            at = np.minimum(np.searchsorted(self._key, wanted), len(self._key) - 1)
            found = np.where((self._key[at] == wanted) & (wanted > 0), self._row[at], found)
        return found

    def state(self) -> Arrays:
        """All of it."""
        engine = {f"engine/{name}": array for name, array in self.engine.state().items()}
        return {"key": self._key, "row": self._row, **engine}

    @classmethod
    def restored(cls, config: EngineConfig, arrays: Mapping[str, NDArray[Any]]) -> Prototypes | None:
        """What `state` gave; None for nothing. Raises: StateError."""
        own = {name.removeprefix("engine/"): of for name, of in arrays.items() if name.startswith("engine/")}
        return (
            cls(config, {name: of for name, of in arrays.items() if not name.startswith("engine/")}, own)
            if arrays
            else None
        )


def compact(arrays: Mapping[str, NDArray[Any]]) -> Arrays:
    """The same state of an engine without the memories of values that no row has."""
    slot = arrays["novelty/slot"]
    used = np.unique(slot[slot >= 0])
    found: Arrays = dict(arrays)
    for path, array in arrays.items():
        if path.startswith("novelty/") and path.count("/") == 2:
            found[path] = array[used]
    found["novelty/slot"] = np.where(slot >= 0, np.searchsorted(used, slot), -1).astype(np.int32)
    found["novelty/free"] = np.empty(0, np.int32)
    return found
