"""Log news: which templates are new, lost or more frequent than usual, window by window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from otel_aiops.errors import ConfigError
from otel_aiops.otlp.points import I32, I64
from otel_aiops.series.columns import Arrays, Columns, checked

NewsKind = Literal["new", "lost", "surge"]

_LEARNED = 0.05  # weight of the newest window in the usual count
_SPREADS = 6.0  # above the usual count, from which on it is a surge
_KEPT_SPREADS = 3.0  # above it; a larger count is learned as that much, so that a surge does not soon become usual

# By template: dtype, shape, empty. Windows are those of its service: the ones in which that logged anything.
_TEMPLATE: dict[str, tuple[Any, tuple[int, ...], Any]] = {
    "seen": (np.int64, (), 0),  # windows with the template
    "first": (np.int64, (), 0),  # windows before its first
    "last": (np.int64, (), 0),  # windows up to its last
    "longest": (np.int64, (), 0),  # most windows between two of its own
    "usual": (np.float64, (), 0),  # count in a window
    "spread": (np.float64, (), 0),  # mean square of what it is off that
    "lost": (np.bool_, (), False),  # was told
}
_SERVICE: dict[str, tuple[Any, tuple[int, ...], Any]] = {"windows": (np.int64, (), 0)}


@dataclass(frozen=True, slots=True)
class NewsConfig:
    """What counts as news. All windows are ones in which the service logged: its silence is not news of a template."""

    known_windows: int = 30  # of a service, before a template of it can be new or surge
    lost_windows: int = 12  # with the template, before it can be lost; half as many it must be away
    lost_factor: float = 3.0  # times longer away than ever
    surge_count: int = 10  # records in a window
    surge_factor: float = 3.0  # times the usual count

    def __post_init__(self) -> None:
        for name in ("known_windows", "lost_windows", "surge_count"):
            if getattr(self, name) < 1:
                raise ConfigError(name, f"must be >= 1, got {getattr(self, name)}")
        for name in ("lost_factor", "surge_factor"):
            if not getattr(self, name) >= 1:
                raise ConfigError(name, f"must be >= 1, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class LogNews:
    """A template that is new, lost or much more frequent: `count` records in the window, usually `usual`."""

    service: int
    template: int
    kind: NewsKind
    text: str
    count: int
    severity: int  # class of severity, see templates.CLASS_NAMES
    usual: float


class Usual:
    """What is usual of each template: how often it comes, and how long it stays away. One writer.

    Is regular and away for several times its longest absence so far: of events that come independently such an absence
    has a probability of about 1 / n^3 after n windows.
    """

    def __init__(self, config: NewsConfig) -> None:
        self._config = config
        self._of = Columns(_TEMPLATE)
        self._services = Columns(_SERVICE)

    def step(self, here: I64, template: I64, count: I64, owner: I32) -> list[tuple[int, NewsKind, int, float]]:
        """(template, kind, count, usual count) of the news of a window, which is then learned from.

        Shape: here (S,) services that logged, sorted; template, count (K,); owner (T,): the service of each template.
        """
        self._of.reserve(len(owner))
        self._services.reserve(int(max(here.max(initial=0), owner.max(initial=0))) + 1)
        self._services.of["windows"][here] += 1
        present = np.flatnonzero(np.isin(owner, here))
        present = present[present > 0]
        now = np.zeros(len(owner), np.int64)
        now[template] = count
        usual = self._of.of["usual"].copy()
        surging = self._surging(present, now, owner)
        new = self._seen(template, owner)
        lost = self._lost(present, owner)
        self._learn(present, now)
        kinds: tuple[tuple[NewsKind, I64], ...] = (("lost", lost), ("new", new), ("surge", surging))
        found = sorted((k, kind) for kind, numbers in kinds for k in numbers.tolist())
        return [(k, kind, int(now[k]), float(usual[k])) for k, kind in found]

    def state(self, templates: int) -> Arrays:
        """What is known of so many templates, and of all services."""
        self._of.reserve(templates)
        services = {f"service_{name}": array for name, array in self._services.state(self._services.rows).items()}
        return self._of.state(templates) | services

    def restore(self, arrays: Arrays, templates: int) -> None:
        """Take over a state of so many templates. Raises: StateError."""
        expected = {name: (dtype, (templates, *shape)) for name, (dtype, shape, _) in _TEMPLATE.items()}
        checked(arrays, expected | {f"service_{name}": (spec[0], ("S",)) for name, spec in _SERVICE.items()})
        self._of, self._services = Columns(_TEMPLATE), Columns(_SERVICE)
        self._of.restore(arrays, templates)
        services = {name: arrays[f"service_{name}"] for name in _SERVICE}
        self._services.restore(services, len(services["windows"]))

    def _surging(self, present: I64, now: I64, owner: I32) -> I64:
        config, of = self._config, self._of.of
        count, usual = now[present], of["usual"][present]
        known = (of["seen"][present] > 0) & (self._since(present, owner) >= config.known_windows)
        high = usual + _SPREADS * np.sqrt(of["spread"][present] + usual + 1)
        much = (count >= config.surge_count) & (count > config.surge_factor * usual) & (count > high)
        return np.asarray(present[known & much])

    def _since(self, templates: I64, owner: I32) -> I64:
        """Windows of the service since a template's first, (K,)."""
        return np.asarray(self._services.of["windows"][owner[templates]] - self._of.of["first"][templates])

    def _seen(self, template: I64, owner: I32) -> I64:
        """Note which templates were seen; those that are new although their service has been known for a while."""
        of = self._of.of
        windows = self._services.of["windows"][owner[template]]
        first = of["seen"][template] == 0
        of["first"][template] = np.where(first, windows - 1, of["first"][template])
        away = np.where(first, 0, windows - of["last"][template] - 1)
        of["longest"][template] = np.maximum(of["longest"][template], away)
        of["last"][template] = windows
        of["seen"][template] += 1
        of["lost"][template] = False
        return np.asarray(template[first & (windows > self._config.known_windows)])

    def _lost(self, present: I64, owner: I32) -> I64:
        """Templates that have now been away for much longer than ever; each is told once."""
        config, of = self._config, self._of.of
        away = self._services.of["windows"][owner[present]] - of["last"][present]
        regular = of["seen"][present] >= config.lost_windows
        long = away >= np.maximum(config.lost_factor * (of["longest"][present] + 1), config.lost_windows / 2)
        lost = present[regular & long & ~of["lost"][present]]
        of["lost"][lost] = True
        return np.asarray(lost)

    def _learn(self, present: I64, now: I64) -> None:
        """Learn how many records of a template are usual, after it was first seen."""
        of = self._of.of
        rows = present[of["seen"][present] > 0]
        usual, spread = of["usual"][rows], of["spread"][rows]
        first = of["seen"][rows] * (now[rows] > 0) == 1
        most = usual + _KEPT_SPREADS * np.sqrt(spread + usual + 1)
        count = np.where(first, now[rows], np.minimum(now[rows], most))
        off = np.where(first, 0.0, count - usual)
        of["usual"][rows] = np.where(first, count, usual + _LEARNED * off)
        of["spread"][rows] = np.where(first, 0.0, (1 - _LEARNED) * (spread + _LEARNED * off * off))
