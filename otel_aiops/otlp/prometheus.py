"""Translation of OTLP names, units and attributes to those of Prometheus, as the Collector's exporters do it."""

from __future__ import annotations

import base64
import json
import math
import re
from decimal import Decimal
from typing import Literal

from otel_aiops.labels import Attributes, AttributeValue, Labels

MetricKind = Literal["gauge", "counter", "histogram", "other"]

# Units that have a word of their own; all others keep their letters. Source: prometheus/otlptranslator, unitMap.
_UNITS = {
    "d": "days",
    "h": "hours",
    "min": "minutes",
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "By": "bytes",
    "KiBy": "kibibytes",
    "MiBy": "mebibytes",
    "GiBy": "gibibytes",
    "TiBy": "tibibytes",
    "KBy": "kilobytes",
    "MBy": "megabytes",
    "GBy": "gigabytes",
    "TBy": "terabytes",
    "m": "meters",
    "V": "volts",
    "A": "amperes",
    "J": "joules",
    "W": "watts",
    "g": "grams",
    "Cel": "celsius",
    "Hz": "hertz",
    "1": "",
    "%": "percent",
}
_PER_UNITS = {"s": "second", "m": "minute", "h": "hour", "d": "day", "w": "week", "mo": "month", "y": "year"}
# Attributes of a resource that tell of which host, pod, process or queue a series is where no service.instance.id does.
_PLACE = re.compile(r"(?:host|container|(?:k8s|rabbitmq|postgresql)\.[a-z_.]+|process\.executable)\.name|process\.pid")
_NOT_IN_NAME = re.compile(r"[^a-zA-Z0-9:]+")
_NOT_IN_LABEL = re.compile(r"[^a-zA-Z0-9]+")  # runs of underscores collapse with the rest


def prometheus_name(name: str, unit: str, kind: MetricKind) -> str:
    """The name of a metric in Prometheus, with the suffixes of its unit and kind; "" when nothing is left of it.

    Source: prometheus/otlptranslator, MetricNamer with suffixes and without UTF-8.

    >>> prometheus_name("http.server.request.duration", "s", "histogram")
    'http_server_request_duration_seconds'
    >>> prometheus_name("disk.io", "By", "counter"), prometheus_name("cpu.utilization", "1", "gauge")
    ('disk_io_bytes_total', 'cpu_utilization_ratio')
    """
    tokens = [token for token in _NOT_IN_NAME.split(name) if token]
    tokens += _unit_tokens(unit, tokens)
    if kind == "counter":
        tokens = [token for token in tokens if token != "total"] + ["total"]
    if unit == "1" and kind == "gauge":
        tokens = [token for token in tokens if token != "ratio"] + ["ratio"]
    joined = "_".join(tokens)
    return f"_{joined}" if joined[:1].isdigit() else joined


def prometheus_labels(labels: Labels) -> dict[str, str]:
    """The labels of a series in Prometheus, sorted by name, without `__name__`.

    `job` is service.namespace/service.name, `instance` service.instance.id; both win over attributes of that name.
    Other resource attributes are in `target_info` only. Attributes whose names become equal are joined with ";".
    Source: opentelemetry-collector-contrib, pkg/translator/prometheusremotewrite, createAttributes.

    >>> prometheus_labels(Labels("x", resource=(("service.name", "cart"),), attributes=(("a.b", 1), ("a_b", 2))))
    {'a_b': '1;2', 'job': 'cart'}
    """
    result: dict[str, str] = {}
    for key, value in labels.attributes:
        name, shown = label_name(key), label_value(value)
        if not name or not shown or name == "__name__":
            continue
        before = result.get(name)
        result[name] = shown if before is None or before == shown else f"{before};{shown}"
    result.update(job_and_instance(labels.resource))
    return dict(sorted(result.items()))


