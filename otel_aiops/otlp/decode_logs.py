"""OTLP logs to columns: protobuf slices a request into records, numpy finds their fields, bodies become texts."""

from __future__ import annotations

from collections import Counter

import numpy as np

from otel_aiops.otlp import flags
from otel_aiops.otlp.bodies import Bodies
from otel_aiops.otlp.columns import concatenated
from otel_aiops.otlp.envelope import count_lost, items
from otel_aiops.otlp.keyed import Keys, Regions, read_values
from otel_aiops.otlp.log_records import U8, DecodedLogs, LogRecords
from otel_aiops.otlp.points import I32, I64
from otel_aiops.otlp.reader import Reader
from otel_aiops.otlp.wire import BYTES, MOST_FIELDS
from otel_aiops.otlp.words import Words, note

CHUNK = 16_384  # records that are read at once
MOST_BYTES = 16_384  # of a body
MOST_SEVERITY = 24

INVALID = f"log record is not valid protobuf or has more than {MOST_FIELDS} fields"
NO_TIME = "neither time_unix_nano nor observed_time_unix_nano is set"
FAR_TIME = "a time is beyond the year 2262"
BAD_TRACE = "trace id is not 16 bytes: taken as none"
BAD_SPAN = "span id is not 8 bytes: taken as none"
BAD_SEVERITY = f"severity is not in 0 .. {MOST_SEVERITY}: its text decides"

_EVENT_NAME = "event.name"  # where events had their names before the field came
_KEYS = Keys(_EVENT_NAME)
_LEVELS = ("trace", "debug", "info", "warn", "error", "fatal")
_SEVERITIES = {
    **{f"{level}{k or ''}": 4 * i + 1 + max(k - 1, 0) for i, level in enumerate(_LEVELS) for k in (0, 1, 2, 3, 4)},
    **dict.fromkeys(("verbose", "finest", "finer"), 1),
    **dict.fromkeys(("fine", "config", "dbg", "d"), 5),
    **dict.fromkeys(("information", "informational", "i", "inf"), 9),
    "notice": 10,
    **dict.fromkeys(("warning", "w", "wrn"), 13),
    **dict.fromkeys(("err", "severe", "e"), 17),
    **dict.fromkeys(("critical", "crit", "alert", "emergency", "emerg", "panic", "f"), 21),
}


def decode_logs(body: bytes, most_bytes: int = MOST_BYTES) -> DecodedLogs:
    """Read an ExportLogsServiceRequest; only what makes a body a text is done for each record by itself.

    Records are in request order; bodies are cut at `most_bytes` bytes of UTF-8. A record that cannot be used is left
    out and counted under its reason; what can be mended is, and is counted too.

    Raises: BadInput if the body is not a logs request.
    """
    rejected: Counter[str] = Counter()
    mended: Counter[str] = Counter()
    found = items(body, "logs")
    count_lost(found, rejected, mended)
    resource = found.resource
    resources = tuple(found.resources)
    parts = [
        _read(found.raws[at : at + CHUNK], resources, resource[at : at + CHUNK], most_bytes, rejected, mended)
        for at in range(0, max(len(found.raws), 1), CHUNK)
    ]
    return DecodedLogs(_joined(parts, resources), dict(rejected), dict(mended))


def _joined(parts: list[LogRecords], resources: tuple[bytes, ...]) -> LogRecords:
    if len(parts) == 1:
        return parts[0]
    columns = {name: concatenated([getattr(part, name) for part in parts], np.int64) for name in _COLUMNS}
    return LogRecords(
        resources=resources,
        bodies=[text for part in parts for text in part.bodies],
        event_name=[text for part in parts for text in part.event_name],
        **columns,
    )


_COLUMNS = ("resource", "time_ns", "severity", "trace_high", "trace_low", "span")


def _read(
    raws: list[bytes],
    resources: tuple[bytes, ...],
    resource: I32,
    most_bytes: int,
    rejected: Counter[str],
    mended: Counter[str],
) -> LogRecords:
    """The columns of some records; those that are refused are left out."""
    reader = Reader(raws, INVALID, FAR_TIME)
    time_ns, observed_ns = reader.time(1), reader.time(11)
    time_ns = np.where(time_ns == 0, observed_ns, time_ns)
    reader.reject(time_ns == 0, NO_TIME)
    bodies = Bodies(reader, INVALID, most_bytes)
    event_at, event_size = _event_names(reader)
    keep = np.flatnonzero(reader.reason == 0)
    high, low, odd_trace = reader.identity(9, 16)
    _, span, odd_span = reader.identity(10, 8)
    for which, reason in ((odd_trace, BAD_TRACE), (odd_span, BAD_SPAN)):
        note(mended, reason, int(which[keep].sum()))
    reader.count_reasons(rejected)
    return LogRecords(
        resources=resources,
        resource=resource[keep],
        time_ns=time_ns[keep],
        severity=_severity(reader, keep, mended),
        bodies=bodies.texts(keep, mended),
        event_name=_event_texts(_texts(reader, event_at[keep], event_size[keep], mended), raws, keep),
        trace_high=high[keep],
        trace_low=low[keep],
        span=span[keep],
    )


def _severity(reader: Reader, keep: I64, mended: Counter[str]) -> U8:
    """The number, or where it is unset what a known word of severity_text says, (K,)."""
    number = reader.varint(2)[keep]
    absurd = number > MOST_SEVERITY
    note(mended, BAD_SEVERITY, int(absurd.sum()))
    number[absurd] = 0
    at, size = reader.region(3)
    at, size = at[keep], size[keep]
    unset = np.flatnonzero((number == 0) & (size > 0) & (size <= 16))
    if len(unset):
        texts = Regions(reader.data)
        code = texts.numbers(at[unset], size[unset])
        known = [_SEVERITIES.get(raw.decode(errors="replace").strip().lower(), 0) for raw in texts.all()]
        number[unset] = np.array(known, np.uint64)[code]
    return number.astype(np.uint8)


def _event_texts(names: list[str], raws: list[bytes], keep: I64) -> list[str]:
    """The names of events; those that evaluate a feature flag say which, in place."""
    wanted = {name.decode() for name in flags.NAMES}
    if not wanted.isdisjoint(names):
        evaluated = [k for k, name in enumerate(names) if name in wanted]
        for k in evaluated[: flags.MOST]:
            names[k] = flags.of_record(raws[int(keep[k])]) or names[k]
    return names


def _event_names(reader: Reader) -> tuple[I64, I64]:
    """(where it begins, bytes) of the name of each event, (N,): of its field, else of its attribute."""
    at, size = reader.region(12)
    if reader.data.find(_EVENT_NAME.encode()) < 0:
        return at, size
    values, broken = read_values(reader.buffer, reader.field(6, BYTES), _KEYS, reader.n)
    reader.reject(broken, INVALID)
    other_at, other_size = values.places(_EVENT_NAME)
    return np.where(size > 0, at, other_at), np.where(size > 0, size, other_size)


def _texts(reader: Reader, at: I64, size: I64, mended: Counter[str]) -> list[str]:
    """The names at some places, "" where there is none."""
    if not size.any():
        return [""] * len(at)
    words = Words(mended)
    code = words.regions(reader.buffer, Regions(reader.data), at, size)
    texts = [*words.all(), ""]  # the last is for -1
    return [texts[one] for one in code.tolist()]
