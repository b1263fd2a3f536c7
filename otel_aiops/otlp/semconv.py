"""Names: every metric that otel-aiops emits, declared as data, from which instruments, documents and tests follow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

from otel_aiops.otlp.prometheus import MetricKind, prometheus_name

SCOPE_NAME = "otel_aiops"
SERVICE_NAME = "otel-aiops"

SERVICE = "service.name"
SERVICE_NAMESPACE = "service.namespace"
SOURCE_METRIC = "anomaly.metric.name"
MODEL = "anomaly.model"
STAT = "anomaly.stat"
CHANNEL = "anomaly.channel"
REASON = "reason"
HORIZON = "horizon"
LIMIT = "limit"
OBJECTIVE = "objective"
SEVERITY = "severity"
STATE = "state"
INCIDENT_ID = "incident.id"
DIRECTION = "direction"
OWN_ATTRIBUTES = frozenset({SOURCE_METRIC, MODEL, STAT})

Compat = Literal["none", "vmanomaly", "promql_anomaly"]
Field = Literal["score", "active", "ratio", "alert", "probability", "expected", "lower", "upper", "value"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One emitted metric. `attributes` are all that its points may carry beyond the scored series' own.

    `begins` are the values of its attributes that a counter or histogram has from the start on, at 0: one that came
    into being with its first event would not have risen by it, as `increase` of Prometheus sees it.
    """

    name: str
    kind: MetricKind
    unit: str
    description: str
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    begins: tuple[tuple[str, ...], ...] = ()

    @property
    def prometheus(self) -> str:
        """The name after translation; a histogram's has _bucket, _sum and _count behind it."""
        return prometheus_name(self.name, self.unit, self.kind)


# Why a request to the API or the page was refused.
REFUSALS = (
    *("missing", "unknown", "expired", "revoked", "rate", "issuer"),
    *("role", "path", "host", "origin", "csrf"),
)
_SERIES = (SOURCE_METRIC, MODEL, STAT)
_RECEIVER = ("receiver", "transport")
_EXPORTER = ("exporter",)
_ALERTMANAGER = ("alertmanager",)
_RECEIVERS = (("otlp", "grpc"), ("otlp", "http"))
_OUTCOMES = ("success", "refused", "failure")
_PREDICTED = (("exhaustion",), ("precursor",))
_RUNS = tuple(
    product(("registered", "refused", "failed"), ("schedule", "drift", "verdicts", "config", "asked", "resumed"))
)
_ACTIONS = (("shadow",), ("canary",), ("promote",), ("rollback",), ("stop",))
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_TAKES = (0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 14_400.0)
_MINUTES = (1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0, 120.0, 300.0, 600.0)
_HOURS = (60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 28800.0, 86400.0, 172800.0, 604800.0)

SERIES_METRICS: Mapping[Field, Metric] = {
    "score": Metric(
        "otel_aiops.anomaly.score",
        "gauge",
        "{score}",
        "How strange the series is now; 1 is the threshold.",
        _SERIES,
    ),
    "active": Metric(
        "otel_aiops.anomaly.active", "gauge", "", "1 while the series is over its threshold, else 0.", _SERIES
    ),
    "ratio": Metric(
        "otel_aiops.alert.ratio",
        "gauge",
        "",
        "How much the series is worth an alert, in thresholds of its alert budget: 1 is an alert, 0 is held back.",
        _SERIES,
    ),
    "alert": Metric("otel_aiops.alert.active", "gauge", "", "1 while the series has an alert, else 0.", _SERIES),
    "probability": Metric(
        "otel_aiops.anomaly.probability",
        "gauge",
        "",
        "One minus the share of the series' normal points that score at least as high.",
        _SERIES,
    ),
    "expected": Metric(
        "otel_aiops.expected", "gauge", "", "The value that was expected, in the series' unit.", _SERIES
    ),
    "lower": Metric(
        "otel_aiops.expected.lower", "gauge", "", "Lower end of the expected band, in the series' unit.", _SERIES
    ),
    "upper": Metric(
        "otel_aiops.expected.upper", "gauge", "", "Upper end of the expected band, in the series' unit.", _SERIES
    ),
    "value": Metric("otel_aiops.value", "gauge", "", "The value that was scored, in the series' unit.", _SERIES),
}

