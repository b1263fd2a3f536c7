"""Labelled synthetic faults in copies of series: what was put in, and at which points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np

from otel_aiops.otlp.points import F64, I64, Bool

HOUR_S, DAY_S = 3600.0, 86_400.0
CENTRE_S = HOUR_S  # of the local mean: short against a day, long against noise
LEAST_WINDOW = 5  # points of the local mean
LEAST_POINTS = 12  # of a fault that lasts, however seldom the series reports
RANGE_SPREADS = 3.29  # from the 5 % to the 95 % quantile of a normal distribution
TAIL_SPREADS = 2.576  # that 99 % of it are nearer to its mean than
BARE_SPREAD = 0.1  # of the level: the spread of a series that never changes
STILL_SHARE = 0.9  # of the points at one value make a series one that hardly ever changes
CEILING_SHARE = 0.2  # of the points at the largest value make it a limit, such as 100 %
MOSTLY = 0.5  # of the faulty points
KEPT = 0.5  # of the planned change must be left by the limits of the series, or there is no fault
RAMP_S = HOUR_S / 2
SEASON_SHIFT_S = 6 * HOUR_S
SEASON_ALIKE = 0.6  # correlation with the day before, from which on a series has a season
SEASON_CLEAR = 3.0  # spreads between what is and what should be, from which on a point is out of season


@dataclass(frozen=True, slots=True)
class Injected:
    """Series with a fault in each. `truth` is True at the faulty points; for a missing series at the absent ones.

    Shape: (S, T), `plain` (S,). A row in which the fault does not fit or would not show has no truth and is as it was:
    noise cannot rise in a constant, and what is at 100 % cannot go up. Plain is a fault most of whose points are absent
    or outside all that the series was before: whoever misses it is broken, whatever the series is like.
    """

    values: F64
    truth: Bool
    plain: Bool


@dataclass(frozen=True, slots=True)
class Site:
    """Clean series and where their faults go.

    Shape: `clean`, `centre`, `since` (S, T), the others (S, 1). `centre` is the local mean; `since` the steps since the
    onset, never negative; `spread` one robust spread of the clean part around its centre; `day` the mean of the day
    before the onset; `last` the last value before it. `size` is in spreads.
    """

    clean: F64
    centre: F64
    since: F64
    spread: F64
    day: F64
    last: F64
    size: float
    interval_s: float


Effect = Callable[[Site], F64]  # the values if the whole series were faulty, (S, T)


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of fault: what it does, how large in robust spreads of the clean part, how long (0 s is one point).

    `truth` says what makes a point of it faulty: that it changed, that it is absent, or that it is out of season.
    """

    name: str
    effect: Effect
    size: float = 0.0
    duration_s: float = HOUR_S
    truth: Literal["changed", "absent", "season"] = "changed"


@dataclass(frozen=True, slots=True)
class Copies:
    """Clean series (S, T) and by name of the fault a copy of them with it."""

    clean: F64
    faulty: Mapping[str, Injected]

    @classmethod
    def of(cls, values: F64, begin: int, *, interval_s: float, seed: int) -> Copies:
        """One fault in each copy, at a random place from step `begin` on; a fault that shows nowhere has no copy."""
        faulty = {}
        for number, (name, fault) in enumerate(FAULTS.items()):
            random = np.random.default_rng([seed, number])
            onset = onsets(fault, values, begin, random, interval_s=interval_s)
            injected = inject(fault, values, onset, interval_s=interval_s)
            if injected.truth.any():
                faulty[name] = injected
        return cls(values, faulty)

    def rows(self) -> F64:
        """All of them below each other, the clean ones first, (S + F * S, T)."""
        return np.concatenate([self.clean, *(copy.values for copy in self.faulty.values())])


def inject(fault: Fault, values: F64, onset: I64, *, interval_s: float) -> Injected:
    """Put one fault in each series.

    Shape: `values` (S, T), NaN is absent; `onset` (S,) indexes T, where T is "no fault".
    The clean part is what lies before the onset. Faults keep to the nature of a series: whole numbers stay whole,
    what is never negative stays so, and a limit at which it often is holds.
    """
    span = spans(fault, values, onset, interval_s=interval_s)
    site = _site(fault, values, onset, interval_s)
    planned = fault.effect(site)
    faulty = np.where(span, _natural(values, planned), values)
    if fault.truth == "absent":
        truth = span & (span & np.isfinite(values)).any(axis=1, keepdims=True)
    else:
        truth = span & np.isfinite(values) & np.isfinite(faulty)
    if fault.truth == "season":
        wrong = np.abs(local_mean(planned - values, interval_s))
        truth &= _seasonal(site.centre, onset, interval_s) & (wrong > SEASON_CLEAR * site.spread)
    elif fault.truth == "changed":
        truth &= _shows(values, planned, faulty, truth)
    faulty = np.where(truth.any(axis=1, keepdims=True), faulty, values)
    return Injected(faulty, truth, _plain(values, faulty, truth, onset))


