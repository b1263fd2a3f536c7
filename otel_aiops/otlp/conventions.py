"""What the attributes of spans say by OpenTelemetry's semantic conventions: failed or not, why, and whom they call."""

from __future__ import annotations

import re

import numpy as np

from otel_aiops.otlp.keyed import Regions, Values
from otel_aiops.otlp.points import F64, I32, I64, Bool
from otel_aiops.otlp.sampling import SAMPLING_KEYS
from otel_aiops.otlp.spans import U8, PeerKind, SpanKind
from otel_aiops.otlp.wire import Buffer
from otel_aiops.otlp.words import Words

# The first of the keys that is there decides; the later ones are their older names.
HTTP_STATUS = ("http.response.status_code", "http.status_code")
RPC_STATUS = ("rpc.response.status_code", "rpc.grpc.status_code")
ERROR_TYPE = ("error.type",)
DATABASE = ("db.system.name", "db.system")
NAMESPACE = ("db.namespace", "db.name")
MESSAGING = ("messaging.system",)
DESTINATION = ("messaging.destination.template", "messaging.destination.name", "messaging.destination")
PASSING = ("messaging.destination.temporary", "messaging.destination.anonymous")
SERVICE = ("peer.service", "service.peer.name")
ADDRESS = ("server.address", "net.peer.name")
PORT = ("server.port", "net.peer.port")
URL = ("url.full", "http.url")
SPAN_KEYS = (
    *HTTP_STATUS,
    *RPC_STATUS,
    *ERROR_TYPE,
    *DATABASE,
    *NAMESPACE,
    *MESSAGING,
    *DESTINATION,
    *PASSING,
    *SERVICE,
    *ADDRESS,
    *PORT,
    *URL,
    *SAMPLING_KEYS,
)

LONGEST_PEER = 200  # characters
LONGEST_ORIGIN = 128  # bytes of a URL in which its host is looked for
_GRPC = (
    b"OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED "
    b"RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS "
    b"UNAUTHENTICATED"
)
_GRPC_CODES = {name: float(code) for code, name in enumerate(_GRPC.split())}
_SERVER_FAULTS = [_GRPC_CODES[name] for name in (b"UNKNOWN", b"DEADLINE_EXCEEDED", b"UNIMPLEMENTED")]
_SERVER_FAULTS += [_GRPC_CODES[name] for name in (b"INTERNAL", b"UNAVAILABLE", b"DATA_LOSS")]
_IDS = re.compile(
    r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"  # UUIDs
    r"|(?<![0-9A-Za-z])(?=[a-fA-F]*[0-9])[0-9a-fA-F]{12,}(?![0-9A-Za-z])"  # hex of more than any word
    r"|[0-9]{6,}"
    r"|(?<=amq\.gen-)\S+"
)
_UNNAMED = re.compile(r"localhost|[0-9.]+|\[?[0-9a-fA-F]*:[0-9a-fA-F:.]*\]?")  # only its port tells such a host


def failed(values: Values, regions: Regions, kind: U8, code: I64) -> Bool:
    """Which spans failed, (N,): by their status code, and where that is unset by HTTP, RPC and error.type.

    A server does not fail by a request that was wrong; a client does by any answer that is not what it asked for.
    Source: semantic conventions, HTTP spans (Status), gRPC (Span status), Recording errors.
    """
    client = kind == SpanKind.CLIENT
    http = values.numbers(*HTTP_STATUS)
    found = http >= np.where(client, 400, 500)
    rpc = values.numbers(*RPC_STATUS)
    name = values.texts(regions, *RPC_STATUS)
    if (name >= 0).any():
        codes = np.array([_GRPC_CODES.get(raw.upper(), np.nan) for raw in regions.all()])
        rpc = np.where(np.isnan(rpc) & (name >= 0), codes[name], rpc)
    found |= np.where(client, rpc > 0, np.isin(rpc, _SERVER_FAULTS))
    found |= values.texts(regions, *ERROR_TYPE) >= 0
    out: Bool = (code == 2) | (found & (code != 1))
    return out


