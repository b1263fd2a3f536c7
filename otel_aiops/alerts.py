"""Alerts, budgets and verdicts as the API shows and takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_aiops.desk.feedback import check_of
from otel_aiops.desk.live import Live
from otel_aiops.detect.alerts import DEVIATION_WEIGHT
from otel_aiops.detect.lessons import Lesson, Verdict
from otel_aiops.detect.raised import NEAR_NS, Raised
from otel_aiops.detect.verdicts import KINDS, SHORT
from otel_aiops.errors import BadInput

if TYPE_CHECKING:
    from otel_aiops.app import Service
    from otel_aiops.detect.budget import BudgetReport
    from otel_aiops.lifecycle.objective import Objective
    from otel_aiops.views import Views

MOST_VERDICTS = 1_000  # of one request
MOST_SHOWN = 50  # alerts and verdicts of one series
LONGEST_TEXT = 2_000  # characters of who and of a note
AHEAD_NS = 60_000_000_000  # clocks of people may be so much ahead
KEYS = ("series", "time", "verdict", "ratio", "by", "note", "of")


class AlertViews:
    """The part of the API's backend that is about alerts."""

    def __init__(self, service: Service, views: Views) -> None:
        self._service = service
        self._views = views

    def alerts(self, limit: int, offset: int = 0) -> dict[str, Any]:
        """The series that have an alert, the highest first."""

        def answer() -> dict[str, Any]:
            found = self._service.pipeline.alerting.ledger.active()
            return {"total": len(found), "alerts": [self._alert(one) for one in found[offset : offset + limit]]}

        return self._service.ask(answer)

    def budgets(self) -> dict[str, Any]:
        """Every objective, budget against actual, in the order in which they choose series."""

        def answer() -> dict[str, Any]:
            reports = self._service.pipeline.alerting.budget.reports()
            return {"budgets": [asdict(one) | {"crowd": self._crowd(k)} for k, one in enumerate(reports)]}

        return self._service.ask(answer)

    def objectives(self) -> dict[str, Any]:
        """Every objective, its id and keys, and how its budget is kept: None before the step loop knows of it."""

        def answer() -> dict[str, Any]:
            known = {one.name: one for one in self._service.pipeline.alerting.budget.reports()}
            return {"objectives": [_kept(one, known.get(one.name)) for one in self._service.config.objectives]}

        return self._service.ask(answer)

    def verdicts(self, limit: int, offset: int = 0) -> dict[str, Any]:
        """The newest verdicts, the newest first."""

        def answer() -> dict[str, Any]:
            found = self._service.pipeline.alerting.told()
            return {"total": len(found), "verdicts": [self._told(one) for one in found[offset : offset + limit]]}

        return self._service.ask(answer)

    def of_series(self, fingerprint: int) -> dict[str, Any]:
        """The alerts that a series had, and what was said of them, the newest first; in the step loop."""
        alerting = self._service.pipeline.alerting
        alerts = [one for one in alerting.ledger.since(0) if one.fingerprint == fingerprint]
        verdicts = [self._told(one) for one in alerting.told() if one.series == fingerprint]
        return {"alerts": [_had(one) for one in reversed(alerts[-MOST_SHOWN:])], "verdicts": verdicts[:MOST_SHOWN]}

    def judge(self, tree: Any) -> dict[str, Any]:
        """Take in one verdict or a list of them, all or none. Raises: BadInput that says what was expected."""
        given = tree if isinstance(tree, list) else [tree]
        if not 1 <= len(given) <= MOST_VERDICTS:
            raise BadInput(f"expected 1 to {MOST_VERDICTS} verdicts, got {len(given)}")
        several = isinstance(tree, list)
        resolved = [self._resolved(one, f"verdict {i}: " if several else "") for i, one in enumerate(given)]
        Live(self._service).give_time(self._service.ingest.learn(Lesson(tuple(resolved))))
        return {"learned": len(resolved), "verdicts": [one.to_json() for one in resolved]}

    # -- one verdict ------------------------------------------------------------------------------------------------

    def _resolved(self, asked: Any, where: str) -> Verdict:
        """A verdict as it is logged, with fingerprint and ratio. Raises: BadInput that begins with `where`."""
        try:
            return self._resolve(_checked(asked))
        except BadInput as error:
            raise BadInput(f"{where}{error}") from error

    def _resolve(self, asked: Mapping[str, Any]) -> Verdict:
        from otel_aiops.batch.times import moment_ns

        now_ns = self._service.clock_ns()
        row = self._views.row(str(asked["series"]))
        time = asked["time"]
        newest_ns = self._service.pipeline.event_ns
        time_ns = moment_ns(time, newest_ns) if isinstance(time, str) else round(time * 1e9)
        if time_ns > now_ns + AHEAD_NS:
            raise BadInput(f"time: expected one that has been, got {time!r}, {(time_ns - now_ns) / 1e9:.0f} s ahead")
        kind, of = SHORT.get(asked["verdict"], asked["verdict"]), asked.get("of", "")
        check_of(kind, of, "", known=lambda name: self._service.chronicle.journal.get(name) is not None)
        ratio, source, fingerprint = self._ratio(row, time_ns, asked.get("ratio"))
        return Verdict(
            series=fingerprint,
            time_ns=time_ns,
            kind=kind,
            ratio=ratio,
            source=source,
            by=asked.get("by", ""),
            note=asked.get("note", ""),
            given_ns=now_ns,
            of=of,
        )

    def _ratio(self, row: int, time_ns: int, given: float | None) -> tuple[float, str, int]:
        """(alert score in unmoved thresholds at a time, where that is known from, fingerprint). Raises: BadInput."""

        def answer() -> tuple[int, Raised | None, float, str]:
            pipeline = self._service.pipeline
            fingerprint = int(pipeline.table.fingerprint(np.array([row], np.int32))[0])
            _, threshold = pipeline.alerting.budget.objective(row)
            alert = pipeline.alerting.ledger.find(fingerprint, time_ns)
            return fingerprint, alert, threshold, pipeline.table.labels(row).to_json()

        fingerprint, alert, threshold, labels = self._service.ask(answer)
        if alert is not None:
            return alert.peak, "alert", fingerprint
        _, _, score = self._service.history.points(labels, time_ns - NEAR_NS, time_ns + NEAR_NS)
        known = score[~np.isnan(score)]
        if len(known) and threshold > 0:
            # Alert scores are not recorded; without novelty they are this share of the score.
            return float(known.max()) * DEVIATION_WEIGHT / threshold, "history", fingerprint
        if given is not None:
            return given, "given", fingerprint
        raise BadInput(
            "time: expected one within 10 minutes of an alert or of a recorded score of the series, or a `ratio` "
            "(alert score in thresholds); nothing is known of then"
        )

    # -- as plain values --------------------------------------------------------------------------------------------

    def _alert(self, one: Raised) -> dict[str, Any]:
        pipeline = self._service.pipeline
        labels = pipeline.table.labels(one.row)
        objective, _ = pipeline.alerting.budget.objective(one.row)
        note = self._service.watch.alert(one.row)
        moved = math.exp(one.shift)
        return {
            "fingerprint": f"{one.fingerprint:016x}",
            "series": str(labels),
            "service": labels.service,
            "objective": objective,
            "since": one.since_ns / 1e9,
            "time": one.time_ns / 1e9,
            "ratio": one.ratio / moved,
            "peak": one.peak / moved,
            "threshold": one.threshold * moved,
            "shift": one.shift,
            "value": _number(note.value) if note else None,
            "score": _number(note.score) if note else None,
            "channel": note.channel if note else None,
            "reason": note.reason if note else "",
        }

    def _crowd(self, objective: int) -> dict[str, Any] | None:
        crowd = self._service.watch.crowd(objective)
        if crowd is None:
            return None
        return {
            "time": crowd.time_ns / 1e9,
            "points": crowd.points,
            "strange": crowd.strange,
            "usual": crowd.usual,
            "score": crowd.score,
        }

    def _told(self, one: Verdict) -> dict[str, Any]:
        """A verdict, with what it and others have moved."""
        pipeline = self._service.pipeline
        row = pipeline.table.find(one.series)
        tree = one.to_json()
        tree["time"], tree["given"] = tree.pop("time_ns") / 1e9, tree.pop("given_ns") / 1e9
        tree["series"] = str(pipeline.table.labels(row)) if row is not None else None
        tree["shift"] = pipeline.alerting.shift(row) if row is not None else None
        return tree


