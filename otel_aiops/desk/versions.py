"""Model versions as the API shows them: which are there, which run, how they compare, and changing that."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from otel_aiops import __version__
from otel_aiops.desk import asked as get
from otel_aiops.desk.live import Live
from otel_aiops.detect.raised import Raised
from otel_aiops.detect.serving import Action, Rollout
from otel_aiops.errors import BadInput, StateError
from otel_aiops.lifecycle.comparison import Comparison, Side, compare
from otel_aiops.lifecycle.report import PAGE, REPORT
from otel_aiops.lifecycle.version import Bundle, Lineage, ModelVersion, Settings

if TYPE_CHECKING:
    from otel_aiops.app import Service

KEYS = ("action", "version", "share", "who", "why")
MOST_SHOWN = 20  # alerts that only one version raised


class Versions:
    """Every method may be called from any thread; `roll` returns when the step loop has done it."""

    def __init__(self, service: Service, live: Live) -> None:
        self._service = service
        self._live = live

    def models(self) -> dict[str, Any]:
        """All versions that are registered, with what is wrong with those that cannot be read."""
        roles = self._roles()
        found = []
        for name in self._service.models.list():
            try:
                shown = self._shown(self._service.models.version(name), roles)
            except StateError as error:
                shown = {"id": name, "role": "refused", "problem": str(error)}
            found.append(shown)
        return {"total": len(found), "models": found}

    def model(self, name: str) -> dict[str, Any] | None:
        """One version, with its report; None where there is none. Raises: StateError when it was changed."""
        if name not in self._service.models.list():
            return None
        version = self._service.models.version(name)
        report = self._service.models.folder(name) / REPORT
        told = json.loads(report.read_bytes()) if report.exists() else None
        return {**self._shown(version, self._roles()), "settings": version.settings.to_json(), "report": told}

    def health(self) -> dict[str, Any]:
        """How the model that serves does, as of the newest look."""
        return self._service.monitor.health.to_json()

    def report_page(self, name: str) -> str | None:
        """The report of a version as a page; None where there is none."""
        if name not in self._service.models.list():
            return None
        path = self._service.models.folder(name) / PAGE
        return path.read_text("utf-8") if path.exists() else None

    def save(self, asked: Any) -> dict[str, Any]:
        """Register what serves as it is now, as a version. Raises: BadInput, StorageError."""
        asked = get.known_keys(asked, ("who", "why"))
        name = self._save(get.text(asked, "who", needed=True), get.text(asked, "why"))
        return self._shown(self._service.models.version(name), self._roles())

    def rollout(self) -> dict[str, Any]:
        """Who serves, what runs beside it, and how both do on the same points."""

        def answer() -> tuple[dict[str, Any], Comparison | None]:
            serving = self._service.pipeline.serving
            told = {
                "champion": serving.champion.name,
                "other": serving.other.name if serving.other else None,
                "role": serving.role,
                "share": serving.share,
                "previous": serving.previous or None,
                "since": serving.since_ns / 1e9 or None,
            }
            return told, compare(serving, self._service.pipeline.event_ns)

        told, comparison = self._service.ask(answer)
        advice = self._service.conductor.advice if comparison else None
        return {
            **told,
            "comparison": None if comparison is None else self._compared(comparison),
            "advice": None if advice is None else {"action": advice.action, "reasons": list(advice.reasons)},
        }

    def history(self, *, limit: int, offset: int = 0) -> dict[str, Any]:
        """What was done with versions, the latest first, each with its evidence. Raises: StorageError."""
        total, found = self._service.chronicle.journal.rollout_page(limit=limit, offset=offset)
        return {"total": total, "rollouts": [_told(one) for one in found]}

    def roll(self, asked: Any) -> dict[str, Any]:
        """Change which versions run. Raises: BadInput, StateError when a version is not what was registered."""
        asked = get.known_keys(asked, KEYS)
        who, why = get.text(asked, "who", needed=True), get.text(asked, "why")
        wanted = get.text(asked, "action", needed=True)
        if wanted not in list(Action):
            raise BadInput(f"action: expected one of {', '.join(Action)}, got {wanted[:100]!r}")
        share = asked.get("share", 0.0)
        if isinstance(share, bool) or not isinstance(share, int | float) or not math.isfinite(share):
            raise BadInput(f"share: expected a number, got {str(share)[:100]!r}")
        order = Rollout(
            action=Action(wanted),
            version=get.text(asked, "version"),
            share=float(share),
            time_ns=self._service.pipeline.event_ns,
            given_ns=self._service.clock_ns(),
            who=who,
            why=why,
        )
        now = self.rollout()
        self._possible(order, now)
        order = replace(order, evidence=json.dumps(now["comparison"]) if now["comparison"] else "")
        if not self._service.pipeline.serving.champion.name:  # register it as it is, so that there is a way back
            order = replace(order, champion=self._save(who, "what the service had learned by itself"))
        self._live.await_step(self._service.ingest.roll(order))
        return self.rollout()

    # -- one order ----------------------------------------------------------------------------------------------------

    def _possible(self, order: Rollout, now: Mapping[str, Any]) -> None:
        """See that an order can be carried out, before it is logged. Raises: BadInput, StateError."""
        running = [now["champion"], now["other"]]
        if order.action in (Action.SHADOW, Action.CANARY):
            if order.version == now["champion"]:
                raise BadInput(f"version: expected another than the champion, got {order.version}")
            if order.version not in running:
                version, _ = self._service.models.load(order.version)
                self._service.registrar.check(version)
        elif order.action == Action.PROMOTE and order.version != now["other"]:
            raise BadInput(f"version: expected the one beside the champion, {now['other']}, got {order.version}")
        elif order.action == Action.ROLLBACK and now["other"] is None:
            if now["previous"] is None:
                raise BadInput("expected a version before the champion, there was none")
            self._service.models.load(now["previous"])
        elif order.action == Action.STOP and now["other"] is None:
            raise BadInput("expected a version beside the champion, there is none")

    def _save(self, who: str, why: str) -> str:
        """Register the champion as it is now; the id of the version."""

        def answer() -> tuple[Settings, Bundle, Lineage]:
            pipeline = self._service.pipeline
            rows = pipeline.table.live()
            labels = [one.to_json() for one in pipeline.table.labels_of(rows)]
            known = pipeline.serving.champion.trained(rows, labels)
            bundle = Bundle.saved(known)
            parent = pipeline.serving.champion.name
            lineage = Lineage(parent=parent, code=__version__, until_ns=pipeline.event_ns, who=who, why=why)
            return Settings(pipeline.engine.config), bundle, lineage

        settings, bundle, lineage = self._service.ask(answer)
        if (bundle.forest or bundle.forecast) and lineage.parent in self._service.models.list():
            settings = replace(settings, families=self._service.models.version(lineage.parent).settings.families)
        return self._service.models.write(settings, bundle, lineage).id

    # -- what is shown ------------------------------------------------------------------------------------------------

    def _roles(self) -> Mapping[str, str]:
        serving = self._service.pipeline.serving
        roles = {serving.previous: "previous", serving.champion.name: "champion"}
        return roles | ({serving.other.name: serving.role} if serving.other else {})

    def _shown(self, version: ModelVersion, roles: Mapping[str, str]) -> dict[str, Any]:
        lineage = asdict(version.lineage)
        until_ns = lineage.pop("until_ns")
        known = self._service.registrar.known().get(version.id)
        return {
            "id": version.id,
            "role": roles.get(version.id, ""),
            "series": version.signature.series,
            "until": until_ns / 1e9 or None,
            "digest": version.digest,
            "lineage": lineage,
            "aliases": list(known.aliases) if known else [],
            "registered": known.number if known else None,
            "reported": (self._service.models.folder(version.id) / PAGE).exists(),
            "problem": None,
        }

    def _compared(self, found: Comparison) -> dict[str, Any]:
        names = self._names((*found.only_champion[:MOST_SHOWN], *found.only_other[:MOST_SHOWN]))
        return {
            "days": found.days,
            "champion": _side(found.champion),
            "other": _side(found.other),
            "alerts_of_both": found.both,
            "only_champion": [_alert(one, names) for one in found.only_champion[:MOST_SHOWN]],
            "only_other": [_alert(one, names) for one in found.only_other[:MOST_SHOWN]],
        }

    def _names(self, alerts: tuple[Raised, ...]) -> dict[int, str]:
        def answer() -> dict[int, str]:
            table = self._service.pipeline.table
            rows = {one.fingerprint: table.find(one.fingerprint) for one in alerts}
            return {series: str(table.labels(row)) for series, row in rows.items() if row is not None}

        return self._service.ask(answer)


def _told(order: Rollout) -> dict[str, Any]:
    told = {key: value for key, value in asdict(order).items() if key not in ("evidence", "time_ns", "given_ns")}
    evidence = json.loads(order.evidence) if order.evidence else None
    return {**told, "time": order.time_ns / 1e9, "given": order.given_ns / 1e9 or None, "evidence": evidence}


def _side(side: Side) -> dict[str, Any]:
    return {name: None if value != value else value for name, value in asdict(side).items()}  # NaN is no JSON


def _alert(one: Raised, names: Mapping[int, str]) -> dict[str, Any]:
    series = names.get(one.fingerprint, f"{one.fingerprint:016x}")
    return {"series": series, "since": one.since_ns / 1e9, "until": one.time_ns / 1e9, "peak": one.peak}
