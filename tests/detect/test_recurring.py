"""Recurring jobs on the road of scores: explained once they are known, noticed when they do not come, kept by state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow.csv as csv
import pytest

from otel_aiops.batch.score import score_file
from otel_aiops.config import parse
from otel_aiops.detect.calendar import CalendarConfig
from otel_aiops.detect.detector import CHANNELS, Scores
from otel_aiops.detect.engine import EngineConfig
from otel_aiops.detect.jobs import Jobs, JobsConfig
from otel_aiops.detect.policy import PolicyConfig
from otel_aiops.detect.scorer import Scorer
from otel_aiops.labels import Labels
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.otlp.points import F64, I64
from otel_aiops.pipeline import Pipeline, PipelineConfig, Step
from otel_aiops.series.batch import Batch
from tests.feed import Feed, ns

MINUTE, HOUR, DAY = 60, 3600, 86_400
MONDAY = 1_767_571_200  # 2026-01-05 00:00 UTC
SIX = MONDAY + 6 * HOUR
BERLIN = ZoneInfo("Europe/Berlin")


@dataclass(frozen=True)
class Noted:
    """A point of a series that was over its threshold, or is of a job."""

    second: int
    channel: str
    score: float
    alert: float
    untouched: float
    reason: str


def mornings(days: int, step_s: int, *, start: float = SIX, around_s: float = 1.5 * HOUR) -> I64:
    """Times around six."""
    day = start + DAY * np.arange(days)[:, None] + np.arange(-around_s, around_s, step_s)
    return day.ravel().astype(np.int64)


class Made:
    """Series of 50 and a little noise, and the jobs that are put in."""

    def __init__(self, second: I64, *names: str) -> None:
        self.second = second
        self.value = {name: 50 + np.random.default_rng(3).normal(0, 1, len(second)) for name in names}

    def job(self, name: str, start: float, minutes: float = 10, size: float = 30) -> None:
        inside = (self.second >= start) & (self.second < start + minutes * MINUTE)
        self.value[name][inside] += size

    def scored(self, scorer: Scorer) -> dict[str, list[Noted]]:
        for row, name in enumerate(self.value):
            scorer.assign(row, Labels(name))
        values, rows = np.array([*self.value.values()]), np.arange(len(self.value), dtype=np.int32)
        gap_s = np.append(np.nan, np.diff(self.second))
        found: dict[str, list[Noted]] = {name: [] for name in self.value}
        for k, second in enumerate(self.second.tolist()):
            times = np.full(len(rows), second * 10**9, np.int64)
            scored = scorer.score(Batch(rows, times, values[:, k].copy(), np.full(len(rows), gap_s[k])))
            of = scored.scores
            jobs = np.array([CHANNELS[channel].endswith("job") for channel in of.channel.tolist()])
            for row in np.flatnonzero((of.score >= 1) | (of.alert >= 1) | jobs).tolist():
                score, alert, before = (float(one[row]) for one in (of.score, of.alert, scored.untouched.score))
                channel, reason = CHANNELS[int(of.channel[row])], scorer.reason(scored, row)
                noted = Noted(second, channel, score, alert, before, reason)
                found[[*self.value][row]].append(noted)
        return found


def scorer(**jobs: float | bool) -> Scorer:
    return Scorer(EngineConfig(), jobs=JobsConfig(**jobs))  # type: ignore[arg-type]


def between(noted: list[Noted], start: float, end: float) -> list[Noted]:
    return [one for one in noted if start <= one.second < end]


def on(noted: list[Noted], day: int) -> list[Noted]:
    """What was noted at the job's time of a day."""
    return between(noted, SIX + day * DAY - 2 * MINUTE, SIX + day * DAY + 25 * MINUTE)


