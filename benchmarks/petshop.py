"""PetShop: causes of the recorded issues, ranked from metrics that come through OTLP, beside usual baselines.

`python -m benchmarks petshop --data DIR` reads `DIR/petshop` (Hardt et al., The PetShop dataset, CLeaR 2024):
`<scenario>/graph.csv`, `noissue/metrics.csv` and `<split>/issue_*/{metrics.csv,target.json}`, every scenario and split
that is there. For each issue the normal period and then, an hour later, its rows go through a pipeline as OTLP bodies,
one for each five minutes, stamped with the end of their interval: gauges of latency and availability and counts of
requests with the node as `service.name`, and the call graph as the Collector's service_graph connector reports it.
Then causes are ranked for the node and time of the complaint. The baselines read the tables themselves. All exclude
the node of the complaint, as the data set's authors do. nsigma is by mean and deviation, BARO by median and quartiles,
the traversal is the authors': anomalous nodes without an anomalous callee on an anomalous path.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from otel_aiops.incidents.blame import BlameConfig, blame
from otel_aiops.incidents.metrics import MetricEvidence, Symptom
from otel_aiops.incidents.roles import Role
from otel_aiops.labels import Labels
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.otlp.encode import encode_series, series_of
from otel_aiops.otlp.points import F64
from otel_aiops.pipeline import Pipeline, PipelineConfig

STEP_S, APART_S = 300.0, 3600.0
UNITS = {"latency": ("Average", "s"), "availability": ("Average", "%"), "requests": ("Sum", "{request}")}
ROLES = {"latency": Role.LATENCY, "availability": Role.AVAILABILITY}
NOT_INSTRUMENTED = "_remote"  # how X-Ray marks a node that sends no segments of its own
TOPS = (1, 3, 5)


@dataclass(frozen=True, slots=True)
class Scenario:
    """One recording: callees by caller, columns (node, metric), values of the normal rows (T, C)."""

    name: str
    calls: dict[str, list[str]]
    columns: list[tuple[str, str]]
    normal: F64


@dataclass(frozen=True, slots=True)
class Issue:
    """One complaint: rows (5, C), where the complaint was, seconds from the first row to it, and the cause."""

    scenario: Scenario
    split: str
    rows: F64
    node: str
    metric: str
    after_s: float
    cause: str


Ranking = list[tuple[str, float]]


def issues(folder: Path) -> Iterator[list[Issue]]:
    """All of each scenario that is below a folder, in order."""
    import pandas as pd

    for graph in sorted(folder.glob("*/graph.csv")):
        read = pd.read_csv(graph, index_col=0)
        calls = {str(a): [str(b) for b in read.columns if read.loc[a, b] and b != a] for a in read.index}
        normal = _table(graph.parent / "noissue/metrics.csv")
        paths = sorted(graph.parent.glob("*/issue_*"), key=lambda p: (p.parent.name, int(p.name.split("_")[1])))
        tables = [_table(path / "metrics.csv") for path in paths]
        columns = sorted(set(normal.columns).union(*(table.columns for table in tables)))
        scenario = Scenario(graph.parent.name, calls, columns, normal.reindex(columns=columns).to_numpy(float))
        found = []
        for path, table in zip(paths, tables, strict=True):
            told = json.loads((path / "target.json").read_text())
            values = table.reindex(columns=columns).to_numpy(float)
            target, after_s = told["target"], float(told["target"]["timestamp"] - table.index[0])
            cause = told["root_cause"]["node"]
            found.append(Issue(scenario, path.parent.name, values, target["node"], target["metric"], after_s, cause))
        yield found


def _table(path: Path) -> Any:
    """The columns that are sent, as (node, metric)."""
    import pandas as pd

    table = pd.read_csv(path, header=[0, 1, 2], index_col=0)
    wanted = [c for c in table.columns if UNITS.get(str(c[1]), ("",))[0] == c[2]]
    table = table[wanted].astype(float)
    table.columns = [(str(c[0]), str(c[1])) for c in wanted]
    return table


# -- ours, through OTLP ----------------------------------------------------------------------------------------------


class Road:
    """A pipeline with metric evidence behind it."""

    def __init__(self, scenario: Scenario) -> None:
        self.pipeline, self.evidence = Pipeline(PipelineConfig()), MetricEvidence()
        self._known: set[int] = set()
        self._columns = len(scenario.columns)
        edges = [(a, b) for a, callees in scenario.calls.items() for b in callees]
        self._series = [series_of(_gauge(*column)) for column in scenario.columns]
        self._series += [series_of(_edge(*edge)) for edge in edges]
        self._asked = 0

    def send(self, time_s: float, values: F64) -> None:
        """One row (C,) as a body of OTLP."""
        self._asked += 1
        edges = np.full(len(self._series) - self._columns, float(self._asked))
        both = np.r_[values, edges]
        index = np.flatnonzero(np.isfinite(both))
        time_ns = np.full(len(index), round(time_s * 1e9), np.int64)
        for request in encode_series(self._series, index, time_ns, both[index]):
            step = self.pipeline.metrics(decode_metrics(request.body).points, now_ns=int(time_ns[0]))
            for scored in step.scored:
                for row in scored.batch.rows.tolist():
                    if row not in self._known:
                        self._known.add(row)
                        self.evidence.assign(row, self.pipeline.table.labels(row))
                self.evidence.update(scored.batch)

    def copy(self, scenario: Scenario) -> Road:
        """Another one that goes on from here."""
        other = Road(scenario)
        other.pipeline.restore(self.pipeline.state())
        other.evidence.restore(self.evidence.state())
        other._known, other._asked = set(self._known), self._asked
        return other


def _gauge(node: str, metric: str) -> Labels:
    return Labels(metric, UNITS[metric][1], resource=(("service.name", node),))


def _edge(caller: str, callee: str) -> Labels:
    kind = (("connection_type", "virtual_node"),) if callee.endswith(NOT_INSTRUMENTED) else ()
    attributes = (("client", caller), *kind, ("server", callee))
    return Labels("traces_service_graph_request_total", kind="sum", attributes=tuple(sorted(attributes)))


def prepared(scenario: Scenario) -> Road:
    """The road after the normal period."""
    road = Road(scenario)
    for k, values in enumerate(scenario.normal):
        road.send(STEP_S * (1000 + k), values)
    return road


def ours(issue: Issue, normal: Road) -> Iterator[tuple[str, Ranking]]:
    """Our ranking, and what it is without its parts; every issue continues from the end of the normal period."""
    road = normal.copy(issue.scenario)
    first_s = STEP_S * (1000 + len(issue.scenario.normal)) + APART_S
    for k, values in enumerate(issue.rows):
        road.send(first_s + STEP_S * (k + 1), values)
    start_ns, end_ns = round((first_s + issue.after_s) * 1e9), round((first_s + STEP_S * len(issue.rows)) * 1e9)
    symptom = Symptom(issue.node, ROLES[issue.metric])
    found = road.evidence.evidence(start_ns, end_ns, symptom=symptom)
    calls, outside = road.evidence.calls(), road.evidence.outside()

    def ranked(evidence: Any, **more: Any) -> Ranking:
        return [one for one in blame(evidence, calls, **more) if one[0] != issue.node]

    yield "ours", ranked(found, symptom=issue.node, outside=outside)
    yield "ours, virtual nodes unknown", ranked(found, symptom=issue.node)
    yield (
        "ours, callees explain nothing",
        ranked(found, symptom=issue.node, outside=outside, config=BlameConfig(explained=0.0)),
    )
    plain = road.evidence.evidence(start_ns, end_ns)
    yield "ours, symptom not compared", ranked(plain, symptom=issue.node, outside=outside)
    yield "ours, evidence alone", ranked(plain, outside=())


# -- baselines -------------------------------------------------------------------------------------------------------


def _columns_of(issue: Issue, metric: str) -> dict[str, tuple[F64, F64]]:
    """(normal values, all rows of the issue) of a metric by node, where there are any."""
    found = {}
    for k, (node, name) in enumerate(issue.scenario.columns):
        normal = issue.scenario.normal[:, k]
        normal = normal[np.isfinite(normal)]
        if name == metric and len(normal) >= 10 and np.isfinite(issue.rows[:, k]).any():
            found[node] = normal, issue.rows[:, k]
    return found


def _ordered(issue: Issue, scores: dict[str, float]) -> Ranking:
    kept = [(node, score) for node, score in scores.items() if node != issue.node and np.isfinite(score)]
    return sorted(kept, key=lambda one: (-one[1], one[0]))


def by_deviation(center: Callable[[F64], float], scale: Callable[[F64], float]) -> Callable[[Issue], Ranking]:
    """Nodes by the largest deviation of the complaint's metric in the bad direction."""

    def ranked(issue: Issue) -> Ranking:
        sign = -1.0 if issue.metric == "availability" else 1.0
        return _ordered(
            issue,
            {
                node: float(np.nanmax(sign * (rows[2:] - center(normal)) / (scale(normal) or 1.0)))
                for node, (normal, rows) in _columns_of(issue, issue.metric).items()
                if np.isfinite(rows[2:]).any()
            },
        )

    return ranked


