"""The plan: what series will cost in memory, CPU and disk, measured on this machine before anything is enabled."""

from __future__ import annotations

import dataclasses
import gc
import gzip
import json
import resource
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import otel_aiops.app  # noqa: F401  so that what a service loads is in the memory that is measured
from otel_aiops.batch.client import Api
from otel_aiops.batch.prometheus import Prometheus
from otel_aiops.config import Config
from otel_aiops.detect.engine import prepare
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.objective import Objective
from otel_aiops.lifecycle.scope import Scope, Told, scope
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.otlp.encode import encode_series, series_of
from otel_aiops.otlp.memo import Memo
from otel_aiops.otlp.points import I32, Points
from otel_aiops.otlp.semconv import SERVICE_METRICS, series_metrics
from otel_aiops.pipeline import Pipeline
from otel_aiops.series.archive import Archive
from otel_aiops.series.files import bodies, find
from otel_aiops.series.rows import Columns
from otel_aiops.series.segments import HOUR_NS, Segments
from otel_aiops.series.snapshot import KEPT
from otel_aiops.series.table import SeriesTable
from otel_aiops.server.emit import Emitter
from otel_aiops.watch import Watch

SAMPLE_SERIES = 4_096  # that are built to measure; columns grow by doubling, so this is without slack
SAMPLE_BODIES = 12  # after those in which everything is new
SAMPLE_START_NS = 1_700_000_000_000_000_000 // HOUR_NS * HOUR_NS
DAY_S = 86_400.0
NO_LIMIT = 2**31 - 1
MIB, GIB = 1 << 20, 1 << 30
LEAST_CORES = 0.01  # that are told as a number


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be scored: `streams` as they come, `series` as they are scored, of which a histogram is several."""

    source: str
    series: int
    streams: int
    histograms: int
    points_per_s: float  # of streams
    services: int | None = None  # None when it is not known


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured on this machine, a series or a point at a time."""

    base_bytes: int  # of the process without any series
    series_bytes: float
    state_bytes: float  # of a series, copied while a snapshot is written
    points_per_core_s: float  # decoded and scored
    log_bytes: float  # a point, gzip as a Collector sends it
    segment_bytes: float  # a scored value


@dataclass(frozen=True, slots=True)
class Plan:
    """What it will cost."""

    load: Load
    measured: Measured
    max_series: int
    enough: bool
    memory_bytes: int
    memory_peak_bytes: int  # while a snapshot is written and the queue is full
    cores: float
    log_bytes_per_day: int
    segment_bytes_per_day: int
    disk_bytes: int  # when retention has come round
    output_series: int  # at most
    output_series_per_service: int
    objectives: tuple[Scope, ...] = ()

    @property
    def feasible(self) -> bool:
        """Whether the history shows of every objective that it can be had."""
        return all(one.feasible == "yes" for one in self.objectives)

    def json(self) -> str:
        """For machines."""
        objectives = [one.plain_values() | self._cost(one) for one in self.objectives]
        return json.dumps(dataclasses.asdict(self) | {"objectives": objectives}, indent=2)

    def text(self) -> str:
        """For people."""
        load, measured = self.load, self.measured
        verdict = (
            "enough"
            if self.enough
            else f"too few, {load.series - self.max_series} would not be scored; below is what all cost"
        )
        of_services = (
            f"{self.output_series_per_service} of each service"
            if load.services is None
            else f"{self.output_series_per_service * load.services} of {load.services} services"
        )
        lines = [
            f"series      {load.series} scored, of {load.streams} streams {load.source}, {load.histograms} histograms",
            f"limit       series.max_series is {self.max_series}: {verdict}",
            f"points      {load.points_per_s:.1f}/s",
            f"memory      {_size(self.memory_bytes)}, at most {_size(self.memory_peak_bytes)}"
            f" ({_size(measured.base_bytes)} and {measured.series_bytes:.0f} B a series; a snapshot copies"
            f" {measured.state_bytes:.0f} B of each)",
            f"CPU         {_cores(self.cores)} ({measured.points_per_core_s:.0f} points/s a core, measured now)",
            f"disk        {_size(self.log_bytes_per_day)} log and {_size(self.segment_bytes_per_day)} Parquet a day"
            f" ({measured.log_bytes:.1f} B a point, {measured.segment_bytes:.1f} B a scored value)",
            f"            {_size(self.disk_bytes)} when the retention of both is reached, with {KEPT} snapshots",
            f"output      at most {self.output_series} series, and {of_services}",
        ]
        for one in self.objectives:
            cost = self._cost(one)
            share = f"{_size(cost['memory_bytes'])} and {_cores(cost['cores'])} of that"
            lines += ["", one.text(), *([f"{'cost':<12}{share}"] if one.series else [])]
        return "\n".join(lines)

    def _cost(self, one: Scope) -> dict[str, float]:
        """Memory and CPU of the series in scope of an objective."""
        memory_bytes = round(one.series * self.measured.series_bytes)
        return {"memory_bytes": memory_bytes, "cores": one.points_per_s / self.measured.points_per_core_s}


