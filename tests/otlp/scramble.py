"""The same protobuf message in another of its many spellings on the wire."""

from __future__ import annotations

import random
import struct
from typing import Any

from google.protobuf.descriptor import FieldDescriptor as Field
from google.protobuf.message import Message

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED = {
    Field.TYPE_DOUBLE: ("<d", FIXED64),
    Field.TYPE_FIXED64: ("<Q", FIXED64),
    Field.TYPE_SFIXED64: ("<q", FIXED64),
    Field.TYPE_FLOAT: ("<f", FIXED32),
    Field.TYPE_FIXED32: ("<I", FIXED32),
}


def scrambled(message: Message, chance: random.Random) -> bytes:
    """Fields in any order, repeated fields packed or not, submessages in pieces, overwritten values, unknown fields."""
    return b"".join(_pieces(message, chance))


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tagged(number: int, wire_type: int, payload: bytes) -> bytes:
    prefix = varint(number << 3 | wire_type)
    return prefix + (varint(len(payload)) if wire_type == BYTES else b"") + payload


def _pieces(message: Message, chance: random.Random) -> list[bytes]:
    """The fields of a message; those of one number keep their order."""
    queues = []
    for field, value in message.ListFields():
        if field.message_type is not None and field.is_repeated:
            queues.append([tagged(field.number, BYTES, scrambled(one, chance)) for one in value])
        elif field.message_type is not None:
            inner = _pieces(value, chance)
            cut = chance.randint(0, len(inner)) if chance.random() < 0.3 else len(inner)
            parts = [inner[:cut], inner[cut:]] if cut < len(inner) else [inner]
            queues.append([tagged(field.number, BYTES, b"".join(part)) for part in parts])
        elif field.is_repeated:
            queues.append(_repeated(field, list(value), chance))
        else:
            before = [_other(field, chance)] if chance.random() < 0.2 else []
            queues.append([*before, _scalar(field, value)])
    if chance.random() < 0.3:
        queues.append([_unknown(chance)])
    mixed = []
    while queues:
        queue = chance.choice(queues) if chance.random() < 0.7 else queues[0]
        mixed.append(queue.pop(0))
        queues = [one for one in queues if one]
    return mixed


def _repeated(field: Any, values: list[Any], chance: random.Random) -> list[bytes]:
    if field.type in (Field.TYPE_STRING, Field.TYPE_BYTES):
        return [_scalar(field, value) for value in values]
    parts = []
    while values:
        take = chance.randint(1, len(values))
        chunk, values = values[:take], values[take:]
        if chance.random() < 0.5:
            parts.append(tagged(field.number, BYTES, b"".join(_payload(field, value)[0] for value in chunk)))
        else:
            parts += [_scalar(field, value) for value in chunk]
    return parts


def _scalar(field: Any, value: Any) -> bytes:
    payload, wire_type = _payload(field, value)
    return tagged(field.number, wire_type, payload)


def _payload(field: Any, value: Any) -> tuple[bytes, int]:
    if field.type in _FIXED:
        shape, wire_type = _FIXED[field.type]
        return struct.pack(shape, value), wire_type
    if field.type == Field.TYPE_STRING:
        return value.encode(), BYTES
    if field.type == Field.TYPE_BYTES:
        return value, BYTES
    if field.type == Field.TYPE_SINT32:
        return varint((value << 1) ^ (value >> 31)), VARINT
    return varint(int(value)), VARINT


def _other(field: Any, chance: random.Random) -> bytes:
    """The same field with another value, to be overwritten; for a member of a oneof, perhaps another member."""
    oneof = field.containing_oneof
    if oneof is not None:
        field = chance.choice([one for one in oneof.fields if one.message_type is None])
    if field.type == Field.TYPE_STRING:
        return _scalar(field, "overwritten")
    if field.type == Field.TYPE_BYTES:
        return _scalar(field, b"overwritten")
    return _scalar(field, chance.randint(0, 1))


def _unknown(chance: random.Random) -> bytes:
    number = chance.choice([500, 1000, 100_000])
    kind = chance.choice([VARINT, FIXED64, BYTES, FIXED32])
    payload = {VARINT: varint(chance.getrandbits(64)), FIXED64: b"12345678", BYTES: b"\x08\x01x", FIXED32: b"1234"}
    return tagged(number, kind, payload[kind])
