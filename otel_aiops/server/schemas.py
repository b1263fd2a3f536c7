"""Schemas of what the API answers, as JSON Schema by name; those of dataclasses are read from them."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import Any, Final, Literal

from otel_aiops.detect.budget import BudgetReport
from otel_aiops.detect.serving import Action, Rollout
from otel_aiops.detect.verdicts import KINDS, SHORT
from otel_aiops.incidents.advice import Advice
from otel_aiops.incidents.codec import ABSENT, OUTWARD
from otel_aiops.incidents.incident import Channel, Entry, Evidence, Finding, Incident, Prediction, Severity
from otel_aiops.incidents.incident import Suspect as SuspectOf
from otel_aiops.lifecycle.behaviour import Promise, Rate
from otel_aiops.lifecycle.comparison import Side
from otel_aiops.lifecycle.drift import Drift
from otel_aiops.lifecycle.health import Budgeted, SelfTest
from otel_aiops.lifecycle.needs import Need
from otel_aiops.lifecycle.performance import Estimated, Judged
from otel_aiops.lifecycle.runs import Step
from otel_aiops.lifecycle.version import Lineage
from otel_aiops.responses.guard import Check, Verdict
from otel_aiops.responses.runs import RunState, Seen, Standing
from otel_aiops.series.cardinality import Cardinality
from otel_aiops.series.quality import ServiceQuality
from otel_aiops.server.access import Role
from otel_aiops.server.access.tokens import MOST_S

Schema = dict[str, Any]

TEXT: Final[Schema] = {"type": "string"}
WHOLE: Final[Schema] = {"type": "integer"}
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
NUMBER: Final[Schema] = {"type": "number"}
YES: Final[Schema] = {"type": "boolean"}
TIME: Final[Schema] = {"type": "number", "description": "unix seconds"}
ANY: Final[Schema] = {"type": "object", "additionalProperties": True}
FINGERPRINT: Final[Schema] = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
SHORT_TEXT: Final[Schema] = {"type": "string", "maxLength": 2_000}
RATIO: Final[Schema] = {"type": "number", "minimum": 0, "maximum": 1}


def one_of(words: Sequence[str]) -> Schema:
    """A text of which there are only some."""
    return {"type": "string", "enum": [str(one) for one in words]}


def some(schema: Schema) -> Schema:
    """A list of them."""
    return {"type": "array", "items": schema}


def by_name(schema: Schema) -> Schema:
    """An object with names that are not known before."""
    return {"type": "object", "additionalProperties": schema}


def maybe(schema: Schema) -> Schema:
    """That, or null."""
    if isinstance(schema.get("type"), str) and "enum" not in schema:
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]}


def ref(name: str) -> Schema:
    """The schema of that name."""
    return {"$ref": f"#/components/schemas/{name}"}


def thing(properties: Mapping[str, Schema], *, optional: Sequence[str] = ()) -> Schema:
    """An object that has all of these, but perhaps not the optional ones."""
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": dict(properties), "required": required}


def listed(name: str, schema: Schema, **more: Schema) -> Schema:
    """A page of a list."""
    total = {**COUNT, "description": "how many there are in all"}
    following = {**maybe(COUNT), "description": "`offset` of the next page; null on the last one"}
    return thing({name: some(schema), "total": total, "next": following, **more})


def made(kind: Any, *, without: Sequence[str] = (), outward: bool = False, **more: Schema) -> Schema:
    """That of a dataclass as `asdict` gives it; `outward`, with times in seconds, as incidents are told."""
    hints = typing.get_type_hints(kind)
    found: dict[str, Schema] = {}
    for one in fields(kind):
        if one.name in without:
            continue
        if outward and one.name.endswith("_ns"):
            name = OUTWARD.get(one.name, one.name.removesuffix("_ns"))
            found[name] = maybe(TIME) if one.name in ABSENT else TIME
        else:
            found[one.name] = _of(hints[one.name], outward)
    return thing({**found, **more})


def _of(hint: Any, outward: bool) -> Schema:
    """That of the type of a field; what is not a number is null."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        return some(_of(arguments[0], outward))
    if origin in (typing.Union, types.UnionType):
        return maybe(_of(next(one for one in arguments if one is not type(None)), outward))
    if origin is Literal:
        return one_of(arguments)
    if origin is not None:  # a mapping
        return by_name(_of(arguments[1], outward))
    if is_dataclass(hint):
        return ref(NAMES[hint]) if hint in NAMES else made(hint, outward=outward)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return one_of(list(hint))
    return {str: TEXT, bool: YES, int: WHOLE, float: maybe(NUMBER)}.get(hint, {})


