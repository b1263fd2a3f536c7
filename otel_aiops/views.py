"""What the API shows of a running service, as plain values."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_aiops import __version__
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import Kind
from otel_aiops.otlp.prometheus import MetricKind, prometheus_labels, prometheus_name
from otel_aiops.watch import Anomaly

if TYPE_CHECKING:
    from otel_aiops.app import Service


class Views:
    """The API's backend: every question is answered by the step loop, between two steps."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def not_ready(self) -> str | None:
        return self._service.ingest.paused

    def metrics(self) -> bytes:
        return self._service.exposition()

    def status(self) -> dict[str, Any]:
        service = self._service
        table = service.pipeline.table
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
            "bytes_per_series": service.pipeline.engine.bytes_per_series,
            "log": {name: _number(value) for name, value in service.history.stats().items()},
            "damage": service.history.notes(),
        }

    def _anomalous(self) -> int:
        return self._service.ask(lambda: len(self._service.watch.anomalies()))

    def anomalies(self, *, limit: int) -> dict[str, Any]:
        def answer() -> dict[str, Any]:
            found = self._service.watch.anomalies()
            return {"total": len(found), "anomalies": [self._anomaly(one) for one in found[:limit]]}

        return self._service.ask(answer)

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

    def explain(self, fingerprint: int) -> dict[str, Any] | None:
        def answer() -> dict[str, Any] | None:
            row = self._service.pipeline.table.find(fingerprint)
            if row is None:
                return None
            anomaly = self._service.watch.anomaly(row)
            reason = anomaly.reason if anomaly else self._service.pipeline.engine.note(row)
            return {**self._described(row), "anomaly": self._anomaly(anomaly) if anomaly else None, "reason": reason}

        return self._service.ask(answer)

    def backfill(self, body: bytes, compression: str) -> dict[str, Any]:
        return {"points": self._service.ingest.backfill(body, compression)}

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


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if value == value else None
