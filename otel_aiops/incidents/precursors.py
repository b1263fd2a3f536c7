"""Precursors: which signs come before which type of incident, learned from the history once there is enough."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from otel_aiops.errors import BadInput, ConfigError, StateError
from otel_aiops.incidents.past import Past
from otel_aiops.incidents.signs import FeatureWindows
from otel_aiops.otlp.points import F64, I64

FOLDS = 3  # parts of the time before the last, on which probabilities are calibrated
HELD_OUT = 0.3  # share of the time, the newest, on which a model must be better than the base rate
GAIN = 0.05  # share of the base rate's Brier score by which it must be better
LEAST_NON_EVENTS = 50  # windows before which nothing happened
MOST_MODELS = 20  # types of incidents that are learned, those with most incidents
FORMAT = 1


@dataclass(frozen=True, slots=True)
class PrecursorsConfig:
    """How much history it takes, and how far ahead and how sure a prediction must be."""

    enabled: bool = True  # learn what comes before incidents, and predict them
    horizon: float = 1_800.0  # how far ahead
    gap: float = 0.0  # at least so long before the incident
    least_incidents: int = 12  # of a type, before there is a model for it
    probability: float = 0.5  # that an incident begins within the horizon, from which it is said
    history: float = 60 * 86_400.0  # so long it is remembered what was seen
    interval: float = 3_600.0  # it is learned anew so often
    labels: str = ""  # a file of JSON lines with incidents that others know of, such as alerts of Alertmanager

    def __post_init__(self) -> None:
        if not self.horizon >= 60:
            raise ConfigError("horizon", f"must be >= 60 s, got {self.horizon}")
        if not 0 <= self.gap < self.horizon:
            raise ConfigError("gap", f"must be in [0, {self.horizon:g}) s, got {self.gap}")
        if self.least_incidents < 6:
            raise ConfigError("least_incidents", f"must be >= 6, got {self.least_incidents}")
        if not 0 < self.probability < 1:
            raise ConfigError("probability", f"must be in (0, 1), got {self.probability}")
        if not self.history >= 10 * self.horizon:
            raise ConfigError("history", f"must be at least ten times the horizon, got {self.history:g} s")
        if not self.interval >= 1:
            raise ConfigError("interval", f"must be >= 1 s, got {self.interval}")


@dataclass(frozen=True, slots=True)
class Precursor:
    """A model of one type: logistic regression on scaled features, then Platt's calibration; all plain numbers."""

    type: str
    names: tuple[str, ...]
    middle: tuple[float, ...]
    scale: tuple[float, ...]
    weight: tuple[float, ...]
    bias: float
    slope: float  # of the calibration
    offset: float
    horizon_s: float
    lead_s: tuple[float, float, float]  # 10 %, 50 % and 90 % of how long before the incident such windows were
    incidents: int
    base_rate: float
    brier: float  # on the time that was held out
    base_brier: float

    def terms(self, value: F64) -> F64:
        """What each feature (M, F) adds to the log-odds."""
        scaled = _scaled(value, np.array(self.middle), np.array(self.scale))
        terms: F64 = scaled * np.array(self.weight)
        return terms

    def probability(self, value: F64) -> F64:
        """That an incident of the type begins within the horizon, (M,) of (M, F)."""
        odds: F64 = self.terms(value).sum(axis=1) + self.bias
        return _logistic(self.slope * odds + self.offset)

    def to_json(self) -> str:
        """To keep it: one line of JSON."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return json.dumps({"format": FORMAT, **fields}, sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> Precursor:
        """What `to_json` wrote. Raises: StateError."""
        try:
            tree: dict[str, Any] = json.loads(line)
            if tree.pop("format") != FORMAT:
                raise ValueError("another format")
            lists = {name: tuple(value) for name, value in tree.items() if isinstance(value, list)}
            made = cls(**{**tree, **lists})
            sizes = {len(made.middle), len(made.scale), len(made.weight), len(made.names)}
            if len(sizes) != 1 or len(made.lead_s) != 3:
                raise ValueError(f"features of {sorted(sizes)} numbers")
            if not np.isfinite(made.probability(np.zeros((1, len(made.names))))).all():
                raise ValueError("numbers that are not finite")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError(f"expected a precursor model as JSON, got {line[:80]!r}: {error}") from error
        return made


@dataclass(frozen=True, slots=True)
class Training:
    """What came of training on one type: a model, or why there is none, with the numbers."""

    type: str
    incidents: int
    needed: int
    model: Precursor | None
    reason: str


def train(past: Past, windows: FeatureWindows, config: PrecursorsConfig) -> tuple[Training, ...]:
    """One model for each type of incident that has enough history and whose model is better than its base rate.

    At most MOST_MODELS types are tried. A pure function of its arguments. Time-ordered throughout: the newest windows
    are held out and decide whether the model is any good; probabilities are calibrated on forecasts of parts by what
    came before them.
    """
    counted = Counter(past.type)
    kinds = sorted(counted, key=lambda kind: (-counted[kind], kind))[:MOST_MODELS]
    return tuple(_trained(kind, past, windows, config) for kind in kinds)


def to_body(models: Sequence[Precursor]) -> bytes:
    """Models as they stand in the log, so that a replay predicts the same again."""
    return "\n".join(model.to_json() for model in models).encode()


def from_body(body: bytes) -> tuple[Precursor, ...]:
    """What `to_body` wrote. Raises: BadInput."""
    try:
        return tuple(Precursor.from_json(line) for line in body.decode().splitlines())
    except (StateError, UnicodeDecodeError) as error:
        raise BadInput(str(error)) from error


def labelled(past: Past, kind: str, time_ns: I64, config: PrecursorsConfig) -> tuple[F64, F64]:
    """(1 where an incident of a type begins within the horizon, else 0; NaN during one, which says nothing, (M,);
    seconds until the next begins, inf for never).
    """
    own = np.array([one == kind for one in past.type], bool)
    start_ns, end_ns = past.start_ns[own], past.end_ns[own]
    place = np.searchsorted(start_ns, time_ns, side="right")
    after = np.append(start_ns, np.iinfo(np.int64).max)[place]
    wait_s = np.where(place < len(start_ns), (after - time_ns) / 1e9, np.inf)
    last_end = np.maximum.accumulate(np.where(end_ns > 0, end_ns, start_ns)) if len(start_ns) else start_ns
    during = (place > 0) & (time_ns <= np.append(last_end, 0)[place - 1])
    truth = ((wait_s <= config.horizon) & (wait_s >= config.gap)).astype(np.float64)
    return np.where(during, np.nan, truth), wait_s


def _trained(kind: str, past: Past, windows: FeatureWindows, config: PrecursorsConfig) -> Training:
    """A model of one type, or why there is none."""
    truth, wait_s = labelled(past, kind, windows.time_ns, config)
    good = np.isfinite(truth)
    value, truth, wait_s, time_ns = windows.value[good], truth[good], wait_s[good], windows.time_ns[good]
    before = truth > 0
    seen = len(np.unique(np.round(wait_s[before] + time_ns[before] / 1e9)))

    def refused(why: str) -> Training:
        return Training(kind, seen, config.least_incidents, None, why)

    if seen < config.least_incidents:
        return refused(f"not enough incidents yet: {seen} of {config.least_incidents}")
    quiet = int((~before).sum())
    if quiet < LEAST_NON_EVENTS:
        return refused(f"not enough quiet time yet: {quiet} windows of {LEAST_NON_EVENTS}")
    judged = _judged(value, truth, time_ns, config)
    if judged is None:
        return refused(f"not enough incidents yet: the {seen} are not both in the older and the newest time")
    brier, base_brier = judged
    told = f"Brier {brier:.4f} against {base_brier:.4f} of the base rate on the newest time, {seen} incidents"
    if not brier <= (1 - GAIN) * base_brier:
        return refused(f"no better than the base rate: {told}")
    fit = _fitted(value, truth)
    if fit is None:  # pragma: no cover - the older part has both classes, so the whole has
        return refused("nothing to learn from")
    waits = wait_s[before & (fit.probability(value) >= config.probability)]
    early, lead, late = np.quantile(waits if len(waits) else wait_s[before], (0.1, 0.5, 0.9)).tolist()
    used = np.flatnonzero(fit.weight)  # what never changed says nothing
    ready = Precursor(
        type=kind,
        names=tuple(windows.names[k] for k in used.tolist()),
        middle=tuple(fit.middle[used].tolist()),
        scale=tuple(fit.scale[used].tolist()),
        weight=tuple(fit.weight[used].tolist()),
        bias=fit.bias,
        slope=fit.slope,
        offset=fit.offset,
        horizon_s=config.horizon,
        lead_s=(early, lead, late),
        incidents=seen,
        base_rate=float(truth.mean()),
        brier=brier,
        base_brier=base_brier,
    )
    return Training(kind, seen, config.least_incidents, ready, told)


def _judged(value: F64, truth: F64, time_ns: I64, config: PrecursorsConfig) -> tuple[float, float] | None:
    """Brier scores on the newest windows (of a model of the older ones, of their base rate); None of one class."""
    cut = int(len(truth) * (1 - HELD_OUT))
    # windows whose horizon reaches into the time that is held out would know of it
    known = time_ns[:cut] + int(config.horizon * 1e9) <= time_ns[cut]
    value_known, truth_known = value[:cut][known], truth[:cut][known]
    model = _fitted(value_known, truth_known)
    if model is None or not 0 < truth[cut:].sum() < len(truth) - cut:
        return None
    error, base_error = model.probability(value[cut:]) - truth[cut:], truth_known.mean() - truth[cut:]
    return float(np.mean(error**2)), float(np.mean(base_error**2))


@dataclass(frozen=True, slots=True)
class _Fit:
    """A calibrated logistic regression as numbers."""

    middle: F64
    scale: F64
    weight: F64
    bias: float
    slope: float = 1.0
    offset: float = 0.0

    def odds(self, value: F64) -> F64:
        """Log-odds (M,) before calibration."""
        odds: F64 = _scaled(value, self.middle, self.scale) @ self.weight + self.bias
        return odds

    def probability(self, value: F64) -> F64:
        """Calibrated, (M,)."""
        return _logistic(self.slope * self.odds(value) + self.offset)


def _fitted(value: F64, truth: F64) -> _Fit | None:
    """A regression on everything, calibrated on what such regressions said of later parts; None of one class."""
    whole = _regressed(value, truth)
    if whole is None:
        return None
    odds, later = list[F64](), list[F64]()
    for k in range(1, FOLDS + 1):
        first, end = (len(truth) * k // (FOLDS + 1), len(truth) * (k + 1) // (FOLDS + 1))
        part = _regressed(value[:first], truth[:first])
        if part is not None:
            odds.append(part.odds(value[first:end]))
            later.append(truth[first:end])
    if not odds:
        return whole
    said, came = np.clip(np.concatenate(odds), -30, 30), np.concatenate(later)
    if not 0 < came.sum() < len(came):
        return whole
    from sklearn.linear_model import LogisticRegression

    platt = LogisticRegression(C=10.0).fit(said[:, None], came)
    slope = max(float(platt.coef_[0, 0]), 0.0)  # never the other way round
    return _Fit(whole.middle, whole.scale, whole.weight, whole.bias, slope, float(platt.intercept_[0]))


def _regressed(value: F64, truth: F64) -> _Fit | None:
    """A plain logistic regression on scaled features; None where only one class is there."""
    if not value.shape[1] or not 0 < truth.sum() < len(truth):
        return None
    from sklearn.linear_model import LogisticRegression

    known = _known(value)
    middle, scale = known.mean(axis=0), known.std(axis=0)
    scale = np.where(scale > 1e-12, scale, np.inf)  # what never changes counts nothing
    fit = LogisticRegression(C=0.3, solver="newton-cholesky", max_iter=100).fit(_scaled(value, middle, scale), truth)
    finite = np.where(np.isfinite(scale), scale, 1.0)
    weight = np.where(np.isfinite(scale), fit.coef_[0], 0.0)
    return _Fit(middle, finite, weight, float(fit.intercept_[0]))


def _scaled(value: F64, middle: F64, scale: F64) -> F64:
    """Features in standard deviations of their logarithms, at most 10 of them to either side."""
    scaled: F64 = np.clip((_known(value) - middle) / scale, -10.0, 10.0)
    return scaled


def _known(value: F64) -> F64:
    """Features as logarithms, since counts and scores have long tails; absent ones are nothing seen."""
    known = np.nan_to_num(value, posinf=0.0, neginf=0.0)
    return np.sign(known) * np.log1p(np.abs(known))


def _logistic(odds: F64) -> F64:
    probability: F64 = 1 / (1 + np.exp(-np.clip(odds, -500, 500)))
    return probability