CHANNEL_METRIC = Metric(
    "otel_aiops.anomaly.info",
    "gauge",
    "",
    "Always 1, while the series is over its threshold or has an alert; `anomaly.channel` says what makes its score.",
    (*_SERIES, CHANNEL),
)

_FORECAST = (SOURCE_METRIC, MODEL, STAT, HORIZON)
_LIMIT = (*_FORECAST, LIMIT, DIRECTION)
FORECAST_METRICS: tuple[Metric, ...] = (
    Metric(
        "otel_aiops.forecast.expected", "gauge", "", "The value that is expected after `horizon` seconds.", _FORECAST
    ),
    Metric("otel_aiops.forecast.lower", "gauge", "", "Lower end of the interval of that forecast.", _FORECAST),
    Metric("otel_aiops.forecast.upper", "gauge", "", "Upper end of the interval of that forecast.", _FORECAST),
    Metric(
        "otel_aiops.forecast.exhaustion.time",
        "gauge",
        "s",
        "Time until the series likely reaches its limit; absent when that is not within the horizon.",
        _LIMIT,
    ),
    Metric(
        "otel_aiops.forecast.exhaustion.probability",
        "gauge",
        "",
        "Share of the possible futures that reach the limit within the horizon.",
        _LIMIT,
    ),
)

SERVICE_METRICS: tuple[Metric, ...] = (
    Metric("otel_aiops.service.anomaly.score", "gauge", "{score}", "The highest score of the service's live series."),
    Metric(
        "otel_aiops.service.joint.score",
        "gauge",
        "{score}",
        "How unusual the service's series are together, also when none is by itself; 1 is the threshold.",
    ),
    Metric(
        "otel_aiops.service.series.anomalous",
        "gauge",
        "{series}",
        "Live series of the service that are over their threshold.",
    ),
    Metric("otel_aiops.service.series.scored", "gauge", "{series}", "Live series of the service that have a score."),
    Metric(
        "otel_aiops.series.warming",
        "gauge",
        "{series}",
        "Live series of the service that are not warm yet: still learning, or too sparse to tell.",
        (REASON,),
    ),
    Metric(
        "otel_aiops.warmup.eta",
        "gauge",
        "s",
        "Median time until the service's learning series are warm; 0 when none is learning.",
    ),
)


def _signals(stem: str, attributes: tuple[str, ...], what: str) -> tuple[Metric, ...]:
    units = {"metric_points": "{datapoint}", "spans": "{span}", "log_records": "{record}"}
    words = {"metric_points": "Data points", "spans": "Spans", "log_records": "Log records"}
    return tuple(
        Metric(f"{stem}_{word}", "counter", unit, f"{words[word]} {what}.", attributes, begins=_RECEIVERS)
        for word, unit in units.items()
    )


def _exporter() -> Iterator[Metric]:
    """What became of what was to be sent; see `otel_aiops.server.exporter`."""
    outcomes = {
        "sent": "that the destination took",
        "send_failed": "that the destination refused for good, or did not take in time",
        "enqueue_failed": "that were dropped because the sending queue was full",
    }
    items = (("metric_points", "{datapoint}", "Score points"), ("log_records", "{record}", "Changes of incidents"))
    for word, unit, plural in items:
        for outcome, what in outcomes.items():
            name = f"otel_aiops_exporter_{outcome}_{word}"
            yield Metric(name, "counter", unit, f"{plural} {what}.", _EXPORTER)


