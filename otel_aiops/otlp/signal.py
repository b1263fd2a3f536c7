"""Signal: the three kinds of telemetry that OTLP carries here, and their words on the wire."""

from __future__ import annotations

from enum import StrEnum


class Signal(StrEnum):
    """What a body holds."""

    METRICS = "metrics"
    TRACES = "traces"
    LOGS = "logs"

    @property
    def items(self) -> str:
        """What one item is called in the Collector's metrics: metric_points, spans or log_records."""
        return _WORDS[self][0]

    @property
    def rejected_field(self) -> str:
        """The field of a partial success that counts the rejected items."""
        return _WORDS[self][1]

    @property
    def export_method(self) -> str:
        """The path of the gRPC method that takes it."""
        word = _WORDS[self][2]
        return f"/opentelemetry.proto.collector.{word.lower()}.v1.{word}Service/Export"


_WORDS = {
    Signal.METRICS: ("metric_points", "rejected_data_points", "Metrics"),
    Signal.TRACES: ("spans", "rejected_spans", "Trace"),
    Signal.LOGS: ("log_records", "rejected_log_records", "Logs"),
}