NAMES: Final = {Evidence: "Evidence", SuspectOf: "Suspect", Finding: "Finding", Entry: "TimelineEntry"}
NAMES[Prediction] = "Prediction"

_SUSPECT = made(SuspectOf, outward=True)
_BRIEF_SUSPECT = made(SuspectOf, outward=True, without=["evidence"])
_INCIDENT = made(Incident, outward=True)
_BRIEF = made(Incident, outward=True, without=["findings", "timeline", "more_findings", "suspects"])
_REVISION = ("revision", "state", "severity", "services", "users", "slo_burn", "suppressed_by")
_ALIKE = ("id", "title", "start", "end", "severity", "state", "services")
_LATEST = thing(
    {
        "time_ns": WHOLE,
        **{name: maybe(NUMBER) for name in ("value", "expected", "lower", "upper", "score", "probability")},
        "warmup_s": maybe(NUMBER),
        "channel": maybe(TEXT),
        "ratio": maybe(NUMBER),
        "alert": YES,
    }
)
_SERIES = {
    **{"fingerprint": FINGERPRINT, "series": TEXT, "service": TEXT, "name": TEXT, "unit": TEXT, "kind": TEXT},
    **{"stat": TEXT, "latest": maybe(_LATEST)},
}
_SOURCE = {
    "fingerprint": FINGERPRINT,
    "prometheus": thing({"name": TEXT, "labels": by_name(TEXT)}),
    **{name: {"type": "string", "contentEncoding": "base64"} for name in ("resource", "scope", "attributes")},
    **{"name": TEXT, "unit": TEXT, "kind": WHOLE, "temporality": WHOLE, "monotonic": YES},
}
_ANOMALY = {
    **{"fingerprint": FINGERPRINT, "series": TEXT, "service": TEXT, "score": NUMBER, "peak": NUMBER},
    **{"probability": maybe(NUMBER), "value": maybe(NUMBER), "channel": maybe(TEXT), "reason": TEXT},
    **{"since": TIME, "time": TIME},
}
_VERDICT = {
    **{"fingerprint": FINGERPRINT, "verdict": one_of(KINDS), "ratio": maybe(NUMBER), "source": TEXT, "by": TEXT},
    **{"note": TEXT, "incident": TEXT, "of": TEXT},
}
_RECORD = {
    "hits": COUNT,
    "misses": COUNT,
    "brier": maybe(NUMBER),
    "reliability": some(thing({"from": NUMBER, "predicted": maybe(NUMBER), "count": COUNT, "happened": maybe(NUMBER)})),
    "lead_s": thing({"count": COUNT, "p10": maybe(NUMBER), "p50": maybe(NUMBER), "p90": maybe(NUMBER)}),
}
_MODEL = {
    **{"id": TEXT, "role": TEXT, "problem": maybe(TEXT), "series": COUNT, "until": maybe(TIME), "digest": TEXT},
    "lineage": made(Lineage, without=["until_ns"]),
    **{"aliases": some(TEXT), "registered": maybe({}), "reported": YES},
}
_ONLY = some(thing({"series": TEXT, "since": TIME, "until": TIME, "peak": maybe(NUMBER)}))
_COMPARISON = thing(
    {
        "days": NUMBER,
        **{"champion": made(Side), "other": made(Side)},
        **{"alerts_of_both": COUNT, "only_champion": _ONLY, "only_other": _ONLY},
    }
)
_CHECK = made(Check)
_EXECUTION = {
    **{"id": TEXT, "step": COUNT, "role": TEXT, "action": TEXT, "target": TEXT, "state": one_of(list(Standing))},
    **{"plan": TEXT, "result": TEXT, "output": TEXT, "attempts": COUNT, "began": maybe(TIME), "ended": maybe(TIME)},
    **{"verified": maybe(one_of([one for one in Seen if one])), "verified_why": maybe(TEXT)},
    **{"verified_until": maybe(TIME), "checks": some(_CHECK)},
    "approvals_needed": COUNT,
    "approvals": some(thing({"time": TIME, "who": TEXT, "agrees": YES, "why": TEXT})),
    "expires": maybe(TIME),
}
_RESPONSE = {
    **{"id": TEXT, "playbook": TEXT, "version": TEXT, "on": TEXT, "incident": TEXT, "title": TEXT},
    **{"severity": one_of(list(Severity)), "state": one_of(list(RunState)), "began": TIME, "ended": maybe(TIME)},
    "steps": some(thing(_EXECUTION)),
}
_PLAYBOOK = thing({"name": TEXT, "version": TEXT, "steps": some(ANY)}) | {"additionalProperties": True}
_RUN = {
    **{name: TEXT for name in ("id", "state", "objective", "step", "version", "who", "why", "origin", "result")},
    **{"began": TIME, "ended": maybe(TIME), "duration": maybe(NUMBER), "attempts": COUNT},
    "steps": some(made(Step, without=["inputs"], outputs=ANY)),
}
_TEST_STEP = {
    **{"step": COUNT, "action": TEXT, "plan": maybe(TEXT), "verdict": one_of(list(Verdict))},
    "checks": some(_CHECK),
}
_DATASET = {
    **{"id": TEXT, "start": TIME, "end": TIME, "match": some(ANY), "rows": COUNT, "series": COUNT, "bytes": COUNT},
    **{"segments": COUNT, "labels": COUNT, "exclusions": COUNT, "gate": YES, "reasons": some(TEXT), "trainable": YES},
    **{"forced": TEXT, "parents": some(TEXT), "who": TEXT, "why": TEXT, "made": TIME},
}
_EVERY = some(maybe(NUMBER))
_EXPLAINED = {
    **{"series": TEXT, "name": TEXT, "unit": TEXT, "time": TIME, "value": maybe(NUMBER), "score": maybe(NUMBER)},
    **{"channel": TEXT, "expected": maybe(NUMBER), "lower": maybe(NUMBER), "upper": maybe(NUMBER)},
    **{"probability": maybe(NUMBER), "reason": TEXT, "over_since": maybe(TIME), "unusual": maybe(ANY)},
    **{"comparisons": some(ANY), "alike": some(ANY), "notes": some(TEXT), "text": TEXT},
    "points": thing({name: _EVERY for name in ("time", "value", "expected", "lower", "upper", "score")}),
}
_FORECAST = {
    **{name: TEXT for name in ("series", "name", "unit", "method", "direction", "text")},
    **{name: maybe(NUMBER) for name in ("skill", "coverage", "step_s", "horizon_s", "last", "last_time", "limit")},
    **{name: _EVERY for name in ("time", "expected", "lower", "upper", "past_time", "past")},
    **{"exhaustion": maybe(ANY), "notes": some(TEXT)},
}
_SILENCE = {
    **{"name": TEXT, "from": maybe(TIME), "until": TIME, "active": YES, "channels": some(one_of(list(Channel)))},
    **{"severities": some(one_of(list(Severity))), "services": some(TEXT), "who": TEXT, "why": TEXT},
    "matchers": some(TEXT),
    "ends_here": {**YES, "description": "whether it can be ended here"},
}
_WINDOW = {
    **{"name": TEXT, "start": TIME, "end": TIME, "every": maybe(NUMBER), "active": YES, "services": some(TEXT)},
    **{"who": TEXT, "why": TEXT, "ends_here": YES},
}
_DEED = thing(
    {**{"number": COUNT, "time": maybe(TIME), "what": TEXT, "who": TEXT, "why": TEXT}, "response": maybe(TEXT)}
)
_KNOWN: Final[Mapping[str, Schema]] = {
    **{"name": TEXT, "service": TEXT, "sender": TEXT, "status": TEXT, "start": TIME, "end": maybe(TIME)},
    **{"labels": by_name(TEXT), "annotations": by_name(TEXT)},
}
_SAID = thing({"verdict": one_of(KINDS), "who": TEXT, "why": TEXT, "of": TEXT, "given": TIME})
_NOT_ALL = [*_MODEL][3:]  # of a version that cannot be read


