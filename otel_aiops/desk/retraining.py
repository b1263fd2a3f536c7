"""Runs of the lifecycle as the API shows them, and asking for one."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, get_args

from otel_aiops.desk import asked as get
from otel_aiops.errors import BadInput
from otel_aiops.lifecycle.circle import SettingsFrom

if TYPE_CHECKING:
    from otel_aiops.app import Service

KEYS = ("who", "why", "objective", "settings")


class Retraining:
    """Every method may be called from any thread."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def runs(self, *, limit: int, offset: int = 0) -> dict[str, Any]:
        """The runs of this data directory, the newest first, and whether one goes on or is due."""
        retrainer = self._service.retrainer
        found, holder = retrainer.runs.list(), retrainer.runs.holder()
        shown = []
        for one in found[offset : offset + limit]:
            state = "interrupted" if one.state == "running" and not holder else one.state
            steps = [{key: value for key, value in asdict(step).items() if key != "inputs"} for step in one.steps]
            shown.append({**one.summary(), "state": state, "steps": steps})
        return {
            "total": len(found),
            "running": holder or None,
            "automatic": self._service.config.lifecycle.retrain.enabled,
            "problem": retrainer.problem or None,
            "due": [asdict(one) for one in retrainer.needs],
            "runs": shown,
        }

    def order(self, asked: Any) -> dict[str, Any]:
        """Have a run begin in a moment. Raises: BadInput, Overloaded when one goes on."""
        asked = get.known_keys(asked, KEYS)
        who, why = get.text(asked, "who", needed=True), get.text(asked, "why")
        objective, settings = get.text(asked, "objective"), get.text(asked, "settings")
        known = [one.name for one in self._service.config.objectives]
        if objective and objective not in known:
            raise BadInput(f"objective: expected one of {', '.join(known) or 'none'}, got {objective[:100]!r}")
        if settings and settings not in get_args(SettingsFrom):
            raise BadInput(f"settings: expected one of {', '.join(get_args(SettingsFrom))}, got {settings[:100]!r}")
        self._service.retrainer.ask(who=who, why=why, objective=objective, settings=settings)
        return {"begins": True, "who": who, "why": why}
