"""Forewarning: predicts once when a type becomes likely, and says itself whether it came."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from otel_aiops.errors import StateError
from otel_aiops.incidents.forewarning import EVERY_NS, Forewarning
from otel_aiops.incidents.incident import Channel, Finding, Incident, Severity, State
from otel_aiops.incidents.precursors import Precursor, PrecursorsConfig
from tests.incidents.makers import at, finding

S = 1_000_000_000


def model(kind: str = "pay|latency", sign: str = "db|resource", **changed: Any) -> Precursor:
    """Certain once there was a sign in the last 15 minutes."""
    known: dict[str, Any] = {
        "type": kind,
        "names": (f"{sign}|count|900", "never|logs|count|300"),
        "middle": (0.0, 0.0),
        "scale": (0.1, 1.0),
        "weight": (1.0, 0.5),
        "bias": -3.0,
        "slope": 1.0,
        "offset": 0.0,
        "horizon_s": 1_800.0,
        "lead_s": (300.0, 600.0, 900.0),
        "incidents": 20,
        "base_rate": 0.1,
        "brier": 0.02,
        "base_brier": 0.09,
    }
    return Precursor(**{**known, **changed})


def warned(*models: Precursor, **config: Any) -> Forewarning:
    found = Forewarning(PrecursorsConfig(**config))
    found.teach(models or (model(),))
    return found


def sign(second: float, what: str = "") -> Finding:
    return finding("db", second, channel=Channel.RESOURCE, what=what or str(second))


def nothing() -> tuple[Incident, ...]:
    return ()


def incident(second: float, service: str = "pay", **more: Any) -> Incident:
    return Incident(
        id="i1",
        revision=1,
        state=State.OPEN,
        severity=Severity.WARNING,
        start_ns=at(second - 10),
        detected_ns=at(second),
        services=(service,),
        findings=(finding(service, second - 10),),
        **more,
    )


def predicted(one: Forewarning, second: float = 0) -> Incident:
    one.signs.take([sign(second)], at(second))
    (told,) = one.due(nothing, at(second))
    return told


def test_a_sign_makes_a_prediction_with_all_that_one_must_know() -> None:
    one = warned()
    assert one.due(nothing, at(-600)) == ()
    told = predicted(one)
    assert told.state is State.PREDICTED and told.revision == 1 and told.services == ("pay",)
    about = told.prediction
    assert about is not None and about.what == "precursor" and about.probability > 0.9
    assert (about.horizon_s, about.earliest_s, about.lead_s, about.latest_s) == (1_800.0, 300.0, 600.0, 900.0)
    assert about.expires_ns == at(1_800)
    (why,) = told.findings  # what was never seen is no evidence
    assert (
        why.channel is Channel.RESOURCE and why.service == "db" and (why.evidence.before, why.evidence.after) == (0, 1)
    )
    assert "findings of resource in db in the last 15 min: 1, usually 0" in told.summary
    assert one.due(nothing, at(0) + EVERY_NS) == ()  # it stands


def test_an_incident_of_its_type_is_a_hit() -> None:
    one = warned()
    told = predicted(one)
    assert one.outcome(incident(600, "bank")) == () == one.outcome(told)
    assert one.outcome(incident(0)) == () == one.outcome(incident(1_801))
    assert one.outcome(replace(incident(600), state=State.MERGED)) == ()
    (hit,) = one.outcome(incident(600))
    assert hit.state is State.MERGED and hit.merged_into == "i1" and hit.id == told.id and hit.end_ns == at(600)
    assert hit.prediction is not None and hit.prediction.outcome == "hit" and hit.revision == 2
    assert one.reliability.hits == 1 and one.reliability.lead_s.tolist() == [600.0]
    assert one.outcome(incident(700)) == () == one.due(nothing, at(1_900))


def test_what_does_not_come_is_a_miss_and_is_not_said_again_while_it_stays_likely() -> None:
    one = warned()
    told = predicted(one)
    seen = list[Incident]()
    for second in range(60, 5_400, 60):
        one.signs.take([sign(second)] if second < 3_600 else [], at(second))
        seen += one.due(nothing, at(second))
    assert [(each.id, each.state, each.end_ns) for each in seen] == [(told.id, State.EXPIRED, at(1_800))]
    assert seen[0].prediction is not None and seen[0].prediction.outcome == "miss" and one.reliability.misses == 1
    assert predicted(one, 6_000).id != told.id


def test_what_lasts_is_not_predicted_nor_is_it_as_soon_as_it_is_over() -> None:
    one = warned()
    one.signs.take([sign(0)], at(0))
    assert one.due(lambda: (incident(-10),), at(0)) == ()
    assert one.due(nothing, at(60)) == ()


def test_models_are_replaced_and_may_be_switched_off() -> None:
    one = warned()
    one.teach([model("bank|errors")])
    assert predicted(one).services == ("bank",)
    one.teach([])
    assert one.models == () and one.due(nothing, at(60)) == ()
    off = warned(enabled=False)
    off.signs.take([sign(0)], at(0))
    assert off.due(nothing, at(0)) == ()
    unsure = warned(model(bias=-8.0), probability=0.9)
    unsure.signs.take([sign(0)], at(0))
    assert unsure.due(nothing, at(0)) == ()


def test_a_type_without_a_service_can_be_predicted() -> None:
    told = predicted(warned(model("|rate", "db|resource")))
    assert told.services == () and "rate of an unknown service" in told.title


def test_a_restart_changes_nothing() -> None:
    one = warned(model(), model("bank|errors", "db|resource"))
    predicted_ids = {each.id for second in (0, 60) for each in _stepped(one, second)}
    other = Forewarning(PrecursorsConfig())
    other.restore(one.state())
    assert len(predicted_ids) == 2 and other.models == one.models
    for second in range(120, 4_000, 60):
        assert _stepped(one, second) == _stepped(other, second)
        assert one.outcome(incident(second)) == other.outcome(incident(second))
    before, after = one.state(), other.state()
    assert {key: array.tobytes() for key, array in before.items()} == {
        key: array.tobytes() for key, array in after.items()
    }
    one.restore({})
    assert one.models == other.models


def _stepped(one: Forewarning, second: float) -> tuple[Incident, ...]:
    one.signs.take([sign(second)] if second < 600 else [], at(second))
    return one.due(nothing, at(second))


def test_states_that_do_not_fit_are_refused() -> None:
    one = warned()
    predicted(one)
    state = one.state()
    tree = bytes(state["rest"]).decode()
    for wrong in (
        b"{}",
        tree.replace('"what":"precursor"', '"that":7').encode(),
        tree.replace('"prediction":{', '"prediction":null,"was":{').encode(),
        tree.replace('\\"format\\": 1', '\\"format\\": 2').encode(),
    ):
        with pytest.raises(StateError):
            Forewarning(PrecursorsConfig()).restore({**state, "rest": np.frombuffer(wrong, np.uint8)})