def onsets(fault: Fault, values: F64, begin: int, random: np.random.Generator, *, interval_s: float) -> I64:
    """Random onsets at or after `begin` such that the fault ends with the series at the latest, (S,).

    T, which is "no fault", for rows where it does not fit.
    """
    length = _lengths(fault, values, interval_s)
    room = values.shape[1] - begin - length + 1
    drawn = begin + np.floor(random.random(len(values)) * np.maximum(room, 1)).astype(np.int64)
    return np.asarray(np.where(room > 0, drawn, values.shape[1]), np.int64)


def spans(fault: Fault, values: F64, onset: I64, *, interval_s: float) -> Bool:
    """The steps that a fault takes, (S, T): from the onset on for its duration, or the first point from there on."""
    since = np.arange(values.shape[1]) - onset[:, None]
    if fault.duration_s > 0:
        return np.asarray((since >= 0) & (since < _lengths(fault, values, interval_s)[:, None]))
    present = np.isfinite(values) & (since >= 0)
    return np.asarray(present & (np.cumsum(present, axis=1) == 1))


def local_mean(values: F64, interval_s: float) -> F64:
    """The mean of the points within half an hour on both sides, (S, T); NaN where there are none."""
    half = max(LEAST_WINDOW, round(CENTRE_S / interval_s)) // 2
    steps = values.shape[1]
    present = np.isfinite(values)
    middle = _mean(values, present)  # subtracted first, so that sums of large values keep their digits
    sums = _running(np.where(present, values - middle, 0.0))
    counts = _running(present.astype(np.float64))
    low = np.maximum(np.arange(steps) - half, 0)
    high = np.minimum(np.arange(steps) + half + 1, steps)
    count = counts[:, high] - counts[:, low]
    return middle + np.where(count > 0, (sums[:, high] - sums[:, low]) / np.maximum(count, 1.0), np.nan)


# -- what faults do ---------------------------------------------------------------------------------------------------


def _step(site: Site) -> F64:
    return site.clean + site.size * site.spread


def _ramp(site: Site) -> F64:
    share = np.minimum((site.since + 1) * site.interval_s / RAMP_S, 1.0)
    return site.clean + share * site.size * site.spread


def _noise(site: Site) -> F64:
    return site.centre + site.size * (site.clean - site.centre)


def _flat(site: Site) -> F64:
    return np.broadcast_to(site.last, site.clean.shape)


def _stuck(site: Site) -> F64:
    """A counter that counts no more: its rate is zero."""
    return np.zeros_like(site.clean)


def _missing(site: Site) -> F64:
    return np.full_like(site.clean, np.nan)


def _shifted_season(site: Site) -> F64:
    steps = round(SEASON_SHIFT_S / site.interval_s)
    moved = np.full_like(site.clean, np.nan)
    moved[:, steps:] = site.clean[:, : max(site.clean.shape[1] - steps, 0)]
    return moved


def _flat_season(site: Site) -> F64:
    return site.clean - site.centre + site.day


FAULTS: Mapping[str, Fault] = MappingProxyType(
    {
        fault.name: fault
        for fault in (
            Fault("spike", _step, 10.0, 0.0),
            Fault("dip", _step, -10.0, 0.0),
            Fault("shift_up", _step, 5.0, HOUR_S / 2),
            Fault("shift_down", _step, -5.0, HOUR_S / 2),
            Fault("ramp", _ramp, 10.0, HOUR_S),  # half an hour up, half an hour there
            Fault("variance_up", _noise, 5.0, HOUR_S),
            Fault("variance_down", _noise, 0.2, 2 * HOUR_S),
            Fault("flat", _flat, duration_s=2 * HOUR_S),
            Fault("stuck", _stuck),
            Fault("missing", _missing, truth="absent"),
            Fault("season_shift", _shifted_season, duration_s=6 * HOUR_S, truth="season"),
            Fault("season_flat", _flat_season, duration_s=DAY_S, truth="season"),
        )
    }
)


# -- what a series is like --------------------------------------------------------------------------------------------


def _site(fault: Fault, values: F64, onset: I64, interval_s: float) -> Site:
    centre = local_mean(values, interval_s)
    since = np.arange(values.shape[1]) - onset[:, None]
    known = np.isfinite(values) & (since < 0)
    newest = np.max(np.where(known, np.arange(values.shape[1]), 0), axis=1, keepdims=True)
    day = known & (since >= -round(DAY_S / interval_s))
    return Site(
        clean=values,
        centre=centre,
        since=np.maximum(since, 0.0),
        spread=_spread(values, values - centre, known),
        day=_mean(values, day),
        last=np.take_along_axis(values, newest, axis=1),
        size=fault.size,
        interval_s=interval_s,
    )


