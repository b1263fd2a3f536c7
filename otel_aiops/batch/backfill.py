"""Backfill: the past of series that a running service knows, read from Prometheus and taught to it."""

from __future__ import annotations

import base64
import binascii
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from otel_aiops.batch.client import Api
from otel_aiops.batch.outbox import Outbox
from otel_aiops.batch.past import encode
from otel_aiops.batch.progress import Progress, Show
from otel_aiops.batch.prometheus import Key, Prometheus, Samples, Window, chunks, key_of
from otel_aiops.errors import AiopsError, BadInput, Overloaded, Unauthorized
from otel_aiops.otlp.points import Kind, Stream, Temporality

PAGE = 1_000  # series of one answer of the service
MOST_POINTS = 3_000  # of a series, without a step: enough for a profile of two weeks and the scale of now
RECENT_POINTS = 1_000  # of these, the newest ones without a gap
LEAST_BURST = 4  # points that are read of each hour before
HOUR_S = 3_600.0
DEFAULT_INTERVAL_S = 60.0  # of a metric that did not come lately
GROUP_SERIES = 400  # of Prometheus that are asked for at once
HISTOGRAM_SERIES = 20  # that a histogram is reckoned as
SHOWN = 10  # names and errors that are listed

SUFFIXES = {Kind.HISTOGRAM: "_count", Kind.SUMMARY: "_count"}  # of the series by which a distribution is found


@dataclass(frozen=True, slots=True)
class Source:
    """A stream that the service knows, and what Prometheus calls it."""

    name: str
    labels: Key
    stream: Stream
    attributes: bytes


@dataclass(frozen=True, slots=True)
class Learned:
    """What a backfill did. Streams are counted: a histogram is one, whatever number of series is made of it."""

    known: int
    learned: int
    points: int
    missing: tuple[str, ...]  # metrics whose streams are not in Prometheus, one entry a stream
    unsupported: tuple[str, ...]  # exponential histograms: what Prometheus has of them cannot be laid out again
    cut: int  # streams of which only the newest points fit into a request
    errors: tuple[str, ...]

    def text(self) -> str:
        """For people."""
        lines = [f"learned    {self.learned} of {self.known} series, {self.points} points"]
        for word, names in (("not found", self.missing), ("no way yet", self.unsupported)):
            if names:
                shown = sorted(set(names))
                more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
                lines.append(f"{word:10} {len(names)}: {', '.join(shown[:SHOWN])}{more}")
        if self.cut:
            lines.append(f"cut        {self.cut}, only the newest points; a larger --step reaches farther back")
        lines += [f"error      {error}" for error in self.errors[:SHOWN]]
        if len(self.errors) > SHOWN:
            lines.append(f"and {len(self.errors) - SHOWN} errors more")
        return "\n".join(lines)


@dataclass(slots=True)
class _Sums:
    """What happened so far."""

    handled: int = 0
    missing: list[str] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backfill:
    """Teach a running service the past of the series that it knows.

    Without a step the newest points are read as they are, and of each hour before some points in a row: that is what
    level, scale and weekly profile need, at the interval at which live points will come. With a step all of the window
    is read at that resolution.
    """

    prometheus: str
    server: str
    window_s: float
    step_s: float | None = None
    prometheus_token: str | None = None
    server_token: str | None = None
    clock: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep

    def run(self, *, progress: Show | None = None) -> Learned:
        """Read, encode and send. What fails for one metric is an error in the result; the others go on.

        Raises: BadInput for wrong settings, Overloaded when one of the two servers cannot be reached before anything
        was learned, Unauthorized when a token is refused.
        """
        if not self.window_s > 0 or (self.step_s is not None and not self.step_s > 0):
            raise BadInput(f"expected a window and a step above 0 s, got {self.window_s} and {self.step_s}")
        server = Api("otel-aiops", self.server, self.server_token, sleep=self.sleep)
        api = Api("Prometheus", self.prometheus, self.prometheus_token, sleep=self.sleep)
        try:
            return _Run(self, server, Prometheus(api), Progress(progress)).all()
        finally:
            server.close()
            api.close()


