"""Columns of learned state: arrays that grow together, strings packed into arrays, and the check of saved ones."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.errors import StateError

Arrays = dict[str, NDArray[Any]]
Expected = Mapping[str, tuple[Any, tuple[int | str, ...]]]  # name → dtype, shape

LEAST_ROWS = 1_024


def pack(strings: Sequence[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """(all bytes, where each string ends) of K strings, (B,) and (K,)."""
    ends = np.cumsum(np.fromiter(map(len, strings), np.int64, len(strings)))
    return np.frombuffer(b"".join(strings), np.uint8).copy(), ends


def unpack(flat: NDArray[np.uint8], ends: NDArray[np.int64]) -> list[bytes]:
    """What `pack` packed. Raises: StateError if the ends do not fit the bytes."""
    last = int(ends[-1]) if len(ends) else 0
    if last != len(flat) or (len(ends) and int(ends[0]) < 0) or (np.diff(ends) < 0).any():
        raise StateError(f"expected strings of {last} bytes in order, got {len(flat)} bytes")
    data = flat.tobytes()
    return [data[a:b] for a, b in pairwise([0, *ends.tolist()])]


def checked(arrays: Mapping[str, NDArray[Any]], expected: Expected) -> None:
    """See that saved arrays have these names, dtypes and shapes; equal letters in shapes stand for equal lengths.

    Raises: StateError with what was expected and what came.
    """
    if set(arrays) != set(expected):
        raise StateError(f"expected arrays {sorted(expected)}, got {sorted(arrays)}")
    lengths: dict[int | str, int] = {}
    for name, (dtype, shape) in expected.items():
        array = arrays[name]
        fits = array.dtype == np.dtype(dtype) and array.ndim == len(shape)
        for length, axis in zip(array.shape, shape, strict=False):
            fits &= length == (axis if isinstance(axis, int) else lengths.setdefault(axis, length))
        if not fits:
            raise StateError(f"{name}: expected {np.dtype(dtype)} {shape}, got {array.dtype} {array.shape}")


class Columns:
    """Arrays with one entry a row that grow together by doubling; `spec` is (dtype, shape of one row, empty)."""

    def __init__(self, spec: Mapping[str, tuple[Any, tuple[int, ...], Any]], most: int = 2**31 - 1) -> None:
        self._spec = spec
        self._most = most
        self.rows = 0
        self.of: Arrays = {name: np.empty((0, *shape), dtype) for name, (dtype, shape, _) in spec.items()}

    @property
    def bytes_per_row(self) -> int:
        """What one row takes."""
        return sum(array.itemsize * math.prod(array.shape[1:]) for array in self.of.values())

    def reserve(self, rows: int) -> None:
        """See that there are at least so many rows; new ones are empty."""
        if rows <= self.rows:
            return
        size = max(rows, min(max(2 * self.rows, LEAST_ROWS), self._most))
        for name, (dtype, shape, empty) in self._spec.items():
            # zeros() is memory that is not used before it is written to
            new = np.zeros((size, *shape), dtype) if empty == 0 else np.full((size, *shape), empty, dtype)
            new[: self.rows] = self.of[name]
            self.of[name] = new
        self.rows = size

    def clear(self, rows: NDArray[Any]) -> None:
        """Make rows empty."""
        for name, (_, _, empty) in self._spec.items():
            self.of[name][rows] = empty

    def copy(self, rows: NDArray[Any], sources: NDArray[Any], donor: Columns | None = None) -> None:
        """Give K rows (unique, none of them a source) what K others have, of these columns or of a donor like them."""
        for name, array in self.of.items():
            array[rows] = (donor or self).of[name][sources]

    def state(self, size: int) -> Arrays:
        """Copies of the first rows."""
        return {name: array[:size].copy() for name, array in self.of.items()}

    def restore(self, arrays: Mapping[str, NDArray[Any]], size: int) -> None:
        """Take over what `state` gave; `saved` says what it must look like."""
        self.reserve(size)
        for name in self._spec:
            self.of[name][:size] = arrays[name]

    def saved(self) -> Expected:
        """What `checked` should expect of the state."""
        return {name: (dtype, ("rows", *shape)) for name, (dtype, shape, _) in self._spec.items()}


def joined(parts: Iterable[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    """Arrays one after the other; an empty one of `dtype` when there are none."""
    return np.concatenate([np.empty(0, dtype), *parts])


def json_array(tree: Any) -> NDArray[np.uint8]:
    """Plain values as the bytes of their JSON, for state that is small and not of numbers alone."""
    return np.frombuffer(json.dumps(tree, separators=(",", ":")).encode(), np.uint8).copy()


def json_tree(arrays: Mapping[str, NDArray[Any]], name: str) -> Any:
    """What `json_array` made. Raises: StateError if it is not there or not JSON."""
    try:
        return json.loads(arrays[name].tobytes())
    except (KeyError, ValueError) as error:
        raise StateError(f"{name}: expected JSON, got {error}") from error