def scraped_labels(labels: Labels) -> dict[str, str]:
    """`prometheus_labels` and the place that the resource names, for who has no target_info to join with.

    >>> found = Labels("x", resource=(("host.name", "a"), ("k8s.pod.name", "cart-1"), ("os.type", "linux")))
    >>> scraped_labels(found)
    {'host_name': 'a', 'k8s_pod_name': 'cart-1'}
    """
    places = {label_name(key): label_value(value) for key, value in labels.resource if _PLACE.fullmatch(key)}
    return dict(sorted({**places, **prometheus_labels(labels)}.items()))


def job_and_instance(resource: Attributes) -> dict[str, str]:
    """The labels that identify a target."""
    attributes = dict(resource)
    result = {}
    if "service.name" in attributes:
        job = label_value(attributes["service.name"])
        if "service.namespace" in attributes:
            job = f"{label_value(attributes['service.namespace'])}/{job}"
        result["job"] = job
    if "service.instance.id" in attributes:
        result["instance"] = label_value(attributes["service.instance.id"])
    return result


def label_name(key: str) -> str:
    """An attribute's key as a label name; "" when nothing is left of it.

    >>> label_name("http.route"), label_name("1st"), label_name("_x"), label_name("__reserved__"), label_name("é")
    ('http_route', 'key_1st', 'key_x', '__reserved__', '')
    """
    reserved = len(key) >= 4 and key.startswith("__") and key.endswith("__")
    name = _NOT_IN_LABEL.sub("_", key[2:-2] if reserved else key)
    if not name.strip("_"):
        return ""
    if reserved:
        return f"__{name}__"
    if name[0].isdigit():
        return f"key_{name}"
    return f"key{name}" if name.startswith("_") else name


def label_value(value: AttributeValue) -> str:
    """An attribute's value as the Collector writes it.

    Source: opentelemetry-collector, pdata/pcommon, Value.AsString.

    >>> label_value(1.0), label_value(1e21), label_value(b"ab"), label_value(True), label_value((1, "x"))
    ('1', '1e+21', 'YWI=', 'true', '[1,"x"]')
    """
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return _json(value)


def _json(value: AttributeValue) -> str:
    """JSON in Go's form: sorted keys, no needless digits, and HTML characters escaped."""
    if isinstance(value, bytes):
        return f'"{base64.b64encode(value).decode()}"'
    if isinstance(value, float):
        return _number(value)
    if not isinstance(value, tuple):
        shown = json.dumps(value, ensure_ascii=False)
        return shown.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    pairs = [item for item in value if isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)]
    if value and len(pairs) == len(value):
        inner = ",".join(f"{_json(key)}:{_json(item)}" for key, item in sorted(pairs, key=lambda pair: str(pair[0])))
        return f"{{{inner}}}"
    return f"[{','.join(_json(item) for item in value)}]"


def _number(value: float) -> str:
    """A float as ECMAScript and Go's JSON write it."""
    if not math.isfinite(value):
        word = "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
        return f"json: unsupported value: {word}"
    digits = repr(value)  # the shortest that reads back as the same float; below 1e-6 and from 1e16 on with exponent
    if 1e-6 <= abs(value) < 1e21 or value == 0:
        return format(Decimal(digits), "f").removesuffix(".0")
    mantissa, _, exponent = digits.partition("e")
    return f"{mantissa}e{exponent[0]}{exponent[1:].lstrip('0')}"


def _unit_tokens(unit: str, tokens: list[str]) -> list[str]:
    """The words that a unit adds behind a name that does not have them yet."""
    whole, _, per = unit.partition("/")
    main = _clean(_word(whole, _UNITS))
    per_word = _word(per, _PER_UNITS)
    below = _clean(f"per_{per_word}") if per_word else ""
    if main in tokens:
        main = ""
    below = "" if below == "per_" else below.removesuffix("_")
    if below in tokens:
        below = ""
    if below:
        main = main.removesuffix("_")
    return [word for word in (main, below) if word]


def _word(unit: str, words: dict[str, str]) -> str:
    unit = unit.strip()
    return "" if "{" in unit or "}" in unit else words.get(unit, unit)


def _clean(word: str) -> str:
    return re.sub("__+", "_", _NOT_IN_NAME.sub("_", word)).removeprefix("_")
