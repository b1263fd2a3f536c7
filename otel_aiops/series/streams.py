"""Streams as saved arrays: what many of them share, such as a resource, is written once."""

from __future__ import annotations

import sys
from collections.abc import Set
from itertools import chain

import numpy as np

from otel_aiops.otlp.points import Kind, Stream, Temporality
from otel_aiops.series.columns import Arrays, Expected, pack, unpack
from otel_aiops.series.identity import DIGEST_BYTES
from otel_aiops.series.lookup import Entry

STREAMS: Expected = {
    "text_bytes": (np.uint8, ("text bytes",)),
    "text_ends": (np.int64, ("texts",)),
    "stream_texts": (np.int32, ("streams", 4)),
    "stream_kind": (np.uint8, ("streams", 3)),
    "stream_digest": (np.uint64, ("streams", 2)),
}
NO_STREAM = Stream(b"", b"", "", "", Kind.GAUGE, Temporality.UNSPECIFIED, False)


def pack_streams(entries: list[Entry | None]) -> Arrays:
    """The streams of entries, by number; None is a number that is free."""
    streams = [entry.stream if entry is not None else NO_STREAM for entry in entries]
    parts = [(s.resource, s.scope, s.name.encode(), s.unit.encode()) for s in streams]
    texts = {text: i for i, text in enumerate(dict.fromkeys(chain.from_iterable(parts)))}
    digests = b"".join(bytes(DIGEST_BYTES) if entry is None else entry.digest for entry in entries)
    text_bytes, text_ends = pack(list(texts))
    return {
        "text_bytes": text_bytes,
        "text_ends": text_ends,
        "stream_texts": np.array([list(map(texts.__getitem__, p)) for p in parts], np.int32).reshape(-1, 4),
        "stream_kind": np.array([[s.kind, s.temporality, s.monotonic] for s in streams], np.uint8).reshape(-1, 3),
        "stream_digest": np.frombuffer(digests, np.uint64).reshape(-1, 2).copy(),
    }


def unpack_streams(arrays: Arrays, free: Set[int]) -> list[Entry | None]:
    """What `pack_streams` packed, as entries without series; `free` are the numbers that nobody has.

    Raises: IndexError, ValueError or StateError where the arrays do not fit each other.
    """
    texts = unpack(arrays["text_bytes"], arrays["text_ends"])
    found: list[Entry | None] = []
    columns = (arrays[name].tolist() for name in ("stream_texts", "stream_kind"))
    for number, (places, (kind, temporality, monotonic)) in enumerate(zip(*columns, strict=True)):
        if number in free:
            found.append(None)
            continue
        of_resource, of_scope, name, unit = (texts[place] for place in places)
        stream = Stream(
            of_resource,
            of_scope,
            sys.intern(name.decode()),
            sys.intern(unit.decode()),
            Kind(kind),
            Temporality(temporality),
            bool(monotonic),
        )
        found.append(Entry(stream, arrays["stream_digest"][number].tobytes(), id=number))
    return found
