"""The calendar: local time with daylight saving, and days that are not like their weekday, for many rows at once."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.policy import check_match
from otel_aiops.detect.zones import DAY_NS, DAYS, EPOCH, FIRST_YEAR, LAST_YEAR, SECOND_NS, Zone, check_zone, moved
from otel_aiops.errors import ConfigError
from otel_aiops.labels import Labels, Selector
from otel_aiops.otlp.points import I32, I64
from otel_aiops.series.columns import Columns

U8 = NDArray[np.uint8]

EPOCH_WEEKDAY = 3  # it was a Thursday; weeks begin on Monday
COUNTRY_YEARS = range(2000, 2061)
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
NORMAL, UNLIKE_ANY = 0, 8  # kinds of days; 1 .. 7 are like Monday .. Sunday
KINDS = {name: 1 + i for i, name in enumerate(WEEKDAYS)} | {"none": UNLIKE_ANY}
UNPLACED = 255  # the group of a row whose labels were not seen yet
MOST_GROUPS = 254


@dataclass(frozen=True, slots=True)
class SpecialDays:
    """Days that are like a certain weekday, or (`like: none`) like no other day."""

    days: tuple[str | date, ...]  # as in holidays
    like: str = "none"  # the weekday that these days are like; none for like no other day

    def __post_init__(self) -> None:
        _check_like(self.like)
        _all_days(self.days, "days")


@dataclass(frozen=True, slots=True)
class CalendarConfig:
    """The clock and the special days of a group of series."""

    match: Mapping[str, str | bool | int | float] = field(default_factory=dict)  # as in policies; {} is all series
    tz: str = "UTC"  # name of the IANA time zone that the people or machines behind the series live by
    holidays: tuple[str | date, ...] = ()  # 12-25, easter+1, 4th thu nov, 2026-05-04, 12-24..01-01, or a country: DE-BY
    like: str = "sunday"  # the weekday that a holiday is like; none for like no other day
    special: tuple[SpecialDays, ...] = ()  # days with another likeness; they count more than holidays

    def __post_init__(self) -> None:
        check_match(self.match)
        check_zone(self.tz)
        _check_like(self.like)
        _all_days(self.holidays, "holidays")


class Calendar:
    """Which clock each row lives by, and what kind of day it has; one byte a row.

    A row belongs to the first group whose `match` fits its labels, else to a last group with UTC and no special days.
    Rows that were not assigned are in that last group too. The group follows from the labels, so there is no state to
    save: assign every row again after a restore.

    Raises: ConfigError for more than 254 groups.
    """

    def __init__(self, configs: Sequence[CalendarConfig] = ()) -> None:
        if len(configs) > MOST_GROUPS:
            raise ConfigError("", f"expected at most {MOST_GROUPS} groups, got {len(configs)}")
        self._configs = (*configs, CalendarConfig())
        self._selectors = [Selector(config.match) for config in self._configs]
        names = sorted({config.tz for config in self._configs})
        zones = [Zone(name) for name in names]
        self._zone = np.array([names.index(config.tz) for config in self._configs], np.int64)
        # All zones in one sorted array, so that one search serves rows of different zones.
        self._key = np.concatenate([_key(np.int64(i), zone.start_s) for i, zone in enumerate(zones)])
        self._offset_s = np.concatenate([zone.offset_s for zone in zones])
        self._kinds = np.stack([_kinds(config) for config in self._configs])
        self._columns = Columns({"group": (np.uint8, (), UNPLACED)})
        self._trivial = not configs

    def __bool__(self) -> bool:
        """Whether there is more than UTC."""
        return not self._trivial

    def assign(self, row: int, labels: Labels) -> None:
        """Find the group of a row that now has these labels."""
        if self._trivial:
            return
        self._columns.reserve(row + 1)
        self._columns.of["group"][row] = self._group_of(labels)

    def forget(self, rows: I32) -> None:
        """Rows that are given to other series are in no group until they are assigned anew."""
        self._columns.clear(rows[rows < self._columns.rows])

    def local_ns(self, rows: I32, time_ns: I64) -> I64:
        """Local time of K rows at K times; the local hour of the week follows from it as from UTC."""
        if self._trivial:
            return time_ns.copy()
        return self._local_ns(self._groups(rows), time_ns)

    def day_kind(self, rows: I32, time_ns: I64) -> U8:
        """0 for a normal day, 1 .. 7 for one that is like Monday .. Sunday, 8 for one that is like no other; (K,)."""
        if self._trivial:
            return np.zeros(len(rows), np.uint8)
        group = self._groups(rows)
        return self._kind(group, self._local_ns(group, time_ns) // DAY_NS)

    def profile_ns(self, rows: I32, time_ns: I64) -> I64:
        """Local time of K rows, moved on special days to the weekday of the same week that they are like.

        This is what a seasonal profile is looked up by: a holiday then takes Sunday's values.
        """
        if self._trivial:
            return time_ns.copy()
        group = self._groups(rows)
        local_ns = self._local_ns(group, time_ns)
        day = local_ns // DAY_NS
        kind = self._kind(group, day)
        moves = (kind > NORMAL) & (kind < UNLIKE_ANY)
        days = np.where(moves, kind - 1 - (day + EPOCH_WEEKDAY) % 7, 0)
        return moved(local_ns, days * 86_400)

    def _groups(self, rows: I32) -> I64:
        known = self._columns.of["group"]
        if not len(known):
            return np.full(len(rows), len(self._configs) - 1, np.int64)
        group = known[np.minimum(rows, len(known) - 1)].astype(np.int64)
        return np.where(rows < len(known), np.minimum(group, len(self._configs) - 1), len(self._configs) - 1)

    def _local_ns(self, group: I64, time_ns: I64) -> I64:
        if not len(time_ns):
            return time_ns.copy()
        first, last = (self._interval(self._zone, edge // SECOND_NS) for edge in (time_ns.min(), time_ns.max()))
        if (first == last).all():  # as good as always: no clock changes while the times of one batch pass
            return moved(time_ns, self._offset_s[first][group])
        return moved(time_ns, self._offset_s[self._interval(self._zone[group], time_ns // SECOND_NS)])

    def _interval(self, zone: I64, second: np.int64 | I64) -> I64:
        """Which offset holds in zones at a time, or at a time each."""
        return np.searchsorted(self._key, _key(zone, second), side="right") - 1

    def _kind(self, group: I64, day: I64) -> U8:
        known = (day >= 0) & (day < DAYS)
        return np.where(known, self._kinds[group, np.where(known, day, 0)], np.uint8(NORMAL))

    def _group_of(self, labels: Labels) -> int:
        return next(i for i, selector in enumerate(self._selectors) if selector.matches(labels))


def days_of(rule: str | date) -> I64:
    """The days, since 1970-01-01 and up to 2099, of one entry of a list of holidays; sorted.

    A date (2026-05-04), a yearly rule (12-25, easter+1, 4th thu nov, last mon may, 4th thu nov +1), a range of two
    dates or two yearly rules (12-24..01-01, both ends included), or a country with or without its part (DE, US-CA).

    Raises: ConfigError that lists what is understood; or says that a country needs the package holidays.

    >>> [str(EPOCH + timedelta(days=int(day))) for day in days_of("easter+1")[-74:-72]]
    ['2026-04-06', '2027-03-29']
    """
    rule = rule.isoformat() if isinstance(rule, date) else rule.strip()
    if _COUNTRY.fullmatch(rule):
        return _country(rule)
    first, dots, last = (part.strip() for part in rule.partition(".."))
    starts, ends = _single(first), _single(last) if dots else None
    if starts is None or (dots and ends is None) or (ends is not None and (len(starts) == 1) != (len(ends) == 1)):
        raise ConfigError("", f"expected {_UNDERSTOOD}, got {rule!r}")
    if ends is None:
        return _within(starts)
    i = np.searchsorted(ends, starts)  # the end that comes after each start, maybe in the next year
    pairs = [(a, ends[j]) for a, j in zip(starts, i, strict=True) if j < len(ends)]
    if not pairs:
        raise ConfigError("", f"expected a range that ends after it starts, got {rule!r}")
    return _within(np.unique(np.concatenate([np.arange(a, b + 1) for a, b in pairs])))


_UNDERSTOOD = (
    "a date 2026-05-04, a yearly rule such as 12-25, easter+1, 4th thu nov or last mon may, "
    "a range 12-24..01-01, or a country such as DE or US-CA"
)
_COUNTRY = re.compile(r"([A-Z]{2})(?:-([A-Z0-9]{1,3}))?")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_YEARLY = re.compile(
    r"(?:(?P<month>\d\d)-(?P<day>\d\d)|(?P<easter>easter)"
    r"|(?P<nth>1st|2nd|3rd|4th|5th|last)\s+(?P<weekday>[a-z]{3,9})\s+(?P<of>[a-z]{3,9}))\s*(?P<plus>[+-]\s*\d{1,3})?"
)


def _single(rule: str) -> I64 | None:
    """The days of a date or a yearly rule, None when it is neither."""
    try:
        if _DATE.fullmatch(rule):
            return np.array([(date.fromisoformat(rule) - EPOCH).days], np.int64)
        found = _YEARLY.fullmatch(rule.lower())
        if found is None:
            return None
        plus = int((found["plus"] or "0").replace(" ", ""))
        # One year more on both sides: an offset or a range may reach over New Year.
        days = [_in_year(found, year) for year in range(FIRST_YEAR - 1, LAST_YEAR + 2)]
    except ValueError:
        return None
    return np.array([(day - EPOCH).days + plus for day in days if day is not None], np.int64)


def _in_year(rule: re.Match[str], year: int) -> date | None:
    """The day of a yearly rule in one year, None when that year has none. Raises: ValueError when no year has."""
    if rule["easter"]:
        return easter(year)
    if rule["month"]:
        month, number = int(rule["month"]), int(rule["day"])
        date(2000, month, number)  # a leap year: raises for what is no day of any year
        return None if (month, number) == (2, 29) and not _leap(year) else date(year, month, number)
    weekday = [name[:3] for name in WEEKDAYS].index(rule["weekday"][:3])
    month = 1 + MONTHS.index(rule["of"][:3])
    end = date(year + month // 12, month % 12 + 1, 1)
    if rule["nth"] == "last":
        return end - timedelta(days=1 + (end.weekday() - 1 - weekday) % 7)
    first = date(year, month, 1)
    day = first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (int(rule["nth"][0]) - 1))
    return day if day < end else None


def easter(year: int) -> date:
    """Easter Sunday of the Gregorian calendar. Source: Meeus, Astronomical Algorithms, chapter 8.

    >>> easter(2026).isoformat()
    '2026-04-05'
    """
    century, rest = divmod(year, 100)
    moon = (19 * (year % 19) + century - century // 4 - (century - (century + 8) // 25 + 1) // 3 + 15) % 30
    week = (32 + 2 * (century % 4) + 2 * (rest // 4) - moon - rest % 4) % 7
    late = (year % 19 + 11 * moon + 22 * week) // 451
    month, day = divmod(moon + week - 7 * late + 114, 31)
    return date(year, month, day + 1)


def _leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)


def _country(rule: str) -> I64:
    """Public holidays of a country, by the package holidays when it is there."""
    try:
        library = importlib.import_module("holidays")
    except ImportError as error:
        message = f"{rule!r} needs the package holidays (pip install holidays); or list the days instead"
        raise ConfigError("", message) from error
    country, _, part = rule.partition("-")
    try:
        found = library.country_holidays(country, subdiv=part or None, years=COUNTRY_YEARS)
    except NotImplementedError as error:  # its word for a country or part of one that it does not know
        raise ConfigError("", f"expected a country that the package holidays knows, got {rule!r}") from error
    return _within(np.array(sorted((day - EPOCH).days for day in found), np.int64))


def _within(days: I64) -> I64:
    return days[(days >= 0) & (days < DAYS)]


def _all_days(rules: Sequence[str | date], key: str) -> I64:
    """The days of all rules; ConfigError with the place of the wrong one."""
    found = [np.empty(0, np.int64)]
    for i, rule in enumerate(rules):
        try:
            found.append(days_of(rule))
        except ConfigError as error:
            raise ConfigError(f"{key}.{i}", error.message) from error
    return np.concatenate(found)


def _kinds(config: CalendarConfig) -> U8:
    """The kind of every day of a group, (DAYS,)."""
    kinds = np.zeros(DAYS, np.uint8)
    kinds[_all_days(config.holidays, "holidays")] = KINDS[config.like]
    for special in config.special:
        kinds[_all_days(special.days, "days")] = KINDS[special.like]
    return kinds


def _check_like(like: str) -> None:
    if like not in KINDS:
        raise ConfigError("like", f"expected a weekday or none, got {like!r}")


def _key(zone: np.int64 | I64, second: np.int64 | I64) -> I64:
    """Zone and time as one sortable number; times before 1970 or after 2242 count as those."""
    key: I64 = (zone << 33) + np.clip(second, 0, 2**33 - 1)
    return key
