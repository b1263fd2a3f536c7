"""What the API shows of a running service, as plain values."""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_aiops import __version__
from otel_aiops.alerts import AlertViews
from otel_aiops.errors import BadInput, Overloaded
from otel_aiops.labels import Labels, text
from otel_aiops.lifecycle.dataset import Datasets
from otel_aiops.otlp.points import Kind
from otel_aiops.otlp.prometheus import MetricKind, prometheus_labels, prometheus_name
from otel_aiops.series.search import Search
from otel_aiops.series.wanted import Wanted
from otel_aiops.server.emit import LIVE_NS
from otel_aiops.watch import Anomaly, Together

if TYPE_CHECKING:
    from otel_aiops.app import Service
    from otel_aiops.batch.tracks import Track


FAULTS = {  # what should not be, since the start
    "bodies that could not be scored": "otel_aiops.step.failures",
    "points that could not be used": "otel_aiops.points.rejected",
    "spans that could not be used": "otel_aiops.spans.rejected",
    "log records that could not be used": "otel_aiops.log_records.rejected",
    "series that found the table full": "otel_aiops.series.refused",
    "bodies that the full disk refused": "otel_aiops.log.refused",
    "snapshots that failed": "otel_aiops.snapshot.failures",
    "rollouts that failed": "otel_aiops.rollout.failures",
}
FINGERPRINT = re.compile(r"[0-9a-f]{16}")
ROWS_A_LOOK = 2_000  # series that are looked at between two steps when one is searched
MOST_OTHERS = 1_000  # names that are remembered to offer them
WARM_POINTS = 500  # scored anew for one answer
LONG_WAIT_S = 20.0
LOOK_BACK_NS = 15 * 86_400_000_000_000  # two weeks, and what is shown
LOOK_AHEAD_NS = 86_400_000_000_000


@dataclass(frozen=True, slots=True)
class _Found:
    """A live series, its newest point, and what is said of it."""

    row: int
    labels: Labels
    latest: dict[str, Any] | None
    reason: str
    jobs: str


