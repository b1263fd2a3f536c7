"""What a dashboard is made of: boards of panels, panels of queries, in few words and without Grafana."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Steps = tuple[tuple[float | None, str], ...]  # from this value on → colour; the first has no value
Kind = Literal["stat", "lines", "table", "bars", "states"]
Band = tuple[str, str]  # legends of its upper and lower end

PLAIN: Steps = ((None, "green"),)
NONE_IS_GOOD: Steps = ((None, "green"), (1, "red"))
SCORE: Steps = ((None, "green"), (0.8, "yellow"), (1, "red"))
SHARE_IS_GOOD: Steps = ((None, "red"), (0.5, "yellow"), (0.8, "green"))
SHARE_IS_BAD: Steps = ((None, "green"), (0.5, "yellow"), (0.8, "red"))

OURS = 'instance=~"$instance"'  # of which otel-aiops


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression and the name of what it gives; in a table the name is that of the column."""

    expr: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture. `says` tells its reader what it is, and where it can be empty."""

    kind: Kind
    title: str
    says: str
    queries: tuple[Query, ...]
    unit: str = "short"
    steps: Steps = PLAIN
    width: int = 8  # of 24
    height: int = 8
    band: Band | None = None  # lines: drawn as an area
    units: Mapping[str, str] | None = None  # table: column → unit, where it is another
    hidden: tuple[str, ...] = ()  # table: labels that are not shown


@dataclass(frozen=True, slots=True)
class Row:
    """A heading over the panels that follow."""

    title: str


@dataclass(frozen=True, slots=True)
class Variable:
    """What its reader chooses, by a query for the values of a label."""

    name: str
    label: str
    query: str
    many: bool = True  # several or all of them


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard; `name` is that of its file and the end of its uid."""

    name: str
    title: str
    says: str
    variables: tuple[Variable, ...]
    items: tuple[Panel | Row, ...]
    since: str = "now-24h"


def instances(metric: str) -> Variable:
    """Which otel-aiops, of those that have the metric."""
    return Variable("instance", "Instance", f"label_values({metric}, instance)")


def stat(title: str, says: str, expr: str, *, unit: str = "short", steps: Steps = PLAIN) -> Panel:
    """One number, six of which are a line."""
    return Panel("stat", title, says, (Query(expr),), unit, steps, width=4, height=4)


def lines(
    title: str, says: str, *queries: Query, unit: str = "short", steps: Steps = PLAIN, width: int = 8, height: int = 8
) -> Panel:
    """Numbers over time."""
    return Panel("lines", title, says, queries, unit, steps, width, height)


def quantiles(name: str, by: str, legend: str, *, window: str = "$__rate_interval") -> tuple[Query, ...]:
    """Median and 99th percentile of a histogram of ours."""
    labels = ", ".join(filter(None, ("le", by)))
    rate = f"sum by ({labels}) (rate({name}_bucket{{{OURS}}}[{window}]))"
    return tuple(Query(f"histogram_quantile({q}, {rate})", f"{word} {legend}".strip()) for q, word in QUANTILES)


QUANTILES = ((0.5, "median"), (0.99, "99th percentile"))
