"""Recording rules of Prometheus that say how far a value is from the level that a version expects.

A rule scores a value as the version would score it alone, next after all that it has learned: it learns nothing, so it
is to be exported anew with each version. What needs memory of the newest points (shift, variance, flat lines, novelty)
cannot be written so; where one of these is stranger the service's score is higher, never lower. A season could be
written, as 168 hours that are told apart, but Prometheus needed five seconds for one look at such a rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops import __version__
from otel_aiops.detect.detector import LEVEL, SEASON
from otel_aiops.detect.deviation import MOST
from otel_aiops.detect.engine import Engine
from otel_aiops.detect.memory import HOURS
from otel_aiops.detect.seasonal import HOUR_NS
from otel_aiops.detect.serving import Trained
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import F64, I32
from otel_aiops.otlp.prometheus import prometheus_labels, prometheus_name
from otel_aiops.series.batch import Batch

RECORD = "otel_aiops:anomaly_score"
FAR = 3.0  # thresholds, at which level and season alone decide
ALIKE = 1e-9  # relative, of what is expected at each hour

# Why a series has no rule.
STAT = "rates and percentiles are calculated in another way in Prometheus"
COLD = "it is not warm, or has always been constant"
QUICK = "it goes by a quick level, which is another one with each point"
SEASONAL = "it goes by its season"


@dataclass(frozen=True, slots=True)
class Rules:
    """The file, and for how many series there is a rule, or why not."""

    text: str
    series: int
    refused: Counter[str]


def rules(name: str, trained: Trained, *, every: str = "1m") -> Rules:
    """Rules of the series of a version, evaluated `every` so often. Raises: StateError."""
    engine = Engine(trained.detection)
    engine.restore(trained.engine)
    labels = [Labels.from_json(text) for text in trained.labels]
    plain = [k for k, one in enumerate(labels) if not one.stat and one.kind in ("gauge", "sum")]
    refused = Counter({STAT: len(labels) - len(plain)})
    expected, band, channel = _probed(engine, np.array(plain, np.int32))
    found: list[str] = []
    for i, k in enumerate(plain):
        why = _why_not(expected[i], band[i], channel[i], float(trained.engine["deviation/level"][k]))
        if why:
            refused[why] += 1
        else:
            found.append(_rule(labels[k], name, float(expected[i, 0]), float(band[i, 0])))
    head = f"# Made by `otel-aiops export` of otel-aiops {__version__} from version {name}; export it anew with each.\n"
    body = f"groups:\n- name: otel_aiops_{name}\n  interval: {every}\n  rules:\n" if found else "groups: []\n"
    return Rules(head + body + "".join(found), len(found), +refused)


def refusals(found: Rules) -> Sequence[str]:
    """For people."""
    return [f"{count} series have no rule: {why}" for why, count in found.refused.most_common()]


def _probed(engine: Engine, rows: I32) -> tuple[F64, F64, NDArray[np.uint8]]:
    """(expected, band, channel of a value FAR from it) of R series in each hour of a week, (R, 168), as the engine
    itself says.
    """
    shape = (len(rows), HOURS)
    expected, band, channel = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, np.uint8)
    absent = np.full(len(rows), np.nan)
    start_ns = int(engine.newest_ns(rows).max(initial=0)) // HOUR_NS * HOUR_NS
    for hour in range(HOURS):
        time_ns = np.full(len(rows), start_ns + (hour + 1) * HOUR_NS)
        told = engine.score(Batch(rows, time_ns, np.zeros(len(rows)), absent))
        expected[:, hour], band[:, hour] = told.expected, told.upper - told.expected
        far = np.nan_to_num(told.expected + FAR * band[:, hour])
        channel[:, hour] = engine.score(Batch(rows, time_ns, far, absent)).channel
    return expected, band, channel


def _why_not(expected: F64, band: F64, channel: NDArray[Any], level: float) -> str:
    """Why a series has no rule, "" where it has one."""
    if (channel == SEASON).any():
        return SEASONAL
    if not (band > 0).all() or (channel != LEVEL).any():
        return COLD
    same = np.allclose(band, band[0], rtol=ALIKE, atol=0) and np.allclose(expected, level, rtol=ALIKE, atol=0)
    return "" if same else QUICK


def _rule(labels: Labels, version: str, expected: float, band: float) -> str:
    name = prometheus_name(labels.name, labels.unit, "gauge")
    pairs = ",".join(f"{key}={_quoted(value)}" for key, value in sorted(prometheus_labels(labels).items()))
    away = f"abs({name}{{{pairs}}} - {_number(expected)}) / {_number(band)}"
    # Below the threshold the score is the square, as in the engine.
    expression = f"clamp_max(({away}) * clamp_max({away}, 1), {MOST:g})"
    marks = {"anomaly_metric_name": labels.name, "anomaly_model": version}
    told = "".join(f"      {key}: {_quoted(value)}\n" for key, value in marks.items())
    return f"  - record: {RECORD}\n    expr: >-\n      {expression}\n    labels:\n{told}"


def _number(value: float) -> str:
    """With all its digits, so that nothing is lost on the way."""
    return repr(value) if value >= 0 else f"({value!r})"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
