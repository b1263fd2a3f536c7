"""The peers of the table by name, each with what it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from benchmarks.detection import imitations, libraries
from benchmarks.detection.series import Series
from otel_aiops.otlp.points import F64

LIBRARY, IMITATION, SANITY = "library", "re-implementation", "sanity row"


@dataclass(frozen=True, slots=True)
class Peer:
    """A detector of one series at a time: (score of each row, bytes that it holds in the end).

    The score of a row depends on the rows up to it only. `package` must be installed for it.
    """

    title: str
    kind: str
    score: Callable[[Series], tuple[F64, int]]
    package: str = "numpy"


PEERS: Mapping[str, Peer] = MappingProxyType(
    {
        "hst": Peer("river HalfSpaceTrees", LIBRARY, libraries.half_space_trees, "river"),
        "iforest": Peer("scikit-learn IsolationForest", LIBRARY, libraries.isolation_forest, "sklearn"),
        "knn": Peer("PyOD KNN", LIBRARY, libraries.nearest_neighbours, "pyod"),
        "holt-winters": Peer("statsmodels Holt-Winters", LIBRARY, libraries.holt_winters, "statsmodels"),
        "netdata": Peer("Netdata k-means consensus", IMITATION, imitations.netdata),
        "grafana": Peer("Grafana adaptive bands", IMITATION, imitations.grafana),
        "robust": Peer("robust z, last 300", IMITATION, imitations.robust),
        "constant": Peer("constant", SANITY, imitations.constant),
        "random": Peer("random", SANITY, imitations.random),
    }
)