def _selftest() -> Iterator[Metric]:
    """What the newest self-test measured; see `otel_aiops.detect.report`."""
    by_fault = {
        "recall": ("", "Share of the series with a fault put in, in which it was found."),
        "plain_recall": ("", "The same over only those series in which nobody could miss the fault."),
        "covered": ("", "Mean share of the faulty points over the threshold."),
        "delay": ("{datapoint}", "Median number of faulty points before the first over the threshold."),
    }
    alone = {
        "held": ("", "Mean share of a lasting shift up by 5 spreads over the threshold in its half hour."),
        "false_alarms": ("{alarm}", "False alarms a series-day, on copies without a fault."),
        "unusual": ("", "Share of the points without a fault with a probability above 0.99; 0.01 is right."),
        "series": ("{series}", "Series that were tested."),
        "problems": ("{problem}", "Problems that the verdict names; /api/v1/selftest has their words."),
        "duration": ("s", "Time that the test took."),
        "age": ("s", "Time since the test ended."),
    }
    for names, attributes in ((by_fault, ("fault",)), (alone, ())):
        for name, (unit, description) in names.items():
            yield Metric(f"otel_aiops.selftest.{name}", "gauge", unit, description, attributes)
    failed = "Tests that ended without a report: too slow, too large, or a fault of their own."
    yield Metric("otel_aiops.selftest.failures", "counter", "{test}", failed)


def _quality() -> Iterator[Metric]:
    yield Metric(
        "otel_aiops.governance.attributes",
        "counter",
        "{attribute}",
        "Attributes that were dropped or hashed before anything was stored.",
        ("action",),
    )
    yield Metric(
        "otel_aiops.quality.points",
        "counter",
        "{point}",
        "Points of metrics that were taken, by service; of 200 services, and of the others together.",
        (SERVICE,),
    )
    yield Metric(
        "otel_aiops.quality.problems",
        "counter",
        "{point}",
        "What is bad about the data of a service: gap, reset, duplicate, late, future, absent, two_senders, "
        "unit_change, temporality_change, type_change.",
        (SERVICE, "problem"),
    )
    yield Metric("otel_aiops.quality.series", "gauge", "{series}", "Scored series of a service.", (SERVICE,))
    late = "Share of the points of a service that came after newer ones of their series, since the start."
    yield Metric("otel_aiops.quality.late", "gauge", "1", late, (SERVICE,))
    skew = (
        "How far the newest points of a service are behind the clock here, the least of the last 10 s; below 0: ahead."
    )
    yield Metric("otel_aiops.quality.clock_skew", "gauge", "s", skew, (SERVICE,))


def _budgets() -> Iterator[Metric]:
    """Budget against actual of every objective; see `otel_aiops.detect.budget`."""
    gauges = {
        "budget.wanted": ("{alert}", "Alerts a week that the objective may have."),
        "budget.actual": ("{alert}", "Alerts that it had in the last week."),
        "budget.projected": ("{alert}", "Alerts a week that its threshold gives at the rate of the last weeks."),
        "budget.threshold": ("{score}", "Its threshold now, in alert scores, before verdicts."),
        "budget.series": ("{series}", "Series that it owns and that were seen in the last day."),
        "alerts.active": ("{alert}", "Series of the objective that have an alert now."),
    }
    for name, (unit, description) in gauges.items():
        yield Metric(f"otel_aiops.{name}", "gauge", unit, description, (OBJECTIVE,))
    opened = "Alerts that were paid from the budget, those of one service within minutes as one."
    yield Metric("otel_aiops.alerts.opened", "counter", "{alert}", opened, (OBJECTIVE,))
    yield Metric("otel_aiops.verdicts.learned", "counter", "{verdict}", "Verdicts of operators that were learned.")


def _models() -> Iterator[Metric]:
    """Model versions that run; see `otel_aiops.lifecycle.comparison`."""
    info = "Always 1, for each version that runs: the champion, and a shadow, canary or the former champion beside it."
    yield Metric("otel_aiops.model.info", "gauge", "", info, ("version", "role"))
    ratio = "Share of the points over their threshold since the last order."
    yield Metric("otel_aiops.model.over.ratio", "gauge", "1", ratio, ("role",))
    alerts = "Alerts of series since the last order; those of a shadow nobody saw."
    yield Metric("otel_aiops.model.alerts", "gauge", "{alert}", alerts, ("role",))
    error = "Largest distance of the distribution of probabilities from the uniform one, from 1000 points on."
    yield Metric("otel_aiops.model.calibration.error", "gauge", "1", error, ("role",))
    yield from _health()