def _part(of: Schema, names: Sequence[str]) -> dict[str, Schema]:
    return {name: of["properties"][name] for name in names}


def _words(kind: Sequence[str]) -> Schema:
    """Some of them: a list, or a text with commas."""
    return {"anyOf": [{**some(one_of(kind)), "maxItems": 200}, SHORT_TEXT]}


_TOKEN: Final[Mapping[str, Schema]] = {
    **{"id": TEXT, "name": TEXT, "role": ref("Role"), "paths": some(TEXT)},
    "state": one_of(["active", "expired", "revoked"]),
    **{name: maybe(TIME) for name in ("expires", "last_used", "old_until")},
    "events": some(thing({"time": TIME, "what": TEXT, "who": TEXT})),
}

SCHEMAS: Final[Mapping[str, Schema]] = {
    "Who": {**SHORT_TEXT, "minLength": 1, "pattern": r"\S", "description": "who wants it"},
    "Why": SHORT_TEXT,
    "RuleName": {"type": "string", "maxLength": 100, "description": "one of the same name is replaced"},
    "Moment": {"type": ["number", "string", "null"], "description": "ISO 8601, -2h or unix seconds"},
    "Span": {"type": ["number", "string", "null"], "description": "as 90s, 2h or 7d, or seconds"},
    "ServiceNames": {
        "anyOf": [{**some(SHORT_TEXT), "maxItems": 200}, SHORT_TEXT],
        "description": "names may have * and ?; none is all",
    },
    "Channels": _words(list(Channel)),
    "Severities": _words(list(Severity)),
    "Problem": thing({"error": {"type": "string", "description": "what was expected, and what came"}}),
    "Role": one_of(list(Role)),
    "Me": thing({"name": maybe(TEXT), "role": ref("Role"), "how": maybe(TEXT), "paths": some(TEXT)}),
    "TokenSeconds": {"type": "number", "minimum": 0, "maximum": MOST_S, "description": "seconds that it opens for"},
    "Token": thing(_TOKEN),
    "TokenMade": thing({**_TOKEN, "token": {**TEXT, "description": "what opens; it is told here only"}}),
    "Tokens": listed("tokens", ref("Token")),
    "Status": thing(
        {
            **{"version": TEXT, "data_dir": TEXT, "started_unix_s": TIME, "event_time_unix_s": TIME},
            **{name: COUNT for name in ("sequence", "series", "series_limit", "points_scored", "anomalous")},
            "jobs": thing({"series": COUNT, "series_limit": COUNT, "waited": COUNT}),
            **{
                "bytes_per_series": COUNT,
                "log": by_name(maybe(NUMBER)),
                "damage": some(TEXT),
                "faults": by_name(COUNT),
            },
        }
    ),
    "Anomaly": thing(_ANOMALY),
    "Anomalies": listed("anomalies", ref("Anomaly")),
    "Alert": thing(
        {
            **{"fingerprint": FINGERPRINT, "series": TEXT, "service": TEXT, "objective": TEXT, "since": TIME},
            **{name: NUMBER for name in ("time", "ratio", "peak", "threshold", "shift")},
            **{"value": maybe(NUMBER), "score": maybe(NUMBER), "channel": maybe(TEXT), "reason": TEXT},
        }
    ),
    "Alerts": listed("alerts", ref("Alert")),
    "Budgets": listed(
        "budgets",
        made(
            BudgetReport,
            crowd=maybe(
                thing({"time": TIME, "points": COUNT, "strange": NUMBER, "usual": NUMBER, "score": maybe(NUMBER)})
            ),
        ),
    ),
    "Objective": thing(
        {
            **{"name": TEXT, "id": TEXT, "description": TEXT, "team": TEXT, "match": by_name(TEXT)},
            **{"incidents": some(TEXT), "cost": by_name(NUMBER), "target": by_name(NUMBER), "budget": {}},
            **{"responses": some(TEXT), "data": by_name(NUMBER), "budget_per_week": NUMBER},
            **{name: maybe(NUMBER) for name in ("series", "actual", "projected", "threshold")},
        }
    ),
    "Objectives": listed("objectives", ref("Objective")),
    "Verdict": thing(
        {**_VERDICT, "time": TIME, "given": TIME, "series": maybe(TEXT), "shift": maybe(NUMBER)},
        optional=["incident", "of"],
    ),
    "Verdicts": listed("verdicts", ref("Verdict")),
    "VerdictAsked": thing(
        {
            "series": {**TEXT, "minLength": 1, "description": 'fingerprint, or name{key="value"}'},
            "time": {"type": ["number", "string"], "description": "ISO 8601 or unix seconds"},
            "verdict": one_of([*KINDS, *SHORT]),
            "of": {**SHORT_TEXT, "description": "of a duplicate, the id of the incident that it is a part of"},
            "ratio": {
                **maybe(NUMBER),
                "minimum": 0,
                "description": "alert score in thresholds, where nothing is known of the time",
            },
            "by": SHORT_TEXT,
            "note": SHORT_TEXT,
        },
        optional=["of", "ratio", "by", "note"],
    )
    | {"additionalProperties": False},
    "Learned": thing(
        {
            "learned": COUNT,
            "verdicts": some(thing({**_VERDICT, "time_ns": WHOLE, "given_ns": WHOLE}, optional=["incident", "of"])),
        }
    ),
    "Judged": thing({"incident": TEXT, "verdict": one_of(KINDS), "series": COUNT}),
    "Evidence": made(Evidence, outward=True),
    "Suspect": _SUSPECT,
    "Finding": made(Finding, outward=True),
    "TimelineEntry": made(Entry, outward=True),
    "Prediction": made(Prediction, outward=True),
    "IncidentInShort": thing({**_BRIEF["properties"], "suspects": some(_BRIEF_SUSPECT)}),
    "Incidents": listed("incidents", ref("IncidentInShort")),
    "Incident": thing(
        {
            **_INCIDENT["properties"],
            "similar_incidents": some(
                thing({**_part(_INCIDENT, _ALIKE), "suspect": maybe(TEXT), "reason": maybe(TEXT)})
            ),
            "decisions": some(thing({"time": TIME, "action": TEXT, "who": TEXT, "why": TEXT})),
            "verdicts": some(_SAID),
        }
    ),
    "Timeline": thing(
        {
            **{"id": TEXT, "revision": COUNT, "timeline": some(ref("TimelineEntry"))},
            "revisions": some(thing({"time": TIME, **_part(_INCIDENT, _REVISION), "suspects": some(_BRIEF_SUSPECT)})),
        }
    ),
    "Silence": thing(_SILENCE, optional=["matchers"]),
    "SilenceMade": thing(
        {**_SILENCE, "where": one_of(["Alertmanager", "otel-aiops"])},
        optional=[name for name in _SILENCE if name not in ("name", "until")],
    ),
    "KnownAlerts": listed("alerts", thing({"id": TEXT, **_KNOWN})),
    "Chain": thing(
        {
            **{"holds": YES, "lines": COUNT, "head": TEXT, "broken": maybe(COUNT), "why": maybe(TEXT), "checked": TIME},
            "newest": some(_DEED),
        }
    ),
    "Silences": listed("silences", ref("Silence")),
    "MaintenanceWindow": thing(_WINDOW),
    "MaintenanceWindows": listed("maintenance", ref("MaintenanceWindow")),
    "Ended": thing({"ended": {"type": "string", "description": "its name"}}),
    "Predictions": thing(
        {
            **{"standing": some(ref("IncidentInShort")), "decided": some(ref("IncidentInShort"))},
            **{"total": COUNT, "total_standing": COUNT, "next": maybe(COUNT)},
            **{**_RECORD, "records": by_name(thing(_RECORD))},
        }
    ),
    "Precursors": listed(
        "types",
        thing(
            {
                **{"type": TEXT, "incidents": COUNT, "needed": COUNT, "model": YES, "reason": TEXT},
                "before": some(thing({"sign": TEXT, "weight": NUMBER})),
                **{name: maybe(NUMBER) for name in ("brier", "base_brier", "base_rate", "horizon_s")},
                "lead_s": by_name(maybe(NUMBER)),
            },
            optional=["brier", "base_brier", "base_rate", "horizon_s", "lead_s"],
        ),
        needed=COUNT,
        enabled=YES,
        trained_at=maybe(TIME),
        since=maybe(TIME),
        signs=COUNT,
        problem=TEXT,
    ),
    "ServiceGraph": thing(
        {
            "nodes": some(thing({"name": TEXT, "kind": TEXT})),
            "edges": some(
                thing(
                    {
                        **{"caller": TEXT, "callee": TEXT, "kind": TEXT, "calls_s": maybe(NUMBER)},
                        **{"error_ratio": maybe(NUMBER), "last": TIME},
                    }
                )
            ),
        }
    ),
    "Deployments": listed(
        "deployments",
        thing({"service": TEXT, "what": TEXT, "before": TEXT, "after": TEXT, "time": TIME, "resource": TEXT}),
    ),
    "Advice": listed(
        "advice", made(Advice), foreseen=some(TEXT), series=COUNT, left_out=COUNT, history_needed_s=NUMBER
    ),
    "ModelInShort": thing(_MODEL, optional=_NOT_ALL),
    "Models": listed("models", ref("ModelInShort")),
    "Model": thing({**_MODEL, "settings": ANY, "report": maybe(ANY)}),
    "Health": thing(
        {
            **{"time": maybe(TIME), "version": maybe(TEXT), "reference": maybe(TEXT), "problems": some(TEXT)},
            **{"drifts": some(made(Drift)), "groups": some(made(Drift)), "unmatched": COUNT, "rates": some(made(Rate))},
            **{"promises": some(made(Promise)), "calibration_error": maybe(NUMBER)},
            **{"budgets": some(made(Budgeted, overspent=YES)), "selftest": maybe(made(SelfTest))},
            **{"verdicts": maybe(made(Judged)), "verdicts_before": maybe(made(Judged))},
            **{"estimated": maybe(made(Estimated)), "notes": some(TEXT)},
        }
    ),
    "Rollout": thing(
        {
            **{"champion": TEXT, "other": maybe(TEXT), "role": TEXT, "share": RATIO, "previous": maybe(TEXT)},
            **{"since": maybe(TIME), "comparison": maybe(_COMPARISON)},
            "advice": maybe(thing({"action": maybe(one_of(list(Action))), "reasons": some(TEXT)})),
        }
    ),
    "Rollouts": listed(
        "rollouts",
        made(
            Rollout,
            without=["evidence", "time_ns", "given_ns"],
            time=TIME,
            given=maybe(TIME),
            evidence=maybe(_COMPARISON),
        ),
    ),
    "Runs": listed(
        "runs",
        thing(_RUN),
        running=maybe(TEXT),
        automatic=YES,
        problem=maybe(TEXT),
        due=some(made(Need)),
    ),
    "Ordered": thing({"begins": YES, "who": TEXT, "why": TEXT}),
    "Playbooks": listed(
        "playbooks",
        _PLAYBOOK,
        enabled=YES,
        stopped=maybe(TEXT),
        model_problem=maybe(TEXT),
        waiting=COUNT,
    ),
    "PlaybookTest": thing(
        {
            **{"incident": TEXT, "title": TEXT},
            "playbooks": some(
                thing(
                    {
                        **{"name": TEXT, "version": TEXT, "on": TEXT, "dry_run": YES, "matches": YES},
                        **{"why_not": some(TEXT), "steps": some(thing(_TEST_STEP))},
                    }
                )
            ),
        }
    ),
    "ResponseInShort": thing(_RESPONSE),
    "Responses": listed("responses", ref("ResponseInShort")),
    "Response": thing(
        {
            **_RESPONSE,
            "playbook_content": ANY,
            "timeline": some(_DEED),
        }
    ),
    "Stopped": thing({"stopped": {**maybe(TEXT), "description": "who has stopped all responses, and why"}}),
    "Services": listed(
        "services",
        thing(
            {
                **{"service": TEXT, "namespace": TEXT, "resource": by_name(TEXT), "score": maybe(NUMBER)},
                **{"probability": maybe(NUMBER), "series": COUNT, "unusual": COUNT, "reason": TEXT, "time": TIME},
                "contributors": some(
                    thing({"fingerprint": FINGERPRINT, "series": TEXT, "share": maybe(NUMBER), "score": maybe(NUMBER)})
                ),
            }
        ),
    ),
    "Quality": listed("services", made(ServiceQuality), series=made(Cardinality)),
    "Series": thing(_SERIES),
    "SeriesSource": thing(_SOURCE),
    "AllSeries": thing(
        {
            "series": {"type": "array", "items": {"anyOf": [ref("Series"), ref("SeriesSource")]}},
            "total": {**maybe(COUNT), "description": "null of a search, which would look at all of them to know"},
            "next": maybe(COUNT),
        }
    ),
    "OneSeries": thing(
        {
            **_SERIES,
            **{"anomaly": maybe(ref("Anomaly")), "reason": TEXT, "jobs": TEXT},
            "alerts": some(thing({"since": TIME, "until": maybe(TIME), "peak": NUMBER})),
            "verdicts": some(ref("Verdict")),
        }
    ),
    "Explanation": thing(_EXPLAINED),
    "Forecast": thing(_FORECAST),
    "Backfilled": thing({"points": {**COUNT, "description": "that were learned"}}),
    "SelfTest": ANY,
    "Datasets": listed("datasets", thing(_DATASET), damaged=by_name(TEXT)),
    "Dataset": thing({"id": TEXT, "content": ANY, "about": ANY, "seal": TEXT, "trainable": YES}),
    "Queue": listed(
        "queue",
        thing(
            {
                **{"series": TEXT, "fingerprint": FINGERPRINT, "service": TEXT, "since": TIME, "until": TIME},
                **{"peak": NUMBER, "only": maybe(TEXT), "worth": NUMBER, "reasons": some(TEXT)},
            }
        ),
        alerts={**COUNT, "description": "among which they were chosen"},
    ),
    "Audit": listed(
        "entries",
        thing(
            {
                **{"time": TIME, "kind": TEXT, "what": TEXT, "who": TEXT, "why": TEXT, "data": TEXT, "code": TEXT},
                "details": ANY,
            }
        ),
        problems=some(TEXT),
    ),
    "Told": thing({name: COUNT for name in ("taken", "repeated", "ours", "unreadable", "truncated")}),
}
