"""PromQL and MetricsQL as far as it names series: which metrics an expression reads, and what it makes of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from otel_aiops.errors import BadInput

Shape = Literal["series", "aggregate", "computed"]

AGGREGATES = {"avg", "bottomk", "count", "group", "max", "median", "min", "quantile", "stddev", "stdvar", "sum", "topk"}
KEEPING = {  # functions whose result is the series as it is scored here: a value, or the rate of a counter
    *("rate", "irate", "histogram_quantile", "default_rollup"),
    *("avg_over_time", "last_over_time", "max_over_time", "min_over_time"),
}
GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
WORDS = GROUPING | {
    "and",
    "or",
    "unless",
    "offset",
    "if",
    "ifnot",
    "default",
    "keep_metric_names",
    "limit",
    "inf",
    "nan",
}
ARITHMETIC = frozenset("+-*/%^")
LABELS = {"job": "service", "instance": "service.instance.id"}  # as the Collector's Prometheus receiver renames them

_TOKEN = re.compile(
    r"""\s+|\#[^\n]*
    |(?P<braces>\{(?:[^{}"'`]|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)*\})
    |(?P<range>\[[^\]]*\])
    |(?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)
    |(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[a-zA-Z]*(?:\d+[a-z]+)*)
    |(?P<name>[a-zA-Z_:][a-zA-Z0-9_:.]*)
    |(?P<sign>==|!=|<=|>=|[-+*/%^<>(),@])""",
    re.X,
)
_MATCHER = re.compile(
    r"""\s*(?P<key>[a-zA-Z_][\w.]*|"(?:\\.|[^"\\])*")\s*(?P<sign>=~|!~|!=|=)\s*
    (?P<value>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)\s*(?:,|$)""",
    re.X,
)
_ESCAPE = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True)
class Reading:
    """What an expression reads: `matches` are selectors in our words, one for each metric it names.

    `shape` says whether the result is the series itself, an aggregate over several, or computed from them.
    """

    matches: tuple[Mapping[str, str], ...]
    shape: Shape


def read(expression: str) -> Reading:
    """Find the series of an expression. Raises: BadInput if it cannot be read."""
    tokens = list(_tokens(expression))
    matches: list[Mapping[str, str]] = []
    called: set[str] = set()
    at = 0
    while at < len(tokens):
        kind, text = tokens[at]
        after = tokens[at + 1] if at + 1 < len(tokens) else ("", "")
        if kind == "name" and text.lower() in WORDS:
            at = _closing(tokens, at + 1) if text.lower() in GROUPING and after[1] == "(" else at
        elif kind == "name" and (after[1] == "(" or text.lower() in AGGREGATES | {"bool"}):
            called.add(text.lower())
        elif kind in ("name", "braces"):
            named, braces = (text, after[1] if after[0] == "braces" else "{}") if kind == "name" else ("", text)
            matches.append(_match(named, braces))
            at += kind == "name" and after[0] == "braces"
        at += 1
    if quantile := _quantile(tokens):
        matches = [_percentile(match, quantile) for match in matches]
    distinct = tuple(match for i, match in enumerate(matches) if match not in matches[:i])
    signs = {text for kind, text in tokens if kind == "sign"}
    return Reading(distinct, _shape(len(distinct), called, signs))


def _tokens(expression: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(expression):
        match = _TOKEN.match(expression, at)
        if match is None:
            raise BadInput(f"expected PromQL, got {expression[at : at + 20]!r} at character {at + 1}")
        if match.lastgroup:
            yield match.lastgroup, match.group()
        at = match.end()


def _closing(tokens: list[tuple[str, str]], at: int) -> int:
    """Where the bracket that opens at a token closes."""
    while at < len(tokens) - 1 and tokens[at][1] != ")":
        at += 1
    return at


def _shape(metrics: int, called: set[str], signs: set[str]) -> Shape:
    if metrics != 1 or signs & ARITHMETIC or called - KEEPING - AGGREGATES:
        return "computed"
    return "aggregate" if called & AGGREGATES else "series"


def _match(name: str, braces: str) -> Mapping[str, str]:
    """A metric name and label matchers as a selector."""
    found: dict[str, str] = {"name": name} if name else {}
    inside, at = braces[1:-1], 0
    while inside[at:].strip():
        match = _MATCHER.match(inside, at)
        if match is None:
            raise BadInput(f"expected label matchers, got {braces}")
        key, value = _unquoted(match["key"]), _unquoted(match["value"])
        key = "name" if key == "__name__" else LABELS.get(key, key)
        if key != "le":
            found[key] = _wanted(match["sign"], value)
        at = match.end()
    return found


def _wanted(sign: str, value: str) -> str:
    """A matcher as the value of a selector."""
    if sign == "=":
        return value if not value.startswith("~") else "~" + re.escape(value)
    if sign == "=~":
        return "~" + value
    return f"~(?!(?:{re.escape(value) if sign == '!=' else value})$).*"


def _quantile(tokens: list[tuple[str, str]]) -> float | None:
    """The quantile that is asked for when it is a number."""
    for i, (_, text) in enumerate(tokens[:-2]):
        if text.lower() == "histogram_quantile" and tokens[i + 2][0] == "number":
            return float(tokens[i + 2][1])
    return None


def _percentile(match: Mapping[str, str], quantile: float) -> Mapping[str, str]:
    """The series that is made of a histogram here: its name without the suffix, and the percentile as `stat`."""
    name = match.get("name", "")
    named = {"name": name.removesuffix("_bucket")} if name else {}
    return {**match, **named, "stat": f"p{100 * quantile:.10g}"}


def _unquoted(text: str) -> str:
    if text[0] == "`":
        return text[1:-1]
    return _ESCAPE.sub(r"\1", text[1:-1]) if text[0] in "\"'" else text
