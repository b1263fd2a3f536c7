"""Logs: log records to templates, and what each window of event time says: counts, new and lost templates, surges."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from otel_aiops.errors import ConfigError
from otel_aiops.otlp.encode import encode_attributes, encode_resource, encode_scope
from otel_aiops.otlp.log_records import LogRecords
from otel_aiops.otlp.points import I32, I64, Bool, Kind, Points, Stream, Temporality
from otel_aiops.otlp.semconv import SERVICE
from otel_aiops.series.columns import Arrays, Columns, checked
from otel_aiops.signals.events import U8, LogEvents
from otel_aiops.signals.log_news import LogNews, NewsConfig, Usual
from otel_aiops.signals.names import Names
from otel_aiops.signals.open_windows import OpenWindows
from otel_aiops.signals.templates import CLASS_NAMES, CLASSES, OTHER, Templates, TemplatesConfig

SCOPE = "otel_aiops.logs"
COUNT_METRIC = "log.record.count"  # as the Collector's count connector has it
SEVERITY = "severity"

LATE = "log records that came late: counted in a later window"
AHEAD = "log records ahead of time: counted in an earlier window"
OVER_RATE = "log records over the rate: counted by severity only"
OVER_TEMPLATES = "log records over the limit of templates: counted by severity only"

_OPEN = 4  # windows that may be open; see LogsConfig for records of others

# By service: which classes of severity it has had.
_HAS: dict[str, tuple[Any, tuple[int, ...], Any]] = {"has": (np.bool_, (CLASSES,), False)}


@dataclass(frozen=True, slots=True)
class LogsConfig:
    """Bounds of log records and templates, and what counts as news.

    Above `rate` records a second of one service and class of severity, over a window, the others are counted by
    severity and not mined (template 0): the first of a window are mined, and errors do not compete with other records.
    A record whose window is over is counted in the oldest that is not; one that is more than two windows ahead of the
    event time is counted two windows ahead. Of a body only the first `body` characters are looked at, and of its
    message the first line and `masking.LONGEST` characters.
    """

    window: float = 10.0  # s over which records are counted
    grace: float = 5.0  # how long after its end a window waits for records
    rate: float = 2_000.0  # records a second of one service and class that are mined
    body: int = 4_096  # characters of a body that are looked at
    news: NewsConfig = field(default_factory=NewsConfig)
    templates: TemplatesConfig = field(default_factory=TemplatesConfig)

    def __post_init__(self) -> None:
        for name in ("window", "rate", "body"):
            if not getattr(self, name) > 0:
                raise ConfigError(name, f"must be > 0, got {getattr(self, name)}")
        if not 0 <= self.grace <= self.window:
            raise ConfigError("grace", f"must be between 0 and window {self.window}, got {self.grace}")


@dataclass(frozen=True, slots=True)
class LogWindow:
    """What was logged between two times; rows are sorted by service, then by class or template.

    Shape: `service`, `severity` (a class) and `count` (K,): one for each class that a service has ever had, of services
    that logged anything in the window; `template` and `template_count` (T,): templates that were seen, 0 is not among
    them. News are sorted by template.
    """

    start_ns: int
    end_ns: int
    service: I32
    severity: U8
    count: I64
    template: I32
    template_service: I32
    template_count: I64
    news: tuple[LogNews, ...]


def severity_class(severity: U8) -> U8:
    """OTLP severity numbers to classes 0..6, see CLASS_NAMES; what is no severity is unset."""
    return np.where(severity > 24, 0, (severity.astype(np.int64) + 3) // 4).astype(np.uint8)


class Logs:
    """Log records in their order to templates and windows. One writer; a function of the calls.

    `counts` says how many records were not treated like the others, and why.
    """

    def __init__(self, config: LogsConfig) -> None:
        self._config = config
        self._window_ns = round(config.window * 1e9)
        self._grace_ns = round(config.grace * 1e9)
        self._most_mined = max(1, round(config.rate * config.window))
        self.templates = Templates(config.templates)
        self.counts: Counter[str] = Counter()
        self._clear()

    def _clear(self) -> None:
        self._closed = -1  # number of the newest window that is closed
        self._open = OpenWindows()
        self._usual = Usual(self._config.news)
        self._has = Columns(_HAS)

    def add(self, records: LogRecords, services: I32, resources: I32, event_ns: int) -> LogEvents:
        """The events that N records are; services and resources are numbers of `Names`, (N,)."""
        window = self._windows(records.time_ns, event_ns)
        classes = severity_class(records.severity).astype(np.int64)
        key = services * np.int64(CLASSES) + classes
        before = len(self.templates)
        template = self._mined(records, services, classes, self._within_rate(window, key))
        self._open.add(window, key, template)
        self._note(services, classes)
        return LogEvents(
            service=services,
            resource=resources,
            template=template,
            severity=records.severity,
            new=_first(template, before),
            time_ns=records.time_ns,
            trace_high=records.trace_high,
            trace_low=records.trace_low,
            span=records.span,
        )

    def close(self, event_ns: int) -> tuple[LogWindow, ...]:
        """The windows that have ended at this event time, oldest first; windows without records are left out."""
        last = (event_ns - self._grace_ns) // self._window_ns - 1
        if last <= self._closed:
            return ()
        self._closed = last
        return tuple(self._window(number) for number in self._open.until(last))

    # -- state ------------------------------------------------------------------------------------------------------

    def state(self) -> Arrays:
        """Templates, open windows and what is usual, as arrays."""
        parts = {
            "mined": self.templates.state(),
            "open": self._open.state(),
            "usual": self._usual.state(len(self.templates)),
        }
        own = {"closed": np.array([self._closed], np.int64)} | self._has.state(self._has.rows)
        return own | {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}

    def restore(self, arrays: Arrays) -> None:
        """Take over a state. Raises: StateError."""
        own = {name: array for name, array in arrays.items() if "." not in name}
        checked(own, {"closed": (np.int64, (1,)), "has": (np.bool_, ("S", CLASSES))})
        self._clear()
        self.templates.restore(_part(arrays, "mined"))
        self._open.restore(_part(arrays, "open"), keys=CLASSES * len(own["has"]), templates=len(self.templates))
        self._usual.restore(_part(arrays, "usual"), len(self.templates))
        self._closed = int(own["closed"][0])
        self._has.restore({"has": own["has"]}, len(own["has"]))

    # -- records ----------------------------------------------------------------------------------------------------

    def _windows(self, time_ns: I64, event_ns: int) -> I64:
        """The number of the window that each record is counted in, (N,)."""
        window = time_ns // self._window_ns
        oldest = max(int(self._closed) + 1, (event_ns - self._grace_ns) // self._window_ns)
        newest = max(oldest, event_ns // self._window_ns + _OPEN - 2)
        self._count(LATE, int((window < oldest).sum()))
        self._count(AHEAD, int((window > newest).sum()))
        return np.clip(window, oldest, newest)

    def _within_rate(self, window: I64, key: I64) -> Bool:
        """Which records are among the first of their window, service and class, (N,)."""
        code = window * (np.int64(CLASSES) << 32) + key
        order = np.argsort(code, kind="stable")
        start = np.flatnonzero(np.r_[True, np.diff(code[order]) != 0][: len(code)])
        rank = np.arange(len(code)) - np.repeat(start, np.diff(np.r_[start, len(code)]))
        within = np.empty(len(code), np.bool_)
        already = self._open.so_far(window[order][start], key[order][start])
        within[order] = rank + np.repeat(already, np.diff(np.r_[start, len(code)])) < self._most_mined
        return within

    def _mined(self, records: LogRecords, services: I32, classes: I64, within: Bool) -> I32:
        """Templates of N records, (N,)."""
        most, bodies, names = self._config.body, records.bodies, records.event_name
        index = np.flatnonzero(within).tolist()
        refused = self.templates.refused
        template = np.full(len(services), OTHER, np.int32)
        template[within] = self.templates.find(
            services[within], classes[within], [bodies[k][:most] for k in index], [names[k] for k in index]
        )
        self._count(OVER_RATE, len(services) - len(index))
        self._count(OVER_TEMPLATES, self.templates.refused - refused)
        return template

    def _count(self, reason: str, number: int) -> None:
        if number:
            self.counts[reason] += number

    def _note(self, services: I32, classes: I64) -> None:
        if len(services):
            self._has.reserve(int(services.max()) + 1)
            self._has.of["has"][services, classes] = True

    # -- windows ----------------------------------------------------------------------------------------------------

    def _window(self, number: int) -> LogWindow:
        """What a window says, which is then forgotten."""
        key, count, template, template_count = self._open.take(number)
        here = np.unique(key // CLASSES)
        place, severity = np.nonzero(self._has.of["has"][here])
        counts = np.zeros(len(place), np.int64)
        counts[np.searchsorted(here[place] * CLASSES + severity, key)] = count
        owner, classes = self.templates.owners()
        news = self._usual.step(here, template, template_count, owner)
        return LogWindow(
            start_ns=number * self._window_ns,
            end_ns=(number + 1) * self._window_ns,
            service=here[place].astype(np.int32),
            severity=severity.astype(np.uint8),
            count=counts,
            template=template.astype(np.int32),
            template_service=owner[template],
            template_count=template_count,
            news=tuple(
                LogNews(int(owner[k]), k, kind, self.templates.text(k), times, int(classes[k]), usual)
                for k, kind, times, usual in news
            ),
        )


def points(window: LogWindow, names: Names) -> Points:
    """The counts of a window as points of `log.record.count`, one for each service and class, at the end of the window.

    They are gauges, records in a window: windows are equally long and no other sender shares these series, so there is
    nothing that a rate would have to mend, and the first value counts. A class that a service has had before is 0 when
    the service logged others only; a service that logged nothing has no points, so that its silence is seen as such.
    """
    services, stream = np.unique(window.service, return_inverse=True)
    scope = encode_scope(SCOPE)
    attributes = [encode_attributes(((SEVERITY, name),)) for name in CLASS_NAMES]
    count = len(window.service)
    resources = [encode_resource(((SERVICE, names[k]),)) for k in services.tolist()]
    return Points(
        streams=tuple(
            Stream(resource, scope, COUNT_METRIC, "{record}", Kind.GAUGE, Temporality.UNSPECIFIED, False)
            for resource in resources
        ),
        stream=stream.astype(np.int32),
        attributes=[attributes[k] for k in window.severity.tolist()],
        start_ns=np.full(count, window.start_ns, np.int64),
        time_ns=np.full(count, window.end_ns, np.int64),
        value=window.count.astype(np.float64),
        count=np.full(count, np.nan),
        stale=np.zeros(count, np.bool_),
        layouts=(),
        layout=np.full(count, -1, np.int32),
        cells=np.empty(0, np.float64),
        cell_offset=np.zeros(count + 1, np.int64),
    )


def _first(template: I32, before: int) -> Bool:
    """Which of N records is the first of a template that there was none of before, (N,)."""
    distinct, index = np.unique(template, return_index=True)
    first = np.zeros(len(template), np.bool_)
    first[index[distinct >= before]] = True
    return first


def _part(arrays: Arrays, name: str) -> Arrays:
    """The arrays of one part of a state, without its name in front."""
    return {key.removeprefix(f"{name}."): array for key, array in arrays.items() if key.startswith(f"{name}.")}
