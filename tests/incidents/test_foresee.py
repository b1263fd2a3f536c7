"""Predictions of exhaustion begin, are renewed, come true or not, and survive restarts."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from otel_aiops.errors import ConfigError, StateError
from otel_aiops.incidents.foresee import EVERY_NS, Foresight, ForesightConfig
from otel_aiops.incidents.incident import Channel, Evidence, Finding, Incident, Severity, State
from otel_aiops.incidents.targets import PredictRule
from otel_aiops.labels import Labels
from otel_aiops.otlp.points import F64
from otel_aiops.series.batch import Batch

START_NS = 1_780_272_000_000_000_000
MEMORY = Labels("k8s.pod.memory_limit_utilization", unit="1", resource=(("service.name", "cart"),))


def feed(foresight: Foresight, rows: list[int], values: F64, *, first: int = 0, step_s: int = 60) -> list[Incident]:
    """Give values (T, R) of rows, a step at a time, and take what is told."""
    told = list[Incident]()
    for step, x in enumerate(np.asarray(values, np.float64).reshape(len(values), len(rows)), first):
        time_ns = START_NS + step * step_s * 1_000_000_000
        k = np.flatnonzero(~np.isnan(x))
        times = np.full(len(k), time_ns, np.int64)
        foresight.update(Batch(np.array(rows, np.int32)[k], times, x[k], np.full(len(k), float(step_s))))
        told += foresight.due(time_ns)
    return told


def watching(*labels: Labels, **settings: object) -> Foresight:
    foresight = Foresight(ForesightConfig(**settings))  # type: ignore[arg-type]
    for row, of in enumerate(labels):
        foresight.assign(row, of, f"{row:016x}")
    return foresight


def leak(steps: int = 240, *, quiet: int = 60, rate: float = 0.004, noise: float = 0.005) -> F64:
    random = np.random.default_rng(3)
    rise = np.concatenate((np.zeros(quiet), rate * np.arange(steps - quiet)))
    return 0.4 + rise + random.normal(0, noise, steps)


def test_a_leak_is_foreseen_within_an_hour_renewed_under_one_id_and_hit() -> None:
    foresight = watching(MEMORY)
    told = feed(foresight, [0], leak())
    first, last = told[0], told[-1]
    assert {one.id for one in told} == {first.id}
    assert [one.revision for one in told] == list(range(1, len(told) + 1))
    assert first.state is State.PREDICTED and first.prediction is not None and first.prediction.what == "exhaustion"
    assert (first.detected_ns - START_NS) / 60e9 - 60 <= 60  # minutes after the leak began
    reached = (0.98 - 0.4) / 0.004 + 60
    assert first.prediction.lead_s / 60 == pytest.approx(reached - (first.detected_ns - START_NS) / 60e9, rel=0.35)
    assert first.prediction.earliest_s < first.prediction.lead_s < first.prediction.latest_s
    assert last.state is State.RESOLVED and last.prediction is not None and last.prediction.outcome == "hit"
    assert foresight.reliability.hits == 1 and foresight.reliability.misses == 0
    assert foresight.reliability.lead_s[0] == (last.end_ns - first.detected_ns) / 1e9 > 600
    assert "grows by" in first.summary and first.findings[0].evidence.series == f"{0:016x}"


def test_a_fast_leak_at_10_s_is_foreseen_within_15_minutes() -> None:
    told = feed(watching(MEMORY), [0], leak(360, quiet=90, rate=0.001), step_s=10)
    assert (told[0].detected_ns - START_NS) / 1e9 - 900 <= 900


def test_what_never_reaches_its_limit_is_left_alone() -> None:
    at = np.arange(600.0)
    random = np.random.default_rng(5)
    values = {
        "daily": 0.5 + 0.1 * np.sin(2 * np.pi * at / 1_440) + random.normal(0, 0.01, len(at)),
        "noise": 0.7 + random.normal(0, 0.05, len(at)),
        "constant": np.full(len(at), 0.99),
        "teeth": 0.3 + 0.4 * np.mod(at / 20, 1),
        "step": np.where(at > 300, 0.8, 0.4) + random.normal(0, 0.01, len(at)),
    }
    rows = [dataclasses.replace(MEMORY, resource=(("service.name", kind),)) for kind in values]
    told = feed(watching(*rows), list(range(len(rows))), np.stack(list(values.values()), axis=1))
    assert [one.summary for one in told] == []


def test_every_day_up_to_nine_tenths_is_left_alone() -> None:
    at_s = 900.0 * np.arange(3 * 96)
    for phase in (0.0, 3.0):
        values = 0.6 + 0.29 * np.sin(2 * np.pi * at_s / 86_400 + phase)
        values += np.random.default_rng(8).normal(0, 0.01, len(at_s))
        assert [one.summary for one in feed(watching(MEMORY), [0], values, step_s=900)] == []


def test_a_queue_that_fills_for_a_while_is_left_alone_but_not_one_that_goes_on() -> None:
    queue = Labels("otelcol.exporter.queue.utilization", unit="1")
    up = np.concatenate((np.full(200, 0.1), 0.1 + 0.02 * np.arange(28), np.full(60, 0.1)))
    assert feed(watching(queue), [0], up) == []
    assert feed(watching(queue), [0], np.concatenate((np.full(200, 0.1), 0.1 + 0.008 * np.arange(112))))


def test_what_grows_for_days_with_every_day_is_foreseen_hours_ahead() -> None:
    at_s = 900.0 * np.arange(4 * 96)
    values = 0.2 + 0.25 * at_s / 86_400 + 0.02 * np.sin(2 * np.pi * at_s / 86_400)
    disk = Labels("system.filesystem.utilization", unit="1")
    told = feed(watching(disk), [0], values, step_s=900)
    assert {one.prediction.outcome for one in told if one.prediction} == {"", "hit"}
    assert told[-1].end_ns - told[0].detected_ns > 6 * 3_600 * 1_000_000_000


def test_a_prediction_that_does_not_hold_is_withdrawn_as_a_miss_and_not_repeated() -> None:
    stopped = np.concatenate((leak(140), np.full(200, 0.72)))
    foresight = watching(MEMORY)
    told = feed(foresight, [0], stopped)
    assert told[-1].state is State.EXPIRED and told[-1].prediction is not None
    assert told[-1].prediction.outcome == "miss" and told[-1].end_ns > told[-1].detected_ns
    assert len({one.id for one in told}) == 1
    assert foresight.reliability.misses == 1


def test_a_prediction_expires_when_its_series_stops() -> None:
    foresight = watching(MEMORY)
    told = feed(foresight, [0], leak(140))
    assert told[-1].prediction is not None
    late = foresight.due(told[-1].prediction.expires_ns)
    assert [one.state for one in late] == [State.EXPIRED]
    assert foresight.due(told[-1].prediction.expires_ns + EVERY_NS) == ()


def test_an_incident_of_the_resources_of_the_service_is_a_hit() -> None:
    foresight = watching(MEMORY)
    told = feed(foresight, [0], leak(140))
    evidence = Evidence(channel=Channel.RESOURCE, service="cart", what="memory", before=0.4, after=0.9)
    at_ns = told[-1].timeline[0].time_ns + EVERY_NS
    finding = Finding(
        key="k", service="cart", channel=Channel.RESOURCE, start_ns=at_ns, last_ns=at_ns, evidence=evidence
    )
    other = dataclasses.replace(finding, service="search")
    incident = Incident(
        id="i",
        revision=1,
        state=State.OPEN,
        severity=Severity.CRITICAL,
        start_ns=at_ns,
        detected_ns=at_ns,
        findings=(other,),
    )
    assert foresight.outcome(incident) == ()
    assert foresight.outcome(dataclasses.replace(told[0], detected_ns=at_ns)) == ()
    hit = foresight.outcome(dataclasses.replace(incident, findings=(finding,)))
    assert [one.prediction.outcome for one in hit if one.prediction] == ["hit"] and hit[0].id == told[0].id
    assert hit[0].state is State.MERGED and hit[0].merged_into == "i" and foresight.reliability.hits == 1
    assert foresight.outcome(dataclasses.replace(incident, findings=(finding,))) == ()


def test_limits_come_from_companions_whenever_they_come() -> None:
    pool = (("service.name", "cart"), ("service.instance.id", "1"))
    used = Labels("db.client.connection.count", resource=pool, attributes=(("state", "used"),))
    most = Labels("db.client.connection.max", resource=pool)
    for labels in ((used, most), (most, used)):
        foresight = watching(*labels)
        values = np.full((200, 2), 100.0)
        values[:, labels.index(used)] = 100 * leak(200)
        told = feed(foresight, [0, 1], values)
        assert told and foresight.watched == 1
        assert told[0].findings[0].evidence.after == 100.0


def test_what_runs_down_to_nothing_is_foreseen() -> None:
    free = Labels("system.filesystem.usage", unit="By", attributes=(("state", "free"),))
    told = feed(watching(free), [0], 1e9 * (1 - leak(220)))
    assert told and told[-1].prediction is not None and told[-1].prediction.outcome == "hit"
    assert "falls by" in told[0].summary


@pytest.mark.parametrize("date", [False, True])
def test_a_certificate_is_foreseen_unless_it_used_to_be_renewed(date: bool) -> None:
    labels = Labels("x509_cert_not_after" if date else "tlscheck.time_left", unit="s")
    at_s = 3_600.0 * np.arange(24 * 9)
    left = 8 * 86_400 - at_s
    told = feed(watching(labels), [0], START_NS / 1e9 + at_s + left if date else left, step_s=3_600)
    assert told[0].prediction is not None and told[0].prediction.lead_s == pytest.approx(3 * 86_400, rel=0.02)
    assert told[-1].prediction is not None and told[-1].prediction.outcome == "hit"
    renewed = 3 * 86_400 - np.mod(at_s, 2 * 86_400)
    told = feed(watching(labels), [0], START_NS / 1e9 + at_s + renewed if date else renewed, step_s=3_600)
    assert told == []  # it is never seen with more than the three days that are warned of, nor with less than one
    stops = np.concatenate((renewed[: 24 * 5], np.maximum(renewed[24 * 5] - 3_600.0 * np.arange(24 * 3), -3_600)))
    told = feed(watching(labels), [0], START_NS / 1e9 + at_s[: len(stops)] + stops if date else stops, step_s=3_600)
    assert told[0].prediction is not None and told[0].prediction.lead_s == pytest.approx(0.9 * 86_400, rel=0.05)


def test_rules_give_limits_and_take_series_out() -> None:
    heat = Labels("room.temperature", unit="Cel")
    rule = PredictRule({"name": "room.temperature"}, limit=1.0, horizon=36_000)
    assert feed(watching(heat, rules=(rule,)), [0], leak(200))
    assert not feed(watching(heat), [0], leak(200))
    off = PredictRule({"name": "~k8s.*"}, enabled=False)
    assert not feed(watching(MEMORY, rules=(off,)), [0], leak(200))
    assert not feed(watching(MEMORY, enabled=False), [0], leak(200))


def test_a_restart_changes_nothing() -> None:
    pool = (("service.name", "db"),)
    labels = [MEMORY, Labels("redis.memory.used", resource=pool), Labels("redis.memory.max", resource=pool)]
    values = np.stack((leak(220), 50 * leak(220, rate=0.005), np.full(220, 50.0)), axis=1)
    whole = watching(*labels)
    expected = feed(whole, [0, 1, 2], values)
    for cut in (10, 150):
        before, after = watching(*labels), watching()
        told = feed(before, [0, 1, 2], values[:cut])
        after.restore(before.state())
        for row, of in enumerate(labels):
            after.assign(row, of, f"{row:016x}")
        assert told + feed(after, [0, 1, 2], values[cut:], first=cut) == expected
        for name, array in whole.state().items():
            np.testing.assert_array_equal(array, after.state()[name], err_msg=name)
    assert {one.services for one in expected} == {("cart",), ("db",)}


def test_states_that_do_not_fit_are_refused() -> None:
    state = watching(MEMORY).state()
    empty = watching()
    empty.restore({})
    assert empty.watched == 0
    for name in state:
        bad = {**state, name: state[name][..., None].astype(np.float32)}
        with pytest.raises(StateError):
            watching().restore(bad)
    with pytest.raises(StateError):
        watching().restore({**state, "companions/table": np.frombuffer(b"[1, 2]", np.uint8)})


def test_forgotten_rows_are_missed_and_their_place_is_free_again() -> None:
    foresight = watching(MEMORY, max_series=1)
    other = dataclasses.replace(MEMORY, resource=(("service.name", "search"),))
    foresight.assign(1, other, "1")
    assert (foresight.watched, foresight.refused) == (1, 1)
    feed(foresight, [0], leak(140))
    foresight.forget(np.array([0, 7], np.int32))
    told = foresight.due(START_NS + 140 * EVERY_NS)
    assert [one.prediction.outcome for one in told if one.prediction] == ["miss"]
    foresight.assign(0, other, "0")
    assert foresight.watched == 1
    assert feed(foresight, [0], leak(100)[:30], first=200) == []


def test_bad_values_neither_raise_nor_foresee() -> None:
    random = np.random.default_rng(1)
    values = random.normal(0.5, 0.1, (300, 5))
    values[random.random((300, 5)) < 0.3] = np.nan
    values[::7, 1], values[::5, 2], values[::3, 3] = np.inf, -1e300, 1e29
    values[:, 4] = 1e308
    rows = [dataclasses.replace(MEMORY, resource=(("service.name", str(k)),)) for k in range(5)]
    assert feed(watching(*rows), [0, 1, 2, 3, 4], values) == []
    late = watching(MEMORY)
    for step in (5, 3, 100_000, 4, 100_001):
        feed(late, [0], np.array([0.5]), first=step)


def test_a_leak_with_gaps_and_restarts_is_still_foreseen() -> None:
    values = leak(260)
    values[100:115] = np.nan
    assert feed(watching(MEMORY), [0], values)[-1].prediction.outcome == "hit"  # type: ignore[union-attr]
    teeth = 0.3 + 0.003 * np.arange(240) + 0.1 * np.mod(np.arange(240) / 6.3, 1)
    assert feed(watching(MEMORY), [0], teeth)[-1].prediction.outcome == "hit"  # type: ignore[union-attr]


@pytest.mark.parametrize("settings", [{"probability": 1.0}, {"max_series": -1}, {"probability": float("nan")}])
def test_settings_are_checked(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        ForesightConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", [{"direction": "up"}, {"horizon": 1.0}, {"limit": np.inf}, {"match": {"name": "~("}}])
def test_rules_are_checked(rule: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        PredictRule(**rule)  # type: ignore[arg-type]
