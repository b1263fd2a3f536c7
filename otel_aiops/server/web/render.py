"""Rendering: templates that escape whatever a sender has named, and how times and numbers are written."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from otel_aiops import __version__
from otel_aiops.labels import visible

HERE: Final = Path(__file__).parent
NONE: Final = "—"
SPANS: Final = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s"))
SIZES: Final = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def environment() -> Environment:
    """Everything is escaped, control characters are written out, and what is not there is an error."""
    found = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        finalize=_seen,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"when": when, "number": number, "span": span, "percent": percent, "size": size, "count": count}
    found.filters |= {"named": named, "told": told, "unit": unit, "host": host}
    found.globals |= {"version": __version__, "NONE": NONE}
    return found


def _seen(value: Any) -> Any:
    """What is put into a page, where it is text that was not made here."""
    return visible(value, keep="\n\t") if type(value) is str else value


def when(time_s: float | None) -> Markup:
    """A time of UTC; the script lets the pointer see the time of the reader.

    >>> when(1767614400.5)
    Markup('<time datetime="2026-01-05T12:00:00Z">2026-01-05 12:00:00</time>')
    """
    if not time_s:
        return Markup(NONE)
    try:
        moment = datetime.fromtimestamp(time_s, UTC)
    except (OverflowError, ValueError, OSError):
        return escape(time_s)
    return Markup('<time datetime="{}">{}</time>').format(f"{moment:%Y-%m-%dT%H:%M:%SZ}", f"{moment:%Y-%m-%d %H:%M:%S}")


def told(text: str) -> Markup:
    """A sentence in which names stand between backticks.

    >>> told("`GET /` of <web> fails")
    Markup('<code>GET /</code> of &lt;web&gt; fails')
    """
    text = visible(text, keep="\n\t")
    parts = text.split("`")
    if not len(parts) % 2:
        return escape(text)
    shown = (Markup("<code>{}</code>").format(one) if k % 2 else escape(one) for k, one in enumerate(parts))
    return Markup("").join(shown)


def named(series: str) -> tuple[str, str]:
    """The name of a series, and its labels as they are read.

    >>> named('latency:p95{route="/pay"}'), named("up{}")
    (('latency:p95', 'route="/pay"'), ('up', ''))
    """
    name, _, inner = series.partition("{")
    return name, inner.removesuffix("}")


def unit(text: str) -> str:
    """A unit of UCUM as people read it.

    >>> unit("{call}/s"), unit("1"), unit("By")
    ('call/s', '', 'B')
    """
    return {"1": "", "By": "B"}.get(text, text.replace("{", "").replace("}", ""))


def host(url: str) -> str:
    """The host of an address.

    >>> host("https://sso.example.com/realms/main")
    'sso.example.com'
    """
    return urlsplit(url).hostname or url


def number(value: Any, digits: int = 3) -> str:
    """A measured number in few digits.

    >>> number(1234567.0), number(0.12345), number(None), number(7), number(12.0)
    ('1,234,567', '0.123', '—', '7', '12')
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return NONE
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) >= 10**digits:
        return f"{value:,.0f}" if abs(value) < 1e12 else f"{value:.{digits}g}"
    return f"{value:.{digits}g}"


def count(value: int, one: str, many: str = "") -> str:
    """A number of things.

    >>> count(1, "incident"), count(2000, "incident")
    ('1 incident', '2,000 incidents')
    """
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def percent(value: float | None) -> str:
    """A share.

    >>> percent(0.614), percent(0.0004), percent(None)
    ('61 %', '0.04 %', '—')
    """
    if value is None or not math.isfinite(value):
        return NONE
    return f"{100 * value:.0f} %" if value >= 0.1 or value == 0 else f"{100 * value:.2g} %"


def span(seconds: float | None) -> str:
    """How long, in one or two units.

    >>> span(45.0), span(5400.0), span(90000.0), span(0.2)
    ('45 s', '1 h 30 min', '1 d 1 h', '0.2 s')
    """
    if seconds is None or not math.isfinite(seconds):
        return NONE
    if abs(seconds) < 1:
        return f"{seconds:.2g} s"
    left, parts = round(abs(seconds)), list[str]()
    for length, unit in SPANS:
        whole, left = divmod(left, int(length))
        if whole or parts:
            parts += [f"{whole} {unit}"] if whole else [""]
        if len(parts) == 2:
            break
    return ("-" if seconds < 0 else "") + " ".join(filter(None, parts))


def size(value: float | None) -> str:
    """Bytes.

    >>> size(512), size(5 << 20)
    ('512 B', '5 MiB')
    """
    if value is None:
        return NONE
    for least, unit in SIZES:
        if abs(value) >= least:
            return f"{value / least:.3g} {unit}"
    return f"{value:.0f} B"
