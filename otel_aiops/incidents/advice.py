"""Advice: where more is asked for than is ever used, and where what is given will not do, with numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from otel_aiops.detect.explain import duration, number
from otel_aiops.errors import BadInput, ConfigError
from otel_aiops.incidents.incident import Incident, State
from otel_aiops.labels import Labels, text
from otel_aiops.otlp.points import F64, I64

DAY_S = 86_400.0
_RESOURCES = {"cpu": ("cpu",), "memory": ("memory", "mem")}
_POD_KEYS = ("k8s.pod.uid", "k8s.pod.name", "k8s.container.name", "container.id", "container.name", "pod", "container")
_OWNERS = ("k8s.deployment.name", "k8s.statefulset.name", "k8s.daemonset.name", "service.name")
MIB = 1_048_576.0


@dataclass(frozen=True, slots=True)
class AdviceConfig:
    """How much history is enough, and how much room is left above what was used."""

    history: float = 7 * DAY_S  # seconds of history at least
    coverage: float = 0.5  # share of the history's hours that must have values
    slack: float = 0.6  # the request is said to be too large if what would do is less than this share of it
    room: float = 1.5  # times the highest use (of memory) or the 99th percentile (of processors) would do
    short: float = 0.9  # share of the limit that the highest use reached, from which the limit is said to be tight

    def __post_init__(self) -> None:
        if not self.history > 0:
            raise ConfigError("history", f"must be > 0 s, got {self.history}")
        for name in ("coverage", "slack", "short"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(name, f"must be in (0, 1], got {getattr(self, name)}")
        if not self.room >= 1:
            raise ConfigError("room", f"must be >= 1, got {self.room}")


@dataclass(frozen=True, slots=True)
class Use:
    """One series of the past: (T,) times in order and values, NaN absent; processors in cores, memory in bytes."""

    labels: Labels
    time_ns: I64
    value: F64

    def __post_init__(self) -> None:
        if self.time_ns.shape != self.value.shape or self.time_ns.ndim != 1:
            raise BadInput(f"expected times and values of one shape (T,), got {self.time_ns.shape}, {self.value.shape}")


@dataclass(frozen=True, slots=True)
class Advice:
    """What to change: `kind` is slack or shortage; `would_do` and all others in cores or bytes, NaN where not known."""

    kind: str
    service: str
    where: str  # container or pod
    resource: str  # cpu or memory
    now: float  # request (slack) or limit (shortage)
    highest: float
    p99: float
    would_do: float
    history_s: float
    text: str


@dataclass(frozen=True, slots=True)
class _Pair:
    """The use of one resource by one container, and what it asks for and may have."""

    use: Use
    resource: str
    request: float
    limit: float


def advise(series: Sequence[Use], config: AdviceConfig) -> tuple[Advice, ...]:
    """Advice on containers whose use, and request or limit, are among the series; shortage first, then most slack.

    A request larger than `would_do / slack` is slack; a highest use of more than `short` of the limit is a shortage.
    Series that are too short say nothing.
    """
    found = [advice for pair in _pairs(series) for advice in _of_pair(pair, config)]
    found.sort(key=lambda one: (one.kind != "shortage", one.would_do / one.now, one.service, one.where))
    return tuple(found)


def is_concerned(labels: Labels) -> bool:
    """Whether a series tells of the use, request or limit of a container."""
    return bool(_role(labels)[0]) and bool(_where(labels))


def foreseen(incidents: Sequence[Incident]) -> tuple[str, ...]:
    """What predictions of exhaustion that still hold say, soonest first: shortage that is yet to come."""
    held = [one for one in incidents if one.state is State.PREDICTED and one.prediction is not None]
    soon = sorted((one.prediction.lead_s, one.id, one.summary) for one in held if one.prediction)  # for mypy
    return tuple(summary for _, _, summary in soon)


def _of_pair(pair: _Pair, config: AdviceConfig) -> list[Advice]:
    """What there is to say about one container."""
    good = np.isfinite(pair.use.value) & (pair.use.value >= 0) & (pair.use.value < 1e30)
    value, time_ns = pair.use.value[good], pair.use.time_ns[good]
    history_s = float(time_ns.max() - time_ns.min()) / 1e9 if len(value) else 0.0
    hours = len(np.unique(time_ns // 3_600_000_000_000))
    if history_s < config.history or hours < config.coverage * history_s / 3_600:
        return []
    highest, p99 = float(value.max()), float(np.quantile(value, 0.99))
    told = []
    base = p99 if pair.resource == "cpu" else highest
    would_do = _rounded(max(base * config.room, highest if pair.resource == "memory" else base), pair.resource)
    if pair.limit > 0 and highest >= config.short * pair.limit:
        more = _rounded(max(highest * config.room, pair.limit), pair.resource)
        told.append(_advice("shortage", pair, pair.limit, highest, p99, more, history_s))
    elif pair.request > 0 and would_do <= config.slack * pair.request:
        told.append(_advice("slack", pair, pair.request, highest, p99, would_do, history_s))
    return told


def _advice(
    kind: str, pair: _Pair, now: float, highest: float, p99: float, would_do: float, history_s: float
) -> Advice:
    service, where = _owner(pair.use.labels), _where(pair.use.labels)
    shown = [_shown(x, pair.resource) for x in (now, highest, p99, would_do)]
    span = duration(history_s)
    what = "of memory " if pair.resource == "memory" else ""
    said = (
        f"{service} asks for {shown[0]} {what}and has used at most {shown[1]} in {span} (p99 {shown[2]}): "
        f"{shown[3]} would do."
        if kind == "slack"
        else f"{service} has used {shown[1]} {what}of its limit of {shown[0]} in {span} (p99 {shown[2]}): "
        f"{shown[3]} would leave room."
    )
    return Advice(kind, service, where, pair.resource, now, highest, p99, would_do, history_s, said)


def _pairs(series: Sequence[Use]) -> list[_Pair]:
    """Each use with the newest request and limit of the same container."""
    given: dict[tuple[str, str, str], float] = {}
    uses: list[tuple[str, str, Use]] = []
    for one in series:
        resource, role = _role(one.labels)
        where = _where(one.labels)
        if not resource or not where:
            continue
        newest = one.value[np.isfinite(one.value)][-1:]
        if role == "use":
            uses.append((resource, where, one))
        elif len(newest):
            given[role, resource, where] = float(newest[0])
    nan = float("nan")
    return [
        _Pair(one, resource, given.get(("request", resource, where), nan), given.get(("limit", resource, where), nan))
        for resource, where, one in uses
        if ("request", resource, where) in given or ("limit", resource, where) in given
    ]


def _role(labels: Labels) -> tuple[str, str]:
    """(cpu or memory, and whether it is the use, the request or the limit); "" for other series."""
    words = labels.name.lower().replace("_", ".").split(".")
    kind = text(dict(labels.attributes).get("resource"))
    resource = next((name for name, some in _RESOURCES.items() if set(some) & {*words, kind}), "")
    if not resource or "utilization" in words:
        return "", ""
    for role in ("request", "limit"):
        if role in words or role + "s" in words:
            return resource, role
    if resource == "memory":
        plain = words[-1] in ("usage", "working", "set", "rss", "bytes") and labels.stat == ""
        return (resource, "use") if plain and "available" not in words else ("", "")
    cores = words[-1] == "usage" or (labels.stat == "rate" and "time" in words)
    return (resource, "use") if cores else ("", "")


def _where(labels: Labels) -> str:
    """Pod and container, as far as they are known."""
    has = dict((*labels.resource, *labels.attributes))
    return "/".join(text(has[key]) for key in _POD_KEYS if has.get(key))


def _owner(labels: Labels) -> str:
    """Who would change it."""
    has = dict((*labels.resource, *labels.attributes))
    return next((text(has[key]) for key in _OWNERS if has.get(key)), _where(labels))


def _rounded(value: float, resource: str) -> float:
    """Up to the next tenth of a core, or the next 16 MiB."""
    step = 0.1 if resource == "cpu" else 16 * MIB
    return max(float(np.ceil(value / step - 1e-9)), 1.0) * step


def _shown(value: float, resource: str) -> str:
    return f"{number(value)} cores" if resource == "cpu" else f"{number(value / MIB)} MiB"
