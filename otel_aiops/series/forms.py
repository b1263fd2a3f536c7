"""Forms of series: which scored series a stream of each kind becomes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from otel_aiops.otlp.points import I64, Kind, Points, Stream, Temporality
from otel_aiops.series.columns import Arrays, unpack

MOST_QUANTILES = 16  # of one summary
MOST_FORMS = 1_000  # summaries with yet other quantiles get no series for them

VALUE, RATE, DISTRIBUTION = 0, 1, 2  # forms that are always there; the others are distributions with quantiles
PREFIXES = (("",), ("rate",), ("rate", "mean"))


@dataclass(frozen=True, slots=True)
class Form:
    """The rows of a block, in order: `stats` names them, the last ones are at `quantiles` (ascending, in [0, 1])."""

    stats: tuple[str, ...]
    quantiles: tuple[float, ...] = ()


class Forms:
    """The forms in use; the index of a form never changes."""

    def __init__(self, percentiles: tuple[float, ...]) -> None:
        self._percentiles = tuple(sorted(p / 100 for p in percentiles))
        self.all: tuple[Form, ...] = ()
        self.widths: I64 = np.empty(0, np.int64)
        self._index: dict[Form, int] = {}
        for stats in PREFIXES:
            self._add(Form(stats))
        self._histogram = self._add(_distribution(self._percentiles))

    def of(self, stream: Stream, points: Points, i: int) -> int:
        """The form that a stream takes whose first point is point i."""
        if stream.kind == Kind.GAUGE:
            return VALUE
        if stream.kind == Kind.SUM:
            return RATE if stream.monotonic or stream.temporality == Temporality.DELTA else VALUE
        if stream.kind != Kind.SUMMARY:
            return self._histogram
        layout = int(points.layout[i])
        form = _distribution(quantiles(points.layouts[layout]) if layout >= 0 else ())
        return self._add(form) if form in self._index or len(self.all) < MOST_FORMS else DISTRIBUTION

    def width(self, form: int) -> int:
        """How many rows a block of this form has."""
        return len(self.all[form].stats)

    def _add(self, form: Form) -> int:
        if form not in self._index:
            self._index[form] = len(self.all)
            self.all = (*self.all, form)
            self.widths = np.append(self.widths, len(form.stats))
        return self._index[form]

    def state(self) -> Arrays:
        """All forms beyond the three that are always there."""
        found = [form.quantiles for form in self.all[len(PREFIXES) :]]
        return {
            "form_quantiles": np.array([q for one in found for q in one], np.float64),
            "form_ends": np.cumsum([len(one) for one in found], dtype=np.int64),
        }

    def restore(self, arrays: Arrays) -> None:
        """Take over saved forms; what new histograms become stays as configured."""
        saved = Forms(())
        for one in unpack(arrays["form_quantiles"].view(np.uint8), arrays["form_ends"] * 8):
            saved._add(_distribution(tuple(np.frombuffer(one, np.float64).tolist())))
        saved._histogram = saved._add(_distribution(self._percentiles))
        self.all, self.widths = saved.all, saved.widths
        self._index, self._histogram = saved._index, saved._histogram


def quantiles(layout: bytes) -> tuple[float, ...]:
    """The usable quantiles of a summary, ascending.

    >>> quantiles(np.array([0.99, 0.5, 0.5, 2.0, np.nan]).tobytes())
    (0.5, 0.99)
    """
    found = np.unique(np.frombuffer(layout, "<f8"))
    named = {stat_name(q): q for q in found[(found >= 0) & (found <= 1)].tolist()}
    return tuple(named.values())[:MOST_QUANTILES]


def stat_name(quantile: float) -> str:
    """A quantile in the words of people who run services.

    >>> stat_name(0.5), stat_name(0.95), stat_name(0.999)
    ('p50', 'p95', 'p99.9')
    """
    return f"p{100 * quantile:.6g}"


def _distribution(at: tuple[float, ...]) -> Form:
    return Form((*PREFIXES[DISTRIBUTION], *map(stat_name, at)), at)
