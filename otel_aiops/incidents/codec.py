"""Incidents as JSON and back: exact for our own storage, and as the lines that others read."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar

from otel_aiops.errors import StateError
from otel_aiops.incidents.incident import Incident

V = TypeVar("V")
PLAIN = frozenset({str, int, bool, type(None)})  # what JSON holds as it is
OUTWARD = {"start_ns": "start", "detected_ns": "detected_at", "end_ns": "end"}  # the agreed names of an incident
ABSENT = frozenset({"end_ns", "detected_ns", "expires_ns"})  # times that are null outside where they are 0


@cache
def _hints(kind: type) -> tuple[tuple[str, Any], ...]:
    hints = typing.get_type_hints(kind)
    return tuple((field.name, hints[field.name]) for field in fields(kind))


@cache
def _names(kind: Any) -> tuple[str, ...]:
    """The fields of a dataclass; none of anything else."""
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else ()


def encode(value: Any) -> Any:
    """A value of dataclasses, tuples and plain values as what JSON can hold, exactly: times in nanoseconds."""
    kind: Any = type(value)
    names = _names(kind)
    if names:  # plain values first and without a call: a storm has millions
        return {name: one if type(one := getattr(value, name)) in PLAIN else encode(one) for name in names}
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, tuple | list):
        return [encode(one) for one in value]
    return value


def decode(kind: type[V], value: Any) -> V:
    """What `encode` gave. Keys that are missing have their defaults. Raises: StateError."""
    try:
        return typing.cast(V, _decode(kind, value))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError(f"expected a saved {kind.__name__}, got one that does not fit: {error}") from error


def _decode(kind: Any, value: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin is tuple:
        inner = typing.get_args(kind)[0]
        return tuple(_decode(inner, one) for one in value)
    if origin in (typing.Union, types.UnionType):
        inner = next(one for one in typing.get_args(kind) if one is not type(None))
        return None if value is None else _decode(inner, value)
    if origin is typing.Literal:
        return value
    if is_dataclass(kind):
        make: Any = kind
        return make(**{name: _decode(hint, value[name]) for name, hint in _hints(make) if name in value})
    if kind is int and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError(f"expected a whole number, got {value!r}")
    if kind is str and not isinstance(value, str):
        raise TypeError(f"expected text, got {value!r}")
    return kind(value)


def to_line(incident: Incident) -> dict[str, Any]:
    """An incident as others read it: unix seconds to the microsecond, null for what is absent."""
    line: dict[str, Any] = _outward(incident)
    return line


@cache
def _said(kind: Any) -> tuple[tuple[str, str, bool, bool], ...]:
    """Of each field of a dataclass: (its name, its name outside, whether it is a time, whether 0 of it is absent)."""
    return tuple(
        (name, OUTWARD.get(name, name.removesuffix("_ns")), True, name in ABSENT)
        if name.endswith("_ns")
        else (name, name, False, False)
        for name in _names(kind)
    )


def _outward(value: Any) -> Any:
    kind: Any = type(value)
    said = _said(kind)
    if said:
        line: dict[str, Any] = {}
        for name, outward, time, absent in said:
            one = getattr(value, name)
            if time:
                line[outward] = None if absent and one == 0 else round(one / 1e9, 6)
            else:
                line[outward] = one if type(one) in PLAIN else _outward(one)
        return line
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, tuple):
        return [_outward(one) for one in value]
    return value


def from_line(line: Mapping[str, Any]) -> Incident:
    """The incident of a line, to the microsecond; keys that are not known are passed over. Raises: StateError."""
    try:
        return decode(Incident, _inward(Incident, line))
    except (KeyError, TypeError, AttributeError) as error:
        raise StateError(f"expected a line of an incident, got one that does not fit: {error!r}") from error


def _inward(kind: Any, value: Any) -> Any:
    origin = typing.get_origin(kind)
    if origin is tuple:
        return [_inward(typing.get_args(kind)[0], one) for one in value]
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _inward(typing.get_args(kind)[0], value)
    if kind is float:
        return math.nan if value is None else value
    if not is_dataclass(kind):
        return value
    found: dict[str, Any] = {}
    for name, hint in _hints(typing.cast(type, kind)):
        outward = OUTWARD.get(name, name.removesuffix("_ns"))
        if outward not in value:
            continue
        one = value[outward]
        found[name] = (0 if one is None else round(one * 1e6) * 1_000) if name.endswith("_ns") else _inward(hint, one)
    return found
