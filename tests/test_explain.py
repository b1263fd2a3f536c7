"""`otel-aiops explain`: from files, from a data directory, from the running service; and its picture."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import requests
from typer.testing import CliRunner, Result

from otel_aiops.batch.explain import Explanation, explain
from otel_aiops.batch.times import moment_ns
from otel_aiops.batch.tracks import Track, from_files
from otel_aiops.cli import app
from otel_aiops.detect.engine import EngineConfig
from otel_aiops.errors import BadInput
from otel_aiops.labels import Labels
from otel_aiops.series.wanted import Wanted
from tests.feed import Feed
from tests.test_app import running

START = 1_760_000_000 - 1_760_000_000 % 60


def cli(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def values(n: int = 400, spike_at: int = 350) -> np.ndarray:
    value = 50 + np.random.default_rng(1).normal(size=n)
    value[spike_at] = 90.0
    return value


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    rows = [f"{START + 60 * k},{value},{name}" for name in ("cpu", "cpu2") for k, value in enumerate(values())]
    path.write_text("\n".join(["timestamp,value,series", *rows]))
    return path


class TestFiles:
    def test_says_why(self, table: Path) -> None:
        done = cli("explain", "cpu", str(START + 60 * 350), table)
        assert done.exit_code == 0, done.output
        assert done.output.startswith('cpu{file.path="')
        assert ": 90. 90 is " in done.output and "(1 is the threshold, over it since " in done.output
        assert "highest in 5.8 h, all that is recorded; nearest value seen" in done.output

    def test_times_before_the_newest_point(self, table: Path) -> None:
        for text in ("-49m", "now"):
            found = json.loads(cli("explain", "cpu", text, table, "--json").output)
            assert found["time"] == START + 60 * (350 if text == "-49m" else 399)
        assert found["score"] < 1 and found["over_since"] is None and found["channel"]

    def test_draws_a_picture(self, table: Path, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        done = cli("explain", "cpu", "-30m", table, "-o", tmp_path / "plot.png")
        assert done.exit_code == 0, done.output
        head = (tmp_path / "plot.png").read_bytes()[:24]
        assert struct.unpack(">II", head[16:24]) == (1200, 800)
        assert "cannot be written" in str(
            cli("explain", "cpu", "now", table, "-o", tmp_path / "no" / "p.png").exception
        )

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("cp", "now"), "no series matches cp; there are some called cpu"),
            (('{name=~"cpu.*"}', "now"), '2 series match {name=~"cpu.*"}; say which one:\n  cpu'),
            (("cpu{pod}", "now"), 'series: expected key="value"'),
            (("cpu", "soon"), "time: expected ISO 8601 as 2026-05-03T14:00:00Z, now or -2h, got 'soon'"),
            (("cpu", "-9d"), "has no point at or before 2025-09-30"),
        ],
    )
    def test_messages(self, table: Path, arguments: tuple[str, str], said: str) -> None:
        done = cli("explain", *arguments, table)
        assert isinstance(done.exception, BadInput) and said in str(done.exception)

    def test_one_source_only(self, table: Path, tmp_path: Path) -> None:
        assert cli("explain", "cpu", "now", table, "--data-dir", tmp_path).exit_code == 2

    def test_requests_become_rates_as_in_the_service(self, tmp_path: Path) -> None:
        for k in range(60):
            (tmp_path / f"{k}.bin").write_bytes(Feed().counter("hits", START + 60 * k, 120.0 * k, start_s=START).body())
        track = from_files([tmp_path], Wanted("hits:rate"))
        assert track.labels.stat == "rate" and len(track.value) == 59 and set(track.value) == {2.0}


class TestService:
    def test_answers_and_leaves_a_directory_that_answers_too(self, tmp_path: Path) -> None:
        now_s = time.time() // 60 * 60
        with running(tmp_path) as up:
            for k, value in enumerate(values(200, 199)):
                feed = Feed("cart").gauge("cpu", now_s - 60 * (199 - k), float(value), unit="%", pod="a")
                up.send(
                    feed.gauge("mem", now_s - 60 * (199 - k), 1.0).gauge("mem", now_s - 60 * (199 - k), 1.0, pod="b")
                )
            up.settle()
            url = f"http://127.0.0.1:{up.ports['api']}"
            found = up.get("/api/v1/explain", series='cpu{pod="a"}', time="now")
            (live,) = up.get("/api/v1/anomalies")["anomalies"]
            assert (found["value"], found["reason"]) == (90.0, live["reason"])
            assert found["score"] == pytest.approx(live["score"])
            assert len(found["points"]["time"]) == 200  # none of them is on the disk yet
            shown = cli("explain", "cpu", "now", "--url", url)
            assert shown.exit_code == 0 and shown.output.rstrip("\n") == found["text"]
            for series, said in (
                ("mem", "2 series match mem; say which one:"),
                ("m", "no series matches m; there are some called "),
            ):
                answer = requests.get(f"{url}/api/v1/explain", params={"series": series}, timeout=30)
                assert answer.status_code == 400 and said in answer.json()["error"]
            assert requests.get(f"{url}/api/v1/explain", timeout=30).status_code == 400
            assert up.get("/api/v1/explain", series='mem{service.name="cart"}'.replace("}", ', pod="b"}'))["value"] == 1
        done = cli("explain", 'cpu{service.name="cart"}', "now", "--data-dir", tmp_path)
        assert done.exit_code == 0, done.output
        assert ": 90 %. 90 % is " in done.output and "1 is the threshold, over it since" in done.output

    def test_a_directory_of_something_else(self, tmp_path: Path) -> None:
        done = cli("explain", "cpu", "now", "--data-dir", tmp_path)
        assert "expected a data directory of otel-aiops" in str(done.exception)
        (tmp_path / "segments").mkdir()
        assert "no points are recorded yet" in str(cli("explain", "cpu", "now", "--data-dir", tmp_path).exception)


class TestExplain:
    def track(self, value: np.ndarray, score: float = np.nan) -> Track:
        times = (START + 60 * np.arange(len(value), dtype=np.int64)) * 10**9
        return Track(Labels("cpu"), times, value, np.full(len(value), score))

    def test_the_recorded_score_counts(self) -> None:
        track = self.track(values(100, 99), score=0.25)
        assert explain(track, int(track.time_ns[-1]), EngineConfig()).score == 0.25

    def test_nothing_of_the_future_counts(self) -> None:
        track = self.track(values(300, 200))
        at_ns = int(track.time_ns[200])
        one, other = explain(track, at_ns, EngineConfig()), explain(track.until(at_ns), at_ns, EngineConfig())
        assert one.text() == other.text()

    def test_json_keeps_everything(self) -> None:
        track = self.track(values(300, 200))
        found = explain(track, int(track.time_ns[250]), EngineConfig(), warm_points=20)
        again = Explanation.from_json(json.loads(json.dumps(found.to_json())))
        assert again.text() == found.text() and "computed anew" not in found.text()
        with pytest.raises(BadInput, match="expected an explanation as JSON"):
            Explanation.from_json({"series": "x"})

    def test_tells_of_silence_before_the_moment(self) -> None:
        track = self.track(values(100, 50))
        said = explain(track, int(track.time_ns[-1]) + 7200 * 10**9, EngineConfig()).text()
        assert "no point came in the 2.0 h before" in said

    def test_a_new_series_has_no_score(self) -> None:
        track = self.track(np.array([1.0]))
        said = explain(track, int(track.time_ns[0]), EngineConfig()).text()
        assert "none yet" in said and "Still learning" in said


class TestWanted:
    LABELS = Labels("a:b", stat="p95", resource=(("service.name", "cart"),), attributes=(("code", 200), ("q", '~x"y')))

    @pytest.mark.parametrize(
        ("text", "matches"),
        [
            ("a:b", True),
            ("a:b:p95", True),
            ("a:b:rate", False),
            ('{code="200", service="cart"}', True),
            ('a:b{code=~"2.."}', True),
            ('a:b{q="~x\\"y"}', True),
            ('a:b{code="404"}', False),
        ],
    )
    def test_matches(self, text: str, matches: bool) -> None:
        assert Wanted(text).matches(self.LABELS) == matches
        assert Wanted(str(self.LABELS)).matches(self.LABELS)
        assert Labels.from_json(self.LABELS.to_json()) == self.LABELS

    @pytest.mark.parametrize("text", ["", "a{", "a{b=}", 'a{b=~"("}', 'a{b="c" d="e"}'])
    def test_what_cannot_be_read(self, text: str) -> None:
        with pytest.raises(BadInput, match="series: "):
            Wanted(text)

    def test_the_one_that_is_printed_so(self) -> None:
        few, more = Labels("a"), Labels("a", attributes=(("k", "v"),))
        assert Wanted("a{}").choose([more, few]) == 1
        with pytest.raises(BadInput, match=r"30 series match a(.|\n)*and 10 more"):
            Wanted("a").choose([few] * 30)

    def test_labels_that_are_none(self) -> None:
        with pytest.raises(ValueError, match="expected labels as JSON"):
            Labels.from_json("[1]")


def test_moments() -> None:
    assert moment_ns("2025-01-01T01:00:00+01:00", 0) == moment_ns("2025-01-01", 0) == 1_735_689_600 * 10**9
    assert moment_ns("now", 5) == 5
