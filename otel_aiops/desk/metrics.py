"""Own metrics of spans, log records, incidents, predictions and model versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from otel_aiops.incidents.incident import Incident, Severity, State
from otel_aiops.lifecycle.comparison import known_calibration_error, sides

if TYPE_CHECKING:
    from otel_aiops.app import Service

UNNAMED = "none"  # the version of what serves before there is one
MOST_SHOWN = 100  # incidents that have a series of their own, the earliest first


class Advance(Protocol):
    """Adds to a counter what has come since the last time."""

    def __call__(self, name: str, number: float, **attributes: str) -> None: ...


class IncidentMetrics:
    """Belongs to the step loop."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def tell(self, incidents: Iterable[Incident]) -> None:
        """Count what new revisions say."""
        telemetry = self._service.telemetry
        for one in incidents:
            if one.prediction is not None:
                self._tell_prediction(one)
            elif one.revision == 1:
                delay_s = max(0, one.detected_ns - one.start_ns) / 1e9
                telemetry.add("otel_aiops.incidents.opened", 1, state=one.state, severity=one.severity)
                telemetry.record("otel_aiops.incident.detection.delay", delay_s)

    def _tell_prediction(self, one: Incident) -> None:
        assert one.prediction is not None
        telemetry, what = self._service.telemetry, one.prediction.what
        if one.prediction.outcome == "hit":
            telemetry.add("otel_aiops.predictions.hit", 1, what=what)
            telemetry.record("otel_aiops.prediction.lead_time", max(0, one.end_ns - one.detected_ns) / 1e9, what=what)
        elif one.prediction.outcome == "miss":
            telemetry.add("otel_aiops.predictions.missed", 1, what=what)
        elif one.revision == 1:
            telemetry.add("otel_aiops.predictions.made", 1, what=what)

    def count(self, advance: Advance) -> None:
        """Show how things stand now."""
        service, telemetry = self._service, self._service.telemetry
        analysis = service.pipeline.analysis
        for reason, number in analysis.counts.items():
            advance("otel_aiops.signals.left_out", number, reason=reason)
        advance("otel_aiops.journal.failures", service.chronicle.failed)
        live = analysis.incidents.open()
        severities = Counter(one.severity for one in live)
        telemetry.replace_all("otel_aiops.incidents.open", {(str(one),): severities[one] for one in Severity})
        telemetry.replace_all("otel_aiops.incident.active", {_attributes(one): 1.0 for one in live[:MOST_SHOWN]})
        telemetry.set("otel_aiops.traces.waiting", len(analysis.traces))
        telemetry.set("otel_aiops.services.known", len(analysis.sources.services))
        telemetry.set("otel_aiops.operations.known", len(analysis.traces.operations))
        telemetry.set("otel_aiops.templates.known", len(analysis.logs.templates))
        telemetry.set("otel_aiops.service.edges", len(analysis.topology))
        self._count_predictions()
        self._count_models()

    def _count_predictions(self) -> None:
        analysis, telemetry = self._service.pipeline.analysis, self._service.telemetry
        standing = [one for one in analysis.incidents.predicted() if one.state is State.PREDICTED]
        telemetry.set("otel_aiops.predictions.standing", len(standing))
        telemetry.set("otel_aiops.precursors.models", len(analysis.forewarning.models))
        diagrams = {what: reliability.diagram() for what, reliability in analysis.reliability.items()}
        for name in ("predicted", "happened", "count"):
            numbers: dict[tuple[str, ...], float] = {
                (what, f"{low:.1f}"): float(value)
                for what, shown in diagrams.items()
                for low, value in zip(shown.low.tolist(), getattr(shown, name).tolist(), strict=True)
                if value == value
            }
            shown_as = "decided" if name == "count" else name
            telemetry.replace_all(f"otel_aiops.predictions.reliability.{shown_as}", numbers)

    def _count_models(self) -> None:
        pipeline, telemetry = self._service.pipeline, self._service.telemetry
        found = sides(pipeline.serving, pipeline.event_ns)
        info: dict[tuple[str, ...], float] = {(one.version or UNNAMED, role): 1.0 for role, one in found.items()}
        telemetry.replace_all("otel_aiops.model.info", info)
        off = zip(found, map(known_calibration_error, pipeline.serving.models), strict=True)
        numbers = {"over.ratio": {role: one.over_ratio for role, one in found.items()}, "calibration.error": dict(off)}
        for name, of in numbers.items():
            known: dict[tuple[str, ...], float] = {(role,): value for role, value in of.items() if value == value}
            telemetry.replace_all(f"otel_aiops.model.{name}", known)
        telemetry.replace_all("otel_aiops.model.alerts", {(role,): float(one.alerts) for role, one in found.items()})


def _attributes(incident: Incident) -> tuple[str, ...]:
    """In the order of semconv: id, service of the first suspect, severity, state."""
    suspect = incident.suspects[0].service if incident.suspects else ""
    return incident.id, suspect, str(incident.severity), str(incident.state)
