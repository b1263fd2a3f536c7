"""Drift: how far live values are from those that a model learned from, at the same times of day, and for how long."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.prototypes import keys_of
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.scope import span
from otel_aiops.lifecycle.sketch import F32, QUANTILES, Sketches
from otel_aiops.otlp.points import F64, I64, Bool
from otel_aiops.series.segments import HOUR_NS

DAY, WEEK = 24, 168  # hours
LEAST_DAYS = 2  # of a reference, so that it says how much one day differs from another by itself
MOST_EFFECT = 10.0  # spreads; what is farther away counts as that
USUAL = 0.9  # quantile of the distances within the reference that counts as natural
TINY = 1e-3  # of the level: a series that is steadier than this counts as so spread
MOVED = 0.5  # of the distance that a plain move of the median must explain to be called that
LARGER = 1.5  # times the spread within hours that is called another spread

Kind = Literal["input", "concept"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftLimits:
    """What counts as drift."""

    effect: float = 0.5  # distance in spreads of the reference, beyond what one day differs from another by itself
    share: float = 0.3  # of the series of a group that must have drifted
    window: int = 6  # hours that are compared at once
    looks: int = 24  # such windows in a row, an hour apart, that must have drifted before it is called persistent


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """Something that is not as it was when the model learned. `looks` in a row it was so, the newest included.

    Of the input: of a metric of a service, with `effect` in spreads (the median of the series that drifted) and the
    `share` of its `series` that drifted. Of the concept: of what scores promise; `effect` is the logarithm of how many
    times more often than promised, or the loss of precision.
    """

    kind: Kind
    what: str  # input: level, spread or shape; concept: probabilities or precision
    service: str = ""
    metric: str = ""
    effect: float
    share: float = 1.0
    series: int = 0
    looks: int = 0
    persistent: bool = False
    since_ns: int = 0  # when the first of these looks began; 0 where it is not known
    text: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Reference:
    """What R series were like when the model learned, by slot: hour of the day, or of the week if it lasts two of them.

    Shape: `centre` (R, slots, Q), the quantiles of a usual hour; `spread` (R,), how far values are from the middle of
    their slot; `natural` (R,), how far a window of the reference itself is from the others of its slots; `within` (R,),
    distance of the outer quantiles of a usual hour. NaN where it is not known. `kin` are rows that stand for a
    deployment or, below, a metric of a service, by key.
    """

    source: str  # for people
    names: Mapping[str, int]
    centre: F32
    spread: F64
    natural: F64
    within: F64
    days: float
    kin: Mapping[int, int] = field(default_factory=dict)

    @property
    def slots(self) -> int:
        """How many times are told apart."""
        return int(self.centre.shape[1])


@dataclass(frozen=True, slots=True)
class Compared:
    """All groups that could be compared, those that drifted most first, and what could not be."""

    groups: tuple[Drift, ...] = ()
    unmatched: int = 0  # series that are in no reference

    @property
    def drifts(self) -> tuple[Drift, ...]:
        """Groups that have drifted now."""
        return tuple(one for one in self.groups if one.looks)


def reference_of(sketches: Sketches, source: str, *, window: int) -> Reference:
    """A reference from sketches; series that were seen on less than two days are not in it.

    The usual hour of a slot is the middle one of its days, quantile by quantile: their Wasserstein barycentre with
    medians for means, so that one incident does not move it. Source: Agueh and Carlier, Barycenters in the Wasserstein
    space, 2011 (in one dimension the mean of the quantile functions).
    """
    if not sketches.names or not len(sketches.hours):
        none = np.empty(0)
        return Reference(source, {}, np.empty((0, DAY, len(QUANTILES)), np.float32), none, none, none, 0.0)
    slots = WEEK if _days(sketches.hours) >= 14 else DAY
    slot = sketches.hours % slots
    shape = (len(sketches.names), slots, len(QUANTILES))
    centre = np.full(shape, np.nan, np.float32)
    days = np.zeros(shape[:2], np.int64)
    for k in np.unique(slot).tolist():
        values = sketches.values[:, slot == k]
        days[:, k] = (~np.isnan(values[:, :, 0])).sum(axis=1)
        centre[:, k] = _median(values, axis=1)
    several = days[:, slot]
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = _distance(sketches.values, centre[:, slot]) * np.where(several > 1, several / (several - 1), np.nan)
    natural = _quantile(_rolled(apart, window), USUAL)
    spread, within = _spread(sketches, centre, slot)
    kept = np.flatnonzero(np.isfinite(natural) & (spread > 0))
    names = {sketches.names[k]: row for row, k in enumerate(kept.tolist())}
    alone = Reference(source, names, centre[kept], spread[kept], natural[kept], within[kept], _days(sketches.hours))
    return _with_kin(alone)


def compare(reference: Reference, live: Sketches, limits: DriftLimits) -> Compared:
    """Compare the newest hours of live series, by service and metric, with the reference.

    Each window of hours is compared as a whole with the same slots of the reference: the mean Wasserstein distance in
    spreads, less what windows of the reference differ from each other by themselves. So neither a night after a day nor
    many points make a drift, and no p-value is asked: with much data every difference is significant.
    Source: Rabanser, Günnemann and Lipton, Failing Loudly, 2019 (that the size of a shift is what harms, not its
    significance); Panaretos and Zemel, Statistical Aspects of Wasserstein Distances, 2019, 2.2 (quantile functions).
    """
    labels = [Labels.from_json(name) for name in live.names]
    rows = _matched(reference, live.names, labels)
    seen = np.isfinite(live.values[:, :, 0]).any(axis=1)
    mine = np.flatnonzero((rows >= 0) & seen)
    unmatched = int(((rows < 0) & seen).sum())
    if not len(mine) or not len(live.hours):
        return Compared(unmatched=unmatched)
    usual = reference.centre[rows[mine]][:, live.hours % reference.slots]
    apart = _rolled(_distance(live.values[mine], usual), limits.window)
    with np.errstate(invalid="ignore"):
        effect = (apart - reference.natural[rows[mine], None]) / reference.spread[rows[mine], None]
    effect = np.where(np.isnan(effect), np.nan, np.clip(effect, 0.0, MOST_EFFECT))
    members: dict[tuple[str, str], list[int]] = defaultdict(list)
    for k, number in enumerate(mine.tolist()):
        members[labels[number].service, labels[number].name].append(k)
    window = live.values[mine][:, -limits.window :]
    moved = _moves(window, usual[:, -limits.window :], reference, rows[mine])
    groups = [
        _group(service, metric, effect[of], [moved[k] for k in of], live.hours, limits)
        for (service, metric), of in sorted(members.items())
    ]
    found = [one for one in groups if one is not None]
    return Compared(tuple(sorted(found, key=lambda one: (not one.looks, -one.effect))), unmatched)


def _group(
    service: str, metric: str, effect: F64, moved: Sequence[tuple[str, float]], hours: I64, limits: DriftLimits
) -> Drift | None:
    """What the effects (M, H) say of a group, by window; None when nothing came in the newest one."""
    known = np.isfinite(effect)
    if not known[:, -1].any():
        return None
    with np.errstate(invalid="ignore"):
        over = known & (effect >= limits.effect)
    share = over.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    looks = _in_a_row(share >= limits.share)
    now = over[:, -1] if over[:, -1].any() else known[:, -1]
    size = float(np.median(effect[now, -1]))
    words = [moved[k] for k in np.flatnonzero(now).tolist()]
    what = max(sorted({word for word, _ in words}), key=lambda word: sum(one == word for one, _ in words))
    amount = float(np.median([by for word, by in words if word == what]))
    part = float(share[-1])
    return Drift(
        kind="input",
        what=what,
        service=service,
        metric=metric,
        effect=size,
        share=part,
        series=int(known[:, -1].sum()),
        looks=looks,
        persistent=looks >= limits.looks,
        since_ns=(int(hours[-looks]) - limits.window + 1) * HOUR_NS if looks else 0,
        text=_text(service, metric, what, amount, size, part, looks) if looks else "",
    )


def _text(service: str, metric: str, what: str, amount: float, effect: float, share: float, looks: int) -> str:
    words = {
        "level": f"values are {abs(amount):.2g} spreads {'higher' if amount > 0 else 'lower'}",
        "spread": f"values spread {amount:.2g} times as far within an hour",
        "shape": "values are others at the same times of day",
    }
    return (
        f"{metric} of {service}: {words[what]} than what was learned from, by {effect:.2g} spreads more than days "
        f"differ, in {share:.0%} of its series, in {looks} {'look' if looks == 1 else 'looks'} in a row "
        f"({span(looks * 3600.0)})"
    )


def _moves(live: F32, usual: F32, reference: Reference, rows: I64) -> list[tuple[str, float]]:
    """(level, spread or shape; by how much) of M series, from one window and what is usual then, (M, W, Q)."""
    found = []
    for one, before, row in zip(live, usual, rows.tolist(), strict=True):
        both = np.isfinite(one[:, 0]) & np.isfinite(before[:, 0])
        apart = (one - before)[both].astype(np.float64)
        shift, distance = (float(np.mean(apart)), float(np.mean(np.abs(apart)))) if both.any() else (0.0, 0.0)
        wide = float(reference.within[row])
        ratio = float(np.mean(one[both, -1] - one[both, 0])) / wide if wide > 0 and both.any() else 1.0
        if abs(shift) >= MOVED * distance > 0:
            found.append(("level", shift / float(reference.spread[row])))
        elif ratio >= LARGER or ratio <= 1 / LARGER:
            found.append(("spread", ratio))
        else:
            found.append(("shape", 0.0))
    return found


# -- matching ---------------------------------------------------------------------------------------------------------


def _with_kin(alone: Reference) -> Reference:
    """With typical rows for those that come later: of deployments, and of metrics of services."""
    names = list(alone.names)
    members: dict[int, list[int]] = defaultdict(list)
    for row, keys in enumerate(keys_of([Labels.from_json(name) for name in names]).tolist()):
        for key in keys:
            if key:
                members[key].append(row)
    several = dict.fromkeys(tuple(rows) for rows in members.values() if len(rows) > 1)
    place = {rows: len(names) + k for k, rows in enumerate(several)}
    kin = {key: place.get(tuple(rows), rows[0]) for key, rows in members.items()}
    if not place:
        return replace(alone, kin=kin)
    pooled = [_pooled(alone, rows) for rows in place]
    centre, spread, natural, within = (np.stack([one[k] for one in pooled]) for k in range(4))
    return Reference(
        alone.source,
        alone.names,
        np.concatenate([alone.centre, centre.astype(np.float32)]),
        np.concatenate([alone.spread, spread]),
        np.concatenate([alone.natural, natural]),
        np.concatenate([alone.within, within]),
        alone.days,
        kin,
    )


def _pooled(alone: Reference, members: Sequence[int]) -> tuple[Any, ...]:
    """One row for many: the middle of them, from which another one may be twice as far as they are."""
    rows = list(members)
    centre = _median(alone.centre[rows], axis=0)
    apart = _distance(alone.centre[rows], centre[None]).ravel()
    between = float(np.nan_to_num(_quantile(apart[None], USUAL)[0]))
    middle = [np.asarray(np.median(column[rows])) for column in (alone.spread, alone.within)]
    return centre, middle[0], np.asarray(alone.natural[rows].max() + 2 * between), middle[1]


def _matched(reference: Reference, names: Sequence[str], labels: Sequence[Labels]) -> NDArray[np.int64]:
    """The row of the reference for each of S series, its own or that of its kin; -1 for none."""
    found = np.array([reference.names.get(name, -1) for name in names], np.int64)
    missing = np.flatnonzero(found < 0).tolist()
    keys = keys_of([labels[k] for k in missing]).tolist() if missing else []
    for k, of in zip(missing, keys, strict=True):
        found[k] = next((reference.kin[key] for key in of if key and key in reference.kin), -1)
    return found


# -- numbers ----------------------------------------------------------------------------------------------------------


def _distance(one: F32, other: F32) -> F64:
    """The Wasserstein distance of two hours, (S, H), from their quantiles (S, H, Q); NaN where one has no points."""
    found: F64 = np.mean(np.abs(one.astype(np.float64) - other), axis=-1)
    return found


def _rolled(apart: F64, window: int) -> F64:
    """The mean of the newest `window` hours at each hour, (S, H); NaN with less than half of them."""
    known = np.isfinite(apart)
    sums = np.cumsum(np.pad(np.where(known, apart, 0.0), ((0, 0), (window, 0))), axis=1)
    counts = np.cumsum(np.pad(known, ((0, 0), (window, 0))), axis=1)
    total, count = sums[:, window:] - sums[:, :-window], counts[:, window:] - counts[:, :-window]
    with np.errstate(invalid="ignore", divide="ignore"):
        found: F64 = np.where(count >= max(1, window // 2), total / count, np.nan)
    return found


def _spread(sketches: Sketches, centre: F32, slot: I64) -> tuple[F64, F64]:
    """(how far values are from the middle of their slot, as a standard deviation; outer quantiles of an hour), (S,)."""
    middle = np.median(centre, axis=2)[:, slot, None]
    around = (sketches.values - middle).reshape(len(sketches.names), -1)
    low, high = _quantile(around, 0.25), _quantile(around, 0.75)
    spread = (high - low) / 1.349  # of a normal distribution
    size = _quantile(np.abs(sketches.values).reshape(len(sketches.names), -1), 0.5)
    plain = [
        float(np.mean(np.abs(row[np.isfinite(row)]))) if np.isfinite(row).any() else math.nan
        for row in around.astype(np.float64)
    ]
    spread = np.where(spread > 0, spread, plain)
    least = np.where(size > 0, TINY * size, 1.0)
    wide = _quantile(sketches.values[:, :, -1] - sketches.values[:, :, 0], 0.5)
    return np.maximum(spread, least), wide


def _median(values: F32, *, axis: int) -> F32:
    """Without what is absent; NaN where all is."""
    counts = np.isfinite(values).sum(axis=axis)
    ranked = np.sort(values, axis=axis)  # NaN last
    low = np.take_along_axis(ranked, np.expand_dims(np.maximum((counts - 1) // 2, 0), axis), axis)
    high = np.take_along_axis(
        ranked, np.expand_dims(np.maximum(counts // 2, 0).clip(0, values.shape[axis] - 1), axis), axis
    )
    found: F32 = np.where(counts > 0, (low.squeeze(axis) + high.squeeze(axis)) / 2, np.nan).astype(np.float32)
    return found


def _quantile(values: Any, level: float) -> F64:
    """Of each row of (S, N), without what is absent; NaN where all is."""
    ranked = np.sort(np.asarray(values, np.float64), axis=1)
    counts = np.isfinite(ranked).sum(axis=1)
    if not ranked.shape[1]:
        return np.full(len(ranked), np.nan)
    at = np.floor(level * np.maximum(counts - 1, 0) + 0.5).astype(np.int64)
    found: F64 = np.take_along_axis(ranked, at[:, None], 1)[:, 0]
    return found


def _in_a_row(flags: Bool) -> int:
    """How many of the newest are set.

    >>> _in_a_row(np.array([True, False, True, True]))
    2
    """
    unset = np.flatnonzero(~flags)
    return len(flags) - 1 - int(unset[-1]) if len(unset) else len(flags)


def _days(hours: I64) -> float:
    return float(hours[-1] - hours[0] + 1) / DAY if len(hours) else 0.0