@pytest.fixture(scope="module")
def daily() -> dict[str, list[Noted]]:
    """A job of 10 minutes at six, on a gauge with a point a minute, in some variants."""
    made = Made(mornings(7, MINUTE), "plain", "other", "large", "absent", "down", "ranged")
    jitter = np.random.default_rng(1).integers(0, 2, 7).tolist()
    for name in made.value:
        for day in range(7):
            size = 120.0 if name == "large" and day == 5 else -30.0 if name == "down" and day == 5 else 30.0
            if (name, day) != ("absent", 4):
                made.job(name, SIX + day * DAY + jitter[day] * MINUTE, size=size)
    made.job("other", SIX + 4 * DAY - 60 * MINUTE)
    ranged = PolicyConfig(match={"name": "ranged"}, data_range=(0.0, 70.0))
    return made.scored(Scorer(EngineConfig(), [ranged], jobs=JobsConfig()))


class TestEveryDay:
    def test_three_are_anomalies_and_the_fourth_is_expected(self, daily: dict[str, list[Noted]]) -> None:
        for day in range(3):
            assert on(daily["plain"], day)[0].score >= 1
        for day in range(3, 7):
            noted = on(daily["plain"], day)
            assert all(one.channel == "job" and one.score == one.untouched and one.alert == 0 for one in noted)
        fourth = on(daily["plain"], 3)[0]
        assert fourth.untouched > 1
        assert "the job that runs every day at 06:0" in fourth.reason
        assert "seen 3 times, last 2026-01-07" in fourth.reason

    def test_the_same_at_another_time_is_an_anomaly(self, daily: dict[str, list[Noted]]) -> None:
        start = SIX + 4 * DAY - 60 * MINUTE
        noted = between(daily["other"], start, start + 10 * MINUTE)
        assert noted and noted[0].score >= 1 and noted[0].channel != "job"

    def test_three_times_the_size_is_an_anomaly(self, daily: dict[str, list[Noted]]) -> None:
        first = on(daily["large"], 5)[0]
        assert first.score > 3 and first.alert >= 1 and first.channel != "job"

    def test_the_other_direction_is_an_anomaly(self, daily: dict[str, list[Noted]]) -> None:
        assert on(daily["down"], 5)[0].score >= 1 and on(daily["down"], 5)[0].channel != "job"

    def test_the_day_it_does_not_come_is_noticed_once_although_it_had_become_familiar(
        self, daily: dict[str, list[Noted]]
    ) -> None:
        (missed,) = [one for one in daily["absent"] if one.channel == "missed job"]
        assert SIX + 4 * DAY + 5 * MINUTE < missed.second < SIX + 4 * DAY + 8 * MINUTE
        assert missed.score == 1.01 and missed.alert > 0 and missed.untouched < 1
        assert missed.reason.startswith("Missed: the job that runs every day at 06:0")
        assert not any(one.channel == "missed job" for one in daily["plain"])
        assert all(one.channel == "job" for one in on(daily["absent"], 5))

    def test_a_value_outside_its_range_is_never_explained(self, daily: dict[str, list[Noted]]) -> None:
        assert all(any(one.score >= 1 for one in on(daily["ranged"], day)) for day in range(7))
        assert not any(one.channel == "job" for one in daily["ranged"])


def spikes(days: int, *, size: float = 60) -> Made:
    """A job of one point at six from the second day on, every five minutes around it."""
    made = Made(mornings(days, 5 * MINUTE, around_s=2.5 * HOUR), "x")
    for day in range(1, days):
        made.job("x", SIX + day * DAY, minutes=5, size=size)
    return made


def test_every_week() -> None:
    made = Made(mornings(24, 15 * MINUTE, around_s=2.5 * HOUR), "backup")
    for week in range(1, 5):
        made.job("backup", SIX + (week * 7 - 6) * DAY, minutes=15, size=60)
    noted = made.scored(scorer())["backup"]
    assert all(on(noted, day)[0].score >= 1 for day in (1, 8, 15))
    (fourth,) = on(noted, 22)
    assert fourth.channel == "job" and "every week on Tue at 06:00" in fourth.reason


