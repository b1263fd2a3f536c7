"""From a received body to an acknowledged one: inflate, decode, log durably, hand over to the step loop."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from otel_aiops.detect.lessons import Lesson
from otel_aiops.detect.serving import Load, Rollout
from otel_aiops.errors import Overloaded
from otel_aiops.incidents.codec import decode, encode
from otel_aiops.incidents.incident import Finding
from otel_aiops.incidents.precursors import Precursor, from_body, to_body
from otel_aiops.incidents.suppress import Decision
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.otlp.decode_logs import decode_logs
from otel_aiops.otlp.decode_spans import decode_traces
from otel_aiops.otlp.governance import Governance, GovernanceConfig
from otel_aiops.otlp.json_body import json_to_protobuf
from otel_aiops.otlp.log_records import RECORD_BYTES, LogRecords
from otel_aiops.otlp.memo import Memo
from otel_aiops.otlp.points import Points
from otel_aiops.otlp.spans import SPAN_BYTES, Spans
from otel_aiops.pipeline import Pipeline, Step
from otel_aiops.series.history import History
from otel_aiops.series.records import Compression, Format, Received, RecordKind
from otel_aiops.server import receiver
from otel_aiops.server.compression import inflate
from otel_aiops.server.receiver import Accepted, Signal

KINDS = {Signal.METRICS: RecordKind.METRICS, Signal.TRACES: RecordKind.TRACES, Signal.LOGS: RecordKind.LOGS}
SIGNALS = {
    RecordKind.METRICS: "metrics",
    RecordKind.BACKFILL: "metrics",
    RecordKind.TRACES: "traces",
    RecordKind.LOGS: "logs",
}
POINT_BYTES = 120  # of a decoded number point with its attributes; what a queue of them may weigh
GZIP_LEVEL = 1  # of bodies that came compressed and are written anew
TEXT_BYTES = 100  # of a distinct text of spans


@dataclass(frozen=True, slots=True)
class Body:
    """A decoded body: one kind of telemetry, or of what is told to the service; what was refused, and what mended."""

    points: Points | None
    items: int
    rejected: Mapping[str, int]
    lesson: Lesson | None = None
    spans: Spans | None = None
    logs: LogRecords | None = None
    decision: Decision | None = None
    rollout: Rollout | None = None
    precursors: tuple[Precursor, ...] | None = None
    findings: tuple[Finding, ...] | None = None
    mended: Mapping[str, int] = field(default_factory=dict)

    @property
    def weight(self) -> int:
        """Bytes that the decoded body holds while it waits."""
        if self.points is not None:
            return POINT_BYTES * len(self.points) + self.points.cells.nbytes
        if self.spans is not None:
            return SPAN_BYTES * len(self.spans) + self.spans.event_span.nbytes * 3 + TEXT_BYTES * len(self.spans.words)
        if self.logs is not None:
            return RECORD_BYTES * len(self.logs) + sum(map(len, self.logs.bodies))
        return 0


class Ingest:
    """Accepts bodies from any thread; says yes only when the log has them."""

    def __init__(self, history: History, *, limit_bytes: int, clock_ns: Callable[[], int]) -> None:
        self._history = history
        self._limit_bytes = limit_bytes
        self._clock_ns = clock_ns
        self._memo = Memo()
        self.governance = Governance(GovernanceConfig())
        self.paused: str | None = None  # why nothing is accepted now

    def accept(self, signal: Signal, body: receiver.Received) -> Accepted:
        """Take one OTLP request. Raises BadInput, TooLarge, Overloaded, StorageError."""
        received = Received(
            kind=KINDS[signal],
            received_ns=self._clock_ns(),
            body=body.payload,
            compression=Compression(body.compression or "identity"),
            format=Format.JSON if body.json else Format.PROTOBUF,
        )
        decoded = self._log(received)
        rejected = sum(decoded.rejected.values())
        return Accepted(decoded.items, rejected, explain(decoded.rejected))

    def backfill(self, payload: bytes, compression: str) -> int:
        """Take past points of known series; returns how many."""
        return self._log(
            Received(RecordKind.BACKFILL, self._clock_ns(), payload, Compression(compression or "identity"))
        ).items

    def learn(self, lesson: Lesson) -> int:
        """Take what operators teach; the sequence of the body, by which it is known when done."""
        return self._append(RecordKind.LESSON, lesson.to_bytes())

    def decide(self, decision: Decision) -> int:
        """Take what an operator decides about incidents; the sequence of the body, by which it is known when done."""
        return self._append(RecordKind.DECISION, json.dumps(encode(decision)).encode())

    def roll(self, order: Rollout) -> int:
        """Take an order about versions; the sequence of the body, by which it is known when done."""
        return self._append(RecordKind.ROLLOUT, order.to_bytes())

    def foretell(self, models: Sequence[Precursor]) -> int:
        """Take models of precursors, which replace all others; the sequence of the body."""
        return self._append(RecordKind.PRECURSORS, to_body(models))

    def know(self, findings: Sequence[Finding]) -> int:
        """Take what others alert about; the sequence of the body."""
        return self._append(RecordKind.ALERTS, json.dumps(encode(tuple(findings))).encode())

    def tick(self) -> None:
        """Log that time passed without data."""
        self._history.append(Received(RecordKind.TICK, self._clock_ns()), item=None, weight=0)

    def decode(self, received: Received) -> Body:
        """What a body holds; the same for a body that has just come and for one read back from the log."""
        if received.kind == RecordKind.TICK:
            return Body(None, 0, {})
        if received.kind == RecordKind.LESSON:
            lesson = Lesson.from_bytes(received.body)
            return Body(None, len(lesson), {}, lesson)
        if received.kind == RecordKind.DECISION:
            return Body(None, 1, {}, decision=decode(Decision, json.loads(received.body)))
        if received.kind == RecordKind.ROLLOUT:
            return Body(None, 1, {}, rollout=Rollout.from_bytes(received.body))
        if received.kind == RecordKind.PRECURSORS:
            models = from_body(received.body)
            return Body(None, len(models), {}, precursors=models)
        if received.kind == RecordKind.ALERTS:
            findings = tuple(decode(Finding, one) for one in json.loads(received.body))
            return Body(None, len(findings), {}, findings=findings)
        return self._decode(received, self._protobuf(received))

    def _protobuf(self, received: Received) -> bytes:
        """A request of telemetry as it is read."""
        data = inflate(received.body, received.compression.value, self._limit_bytes)
        return json_to_protobuf(SIGNALS[received.kind], data) if received.format == Format.JSON else data

    def _decode(self, received: Received, data: bytes) -> Body:
        if received.kind == RecordKind.TRACES:
            traces = decode_traces(data)
            return Body(None, len(traces.spans), traces.rejected, spans=traces.spans, mended=traces.mended)
        if received.kind == RecordKind.LOGS:
            logs = decode_logs(data)
            return Body(None, len(logs.records), logs.rejected, logs=logs.records, mended=logs.mended)
        decoded = decode_metrics(data, self._memo)
        return Body(decoded.points, len(decoded.points), decoded.rejected)

    def _append(self, kind: RecordKind, body: bytes) -> int:
        """Log what is not telemetry, also when it is empty."""
        if self.paused:
            raise Overloaded(self.paused)
        received = Received(kind, self._clock_ns(), body, format=Format.JSON)
        decoded = self.decode(received)
        return self._history.append(received, item=decoded, weight=decoded.weight)

    def _log(self, received: Received) -> Body:
        if self.paused:
            raise Overloaded(self.paused)
        received, decoded = self._governed(received)
        if decoded.items or decoded.rejected or decoded.mended:  # an empty request is a success that changes nothing
            self._history.append(received, item=decoded, weight=decoded.weight)
        return decoded

    def _governed(self, received: Received) -> tuple[Received, Body]:
        """A body as it may be stored, and what it holds. What stands in the log was governed when it came."""
        governance = self.governance
        if received.kind not in SIGNALS or not governance.config:
            return received, self.decode(received)
        data = self._protobuf(received)
        rewritten = governance.rewrite(SIGNALS[received.kind], data)
        if rewritten is not data:
            packed = received.compression != Compression.IDENTITY
            received = replace(
                received,
                body=gzip.compress(rewritten, GZIP_LEVEL, mtime=0) if packed else rewritten,
                compression=Compression.GZIP if packed else Compression.IDENTITY,
                format=Format.PROTOBUF,
            )
        return received, self._decode(received, rewritten)


def advance(pipeline: Pipeline, kind: RecordKind, body: object, received_ns: int, load: Load) -> Step:
    """What a record of the log does to the learned state; nothing else changes it, live or in a replay.

    Raises: BadInput of a decision, and AiopsError of a rollout, that cannot be carried out; then all is as it was.
    """
    if isinstance(body, Body):
        if body.lesson is not None:
            return pipeline.learn(body.lesson)
        if body.decision is not None:
            return pipeline.decide(body.decision)
        if body.rollout is not None:
            return pipeline.roll(body.rollout, load)
        if body.precursors is not None:
            return pipeline.foretell(body.precursors)
        if body.findings is not None:
            return pipeline.know(body.findings)
        if body.spans is not None:
            return pipeline.traces(body.spans, now_ns=received_ns)
        if body.logs is not None:
            return pipeline.logs(body.logs, now_ns=received_ns)
    if not isinstance(body, Body) or body.points is None:
        return pipeline.tick(now_ns=received_ns)
    if kind == RecordKind.BACKFILL:
        return pipeline.backfill(body.points, now_ns=received_ns)
    return pipeline.metrics(body.points, now_ns=received_ns)


def explain(rejected: Mapping[str, int]) -> str:
    """Why points were rejected, for the partial success of the answer."""
    return "; ".join(f"{count} rejected: {reason}" for reason, count in sorted(rejected.items()))