def _anomalous(issue: Issue) -> dict[str, float]:
    """The authors' detector: deviations of more than 5 MAD at the first row in which the complaint is anomalous."""
    z: dict[str, F64] = {}
    for node, (normal, rows) in _columns_of(issue, issue.metric).items():
        spread = 1.4826 * float(np.median(np.abs(normal - np.median(normal))))
        away = np.nan_to_num(np.abs(rows - np.median(normal)))
        z[node] = away / spread if spread > 0 else np.where(away > 0, 1e9 * away, 0.0)
    if issue.node not in z:
        return {}
    row = next((k for k in range(2, len(issue.rows)) if z[issue.node][k] > 5), None)
    return {node: float(values[row]) for node, values in z.items() if row is not None and values[row] > 5}


def traversal(issue: Issue) -> Ranking:
    """The authors' baseline."""
    anomalous = _anomalous(issue)
    found: dict[str, float] = {}

    def walk(node: str, path: Sequence[str]) -> None:
        callees = [c for c in issue.scenario.calls.get(node, []) if c in anomalous and c not in path]
        if not callees:
            found[node] = max(found.get(node, 0.0), sum(anomalous[n] for n in path))
        for callee in callees:
            walk(callee, (*path, callee))

    if anomalous:
        walk(issue.node, (issue.node,))
    return _ordered(issue, found)


