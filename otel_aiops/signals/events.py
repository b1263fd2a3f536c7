"""LogEvents: log records after their templates were found, as columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from otel_aiops.otlp.points import I32, I64, Bool

U8 = NDArray[np.uint8]
U64 = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class LogEvents:
    """N log records, all (N,).

    `service` and `resource` are numbers of `Names`; `template` is the number of the template, 0 for those over the
    limit; `new` marks the first record of a template. Span and trace ids are 0 where there are none.
    """

    service: I32
    resource: I32
    template: I32
    severity: U8
    new: Bool
    time_ns: I64
    trace_high: U64
    trace_low: U64
    span: U64

    def __len__(self) -> int:
        return len(self.service)
