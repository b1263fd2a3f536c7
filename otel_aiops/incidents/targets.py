"""Targets: which series run towards a limit, told by the names of semantic conventions and by what is common."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from otel_aiops.detect.exhaustion import Direction
from otel_aiops.errors import ConfigError
from otel_aiops.labels import Labels, Selector, text

DAY_S, HOUR_S = 86_400.0, 3_600.0

# what is exhausted → how far ahead it is said, in seconds
HORIZONS: Mapping[str, float] = {
    "certificate": 7 * DAY_S,
    "error budget": 3 * DAY_S,
    "disk": 4 * DAY_S,
    "file descriptors": DAY_S / 2,
    "connections": HOUR_S * 4,
    "queue": HOUR_S * 4,
    "memory": DAY_S / 2,
}
# what follows what is asked of it, and goes down again with that → how often the time of its rise so far a rise is
# continued; of all else it is FAR
AHEAD: Mapping[str, float] = {"queue": 0.2, "connections": 0.2}
FAR = 10.0
# the words of a name, all of one group, that tell what it is; the first that fits counts
_WORDS: tuple[tuple[str, frozenset[str]], ...] = (
    ("certificate", frozenset(("cert", "certificate", "x509", "tls", "ssl", "tlscheck"))),
    ("error budget", frozenset(("budget",))),
    ("disk", frozenset(("filesystem", "disk", "volume", "fs", "inodes", "inode", "storage"))),
    ("file descriptors", frozenset(("fds", "descriptor", "descriptors"))),
    ("connections", frozenset(("connection", "connections", "pool", "backends", "hikaricp"))),
    ("queue", frozenset(("queue", "lag", "backlog"))),
    ("memory", frozenset(("memory", "heap", "mem", "maxmemory"))),
)
_EXPIRY = frozenset(("expiry", "expiration", "expires", "notafter", "after", "left", "expire"))
_SHARE = frozenset(("utilization", "utilisation", "ratio", "percent", "percentage"))
_LIMIT = frozenset(("limit", "limits", "max", "maximum", "capacity", "quota", "maxmemory"))
_FREE = frozenset(("free", "available", "avail", "remaining"))
_USED = frozenset(("usage", "used", "size", "count", "current", "open", "active", "depth", "rss", "working", "set"))
_PLAIN = frozenset(("bytes", "spec", "k8s", "kube", "node", "resource", "stats", "after", "last", "gc", "unix"))
# of a name that is no stock of anything: what flows, what is asked for, and how long it takes
_NOT = frozenset(
    ("io", "operations", "time", "duration", "requests", "request", "faults", "rate", "errors", "pending", "wait")
) | frozenset(
    ("created", "timeouts", "idle", "min", "inbound", "outbound", "merged", "page", "swap", "cached", "total")
)
_OF_PROCESS = ("memory", "file descriptors")
_STATES = ("state", "db.client.connection.state", "system.memory.state", "system.filesystem.state")
_PODS = ("k8s.pod.uid", "k8s.pod.name", "pod")
_CONTAINERS = ("k8s.container.name", "container")


@dataclass(frozen=True, slots=True)
class PredictRule:
    """Series that are to be watched, or watched otherwise than by themselves; the first rule that matches counts."""

    match: Mapping[str, str | bool | int | float] = field(default_factory=dict)  # labels; ~ begins an expression
    limit: float | None = None  # None: of a companion series, or what the name says
    direction: Direction = "above"  # the limit is reached from below (above) or from above (below)
    horizon: float = DAY_S  # how far ahead, in seconds
    enabled: bool = True  # false: never predict these

    def __post_init__(self) -> None:
        if self.direction not in ("above", "below"):
            raise ConfigError("direction", f"must be above or below, got {self.direction}")
        if not 60 <= self.horizon <= 366 * DAY_S:
            raise ConfigError("horizon", f"must be 60 s to 366 days, got {self.horizon}")
        if self.limit is not None and not abs(self.limit) < 1e30:
            raise ConfigError("limit", f"must be a number, got {self.limit}")
        try:
            Selector(self.match)
        except re.error as error:
            raise ConfigError("match", f"is not a regular expression: {error}") from error


@dataclass(frozen=True, slots=True)
class Target:
    """What a series runs towards. `limit` is NaN where a companion has it: the first of `keys` that is known.

    `clock_s` is the seconds in its unit if the series says when something ends, as a time or as what is left; else 0.
    """

    what: str
    direction: Direction
    limit: float
    horizon_s: float
    keys: tuple[str, ...] = ()
    clock_s: float = 0.0


def target_of(labels: Labels, rules: Sequence[tuple[Selector, PredictRule]] = ()) -> Target | None:
    """What a series runs towards; None for most.

    >>> target_of(Labels("system.filesystem.utilization", unit="1"))
    Target(what='disk', direction='above', limit=1.0, horizon_s=345600.0, keys=(), clock_s=0.0)
    """
    for selector, rule in rules:
        if selector.matches(labels):
            return _ruled(labels, rule)
    return _known(labels)


def limit_keys(labels: Labels) -> tuple[str, ...]:
    """The keys under which a series is the limit of others; none if it is not one."""
    words = _words(labels.name)
    if labels.stat or not _LIMIT.intersection(words) or _SHARE.intersection(words):
        return ()
    what = _what(words) or _what(_words(text(dict(labels.attributes).get("resource"))))
    return tuple(_keys(labels, words, what)) if what else ()


def _ruled(labels: Labels, rule: PredictRule) -> Target | None:
    """The target by a rule; what the rule leaves open is as the name says."""
    if not rule.enabled:
        return None
    known = _known(labels)
    what = known.what if known else labels.name
    if rule.limit is not None:
        return Target(what, rule.direction, rule.limit, rule.horizon)
    if known is not None:
        return Target(what, known.direction, known.limit, rule.horizon, known.keys, known.clock_s)
    limit = 0.0 if rule.direction == "below" else np.nan
    return Target(what, rule.direction, limit, rule.horizon, tuple(_keys(labels, _words(labels.name), what)))


def _known(labels: Labels) -> Target | None:
    """The target of a series that is known by its name."""
    words = _words(labels.name)
    what = _what(words)
    if labels.stat or what is None:
        return None
    horizon_s = HORIZONS[what]
    if what == "certificate":
        left = _EXPIRY.intersection(words)
        return Target(what, "below", 0.0, horizon_s, clock_s=_unit_s(labels.unit, words)) if left else None
    if what == "error budget":
        return Target(what, "below", 0.0, horizon_s) if _FREE.intersection(words) else None
    if _NOT.intersection(words):
        return None
    return _stock(labels, words, what)


def _stock(labels: Labels, words: list[str], what: str) -> Target | None:
    """The target of what fills up or runs out, by its state."""
    has = dict(labels.attributes)
    state = next((text(has[key]) for key in _STATES if key in has), "")
    horizon_s = HORIZONS[what]
    free = bool(_FREE.intersection(words)) or state in _FREE
    if free:  # free memory is no sign where it is used for caches
        stays = what == "memory" and (state or words[-1]) not in ("available", "avail")
        return None if stays or _LIMIT.intersection(words) else Target(what, "below", 0.0, horizon_s)
    if state not in ("", "used"):
        return None
    if _SHARE.intersection(words):
        share = labels.unit == "%" or "percent" in words or "percentage" in words
        return Target(what, "above", 100.0 if share else 1.0, horizon_s)
    if _LIMIT.intersection(words):
        return None
    return Target(what, "above", np.nan, horizon_s, tuple(_keys(labels, words, what)))


def _keys(labels: Labels, words: list[str], what: str) -> Iterator[str]:
    """What usage and limit have in common, the most exact first."""
    stem = ".".join(word for word in words if word not in _USED | _LIMIT | _PLAIN)
    attributes, resource = dict(labels.attributes), dict(labels.resource)
    own = {key: text(value) for key, value in sorted(attributes.items()) if key not in (*_STATES, "resource", "unit")}
    yield f"{stem}|{own}|{ {key: text(value) for key, value in sorted(resource.items())} }"
    if what not in _OF_PROCESS:  # a process has many queues and volumes, but one memory
        return
    every = attributes | resource
    pod = next((text(every[key]) for key in _PODS if every.get(key)), "")
    container = next((text(every[key]) for key in _CONTAINERS if every.get(key)), "")
    if pod and container:
        yield f"{what}|pod {pod}|{container}"
    service, instance = (text(every.get(key)) for key in ("service.name", "service.instance.id"))
    if service and (instance or pod):
        yield f"{what}|{own}|service {service}|{instance or pod}"


def _words(name: str) -> list[str]:
    """The words of a metric's name.

    >>> _words("k8s.container.memory_limit")
    ['k8s', 'container', 'memory', 'limit']
    """
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def _what(words: Sequence[str]) -> str | None:
    """What is exhausted, None for what cannot be."""
    return next((what for what, some in _WORDS if some.intersection(words)), None)


def _unit_s(unit: str, words: Sequence[str]) -> float:
    """Seconds in the unit of what says when a certificate ends."""
    named = {unit.lower().strip("{}"), *words}
    sizes = (("d", DAY_S), ("day", DAY_S), ("days", DAY_S), ("h", HOUR_S), ("hours", HOUR_S), ("ms", 0.001))
    return next((size for name, size in sizes if name in named), 1.0)
