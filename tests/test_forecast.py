"""`otel-aiops forecast`, /api/v1/forecast, and the forecasts that a service makes on a schedule."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import requests
from typer.testing import CliRunner, Result

from otel_aiops.batch.outlook import Outlook, nice_step, outlook
from otel_aiops.batch.tracks import Track
from otel_aiops.cli import app
from otel_aiops.config import parse
from otel_aiops.errors import BadInput, ConfigError
from otel_aiops.labels import Labels
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.otlp.memo import Memo
from otel_aiops.otlp.semconv import FORECAST_METRICS, is_own
from otel_aiops.server.forecasts import Told, duration_text, requests_of
from tests.feed import Feed
from tests.servers import wait_for
from tests.test_app import running

START = 1_760_000_000 - 1_760_000_000 % 600


def cli(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A disk that fills by 1 % in three hours, five days long."""
    path = tmp_path / "in.csv"
    noise = np.random.default_rng(1).normal(0, 0.001, 720)
    rows = [f"{START + 600 * k},{0.4 + 0.01 * k / 18 + noise[k]},disk" for k in range(720)]
    path.write_text("\n".join(["timestamp,value,series", *rows]))
    return path


class TestCommand:
    def test_says_what_comes_and_when_the_limit_is_reached(self, table: Path) -> None:
        done = cli("forecast", "disk", table, "--horizon", "2d", "--limit", "0.9")
        assert done.exit_code == 0, done.output
        assert "less error than seasonal-naive" in done.output and "in 2.0 d" in done.output
        found = json.loads(cli("forecast", "disk", table, "--horizon", "2d", "--limit", "0.9", "--json").output)
        hours = found["exhaustion"]["time_s"] / 3600
        assert 27 < hours < 33 and found["step_s"] == 600 and len(found["time"]) == 288
        assert found["expected"][-1] == pytest.approx(0.4 + 0.01 * (719 + 288) / 18, abs=0.02)

    def test_a_limit_that_is_not_reached(self, table: Path) -> None:
        done = cli("forecast", "disk", table, "--limit", "0.1", "--direction", "below", "--step", "1h")
        assert "below 0.1: not within 24.0 h (probability 0.00)" in done.output

    def test_draws_a_picture(self, table: Path, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        done = cli("forecast", "disk", table, "--horizon", "2d", "--limit", "0.9", "-o", tmp_path / "plot.png")
        assert done.exit_code == 0, done.output
        assert struct.unpack(">II", (tmp_path / "plot.png").read_bytes()[16:24]) == (1200, 800)

    def test_messages(self, table: Path) -> None:
        assert "no series matches disc; there are some called disk" in str(cli("forecast", "disc", table).exception)
        assert "expected a duration" in str(cli("forecast", "disk", table, "--horizon", "soon").exception)
        assert cli("forecast", "disk", table, "--direction", "up").exit_code == 2

    def test_too_little_history(self) -> None:
        track = Track(Labels("cpu"), np.array([1]), np.array([1.0]), np.array([np.nan]))
        with pytest.raises(BadInput, match="has 1 points; a forecast needs two"):
            outlook(track)
        few = Track(Labels("cpu"), np.arange(1, 4) * 60 * 10**9, np.ones(3), np.full(3, np.nan))
        said = outlook(few, horizon_s=600, limit=2.0).text()
        assert "too little history" in said

    def test_json_keeps_everything(self, table: Path) -> None:
        tree = json.loads(cli("forecast", "disk", table, "--limit", "0.9", "--json").output)
        assert Outlook.from_json(tree).text() == tree["text"]
        with pytest.raises(BadInput, match="expected a forecast as JSON"):
            Outlook.from_json({})


def test_spans() -> None:
    assert all(is_own(metric.name, "") for metric in FORECAST_METRICS)  # so they are never scored when they come back
    assert nice_step(61) == 120 and duration_text(604_800) == "7d"


class TestRules:
    def test_are_read_from_the_configuration(self) -> None:
        text = "forecast: [{match: {name: disk}, horizon: 2d, step: 10m, limit: 0.9, bounds: [0, 1]}]"
        (rule,) = parse(text).config.forecast
        assert (rule.horizon, rule.step, rule.limit, rule.bounds) == (172_800, 600, 0.9, (0, 1))
        assert parse("forecast:").config.forecast == ()

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("{horizon: 1m}", "forecast.0.horizon: must be 1 to 10000 steps of 300 s, got 60 s"),
            ("{match: {name: '~('}}", "forecast.0.match: is not a regular expression"),
            ("{bounds: [1, 0]}", "forecast.0.bounds: expected \\[low, high\\]"),
            ("{interval: 0s}", "forecast.0.interval: must be > 0 s"),
            ("{history: 1m}", "forecast.0.history: must be at least two steps"),
            ("{max_series: 0}", "forecast.0.max_series: must be >= 1"),
            ("{limits: 1}", "forecast.0.limits: is not a known key"),
        ],
    )
    def test_that_are_wrong(self, text: str, said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            parse(f"forecast: [{text}]")


def sent(found: Told) -> list[tuple[str, float]]:
    """(name, value) of the points of the OTLP requests."""
    bodies = [decode_metrics(request.body, Memo()).points for request in requests_of(found, 10**18)]
    return [(p.streams[k].name, v) for p in bodies for k, v in zip(p.stream.tolist(), p.value.tolist(), strict=True)]


class TestService:
    RULE = (
        "forecast: [{match: {name: disk}, horizon: 2h, step: 1m, interval: 1s, history: 1d, limit: 0.9},"
        " {match: {name: nothing}}]"
    )

    def test_forecasts_on_a_schedule_and_when_asked(self, tmp_path: Path) -> None:
        now_s = time.time() // 60 * 60
        with running(tmp_path, self.RULE) as up:
            for k in range(180):
                at_s = now_s - 60 * (179 - k)
                feed = Feed("cart").gauge("disk", at_s, 0.5 + 0.002 * k, unit="1", device="sda")
                up.send(feed.gauge("cpu", at_s, 1.0))
            up.settle()
            url = f"http://127.0.0.1:{up.ports['api']}"
            found = up.get("/api/v1/forecast", series="disk", horizon="2h", limit="0.9")
            assert found["exhaustion"]["time_s"] == pytest.approx(1260, abs=300)
            shown = cli("forecast", "disk", "--url", url, "--horizon", "2h", "--limit", "0.9")
            assert shown.exit_code == 0 and shown.output.rstrip("\n") == found["text"]
            for asked, said in (({"limit": "x"}, "limit: expected a number"), ({"direction": "up"}, "direction: exp")):
                answer = requests.get(f"{url}/api/v1/forecast", params={"series": "disk", **asked}, timeout=30)
                assert answer.status_code == 400 and said in answer.json()["error"]
            name = "otel_aiops_forecast_exhaustion_time_seconds"  # the first ones were made while points came
            wait_for(lambda: 900 < up.metric(name) < 1600, "the forecast to be shown")
            assert up.metric("otel_aiops_forecast_expected") > 1
            text = requests.get(f"{url}/metrics", timeout=30).text
            (line,) = (
                one for one in text.splitlines() if one.startswith("otel_aiops_forecast_exhaustion_time_seconds{")
            )
            for label in ('anomaly_metric_name="disk"', 'device="sda"', 'job="cart"', 'horizon="2h"', 'limit="0.9"'):
                assert label in line
            assert up.metric("otel_aiops_forecast_exhaustion_probability") > 0.9
            points = [point for told in up.service._parts._forecaster.shown for point in sent(told)]
            assert {name for name, _ in points} == {metric.name for metric in FORECAST_METRICS}
            up.service.reload(up.config())
            assert up.metric("otel_aiops_forecast_expected") == 0