def random_walk(issue: Issue) -> Ranking:
    """Personalised PageRank on the call graph with weights by correlation with the complaint."""
    columns = _columns_of(issue, issue.metric)
    nodes, target = sorted(columns), columns[issue.node][1]
    alike = np.full(len(nodes), 1e-3)
    for k, node in enumerate(nodes):
        rows = columns[node][1]
        both = np.isfinite(rows) & np.isfinite(target)
        if both.sum() > 2 and np.ptp(rows[both]) > 0 and np.ptp(target[both]) > 0:
            alike[k] += abs(np.corrcoef(rows[both], target[both])[0, 1])
    graph = np.array([[float(b in issue.scenario.calls.get(a, ())) for b in nodes] for a in nodes])
    moves = graph * alike + 0.1 * graph.T * alike + np.diag(alike) * 0.5
    moves /= moves.sum(axis=1, keepdims=True)
    start = np.array([float(node == issue.node) for node in nodes])
    at = start.copy()
    for _ in range(100):
        at = 0.85 * at @ moves + 0.15 * start
    return _ordered(issue, dict(zip(nodes, at.tolist(), strict=True)))


def _quartiles(x: F64) -> float:
    return float(np.subtract(*np.percentile(x, [75, 25])))


BASELINES: dict[str, Callable[[Issue], Ranking]] = {
    "nsigma": by_deviation(lambda x: float(np.mean(x)), lambda x: float(np.std(x))),
    "BARO": by_deviation(lambda x: float(np.median(x)), _quartiles),
    "random walk": random_walk,
    "authors' traversal": traversal,
}


def rankings(folder: Path) -> Iterator[tuple[Issue, str, Ranking]]:
    """(issue, method, ranking) of everything."""
    for of_scenario in issues(folder):
        if not of_scenario:
            continue
        road = prepared(of_scenario[0].scenario)
        for issue in of_scenario:
            yield from ((issue, name, ranking) for name, ranking in ours(issue, road))
            yield from ((issue, name, method(issue)) for name, method in BASELINES.items())


def table(folder: Path, *, verbose: bool) -> None:
    """Print one line a method, for each split and for each scenario and metric of it."""
    places: dict[tuple[str, str], dict[str, list[float]]] = {}
    for issue, name, ranking in rankings(folder):
        names = [node for node, _ in ranking]
        place = names.index(issue.cause) + 1 if issue.cause in names else np.inf
        for part in ("all", f"{issue.scenario.name} {issue.metric}"):
            places.setdefault((issue.split, name), {}).setdefault(part, []).append(place)
        if verbose and name == "ours":
            print(issue.split, issue.scenario.name, issue.metric, issue.cause, place, ranking[:4], flush=True)
    parts = sorted({part for by_part in places.values() for part in by_part} - {"all"})
    for (split, name), by_part in places.items():
        tops = " ".join(f"top-{k} {np.mean(np.array(by_part['all']) <= k):.2f}" for k in TOPS)
        own = "; ".join(f"{part} {np.mean(np.array(by_part[part]) <= 1):.2f}" for part in parts if part in by_part)
        print(f"{split:7} {name:30} {len(by_part['all']):3} {tops}   top-1 of {own}", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Print the tables; 2 without the folder of the data. `-v` also prints our first suspects of each issue."""
    if "--data" not in arguments[:-1]:
        print("expected --data DIR, with DIR/petshop in it", file=sys.stderr)
        return 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, on columns that are all absent
        table(Path(arguments[arguments.index("--data") + 1]) / "petshop", verbose="-v" in arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
