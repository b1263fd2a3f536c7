"""What expressions of rules and dashboards ask for, held against what the service emits."""

from __future__ import annotations

import re

from otel_aiops.otlp.prometheus import label_name
from otel_aiops.otlp.semconv import METRICS

COMMON = {"instance", "job", "__name__"}
OF_SERIES = re.compile(r"otel_aiops_(anomaly|alert|expected|value|forecast)")

EMITTED: dict[str, set[str]] = {}
for _metric in METRICS.values():
    _labels = {label_name(key) for key in _metric.attributes}
    if _metric.kind == "histogram":
        EMITTED |= {f"{_metric.prometheus}_{part}": _labels for part in ("sum", "count")}
        EMITTED[f"{_metric.prometheus}_bucket"] = _labels | {"le"}
    else:
        EMITTED[_metric.prometheus] = _labels


def checked(expression: str) -> int:
    """How many of our metrics an expression names; each is emitted, with the labels that are asked for.

    What is told of a series has the labels of that series too, which are anybody's.
    """
    found = re.findall(r"\b(otel_aiops_\w+)(?:\{([^}]*)\})?", expression)
    for name, matchers in found:
        assert name in EMITTED, f"{name} is not emitted"
        asked = set(re.findall(r"(\w+)\s*[=!]~?", matchers)) - COMMON - EMITTED[name]
        assert not asked or OF_SERIES.match(name), f"{name} has no labels {asked}"
    return len(found)


def substituted(expression: str, *, interval: str = "1m", span: str = "1h", **chosen: str) -> str:
    """An expression as Grafana sends it: with all values of every variable, unless one is chosen."""
    known = {"__rate_interval": interval, "__range": span, **chosen}
    return re.sub(r"\$([a-z_]\w*)", lambda found: known.get(found[1], ".*"), expression)
