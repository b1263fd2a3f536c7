"""Analysis: spans, records and series in, incidents out; the owner of everything between decoding and an operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.errors import StateError
from otel_aiops.incidents.alarm import Alarm, AlarmConfig
from otel_aiops.incidents.alerted import Alerted, news_of
from otel_aiops.incidents.behaviour import SLOT_S, Behaviour, BehaviourConfig
from otel_aiops.incidents.codec import decode, encode
from otel_aiops.incidents.foresee import Foresight, ForesightConfig
from otel_aiops.incidents.forewarning import Forewarning
from otel_aiops.incidents.incident import Channel, Finding, Incident, State, Suspect
from otel_aiops.incidents.incidents import Incidents, IncidentsConfig
from otel_aiops.incidents.look import Look, Wording, look
from otel_aiops.incidents.metrics import MetricEvidence, MetricsConfig
from otel_aiops.incidents.plots import Plots
from otel_aiops.incidents.precursors import PrecursorsConfig
from otel_aiops.incidents.rank import Changed, Measured, rank
from otel_aiops.incidents.reliability import Reliability
from otel_aiops.incidents.requests import Requests
from otel_aiops.incidents.slo_points import SLO_SCOPE, SloPoints
from otel_aiops.incidents.suppress import Decision
from otel_aiops.labels import Labels
from otel_aiops.otlp import flags
from otel_aiops.otlp.log_records import LogRecords
from otel_aiops.otlp.points import I32, I64, Bool, Points
from otel_aiops.otlp.spans import Spans
from otel_aiops.series.batch import Batch
from otel_aiops.series.columns import Arrays, json_array, json_tree
from otel_aiops.signals.calls import calls_of
from otel_aiops.signals.deployments import Deployment, Deployments, DeploymentsConfig
from otel_aiops.signals.logs import Logs, LogsConfig, points
from otel_aiops.signals.red import Red, RedConfig
from otel_aiops.signals.sources import Sources, of_items
from otel_aiops.signals.topology import Topology, TopologyConfig
from otel_aiops.signals.traces import Traces, TracesConfig
from otel_aiops.signals.trees import Trees

U64 = NDArray[np.uint64]

S = 1_000_000_000
OWN_SCOPES = "otel_aiops."  # of series that are made of spans and logs here: these are looked at themselves
DEPLOYED_BEFORE_NS = 1800 * S  # a deployment may be a cause so long before an incident
FREEZE_NS = 1800 * S  # what lasts longer becomes usual
YOUNG = 2.5  # warm-ups, until which less and less more is asked of what is strange, twice as much at first
NEAR = 3  # calls between an incident and a suspect at most


@dataclass(frozen=True, slots=True)
class AnalysisConfig:
    """What decides how incidents are found."""

    traces: TracesConfig = field(default_factory=TracesConfig)
    logs: LogsConfig = field(default_factory=LogsConfig)
    topology: TopologyConfig = field(default_factory=TopologyConfig)
    red: RedConfig = field(default_factory=RedConfig)
    deployments: DeploymentsConfig = field(default_factory=DeploymentsConfig)
    behaviour: BehaviourConfig = field(default_factory=BehaviourConfig)
    alarm: AlarmConfig = field(default_factory=AlarmConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    grouping: IncidentsConfig = field(default_factory=IncidentsConfig)
    predict: ForesightConfig = field(default_factory=ForesightConfig)
    precursors: PrecursorsConfig = field(default_factory=PrecursorsConfig)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step of event time brings: points that are made of spans and records, and incidents that changed."""

    points: tuple[Points, ...] = ()
    incidents: tuple[Incident, ...] = ()
    deployments: tuple[Deployment, ...] = ()