def measure(
    config: Config,
    *,
    paths: Sequence[Path] = (),
    series: int | None = None,
    prometheus: str | None = None,
    interval_s: float = 15.0,
    token: str | None = None,
    recorded: Path | None = None,
    objectives: Sequence[Objective] = (),
    progress: Told | None = None,
) -> Plan:
    """Plan for what files hold, for what a Prometheus-compatible API has now, for a number of series, or for what the
    data directory `recorded` holds, and then say of objectives whether they are feasible.

    `interval_s` is the time between the points of a series where it is not known from files.
    Raises: BadInput, Overloaded or Unauthorized when files, the directory or the API cannot be read; StateError and
    StorageError of a damaged history.
    """
    base_bytes = _resident_bytes()
    archive = Archive(recorded) if recorded else None
    if archive:
        load = _load_of_history(archive, interval_s)
    elif paths:
        load = _load_of_files(config, paths, interval_s)
    elif prometheus:
        load = _load_of_prometheus(config, prometheus, interval_s, token)
    else:
        load = Load("as given", series or 0, series or 0, 0, (series or 0) / interval_s)
    plan = _plan(config, load, _measure(config, base_bytes))
    if archive is None:
        return plan
    scopes = [scope(one, archive, config.pipeline(), progress=progress) for one in objectives]
    return dataclasses.replace(plan, objectives=tuple(scopes))


# -- what is to be scored -----------------------------------------------------------------------------------------


def _load_of_files(config: Config, paths: Sequence[Path], interval_s: float) -> Load:
    """Count the series, and how often they come."""
    table = SeriesTable(dataclasses.replace(config.series, max_series=NO_LIMIT))
    seen = _Seen()
    for body in bodies(find(paths)):
        if len(body.points):
            seen.add(table.rows(body.points, event_now_ns=body.now_ns).first, body.points)
    rows = table.live()
    heads = [row for row in rows.tolist() if table.is_head(row)]
    names = {table.labels(row).service for row in heads}
    histograms = sum(len(table.stats(row)) > 1 for row in heads)
    return Load("in the files", len(rows), len(heads), histograms, seen.rate(heads, interval_s), len(names))


def _load_of_history(archive: Archive, interval_s: float) -> Load:
    """Count the series that are recorded. What was a histogram is counted as the streams that came of it."""
    every = archive.labels()
    services = {labels.service for labels in every.values()}
    points_per_s = archive.points_per_s() or len(every) / interval_s
    return Load(f"recorded in {archive.directory}", len(every), len(every), 0, points_per_s, len(services))


class _Seen:
    """First and newest time and number of points, by first row of a stream."""

    def __init__(self) -> None:
        self._first_ns = np.zeros(0, np.int64)
        self._last_ns = np.zeros(0, np.int64)
        self._points = np.zeros(0, np.int64)

    def add(self, first: I32, points: Points) -> None:
        """Take in the points of one body, whose rows may be -1."""
        known = first >= 0
        rows, time_ns = first[known], points.time_ns[known]
        self._reserve(int(rows.max(initial=-1)) + 1)
        new = np.unique(rows[self._points[rows] == 0])
        self._first_ns[new] = np.iinfo(np.int64).max
        np.minimum.at(self._first_ns, rows, time_ns)
        np.maximum.at(self._last_ns, rows, time_ns)
        np.add.at(self._points, rows, 1)

    def rate(self, heads: list[int], interval_s: float) -> float:
        """Points a second if all streams came at once; one with a single point counts as given."""
        at = np.array(heads, np.int64)
        at = at[at < len(self._points)]
        span_s = (self._last_ns[at] - self._first_ns[at]) / 1e9
        known = span_s > 0
        return float(((self._points[at][known] - 1) / span_s[known]).sum() + (len(heads) - known.sum()) / interval_s)

    def _reserve(self, rows: int) -> None:
        more = max(rows, 2 * len(self._points)) - len(self._points)
        if rows > len(self._points):
            for name in ("_first_ns", "_last_ns", "_points"):
                setattr(self, name, np.append(getattr(self, name), np.zeros(more, np.int64)))


