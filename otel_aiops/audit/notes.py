"""Notes of a step: with what each alert began, so that it can be compared when it is made again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from otel_aiops.detect.budget import per_week
from otel_aiops.detect.detector import CHANNELS
from otel_aiops.incidents.alert_note import AlertNote
from otel_aiops.labels import Labels

if TYPE_CHECKING:
    from otel_aiops.audit.configurations import Configured
    from otel_aiops.detect.scorer import Scored
    from otel_aiops.pipeline import Pipeline, Step

MOST_NOTED = 1_000  # of one step, the highest: when all is down at once, that is no time to write


def readable(series: str) -> str:
    """A series as people write it, from its canonical text; anything else as it is."""
    try:
        return str(Labels.from_json(series))
    except ValueError:
        return series


def noted(pipeline: Pipeline, step: Step, sequence: int, held: Configured, now_ns: int) -> tuple[AlertNote, ...]:
    """Of all alerts that begin in a step, the highest first where they are too many."""
    found = [(scored, k) for scored in step.batches() for k in _opened(scored)]
    if len(found) > MOST_NOTED:
        found = sorted(found, key=_height, reverse=True)[:MOST_NOTED]
    return tuple(note_of(pipeline, scored, k, sequence, held, now_ns) for scored, k in found)


def note_of(pipeline: Pipeline, scored: Scored, k: int, sequence: int, held: Configured, now_ns: int = 0) -> AlertNote:
    """Point k of a step that has just been done, as it was served."""
    row, scores, alerted = int(scored.batch.rows[k]), scored.scores, scored.alerted
    model = pipeline.serving.of(row)
    objective, _ = model.alerting.budget.objective(row)
    budgets = {one.name: one for one in model.alerting.budget.configs}
    nan = float("nan")
    return AlertNote(
        sequence=sequence,
        fingerprint=f"{int(pipeline.table.fingerprint(scored.batch.rows[k : k + 1])[0]):016x}",
        series=pipeline.table.labels(row).to_json(),
        time_ns=int(scored.batch.time_ns[k]),
        value=float(scored.batch.value[k]),
        score=float(scores.score[k]),
        alert=float(scores.alert[k]),
        probability=float(scores.probability[k]),
        expected=float(scores.expected[k]),
        lower=float(scores.lower[k]),
        upper=float(scores.upper[k]),
        channel=CHANNELS[int(scores.channel[k])],
        ratio=nan if alerted is None else float(alerted.ratio[k]),
        threshold=nan if alerted is None else float(alerted.threshold[k]),
        shift=0.0 if alerted is None or alerted.shift is None else float(alerted.shift[k]),
        objective=objective,
        budget=per_week(budgets[objective].budget),
        counted=alerted is not None and bool(alerted.counted[k]),
        version=model.name,
        role="champion" if model is pipeline.serving.champion else "canary",
        config=held.id,
        line=held.line,
        code=held.code,
        told_ns=now_ns,
    )


def _opened(scored: Scored) -> list[int]:
    if scored.alerted is None or not scored.alerted.opened.any():
        return []
    found: list[int] = np.flatnonzero(scored.alerted.opened).tolist()
    return found


def _height(one: tuple[Scored, int]) -> float:
    scored, k = one
    return float(scored.alerted.ratio[k]) if scored.alerted is not None else 0.0
