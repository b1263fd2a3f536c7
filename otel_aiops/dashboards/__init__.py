"""Grafana's dashboards and alert rules as code; `python -m otel_aiops.dashboards grafana` writes them, with its SDK."""

from otel_aiops.dashboards import forecast, incident, models, overview, own, quality, responses, series
from otel_aiops.dashboards.board import Board

BOARDS: tuple[Board, ...] = (
    overview.BOARD,
    incident.BOARD,
    series.BOARD,
    forecast.BOARD,
    models.BOARD,
    quality.BOARD,
    responses.BOARD,
    own.BOARD,
)