def test_every_90_minutes() -> None:
    made = Made(MONDAY + np.arange(0, 15 * HOUR, 3 * MINUTE), "sync")
    starts = (MONDAY + 4 * HOUR + 90 * MINUTE * np.arange(7)).tolist()
    for start in starts:
        made.job("sync", start, minutes=3, size=60)
    noted = made.scored(scorer())["sync"]
    assert all(between(noted, start, start + 9 * MINUTE)[0].score >= 1 for start in starts[:3])
    job, *after = between(noted, starts[3], starts[6] + 80 * MINUTE)
    assert job.channel == "job" and "every 90 min" in job.reason
    assert all(one.channel == "job" for one in after)
    (missed,) = between(noted, starts[6] + 80 * MINUTE, MONDAY + DAY)
    assert missed.channel == "missed job"


def test_the_local_time_counts_when_the_clocks_change() -> None:
    first = datetime(2026, 3, 24, 6, tzinfo=BERLIN).timestamp()
    second = mornings(7, 5 * MINUTE, start=first - HOUR / 2, around_s=2.5 * HOUR)
    made = Made(second, "berlin", "utc")
    days = [datetime(2026, 3, 24 + day, 6, tzinfo=BERLIN).timestamp() for day in range(7)]
    for name in made.value:
        for at in days[1:]:
            made.job(name, at, minutes=5, size=60)
    calendar = [CalendarConfig(match={"name": "berlin"}, tz="Europe/Berlin")]
    noted = made.scored(Scorer(EngineConfig(), (), calendar, JobsConfig()))
    changed = days[5]  # Sunday, 29 March: an hour earlier by UTC
    local, other = (between(noted[name], changed, changed + 5 * MINUTE) for name in ("berlin", "utc"))
    assert local and all(one.channel == "job" and "06:00" in one.reason for one in local)
    assert other and other[0].score >= 1 and other[0].channel != "job"
    assert not any(one.channel == "missed job" for one in noted["berlin"])


class TestRules:
    def test_nothing_is_learned_where_policies_say_so_and_then_nothing_is_missed(self) -> None:
        window = {"from": "05:30", "to": "06:30", "days": ["fri"]}
        policy = parse(f"policies: [{{match: {{name: closed}}, skip_learning: [{window}]}}]").config.policies
        made = Made(mornings(5, 5 * MINUTE), "closed", "open")
        for name in made.value:
            for day in (1, 2, 3):
                made.job(name, SIX + day * DAY, minutes=5, size=60)
        made.job("closed", SIX + 4 * DAY + 10 * MINUTE, minutes=5, size=60)
        noted = made.scored(Scorer(EngineConfig(), policy, jobs=JobsConfig(missed_after=3)))
        assert [one.channel for one in on(noted["open"], 4)] == ["missed job"]
        assert on(noted["closed"], 4)[0].score >= 1
        assert not any(one.channel == "missed job" for one in noted["closed"])

    def test_disabled_nothing_is_explained(self) -> None:
        off = scorer(enabled=False)
        with_jobs, without = spikes(5).scored(scorer())["x"], spikes(5).scored(off)["x"]
        assert on(with_jobs, 4)[0].channel == "job" and on(without, 4)[0].score >= 1
        assert on(with_jobs, 4)[0].untouched == on(without, 4)[0].score  # what the engine learns is the same
        assert len(off.jobs) == 0


# -- the pipeline, files ----------------------------------------------------------------------------------------------


def values(days: int) -> Mapping[int, float]:
    made = spikes(days)
    return dict(zip(made.second.tolist(), made.value["x"].tolist(), strict=True))


def fed(pipeline: Pipeline, second: int, value: float) -> Step:
    body = Feed().gauge("x", second, value).body()
    return pipeline.metrics(decode_metrics(body).points, now_ns=ns(second))