def _health() -> Iterator[Metric]:
    """How the model that serves does, from the newest look; see `otel_aiops.monitor`."""
    of_input, of_rate = (SERVICE, "metric"), ("what",)
    gauges: Mapping[str, tuple[str, tuple[str, ...], str]] = {
        "drift.effect": ("", of_input, "How far values are from those learned from, in spreads; of the 100 farthest."),
        "drift.share": ("1", of_input, "Share of the series of the metric of the service that have drifted."),
        "drift.looks": ("{look}", of_input, "Looks in a row, an hour apart, at which it has drifted; 0 when not now."),
        "drifts": ("{drift}", ("kind",), "Drifts at the newest look: of the input, or of the concept."),
        "drifts.persistent": ("{drift}", ("kind",), "Those of them that have lasted."),
        "rate": ("", of_rate, "scores: share of points over the threshold lately; alerts: of series in the last day."),
        "rate.usual": ("", of_rate, "What is usual of that rate, from the model's own past."),
        "rate.deviation": ("", of_rate, "By how many robust deviations the rate is off, below 0 when it is low."),
        "rate.unusual": ("", of_rate, "1 while the rate is unusual, in size and in deviations, else 0."),
        "promise.kept": (
            "",
            ("level",),
            "Normal points with a probability of `level` or more, by how many are promised.",
        ),
        "budget.used": ("1", (OBJECTIVE,), "Alerts of the last week by those that the objective may have."),
        "fault.recall": ("1", ("fault",), "Share of the faults of the newest self-test that were found, by kind."),
        "precision": ("1", ("bound",), "Share of true alerts by verdicts: `estimate`, and `low`, `high` of its 90 %."),
        "verdicts": ("{verdict}", ("verdict",), "Verdicts of the last weeks: true, false, missed."),
        "expected.precision": ("1", (), "Share of true alerts to be expected, without labels."),
        "expected.recall": ("1", (), "Share of faults that are found, to be expected from the self-test."),
        "expected.false_alerts": ("{alert}", (), "False alerts a week to be expected, without labels."),
        "expected.missed": ("{alert}", (), "True ones a week that raise no alert, to be expected without labels."),
        "problems": ("{problem}", (), "What is wrong at the newest look; /api/v1/models/health has the words."),
        "looked": ("s", (), "Event time of the newest look, unix time."),
    }
    for name, (unit, attributes, description) in gauges.items():
        yield Metric(f"otel_aiops.model.{name}", "gauge", unit, description, attributes)


def _other_signals() -> Iterator[Metric]:
    """Spans and log records, and what is known of them; see `otel_aiops.incidents.analysis`."""
    for word, unit, plural in (("spans", "{span}", "Spans"), ("log_records", "{record}", "Log records")):
        yield Metric(f"otel_aiops.{word}.read", "counter", unit, f"{plural} that were looked at.")
        rejected = f"{plural} that could not be read, by reason."
        yield Metric(f"otel_aiops.{word}.rejected", "counter", unit, rejected, (REASON,))
    mended = "Spans and log records of which something was cut or corrected, by reason."
    yield Metric("otel_aiops.signals.mended", "counter", "{item}", mended, (REASON,))
    left_out = "What was left out because a limit was reached or it came too late, by reason."
    yield Metric("otel_aiops.signals.left_out", "counter", "{item}", left_out, (REASON,))
    gauges = {
        "traces.waiting": ("{span}", "Spans that wait for the rest of their trace."),
        "services.known": ("{service}", "Services, databases and destinations that are known."),
        "operations.known": ("{operation}", "Operations that are known."),
        "templates.known": ("{template}", "Log templates that are known."),
        "service.edges": ("{edge}", "Edges of the service graph."),
    }
    for name, (unit, description) in gauges.items():
        yield Metric(f"otel_aiops.{name}", "gauge", unit, description)


