"""Data quality and governance of a running service: what /metrics says, and what a reload changes."""

from __future__ import annotations

import json
import time
from pathlib import Path

import requests

from otel_aiops.lifecycle import governed
from tests.feed import Feed
from tests.servers import wait_for
from tests.test_app import running

RULES = "governance: {drop: [user.id], hash: [card], salt: '${env:SALT:-pepper-and-salt}'}"


def test_metrics_tell_what_is_bad_and_rules_hold_until_they_change(tmp_path: Path) -> None:
    with running(tmp_path, RULES) as up:
        now_s = time.time() - 100
        for at in (1, 2, 3, 4, 5, 50, 40, 50):
            up.send(Feed("cart").gauge("cpu", now_s + at, at % 3, card="4111", **{"user.id": "mallory"}))
        up.settle()
        (series,) = up.get("/api/v1/series")["series"]
        assert "mallory" not in json.dumps(series) and "4111" not in json.dumps(series)
        written = b"".join(path.read_bytes() for path in (tmp_path / "wal").iterdir())
        assert b"cart" in written and b"mallory" not in written and b"4111" not in written
        for at, start, unit in ((10, 1, "By"), (20, 9, "By"), (30, 1, "By"), (40, 35, "By"), (50, 35, "MBy")):
            feed = Feed("pay")
            feed.counter("sent", now_s + at, 5.0 * at if at != 40 else 1.0, start_s=now_s + start)
            feed.scope.metrics[0].unit = unit
            up.send(feed)
        up.settle()

        def shown() -> str:
            return requests.get(f"http://127.0.0.1:{up.ports['api']}/metrics", timeout=30).text

        up.service._parts._quality_due_s = 0.0  # type: ignore[union-attr]  # not in ten seconds, now
        text = wait_for(lambda: (text := shown()) and 'problem="late"' in text and text, "the counts to be made")
        problems = 'otel_aiops_quality_problems_total{problem="%s",service_name="cart"} 1.0'
        for problem in ("gap", "late", "duplicate"):
            assert problems % problem in text
        of_pay = problems.replace("cart", "pay")
        for problem in ("two_senders", "reset", "unit_change"):
            assert of_pay % problem in text
        assert 'otel_aiops_quality_points_total{service_name="cart"} 6.0' in text
        assert 'otel_aiops_quality_series{service_name="cart"} 1.0' in text
        assert 'otel_aiops_quality_late_ratio{service_name="cart"} 0.125' in text
        assert 'otel_aiops_quality_clock_skew_seconds{service_name="cart"}' in text
        assert 'otel_aiops_governance_attributes_total{action="dropped"} 8.0' in text
        assert up.get("/api/v1/datasets")["datasets"] == []
        up.service.reload(up.config("governance: {drop: [card]}"))
        up.send(Feed("cart").gauge("cpu", now_s + 60, 1, **{"user.id": "mallory"}))
        up.settle()
        assert any("mallory" in json.dumps(one) for one in up.get("/api/v1/series")["series"])
        first, second = governed.held(tmp_path, 0, 2**62)
        assert (first["rules"]["hash"], second["rules"]["drop"]) == (["card"], ["card"])
