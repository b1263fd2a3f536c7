"""Deployments: new versions, replica sets and flags of services that were known before, seen in their resources."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from otel_aiops.errors import ConfigError, StateError
from otel_aiops.series.columns import Arrays, checked
from otel_aiops.signals.releases import FLAG, LONGEST, SCALED, STRONGEST, Release, flag_of, release_of

MOST_PLACES = 5_000  # services, by namespace and environment
MOST_FACETS = 64  # of one place: version, image, deployment, replica set, and flags
MOST_VALUES = 32  # of one facet; the one that was not seen for longest makes room
MOST_INSTANCES = 1_000  # of one place
MOST_KEPT = 2_000  # deployments
MOST_READ = 20_000  # distinct resources whose reading is remembered
SCALED_SHARE = 0.5  # of what a deployment widens

OVER_PLACES = "resources of services over the limit"
OVER_FACETS = "feature flags over the limit"


@dataclass(frozen=True, slots=True)
class DeploymentsConfig:
    """What counts as a deployment, and how much baselines are widened after one."""

    warm_up: float = 120.0  # seconds after its first resource in which all of a service is new and nothing is a change
    joined: float = 600.0  # seconds in which weaker changes of a service belong to the deployment before
    gone: float = 180.0  # seconds unseen after which a version that comes back in a new instance is a change again
    widen: float = 2.0  # how much wider baselines are right after a deployment
    widen_for: float = 600.0  # seconds until they are as before

    def __post_init__(self) -> None:
        for name in ("warm_up", "joined", "gone"):
            if not getattr(self, name) >= 0:
                raise ConfigError(name, f"must be >= 0 s, got {getattr(self, name)}")
        if not self.widen >= 1:
            raise ConfigError("widen", f"must be >= 1, got {self.widen}")
        if not self.widen_for > 0:
            raise ConfigError("widen_for", f"must be > 0 s, got {self.widen_for}")


@dataclass(frozen=True, slots=True)
class Deployment:
    """One change of what runs. `what` is version, image, deployment, replica set, scaled, or flag with the key of the
    flag.

    `before` and `after` are its values; of scaled they are counts of instances. `resource` is the pod, instance or
    host in which it was first seen.
    """

    service: str
    what: str
    before: str
    after: str
    time_ns: int
    resource: str

    @property
    def weak(self) -> bool:
        """Whether only instances were added or replaced: the software is the same."""
        return self.what == SCALED

    def __str__(self) -> str:
        """For people: ``cart: version 1.4 -> 1.5``."""
        return f"{self.service}: {self.what} {self.before or '(none)'} -> {self.after}"


@dataclass(slots=True)
class _Place:
    """What is known of a service in one namespace and environment. Times are when something was last seen."""

    first_ns: int
    current: dict[str, str] = field(default_factory=dict)  # facet → the value that came last into use
    values: dict[str, dict[str, int]] = field(default_factory=dict)  # facet → value → time
    instances: dict[str, int] = field(default_factory=dict)
    last_what: str = ""  # of the last deployment
    last_ns: int = 0
    added_ns: int = 0  # when the last new instance came


class Deployments:
    """Sees the resources of all signals. The first version of a service is no deployment, nor is anything in its first
    minutes; a rolling deployment is one, at its first new instance, whatever else changes with it.

    `counts` says what was left out and why.
    """

    def __init__(self, config: DeploymentsConfig) -> None:
        self._config = config
        self._places: dict[str, _Place] = {}
        self._kept: deque[Deployment] = deque(maxlen=MOST_KEPT)
        self._newest: dict[tuple[str, bool], int] = {}  # (service, weak) → time of its last deployment
        self._read: dict[bytes, Release | None] = {}
        self.counts: Counter[str] = Counter()

    # -- seeing -------------------------------------------------------------------------------------------------------

    def see(self, resources: Iterable[bytes], event_ns: int) -> tuple[Deployment, ...]:
        """What raw Resource messages of one body show to have changed, in their order; equal ones are read once."""
        found = []
        for raw in dict.fromkeys(resources):
            release = self._release(raw)
            if release is not None:
                found += self._seen(release, event_ns)
        return tuple(found)

    def flag(self, resource: bytes, key: str, variant: str, event_ns: int) -> tuple[Deployment, ...]:
        """See that code with this raw Resource evaluated a feature flag to a variant ("" when only its name is known).

        A variant that is new to the service, or was not seen for long, is a change. So is a flag that is new to a
        service that was known for long.
        """
        release = self._release(resource)
        if release is None:
            return ()
        return tuple(self._seen(replace(release, facets=((flag_of(key), variant[:LONGEST] or "on"),)), event_ns))

    def _release(self, raw: bytes) -> Release | None:
        if raw not in self._read:
            if len(self._read) >= MOST_READ:
                self._read.clear()
            self._read[raw] = release_of(raw)
        return self._read[raw]

    def _seen(self, release: Release, now_ns: int) -> list[Deployment]:
        place = self._places.get(release.place)
        if place is None:
            if len(self._places) >= MOST_PLACES:
                self.counts[OVER_PLACES] += 1
                return []
            place = self._places[release.place] = _Place(now_ns)
        warm = now_ns - place.first_ns < self._config.warm_up * 1e9
        added = bool(release.instance) and _touch(place.instances, release.instance, now_ns, MOST_INSTANCES)
        changed = self._changed(place, release, now_ns, fresh=added or not release.instance)
        if warm:
            return []
        if added:
            live = sum(now_ns - seen_ns <= self._config.gone * 1e9 for seen_ns in place.instances.values())
            changed[SCALED] = (str(live - 1), str(live))
        found = self._deployed(place, release, changed, now_ns)
        if added:
            place.added_ns = now_ns
        return found

    def _changed(self, place: _Place, release: Release, now_ns: int, *, fresh: bool) -> dict[str, tuple[str, str]]:
        """(before, after) of each facet that is new, or back after it was gone; `fresh` of an instance not seen yet."""
        changed = {}
        for facet, value in release.facets:
            values = place.values.get(facet)
            if values is None:
                if len(place.values) >= MOST_FACETS:
                    self.counts[OVER_FACETS] += 1
                    continue
                values = place.values[facet] = {}
            unseen_s = (now_ns - values.get(value, now_ns)) / 1e9
            back = fresh and value != place.current.get(facet) and unseen_s > self._config.gone
            if _touch(values, value, now_ns, MOST_VALUES) or back:
                before = place.current.get(facet, "")
                place.current[facet] = value
                # What is told for the first time may well have been there, but a flag of a service known for long.
                known_for = (now_ns - place.first_ns) / 1e9
                if before or (facet.startswith(FLAG) and known_for >= self._config.joined):
                    changed[facet] = (before, value)
        return changed

    def _deployed(
        self, place: _Place, release: Release, changed: dict[str, tuple[str, str]], now_ns: int
    ) -> list[Deployment]:
        """What the changes are, without those that belong to a deployment before."""
        software = next((what for what in STRONGEST if what in changed), "")
        if software and self._belongs(place, software, now_ns):
            software = ""
        flags = [what for what in changed if what.startswith(FLAG)]
        found = []
        for what in (*([software] if software else []), *flags):
            deployment = Deployment(release.service, what, *changed[what], now_ns, release.instance)
            found.append(deployment)
            self._kept.append(deployment)
            self._newest[release.service, deployment.weak] = now_ns
        if software:
            place.last_what, place.last_ns = software, now_ns
        return found

    def _belongs(self, place: _Place, what: str, now_ns: int) -> bool:
        """Whether a change comes with the last deployment: a weaker one soon after it, or an instance after others."""
        joined_ns = int(self._config.joined * 1e9)
        if what == SCALED:
            return now_ns - max(place.last_ns, place.added_ns) <= joined_ns
        later = place.last_what != "" and now_ns - place.last_ns <= joined_ns
        return later and STRONGEST.index(what) > STRONGEST.index(place.last_what)

    # -- asking -------------------------------------------------------------------------------------------------------

    def recent(self, service: str, since_ns: int) -> tuple[Deployment, ...]:
        """The deployments of a service since then, the oldest first."""
        return tuple(one for one in self._kept if one.service == service and one.time_ns >= since_ns)

    def all_since(self, since_ns: int) -> tuple[Deployment, ...]:
        """All deployments since then, the oldest first."""
        return tuple(one for one in self._kept if one.time_ns >= since_ns)

    def widen(self, services: Iterable[str], event_ns: int) -> float:
        """By what factor baselines of what these services do together are wider now; 1 long after any deployment.

        It falls linearly. Scaling widens by half as much.
        """
        return max((self._widened(service, event_ns) for service in services), default=1.0)

    def _widened(self, service: str, event_ns: int) -> float:
        config, most = self._config, 0.0
        for weak, share in ((False, 1.0), (True, SCALED_SHARE)):
            at_ns = self._newest.get((service, weak))
            if at_ns is not None:
                most = max(most, share * (1 - max(event_ns - at_ns, 0) / 1e9 / config.widen_for))
        return 1.0 + (config.widen - 1.0) * most

    # -- state --------------------------------------------------------------------------------------------------------

    def state(self) -> Arrays:
        """All that is known, as JSON in an array of bytes."""
        tree = {
            "places": {name: asdict(place) for name, place in self._places.items()},
            "kept": [asdict(one) for one in self._kept],
            "newest": [[service, weak, at_ns] for (service, weak), at_ns in self._newest.items()],
        }
        return {"json": np.frombuffer(json.dumps(tree).encode(), np.uint8).copy()}

    def restore(self, arrays: Arrays) -> None:
        """Take over a state. Raises: StateError, and then this must not be used."""
        checked(arrays, {"json": (np.uint8, ("B",))})
        try:
            tree: dict[str, Any] = json.loads(arrays["json"].tobytes())
            self._places = {name: _Place(**place) for name, place in tree["places"].items()}
            self._kept = deque((Deployment(**one) for one in tree["kept"]), maxlen=MOST_KEPT)
            self._newest = {(service, bool(weak)): int(at_ns) for service, weak, at_ns in tree["newest"]}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StateError(f"expected deployments as JSON, got {arrays['json'].size} bytes") from error


def _touch(times: dict[str, int], name: str, now_ns: int, most: int) -> bool:
    """Note that a name was seen, in place; whether it is new. The one unseen for longest makes room."""
    new = name not in times
    if new and len(times) >= most:
        del times[min(times, key=lambda one: times[one])]
    times[name] = now_ns
    return new