def _responses() -> Iterator[Metric]:
    """How responses stand."""
    of = "otel_aiops.response."
    yield Metric(of + "active", "gauge", "{run}", "Playbooks that go on about an incident or an alert.")
    yield Metric(of + "waiting", "gauge", "{action}", "Steps of playbooks that wait for approval.")
    longest = "How long the step has waited that waits longest for approval, 0 where none waits."
    yield Metric(of + "waiting.longest", "gauge", "s", longest)
    yield Metric(of + "enabled", "gauge", "", "1 where responses are enabled; else all of them are dry runs.")
    yield Metric(of + "stopped", "gauge", "", "1 while all responses are stopped.")
    delay = "Time from when a step was to be done until it was done, waiting for approval included."
    yield Metric(of + "delay", "histogram", "s", delay, buckets=_TAKES)
    recovery = "Time from when a step was done until it was seen to have helped."
    yield Metric(of + "recovery", "histogram", "s", recovery, buckets=_TAKES)
    held = "Lines of the audit of responses that held when it was last verified, at the start and every hour."
    yield Metric(of + "audit.lines", "gauge", "{line}", held)
    yield Metric(of + "audit.broken", "gauge", "", "1 where a line of the audit of responses does not hold.")


def _incidents() -> Iterator[Metric]:
    """Incidents and predictions; see `otel_aiops.desk.metrics`."""
    opened = "Incidents that were opened."
    begins = tuple(("open", severity) for severity in ("critical", "warning", "info"))
    yield Metric("otel_aiops.incidents.opened", "counter", "{incident}", opened, (STATE, SEVERITY), begins=begins)
    standing = "Incidents that are open or acknowledged."
    yield Metric("otel_aiops.incidents.open", "gauge", "{incident}", standing, (SEVERITY,))
    active = "Always 1, for each open incident, of many the 100 earliest; `service` is that of the likeliest cause."
    yield Metric("otel_aiops.incident.active", "gauge", "", active, (INCIDENT_ID, "service", SEVERITY, STATE))
    delay = "Time from the start of an incident until it was opened."
    yield Metric("otel_aiops.incident.detection.delay", "histogram", "s", delay, buckets=_MINUTES)
    yield Metric("otel_aiops.journal.failures", "counter", "{write}", "Writes that the journal of incidents refused.")
    counters = {
        "made": "Predicted incidents, by what is predicted.",
        "hit": "Predicted incidents that came true.",
        "missed": "Predicted incidents that did not come true in time, or were withdrawn.",
    }
    for name, description in counters.items():
        about = f"otel_aiops.predictions.{name}"
        yield Metric(about, "counter", "{prediction}", description, ("what",), begins=_PREDICTED)
    lead = "Time from a prediction until it came true."
    yield Metric("otel_aiops.prediction.lead_time", "histogram", "s", lead, ("what",), _HOURS, _PREDICTED)
    yield Metric("otel_aiops.predictions.standing", "gauge", "{prediction}", "Predictions that are not decided.")
    reliability = {
        "predicted": ("", "Mean probability of the decided predictions whose probability was in the tenth from `bin`."),
        "happened": ("", "Share of them that came true; beside `predicted` it is the reliability diagram."),
        "decided": ("{prediction}", "How many they are."),
    }
    for name, (unit, description) in reliability.items():
        yield Metric(f"otel_aiops.predictions.reliability.{name}", "gauge", unit, description, ("what", "bin"))
    models = "Types of incidents that are predicted by what came before them."
    yield Metric("otel_aiops.precursors.models", "gauge", "{model}", models)


