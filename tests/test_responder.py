"""The responder of a running service: what it knows of the model, of scores and of Prometheus, as steps feel it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from otel_aiops.desk.live import Live
from tests.incident_feed import BREAKS_S, LASTS_S, broken, call, feed, started, steps
from tests.responses.receiver import receiving
from tests.responses.stage import APPEND
from tests.servers import Prometheus, wait_for
from tests.test_app import Running
from tests.test_monitor import SHORT, Record, reach_now, record
from tests.test_rollout import Shop

__all__ = ["record"]  # a fixture

OPENS_S = 60.0  # after it breaks, at most
CALM_S = 120.0  # after it is repaired, at most
CATALOG = {"suspects": ["catalog"]}


def command(name: str, **more: Any) -> dict[str, Any]:
    return {"do": {"kind": "command", "use": name}, "guard": {"cooldown": 0, "most": 100}, **more}


def configured(folder: Path, playbooks: dict[str, Any], **more: Any) -> str:
    """With commands that append the service to files of their names."""
    names = ("heal", "undo")
    argv = {name: [sys.executable, "-c", APPEND, str(folder / name), "{service}"] for name in names}
    tree = {
        "enabled": True,
        "late": "10000d",
        "commands": [{"name": name, "argv": argv[name]} for name in names],
        **more,
    }
    books = [{"name": name, "dry_run": False, "match": CATALOG, **book} for name, book in playbooks.items()]
    return f"responses: {json.dumps(tree)}\nplaybooks: {json.dumps(books)}\n"


def ran(up: Running, playbook: str, *states: str) -> dict[str, Any]:
    """The run of a playbook, when it stands so."""

    def there() -> dict[str, Any] | None:
        found = up.get("/api/v1/responses", playbook=playbook)["responses"]
        return found[0] if found and (not states or found[0]["state"] in states) else None

    found: dict[str, Any] = wait_for(there, f"{playbook} to be {' or '.join(states) or 'begun'}")
    return found


def notify(up: Running, incident: str) -> None:
    """As if Alertmanager let people know of it now: the playbooks `on: notified` begin."""
    up.service.responder.ledger.notice([incident], up.service.clock_ns())


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


DISTRUST = {"heal": {"steps": [command("heal")]}, "again": {"on": "notified", "steps": [command("heal")]}}


def test_nothing_is_done_while_a_canary_serves(tmp_path: Path) -> None:
    with started(tmp_path, configured(tmp_path, DISTRUST)) as up:
        feed(up, 0, steps(BREAKS_S))
        shop = Shop(up)
        challenger = shop.challenger(threshold=2.0)
        assert shop.roll("canary", version=challenger, share=0.5).json()["role"] == "canary"
        feed(up, steps(BREAKS_S), steps(BREAKS_S + OPENS_S))
        found = ran(up, "heal", "refused")
        assert found["steps"][0]["result"] == "the model is not to be trusted: a canary serves"
        assert up.get("/api/v1/playbooks")["model_problem"] == "a canary serves"
        assert any(canaries(up, found["incident"])), "some of what shows the incident is scored by the canary"
        assert lines(tmp_path / "heal") == []
        assert shop.roll("stop").status_code == 200
        notify(up, found["incident"])
        ran(up, "again", "done")
        assert lines(tmp_path / "heal") == ["catalog"]
        for action, verdict in (("canary", "refused"), ("promote", "allowed")):
            assert shop.roll(action, version=challenger, share=0.5).status_code == 200
            tested = call(up, "POST", "playbooks/test", {"incident": found["incident"], "playbook": "heal"}).json()
            assert tested["playbooks"][0]["steps"][0]["verdict"] == verdict, action


def canaries(up: Running, incident: str) -> list[bool]:
    """Whether the canary serves the series that show an incident, one by one."""
    shown = Live(up.service).find(incident)
    assert shown is not None
    table, serving = up.service.pipeline.table, up.service.pipeline.serving
    rows = [table.find(int(one.evidence.series, 16)) for one in shown.findings if one.evidence.series]
    return [serving.of(row) is serving.other for row in rows if row is not None]


def test_nothing_is_done_while_the_model_drifts(tmp_path: Path, record: Record) -> None:
    record(tmp_path, by=40.0)
    with started(tmp_path, configured(tmp_path, DISTRUST) + SHORT) as up:
        reach_now(up)
        (drift,) = up.service.monitor.look().persistent
        feed(up, 0, steps(BREAKS_S + OPENS_S))
        found = ran(up, "heal", "refused")
        assert found["steps"][0]["result"] == f"the model is not to be trusted: {drift.text}"
        assert lines(tmp_path / "heal") == []
        assert up.service.monitor.look().persistent == ()
        notify(up, found["incident"])
        ran(up, "again", "done")
        assert lines(tmp_path / "heal") == ["catalog"]


@pytest.mark.servers
def test_it_is_verified_by_a_prometheus_and_by_scores(tmp_path: Path) -> None:
    """One that is away is asked again until the time is over, and comes back within that of others."""
    soon, late = {"by": "promql", "within": 1}, {"by": "promql", "within": "1h"}
    undone = {"undo": {"kind": "command", "use": "undo"}, "escalate": [{"do": {"kind": "notify", "use": "ops"}}]}
    playbooks = {
        "away": {"steps": [command("heal", verify=soon | {"query": "vector(1)"}, **undone)]},
        "back": {"steps": [command("heal", verify=late | {"query": "vector(1) > 0"}, **undone)]},
        "calm": {"steps": [command("heal", verify={"by": "score", "within": "1h"})]},
        "wrong": {"on": "notified", "steps": [command("heal", verify=soon | {"query": "vector(0)"}, **undone)]},
    }
    with receiving() as receiver:
        prometheus = Prometheus(tmp_path)
        told = f"{receiver.url.replace('http', 'json')}/told"
        more = {"prometheus": {"url": prometheus.url, "attempts": 1}, "notify": [{"name": "ops", "urls": [told]}]}
        with broken(tmp_path / "data", configured(tmp_path, playbooks, **more)) as up:
            away = ran(up, "away", "undone")
            why = away["steps"][0]["verified_why"]
            assert why.startswith(f"not recovered within 1 s: {prometheus.url}/… cannot be asked")
            assert [one["role"] for one in away["steps"]] == ["do", "undo", "escalate.0"]
            assert lines(tmp_path / "undo") == ["catalog"] and len(receiver.asked) == 1
            for name in ("back", "calm"):
                assert ran(up, name, "active")["steps"][0]["verified"] == "pending"
            with prometheus:
                assert ran(up, "back", "done")["steps"][0]["verified"] == "recovered"
                notify(up, away["incident"])
                why = ran(up, "wrong", "undone")["steps"][0]["verified_why"]
                assert why == "not recovered within 1 s: the query gives 0"
            assert lines(tmp_path / "undo") == ["catalog"] * 2 and len(receiver.asked) == 2
            assert ran(up, "calm", "active")["steps"][0]["verified"] == "pending", "it still fails"
            feed(up, steps(BREAKS_S + OPENS_S), steps(BREAKS_S + LASTS_S + CALM_S))
            assert ran(up, "calm", "done")["steps"][0]["verified"] == "recovered"
