"""What the pipeline says of a live shop: its incidents, step by step."""

from __future__ import annotations

from collections.abc import Callable

from otel_aiops.incidents.incident import Incident
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.otlp.decode_logs import decode_logs
from otel_aiops.otlp.decode_spans import decode_traces
from otel_aiops.otlp.memo import Memo
from otel_aiops.pipeline import Pipeline, PipelineConfig
from otel_aiops.shop import LiveShop


def incidents_of(
    shop: LiveShop, steps: int, sent: Callable[[int, bytes], bytes] = lambda step, traces: traces
) -> list[tuple[int, Incident]]:
    """(the step in which it was opened, its newest revision) of all incidents; `sent` is what becomes of traces."""
    pipeline, memo = Pipeline(PipelineConfig()), Memo()
    found: dict[str, tuple[int, Incident]] = {}
    for step in range(steps):
        metrics, traces, logs = shop.requests(step)
        now_ns = round(shop.time_s(step + 1) * 1e9)
        came = [*pipeline.metrics(decode_metrics(metrics, memo).points, now_ns=now_ns).incidents] if metrics else []
        came += pipeline.traces(decode_traces(sent(step, traces)).spans, now_ns=now_ns).incidents
        came += pipeline.logs(decode_logs(logs).records, now_ns=now_ns).incidents if logs else ()
        for incident in came:
            opened, _ = found.get(incident.id, (step, incident))
            found[incident.id] = (opened, incident)
    return list(found.values())
