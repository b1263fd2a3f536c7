"""Windows of time: from instant to instant, or at days and times of a time zone, right over its clock changes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

import numpy as np

from otel_aiops.detect.zones import DAY_NS, SECOND_NS, Zone
from otel_aiops.errors import ConfigError
from otel_aiops.otlp.points import I64, Bool

WindowValue = str | int | datetime | date | tuple[str, ...]  # YAML makes numbers and dates of some texts
WindowConfig = Mapping[str, WindowValue]  # start, end, days, from, to, tz

KEYS = ("start", "end", "days", "from", "to", "tz")
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
THURSDAY = DAYS.index("thu")  # the first day of 1970
DAY_S = 86_400
FIRST_NS, LAST_NS = -(2**63), 2**63 - 1

_DAY = re.compile(r"(mon|tues?|wed(nes)?|thu(rs)?|fri|sat(ur)?|sun)(day)?")
_CLOCK = re.compile(r"(\d{1,2}):([0-5]\d)(?::([0-5]\d))?")


@dataclass(frozen=True, slots=True)
class Window:
    """When something holds: between two instants, and within them on some days between two times of day.

    A window that ends at or before the time at which it starts runs over midnight, and its days are those on which it
    starts. Times are those of the clock on the wall: what is jumped over in spring does not happen, and what the
    clock shows twice in autumn holds twice.
    """

    zone: Zone
    start_ns: int = FIRST_NS
    end_ns: int = LAST_NS
    days: tuple[int, ...] = tuple(range(7))  # Monday is 0
    from_s: int = 0
    to_s: int = DAY_S

    def contains(self, time_ns: I64) -> Bool:
        """Which of K times are in it; the end is not."""
        inside: Bool = (time_ns >= self.start_ns) & (time_ns < self.end_ns)
        if len(self.days) == 7 and self.from_s == 0 and self.to_s == DAY_S:
            return inside
        local_ns = self.zone.local_ns(time_ns)
        day, second = local_ns // DAY_NS, local_ns % DAY_NS // SECOND_NS
        started, begun = self._on(day), second >= self.from_s
        if self.to_s > self.from_s:
            return inside & started & begun & (second < self.to_s)
        return inside & ((started & begun) | (self._on(day - 1) & (second < self.to_s)))

    def _on(self, day: I64) -> Bool:
        weekdays = np.array([weekday in self.days for weekday in range(7)], np.bool_)
        return weekdays[(day + THURSDAY) % 7]


def covers(windows: Sequence[Window], time_ns: I64) -> Bool:
    """Which of K times are in any of the windows."""
    inside = np.zeros(len(time_ns), np.bool_)
    for window in windows:
        inside |= window.contains(time_ns)
    return inside


def window(config: WindowConfig, *, tz: str = "UTC") -> Window:
    """The window that a configuration means; `tz` holds where it names none. Raises: ConfigError."""
    if unknown := sorted(set(config) - set(KEYS)):
        raise ConfigError(unknown[0], f"is not a known key; known here: {', '.join(sorted(KEYS))}")
    if not set(config) - {"tz"}:
        raise ConfigError("", "expected start, end, days, from or to; a window of all times holds always")
    zone = Zone(str(config.get("tz", tz)))
    start_ns = _instant(config, "start", zone, FIRST_NS)
    end_ns = _instant(config, "end", zone, LAST_NS)
    if end_ns <= start_ns:
        raise ConfigError("end", f"must be after start, got {config['end']} after {config.get('start')}")
    days = _days(config["days"]) if "days" in config else tuple(range(7))
    return Window(zone, start_ns, end_ns, days, _clock(config, "from", 0), _clock(config, "to", DAY_S))


def _instant(config: WindowConfig, key: str, zone: Zone, default: int) -> int:
    value = config.get(key)
    if value is None:
        return default
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ConfigError(key, f"expected an instant such as 2026-12-24T18:00:00Z, got {value!r}") from error
    if isinstance(at, date) and not isinstance(at, datetime):
        at = datetime.combine(at, time())
    if not isinstance(at, datetime) or not 1970 <= at.year <= 2261:
        raise ConfigError(key, f"expected an instant in 1970 to 2261 such as 2026-12-24T18:00:00Z, got {value!r}")
    if at.tzinfo is None:
        return zone.instant_ns(at)
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * DAY_S + since.seconds) * SECOND_NS + since.microseconds * 1_000


def _days(value: WindowValue) -> tuple[int, ...]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, tuple | list) or not names:
        raise ConfigError("days", f"expected days such as [sat, sun], got {value!r}")
    for name in names:
        if not _DAY.fullmatch(str(name).lower()):
            raise ConfigError("days", f"expected {', '.join(DAYS)}, got {name!r}")
    return tuple(sorted({DAYS.index(str(name)[:3].lower()) for name in names}))


def _clock(config: WindowConfig, key: str, default: int) -> int:
    """Seconds after midnight. YAML 1.1 reads a bare 10:30 as 630 and 10:30:00 as 37800, both in base sixty."""
    value = config.get(key)
    if value is None:
        return default
    seconds = -1
    if isinstance(value, int) and not isinstance(value, bool) and value >= 60:
        seconds = value * 60 if value <= 24 * 60 else value
    elif isinstance(value, str) and (match := _CLOCK.fullmatch(value)):
        seconds = int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3] or 0)
    if not 0 <= seconds <= DAY_S or (key == "from" and seconds == DAY_S):
        raise ConfigError(key, f'expected a time of day such as "01:00", got {value!r}')
    return seconds
