"""Inflating bodies: every encoding, odd streams, lies about the size, bombs and garbage."""

from __future__ import annotations

import gzip
import random
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_aiops.errors import BadInput, TooLarge
from otel_aiops.server import compression
from otel_aiops.server.compression import compression_of, inflate
from tests import naive

MIB = 1 << 20


def zstd_stream(plain: bytes) -> bytes:
    """Without the size in the header, as a streaming encoder writes it."""
    encoder = zstandard.ZstdCompressor().compressobj()
    return encoder.compress(plain) + encoder.flush()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "": bytes,
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "zlib": zlib.compress,
    "zstd": zstd_stream,
}
BODIES = [b"", b"\n\x00", b"telemetry" * 10_000, random.Random(1).randbytes(300_000)]


@pytest.mark.parametrize("encoding", COMPRESS)
@pytest.mark.parametrize("plain", BODIES, ids=len)
def test_what_was_compressed_comes_back(encoding: str, plain: bytes) -> None:
    inflated = inflate(COMPRESS[encoding](plain), encoding)
    assert inflated == plain
    assert type(inflated) is bytes


@pytest.mark.parametrize("encoding", COMPRESS)
def test_the_limit_is_exact(encoding: str) -> None:
    plain = random.Random(2).randbytes(1000)
    body = COMPRESS[encoding](plain)
    assert inflate(body, encoding, 1100) == plain  # a little longer than `body` itself, which counts too
    assert inflate(COMPRESS[encoding](b"a" * 100_000), encoding, 100_000) == b"a" * 100_000
    with pytest.raises(TooLarge, match="99999"):
        inflate(COMPRESS[encoding](b"a" * 100_000), encoding, 99_999)


def test_a_frame_with_its_size_in_the_header() -> None:
    assert inflate(zstandard.compress(b"a" * 5000), "zstd") == b"a" * 5000


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_members_and_frames_may_follow_one_another(encoding: str) -> None:
    pack = COMPRESS[encoding]
    for plain in ([b"same"] * 2, [b"same" * 50_000] * 2, [b"", b"a", b"", b"bc" * 90_000, b""]):
        assert inflate(b"".join(map(pack, plain)), encoding) == b"".join(plain)


def test_a_skippable_frame_holds_nothing() -> None:
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
    assert inflate(skippable + zstd_stream(b"abc"), "zstd") == b"abc"


def test_something_like_a_second_member_inside_the_first() -> None:
    plain = b"x" + gzip.compress(b"inner") * 3
    stored = gzip.compress(plain, 0)
    assert compression.GZIP_MAGIC in stored[10:]
    assert inflate(stored, "gzip") == plain
    assert inflate(stored + b"", "gzip") == plain


def test_a_gzip_header_with_every_field() -> None:
    plain = b"telemetry" * 100
    raw = gzip.compress(plain)
    header = raw[:3] + bytes([0x1E]) + raw[4:10] + b"\x02\x00ab" + b"name\x00" + b"comment\x00"
    header += (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little")
    assert inflate(header + raw[10:], "gzip") == plain


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda body: b"",
        lambda body: b"\n\x0bnot compressed at all",
        lambda body: body[:1],
        lambda body: body[: len(body) // 2],
        lambda body: body[:-1],
        lambda body: body + b"\x00",
        lambda body: body + b"something else that follows",
        lambda body: body[:40] + bytes([body[40] ^ 0xFF]) + body[41:],
    ],
)
def test_garbage_is_bad_input(encoding: str, spoil: Callable[[bytes], bytes]) -> None:
    body = zstandard.ZstdCompressor(write_checksum=True).compress if encoding == "zstd" else COMPRESS[encoding]
    with pytest.raises(BadInput) as caught:
        inflate(spoil(body(random.Random(3).randbytes(5000))), encoding)
    assert not isinstance(caught.value, TooLarge)


def test_an_unknown_compression_is_named() -> None:
    with pytest.raises(BadInput, match="snappy"):
        inflate(b"", "snappy")


@pytest.mark.parametrize("size", [0, 1, 899, 901, 1_000_000, 0xFFFF_FFF0])
def test_a_trailer_that_lies_about_the_size(size: int) -> None:
    body = gzip.compress(b"telemetry" * 100)
    with pytest.raises(BadInput):
        inflate(body[:-4] + size.to_bytes(4, "little"), "gzip")