def _spread(values: F64, residual: F64, known: Bool) -> F64:
    """One robust spread of the known part, (S, 1), always > 0.

    That of a normal distribution with the same 5 % and 95 % quantiles or the same 99 % quantile of its size, whichever
    is larger: what is far out once an hour is no fault. The median deviation would not do, which is zero for what is
    most of the time at one value. What is nearly always there has its standard deviation, and a constant a share of its
    level.
    """
    low, high = _quantile(residual, known, 0.05), _quantile(residual, known, 0.95)
    usual = known & (values == _quantile(values, known, 0.5))
    still = usual.sum(axis=1, keepdims=True) >= STILL_SHARE * known.sum(axis=1, keepdims=True)
    tail = _quantile(np.abs(residual), known, 0.99)
    spread = np.maximum((high - low) / RANGE_SPREADS, tail / TAIL_SPREADS)
    spread = np.where(still, np.sqrt(_mean(residual**2, known)), spread)
    level = np.abs(_mean(values, known))
    return np.where(spread > 1e-9 * level, spread, np.where(level > 0, BARE_SPREAD * level, 1.0))


def _natural(values: F64, planned: F64) -> F64:
    """Planned values as the series could have them: whole if it is whole, and within its limits."""
    present = np.isfinite(values)
    low = np.min(np.where(present, values, np.inf), axis=1, keepdims=True)
    high = np.max(np.where(present, values, -np.inf), axis=1, keepdims=True)
    share = np.sum(present & (values == high), axis=1, keepdims=True) / np.maximum(
        present.sum(axis=1, keepdims=True), 1
    )
    ceiling = np.where((share >= CEILING_SHARE) & (high > low), high, np.inf)
    whole = (~present | (values == np.round(values))).all(axis=1, keepdims=True) & (high > low)
    planned = np.where(whole, np.round(planned), planned)
    return np.minimum(np.where(low >= 0, np.maximum(planned, 0.0), planned), ceiling)


def _shows(values: F64, planned: F64, faulty: F64, truth: Bool) -> Bool:
    """Rows in which most faulty points changed and most of the plan was possible, (S, 1)."""
    count = np.maximum(truth.sum(axis=1, keepdims=True), 1)
    changed = (truth & (faulty != values)).sum(axis=1, keepdims=True) / count
    did = np.sum(np.where(truth, np.abs(faulty - values), 0.0), axis=1, keepdims=True)
    meant = np.sum(np.where(truth, np.abs(planned - values), 0.0), axis=1, keepdims=True)
    return np.asarray((changed >= MOSTLY) & (did >= KEPT * meant))


def _plain(values: F64, faulty: F64, truth: Bool, onset: I64) -> Bool:
    """Rows whose faulty points are mostly absent or outside the range of the clean part, (S,)."""
    known = np.isfinite(values) & (np.arange(values.shape[1]) < onset[:, None])
    low = np.min(np.where(known, values, np.inf), axis=1, keepdims=True)
    high = np.max(np.where(known, values, -np.inf), axis=1, keepdims=True)
    outside = truth & ~((faulty >= low) & (faulty <= high))
    return np.asarray(truth.any(axis=1) & (outside.sum(axis=1) >= MOSTLY * truth.sum(axis=1)))


def _seasonal(centre: F64, onset: I64, interval_s: float) -> Bool:
    """Rows whose clean part, without its trend, is like the day before, (S, 1)."""
    steps = round(DAY_S / interval_s)
    if steps >= centre.shape[1]:
        return np.zeros((len(centre), 1), np.bool_)
    time = np.arange(centre.shape[1], dtype=np.float64)[None]
    known = np.isfinite(centre) & (time < onset[:, None])
    about = time - _mean(np.broadcast_to(time, centre.shape), known)
    slope = _mean(about * centre, known) / np.maximum(_mean(about**2, known), 1.0)
    rest = centre - slope * about
    now, before, both = rest[:, steps:], rest[:, :-steps], known[:, steps:] & known[:, :-steps]
    now, before = now - _mean(now, both), before - _mean(before, both)
    together = _mean(now * before, both)
    alone = np.sqrt(_mean(now**2, both) * _mean(before**2, both))
    enough = both.sum(axis=1, keepdims=True) >= steps // 2
    return np.asarray(enough & (alone > 0) & (together > SEASON_ALIKE * alone))


def _lengths(fault: Fault, values: F64, interval_s: float) -> I64:
    """Steps of the fault in each series, (S,): its duration, but at least some points."""
    if fault.duration_s == 0:
        return np.ones(len(values), np.int64)
    gap = values.shape[1] / np.maximum(np.isfinite(values).sum(axis=1), 1)
    steps: I64 = np.ceil(np.maximum(fault.duration_s / interval_s, LEAST_POINTS * gap)).astype(np.int64)
    return steps


def _running(values: F64) -> F64:
    """Sums from the start, (S, T + 1)."""
    return np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)


def _mean(values: F64, where: Bool) -> F64:
    """Means of the rows over some points, (S, 1); 0 where there are none."""
    count = np.maximum(where.sum(axis=1, keepdims=True), 1)
    return np.asarray(np.sum(np.where(where, values, 0.0), axis=1, keepdims=True) / count)


def _quantile(values: F64, where: Bool, share: float) -> F64:
    """Quantiles of the rows over some points, (S, 1); 0 where there are none."""
    ordered = np.sort(np.where(where, values, np.inf), axis=1)
    count = where.sum(axis=1, keepdims=True)
    found = np.take_along_axis(ordered, np.floor(share * np.maximum(count - 1, 0)).astype(np.int64), axis=1)
    return np.where(count > 0, found, 0.0)
