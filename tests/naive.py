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
