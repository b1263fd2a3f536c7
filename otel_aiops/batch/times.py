"""Times as people write them: ISO 8601, now, or a span before now."""

from __future__ import annotations

from datetime import UTC, datetime

from otel_aiops.errors import BadInput, ConfigError


def moment_ns(text: str, newest_ns: int, key: str = "time") -> int:
    """A time in ns: ISO 8601 (UTC without a zone), "now" (the newest point), "-2h" before that, or unix seconds.

    Raises: BadInput that begins with `key`.

    >>> moment_ns("-2m", 300_000_000_000), moment_ns("1970-01-01T00:01:00Z", 0), moment_ns("90", 0)
    (180000000000, 60000000000, 90000000000)
    """
    from otel_aiops.config import duration

    text = text.strip()
    try:
        if text == "now":
            return newest_ns
        if text.startswith("-"):
            return newest_ns - round(duration(text[1:]) * 1e9)
        if text.replace(".", "", 1).isdigit():
            return round(float(text) * 1e9)
        at = datetime.fromisoformat(text)
        return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1_000_000) * 1000
    except (ValueError, ConfigError, OverflowError):
        raise BadInput(f"{key}: expected ISO 8601 as 2026-05-03T14:00:00Z, now or -2h, got {text!r}") from None
