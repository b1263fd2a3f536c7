"""Labels: what identifies one scored series, in the words of OTLP and in one canonical text."""

from __future__ import annotations

import json
from dataclasses import dataclass

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

    def __str__(self) -> str:
        """For people: ``http.server.request.duration:p95{service.name="cart", http.route="/pay"}``."""
        pairs = (*self.resource, *self.attributes)
        inner = ", ".join(f"{key}={json.dumps(text(value))}" for key, value in pairs)
        return f"{self.name}{':' + self.stat if self.stat else ''}{{{inner}}}"


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


def _plain(value: AttributeValue) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if not isinstance(value, tuple):
        return value
    pairs = [v for v in value if isinstance(v, tuple) and len(v) == 2 and isinstance(v[0], str)]
    if value and len(pairs) == len(value):  # a kvlist: pairs of key and value
        return {str(v[0]): _plain(v[1]) for v in pairs}
    return [_plain(v) for v in value]
