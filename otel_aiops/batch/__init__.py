"""Telemetry that is there already: replayed, scored as files, or taught to a running service."""

from otel_aiops.batch.backfill import Backfill, Learned
from otel_aiops.batch.preview import Preview, preview
from otel_aiops.batch.recordings import Summary, replay
from otel_aiops.batch.score import ScoreSummary, score_file
from otel_aiops.batch.selftest import Outcome, self_test

__all__ = [
    "Backfill",
    "Learned",
    "Outcome",
    "Preview",
    "ScoreSummary",
    "Summary",
    "preview",
    "replay",
    "score_file",
    "self_test",
]
