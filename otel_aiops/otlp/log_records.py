"""LogRecords: the columns that a request of OTLP logs decodes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from otel_aiops.otlp.points import I32, I64

U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]

RECORD_BYTES = 100  # of a decoded record without its body; what a queue of them may weigh


@dataclass(frozen=True, slots=True)
class LogRecords:
    """N log records of one request, in the order of the request.

    Shape: all (N,). Times are in ns since the epoch: time_unix_nano, or where that is 0 observed_time_unix_nano.

    `resources` are raw Resource messages, `resource` says which one a record has. `severity` is the OTLP number, 0 for
    unset; where it is unset, severity_text decides if it is a known word. `bodies` are texts: of a string or bytes what
    they say, of a map or a JSON object its message if it has one, of any other value its text as `labels.text` has it;
    what is longer than the limit of the decoder is cut, and what is not UTF-8 has its bytes replaced. `event_name` is
    "" where there is none. Trace and span ids are 0 where there are none.
    """

    resources: tuple[bytes, ...]
    resource: I32
    time_ns: I64
    severity: U8
    bodies: list[str]
    event_name: list[str]
    trace_high: U64
    trace_low: U64
    span: U64

    def __len__(self) -> int:
        return len(self.time_ns)


@dataclass(frozen=True, slots=True)
class DecodedLogs:
    """What a body of logs held: the records, and how many were refused, and how many cut, for which reason."""

    records: LogRecords
    rejected: Mapping[str, int] = field(default_factory=dict)  # reason in plain words → records
    mended: Mapping[str, int] = field(default_factory=dict)  # what was cut, replaced or ours → how often
