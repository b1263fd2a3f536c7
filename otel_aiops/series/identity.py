"""Identity of streams and series: one digest for all the ways in which a sender may write the same thing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import TypeVar

from otel_aiops.labels import Attributes
from otel_aiops.otlp.attributes import OWN_SCOPE, OWN_SERVICE, attributes, resource, scope
from otel_aiops.otlp.points import Stream

DIGEST_BYTES = 16
FINGERPRINT_BYTES = 8
PARTS_KEPT = 4_096  # resources and scopes whose canonical form is remembered; each is shared by many streams

OWN_NAMES = ("otel_aiops.", "otel_aiops_")

T = TypeVar("T")


class OwnSeries(Exception):
    """The stream is our own output that came back: scoring it would feed scores to the scorer."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A resource or scope: its raw bytes (one object for all streams that have it), its digest, whether it is ours."""

    raw: bytes
    digest: bytes
    own: bool


class Identifier:
    """Digests of streams; remembers a bounded number of resources and scopes, which changes nothing but time."""

    def __init__(self) -> None:
        self._resource = _remember(_resource)
        self._scope = _remember(_scope)

    def stream(self, stream: Stream) -> tuple[Stream, bytes]:
        """The stream with its parts shared, and the digest of everything but the point attributes.

        Raises: OwnSeries, BadInput if resource or scope cannot be read.
        Source: OpenTelemetry metrics data model, "Timeseries model": what identifies a stream.
        """
        if stream.name.startswith(OWN_NAMES):
            raise OwnSeries
        of_resource, of_scope = self._resource(stream.resource), self._scope(stream.scope)
        if of_resource.own or of_scope.own:
            raise OwnSeries
        kind = int(stream.kind), int(stream.temporality), bool(stream.monotonic)
        digest = _digest(of_resource.digest, of_scope.digest, ascii((stream.name, stream.unit, *kind)).encode())
        shared = Stream(
            of_resource.raw,
            of_scope.raw,
            sys.intern(stream.name),
            sys.intern(stream.unit),
            stream.kind,
            stream.temporality,
            stream.monotonic,
        )
        return shared, digest


def series_digest(stream_digest: bytes, raw: bytes) -> bytes:
    """The digest of a series: its stream and the attributes of its points. BadInput if they cannot be read."""
    return blake2b(stream_digest + _canonical(attributes(raw)), digest_size=DIGEST_BYTES).digest()


def fingerprint(digest: bytes, stat: str) -> int:
    """The 64-bit name of one scored series, the same in every process and on every machine."""
    return int.from_bytes(blake2b(digest + stat.encode(), digest_size=FINGERPRINT_BYTES).digest(), "little")


def _resource(raw: bytes) -> _Part:
    found = resource(raw)
    return _Part(raw, _digest(_canonical(found)), dict(found).get("service.name") == OWN_SERVICE)


def _scope(raw: bytes) -> _Part:
    name, version, found = scope(raw)
    return _Part(raw, _digest(ascii((name, version)).encode(), _canonical(found)), name == OWN_SCOPE)


def _canonical(found: Attributes) -> bytes:
    # ascii(), not repr(): which characters repr() escapes changes with the Unicode tables of the Python in use.
    return ascii(found).encode()


def _digest(*parts: bytes) -> bytes:
    return blake2b(b"\0".join(parts), digest_size=DIGEST_BYTES).digest()


def _remember(function: Callable[[bytes], T]) -> Callable[[bytes], T]:
    return lru_cache(maxsize=PARTS_KEPT)(function)