class _Run:
    """One backfill."""

    def __init__(self, job: Backfill, server: Api, prometheus: Prometheus, progress: Progress) -> None:
        self._server = server
        self._outbox = Outbox(server)
        self._prometheus = prometheus
        self._progress = progress
        self._step_s = job.step_s
        self._end_s = job.clock()
        self._start_s = self._end_s - job.window_s
        self._sums = _Sums()

    def all(self) -> Learned:
        sources = list(self._sources())
        self._read(sources)
        outbox, sums = self._outbox, self._sums
        try:
            outbox.flush()
        except Overloaded as error:
            if not outbox.learned:
                raise
            sums.errors.append(f"the last series were not sent: {error}")
        return Learned(
            known=len(sources),
            learned=outbox.learned,
            points=outbox.points,
            missing=tuple(sums.missing),
            unsupported=tuple(sums.unsupported),
            cut=outbox.cut,
            errors=(*sums.errors, *outbox.errors),
        )

    def _read(self, sources: Sequence[Source]) -> None:
        """One metric after the other; one that fails does not stop the others, a server that is gone does."""
        by_name: dict[tuple[str, Kind], list[Source]] = {}
        for source in sources:
            by_name.setdefault((source.name, source.stream.kind), []).append(source)
        for (name, kind), wanted in sorted(by_name.items()):
            try:
                self._metric(name, kind, wanted, len(sources))
            except Unauthorized:
                raise
            except Overloaded as error:
                if not self._outbox.touched:
                    raise
                self._sums.errors.append(f"{name}: {error}; what comes after it was not read")
                return
            except AiopsError as error:
                self._sums.errors.append(f"{name}: {error}")

    def _sources(self) -> Iterator[Source]:
        """All streams of the service, a page at a time."""
        offset: int | None = 0
        while offset is not None:
            page = self._server.get("/api/v1/series", {"format": "source", "offset": str(offset), "limit": str(PAGE)})
            try:
                yield from map(_source, page["series"])
                offset = page["next"]
            except (KeyError, TypeError, ValueError, binascii.Error) as error:
                raise BadInput(f"otel-aiops: expected a page of series with their sources, got {error!r}") from error

    def _metric(self, name: str, kind: Kind, wanted: Sequence[Source], total: int) -> None:
        """All streams of one metric."""
        sums = self._sums
        if kind == Kind.EXPONENTIAL_HISTOGRAM:
            sums.unsupported += [name] * len(wanted)
            sums.handled += len(wanted)
            return
        found = match(wanted, self._prometheus.series(name + SUFFIXES.get(kind, ""), self._start_s, self._end_s))
        sums.missing += [name] * (len(wanted) - len(found))
        sums.handled += len(wanted) - len(found)
        for interval_s, group in self._groups(name, kind, found):
            self._progress(sums.handled, total, lambda: f"{name}: {self._outbox.learned} series learned")
            self._group(name, kind, group, interval_s)
            sums.handled += len(group)
        self._progress(sums.handled, total, lambda: f"{name}: {self._outbox.learned} series learned")

    def _groups(self, name: str, kind: Kind, found: dict[Key, Source]) -> Iterator[tuple[float, dict[Key, Source]]]:
        """Series that come equally often, as many as are read at once; labels that are alike stay together."""
        most = GROUP_SERIES if kind <= Kind.SUM else GROUP_SERIES // HISTOGRAM_SERIES
        intervals_s: dict[Key, float] = {}
        if self._step_s is None and found:
            intervals_s = self._prometheus.intervals_s(name + SUFFIXES.get(kind, ""), self._end_s)
        usual_s = sorted(intervals_s.values())[len(intervals_s) // 2] if intervals_s else DEFAULT_INTERVAL_S
        alike: dict[int, list[Key]] = {}
        for key in sorted(found, key=sorted):
            # Steps of 1.4 times; the usual intervals (5, 10, 15, 30, 60, 300 s) lie well inside of them.
            alike.setdefault(round(math.log(intervals_s.get(key, usual_s)) * 3), []).append(key)
        for _, keys in sorted(alike.items()):
            for first in range(0, len(keys), most):
                group = keys[first : first + most]
                yield min(intervals_s.get(key, usual_s) for key in group), {key: found[key] for key in group}

    def _group(self, name: str, kind: Kind, group: dict[Key, Source], interval_s: float) -> None:
        """Read the past of some series and send it, each series whole in one request."""
        keys = list(group)
        width = 1 if kind <= Kind.SUM else HISTOGRAM_SERIES
        windows = list(self._windows(interval_s, width * len(keys)))

        def read(suffix: str = "", *spread: str) -> dict[Key, Samples]:
            return self._prometheus.samples(name + suffix, keys, windows, *spread)

        if kind <= Kind.SUM:
            past = (encode(group[key].stream, group[key].attributes, one) for key, one in read().items())
        else:
            label = "le" if kind == Kind.HISTOGRAM else "quantile"
            total = read("_sum")
            cells = _by_series(read("_bucket" if kind == Kind.HISTOGRAM else "", label), label)
            past = (
                encode(group[key].stream, group[key].attributes, one, total.get(key), cells.get(key))
                for key, one in read("_count").items()
            )
        taught = 0
        for request in past:
            if request.points:
                self._outbox.add(name, request)
                taught += 1
        self._sums.missing += [name] * (len(group) - taught)

    def _windows(self, interval_s: float, series: int) -> Iterator[Window]:
        """What to read, in order."""
        for window in windows(self._start_s, self._end_s, interval_s, self._step_s):
            yield from chunks(window, interval_s, series)


def match(wanted: Sequence[Source], found: Sequence[dict[str, str]]) -> dict[Key, Source]:
    """Which series of Prometheus each stream is: the one that has its labels and the fewest others.

    What stands between may add labels (a replica, a cluster), so equal labels cannot be asked for. A series goes to the
    stream that says most of it.
    """
    by_labels: dict[Key, Source] = {source.labels: source for source in wanted}
    shapes = sorted({frozenset(k for k, _ in key) for key in by_labels}, key=lambda shape: (-len(shape), sorted(shape)))
    best: dict[Key, tuple[int, list[tuple[str, str]]]] = {}  # labels of a stream → (labels too many, series)
    for labels in found:
        key = key_of(labels)
        for shape in shapes:
            part = frozenset(pair for pair in key if pair[0] in shape)
            if len(part) == len(shape) and part in by_labels:
                rank = (len(key) - len(part), sorted(key))
                best[part] = min(best.get(part, rank), rank)
                break
    return {frozenset(series): by_labels[part] for part, (_, series) in best.items()}


def windows(start_s: float, end_s: float, interval_s: float, step_s: float | None) -> Iterator[Window]:
    """What to read of series that come every `interval_s`; without a step no more than about MOST_POINTS in all."""
    if step_s is not None:
        yield Window(start_s, end_s, step_s)
        return
    recent_s = end_s - RECENT_POINTS * interval_s
    hours = (recent_s - start_s) / HOUR_S
    burst = max(LEAST_BURST, math.floor((MOST_POINTS - RECENT_POINTS) / hours)) if hours > 0 else 0
    length_s = burst * interval_s
    if hours <= 0 or length_s >= HOUR_S:
        yield Window(start_s, end_s)
        return
    # The middle of each hour: hours are what the weekly profile knows.
    middle_s = math.floor(start_s / HOUR_S) * HOUR_S + HOUR_S / 2
    while middle_s + length_s / 2 < recent_s:
        if middle_s - length_s / 2 >= start_s:
            yield Window(middle_s - length_s / 2, middle_s + length_s / 2)
        middle_s += HOUR_S
    yield Window(recent_s, end_s)


def _source(tree: dict[str, Any]) -> Source:
    """A stream in the words of the service's API."""
    stream = Stream(
        resource=base64.b64decode(tree["resource"], validate=True),
        scope=base64.b64decode(tree["scope"], validate=True),
        name=tree["name"],
        unit=tree["unit"],
        kind=Kind(tree["kind"]),
        temporality=Temporality(tree["temporality"]),
        monotonic=bool(tree["monotonic"]),
    )
    prometheus = tree["prometheus"]
    attributes = base64.b64decode(tree["attributes"], validate=True)
    return Source(prometheus["name"], key_of(prometheus["labels"]), stream, attributes)


def _by_series(samples: dict[Key, Samples], label: str) -> dict[Key, dict[float, Samples]]:
    """Buckets or quantiles by their series and then by their bound or quantile, ascending."""
    found: dict[Key, dict[float, Samples]] = {}
    for key, one in samples.items():
        labels = dict(key)
        try:
            at = float(labels.pop(label, ""))
        except ValueError:
            continue  # what has no number there is another series of that name
        found.setdefault(frozenset(labels.items()), {})[at] = one
    return {key: dict(sorted(cells.items())) for key, cells in found.items()}
