"""Labels: what identifies one scored series, in the words of OTLP and in one canonical text, and how it is selected."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_HIDDEN = re.compile("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_Scalar = str | bool | int | float | bytes | None
AttributeValue = _Scalar | tuple["AttributeValue", ...] | tuple[tuple[str, "AttributeValue"], ...]
Attributes = tuple[tuple[str, AttributeValue], ...]  # sorted by key; keys are unique


@dataclass(frozen=True, slots=True)
class Labels:
    """The identity of one scored series.

    `resource`, `scope_attributes` and `attributes` are sorted by key. `stat` says which number of a stream
    this is: "" the value itself, "rate", "mean", "p95" and so on. `kind` is the OTLP type: gauge, sum,
    histogram, exponential_histogram or summary.
    """

    name: str
    unit: str = ""
    kind: str = "gauge"
    stat: str = ""
    resource: Attributes = ()
    scope_name: str = ""
    scope_version: str = ""
    scope_attributes: Attributes = ()
    attributes: Attributes = ()

    @property
    def service(self) -> str:
        """`service.name` of the resource, or "unknown_service"."""
        return text(dict(self.resource).get("service.name")) or "unknown_service"

    def to_json(self) -> str:
        """For machines: one line of JSON with sorted keys, equal for equal series."""
        identity = {
            "name": self.name,
            "unit": self.unit,
            "kind": self.kind,
            "stat": self.stat,
            "resource": _plain(self.resource) or {},
            "scope": {"name": self.scope_name, "version": self.scope_version},
            "attributes": _plain(self.attributes) or {},
        }
        return json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Labels:
        """What `to_json` wrote; bytes have become their hexadecimal text. Raises: ValueError."""
        try:
            tree = json.loads(line)
            scope = tree["scope"]
            return cls(
                name=tree["name"],
                unit=tree["unit"],
                kind=tree["kind"],
                stat=tree["stat"],
                resource=_pairs(tree["resource"]),
                scope_name=scope["name"],
                scope_version=scope["version"],
                scope_attributes=_pairs(scope.get("attributes", {})),
                attributes=_pairs(tree["attributes"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"expected labels as JSON, got {line[:200]!r}") from error

    def __str__(self) -> str:
        """For people: ``http.server.request.duration:p95{service.name="cart", http.route="/pay"}``."""
        pairs = (*self.resource, *self.attributes)
        inner = ", ".join(f"{key}={json.dumps(text(value))}" for key, value in pairs)
        return f"{self.name}{':' + self.stat if self.stat else ''}{{{inner}}}"


class Selector:
    """Selects series by their labels: every key must match, so that no keys select all.

    A value is exact, or with a leading ``~`` a regular expression for the whole value. `name`, `service` and `stat`
    are those of Labels; any other key is an attribute of the point, else of the resource, else of the scope. What is
    absent is "", as in Prometheus.

    >>> pay = Labels("http.server.request.duration", stat="p95", attributes=(("http.route", "/pay"),))
    >>> Selector({"name": r"~http[.].*", "http.route": "/pay"}).matches(pay), Selector({"stat": ""}).matches(pay)
    (True, False)

    Raises: re.error if an expression cannot be read.
    """

    def __init__(self, match: Mapping[str, str | bool | int | float]) -> None:
        wanted = {key: text(value) for key, value in match.items()}
        self._exact = {key: value for key, value in wanted.items() if not value.startswith("~")}
        self._patterns = {key: re.compile(value[1:]) for key, value in wanted.items() if value.startswith("~")}

    def matches(self, labels: Labels) -> bool:
        """Whether a series is selected."""
        if not self._exact and not self._patterns:
            return True
        has = dict((*labels.scope_attributes, *labels.resource, *labels.attributes))
        has |= {"name": labels.name, "service": labels.service, "stat": labels.stat}
        return all(text(has.get(key)) == value for key, value in self._exact.items()) and all(
            pattern.fullmatch(text(has.get(key))) for key, pattern in self._patterns.items()
        )


def text(value: AttributeValue) -> str:
    """An attribute value as one line of text: strings as they are, bytes as hex, the rest as JSON.

    >>> text("a"), text(True), text(3), text((1, "b")), text(None)
    ('a', 'true', '3', '[1,"b"]', '')
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False)


def visible(text: str, *, keep: str = "") -> str:
    """A text with its control characters, also those that turn the direction of writing, written out.

    What a terminal would obey, or a reader would be deceived by, is seen instead; `keep` are some that stay.

    >>> visible("a\x1b[31m\u202eb\\n"), visible("a\\nb", keep="\\n") == "a\\nb"
    ('a\\\\x1b[31m\\\\u202eb\\\\n', True)
    """
    return _HIDDEN.sub(lambda match: match[0] if match[0] in keep else ascii(match[0])[1:-1], text)


def _plain(value: AttributeValue) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if not isinstance(value, tuple):
        return value
    pairs = [v for v in value if isinstance(v, tuple) and len(v) == 2 and isinstance(v[0], str)]
    if value and len(pairs) == len(value):  # a kvlist: pairs of key and value
        return {str(v[0]): _plain(v[1]) for v in pairs}
    return [_plain(v) for v in value]


def _pairs(tree: dict[str, Any]) -> Attributes:
    return tuple(sorted((str(key), _value(value)) for key, value in tree.items()))


def _value(value: Any) -> AttributeValue:
    if isinstance(value, dict):
        return tuple((str(key), _value(inner)) for key, inner in value.items())
    return tuple(_value(inner) for inner in value) if isinstance(value, list) else value
