"""Time zones: what clocks on the wall show, for arrays of times, with every change of clocks."""

from __future__ import annotations

from datetime import date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from otel_aiops.errors import ConfigError
from otel_aiops.otlp.points import I64

SECOND_NS = 1_000_000_000
DAY_NS = 86_400 * SECOND_NS
FIRST_YEAR, LAST_YEAR = 1970, 2099  # outside, the nearest known offset holds and every day is normal
EPOCH = date(1970, 1, 1)
DAYS = (date(LAST_YEAR + 1, 1, 1) - EPOCH).days
PROBE = timedelta(days=7)  # no zone changed its offset and back within a week


class Zone:
    """Local time of one zone of the IANA database. Raises: ConfigError for a zone that is not known."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.start_s, self.offset_s = _offsets(check_zone(name))

    def local_ns(self, time_ns: I64) -> I64:
        """What a clock on the wall shows, as ns since 1970-01-01 00:00 of that clock.

        Shape: any. The hour that is missing in spring is never shown; the doubled hour of autumn is shown twice.

        >>> clock = Zone("Europe/Berlin").local_ns(np.array([1_751_328_000 * SECOND_NS]))  # 2025-07-01 00:00 UTC
        >>> int(clock[0] // (3600 * SECOND_NS) % 24)
        2
        """
        i = np.searchsorted(self.start_s, time_ns // SECOND_NS, side="right") - 1
        return moved(time_ns, self.offset_s[i])

    def instant_ns(self, local: datetime) -> int:
        """When clocks there first show a time; one that they jump over counts by the offset before the jump."""
        return round(local.replace(tzinfo=check_zone(self.name)).timestamp()) * SECOND_NS + local.microsecond * 1_000


def moved(time_ns: I64, by_s: I64) -> I64:
    """Times moved by seconds; at the ends of what int64 holds they stay where they are."""
    week_ns = 8 * DAY_NS
    info = np.iinfo(np.int64)
    found: I64 = np.clip(time_ns, info.min + week_ns, info.max - week_ns) + by_s * SECOND_NS
    return found


def check_zone(name: str) -> ZoneInfo:
    """The zone of a name of the IANA database. Raises: ConfigError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:  # or a bad path, or a folder of names
        raise ConfigError("tz", f"expected a time zone such as Europe/Berlin, got {name!r}") from error


def _offsets(zone: tzinfo) -> tuple[I64, I64]:
    """(second of UTC from which an offset holds, that offset in seconds), both (changes + 1,)."""
    utc = ZoneInfo("UTC")

    def offset_s(second: int) -> int:
        local = (datetime(1970, 1, 1, tzinfo=utc) + timedelta(seconds=second)).astimezone(zone)
        return round((local.utcoffset() or timedelta()).total_seconds())

    step = int(PROBE.total_seconds())
    starts, offsets = [np.iinfo(np.int64).min], [offset_s(0)]
    for after in range(step, DAYS * 86_400, step):
        now = offset_s(after)
        if now == offsets[-1]:
            continue
        before = after - step
        while after - before > 1:
            middle = (before + after) // 2
            before, after = (middle, after) if offset_s(middle) == offsets[-1] else (before, middle)
        starts.append(after)
        offsets.append(now)
    return np.array(starts, np.int64), np.array(offsets, np.int64)