OWN_METRICS: tuple[Metric, ...] = (
    *_signals("otel_aiops_receiver_accepted", _RECEIVER, "that are in the log and acknowledged"),
    *_signals("otel_aiops_receiver_refused", _RECEIVER, "that the sender was told to send again or to mend"),
    *_signals("otel_aiops_receiver_failed", _RECEIVER, "that were lost to a fault of this service"),
    Metric(
        "otel_aiops_receiver_requests",
        "counter",
        "{request}",
        "Export requests, by outcome: success, refused or failure.",
        (*_RECEIVER, "outcome"),
        begins=tuple((*of, outcome) for of in _RECEIVERS for outcome in _OUTCOMES),
    ),
    *_exporter(),
    *_quality(),
    Metric("otel_aiops_exporter_queue_size", "gauge", "{request}", "Requests in the sending queue.", _EXPORTER),
    Metric(
        "otel_aiops_exporter_queue_capacity",
        "gauge",
        "{request}",
        "Requests that the sending queue holds at most.",
        _EXPORTER,
    ),
    Metric("otel_aiops.points.scored", "counter", "{datapoint}", "Points that were given to the detector."),
    Metric(
        "otel_aiops.points.late",
        "counter",
        "{datapoint}",
        "Points older than the newest of their series; not scored.",
    ),
    Metric(
        "otel_aiops.points.duplicate",
        "counter",
        "{datapoint}",
        "Points whose series and time were seen before; not scored.",
    ),
    Metric(
        "otel_aiops.points.future",
        "counter",
        "{datapoint}",
        "Points from too far ahead of the receiver's clock; not scored.",
    ),
    Metric("otel_aiops.points.absent", "counter", "{datapoint}", "Points without a usable number; not scored."),
    Metric("otel_aiops.points.reset", "counter", "{datapoint}", "Points at which a cumulative stream began anew."),
    Metric("otel_aiops.points.gap", "counter", "{datapoint}", "Points that came after a gap in their series."),
    Metric(
        "otel_aiops.points.stale",
        "counter",
        "{datapoint}",
        "Points that say that their series has no value any more.",
    ),
    Metric(
        "otel_aiops.points.rejected", "counter", "{datapoint}", "Points that could not be read, by reason.", (REASON,)
    ),
    Metric(
        "otel_aiops.points.own",
        "counter",
        "{datapoint}",
        "Points of otel-aiops itself that came back and were ignored.",
    ),
    Metric("otel_aiops.points.backfilled", "counter", "{datapoint}", "Points of the past that series were taught."),
    Metric("otel_aiops.series.active", "gauge", "{series}", "Series that are known now."),
    Metric("otel_aiops.series.limit", "gauge", "{series}", "Series that are known at most."),
    Metric("otel_aiops.series.created", "counter", "{series}", "Series that were seen for the first time."),
    Metric("otel_aiops.series.refused", "counter", "{datapoint}", "Points of series over the limit; not scored."),
    Metric("otel_aiops.series.reclaimed", "counter", "{series}", "Silent series that made room for new ones."),
    Metric(
        "otel_aiops.series.worst",
        "gauge",
        "{series}",
        "Series of the metric that has most of them while the limit is reached, and the attribute with most values.",
        ("metric", "attribute"),
    ),
    Metric(
        "otel_aiops.emit.overflow",
        "counter",
        "{series}",
        "Series that should have been emitted but are over the limit of emitted series, counted each time.",
    ),
    Metric("otel_aiops.log.appended", "counter", "{request}", "Bodies appended to the write-ahead log."),
    Metric("otel_aiops.log.bytes", "counter", "By", "Bytes appended to the write-ahead log."),
    Metric("otel_aiops.log.syncs", "counter", "{sync}", "Times that the write-ahead log was made durable."),
    Metric("otel_aiops.log.refused", "counter", "{request}", "Bodies that the disk did not take."),
    Metric("otel_aiops.log.torn", "counter", "{record}", "Unfinished records found at the end of the log."),
    Metric("otel_aiops.log.corrupt", "counter", "{record}", "Records of the log whose checksum does not fit."),
    Metric("otel_aiops.snapshot.duration", "histogram", "s", "Time to write a snapshot.", buckets=_SECONDS),
    Metric("otel_aiops.snapshot.failures", "counter", "{snapshot}", "Snapshots that could not be written."),
    Metric("otel_aiops.segment.rows", "counter", "{row}", "Rows written to Parquet segments."),
    Metric(
        "otel_aiops.score.latency",
        "histogram",
        "s",
        "Time from the receipt of a body to its scores.",
        buckets=_SECONDS,
    ),
    Metric(
        "otel_aiops.registry.failures",
        "counter",
        "{change}",
        "Times that the registry could not be told who serves; it is tried again.",
    ),
    Metric(
        "otel_aiops.lifecycle.runs",
        "counter",
        "{run}",
        "Runs of the lifecycle that this service had made, by outcome (registered, refused, failed) and reason.",
        ("outcome", "reason"),
        begins=_RUNS,
    ),
    Metric("otel_aiops.lifecycle.run.active", "gauge", "{run}", "1 while a run of the lifecycle goes on."),
    Metric(
        "otel_aiops.lifecycle.run.due",
        "gauge",
        "{reason}",
        "1 where a retraining is due for this reason (schedule, drift, verdicts, config).",
        ("reason",),
    ),
    Metric("otel_aiops.lifecycle.run.duration", "gauge", "s", "How long the newest run took."),
    Metric(
        "otel_aiops.lifecycle.run.last_success", "gauge", "s", "When a run last registered a version, in unix seconds."
    ),
    Metric(
        "otel_aiops.response.runs",
        "counter",
        "{action}",
        "What playbooks did or decided, by outcome (done, failed, unknown, refused, dry_run, asked, recovered, "
        "not_recovered).",
        ("playbook", "kind", "outcome"),
    ),
    *_responses(),
    Metric(
        "otel_aiops.alertmanager.sent",
        "counter",
        "{alert}",
        "Alerts that Alertmanager has taken, the same again too.",
        _ALERTMANAGER,
    ),
    Metric(
        "otel_aiops.alertmanager.failures",
        "counter",
        "{request}",
        "Requests that Alertmanager did not answer well; they are tried again.",
        _ALERTMANAGER,
    ),
    Metric(
        "otel_aiops.alertmanager.refused",
        "counter",
        "{alert}",
        "Alerts that Alertmanager called bad; they are tried again when they change.",
        _ALERTMANAGER,
    ),
    Metric(
        "otel_aiops.alertmanager.missed",
        "counter",
        "{alert}",
        "Alerts that began and ended while Alertmanager was away.",
        _ALERTMANAGER,
    ),
    Metric("otel_aiops.alertmanager.firing", "gauge", "{alert}", "Alerts that it has of us.", _ALERTMANAGER),
    Metric(
        "otel_aiops.alertmanager.left_out",
        "gauge",
        "{incident}",
        "Incidents and predictions that are no alerts, since there are more than alertmanager.max_alerts.",
    ),
    Metric(
        "otel_aiops.alertmanager.silences", "gauge", "{silence}", "Silences of Alertmanager that may cover incidents."
    ),
    Metric(
        "otel_aiops.alertmanager.received",
        "counter",
        "{alert}",
        "Alerts that Alertmanager and Grafana told by webhook, by outcome (taken, repeated, ours, unreadable; and of "
        "those that a notification left out: taken when asked for, ended, lost).",
        ("sender", "outcome"),
        begins=(("alertmanager", "lost"), ("grafana", "lost")),
    ),
    Metric(
        "otel_aiops.alertmanager.incomplete",
        "gauge",
        "{notification}",
        "Groups of alerts that a notification left alerts out of, and for which these are still asked.",
    ),
    Metric(
        "otel_aiops.rollout.failures",
        "counter",
        "{order}",
        "Orders that failed; all stayed as it was.",
        ("action",),
        begins=_ACTIONS,
    ),
    Metric("otel_aiops.step.failures", "counter", "{request}", "Bodies whose step ended in a fault."),
    Metric("otel_aiops.step.queue.size", "gauge", "{request}", "Accepted bodies that wait to be scored."),
    Metric("otel_aiops.step.queue.capacity", "gauge", "{request}", "Accepted bodies that may wait to be scored."),
    Metric("otel_aiops.step.queue.bytes", "gauge", "By", "Bytes of the accepted bodies that wait to be scored."),
    *_other_signals(),
    *_incidents(),
    *_budgets(),
    *_models(),
    *_selftest(),
    Metric(
        "otel_aiops.config.reload.success", "gauge", "", "1 when the last reload of the configuration worked, else 0."
    ),
    Metric(
        "otel_aiops.access.refused",
        "counter",
        "{request}",
        "Requests to the API and the page that were refused, by why: missing, unknown, expired, revoked or rate "
        "(credentials), issuer, role, path, host, origin or csrf.",
        (REASON,),
        begins=tuple((one,) for one in REFUSALS),
    ),
    Metric("otel_aiops.config.reload.timestamp", "gauge", "s", "When the configuration was last loaded, unix time."),
    Metric("otel_aiops.build.info", "gauge", "", "Always 1; says what runs.", ("version", "python")),
)