def _load_of_prometheus(config: Config, url: str, interval_s: float, token: str | None) -> Load:
    """Count what Prometheus has now. A histogram is its buckets, a sum and a count there, and one stream here."""
    api = Api("Prometheus", url, token)
    try:
        prometheus = Prometheus(api)
        every = prometheus.count('{__name__!=""}')
        buckets = prometheus.count('{__name__=~".+_bucket",le!=""}')
        histograms = prometheus.count('{__name__=~".+_bucket",le="+Inf"}')
    finally:
        api.close()
    streams = max(0, every - buckets - histograms)  # the sum goes, the count stands for the whole
    series = max(0, every - buckets) + histograms * len(config.series.percentiles)  # rate, mean and percentiles
    return Load(f"in {url}", series, streams, histograms, streams / interval_s)


# -- measuring ----------------------------------------------------------------------------------------------------


def _measure(config: Config, base_bytes: int) -> Measured:
    """Build a small service of synthetic series, feed it, and see what that took."""
    requests = list(_requests(SAMPLE_BODIES + 2))
    prepare(lambda text: None)  # machine code is not memory of series
    table = dataclasses.replace(config.series, max_series=NO_LIMIT, ignore_names=())
    settings = dataclasses.replace(config.pipeline(), series=table)
    memo = Memo()
    pipeline = Pipeline(settings)
    fixed_bytes = _state_bytes(pipeline)  # the alert budget has tables that do not grow with series
    with _traced() as traced:
        watch = Watch(pipeline.engine.channels, pipeline.reason)
        emitter = Emitter(config.emit, pipeline.table, watch)
        for k, body in enumerate(requests[:2]):
            step = pipeline.metrics(decode_metrics(body, memo).points, now_ns=_time_ns(k))
            watch.follow(step)
            list(emitter.step(step))
            del step
        series_bytes = traced() / SAMPLE_SERIES
    spent_s = []
    for k, body in enumerate(requests[2:], 2):
        started_s = time.process_time()
        pipeline.metrics(decode_metrics(body, memo).points, now_ns=_time_ns(k))
        spent_s.append(time.process_time() - started_s)
    return Measured(
        base_bytes=base_bytes,
        series_bytes=series_bytes,
        state_bytes=(_state_bytes(pipeline) - fixed_bytes) / SAMPLE_SERIES,
        points_per_core_s=SAMPLE_SERIES / float(np.median(spent_s)),
        log_bytes=len(gzip.compress(requests[-1], 6)) / SAMPLE_SERIES,
        segment_bytes=_segment_bytes(pipeline),
    )


def _state_bytes(pipeline: Pipeline) -> int:
    return sum(array.nbytes for array in pipeline.state().values())


def _requests(count: int) -> Iterator[bytes]:
    """Bodies as a Collector sends them: many series of some services, a point of each."""
    rng = np.random.default_rng(1)
    series = [series_of(_labels(k)) for k in range(SAMPLE_SERIES)]
    index = np.arange(SAMPLE_SERIES)
    level = rng.lognormal(3, 2, SAMPLE_SERIES)
    for k in range(count):
        value = np.round(level * (1 + 0.1 * rng.normal(size=SAMPLE_SERIES)), 3)
        time_ns = np.full(SAMPLE_SERIES, _time_ns(k)) - rng.integers(0, 10**9, SAMPLE_SERIES)
        (request,) = encode_series(series, index, time_ns, value, max_points=SAMPLE_SERIES)
        yield request.body


def _labels(k: int) -> Labels:
    """A series with attributes as long as instrumentation makes them."""
    name = f"shop-{k % 16:02}"
    return Labels(
        name=f"http.server.active_requests.{k % 7}",
        unit="{request}",
        resource=(("k8s.pod.name", f"{name}-5d9c7b5f6-{k % 64:05}"), ("service.name", name)),
        scope_name="io.opentelemetry.http",
        attributes=(
            ("http.request.method", "GET" if k % 2 else "POST"),
            ("http.route", f"/api/v1/customers/{{id}}/orders/{k:06}"),
            ("server.address", f"{name}.shop.svc.cluster.local"),
        ),
    )