class Analysis:
    """One writer; equal calls in equal order give equal bits. Everything is looked at once a slot of event time."""

    def __init__(self, config: AnalysisConfig) -> None:
        self.config = config
        self.sources = Sources()
        self.traces = Traces(config.traces, self.sources.services)
        self.logs = Logs(config.logs)
        self.topology = Topology(config.topology, self.sources.services)
        self.red = Red(config.red, self.sources.services, self.traces.operations)
        self.deployments = Deployments(config.deployments)
        self.behaviour = Behaviour(config.behaviour)
        self.alarm = Alarm(config.alarm)
        self.metrics = MetricEvidence(config.metrics)
        self.foresight = Foresight(config.predict)
        self.forewarning = Forewarning(config.precursors)
        self.plots = Plots()
        self.requests = Requests([one.service for one in config.grouping.slo])
        self.budgets = SloPoints(config.grouping.slo, self.requests)
        self.incidents = Incidents(
            config.grouping, graph=self.topology, rank=self._ranked, failing=self.requests.failing
        )
        self._wording = Wording(
            service=self.sources.services.__getitem__,
            operation=self.traces.operations.__getitem__,
            template=self.logs.templates.text,
            word=self.traces.words.__getitem__,
        )
        self._slot = -1
        self._first_ns = 0  # event time of the first span
        self._deployed: list[Deployment] = []  # since the last step
        self._news: list[Finding] = []  # of logs, in this step
        self.alerted = Alerted(config.alarm.series)
        self._shown: Callable[[int, int], Look] = self._look
        self._measured: Callable[[int, int], Measured] = self._measure

    @property
    def counts(self) -> Counter[str]:
        """What was left out or mended so far, by reason in plain words."""
        kept = self.traces.counts + self.logs.counts + self.topology.counts + self.red.counts + self.deployments.counts
        kept += Counter(self.metrics.counts) + self.incidents.refused()
        kept["outcomes over the limit of cells"] = self.behaviour.refused
        kept["spans and log records too late to be looked at"] = self.behaviour.late
        kept["span names over the limit"] = self.traces.operations.refused
        kept["peers, exceptions and event names over the limit"] = self.traces.words.refused
        kept["services over the limit"] = self.sources.services.refused
        kept["kinds of signs over the limit"] = self.forewarning.signs.refused
        return kept

    @property
    def reliability(self) -> dict[str, Reliability]:
        """How good predictions have been, by what is predicted."""
        return {"exhaustion": self.foresight.reliability, "precursor": self.forewarning.reliability}

    # -- what comes ---------------------------------------------------------------------------------------------------

    def take_spans(self, spans: Spans, event_ns: int) -> None:
        """Take the spans of a body."""
        services, instances = self.sources.numbers(spans.resources)
        for raw, service in zip(spans.resources, services.tolist(), strict=True):
            namespace = dict(self.sources.read(raw).attributes).get("service.namespace")
            if isinstance(namespace, str):
                self.red.name_space(service, namespace)
        self.see(spans.resources, event_ns)
        for number, word in enumerate(spans.words):
            if word.startswith(flags.PREFIX):
                of = spans.resource[spans.event_span[spans.event_name == number]]
                self._flagged(word, [spans.resources[k] for k in np.unique(of).tolist()], event_ns)
        self.traces.add(spans, of_items(services, spans.resource), of_items(instances, spans.resource), event_ns)

    def take_logs(self, records: LogRecords, event_ns: int) -> None:
        """Take the log records of a body."""
        services, instances = self.sources.numbers(records.resources)
        self.see(records.resources, event_ns)
        for word in sorted({name for name in records.event_name if name.startswith(flags.PREFIX)}):
            told = zip(records.resource.tolist(), records.event_name, strict=True)
            resources = sorted({of for of, name in told if name == word})
            self._flagged(word, [records.resources[k] for k in resources], event_ns)
        of = of_items(services, records.resource), of_items(instances, records.resource)
        events = self.logs.add(records, *of, event_ns)
        self.traces.add_logs(events, event_ns)
        self.behaviour.add_logs(events, event_ns)

    def see(self, resources: Iterable[bytes], event_ns: int) -> None:
        """See what runs, in the raw resources of a body of any signal."""
        self._deployed += self.deployments.see(resources, event_ns)

    def _flagged(self, word: str, resources: Sequence[bytes], event_ns: int) -> None:
        """See that code of these resources evaluated a feature flag."""
        parts = flags.parts_of(word)
        if parts is not None:
            for raw in resources:
                self._deployed += self.deployments.flag(raw, *parts, event_ns)

    def welcome(self, rows: I32, labels: Sequence[Labels], fingerprints: U64, event_ns: int) -> None:
        """Meet new series, (K,) each."""
        for row, of, fingerprint in zip(rows.tolist(), labels, fingerprints.tolist(), strict=True):
            series = f"{fingerprint:016x}"
            self.plots.assign(row, of, series)
            if not of.scope_name.startswith(OWN_SCOPES):
                self.metrics.assign(row, of, series)
                self.topology.observe(row, of, event_ns)
            if of.scope_name == SLO_SCOPE or not of.scope_name.startswith(OWN_SCOPES):
                self.foresight.assign(row, of, series)

    def forget(self, rows: I32) -> None:
        """Rows that now belong to other series."""
        self.metrics.forget(rows)
        self.topology.forget(rows)
        self.foresight.forget(rows)
        self.plots.forget(rows.tolist())
        self.alerted.ended(rows)

    def measure(self, batch: Batch) -> None:
        """Take points of series."""
        self.metrics.update(batch)
        self.topology.touch(batch.rows, batch.value, batch.time_ns)
        self.foresight.update(batch)

    def decide(self, decision: Decision) -> tuple[Incident, ...]:
        """Do what an operator wants. Raises: BadInput."""
        return self.incidents.decide(decision)

    # -- step by step -------------------------------------------------------------------------------------------------

    def step(self, event_ns: int) -> Outcome:
        """What is due at an event time; most of it once a slot."""
        slot = self.behaviour.slot(event_ns)
        if slot <= self._slot:
            return Outcome()
        self._slot = slot
        made = self._assemble(event_ns)
        findings = [*self._strange(event_ns), *self.metrics.findings(event_ns), *self.alerted.step(event_ns)]
        findings += self._news
        self._news = []
        self._learn(event_ns)
        deployed, self._deployed = tuple(self._deployed), []
        with self._at_once():
            changed = [*self.incidents.update(findings, event_ns)]
        changed += self._predict(findings, deployed, tuple(changed), event_ns)
        return Outcome(tuple(made), tuple(changed), deployed)

    def _predict(
        self, findings: Sequence[Finding], deployed: Sequence[Deployment], changed: Sequence[Incident], event_ns: int
    ) -> tuple[Incident, ...]:
        """What is predicted anew, and what became of predictions. Those who make them judge them."""
        told = [one for incident in changed for one in self.foresight.outcome(incident)]
        told += self.foresight.due(event_ns)
        if self.config.precursors.enabled:
            signs = self.forewarning.signs
            signs.take(findings, event_ns)
            signs.changed(deployed, event_ns)
            for one in told:
                if one.prediction is not None and one.state is State.PREDICTED and one.revision == 1:
                    signs.foreseen(one.services[0], one.prediction.probability, event_ns)
        told += [one for incident in changed for one in self.forewarning.outcome(incident)]
        told += self.forewarning.due(self.incidents.open, event_ns)
        return self.incidents.foresee(told, event_ns)

    def _assemble(self, event_ns: int) -> list[Points]:
        """Put traces together that are complete, and count them; the points that come of it."""
        trees = self.traces.close(event_ns)
        if trees is not None:
            self._count(trees, event_ns)
        made = [self.red.close(event_ns), self.budgets.close(event_ns)]
        for window in self.logs.close(event_ns):
            made.append(points(window, self.sources.services))
            self._news += [news_of(one, self.sources.services[one.service], window) for one in window.news]
        return [one for one in made if one is not None and len(one)]

    def _count(self, trees: Trees, event_ns: int) -> None:
        self._first_ns = self._first_ns or event_ns
        calls = calls_of(trees)
        self.topology.add(calls, event_ns)
        self.red.add(trees, calls, event_ns)
        self.behaviour.add(trees, event_ns)
        self.requests.add(trees, self._wording.service, event_ns)

    def _strange(self, event_ns: int) -> list[Finding]:
        """What services do that is strange enough."""
        users = self.requests.take_users()
        if not self._first_ns or event_ns - self._first_ns < self.config.alarm.warmup * S:
            return []
        config, slot = self.config.alarm, self.behaviour.slot(event_ns)
        looks = [
            look(self.behaviour, self._wording, slot - int(s / SLOT_S), slot, least_usual=config.observations)
            for s in config.windows
        ]
        age_s, warmup_s = (event_ns - self._first_ns) / S, config.warmup
        young = 1 + float(np.clip((YOUNG * warmup_s - age_s) / ((YOUNG - 1) * warmup_s), 0, 1))
        found = self.alarm.step(looks, users, event_ns, lambda name: young * self.deployments.widen([name], event_ns))
        return [replace(one, evidence=self.plots.drawn(one.evidence)) for one in found]

    def _learn(self, event_ns: int) -> None:
        """Learn what has settled, but nothing of services near an open finding that is not old."""
        findings = self.alarm.open.values()
        strange = {one.service for one in findings if one.score >= 1 and event_ns - one.start_ns < FREEZE_NS}
        for service in sorted(strange):
            strange |= {*self.topology.callers(service), *self.topology.callees(service)}
        numbers = [number for service in sorted(strange) if (number := self.sources.services.find(service))]
        blocked = np.array(numbers, np.int64)

        def is_blocked(services: I64) -> Bool:
            found: Bool = np.isin(services, blocked)
            return found

        self.behaviour.learn(event_ns, is_blocked if numbers else None)

    # -- causes -------------------------------------------------------------------------------------------------------

    def causes(
        self,
        start_ns: int,
        end_ns: int,
        *,
        symptom: str = "",
        among: Callable[[str], bool] = lambda service: True,
    ) -> tuple[Suspect, ...]:
        """Who may have caused what is seen from `start_ns` to `end_ns`, of which spans and records are kept for
        `behaviour.window`; `symptom` is the service in which users see it, "" when nobody says.
        """
        slot = self.behaviour.slot
        start_ns = max(start_ns, end_ns - int(self.config.behaviour.window * S))
        seen, measured = self._shown(slot(start_ns), slot(end_ns)), self._measured(start_ns, end_ns)
        deployed = [
            Changed(one.service, str(one), one.time_ns)
            for one in self.deployments.all_since(start_ns - DEPLOYED_BEFORE_NS)
            if not one.weak and one.time_ns <= end_ns
        ]
        found = rank(seen, measured, deployed, symptom=symptom, among=among)
        return tuple(replace(one, evidence=tuple(map(self.plots.drawn, one.evidence))) for one in found)

    def _ranked(self, incident: Incident, event_ns: int) -> tuple[Suspect, ...]:
        """The suspects of an incident, from everything since it began."""
        near = partial(self._near, incident)
        return self.causes(incident.start_ns, event_ns, symptom=self._symptom(incident), among=near)

    @contextmanager
    def _at_once(self) -> Iterator[None]:
        """Look and measure once for all incidents of a storm that began together, while nothing is learned."""
        self._shown, self._measured = cache(self._look), cache(self._measure)
        try:
            yield
        finally:
            self._shown, self._measured = self._look, self._measure

    def _look(self, first: int, last: int) -> Look:
        return look(self.behaviour, self._wording, first, last) if self._first_ns else Look()

    def _measure(self, start_ns: int, event_ns: int) -> Measured:
        def widen(service: str) -> float:
            return self.deployments.widen([service], event_ns)

        silent = [one.evidence for one in self.alerted.lasting() if one.channel == Channel.SILENCE]
        return Measured(
            evidence=(*self.metrics.evidence(start_ns, event_ns, widen), *silent),
            network=self.metrics.network(start_ns, event_ns, widen),
            calls=self.metrics.calls(),
            outside=self.metrics.outside(),
        )

    def _symptom(self, incident: Incident) -> str:
        """The service of an incident that none of its others calls: where users see it; "" when there is not one."""
        shown = set(incident.services)
        top = [service for service in incident.services if not shown & {*self.topology.callers(service)} - {service}]
        return top[0] if len(top) == 1 else ""

    def _near(self, incident: Incident, service: str) -> bool:
        """Whether a service is close enough to an incident to be its cause; one without known calls is not told."""
        if service in incident.services or not (self.topology.callers(service) or self.topology.callees(service)):
            return True
        return any(self.topology.distance(service, one, NEAR) is not None for one in incident.services)

    # -- state --------------------------------------------------------------------------------------------------------

    def _owners(self) -> dict[str, Any]:
        return {
            "sources": self.sources,
            "traces": self.traces,
            "logs": self.logs,
            "topology": self.topology,
            "red": self.red,
            "deployments": self.deployments,
            "behaviour": self.behaviour,
            "alarm": self.alarm,
            "alerted": self.alerted,
            "metrics": self.metrics,
            "foresight": self.foresight,
            "forewarning": self.forewarning,
            "plots": self.plots,
            "requests": self.requests,
            "incidents": self.incidents,
        }

    def state(self) -> Arrays:
        """Everything learned, as arrays that nobody changes later."""
        arrays = {f"{name}/{key}": array for name, one in self._owners().items() for key, array in one.state().items()}
        tree = {
            "slot": self._slot,
            "first_ns": self._first_ns,
            "minute": self.budgets.minute,
            "deployed": [encode(one) for one in self._deployed],
        }
        return {**arrays, "clock": json_array(tree)}

    def restore(self, arrays: Arrays) -> None:
        """Take over a state; one from before there was an analysis holds nothing. Raises: StateError."""
        if not arrays:
            return
        tree = json_tree(arrays, "clock")
        for name, owner in self._owners().items():
            part = name + "/"
            owner.restore({key.removeprefix(part): array for key, array in arrays.items() if key.startswith(part)})
        try:
            self._slot, self._first_ns = int(tree["slot"]), int(tree["first_ns"])
            self.budgets.minute = int(tree.get("minute", -1))  # older ones have none
            self._deployed = [decode(Deployment, one) for one in tree["deployed"]]
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"expected the clock of an analysis, got {error!r}") from error