class Views:
    """The API's backend: every question is answered by the step loop, between two steps."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._alerts = AlertViews(service, self)
        self._thinking = threading.Lock()  # one long answer at a time, so that scoring keeps its share of the machine

    def not_ready(self) -> str | None:
        return self._service.ingest.paused

    def metrics(self) -> bytes:
        return self._service.exposition()

    def status(self) -> dict[str, Any]:
        service = self._service
        table, jobs = service.pipeline.table, service.pipeline.scorer.jobs
        return {
            "version": __version__,
            "data_dir": str(service.directory),
            "started_unix_s": service.started_ns / 1e9,
            "event_time_unix_s": service.pipeline.event_ns / 1e9,
            "sequence": service.sequence,
            "series": len(table),
            "series_limit": service.config.series.max_series,
            "points_scored": int(service.telemetry.value("otel_aiops.points.scored")),
            "anomalous": len(service.watch.anomalies()) if service.ingest.paused else self._anomalous(),
            "jobs": {"series": len(jobs), "series_limit": jobs.config.max_series, "waited": jobs.waited},
            "bytes_per_series": service.pipeline.engine.bytes_per_series,
            "log": {name: _number(value) for name, value in service.history.stats().items()},
            "damage": service.history.notes(),
            "faults": {what: round(service.telemetry.total(name)) for what, name in FAULTS.items()},
        }

    def _anomalous(self) -> int:
        return self._service.ask(lambda: len(self._service.watch.anomalies()))

    def anomalies(self, *, limit: int, offset: int = 0) -> dict[str, Any]:
        def answer() -> dict[str, Any]:
            found = self._service.watch.anomalies()
            return {"total": len(found), "anomalies": [self._anomaly(one) for one in found[offset : offset + limit]]}

        return self._service.ask(answer)

    def alerts(self, *, limit: int, offset: int = 0) -> dict[str, Any]:
        return self._alerts.alerts(limit, offset)

    def budgets(self) -> dict[str, Any]:
        return self._alerts.budgets()

    def objectives(self) -> dict[str, Any]:
        return self._alerts.objectives()

    def verdicts(self, *, limit: int, offset: int = 0) -> dict[str, Any]:
        return self._alerts.verdicts(limit, offset)

    def judge(self, tree: Any) -> dict[str, Any]:
        return self._alerts.judge(tree)

    def row(self, series: str) -> int:
        """The row of the live series that someone names. Raises: BadInput when not exactly one is meant."""
        return self._find(Wanted(series)).row

    def pulse(self) -> dict[str, int]:
        """Numbers that are others when something has changed; read without waiting for the step loop."""
        changes = self._service.chronicle.changes
        counts = {name: changes[name] for name in ("incidents", "alerts", "verdicts", "models")}
        counts["responses"] = self._service.responder.ledger.changes
        counts["runs"] = int(self._service.retrainer.busy)
        return {"telemetry": self._service.sequence, **counts}

    def quality(self) -> dict[str, Any]:
        """What the stream of every service is like since the start, and who fills the table of series."""

        def answer() -> dict[str, Any]:
            pipeline = self._service.pipeline
            found = [asdict(one) for one in pipeline.quality.report(renew=False)]
            return {
                "services": [{key: _number(value) for key, value in one.items()} for one in found],
                "series": asdict(pipeline.table.cardinality()),
            }

        return self._service.ask(answer)

    def search(self, words: str, service: str, *, after: int, limit: int) -> dict[str, Any]:
        """Series with all words in their name, service or labels, a page at a time; some at a look."""
        wanted, table = Search(words, service), self._service.pipeline.table
        page: list[dict[str, Any]] = []

        def look(start: int) -> int:
            rows = table.live()
            rows = rows[np.searchsorted(rows, start) :][:ROWS_A_LOOK]
            for row in rows.tolist():
                if wanted.takes(table, row):
                    if len(page) == limit:
                        return int(row)
                    page.append(self._described(row))
            return int(rows[-1]) + 1 if len(rows) else table.size

        start = after + 1
        while start < table.size and len(page) < limit:
            start = self._service.ask(partial(look, start))
        return {"series": page, "next": start - 1 if start < table.size else None}

    def series(self, *, after: int, limit: int, source: bool) -> dict[str, Any]:
        def answer() -> dict[str, Any]:
            table = self._service.pipeline.table
            page: list[dict[str, Any]] = []
            row = after + 1
            while row < table.size and len(page) < limit:
                if table.is_live(row) and not (source and not table.is_head(row)):
                    page.append(self._source(row) if source else self._described(row))
                row += 1
            return {"series": page, "next": row - 1 if row < table.size else None}

        return self._service.ask(answer)

    def services(self) -> dict[str, Any]:
        def answer() -> dict[str, Any]:
            since_ns = self._service.pipeline.event_ns - LIVE_NS
            return {"services": [self._together(one) for one in self._service.watch.together(since_ns)]}

        return self._service.ask(answer)

    def explain(self, fingerprint: int) -> dict[str, Any] | None:
        def answer() -> dict[str, Any] | None:
            row = self._service.pipeline.table.find(fingerprint)
            if row is None:
                return None
            anomaly = self._service.watch.anomaly(row)
            reason = anomaly.reason if anomaly else self._service.pipeline.note(row)
            return {
                **self._described(row),
                "anomaly": self._anomaly(anomaly) if anomaly else None,
                "reason": reason,
                "jobs": self._service.pipeline.scorer.jobs.note(row),
                **self._alerts.of_series(fingerprint),
            }

        return self._service.ask(answer)

    def why(self, series: str, time: str) -> dict[str, Any]:
        from otel_aiops.batch.explain import explain, with_live
        from otel_aiops.batch.times import moment_ns

        with self.alone():
            found = self._find(Wanted(series))
            newest_ns = found.latest["time_ns"] if found.latest else self._service.pipeline.event_ns
            at_ns = moment_ns(time, newest_ns)
            track = self._track(found, at_ns)
            config = self._service.config
            told = explain(track, at_ns, config.detection, jobs=config.jobs, warm_points=WARM_POINTS)
        return with_live(told, found.latest, found.reason, found.jobs).to_json()

    def forecast(self, series: str, asked: dict[str, str]) -> dict[str, Any]:
        from otel_aiops.batch.outlook import outlook
        from otel_aiops.config import duration

        try:
            limit = float(asked["limit"]) if "limit" in asked else None
        except ValueError:
            raise BadInput(f"limit: expected a number, got {asked['limit']!r}") from None
        direction = asked.get("direction", "above")
        if direction not in ("above", "below"):
            raise BadInput(f"direction: expected above or below, got {direction!r}")
        with self.alone():
            found = self._find(Wanted(series))
            newest_ns = found.latest["time_ns"] if found.latest else self._service.pipeline.event_ns
            return outlook(
                self._track(found, newest_ns),
                horizon_s=duration(asked.get("horizon", "1d")),
                step_s=duration(asked["step"]) if "step" in asked else None,
                limit=limit,
                direction="above" if direction == "above" else "below",
            ).to_json()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Make one long answer at a time. Raises: Overloaded."""
        if not self._thinking.acquire(timeout=LONG_WAIT_S):
            raise Overloaded("other long answers are being made; ask again later")
        try:
            yield
        finally:
            self._thinking.release()

    def _track(self, found: _Found, at_ns: int) -> Track:
        """The recorded points around a time; read beside the step loop."""
        from otel_aiops.batch.tracks import track

        start_ns, end_ns = at_ns - LOOK_BACK_NS, at_ns + LOOK_AHEAD_NS
        return track(found.labels, *self._service.history.points(found.labels.to_json(), start_ns, end_ns))

    def _find(self, wanted: Wanted) -> _Found:
        """The live series that is wanted. Raises: BadInput when not exactly one is."""
        from otel_aiops.batch.tracks import choose

        if FINGERPRINT.fullmatch(wanted.text):
            return self._found(self._known(wanted.text))

        matching: list[tuple[int, Labels]] = []
        others: dict[str, Labels] = {}
        table = self._service.pipeline.table
        for start in range(0, table.size, ROWS_A_LOOK):
            some, rest = self._service.ask(partial(self._matching, wanted, start))
            matching += some
            others = {**rest, **others} if len(others) < MOST_OTHERS else others
        labels = [one for _, one in matching]
        return self._found(matching[choose(wanted, labels, [*labels, *others.values()])][0])

    def _known(self, fingerprint: str) -> int:
        """The row of a fingerprint. Raises: BadInput."""
        row = self._service.ask(lambda: self._service.pipeline.table.find(int(fingerprint, 16)))
        if row is None:
            raise BadInput(f"series: expected a known one, got the fingerprint {fingerprint}, which no series has")
        return row

    def _found(self, row: int) -> _Found:
        def answer() -> _Found:
            anomaly = self._service.watch.anomaly(row)
            reason = anomaly.reason if anomaly else self._service.pipeline.note(row)
            jobs = self._service.pipeline.scorer.jobs.note(row)
            return _Found(row, self._labels(row), self._service.watch.latest(row), reason, jobs)

        return self._service.ask(answer)

    def _matching(self, wanted: Wanted, start: int) -> tuple[list[tuple[int, Labels]], dict[str, Labels]]:
        """(rows that match, one of each other name) of some rows of the table; in the step loop, so only of some."""
        table = self._service.pipeline.table
        matching: list[tuple[int, Labels]] = []
        others: dict[str, Labels] = {}
        for row in range(start, min(start + ROWS_A_LOOK, table.size)):
            if not table.is_live(row):
                continue
            name = table.source(row).stream.name
            if wanted.name.startswith(name) or not wanted.name:
                labels = table.labels(row)
                if wanted.matches(labels):
                    matching.append((row, labels))
                    continue
            if name not in others:
                others[name] = table.labels(row)
        return matching, others

    def backfill(self, body: bytes, compression: str) -> dict[str, Any]:
        return {"points": self._service.ingest.backfill(body, compression)}

    def selftest(self) -> dict[str, Any] | None:
        return self._service.checkup.latest

    def datasets(self) -> dict[str, Any]:
        datasets = self._datasets()
        return {"datasets": [one.summary() for one in datasets.list()], "damaged": datasets.damaged()}

    def dataset(self, name: str) -> dict[str, Any] | None:
        try:
            found = self._datasets().load(name)
        except BadInput:
            return None
        return found.to_json() | {"trainable": found.trainable}

    def _datasets(self) -> Datasets:
        return Datasets.of(self._service.directory)

    def _anomaly(self, anomaly: Anomaly) -> dict[str, Any]:
        labels = self._labels(anomaly.row)
        return {
            "fingerprint": self._fingerprint(anomaly.row),
            "series": str(labels),
            "service": labels.service,
            "score": anomaly.score,
            "peak": anomaly.peak,
            "probability": _number(anomaly.probability),
            "value": _number(anomaly.value),
            "channel": anomaly.channel,
            "reason": anomaly.reason,
            "since": anomaly.since_ns / 1e9,
            "time": anomaly.time_ns / 1e9,
        }

    def _together(self, one: Together) -> dict[str, Any]:
        """The joint score of a service, and the series that contributed most to it."""
        scores, k = one.scores, one.k
        labels = self._labels(one.rows[0])
        joint = self._service.pipeline.groups.joint
        resource = dict(labels.resource)
        return {
            "service": labels.service,
            "namespace": text(resource.get("service.namespace")),
            "resource": {} if "service.name" in resource else {key: text(value) for key, value in resource.items()},
            "score": one.score,
            "probability": _number(float(scores.probability[k])),
            "series": int(scores.series[k]),
            "unusual": int(scores.unusual[k]),
            "contributors": [
                {
                    "fingerprint": self._fingerprint(row),
                    "series": str(self._labels(row)),
                    "share": float(scores.share[k, i]),
                    "score": float(scores.row_score[k, i]),
                }
                for i, row in enumerate(one.rows)
            ],
            "reason": joint.reason(scores, k, lambda row: str(self._labels(row))) if joint else "",
            "time": one.time_ns / 1e9,
        }

    def _described(self, row: int) -> dict[str, Any]:
        labels = self._labels(row)
        return {
            "fingerprint": self._fingerprint(row),
            "series": str(labels),
            "service": labels.service,
            "name": labels.name,
            "unit": labels.unit,
            "kind": labels.kind,
            "stat": labels.stat,
            "latest": self._service.watch.latest(row),
        }

    def _source(self, row: int) -> dict[str, Any]:
        """A stream with the bytes that identify it, and what Prometheus calls it."""
        labels = self._labels(row)
        source = self._service.pipeline.table.source(row)
        stream = source.stream
        kind: MetricKind = "counter" if stream.monotonic else "gauge" if stream.kind <= Kind.SUM else "histogram"
        return {
            "fingerprint": self._fingerprint(row),
            "prometheus": {
                "name": prometheus_name(labels.name, labels.unit, kind),
                "labels": prometheus_labels(labels),
            },
            "resource": base64.b64encode(stream.resource).decode(),
            "scope": base64.b64encode(stream.scope).decode(),
            "attributes": base64.b64encode(source.attributes).decode(),
            "name": stream.name,
            "unit": stream.unit,
            "kind": int(stream.kind),
            "temporality": int(stream.temporality),
            "monotonic": bool(stream.monotonic),
        }

    def _labels(self, row: int) -> Labels:
        return self._service.pipeline.table.labels(row)

    def _fingerprint(self, row: int) -> str:
        return f"{int(self._service.pipeline.table.fingerprint(np.array([row], np.int32))[0]):016x}"


def _number(value: Any) -> Any:
    """JSON has no NaN."""
    return value if value == value else None
