"""Compression: bodies as senders compress them back to plain bytes, never more of them than allowed."""

from __future__ import annotations

import zlib
from typing import Any, Final

import deflate
import numpy as np
import zstandard

from otel_aiops.errors import BadInput, TooLarge

IDENTITY: Final = "identity"
GZIP: Final = "gzip"
DEFLATE: Final = "deflate"
ZSTD: Final = "zstd"

# Content-Encoding, and the Collector's names for it, to the word we use.
ENCODINGS: Final = {
    "": IDENTITY,
    "identity": IDENTITY,
    "gzip": GZIP,
    "x-gzip": GZIP,
    "deflate": DEFLATE,
    "zlib": DEFLATE,
    "zstd": ZSTD,
}

DEFAULT_LIMIT_BYTES: Final = 64 << 20  # recommended by OTLP 1.11
PIECE_BYTES: Final = 64 << 10  # of compressed input at a time
ZSTD_PIECE_BYTES: Final = 1 << 10  # a zstd block of 4 bytes may hold 128 KiB: at most 32 MiB beyond the limit
ZSTD_WINDOW_BYTES: Final = 32 << 20  # the largest window of the Collector's encoder
FRAMES_LIMIT: Final = 4096  # members or frames in one body; each costs a fresh decoder
DEFLATE_RATIO: Final = 1032  # the most that DEFLATE can shrink, whatever the data
GZIP_MAGIC: Final = b"\x1f\x8b\x08"
GZIP_SHORTEST: Final = 20  # header, the empty block, trailer
GZIP_WORD: Final = int.from_bytes(GZIP_MAGIC[:2], "little")
PROBE_BYTES: Final = 512
AUTO_GZIP: Final = 31  # zlib's window bits for a gzip wrapper


def inflate(payload: bytes, compression: str, limit: int = DEFAULT_LIMIT_BYTES) -> bytes:
    """The plain bytes of a body.

    Raises: TooLarge when there are more than `limit` of them, noticed before much more than that is in memory;
            BadInput when the body is not what `compression` says, is cut short or has something behind it.
    """
    if len(payload) > limit:
        raise TooLarge(f"body must be at most {limit} bytes, got {len(payload)}")
    match ENCODINGS.get(compression):
        case "identity":
            return payload
        case "gzip":
            return _gunzip(payload, limit)
        case "deflate":
            return _stream(payload, zlib.MAX_WBITS, limit, several=False)
        case "zstd":
            return _unzstd(payload, limit)
        case _:
            raise BadInput(f"compression must be one of identity, gzip, deflate, zstd, got {compression!r}")


def compression_of(message: bytes) -> str:
    """How a gRPC message is compressed, told by its first bytes: identity, gzip or deflate.

    gRPC hides the flag and the encoding once the server asks for messages as they came. 1f (a field 3 of a wire type
    that does not exist) never starts a protobuf message. The header of zlib can: as a field that OTLP does not
    have. Such a message is taken for compressed only if it also inflates.
    """
    if message[:2] == GZIP_MAGIC[:2]:
        return GZIP
    if len(message) < 2 or message[0] & 0x8F != 8 or int.from_bytes(message[:2], "big") % 31:
        return IDENTITY
    decoder = zlib.decompressobj()
    try:
        start = decoder.decompress(message[:PROBE_BYTES], PROBE_BYTES)
    except zlib.error:
        return IDENTITY
    inflates = decoder.eof or len(start) == PROBE_BYTES or len(message) > PROBE_BYTES
    return DEFLATE if inflates else IDENTITY


def _gunzip(payload: bytes, limit: int) -> bytes:
    """Fast for one member whose trailer tells the truth about it, streaming for all else."""
    size = int.from_bytes(payload[-4:], "little")
    if len(payload) < GZIP_SHORTEST or size == 0 or _second_member(payload):
        return _stream(payload, AUTO_GZIP, limit, several=True)
    if size > len(payload) * DEFLATE_RATIO:  # not even the best compression is this good: many GiB, or a lie
        return _stream(payload, AUTO_GZIP, limit, several=True)
    if size > limit:
        raise TooLarge(f"body must be at most {limit} bytes when decompressed, got {size}")
    try:
        plain = deflate.gzip_decompress(payload, size)
    except (deflate.DeflateError, ValueError):
        return _stream(payload, AUTO_GZIP, limit, several=True)
    # libdeflate stops behind the first member without a word. What follows then ends in another trailer than ours.
    whole = len(plain) == size and deflate.crc32(plain) == int.from_bytes(payload[-8:-4], "little")
    return bytes(plain) if whole else _stream(payload, AUTO_GZIP, limit, several=True)


def _second_member(payload: bytes) -> bool:
    """Whether the start of another gzip member may be in it; libdeflate would stop before that without a word.

    Looks at pairs of bytes at even, then at odd places: several times faster than searching bytes for three.
    """
    for start in (1, 2):  # the member that counts starts at 0
        pairs = np.frombuffer(payload, "<u2", (len(payload) - start) // 2, start)
        for place in np.flatnonzero(pairs == GZIP_WORD):
            at = start + 2 * int(place)
            if payload[at : at + 3] == GZIP_MAGIC:
                return True
    return False


def _stream(payload: bytes, window_bits: int, limit: int, *, several: bool) -> bytes:
    """Inflate piece by piece; `several` members may follow one another, as gzip allows."""
    view, at, parts, room = memoryview(payload), 0, [], limit
    for _ in range(FRAMES_LIMIT):
        decoder = zlib.decompressobj(window_bits)
        while not decoder.eof:
            piece = view[at : at + PIECE_BYTES]
            part, used = _inflate_piece(decoder, piece, room + 1)
            if not part and not used:
                raise BadInput(f"compressed body is cut short after {len(payload)} bytes")
            at += used
            room -= len(part)
            if room < 0:
                raise TooLarge(f"body must be at most {limit} bytes when decompressed")
            parts.append(part)
        if at == len(payload):
            return b"".join(parts)
        if not several:
            raise BadInput(f"{len(payload) - at} bytes follow the compressed body")
    raise BadInput(f"compressed body must have at most {FRAMES_LIMIT} members")


def _inflate_piece(decoder: Any, piece: memoryview, most: int) -> tuple[bytes, int]:
    """At most so many plain bytes, and how many compressed ones they took."""
    try:
        part = decoder.decompress(piece, most)
    except zlib.error as error:
        raise BadInput(f"body is not valid compressed data: {error}") from error
    return part, len(piece) - len(decoder.unconsumed_tail) - len(decoder.unused_data)


def _unzstd(payload: bytes, limit: int) -> bytes:
    """Inflate frame by frame, in pieces so small that none can hold much more than the limit."""
    view, at, parts, room = memoryview(payload), 0, [], limit
    context = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
    for _ in range(FRAMES_LIMIT):
        decoder = context.decompressobj()
        while not decoder.eof:
            piece = view[at : at + ZSTD_PIECE_BYTES]
            if not piece:
                raise BadInput(f"compressed body is cut short after {len(payload)} bytes")
            try:
                part = decoder.decompress(piece)
            except zstandard.ZstdError as error:
                raise BadInput(f"body is not valid compressed data: {error}") from error
            at += len(piece) - len(decoder.unused_data)
            room -= len(part)
            if room < 0:
                raise TooLarge(f"body must be at most {limit} bytes when decompressed")
            parts.append(part)
        if at == len(payload):
            return b"".join(parts)
    raise BadInput(f"compressed body must have at most {FRAMES_LIMIT} frames")