def _time_ns(k: int) -> int:
    return SAMPLE_START_NS + (k + 1) * 15_000_000_000


def _segment_bytes(pipeline: Pipeline) -> float:
    """Bytes of a scored value in a merged Parquet segment of an hour."""
    rows = pipeline.table.live()
    points = 240  # of a series in an hour, at 15 s
    some = rows[:512]
    rng = np.random.default_rng(2)
    size = len(some) * points
    columns = Columns(
        code=np.tile(np.arange(len(some), dtype=np.int32), points),
        time_ns=SAMPLE_START_NS
        + np.repeat(np.arange(points), len(some)) * 15_000_000_000
        + rng.integers(0, 10**9, size),
        value=np.round(rng.lognormal(3, 2, size), 3),
        score=rng.random(size).astype(np.float32),
        texts=[pipeline.table.labels(row).to_json() for row in some.tolist()],
        fingerprints=pipeline.table.fingerprint(some),
    )
    with tempfile.TemporaryDirectory(prefix="otel-aiops-") as directory:
        segments = Segments(Path(directory))
        segments.open(0)
        segments.write(1, 1, columns)
        segments.compact(SAMPLE_START_NS + 2 * HOUR_NS, through=1)
        return sum(part.bytes for part in segments.parts()) / size


@contextmanager
def _traced() -> Iterator[Callable[[], int]]:
    """How many bytes were allocated since the beginning and are still held."""
    running = tracemalloc.is_tracing()
    if not running:
        tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]

        def held() -> int:
            gc.collect()
            return tracemalloc.get_traced_memory()[0] - before

        yield held
    finally:
        if not running:
            tracemalloc.stop()


def _resident_bytes() -> int:
    """Memory of this process."""
    try:
        fields = Path("/proc/self/statm").read_text().split()
        return int(fields[1]) * resource.getpagesize()
    except OSError:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


# -- the plan -----------------------------------------------------------------------------------------------------


def _plan(config: Config, load: Load, measured: Measured) -> Plan:
    storage = config.storage
    series = load.series  # all of them, as if the limit were raised
    values_per_s = load.points_per_s * load.series / max(1, load.streams)
    memory = measured.base_bytes + series * measured.series_bytes
    peak = memory + series * measured.state_bytes + storage.queue_bytes + storage.snapshot_rows_bytes
    log_per_day = load.points_per_s * DAY_S * measured.log_bytes
    segments_per_day = values_per_s * DAY_S * measured.segment_bytes
    log_kept = min(log_per_day * storage.log_keep / DAY_S, storage.log_keep_bytes)
    segments_kept = min(segments_per_day * storage.segments_keep / DAY_S, storage.segments_keep_bytes)
    of_series = len(series_metrics(compat=config.emit.compat, expected=config.emit.expected))
    emitted = 0 if config.emit.series == "none" else min(series, config.emit.max_series)
    warming_reasons = 2
    return Plan(
        load=load,
        measured=measured,
        max_series=config.series.max_series,
        enough=load.series <= config.series.max_series,
        memory_bytes=round(memory),
        memory_peak_bytes=round(peak),
        cores=load.points_per_s / measured.points_per_core_s,
        log_bytes_per_day=round(log_per_day),
        segment_bytes_per_day=round(segments_per_day),
        disk_bytes=round(log_kept + segments_kept + KEPT * series * measured.state_bytes),
        output_series=emitted * of_series,
        output_series_per_service=(len(SERVICE_METRICS) - 1 + warming_reasons) if config.emit.services else 0,
    )


def _cores(cores: float) -> str:
    """Cores for people.

    >>> _cores(1.5), _cores(0.0003)
    ('1.50 cores', 'less than 0.01 cores')
    """
    return f"{cores:.2f} cores" if cores >= LEAST_CORES else f"less than {LEAST_CORES:g} cores"


def _size(size: float) -> str:
    """Bytes for people.

    >>> _size(1536 * 1024), _size(3 << 30), _size(900)
    ('1.5 MiB', '3.0 GiB', '0.0 MiB')
    """
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"
