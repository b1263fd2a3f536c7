"""What comes before incidents, as the API shows it: types, how well they are foreseen, and by which signs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_aiops.incidents.precursors import Precursor, Training
from otel_aiops.incidents.signs import in_words

if TYPE_CHECKING:
    from otel_aiops.app import Service

NAMED = 5  # signs of a type that are told


class PrecursorViews:
    """Reads only; any thread."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def precursors(self, *, limit: int, offset: int = 0) -> dict[str, Any]:
        """All types of incidents that have been, those with a model first, then those with most incidents."""
        report = self._service.trainer.report
        models = self._service.ask(lambda: self._service.pipeline.analysis.forewarning.models)
        used = {model.type: model for model in models}
        config = self._service.config.incidents.precursors
        found = [_row(one, used.pop(one.type, None)) for one in report.trainings]
        found += [_row(_known(model, config.least_incidents), model) for model in used.values()]
        found.sort(key=lambda row: (not row["model"], -row["incidents"], row["type"]))
        return {
            "total": len(found),
            "types": found[offset : offset + limit],
            "needed": config.least_incidents,
            "enabled": config.enabled,
            "trained_at": report.time_ns / 1e9 if report.time_ns else None,
            "since": report.since_ns / 1e9 if report.time_ns else None,
            "signs": report.signs,
            "problem": report.problem,
        }


def _known(model: Precursor, needed: int) -> Training:
    """A model that is used, and of which there is no training since the start."""
    told = f"learned from {model.incidents} incidents before the last start"
    return Training(model.type, model.incidents, needed, model, told)


def _row(one: Training, model: Precursor | None) -> dict[str, Any]:
    """One type; `model` is what is used now."""
    row: dict[str, Any] = {
        "type": one.type,
        "incidents": one.incidents,
        "needed": one.needed,
        "model": model is not None,
        "reason": one.reason,
        "before": [],
    }
    if model is None:
        return row
    weights = sorted(zip(model.names, model.weight, strict=True), key=lambda pair: -pair[1])[:NAMED]
    early_s, lead_s, late_s = model.lead_s
    return row | {
        "before": [{"sign": in_words(name), "weight": round(w * model.slope, 4)} for name, w in weights if w > 0],
        "brier": model.brier,
        "base_brier": model.base_brier,
        "base_rate": model.base_rate,
        "horizon_s": model.horizon_s,
        "lead_s": {"p10": early_s, "p50": lead_s, "p90": late_s},
    }
