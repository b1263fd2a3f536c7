"""Inner loops of kernels as operations on whole arrays, for the scorer alone, where there is no machine code.

Each gives the same bits as the kernel of the same name. Arrays come as they are or as `Wide`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Wide:
    """An array whose numbers are read as machine code calculates with them: float32 as float64, integers as int64."""

    __slots__ = ("array", "number")

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.number: Callable[[Any], Any] = np.float64 if array.dtype.kind == "f" else np.int64

    def __getitem__(self, at: Any) -> Any:
        found = self.array[at]
        return Wide(found) if isinstance(found, np.ndarray) else self.number(found)

    def __setitem__(self, at: Any, value: Any) -> None:
        self.array[at] = value

    def __len__(self) -> int:
        return len(self.array)

    @property
    def shape(self) -> tuple[int, ...]:
        """As of the array."""
        return self.array.shape


def widened(value: Any) -> Any:
    """An argument of a kernel, for the scorer alone: narrow arrays as `Wide`, also those in tuples."""
    if isinstance(value, np.ndarray):
        return value if value.dtype in (np.float64, np.int64, np.uint64, np.bool_) else Wide(value)
    if isinstance(value, tuple):
        parts = [widened(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def wide(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel as it is called from outside."""
    return lambda *arguments: kernel(*map(widened, arguments))


def log(x: float) -> Any:
    """The logarithm of the C library, as machine code takes it; the one of numpy may differ in the last bit."""
    return np.float64(math.log(x)) if x > 0 else np.float64(-math.inf if x == 0 else math.nan)


def log10(x: float) -> Any:
    """The same to the base of ten."""
    return np.float64(math.log10(x)) if x > 0 else np.float64(-math.inf if x == 0 else math.nan)


def log1p(x: float) -> Any:
    """The same of one more."""
    return np.float64(math.log1p(x)) if x > -1 else np.float64(-math.inf if x == -1 else math.nan)


def exp(x: float) -> Any:
    """Its inverse."""
    return np.float64(math.exp(x)) if x < 709 else np.exp(np.float64(x))


def expm1(x: float) -> Any:
    """The same, less one."""
    return np.float64(math.expm1(x)) if x < 709 else np.expm1(np.float64(x))


def plain(array: Any) -> Any:
    """The array itself."""
    return array.array if isinstance(array, Wide) else array


def seen_highest(word: Any) -> Any:
    """Number of the highest set bit."""
    return np.int64(int(word).bit_length() - 1)


def seen_fade(life: Any) -> bool:
    """Take a life from the cells that have one; returns whether some died."""
    life = plain(life)
    died = bool((life == 1).any())
    life -= life > 0
    return died


def seen_pack(life: Any, live: Any) -> None:
    """Keep one bit for each cell that has life."""
    plain(live)[:] = np.packbits(plain(life) > 0, bitorder="little").view("<u8")


def seen_merge(life: Any, live: Any, low: Any, steps: int, joined: Any) -> None:
    """Join cells, 2^steps at a time; a joined cell lives as long as the youngest of its parts."""
    life, joined, last = plain(life), plain(joined), len(life) - 1
    at = np.flatnonzero(life)
    joined[:] = 0
    np.maximum.at(joined, (low + ((at - low) & last) >> steps) & last, life[at])
    life[:] = joined
    seen_pack(life, live)


def pairs_nearest(now: Any, before: Any, x: Any, last: Any, square: Any) -> tuple[int, Any]:
    """(nearest prototype, distance to it)."""
    now, before, square = plain(now), plain(before), plain(square)
    with np.errstate(all="ignore"):
        off, off_before = now - np.float32(x), before - np.float32(last)
        square[:] = off * off + off_before * off_before
    nearest = int(square.view(np.int32).argmin())
    return nearest, np.sqrt(np.float64(square[nearest]) / 2)


def pairs_first_least(values: Any) -> int:
    """Where the least of some integers is, the first among equals."""
    return int(plain(values).argmin())


def pairs_at_place(values: Any, place: int) -> Any:
    """The value that is at a place when all are in order."""
    return np.float64(np.partition(plain(values), place)[place])
