"""Many small protobuf messages of one kind under the walk: their fields as columns, and the verdicts on them."""

from __future__ import annotations

from collections import Counter

import numpy as np

from otel_aiops.otlp.points import F64, I64, Bool
from otel_aiops.otlp.wire import BYTES, FIXED64, NO_FIELD, PADDING, U64, VARINT, Buffer, Field, walk

LARGEST_TIME = np.uint64(2**63 - 1)


class Reader:
    """N messages side by side, their fields, and why each cannot be used: the first thing that was found wrong."""

    def __init__(
        self, messages: list[bytes], invalid: str, far_time: str, data: type[bytes] | type[bytearray] = bytes
    ) -> None:
        """`invalid` and `far_time` are the reasons for messages that cannot be read, and for times after 2262.

        `data` is bytearray for those who write into the bytes afterwards.
        """
        self.data: bytes | bytearray = data().join([*messages, bytes(PADDING)])
        self.buffer = Buffer(self.data)
        self.end = np.cumsum(np.fromiter(map(len, messages), np.int64, len(messages)))
        self.start = np.concatenate([[0], self.end[:-1]]).astype(np.int64)
        self.n = len(messages)
        self.reason = np.zeros(self.n, np.int8)  # index into `_reasons`, 0 for none
        self._reasons = [""]
        self._far_time = far_time
        self.fields, broken = walk(self.buffer, self.start, self.end)
        self.reject(broken, invalid)

    def reject(self, which: Bool, reason: str) -> None:
        """Refuse some of the messages, (N,) bool, unless they are refused already."""
        if not which.any():
            return
        if reason not in self._reasons:
            self._reasons.append(reason)
        self.reason[which & (self.reason == 0)] = self._reasons.index(reason)

    def count_reasons(self, rejected: Counter[str]) -> None:
        """Add how many messages are refused for which reason."""
        for code, times in enumerate(np.bincount(self.reason).tolist()):
            if code and times:
                rejected[self._reasons[code]] += times

    def field(self, number: int, wire_type: int) -> Field:
        """All occurrences of a field."""
        return self.fields.get((number, wire_type), NO_FIELD)

    def fixed(self, number: int) -> F64:
        """A double field, NaN where it is absent; the last occurrence wins, as in all below."""
        found = self.field(number, FIXED64)
        out = np.full(self.n, np.nan)
        out[found.message] = self.buffer.f64(found.at)
        return out

    def whole(self, number: int) -> U64:
        """A fixed64 field, 0 where it is absent."""
        found = self.field(number, FIXED64)
        out = np.zeros(self.n, np.uint64)
        out[found.message] = self.buffer.u64(found.at)
        return out

    def varint(self, number: int) -> U64:
        """A varint field, 0 where it is absent."""
        found = self.field(number, VARINT)
        out = np.zeros(self.n, np.uint64)
        out[found.message] = self.buffer.varint(found.at)[0]
        return out

    def time(self, number: int) -> I64:
        """A time in ns, 0 where it is absent; messages with one after 2262 are refused."""
        raw = self.whole(number)
        self.reject(raw > LARGEST_TIME, self._far_time)
        found: I64 = np.minimum(raw, LARGEST_TIME).astype(np.int64)
        return found

    def region(self, number: int) -> tuple[I64, I64]:
        """(where it begins, bytes) of a text or bytes field; no bytes where it is absent."""
        return last_region(self.field(number, BYTES), self.n)

    def identity(self, number: int, width: int) -> tuple[U64, U64, Bool]:
        """An id of 16 or 8 bytes: (first half or 0, second half, whether it has another length and is not empty)."""
        at, size = self.region(number)
        right = size == width
        low = np.where(right, self.buffer.u64(at + width - 8).byteswap(), np.uint64(0))
        high = np.where(right, self.buffer.u64(at).byteswap(), np.uint64(0)) if width > 8 else np.zeros_like(low)
        return high, low, ~right & (size > 0)


def last_region(found: Field, n: int) -> tuple[I64, I64]:
    """(where it begins, bytes) of the last occurrence of a length-delimited field in each of N messages."""
    at, size = np.zeros(n, np.int64), np.zeros(n, np.int64)
    at[found.message] = found.at
    size[found.message] = found.size
    return at, size
