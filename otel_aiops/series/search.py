"""Search: which series have all words that somebody looks for in their name, service or labels, fast over many."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from otel_aiops.labels import Labels, text
from otel_aiops.otlp.points import Stream
from otel_aiops.series.table import SeriesTable

PLAIN = re.compile(r"[a-z0-9_./:-]+")  # stands on the wire as it is read
NUMBER = re.compile(r"[0-9.e-]+")  # may be a part of a number, which does not
WORDS = ("true", "false", "infinity", "nan")  # neither do these


class Search:
    """The words of one search; belongs to the thread that asks the table. Capitals do not count."""

    def __init__(self, words: str, service: str) -> None:
        self._words, self._service = words.casefold().split(), service
        self._missing: dict[Stream, _Missing | None] = {}  # what its rows must have themselves, None if it is out

    def takes(self, table: SeriesTable, row: int) -> bool:
        """Whether a live row is one of them."""
        stream, attributes = table.sent(row)
        if stream not in self._missing:
            self._missing[stream] = self._look(table, row)
        missing = self._missing[stream]
        if missing is None or not missing.words:
            return missing is not None
        raw = (stream.resource + attributes).lower()
        for word in missing.plain:  # labels take long to read
            if word not in raw:
                return False
        found = written(table.labels(row))
        return all(word in found for word in missing.words)

    def _look(self, table: SeriesTable, row: int) -> _Missing | None:
        """What all series of a stream have: its name and service."""
        (labels,) = table.labels_of(np.array([row], np.int32), whole=False)
        if self._service not in ("", labels.service):
            return None
        shared = f"{labels.name} {labels.service}".casefold()
        missing = tuple(word for word in self._words if word not in shared)
        return _Missing(missing, tuple(word.encode() for word in missing if _plain(word)))


@dataclass(frozen=True, slots=True)
class _Missing:
    """Words that the labels of a row must have, and those that its bytes must."""

    words: tuple[str, ...]
    plain: tuple[bytes, ...]


def written(labels: Labels) -> str:
    """The labels as words are looked for in them.

    >>> written(Labels("cpu", resource=(("service.name", "Größe"),), attributes=(("core", 7),)))
    'service.name="grösse" core="7"'
    """
    pairs = (*labels.resource, *labels.attributes)
    return " ".join(f'{key}="{text(value)}"' for key, value in pairs).casefold()


def _plain(word: str) -> bool:
    return bool(PLAIN.fullmatch(word)) and not NUMBER.fullmatch(word) and not any(word in one for one in WORDS)
