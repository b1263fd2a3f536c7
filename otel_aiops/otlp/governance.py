"""Governance: attributes that are dropped or hashed at the door, before anything is stored or learned."""

from __future__ import annotations

import hmac
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from threading import Lock
from typing import Any, Literal

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from otel_aiops.errors import BadInput, ConfigError
from otel_aiops.otlp.json_body import REQUESTS

Action = Literal["drop", "hash", "keep"]
SHORTEST_SALT = 8
HASH_DIGITS = 16
KEYS_KEPT = 10_000  # whose action is remembered
NEEDED = "service.name"  # without it nothing can be said of any service


@dataclass(frozen=True, slots=True, kw_only=True)
class GovernanceConfig:
    """Which attributes never reach the disk as they came, of resources, scopes, points, spans, events and log records.

    Patterns are names of attributes that may have * and ?; inside a structured value, names are joined by dots.
    """

    drop: tuple[str, ...] = ()  # attributes that are left out; series that differ in nothing else become one
    hash: tuple[str, ...] = ()  # attributes whose value becomes a hash with `salt`, so that equal ones stay equal
    salt: str = field(default="", repr=False)  # a secret for `hash`, as ${env:OTEL_AIOPS_SALT}

    def __post_init__(self) -> None:
        """Raises: ConfigError."""
        for name in ("drop", "hash"):
            for pattern in getattr(self, name):
                if not pattern:
                    raise ConfigError(name, "expected names of attributes, got an empty one")
                if fnmatchcase(NEEDED, pattern):
                    raise ConfigError(name, f"must leave {NEEDED} as it is, got {pattern!r}")
        if self.hash and len(self.salt) < SHORTEST_SALT:
            raise ConfigError("salt", f"expected at least {SHORTEST_SALT} secret characters with `hash`, got fewer")

    def __bool__(self) -> bool:
        return bool(self.drop or self.hash)

    def rules(self) -> dict[str, Any]:
        """What holds, without the secret; another salt has another `salt`."""
        salt = hmac.new(self.salt.encode(), b"otel-aiops salt", "sha256").hexdigest()[:8] if self.hash else ""
        return {"drop": sorted(self.drop), "hash": sorted(self.hash), "salt": salt}


class Governance:
    """Rewrites requests. Any thread may call it.

    A request in which the fixed part of no pattern stands is not even read: that is a search through its bytes. One
    that is read costs 15 to 30 us a point with five attributes, and is written anew only when something changed.
    """

    def __init__(self, config: GovernanceConfig) -> None:
        self.config = config
        self.counts: Counter[str] = Counter()  # dropped, hashed: how many attributes
        self._lock = Lock()
        self._fixed = _fixed_parts((*config.drop, *config.hash))
        self._action = lru_cache(maxsize=KEYS_KEPT)(self._find)

    def rewrite(self, signal: str, data: bytes) -> bytes:
        """A request of `signal` (metrics, traces, logs) in protobuf under the rules; `data` itself when all may stay.

        Raises: BadInput when it cannot be read, since then nobody knows what is in it.
        """
        if not self.config or (self._fixed is not None and not self._fixed.search(data)):
            return data
        request: Message = REQUESTS[signal]()
        try:
            request.ParseFromString(data)
        except DecodeError as error:
            raise BadInput(f"expected an export request of {signal} in protobuf, got {error}") from error
        counts: Counter[str] = Counter()
        self._message(request, counts)
        if not counts:
            return data
        with self._lock:
            self.counts.update(counts)
        rewritten: bytes = request.SerializeToString()
        return rewritten

    def _message(self, message: Message, counts: Counter[str]) -> None:
        """Apply the rules to all attributes in a message, in place."""
        if isinstance(message, AnyValue):
            self._value(message, "", counts)
            return
        for inner, pairs in _children(message):
            if pairs is not None:
                self._pairs(pairs, "", counts)
            elif inner is not None:
                self._message(inner, counts)

    def _pairs(self, pairs: Any, prefix: str, counts: Counter[str]) -> None:
        """Apply the rules to key-value pairs, in place."""
        for k in range(len(pairs) - 1, -1, -1):
            pair = pairs[k]
            key = prefix + pair.key
            action = self._action(key)
            if action == "drop":
                del pairs[k]
                counts["dropped"] += 1
            elif action == "hash":
                text = self._hashed(pair.value)
                pair.value.Clear()
                pair.value.string_value = text
                counts["hashed"] += 1
            else:
                self._value(pair.value, f"{key}.", counts)

    def _value(self, value: AnyValue, prefix: str, counts: Counter[str]) -> None:
        kind = value.WhichOneof("value")
        if kind == "kvlist_value":
            self._pairs(value.kvlist_value.values, prefix, counts)
        elif kind == "array_value":
            for one in value.array_value.values:
                self._value(one, prefix, counts)

    def _find(self, key: str) -> Action:
        if any(fnmatchcase(key, pattern) for pattern in self.config.drop):
            return "drop"
        return "hash" if any(fnmatchcase(key, pattern) for pattern in self.config.hash) else "keep"

    def _hashed(self, value: AnyValue) -> str:
        """The same text for the same value under the same salt, whatever the key."""
        content = value.SerializeToString(deterministic=True)
        return hmac.new(self.config.salt.encode(), content, "sha256").hexdigest()[:HASH_DIGITS]


def _children(message: Message) -> Iterator[tuple[Message | None, Any]]:
    """(message inside, None) or (None, key-value pairs inside) of a message, those that are there."""
    for of, value in message.ListFields():
        if of.type != FieldDescriptor.TYPE_MESSAGE:
            continue
        if of.message_type is KeyValue.DESCRIPTOR:
            yield None, value
        elif isinstance(value, Message):
            yield value, None
        else:
            for one in value:
                yield one, None


def _fixed_parts(patterns: tuple[str, ...]) -> re.Pattern[bytes] | None:
    """A search for the longest fixed part of each pattern; None when one has none, or may match a path of names."""
    found = set()
    for pattern in patterns:
        fixed = max(re.split(r"[*?]|\[[^]]*\]", pattern), key=len)
        names = max(fixed.split("."), key=len)  # of a structured value, each name stands by itself
        if not names:
            return None
        found.add(re.escape(names.encode()))
    return re.compile(b"|".join(sorted(found))) if found else None