def test_state_saved_in_the_middle_gives_the_same_bits_and_an_old_one_knows_no_jobs() -> None:
    known, points = Pipeline(PipelineConfig()), values(5)
    early = {second: value for second, value in points.items() if second < SIX + 4 * DAY}
    for second, value in early.items():
        fed(known, second, value)
    saved = known.state()
    restored, old = Pipeline(PipelineConfig()), Pipeline(PipelineConfig())
    restored.restore(saved)
    old.restore({name: array for name, array in saved.items() if not name.startswith("serving/champion/jobs/")})
    assert known.scorer.jobs.note(0) == restored.scorer.jobs.note(0) == "every day at 06:00"
    assert "Known jobs: every day at 06:00." in known.note(0) and old.scorer.jobs.note(0) == ""
    channels = set()
    for second in [second for second in points if second not in early]:
        a, b, c = (fed(pipeline, second, points[second]) for pipeline in (known, restored, old))
        for field in fields(Scores):
            left, right = (getattr(step.scored[0].scores, field.name) for step in (a, b))
            assert left.tobytes() == right.tobytes()
        channels.add(CHANNELS[int(a.scored[0].scores.channel[0])])
        assert CHANNELS[int(c.scored[0].scores.channel[0])] != "job"
    assert "job" in channels
    states = known.state(), restored.state()
    assert all(states[0][name].tobytes() == states[1][name].tobytes() for name in states[0])


def test_a_series_that_is_taught_anew_has_no_jobs_from_before() -> None:
    pipeline = Pipeline(PipelineConfig())
    for second, value in values(4).items():
        fed(pipeline, second, value)
    assert pipeline.scorer.jobs.note(0)
    past = Feed()
    for k in range(30):
        past.gauge("x", MONDAY + k * MINUTE, 50.0 + k % 3)
    pipeline.backfill(decode_metrics(past.body()).points, now_ns=ns(SIX + 4 * DAY))
    assert pipeline.scorer.jobs.note(0) == ""


def test_a_row_of_a_file_depends_on_the_rows_before_it(tmp_path: Path) -> None:
    points = values(5)
    lines = [f"{second},{value}" for second, value in points.items()]
    tables = []
    for name, count in (("whole", len(lines)), ("part", len(lines) - 20)):
        source, output = tmp_path / f"{name}.csv", tmp_path / f"{name}-out.csv"
        source.write_text("\n".join(["timestamp,value", *lines[:count]]) + "\n")
        score_file(source, output, PipelineConfig())
        tables.append(csv.read_csv(output))
    whole, part = tables
    assert whole.slice(0, len(part)).equals(part)
    jobs = [row for row in part.to_pylist() if row["channel"] == "job"]
    assert jobs and all(row["anomaly_score"] >= 1 and row["alert_score"] == row["alert"] == 0 for row in jobs)
    assert all("the job that runs every day at 06:00" in row["reason"] for row in jobs)


class TestCost:
    def test_rows_without_excursions_have_no_slot(self) -> None:
        one = scorer()
        rows, rng = np.arange(500, dtype=np.int32), np.random.default_rng(2)
        value: F64 = np.round(rng.uniform(50, 52, (60, 500)))
        for k in range(60):
            times = np.full(500, (MONDAY + k * MINUTE) * 10**9, np.int64)
            one.score(Batch(rows, times, value[k], np.full(500, 60.0 if k else np.nan)))
        spiky = value[0].copy()
        spiky[7] = 500.0
        times = np.full(500, (MONDAY + HOUR) * 10**9, np.int64)
        before = len(one.jobs)
        scored = one.score(Batch(rows, times, spiky, np.full(500, 60.0)))
        assert scored.scores.score[7] >= 1
        assert before < 100 and len(one.jobs) <= before + 1 + int((scored.scores.score >= 1).sum())
        assert len(Jobs(JobsConfig(), one._calendar)) == 0
