"""Own log lines: logfmt or JSON on stderr, with equal messages written once in a while, for ours and for libraries'."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from otel_aiops.server.telemetry import LogsConfig

# The specification names these; what else a variable holds counts as info, as for the SDKs.
_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}
_MOST_MESSAGES = 1024  # whose last time is remembered
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


class Repeats:
    """Lets an equal message of one part through once in `interval_s`, and counts what it holds back."""

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._lock = Lock()
        self._seen: dict[tuple[str | None, ...], tuple[float, int]] = {}

    def held_back(self, key: tuple[str | None, ...]) -> int | None:
        """How many equal ones were held back before this one, or None when this one is to be held back too."""
        now = self._clock()
        with self._lock:
            last, held = self._seen.get(key, (-float("inf"), 0))
            if now - last < self._interval_s:
                self._seen[key] = (last, held + 1)
                return None
            self._seen.pop(key, None)
            if len(self._seen) >= _MOST_MESSAGES:
                self._seen.pop(next(iter(self._seen)))
            self._seen[key] = (now, 0)
            return held

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """As a processor of structlog."""
        held = self.held_back((event.get("logger"), method, str(event.get("event"))))
        if held is None:
            raise structlog.DropEvent
        return {**event, "repeated": held} if held else event

    def filter(self, record: logging.LogRecord) -> bool:
        """As a filter of the standard library; equal is what has the same text before its arguments are filled in."""
        held = self.held_back((record.name, record.levelname.lower(), str(record.msg)))  # it may be any object
        if held:
            record.msg = f"{record.msg} ({held} equal messages were held back)"
        return held is not None


def configure_logging(
    config: LogsConfig,
    *,
    environ: Mapping[str, str] = os.environ,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Set up structlog and the standard library's logging for this process; again replaces what was set up before."""
    stream = stream or sys.stderr
    level = _LEVELS.get((config.level or environ.get("OTEL_LOG_LEVEL") or "info").strip().lower(), logging.INFO)
    repeats = Repeats(config.repeat_interval, clock)
    shared: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    last = _rendering(config.encoding)
    structlog.configure(
        processors=[structlog.stdlib.add_logger_name, structlog.processors.add_log_level, repeats, *shared[1:], *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Lines(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.addFilter(repeats)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level if level == logging.DEBUG else max(level, logging.WARNING))  # libraries: no chatter


class _Lines:
    """Makes loggers that write to one stream and know the name that `structlog.get_logger` was given."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, name: str = "otel_aiops") -> _Line:
        return _Line(self._stream, name)


class _Line(structlog.PrintLogger):
    def __init__(self, stream: TextIO, name: str) -> None:
        super().__init__(stream)
        self.name = name


def _rendering(encoding: str) -> list[Processor]:
    rename = structlog.processors.EventRenamer("message")
    if encoding == "json":
        return [structlog.processors.format_exc_info, rename, structlog.processors.JSONRenderer(default=str)]
    order = ["time", "level", "logger", "message"]
    logfmt = structlog.processors.LogfmtRenderer(key_order=order, drop_missing=True)
    return [structlog.processors.format_exc_info, rename, _printable, logfmt]


def _printable(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Keep names that senders chose from writing control characters to a terminal."""
    return {key: value if isinstance(value, int | float) else _text(value) for key, value in event.items()}


def _text(value: Any) -> str | None:
    return None if value is None else str(value).translate(_CONTROL)