def zeros(encoding: str, size: int) -> bytes:
    """A bomb: so many zeros, made piece by piece."""
    encoder = {
        "gzip": lambda: zlib.compressobj(1, wbits=31),
        "deflate": lambda: zlib.compressobj(1),
        "zstd": lambda: zstandard.ZstdCompressor(level=3).compressobj(),
    }[encoding]()
    parts = [encoder.compress(bytes(MIB)) for _ in range(size // MIB)]
    return b"".join([*parts, encoder.flush()])


def bombs() -> Iterator[tuple[str, bytes]]:
    for encoding in ("gzip", "deflate", "zstd"):
        yield encoding, zeros(encoding, 128 * MIB)
    gzip_bomb = zeros("gzip", 128 * MIB)
    yield "gzip", gzip_bomb[:-4] + (1000).to_bytes(4, "little")  # says that it is small
    yield "gzip", gzip_bomb + gzip.compress(b"small")  # a small member at the end hides it
    yield "gzip", gzip.compress(b"small") + gzip_bomb
    yield "zstd", zstd_stream(b"small") + zeros("zstd", 128 * MIB)


def test_bombs_stop_at_the_limit_in_bounded_memory() -> None:
    """Nothing more than the plain bytes up to the limit, once more while they are joined, and one piece beyond."""
    limit = 16 * MIB
    for encoding, bomb in bombs():
        tracemalloc.start()
        try:
            with pytest.raises(TooLarge):
                inflate(bomb, encoding, limit)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 2 * limit + 36 * MIB, (encoding, len(bomb), peak / MIB)


def test_a_zstd_window_that_is_too_large_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=26, compression_level=1)
    encoder = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = encoder.compress(b"a" * 100_000) + encoder.flush()
    with pytest.raises(BadInput, match="memory"):
        inflate(body, "zstd")


EMPTY = {"gzip": gzip.compress(b"", mtime=0), "zstd": zstd_stream(b"")}


@pytest.mark.parametrize(("encoding", "unit"), EMPTY.items(), ids=EMPTY)
def test_endless_empty_members_end(encoding: str, unit: bytes) -> None:
    count = compression.FRAMES_LIMIT
    assert inflate(unit * count, encoding) == b""
    with pytest.raises(BadInput, match=str(count)):
        inflate(unit * (count + 1), encoding)


PLAIN = st.binary(max_size=200) | st.integers(1, 3000).map(lambda n: b"telemetry" * n)


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(["gzip", "deflate", "zstd"]), st.lists(PLAIN, min_size=1, max_size=3, unique=True))
def test_equals_the_slow_twin(data: st.DataObject, encoding: str, plain: list[bytes]) -> None:
    body = b"".join(COMPRESS[encoding](part) for part in plain)
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(body) - 1))
        body = body[:place] + data.draw(st.binary(max_size=3)) + body[place + 1 :]
    limit = data.draw(st.sampled_from([100, 5000, 1 << 20]))
    assert outcome(inflate, body, encoding, limit) == outcome(naive.inflate, body, encoding, limit)


def outcome(function: Callable[[bytes, str, int], bytes], body: bytes, encoding: str, limit: int) -> bytes | str:
    """The plain bytes or "refused": which of two faults of one body is found first does not matter."""
    try:
        return function(body, encoding, limit)
    except BadInput:
        return "refused"


def test_a_broken_second_member_of_equal_size_is_noticed() -> None:
    body = bytearray(gzip.compress(b"a" * 50) + gzip.compress(b"b" * 50))
    del body[len(gzip.compress(b"a" * 50))]  # the first byte of the second member
    with pytest.raises(BadInput):
        inflate(bytes(body), "gzip")


@settings(max_examples=200, deadline=None)
@given(PLAIN, st.integers(0, 9))
def test_a_compressed_message_is_recognised(plain: bytes, level: int) -> None:
    assert compression_of(gzip.compress(plain, level)) == "gzip"
    assert compression_of(zlib.compress(plain, level)) == "deflate"
    assert compression_of(b"\n" + plain) == "identity"


@pytest.mark.parametrize("window", range(9, 16))
def test_every_window_of_zlib_is_recognised(window: int) -> None:
    encoder = zlib.compressobj(wbits=window)
    assert compression_of(encoder.compress(b"telemetry" * 100) + encoder.flush()) == "deflate"


@pytest.mark.parametrize(
    "message", [b"", b"\n", b"x\x9c", b"x\x9c\x01", b"x\x01\n\x00", b"x\x01x\x01\n\x00", b"\x18\x19\n\x00" * 500]
)
def test_a_message_that_begins_like_zlib_but_is_not(message: bytes) -> None:
    """Field 15 or 3, which OTLP does not have, as a varint: legal, to be ignored by the reader."""
    assert compression_of(message) == "identity"
