"""Values that people and programs ask with: checked, with the key in every refusal."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Any, TypeVar

from otel_aiops.config import duration
from otel_aiops.errors import BadInput, ConfigError

LONGEST = 2_000  # characters of a text
MOST = 200  # values of a list
FURTHEST_S = 32_000_000_000.0  # the year 2984: nothing is asked of later times

E = TypeVar("E", bound=StrEnum)


def known_keys(asked: Any, known: Collection[str]) -> Mapping[str, Any]:
    """An object that has no other keys. Raises: BadInput."""
    if not isinstance(asked, dict):
        raise BadInput(f"expected an object with {', '.join(known)}, got {str(asked)[:100]!r}")
    unknown = sorted(set(asked) - set(known))
    if unknown:
        raise BadInput(f"{unknown[0]}: is not a known key; known here: {', '.join(known)}")
    return asked


def text(asked: Mapping[str, Any], key: str, *, needed: bool = False) -> str:
    """A text, "" where there is none. Raises: BadInput."""
    value = asked.get(key, "")
    if not isinstance(value, str) or len(value) > LONGEST:
        raise BadInput(f"{key}: expected a text of at most {LONGEST} characters, got {str(value)[:100]!r}")
    if needed and not value.strip():
        raise BadInput(f"{key}: expected a value, got none")
    return value


def texts(asked: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Texts: a list, or one text with commas between them. Raises: BadInput."""
    value = asked.get(key, ())
    found = [one.strip() for one in value.split(",")] if isinstance(value, str) else value
    if not isinstance(found, list | tuple) or len(found) > MOST:
        raise BadInput(f"{key}: expected a list of at most {MOST} texts, got {str(value)[:100]!r}")
    if not all(isinstance(one, str) and len(one) <= LONGEST for one in found):
        raise BadInput(f"{key}: expected texts of at most {LONGEST} characters, got {str(value)[:100]!r}")
    return tuple(one for one in found if one)


def words(asked: Mapping[str, Any], key: str, kind: type[E]) -> tuple[E, ...]:
    """Words of which there are only some. Raises: BadInput."""
    found = []
    for one in texts(asked, key):
        if one not in [str(word) for word in kind]:
            raise BadInput(f"{key}: expected one of {', '.join(kind)}, got {one[:100]!r}")
        found.append(kind(one))
    return tuple(found)


def yes(asked: Mapping[str, Any], key: str) -> bool:
    """Whether something is wanted; no unless it is said. Raises: BadInput."""
    value = asked.get(key, False)
    if value in (True, "true", "1"):
        return True
    if value in (False, "false", "0", ""):
        return False
    raise BadInput(f"{key}: expected true or false, got {value!r}")


def time_ns(asked: Mapping[str, Any], key: str, now_ns: int) -> int:
    """A time as ISO 8601, now, -2h or unix seconds; 0 where there is none. Raises: BadInput."""
    value = asked.get(key)
    if value in (None, ""):
        return 0
    if isinstance(value, int | float) and _finite(value) and 0 <= value <= FURTHEST_S:
        return round(value * 1e9)
    if not isinstance(value, str):
        raise BadInput(f"{key}: expected ISO 8601 or unix seconds, got {str(value)[:100]!r}")
    from otel_aiops.batch.times import moment_ns

    found = moment_ns(value[:LONGEST], now_ns, key)
    if not 0 <= found <= FURTHEST_S * 1e9:
        raise BadInput(f"{key}: expected a time from 1970 to 2983, got {value[:100]!r}")
    return found


def seconds(asked: Mapping[str, Any], key: str) -> float:
    """A span of time as 90s, 2h or a number of seconds; 0 where there is none. Raises: BadInput."""
    value = asked.get(key)
    if value in (None, ""):
        return 0.0
    try:
        found = duration(value) if isinstance(value, str) else float(value if _finite(value) else math.nan)
    except ConfigError:
        found = math.nan
    if not 0 < found <= FURTHEST_S:
        raise BadInput(f"{key}: expected a span of time such as 90s, 15m or 14d, got {str(value)[:100]!r}")
    return found


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