def _had(one: Raised) -> dict[str, Any]:
    """An alert of a series that the answer names already."""
    goes_on, peak = one.row >= 0, one.peak / math.exp(one.shift)
    return {"since": one.since_ns / 1e9, "until": None if goes_on else one.time_ns / 1e9, "peak": peak}


def _kept(objective: Objective, report: BudgetReport | None) -> dict[str, Any]:
    """An objective with its series, its alerts of the last week and those to come, and its threshold."""
    numbers = {name: getattr(report, name, None) for name in ("series", "actual", "projected", "threshold")}
    return objective.plain_values() | numbers


def _checked(asked: Any) -> Mapping[str, Any]:
    """The keys of a verdict as a user gives it. Raises: BadInput."""
    if not isinstance(asked, dict):
        raise BadInput(f"expected an object with {', '.join(KEYS)}, got {str(asked)[:100]!r}")
    unknown = sorted(set(asked) - set(KEYS))
    if unknown:
        raise BadInput(f"{unknown[0]}: is not a known key; known here: {', '.join(KEYS)}")
    for key in ("series", "time", "verdict"):
        if asked.get(key) in (None, ""):
            raise BadInput(f"{key}: expected a value, got none")
    if asked["verdict"] not in (*KINDS, *SHORT):
        raise BadInput(f"verdict: expected one of {', '.join((*SHORT, *KINDS))}, got {asked['verdict']!r}")
    if not isinstance(asked["series"], str):
        raise BadInput(f'series: expected a fingerprint or name{{key="value"}}, got {asked["series"]!r}')
    if not isinstance(asked["time"], str) and not _finite(asked["time"]):
        raise BadInput(f"time: expected ISO 8601 or unix seconds, got {asked['time']!r}")
    ratio = asked.get("ratio")
    if ratio is not None and not (_finite(ratio) and ratio >= 0):
        raise BadInput(f"ratio: expected a number >= 0, got {ratio!r}")
    _check_texts(asked, ("by", "note", "of"))
    return asked


def _check_texts(asked: Mapping[str, Any], keys: Sequence[str]) -> None:
    for key in keys:
        value = asked.get(key, "")
        if not isinstance(value, str) or len(value) > LONGEST_TEXT:
            raise BadInput(f"{key}: expected a text of at most {LONGEST_TEXT} characters, got {str(value)[:100]!r}")


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if value == value else None
