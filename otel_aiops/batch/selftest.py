"""The self-test on what there is: series of files, of the recorded history, or made-up ones; and what it says."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from otel_aiops.batch.progress import Progress, Show
from otel_aiops.config import Config
from otel_aiops.detect.engine import Engine
from otel_aiops.detect.report import Found, Report
from otel_aiops.detect.selftest import SelfTest, engine_variants
from otel_aiops.detect.specimens import clean
from otel_aiops.errors import BadInput
from otel_aiops.otlp.points import F64, I64, Bool
from otel_aiops.pipeline import Pipeline
from otel_aiops.series.batch import Batch
from otel_aiops.series.files import bodies, find
from otel_aiops.series.recent import Recent, on_grid, recorded

SPECIMENS = ("noise", "trend", "daily", "counter")  # kinds that most series are like
SPECIMEN_INTERVAL_S = 60.0
START_NS = 1_760_313_600_000_000_000  # of made-up series: a Monday
LEAST_SERIES = 4  # with enough points, or the history is not enough yet
LEAST_POINTS = 1000
CANDIDATES = 2  # times as many series are read as are tested: some have too few points
MOST_KEPT = 4_000_000  # points of files in memory


@dataclass(frozen=True, slots=True)
class Outcome:
    """A report, what it is of, and what it cost."""

    report: Report
    source: str  # files, history or specimens
    interval_s: float
    seed: int
    started_ns: int
    duration_s: float

    def plain_values(self) -> dict[str, Any]:
        """For machines."""
        return {
            "source": self.source,
            "interval_s": self.interval_s,
            "seed": self.seed,
            "started_unix_s": self.started_ns / 1e9,
            "duration_s": self.duration_s,
            **self.report.plain_values(),
        }

    def table(self) -> list[tuple[str, ...]]:
        """For people: fault, series, found, found by chance, covered, delay, series in which it is plain, found there.

        A delay is in faulty points before the first that is over the threshold.
        """
        report = self.report
        return [(name, *_figures(found), *_plain(report.plain.get(name))) for name, found in report.faults.items()]

    def verdict(self) -> list[str]:
        """For people, in plain words."""
        report = self.report
        told = [
            f"{report.series} series of the {self.source}, a point every {self.interval_s:g} s, "
            f"tested in {self.duration_s:.0f} s",
            f"a shift of 5 spreads stays over the threshold for {_percent(report.held)} of its half hour",
            f"{report.false_alarms:.2g} false alarms a series-day",
        ]
        wrong = [f"problem: {line}" for line in report.verdict()]
        return [*told, *(wrong or ["no problems found"])]


def self_test(
    config: Config,
    paths: Sequence[Path] = (),
    *,
    directory: Path | None = None,
    seed: int = 0,
    progress: Show | None = None,
) -> Outcome:
    """Test the detection of a configuration with the series of files; without files with what `directory` recorded,
    and where that is not enough, with made-up series.

    Raises: BadInput that names the file, the row or line, what was expected and what came; BadInput when files have no
    series that reports; StateError and StorageError of a history that cannot be read.
    """
    started_ns, clock_s = time.time_ns(), time.monotonic()
    settings = config.selftest
    source, recent = "files", from_files(paths, config) if paths else None
    if recent is None and directory is not None:
        source, recent = "history", from_history(directory, config, seed)
    if recent is None:
        source, recent = "specimens", specimens(settings.max_series, settings.max_points, seed)
    show = Progress(progress)
    test = SelfTest(
        settings,
        lambda: Engine(config.detection),
        variants=engine_variants(config.detection),
        align=config.align,
        told=lambda done, total: show(done, total, lambda: f"{done} of {total} steps"),
    )
    report = test.run(recent.values, recent.interval_s, recent.start_ns, seed)
    return Outcome(report, source, recent.interval_s, seed, started_ns, time.monotonic() - clock_s)


def specimens(series: int, points: int, seed: int) -> Recent:
    """Made-up series of the kinds that most series are like, as many of each."""
    each = -(-series // len(SPECIMENS))
    kinds = [clean(kind, each, points, seed=seed, start_ns=START_NS) for kind in SPECIMENS]
    values = np.stack(kinds, axis=1).reshape(-1, points)[:series]  # one of each in turn
    return Recent(values, SPECIMEN_INTERVAL_S, START_NS)


def from_history(directory: Path, config: Config, seed: int) -> Recent | None:
    """The newest points that a data directory holds; None when too few series have enough of them."""
    settings = config.selftest
    count = CANDIDATES * settings.max_series
    recent = recorded(directory / "segments", series=count, points=settings.max_points, seed=seed)
    if recent is None:
        return None
    enough = np.isfinite(recent.values).sum(axis=1) >= min(LEAST_POINTS, settings.max_points)
    return recent if enough.sum() >= min(LEAST_SERIES, settings.max_series) else None


def from_files(paths: Sequence[Path], config: Config) -> Recent:
    """The newest points of files, each value as the pipeline makes it: rates of counters, percentiles of histograms."""
    pipeline = Pipeline(config.pipeline())
    kept: list[tuple[I64, I64, F64]] = []
    count = now_ns = 0
    for body in bodies(find(paths)):
        now_ns = max(now_ns, body.now_ns)
        rows = pipeline.table.rows(body.points, event_now_ns=now_ns)
        pipeline.align.forget(rows.reclaimed)
        for batch in pipeline.align.step(body.points, rows, now_ns=now_ns).batches:
            used = batch.rows < CANDIDATES * config.selftest.max_series
            kept.append(_taken(batch, used))
            count += int(used.sum())
        if count > MOST_KEPT:
            kept = [_joined(kept, MOST_KEPT // 2)]
            count = MOST_KEPT // 2
    recent = on_grid(*_joined(kept, MOST_KEPT), points=config.selftest.max_points) if count else None
    if recent is None:
        raise BadInput(f"{', '.join(map(str, paths))}: expected series with several points each, got none")
    return recent


def _taken(batch: Batch, used: Bool) -> tuple[I64, I64, F64]:
    return batch.rows[used].astype(np.int64), batch.time_ns[used], batch.value[used]


def _joined(parts: list[tuple[I64, I64, F64]], most: int) -> tuple[I64, I64, F64]:
    """The newest points of some columns."""
    code, time_ns, value = (np.concatenate(columns)[-most:] for columns in zip(*parts, strict=True))
    return code, time_ns, value


def _figures(found: Found) -> tuple[str, ...]:
    delay = f"{found.delay:g}" if found.delay == found.delay else "-"
    return str(found.series), _percent(found.recall), _percent(found.chance), _percent(found.covered), delay


def _plain(found: Found | None) -> tuple[str, str]:
    return (str(found.series), _percent(found.recall)) if found else ("0", "-")


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.0f} %" if ratio == ratio else "-"
