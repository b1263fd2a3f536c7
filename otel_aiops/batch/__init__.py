"""Telemetry that is there already: replayed, scored as files, or taught to a running service."""

from otel_aiops.batch.backfill import Backfill, Learned
from otel_aiops.batch.recordings import Summary, replay
from otel_aiops.batch.score import ScoreSummary, score_file

__all__ = ["Backfill", "Learned", "ScoreSummary", "Summary", "replay", "score_file"]
