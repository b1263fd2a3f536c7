"""Scores for a file of series: the same rows in the same order, each scored by what stands before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import parquet

from otel_aiops.batch.progress import Progress, Show
from otel_aiops.detect.budget import LEAST, Budget, BudgetConfig
from otel_aiops.detect.detector import JOB, Scores
from otel_aiops.detect.engine import Engine
from otel_aiops.detect.scorer import Scored, Scorer
from otel_aiops.errors import BadInput
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.apart import Apart
from otel_aiops.otlp.points import F64, I64, Bool
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.batch import Batch
from otel_aiops.series.tables import BATCH_ROWS, NO_TIME, TIME, VALUE, Rows, TableFile, is_parquet

ENDINGS = (".csv", ".parquet", ".pq")
MINUTE_NS = 60_000_000_000
BEHIND_NS = 86_400_000_000_000  # a row that is so much older than one before it begins another recording
WARMUP, SKIPPED = "warmup", "skipped"  # channels of rows without a score

# Why a row is not scored; alignment of live points leaves out the same ones.
GOOD, UNTIMED, ABSENT, LATE, DUPLICATE, RULED = range(6)
REASONS = (
    "",
    "Not scored: the row has no timestamp.",
    "Not scored: the row has no finite value.",
    "Not scored: the row is older than one before it of its series.",
    "Not scored: the row has the timestamp of one before it of its series.",
    "Not scored: a policy skips the result at this time.",
)


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """What became of the rows of a file."""

    output: Path
    rows: int
    series: int
    warming: int  # rows before their series is warm
    alerting: int  # rows in which an alert begins
    alerting_series: int
    skipped: Mapping[str, int]

    def text(self) -> str:
        """For people."""
        lines = [
            f"{self.output}: {self.rows} rows of {self.series} series",
            f"  alerts: {self.alerting} rows of {self.alerting_series} series",
            f"  warming up, score 0: {self.warming} rows",
        ]
        lines += [f"  {count} rows: {reason}" for reason, count in self.skipped.items()]
        return "\n".join(lines)


@dataclass(slots=True)
class Result:
    """What rows were given: columns of the output, (N,) each; `channel` and `reason` index their words."""

    score: F64
    expected: F64
    lower: F64
    upper: F64
    probability: F64
    alert: F64
    opened: Bool
    channel: NDArray[np.int8]
    reason: NDArray[np.int32]
    reasons: list[str] = field(default_factory=lambda: list(REASONS))

    @classmethod
    def empty(cls, rows: int) -> Result:
        def absent() -> F64:
            return np.full(rows, np.nan)

        numbers = absent(), absent(), absent(), absent(), absent()
        alerts = np.zeros(rows), np.zeros(rows, np.bool_)
        return cls(*numbers, *alerts, np.zeros(rows, np.int8), np.zeros(rows, np.int32))


class Scoring(Protocol):
    """What scores batches and learns from them, as `Scorer` and `Apart` do."""

    def score(self, batch: Batch) -> Scored: ...

    def reason(self, scored: Scored, k: int, unit: str = "") -> str: ...


def score_file(
    source: Path,
    output: Path,
    config: PipelineConfig,
    *,
    made: Callable[[Sequence[str]], Apart] | None = None,
    progress: Show | None = None,
) -> ScoreSummary:
    """Score the rows of a CSV or Parquet file and write them with the columns of scores behind them.

    `anomaly_score` is 0 while a series warms up (channel "warmup") and NaN where a row cannot be scored (channel
    "skipped"; `reason` says why). A row depends on the rows before it of its own series only. `alert_score` says how
    much a row is worth an alert, after hold and fatigue: 0 where an earlier row of the same trouble was one; `alert` is
    1 where an alert begins under the budget, which all series share: it depends on the rows before it of all series.
    In a file whose series stand one behind the other each has the budget for itself. With `made`, which gets the names
    of the series, a version scores them with what it has learned before.
    Raises: BadInput that names file, row, what was expected and what came.
    """
    if output.suffix.lower() not in ENDINGS:
        raise BadInput(f"{output}: expected a name that ends in {', '.join(ENDINGS)}, got {output.name!r}")
    table = TableFile(source)
    parts = list(table.parts(everything=True))
    rows = np.concatenate([part.rows for part in parts])
    apart = made(table.names) if made else None
    verdict, result = scored_rows(rows, apart or _beginner(config, table.names), progress=progress)
    budget = partial(_budget, config, table.names if apart is None else apart)
    _alert(rows, np.flatnonzero(verdict == GOOD), result, budget)
    columns = pa.concat_tables([part.columns for part in parts])
    _write(_with_scores(columns, rows, result, text=not is_parquet(source), output=output), output)
    return _summary(output, rows, verdict, result, len(table.names))


def scored_rows(rows: Rows, scorer: Scorer | Apart, *, progress: Show | None = None) -> tuple[NDArray[np.int8], Result]:
    """(why rows are not scored, an index of REASONS; scores and reasons) of N rows, of which `code` is the series.

    A series that a version knows goes on from its newest point there.
    """
    apart = scorer if isinstance(scorer, Apart) else None
    verdict, interval_s = _judge(rows)
    if apart is not None:
        _go_on(rows, verdict, interval_s, apart.newest_ns())
    result = Result.empty(len(rows))
    _score(rows, verdict, interval_s, scorer, result, Progress(progress), together=bool(apart and apart.together))
    return verdict, result


def _beginner(config: PipelineConfig, names: Sequence[str]) -> Scorer:
    """One that has learned nothing yet."""
    scorer = Scorer(config.detection, config.policies, config.calendar, config.jobs)
    for row, name in enumerate(names):
        scorer.assign(row, Labels(name))
    return scorer


# -- which rows count ---------------------------------------------------------------------------------------------


def _judge(rows: Rows) -> tuple[NDArray[np.int8], F64]:
    """(verdict, seconds since the newest row before of the series) of N rows; the same rules as for live points."""
    time_ns = rows["time_ns"]
    timed = time_ns != NO_TIME
    verdict = np.where(timed, np.int8(GOOD), np.int8(UNTIMED))
    interval_s = np.full(len(rows), np.nan)
    index = np.flatnonzero(timed)
    index = index[np.argsort(rows["code"][index], kind="stable")]
    newest = _newest_before(rows["code"][index], time_ns[index])
    known = newest != NO_TIME
    verdict[index[known & (time_ns[index] < newest)]] = LATE
    verdict[index[known & (time_ns[index] == newest)]] = DUPLICATE
    later = index[known]
    interval_s[later] = (time_ns[later] - newest[known]) / 1e9
    verdict[(verdict == GOOD) & ~np.isfinite(rows["value"])] = ABSENT
    return verdict, interval_s


def _go_on(rows: Rows, verdict: NDArray[np.int8], interval_s: F64, newest_ns: I64) -> None:
    """Let the first good row of each series be as long after its newest point before as it is, in place."""
    good = np.flatnonzero(verdict == GOOD)
    codes, first = np.unique(rows["code"][good], return_index=True)
    index, before = good[first], newest_ns[codes]
    later = (before > 0) & (rows["time_ns"][index] > before)
    interval_s[index[later]] = (rows["time_ns"][index] - before)[later] / 1e9


def _newest_before(code: NDArray[np.int32], time_ns: I64) -> I64:
    """The newest time of the rows before of the same series, NO_TIME for none; rows stand by series."""
    if not len(code):
        return np.empty(0, np.int64)
    times, rank = np.unique(time_ns, return_inverse=True)
    # Ranks of a later series are above all of an earlier one, so one running maximum serves all series.
    highest = np.maximum.accumulate(code.astype(np.int64) * len(times) + rank)
    newest = np.full(len(code), NO_TIME, np.int64)
    newest[1:] = times[highest[:-1] % len(times)]
    newest[np.flatnonzero(np.diff(code, prepend=code[0] - 1))] = NO_TIME
    return newest


def _moments(code: NDArray[np.int32], time_ns: I64, index: I64) -> Iterator[I64]:
    """Rows of equal times together, in the order of time."""
    if not len(index):
        return
    index = index[np.lexsort((code[index], time_ns[index]))]
    yield from np.split(index, np.flatnonzero(np.diff(time_ns[index])) + 1)


def _rounds(code: NDArray[np.int32], index: I64) -> Iterator[I64]:
    """Rows in rounds: the first of every series, then the second and so on."""
    if not len(index):
        return
    index = index[np.argsort(code[index], kind="stable")]
    begins = np.flatnonzero(np.diff(code[index], prepend=-1))
    rank = np.arange(len(index)) - np.repeat(begins, np.diff(np.append(begins, len(index))))
    order = np.argsort(rank, kind="stable")
    yield from np.split(index[order], np.cumsum(np.bincount(rank))[:-1])


# -- scores -------------------------------------------------------------------------------------------------------


def _score(
    rows: Rows,
    verdict: NDArray[np.int8],
    interval_s: F64,
    scorer: Scoring,
    result: Result,
    progress: Progress,
    *,
    together: bool,
) -> None:
    """Score and learn, one row of every series at a time; `together` all of a time at once. Fills in the result."""
    code, time_ns = rows["code"].astype(np.int32), rows["time_ns"].astype(np.int64)
    value = rows["value"].astype(np.float64)
    result.reason[:] = verdict
    good = np.flatnonzero(verdict == GOOD)
    done = 0
    for index in _moments(code, time_ns, good) if together else _rounds(code, good):
        batch = Batch(code[index], time_ns[index], value[index], interval_s[index])
        scored = scorer.score(batch)
        _keep(result, index, scored.scores)
        _explain(result, index, scorer, scored)
        done += len(index)
        progress(done, len(good), lambda done=done: f"{done} rows")  # type: ignore[misc]  # bound now, called now


def _keep(result: Result, index: I64, scores: Scores) -> None:
    for name in ("score", "expected", "lower", "upper", "probability", "alert"):
        getattr(result, name)[index] = getattr(scores, name)
    result.channel[index] = scores.channel


def _explain(result: Result, index: I64, scorer: Scoring, scored: Scored) -> None:
    """Sentences for rows over the threshold or that a rule decided, made before anything later is learned."""
    with np.errstate(invalid="ignore"):
        matters = scored.scores.score >= 1
    if scored.applied is not None:
        matters |= (scored.applied.reason_code > 0) | (scored.scores.channel == JOB)
    for k in np.flatnonzero(matters).tolist():
        result.reason[index[k]] = len(result.reasons)
        result.reasons.append(scorer.reason(scored, k))


# -- alerts -------------------------------------------------------------------------------------------------------


def _alert(rows: Rows, good: I64, result: Result, make: Callable[[], Budget]) -> None:
    """Run the budget over the scored rows, in the order of the file, as it runs over points that come."""
    code, time_ns = rows["code"][good].astype(np.int32), rows["time_ns"][good].astype(np.int64)
    score, probability, alert = result.score[good], result.probability[good], result.alert[good]
    absent, channel = np.full(len(good), np.nan), result.channel[good].astype(np.uint8)
    budget, event_ns = make(), 0
    edges = _edges(code, time_ns, alert)
    for begin, end in pairwise(edges.tolist()):
        at = slice(begin, end)
        newest_ns = int(time_ns[at].max())
        if newest_ns < event_ns - BEHIND_NS:  # another series begins, from its first row on
            budget, event_ns = make(), 0
        event_ns = max(event_ns, newest_ns)
        empty = absent[at]
        scores = Scores(score[at], probability[at], empty, empty, empty, channel[at], empty, alert[at])
        batch = Batch(code[at], time_ns[at], empty, empty)
        result.opened[good[at]] = budget.update(batch, scores, event_ns=event_ns).opened


def _budget(config: PipelineConfig, of: Sequence[str] | Apart) -> Budget:
    """A budget for these series; of a version, with what it has learned of its thresholds."""
    labels = of.labels if isinstance(of, Apart) else [Labels(name) for name in of]
    budget = Budget(config.budgets, default=BudgetConfig(budget=config.budget))
    budget.assign(np.arange(len(labels), dtype=np.int32), labels)
    if isinstance(of, Apart):
        budget.adopt(of.model.alerting.budget.learned())
    return budget


def _edges(code: NDArray[np.int32], time_ns: I64, alert: F64) -> I64:
    """Where batches begin and end, (batches + 1,).

    A row that is strange is a batch of its own, so that no later row can change what it is. The others are together
    while they are of one minute and of different series: of them only their number counts.
    """
    minute, order = time_ns // MINUTE_NS, np.argsort(code, kind="stable")
    again = np.zeros(len(code), np.bool_)
    again[order[1:]] = (np.diff(code[order]) == 0) & (np.diff(minute[order]) == 0)
    strange = alert >= LEAST
    begins = again | strange | (np.diff(minute, prepend=-1) != 0)
    begins[1:] |= strange[:-1]
    return np.append(np.flatnonzero(begins), len(code))


# -- output -------------------------------------------------------------------------------------------------------


def _with_scores(columns: pa.Table, rows: Rows, result: Result, *, text: bool, output: Path) -> pa.Table:
    """The columns as they came, with those of scores behind them; Parquet gets typed times and values."""
    if text and is_parquet(output):
        time_ns = pa.array(rows["time_ns"].astype(np.int64), mask=rows["time_ns"] == NO_TIME)
        columns = _replaced(columns, TIME, time_ns.cast(pa.timestamp("ns", "UTC")))
        columns = _replaced(columns, VALUE, pa.array(rows["value"].astype(np.float64)))
    skipped = (result.reason > GOOD) & np.isnan(result.score)
    warming = ~skipped & np.isnan(result.score)
    score = np.where(warming, 0.0, result.score)
    words = (*Engine.channels, WARMUP, SKIPPED)
    channel = np.where(skipped, len(words) - 1, np.where(warming, len(words) - 2, result.channel)).astype(np.int8)
    added: dict[str, Any] = {
        "anomaly_score": score,
        "alert_score": result.alert,
        "alert": result.opened.astype(np.int8),
        "expected": result.expected,
        "lower": result.lower,
        "upper": result.upper,
        "probability": result.probability,
        "channel": pa.DictionaryArray.from_arrays(pa.array(channel), pa.array(words)).cast(pa.string()),
        "reason": pa.DictionaryArray.from_arrays(pa.array(result.reason), pa.array(result.reasons)).cast(pa.string()),
    }
    for name, column in added.items():
        columns = _replaced(columns, name, pa.array(column) if isinstance(column, np.ndarray) else column)
    return columns


def _replaced(columns: pa.Table, name: str, column: pa.Array) -> pa.Table:
    at = columns.column_names.index(name) if name in columns.column_names else -1
    return columns.set_column(at, name, column) if at >= 0 else columns.append_column(name, column)


def _write(columns: pa.Table, output: Path) -> None:
    """Write a file that appears under its name when it is complete."""
    temporary = output.with_name(output.name + ".tmp")
    try:
        if is_parquet(output):
            parquet.write_table(columns, temporary)
        else:
            with temporary.open("wb") as file:
                file.write((",".join(_quoted(pa.array(columns.column_names)).to_pylist()) + "\n").encode())
                for batch in columns.to_batches(BATCH_ROWS):
                    file.write(_lines(batch))
        temporary.replace(output)
    except OSError as error:
        raise BadInput(f"{output}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _lines(batch: pa.RecordBatch) -> bytes:
    """Rows as CSV, with quotes only where they are needed, so that what came without has none."""
    cells = [_quoted(_text(column)) for column in batch.columns]
    text = "".join(f"{line}\n" for line in pc.binary_join_element_wise(*cells, ",").to_pylist())
    return text.encode()


def _text(column: pa.Array) -> pa.Array:
    try:
        return pc.cast(column, pa.string())
    except pa.ArrowException:  # a nested column, or bytes that are no text
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())


def _quoted(text: pa.Array) -> pa.Array:
    text = text.fill_null("")
    special = pc.match_substring_regex(text, '[",\\r\\n]')
    if not pc.any(special).as_py():
        return text
    inside = pc.replace_substring(text, '"', '""')
    return pc.if_else(special, pc.binary_join_element_wise('"', inside, '"', ""), text)


def _summary(output: Path, rows: Rows, verdict: NDArray[np.int8], result: Result, series: int) -> ScoreSummary:
    ruled = np.isnan(result.score) & (result.reason > RULED)
    counts = Counter(np.where(ruled, RULED, verdict).tolist())
    return ScoreSummary(
        output=output,
        rows=len(rows),
        series=series,
        warming=int((np.isnan(result.score) & (result.reason == GOOD)).sum()),
        alerting=int(result.opened.sum()),
        alerting_series=len(np.unique(rows["code"][result.opened])),
        skipped={REASONS[code]: counts[code] for code in range(UNTIMED, len(REASONS)) if counts[code]},
    )
