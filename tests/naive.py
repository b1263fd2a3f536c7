"""Slow, obvious twins of the fast kernels: what the fast ones are tested against."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import zstandard

from otel_aiops.errors import BadInput, TooLarge


def inflate(payload: bytes, compression: str, limit: int) -> bytes:
    """All of it through the standard library, whatever its size, and only then a look at the size."""
    try:
        if compression == "gzip":
            plain = _members(payload, lambda: zlib.decompressobj(wbits=31))
        elif compression == "zstd":
            plain = _members(payload, lambda: zstandard.ZstdDecompressor().decompressobj())
        else:
            decoder = zlib.decompressobj()
            plain = decoder.decompress(payload)
            if not decoder.eof or decoder.unused_data:
                raise BadInput("not one zlib stream")
    except (zlib.error, zstandard.ZstdError) as error:
        raise BadInput(str(error)) from error
    if max(len(plain), len(payload)) > limit:
        raise TooLarge(f"more than {limit} bytes")
    return plain


def _members(payload: bytes, new_decoder: Callable[[], Any]) -> bytes:
    plain = b""
    while True:
        decoder = new_decoder()
        plain += decoder.decompress(payload)
        if not decoder.eof:
            raise BadInput("cut short")
        payload = decoder.unused_data
        if not payload:
            return plain


def levels(values: list[float], *, memory: int, threshold: float, flagged: list[bool]) -> tuple[float, float]:
    """(level, mean absolute error) of one series after all values; flagged ones are not learned."""
    level, error, points = values[0], 0.0, 0
    for value, skip in zip(values, flagged, strict=True):
        scale = max(1.2533 * error, 1e-3 / threshold * abs(level))
        if skip:
            continue
        points += 1
        weight = max(1 / points, 1 / memory)
        limit = float("inf") if points <= 10 else 3 * max(1.2533 * error, 0.1 * scale)
        off = value - level
        level += weight * max(-limit, min(limit, off))
        error += weight * (min(abs(off), limit) - error)
    return level, error
