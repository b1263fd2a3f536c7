"""The series that someone means: by its name, or by its name and some of its labels, and which one of those found."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from otel_aiops.errors import BadInput
from otel_aiops.labels import Labels, Selector

CANDIDATES = 20  # series that a message lists
_PAIR = re.compile(r'\s*([^=~!,{}"\s]+)\s*(=~|=)\s*("(?:[^"\\]|\\.)*")\s*(,|$)')


class Wanted:
    """A series as people name it: ``name``, ``name:stat`` or ``name{key="value", key=~"expression"}``, as Labels print.

    >>> pay = Labels("latency", stat="p95", attributes=(("route", "/pay"), ("code", 200)))
    >>> [Wanted(t).matches(pay) for t in ("latency", 'latency:p95{route=~"/p.*"}', '{code="200"}', "late")]
    [True, True, True, False]

    Raises: BadInput if it cannot be read.
    """

    def __init__(self, wanted: str) -> None:
        self.text = wanted.strip()
        self.name, brace, inner = self.text.partition("{")
        self.name = self.name.strip()
        if not self.text or (brace and not inner.endswith("}")):
            raise BadInput(f'series: expected a name or name{{key="value"}}, got {wanted!r}')
        try:
            self._pairs_given = dict(self._pairs(inner[:-1]))
            self._selector = Selector(self._pairs_given)
        except re.error as error:
            raise BadInput(f"series: not a regular expression in {wanted!r}: {error}") from error

    @property
    def match(self) -> dict[str, str]:
        """The same as keys and values of a Selector.

        >>> Wanted('latency:p95{route=~"/p.*"}').match
        {'route': '~/p.*', 'name': 'latency', 'stat': 'p95'}
        """
        name, colon, stat = self.name.rpartition(":")
        named = {"name": name, "stat": stat} if colon and name else {"name": self.name} if self.name else {}
        return self._pairs_given | named

    def matches(self, labels: Labels) -> bool:
        """Whether a series may be meant."""
        named = not self.name or self.name in (labels.name, f"{labels.name}:{labels.stat}")
        return named and self._selector.matches(labels)

    def choose(self, found: Sequence[Labels]) -> int:
        """Which of the series that match is meant: the only one, or the one that is printed exactly so.

        Raises: BadInput that lists them.
        """
        exact = [k for k, labels in enumerate(found) if str(labels) == self.text]
        if len(found) == 1 or len(exact) == 1:
            return exact[0] if exact else 0
        if not found:
            raise BadInput(f"no series matches {self.text}")
        lines = [f"  {line}" for line in sorted(map(str, found[:CANDIDATES]))]
        more = [f"  and {len(found) - CANDIDATES} more"] if len(found) > CANDIDATES else []
        raise BadInput("\n".join([f"{len(found)} series match {self.text}; say which one:", *lines, *more]))

    def _pairs(self, inner: str) -> Iterator[tuple[str, str]]:
        at = 0
        while at < len(inner.rstrip()):
            found = _PAIR.match(inner, at)
            if not found:
                raise BadInput(f'series: expected key="value" or key=~"expression", got {inner[at:]!r}')
            value = json.loads(found[3])
            # A value that begins with ~ is meant literally after a plain =.
            literal = f"~{re.escape(value)}" if value.startswith("~") else value
            yield found[1], f"~{value}" if found[2] == "=~" else literal
            at = found.end()