def peers(values: Values, regions: Regions, words: Words, kind: U8, good: Bool) -> tuple[I32, U8]:
    """(word or -1, PeerKind) of what each span talks to, (N,) each: a database, else a destination, else a service.

    Databases are `system:namespace`, destinations `system:destination`, services their name or else the address that
    was called. A host that has no name has its port. What looks like an id is masked. Only spans that
    are `good` have one.
    """
    outbound = good & (kind != SpanKind.SERVER) & (kind != SpanKind.CONSUMER)
    database = values.texts(regions, *DATABASE, of=outbound)
    messaging = values.texts(regions, *MESSAGING, of=good & (database < 0))
    rest = outbound & (database < 0) & (messaging < 0)
    service = values.texts(regions, *SERVICE, of=rest)
    called = rest & (service < 0) & (kind == SpanKind.CLIENT)
    address = values.texts(regions, *ADDRESS, of=called | (database >= 0))
    by_url = np.flatnonzero(called & (address < 0))
    address[by_url] = _hosts(values, regions, by_url)
    which = np.select(
        [database >= 0, messaging >= 0, (service >= 0) | (called & (address >= 0))],
        [PeerKind.DATABASE, PeerKind.MESSAGING, PeerKind.SERVICE],
        PeerKind.NONE,
    ).astype(np.uint8)
    lasting = (messaging >= 0) & ~(values.numbers(*PASSING) > 0)
    namespace = values.texts(regions, *NAMESPACE, of=database >= 0)
    second = np.maximum(namespace, values.texts(regions, *DESTINATION, of=lasting))
    first = np.maximum(np.maximum(database, messaging), service)
    port = np.nan_to_num(values.numbers(*PORT), nan=-1.0)
    return _named(which, first, second, address, port, regions, words), which


def _named(which: U8, first: I64, second: I64, address: I64, port: F64, regions: Regions, words: Words) -> I32:
    """The words of peers; each distinct combination is put into words once."""
    out = np.full(len(which), -1, np.int32)
    some = np.flatnonzero(which)
    columns = (one[some].tolist() for one in (which, first, second, address, port))
    rows = list(zip(*columns, strict=True))
    if not rows:
        return out
    texts = [raw.decode(errors="replace") for raw in regions.all()]
    texts.append("")  # for -1
    number: dict[tuple[int, int, int, int, float], int] = {}
    for row in dict.fromkeys(rows):
        kind, one, other, host, at_port = row
        number[row] = words.number(_peer(kind, texts[one], texts[other], _host(texts[host], int(at_port))), 1)
    out[some] = np.fromiter(map(number.__getitem__, rows), np.int32, len(rows))
    return out


def _peer(kind: int, first: str, second: str, host: str) -> str:
    if kind == PeerKind.SERVICE:
        found = first or host
    elif kind == PeerKind.DATABASE and (not second or second.isdigit()) and host:
        found = f"{first}:{host}"  # the numbered databases of a server say less than its name
    else:
        found = f"{first}:{second}" if second else first
    return _IDS.sub("*", found.strip()[:LONGEST_PEER])


def _host(address: str, port: int) -> str:
    """A host as it is told from others.

    >>> _host("orders.shop.svc:8080", -1), _host("10.0.0.7", 5432), _host("localhost:3000", -1)
    ('orders.shop.svc', '10.0.0.7:5432', 'localhost:3000')
    """
    name, colon, tail = address.rpartition(":")
    if colon and tail.isdigit() and (":" not in name or name.endswith("]")):
        address, port = name, port if port > 0 else int(tail)
    return f"{address}:{port}" if port > 0 and _UNNAMED.fullmatch(address) else address


def _hosts(values: Values, regions: Regions, spans: I64) -> I64:
    """The hosts of the URLs that some spans called, as numbers of `regions`, (R,); -1 for none."""
    at, size = values.places(*URL)
    out = np.full(len(spans), -1, np.int64)
    some = np.flatnonzero(size[spans] > 0)
    if len(some):
        where, length = origins(values.buffer, at[spans[some]], size[spans[some]])
        good = length > 0
        out[some[good]] = regions.numbers(where[good], length[good])
    return out


def origins(buffer: Buffer, at: I64, size: I64) -> tuple[I64, I64]:
    """(where it begins, bytes) of host and port in R URLs, without user and password; no bytes where there are none."""
    column = np.arange(LONGEST_ORIGIN)
    length = np.minimum(size, LONGEST_ORIGIN)
    place = np.minimum(at[:, None] + column, len(buffer.u8) - 1)
    cells = np.where(column < length[:, None], buffer.u8[place], 0)
    slashes = cells == ord("/")
    begins = (cells[:, :-2] == ord(":")) & slashes[:, 1:-1] & slashes[:, 2:]
    first = np.where(begins.any(axis=1), begins.argmax(axis=1) + 3, LONGEST_ORIGIN)
    stops = (slashes | (cells == ord("?")) | (cells == ord("#")) | (cells == 0)) & (column >= first[:, None])
    last = np.where(stops.any(axis=1), stops.argmax(axis=1), length)
    users = (cells == ord("@")) & (column >= first[:, None]) & (column < last[:, None])
    first = np.where(users.any(axis=1), LONGEST_ORIGIN - users[:, ::-1].argmax(axis=1), first)
    return at + np.minimum(first, length), np.maximum(last - first, 0)