# kind of a change of an incident → (event name, what it says)
INCIDENT_EVENTS: Mapping[str, tuple[str, str]] = {
    kind: (f"otel_aiops.incident.{kind}", what)
    for kind, what in {
        "opened": "An incident was opened.",
        "severity": "Its severity is another.",
        "suspect": "Its likeliest cause is another service.",
        "acknowledged": "Somebody looks after it.",
        "suppressed": "A silence, maintenance window or dependency explains it: it should not page.",
        "unsuppressed": "Nothing suppresses it any more.",
        "merged": "It turned out to be part of another one.",
        "resolved": "It is over.",
        "reopened": "It came back.",
        "predicted": "An incident is predicted.",
        "hit": "What was predicted came true.",
        "missed": "What was predicted did not come true in time, or was withdrawn.",
    }.items()
}

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (*SERIES_METRICS.values(), CHANNEL_METRIC, *FORECAST_METRICS, *SERVICE_METRICS, *OWN_METRICS)
}

# Names under which existing rules and dashboards of two neighbours find the same numbers. Their label for the source
# metric comes on top of ours.
COMPAT_NAMES: Mapping[Compat, Mapping[Field, str]] = {
    "none": {},
    "vmanomaly": {
        "score": "anomaly_score",
        "expected": "yhat",
        "lower": "yhat_lower",
        "upper": "yhat_upper",
        "value": "y",
    },
    "promql_anomaly": {"value": "anomaly:level", "upper": "anomaly:upper_band", "lower": "anomaly:lower_band"},
}
COMPAT_LABEL: Mapping[Compat, str] = {"vmanomaly": "for", "promql_anomaly": "anomaly_name"}
_OWN_NAME = re.compile(r"otel_aiops[._]")
_COMPAT_OWN = frozenset({"anomaly_score", "yhat", "yhat_lower", "yhat_upper"})


