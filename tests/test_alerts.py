"""Alerts, budgets and verdicts of a running service: what the API shows and takes, and that a crash loses nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from otel_aiops.config import ServiceConfig
from otel_aiops.labels import Labels
from tests.feed import Feed
from tests.servers import wait_for
from tests.test_app import Running, running, spike

SERIES = 'cpu{service.name="cart", pod="a"}'


@contextmanager
def still(folder: Path) -> Iterator[Running]:
    """A service in which no time passes by itself."""
    found = Running(folder)
    found.service.config = replace(found.service.config, service=ServiceConfig(tick_interval=3600))
    found.service.start()
    try:
        yield found
    finally:
        found.service.stop()


def tell(up: Running, verdicts: Any) -> requests.Response:
    return requests.post(f"http://127.0.0.1:{up.ports['api']}/api/v1/verdicts", json=verdicts, timeout=30)


def told(up: Running, verdict: dict[str, Any]) -> dict[str, Any]:
    answer = tell(up, verdict)
    assert answer.status_code == 200, answer.text
    up.settle()
    found: dict[str, Any] = answer.json()["verdicts"][0]
    return found


def test_an_alert_is_told_with_budget_reason_and_metrics(tmp_path: Path) -> None:
    with running(tmp_path, "budgets: [{name: shop, match: {service: cart}, budget: 2/week}]") as up:
        spike(up, time.time())
        found = up.get("/api/v1/alerts")
        (alert,) = found["alerts"]
        assert found["total"] == 1 and alert["series"] == SERIES and alert["objective"] == "shop"
        assert alert["ratio"] >= 1 and alert["peak"] == alert["ratio"] and alert["shift"] == 0 < alert["threshold"]
        assert alert["value"] == 500 and "500 % is far above" in alert["reason"]
        shop, default = up.get("/api/v1/budgets")["budgets"]
        assert (shop["name"], shop["budget"], shop["actual"], shop["series"]) == ("shop", 2.0, 1, 1)
        assert (default["name"], default["budget"], default["series"]) == ("default", 7.0, 0)
        wait_for(lambda: up.metric("otel_aiops_alerts_active") == 1, "the counts to be made")
        text = requests.get(f"http://127.0.0.1:{up.ports['api']}/metrics", timeout=30).text
        assert 'otel_aiops_budget_wanted{objective="shop"} 2.0' in text
        assert 'otel_aiops_budget_actual{objective="shop"} 1.0' in text
        assert up.metric("otel_aiops_alert_active") == 1 and up.metric("otel_aiops_alert_ratio") >= 1
        assert up.metric("otel_aiops_alerts_opened_total") == 1


class TestVerdicts:
    def test_on_an_alert_moves_its_threshold_and_says_so(self, tmp_path: Path) -> None:
        with running(tmp_path) as up:
            now_s = time.time()
            spike(up, now_s)
            (before,) = up.get("/api/v1/alerts")["alerts"]
            asked = {"series": before["fingerprint"], "time": now_s, "verdict": "false_alert", "by": "ann"}
            first = told(up, asked)
            assert first["source"] == "alert" and first["ratio"] == pytest.approx(before["peak"])
            assert first["fingerprint"] == before["fingerprint"]
            told(up, {**asked, "series": "cpu", "time": "now", "note": "a test"})
            newest, _ = up.get("/api/v1/verdicts")["verdicts"]
            assert newest["series"] == SERIES and newest["note"] == "a test" and newest["verdict"] == "false_alert"
            up.send(Feed("cart").gauge("cpu", now_s, 500, unit="%", pod="a"))
            up.settle()
            (after,) = up.get("/api/v1/alerts")["alerts"]
            assert after["shift"] == newest["shift"]
            assert after["threshold"] == pytest.approx(before["threshold"] * 2.718281828 ** after["shift"])
            assert up.metric("otel_aiops_verdicts_learned_total") == 2

    def test_one_without_an_alert_goes_by_the_recorded_score_or_what_is_given(self, tmp_path: Path) -> None:
        with running(tmp_path) as up:
            now_s = time.time()
            for k in range(30):
                up.send(Feed("cart").gauge("cpu", now_s - 31 + k, 50 + k % 3, pod="a"))
            up.settle()
            missed = {"series": "cpu", "verdict": "missed"}
            assert told(up, {**missed, "time": "now"})["source"] == "history"
            long_ago = {**missed, "time": "2020-01-01T00:00:00Z"}
            answer = tell(up, long_ago)
            assert answer.status_code == 400 and "nothing is known of then" in answer.json()["error"]
            found = told(up, {**long_ago, "ratio": 0.7})
            assert (found["source"], found["ratio"]) == ("given", 0.7)
            assert up.get("/api/v1/verdicts")["verdicts"][0]["shift"] < 0

    def test_what_is_wrong_with_one_is_said_and_none_is_learned(self, tmp_path: Path) -> None:
        right = {"series": "cpu", "time": "now", "verdict": "missed", "ratio": 1.0}
        wrong: list[tuple[Any, str]] = [
            ({**right, "verdict": "duplicate"}, "of: expected the id of the other incident with the verdict duplicate"),
            ({**right, "verdict": "duplicate", "of": "INC-0"}, "of: expected the id of another incident, got 'INC-0'"),
            ({**right, "verdict": "expected", "of": "INC-0"}, "of: expected the id of the other incident"),
            (
                {**right, "verdict": "wrong"},
                "verdict: expected one of real, false, true_alert, false_alert, missed, duplicate, expected, got",
            ),
            ({**right, "series": "disk"}, "no series matches disk"),
            ({**right, "series": "0123456789abcdef"}, "fingerprint 0123456789abcdef, which no series has"),
            ({**right, "series": 7}, "series: expected a fingerprint or name"),
            ({**right, "time": "soon"}, "time: expected ISO 8601"),
            ({**right, "time": [1]}, "time: expected ISO 8601 or unix seconds"),
            ({**right, "time": time.time() + 9999}, "time: expected one that has been"),
            ({**right, "ratio": -1}, "ratio: expected a number >= 0"),
            ({**right, "by": 3}, "by: expected a text"),
            ({**right, "who": "ann"}, "who: is not a known key"),
            ({"series": "cpu", "time": "now"}, "verdict: expected a value, got none"),
            ([right, {**right, "note": "x" * 9999}], "verdict 1: note: expected a text"),
            ("cpu", "expected an object"),
            ([], "expected 1 to 1000 verdicts, got 0"),
        ]
        with running(tmp_path) as up:
            up.send(Feed("cart").gauge("cpu", time.time(), 50))
            up.settle()
            for asked, said in wrong:
                answer = tell(up, asked)
                assert answer.status_code == 400 and said in answer.json()["error"], (asked, answer.text)
            text = requests.post(f"http://127.0.0.1:{up.ports['api']}/api/v1/verdicts", data=b"no", timeout=30)
            assert text.status_code == 400 and "expected a verdict, or a list of them, as JSON" in text.json()["error"]
            assert up.get("/api/v1/verdicts")["verdicts"] == []

    def test_survive_a_crash_to_the_bit(self, tmp_path: Path) -> None:
        with still(tmp_path) as up:
            spike(up, time.time())
            told(up, {"series": "cpu", "time": "now", "verdict": "false_alert", "by": "ann"})
            spike(up, time.time() + 5)
            before = up.service.ask(up.service.pipeline.state)
            up.service._snapshot = lambda *state: None  # type: ignore[assignment]  # as if it were killed
        with still(tmp_path) as up:
            after = up.service.ask(up.service.pipeline.state)
            assert set(before) == set(after)
            assert [name for name in before if before[name].tobytes() != after[name].tobytes()] == []
            (found,) = up.get("/api/v1/verdicts")["verdicts"]
            assert found["by"] == "ann" and found["shift"] > 0
            (alert,) = up.get("/api/v1/alerts")["alerts"]
            assert alert["reason"], "what replay scored again has its reason"
            (kept,) = up.service.chronicle.journal.verdicts()
            assert str(Labels.from_json(kept[0])) == SERIES and kept[1].by == "ann"

    def test_on_an_alert_of_before_a_restart_knows_its_peak(self, tmp_path: Path) -> None:
        with running(tmp_path) as up:
            spike(up, time.time())
            (alert,) = up.get("/api/v1/alerts")["alerts"]
        with running(tmp_path) as up:
            (same,) = up.get("/api/v1/alerts")["alerts"]
            assert (same["since"], same["peak"]) == (alert["since"], alert["peak"])
            found = told(up, {"series": alert["fingerprint"], "time": alert["since"], "verdict": "true_alert"})
            assert found["source"] == "alert" and found["ratio"] == pytest.approx(alert["peak"])


def test_a_reload_keeps_verdicts_and_takes_other_budgets(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        spike(up, time.time())
        told(up, {"series": "cpu", "time": "now", "verdict": "false_alert"})
        up.service.reload(up.config("budgets: [{name: cart, match: {service: cart}}]"))
        assert [one["name"] for one in up.get("/api/v1/budgets")["budgets"]] == ["cart", "default"]
        assert up.get("/api/v1/alerts")["alerts"][0]["objective"] == "cart"
        assert up.get("/api/v1/verdicts")["total"] == 1
