"""The distinct texts of one request, bounded, and what of them had to be mended."""

from __future__ import annotations

from collections import Counter

import numpy as np

from otel_aiops.otlp.keyed import Regions, cut
from otel_aiops.otlp.points import I32, I64
from otel_aiops.otlp.wire import Buffer

MOST_WORDS = 8_192  # distinct texts of one request
LONGEST_WORD = 512  # bytes of a text
OTHER = "(other)"  # what texts over the limit become

NOT_UTF8 = "a name is not UTF-8: its bytes were replaced"
LONG_WORD = f"a name is longer than {LONGEST_WORD} bytes: it was cut"
MANY_WORDS = f"more than {MOST_WORDS} distinct names in one request: they count as {OTHER}"


def note(counts: Counter[str], reason: str, times: int) -> None:
    """Count something if it came at all."""
    if times:
        counts[reason] += times


class Words:
    """Numbers of texts in the order in which they came; what is over the limit shares the number of OTHER."""

    def __init__(self, mended: Counter[str]) -> None:
        self._mended = mended
        self._number: dict[str, int] = {}

    def all(self) -> tuple[str, ...]:
        """The texts by number."""
        return tuple(self._number)

    def regions(self, buffer: Buffer, regions: Regions, at: I64, size: I64) -> I32:
        """The numbers of the texts at some places, (R,), -1 for empty ones."""
        out = np.full(len(at), -1, np.int32)
        some = np.flatnonzero(size > 0)
        where = at[some]
        short = cut(buffer, where, size[some], LONGEST_WORD)
        note(self._mended, LONG_WORD, int((short != size[some]).sum()))
        out[some] = self.raws(regions, regions.numbers(where, short))
        return out

    def raws(self, regions: Regions, number: I64) -> I32:
        """The numbers of texts that stand in `regions`, (R,); -1 stays."""
        used = np.bincount(number + 1, minlength=len(regions) + 1)[1:]
        raws = regions.all()
        code = np.full(len(raws) + 1, -1, np.int32)  # the last is for -1
        for one in np.flatnonzero(used).tolist():
            text = raws[one].decode(errors="replace")
            if "\ufffd" in text and text.encode() != raws[one]:
                note(self._mended, NOT_UTF8, int(used[one]))
            code[one] = self.number(text, int(used[one]))
        found: I32 = code[number]
        return found

    def number(self, text: str, times: int) -> int:
        """The number of a text that comes so many times."""
        found = self._number.get(text)
        if found is not None:
            return found
        if len(self._number) >= MOST_WORDS:
            note(self._mended, MANY_WORDS, times)
            return self._number.setdefault(OTHER, len(self._number))
        self._number[text] = len(self._number)
        return len(self._number) - 1