def series_metrics(*, compat: Compat = "none", expected: bool = False) -> dict[Field, Metric]:
    """What is emitted for a series: field → metric under the name that it gets.

    With a `compat` map, the names that the map has replace ours and what it needs is emitted whether `expected` or not.
    """
    renamed = COMPAT_NAMES[compat]
    own: list[Field] = ["score", "active", "ratio", "alert", "probability"]
    band: list[Field] = ["expected", "lower", "upper", "value"]
    fields = [field for field in own + band if field in own or expected or field in renamed]
    metrics = {field: SERIES_METRICS[field] for field in fields}
    for field, name in renamed.items():
        metrics[field] = Metric(name, "gauge", "", SERIES_METRICS[field].description, (*_SERIES, COMPAT_LABEL[compat]))
    return metrics


def is_own(name: str, scope_name: str) -> bool:
    """Whether a metric is one of ours that came back: by its scope, or by its name (also after a scrape).

    >>> is_own("cpu", "otel_aiops"), is_own("otel_aiops_anomaly_score", ""), is_own("otel_aiopsx", "app")
    (True, True, False)
    """
    if scope_name == SCOPE_NAME or _OWN_NAME.match(name):
        return True
    return name in _COMPAT_OWN or name in COMPAT_NAMES["promql_anomaly"].values()


def metric_table() -> str:
    """All metrics as Markdown tables: of each series, of each service, of otel-aiops itself."""
    groups = (
        ("Of each emitted series, under the resource of the series", (*SERIES_METRICS.values(), CHANNEL_METRIC)),
        ("Of each series that `forecast` selects, under the resource of the series", FORECAST_METRICS),
        ("Of each service, under `service.name` and `service.namespace`", SERVICE_METRICS),
        ("Of otel-aiops itself, under its own resource", OWN_METRICS),
    )
    return "\n\n".join(f"{title}:\n\n{_table(metrics)}" for title, metrics in groups)


def event_table() -> str:
    """All events as a Markdown table."""
    lines = ["| event name | what it says |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {what} |" for name, what in INCIDENT_EVENTS.values())])


def _table(metrics: tuple[Metric, ...]) -> str:
    lines = ["| OTLP name | type, unit | Prometheus name | attributes | what it is |", "|---|---|---|---|---|"]
    for m in metrics:
        unit = f", `{m.unit}`" if m.unit else ""
        attributes = ", ".join(f"`{a}`" for a in m.attributes)
        lines.append(f"| `{m.name}` | {m.kind}{unit} | `{m.prometheus}` | {attributes} | {m.description} |")
    return "\n".join(lines)
