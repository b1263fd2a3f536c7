"""Names: texts that get small numbers, bounded; what comes after the limit shares one number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from otel_aiops.errors import StateError
from otel_aiops.otlp.points import I32
from otel_aiops.series.columns import Arrays, checked, pack, unpack

OTHER = 0  # the number that all names over the limit share
OTHER_NAME = "(other)"
LONGEST = 512  # characters of a name that count


class Names:
    """Numbers of texts in the order in which they came; 0 is everything over the limit.

    `refused` counts how often a text over the limit was asked for.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._number: dict[str, int] = {OTHER_NAME: OTHER}
        self._names: list[str] = [OTHER_NAME]
        self.refused = 0

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, number: int) -> str:
        return self._names[number]

    def number(self, name: str) -> int:
        """The number of a text, which gets one if there is room."""
        name = name[:LONGEST]
        found = self._number.get(name)
        if found is not None:
            return found
        if len(self._names) > self._most:
            self.refused += 1
            return OTHER
        self._number[name] = len(self._names)
        self._names.append(name)
        return len(self._names) - 1

    def numbers(self, names: Iterable[str]) -> I32:
        """The numbers of K texts, (K,)."""
        return np.array([self.number(name) for name in names], np.int32)

    def find(self, name: str) -> int | None:
        """The number of a text, None if it has none."""
        return self._number.get(name[:LONGEST])

    def all(self) -> Sequence[str]:
        """All names by number. Not for changing."""
        return self._names

    def state(self) -> Arrays:
        """What is known, as arrays."""
        flat, ends = pack([name.encode("utf-8", "surrogatepass") for name in self._names])
        return {"names": flat, "ends": ends}

    def restore(self, arrays: Arrays) -> None:
        """Take over a state. Raises: StateError."""
        checked(arrays, {"names": (np.uint8, ("B",)), "ends": (np.int64, ("N",))})
        try:
            names = [raw.decode("utf-8", "surrogatepass") for raw in unpack(arrays["names"], arrays["ends"])]
        except UnicodeDecodeError as error:
            raise StateError(f"names: expected UTF-8, got {error.object[error.start : error.end]!r}") from error
        self._names = names or [OTHER_NAME]
        self._number = {name: number for number, name in enumerate(self._names)}
