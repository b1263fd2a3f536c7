"""Incidents open, grow, merge, split, flap, end, are ranked, suppressed and foreseen; and go on after a restart."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.errors import BadInput, ConfigError, StateError
from otel_aiops.incidents.codec import encode
from otel_aiops.incidents.group import GroupConfig
from otel_aiops.incidents.incident import (
    Channel,
    Evidence,
    Finding,
    Incident,
    Prediction,
    Severity,
    State,
    Suspect,
)
from otel_aiops.incidents.incidents import Incidents, IncidentsConfig
from otel_aiops.incidents.severity import SloConfig
from otel_aiops.incidents.suppress import Action, Decision, MaintenanceConfig, Silence
from tests.incidents.makers import CHAIN, Calls, at, finding
from tests.incidents.test_group import stories


def first_service(incident: Incident, event_ns: int) -> tuple[Suspect, ...]:
    """Suspects the service of the strongest finding."""
    found = incident.findings[0]
    return (Suspect(service=found.service, score=found.score, confidence=0.5, reason="it is the strongest"),)


class Ranker:
    """Counts when it is asked."""

    def __init__(self) -> None:
        self.times: list[int] = []

    def __call__(self, incident: Incident, event_ns: int) -> tuple[Suspect, ...]:
        self.times.append(event_ns)
        return ()


def incidents(
    config: IncidentsConfig | None = None,
    *,
    calls: Calls = CHAIN,
    rank: Callable[[Incident, int], tuple[Suspect, ...]] = first_service,
    failing: Callable[[str, float, int], float] | None = None,
) -> Incidents:
    return Incidents(config or IncidentsConfig(), graph=calls, rank=rank, failing=failing)


def kinds(incident: Incident) -> list[str]:
    return [line.kind for line in incident.timeline]


def settled(one: Incidents) -> list[object]:
    """What must be the same whatever the order: all but when we heard of it."""
    found = [record.incident for record in one._records.values() if record.incident.state is not State.MERGED]
    return sorted(
        (
            i.id,
            i.state,
            i.severity,
            i.start_ns,
            i.end_ns,
            i.services,
            i.blast_radius,
            i.findings,
            i.users,
            i.flaps,
            i.more_findings,
            i.title,
        )
        for i in found
    )


def plain(found: Sequence[Finding]) -> Incidents:
    one = incidents()
    one.update(found, at(3400))
    one.step(at(3500))
    return one


@settings(max_examples=60, deadline=None)
@given(stories(), st.randoms(use_true_random=False))
def test_any_order_repetition_restart_and_lateness_end_in_the_same_incidents(
    found: list[Finding], rng: random.Random
) -> None:
    config = IncidentsConfig(group=GroupConfig(late=3600))
    expected = incidents(config)
    expected.update(found, at(3400))
    expected.step(at(3500))
    mixed = [*found, *rng.choices(found, k=len(found) // 2)]
    rng.shuffle(mixed)
    one = incidents(config)
    time_s = 100.0
    while mixed:
        count = rng.randint(1, 6)
        one.update(mixed[:count], at(time_s))
        mixed, time_s = mixed[count:], min(time_s + rng.choice([0, 5, 60]), 3400)
        if rng.random() < 0.3:
            again = incidents(config)
            again.restore(one.state())
            one = again
    one.step(at(3400))
    one.step(at(3500))
    assert settled(one) == settled(expected)


@settings(max_examples=40, deadline=None)
@given(stories(), st.integers(0, 12))
def test_a_restart_goes_on_with_the_same_bits(found: list[Finding], cut: int) -> None:
    def run(restart: bool) -> list[object]:
        one = incidents()
        one.decide(
            Decision(action=Action.SILENCE, who="ana", time_ns=at(0), silence=Silence(name="s", until_ns=at(400)))
        )
        told: list[object] = []
        for n, some in enumerate(found):
            if restart and n == cut:
                again = incidents()
                again.restore(one.state())
                one = again
            told += one.update([some], at(60 * n))
        told += one.step(at(5000))
        return [*told, one.open(), one.refused(), one.state()["incidents"].tobytes()]

    assert run(False) == run(True)


def test_an_incident_opens_is_told_and_resolves() -> None:
    one = incidents()
    (opened,) = one.update([finding("pay", 0, 10, users=310)], at(12))
    assert opened.state is State.OPEN and opened.revision == 1 and opened.detected_ns == at(12)
    assert opened.title == "pay is slow"
    assert opened.summary == (
        "Since 22:13 UTC pay is slow: `charge` takes 1.2 s instead of 80 ms (310 requests). "
        "Likeliest cause: pay: it is the strongest."
    )
    assert opened.blast_radius == ("pay", "web") and opened.suspects[0].service == "pay"
    assert kinds(opened) == ["joined", "opened", "ranked"]
    assert not one.update([finding("pay", 0, 20, users=400)], at(20))  # it only goes on
    (renewed,) = one.update([finding("pay", 0, 50, users=500)], at(50))
    assert renewed.revision == 2 and renewed.users == 500
    one.update([finding("pay", 0, 60, end_s=60)], at(60))
    assert all(i.state is State.OPEN for i in one.step(at(170)))
    (resolved,) = one.step(at(180))
    assert resolved.state is State.RESOLVED and resolved.end_ns == at(60)
    assert resolved.summary.startswith("From 22:13 UTC until 22:14 UTC")
    assert not one.open() and kinds(resolved)[-1] == "resolved"


def test_what_is_weak_opens_nothing_but_joins() -> None:
    one = incidents()
    weak = finding("redis", 0, 5, score=0.4)
    assert not one.update([weak], at(5))
    (opened,) = one.update([finding("cart", 10)], at(12))
    assert weak in opened.findings and opened.services == ("cart",)


def test_flapping_reopens_the_same_incident() -> None:
    one = incidents()
    (first,) = one.update([finding("pay", 0, 10, end_s=10)], at(12))
    one.step(at(150))
    (again,) = one.update([finding("pay", 185, 190, end_s=190)], at(192))
    assert again.id == first.id and again.state is State.OPEN and again.flaps == 1
    assert "reopened" in kinds(again)
    told = one.update([finding("pay", 600, 610)], at(612))
    assert {i.id: i.state for i in told}[first.id] is State.RESOLVED and len(told) == 2


def test_a_merge_names_the_survivor_and_keeps_who_acknowledged() -> None:
    one = incidents(IncidentsConfig(group=GroupConfig(hops=2)))
    (left,) = one.update([finding("redis", 0)], at(12))
    (right,) = one.update([finding("pay", 0, 30)], at(32))
    one.decide(Decision(action=Action.ACKNOWLEDGE, who="ana", time_ns=at(35), incident=right.id))
    survivor, gone = one.update([finding("web", 50, 60)], at(62))
    assert survivor.id == left.id and survivor.state is State.ACKNOWLEDGED
    assert gone.id == right.id and gone.state is State.MERGED and gone.merged_into == left.id
    assert survivor.services == ("pay", "redis", "web") and "merged" in kinds(survivor)
    (same,) = one.decide(Decision(action=Action.RESOLVE, who="bo", time_ns=at(70), incident=right.id))
    assert same.id == left.id and same.state is State.RESOLVED


def test_an_earlier_end_splits_and_both_say_so() -> None:
    one = incidents()
    bridge = finding("pay", 0, 480, what="bridge")
    (whole,) = one.update([bridge, finding("pay", 500, 510, what="later")], at(512))
    told = one.update([replace(bridge, last_ns=at(520), end_ns=at(100))], at(520))
    assert {i.id for i in told} >= {whole.id}
    one.step(at(560))
    found = [record.incident for record in one._records.values()]
    assert len(found) == 2 and all("split" in kinds(i) for i in found)
    assert {len(i.findings) for i in found} == {1}


def test_ranked_when_it_should_be() -> None:
    ranker = Ranker()
    one = incidents(rank=ranker)
    one.update([finding("pay", 0, 10)], at(10))
    for second in range(11, 140):
        one.step(at(second))
    assert [(time_ns - at(10)) // 10**9 for time_ns in ranker.times] == [0, 30, 60, 120]
    (now,) = one.update([finding("pay", 0, 140), finding("web", 130, 140)], at(140))
    assert ranker.times[-1] == at(140) and "No candidate for the cause" in now.summary
    for second in range(141, 146):
        one.update([finding("bank", second, what=f"op{second}")], at(second))
    assert ranker.times[-1] == at(145) and len(ranker.times) == 6


def test_a_silence_suppresses_with_who_and_deletes_nothing() -> None:
    one = incidents()
    one.update([finding("pay", 0, 10)], at(12))
    silence = Silence(name="night", until_ns=at(100), services=("pa*",), channels=(Channel.LATENCY,))
    (hushed,) = one.decide(Decision(action=Action.SILENCE, who="ana", why="known", time_ns=at(20), silence=silence))
    assert hushed.suppressed_by == "silence night by ana: known" and hushed.state is State.OPEN
    assert hushed in one.open() and "suppressed" in kinds(hushed)
    (loud,) = one.step(at(100))
    assert loud.suppressed_by == "" and not one.rules()


def test_a_silence_of_one_service_does_not_hide_another() -> None:
    one = incidents()
    one.decide(
        Decision(
            action=Action.SILENCE,
            who="ana",
            time_ns=at(0),
            silence=Silence(name="s", until_ns=at(900), services=("pay",)),
        )
    )
    (opened,) = one.update([finding("pay", 0), finding("web", 0)], at(12))
    assert not opened.suppressed_by
    one.decide(Decision(action=Action.UNSILENCE, who="ana", time_ns=at(20), name="s"))
    assert not one.rules()


def test_maintenance_comes_again() -> None:
    start_s, end = at(-86_400) / 1e9, datetime.fromtimestamp(at(-86_340) / 1e9, UTC).isoformat()
    window = MaintenanceConfig(name="backup", start=start_s, end=end, services=("pay",), every=86_400)
    one = incidents(IncidentsConfig(maintenance=(window,)))
    (opened,) = one.update([finding("pay", 0)], at(12))
    assert opened.suppressed_by == "maintenance backup"
    (loud,) = one.step(at(61))
    assert not loud.suppressed_by


def test_a_dependency_suppresses_what_only_has_symptoms() -> None:
    calls = Calls([("web", "cart"), ("cart", "stock"), ("stock", "db")])
    one = incidents(calls=calls)
    (cause,) = one.update([finding("db", 0, channel=Channel.RESOURCE)], at(5))
    (symptom,) = one.update([finding("web", 10)], at(20))
    assert symptom.suppressed_by == f"dependency db: incident {cause.id}"
    one.update([finding("db", 0, 30, end_s=30, channel=Channel.RESOURCE), finding("web", 10, 100)], at(40))
    told = [*one.step(at(180)), *one.step(at(181))]
    assert [i.suppressed_by for i in told if i.id == symptom.id][-1] == ""
    own = incidents(calls=calls)
    own.update([finding("db", 0, channel=Channel.RESOURCE)], at(5))
    (free,) = own.update([finding("web", 10, channel=Channel.DEPLOYMENT)], at(20))
    assert not free.suppressed_by


def test_operators_resolve_and_reopen() -> None:
    one = incidents()
    (opened,) = one.update([finding("pay", 0, 10)], at(12))
    (done,) = one.decide(Decision(action=Action.RESOLVE, who="ana", why="fixed", time_ns=at(20), incident=opened.id))
    assert done.state is State.RESOLVED and done.end_ns == at(20)
    assert done.timeline[-1].text == "By ana: fixed."
    one.update([finding("pay", 0, 60)], at(60))
    assert not one.open()
    (back,) = one.update([finding("pay", 70, 80, what="refund")], at(80))
    assert back.state is State.OPEN
    one.decide(Decision(action=Action.RESOLVE, who="ana", time_ns=at(90), incident=opened.id))
    (forced,) = one.decide(Decision(action=Action.REOPEN, who="bo", time_ns=at(95), incident=opened.id))
    assert forced.state is State.OPEN
    assert not [i for i in one.step(at(3000)) if i.state is State.RESOLVED]
    (ended,) = one.step(at(9000))
    assert ended.state is State.RESOLVED and one.find(opened.id) is None


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        (Decision(action=Action.ACKNOWLEDGE, who="", time_ns=0, incident="x"), "who"),
        (Decision(action=Action.ACKNOWLEDGE, who="ana", time_ns=0), "incident"),
        (Decision(action=Action.ACKNOWLEDGE, who="ana", time_ns=0, incident="x"), "long over"),
        (Decision(action=Action.SILENCE, who="ana", time_ns=0), "silence"),
        (Decision(action=Action.UNSILENCE, who="ana", time_ns=0, name="x"), "'x'"),
    ],
)
def test_decisions_that_cannot_be_are_refused_in_words(decision: Decision, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        incidents().decide(decision)


def test_severity_grows_with_impact() -> None:
    one = incidents()
    (info,) = one.update([finding("pay", 0)], at(12))
    (warning,) = one.update([finding("web", 0, 20, users=50)], at(20))
    many = [finding("bank", 0, 30, users=5_000), finding("cart", 0, 30, score=6)]
    (critical,) = one.update(many, at(30))
    assert [i.severity for i in (info, warning, critical)] == [Severity.INFO, Severity.WARNING, Severity.CRITICAL]
    assert kinds(critical).count("severity") == 2


@pytest.mark.parametrize(
    ("share", "severity", "burn"),
    [(0.0005, Severity.INFO, 0.5), (0.007, Severity.WARNING, 7), (0.02, Severity.CRITICAL, 20)],
)
def test_severity_by_burn_rate(share: float, severity: Severity, burn: float) -> None:
    one = incidents(IncidentsConfig(slo=(SloConfig(service="pay"),)), failing=lambda service, over_s, now: share)
    (opened,) = one.update([finding("pay", 0)], at(12))
    assert opened.severity is severity and opened.slo_burn == pytest.approx(burn)


def test_a_burn_rate_that_was_only_in_the_past_does_not_alarm() -> None:
    slo = IncidentsConfig(slo=(SloConfig(service="pay"), SloConfig(service="web")))
    one = incidents(slo, failing=lambda service, over_s, now: 0.02 if over_s == 3600 else 0.0)
    (opened,) = one.update([finding("pay", 0)], at(12))
    assert opened.severity is Severity.INFO and opened.slo_burn == pytest.approx(20)


def test_findings_of_errors_tell_the_burn_rate_when_nobody_counts() -> None:
    one = incidents(IncidentsConfig(slo=(SloConfig(service="pay"),)))
    (opened,) = one.update([finding("pay", 0, channel=Channel.ERRORS, after=0.5, before=0.0, unit="1")], at(12))
    assert opened.severity is Severity.CRITICAL and opened.slo_burn == pytest.approx(500)


def test_similar_incidents_of_the_past_are_named() -> None:
    one = incidents()
    (past,) = one.update([finding("pay", 0, 10, end_s=10)], at(12))
    (other,) = one.update([finding("alone", 0, 10, end_s=10, channel=Channel.LOGS)], at(12))
    one.step(at(400))
    (now,) = one.update([finding("pay", 2000, 2010)], at(2012))
    assert now.similar == (past.id,) and other.id not in now.similar


def prediction(service: str = "pay", *, expires_s: float = 600, name: str = "p1") -> Incident:
    what = Prediction(
        what="exhaustion",
        probability=0.7,
        horizon_s=600,
        lead_s=300,
        earliest_s=200,
        latest_s=400,
        expires_ns=at(expires_s),
    )
    return Incident(
        id=name,
        revision=0,
        state=State.PREDICTED,
        severity=Severity.WARNING,
        start_ns=at(0),
        detected_ns=at(0),
        services=(service,),
        prediction=what,
    )


def test_predictions_are_kept_up_to_a_limit_and_decided_by_nobody_else() -> None:
    one = incidents(IncidentsConfig(max_predictions=1))
    (told,) = one.foresee([prediction()], at(0))
    assert told.state is State.PREDICTED and told.revision == 1
    assert not one.foresee([prediction()], at(1))
    one.foresee([prediction("bank", name="p2")], at(2))
    assert one.refused()["prediction over the limit"] == 1
    assert not [i for i in (*one.update([finding("pay", 100)], at(112)), *one.step(at(600))) if i.prediction]
    assert [i.id for i in one.predicted()] == ["p1"]
    one.foresee([prediction("bank", name="p3")], at(700))
    assert one.refused()["prediction that says nothing of the future"] == 1


@pytest.mark.parametrize(("outcome", "state"), [("hit", State.RESOLVED), ("miss", State.EXPIRED)])
def test_whoever_predicts_says_what_became_of_it(outcome: str, state: State) -> None:
    one, made = incidents(IncidentsConfig(max_predictions=1)), prediction()
    one.foresee([made], at(0))
    assert made.prediction is not None
    ended = replace(made, state=state, end_ns=at(50), prediction=replace(made.prediction, outcome=outcome))
    (told,) = one.foresee([ended], at(50))
    assert (told.revision, told.state, told.end_ns) == (2, state, at(50)) and told.detected_ns == made.detected_ns
    assert told.prediction is not None and told.prediction.outcome == outcome
    assert not one.predicted() and not one.foresee([ended], at(51))
    (new,) = one.foresee([prediction("bank", name="p2")], at(52))  # what is decided makes room
    assert one.predicted() == (new,)


def test_a_storm_is_told_in_parts_and_none_is_lost() -> None:
    ranker = Ranker()
    config = IncidentsConfig(max_revised=50, max_ranked=10)
    one = incidents(config, calls=Calls(), rank=ranker)
    storm = [finding(f"s{n % 400}", n % 60, 60, what=f"op{n}") for n in range(4_000)]
    told = [one.update(storm, at(60))]
    assert len(told[0]) <= 50
    for second in range(61, 90):
        told.append(one.step(at(second)))
        assert len(told[-1]) <= 51
    last = {i.id: i for some in told for i in some}
    assert len(last) == 400
    assert sum(len(i.findings) + i.more_findings for i in last.values()) == 4_000
    assert 200 < len(ranker.times) <= 300


def test_limits_are_counted() -> None:
    one = incidents(IncidentsConfig(max_incidents=2, max_timeline=10), calls=Calls())
    one.update([finding(f"s{n}", 0) for n in range(5)], at(12))
    assert len(one.open()) == 2 and one.refused()["incident over the limit"] == 3
    for n in range(20):
        one.update([finding("s0", 20 + 10 * n, what=f"op{n}")], at(30 + 10 * n))
    assert all(len(i.timeline) <= 10 for i in one.open())
    assert one.refused()["line over the limit of a timeline"] > 0


def test_many_findings_are_shown_by_the_strongest_and_counted() -> None:
    one = incidents()
    (opened,) = one.update([finding("pay", 0, what=f"op{n}", score=1 + n / 100) for n in range(300)], at(12))
    assert len(opened.findings) == 200 and opened.more_findings == 100
    assert min(found.score for found in opened.findings) == 2.0
    assert "pay is slow: 300 findings" in [line.text for line in opened.timeline]


def test_a_state_has_every_finding_once_and_all_of_it() -> None:
    one, other = incidents(), incidents()
    called = finding("pay", 0, what="odd", score=2.0)
    called = replace(called, evidence=replace(called.evidence, caller="web", callee="pay", traces=("ab" * 16,)))
    one.update([called, finding("pay", 1)], at(12))
    told = one.update([replace(called, last_ns=at(13))], at(13))
    assert not told, "what only goes on is told later, so that the incident still has the version before"
    saved = one.state()
    other.restore(saved)
    assert other.open() == one.open() and other.open()[0].findings[0] == called
    assert other.state()["incidents"].tobytes() == saved["incidents"].tobytes()
    tree = json.loads(saved["incidents"].tobytes())
    assert [type(each) for each in tree["records"][0][1]["findings"]] == [dict, int]
    later = [each.update([finding("web", 20)], at(60)) for each in (one, other)]
    assert later[0] == later[1] and "web" in {evidence.evidence.caller for evidence in later[0][0].findings}


def test_a_state_of_an_earlier_release_is_taken() -> None:
    one, other = incidents(), incidents()
    one.update([finding("pay", 0), finding("pay", 1, what="other", score=0.4)], at(12))
    tree = json.loads(one.state()["incidents"].tobytes())
    by_row = [list(zip(*columns, strict=True)) for columns in tree["items"]]
    items = [[row, evidence[:-1], rest] for row, evidence, rest in zip(*by_row, strict=True)]
    records = [
        [name, {**told, "findings": encode(one.open()[0].findings)}, *rest] for name, told, *rest in tree["records"]
    ]
    before = {**tree, "version": 1, "items": items, "records": records}
    other.restore({"incidents": np.frombuffer(json.dumps(before).encode(), np.uint8)})
    assert other.open() == one.open()
    assert other.state()["incidents"].tobytes() == one.state()["incidents"].tobytes()


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"incidents": np.zeros(3, np.uint8)},
        {"incidents": np.frombuffer(b'{"version": 9}', np.uint8)},
        {"incidents": np.frombuffer(b'{"version": 1, "items": [[1]]}', np.uint8)},
        {"incidents": np.frombuffer(b'{"version": 2, "items": [[[1]], [], []]}', np.uint8)},
    ],
)
def test_a_state_that_does_not_fit_is_refused(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(StateError):
        incidents().restore(arrays)


@pytest.mark.parametrize("knobs", [{"renew": -1}, {"rank_at": (3.0, 1.0)}, {"max_past": 0}])
def test_wrong_settings_are_named(knobs: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(knobs))):
        IncidentsConfig(**knobs)  # type: ignore[arg-type]


def test_findings_without_a_service_are_told_by_resource() -> None:
    lost = replace(
        finding("", 0, resource="node-1"),
        evidence=Evidence(
            channel=Channel.RESOURCE, service="", what="cpu", before=0.2, after=0.97, unit="1", resource="node-1"
        ),
        channel=Channel.RESOURCE,
    )
    (opened,) = incidents().update([lost], at(12))
    assert opened.title == "node-1 is short of resources" and opened.services == ()
    assert "`cpu` on node-1 is 97 % instead of 20 %" in opened.summary


def test_an_incident_that_comes_back_after_it_was_forgotten_goes_on_counting() -> None:
    one = incidents()
    (opened,) = one.update([finding("pay", 0, 10)], at(12))
    (resolved,) = (i for i in one.step(at(3700)) if i.state is State.RESOLVED)
    one.step(at(9000))
    assert one.find(opened.id) is None
    (again,) = one.update([finding("pay", 0, 9000)], at(9010))
    assert again.id == opened.id and again.revision > resolved.revision
