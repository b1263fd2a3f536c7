"""Roles: what a metric series says about the health of a service, by conventions of names, units and attributes."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import IntEnum

from otel_aiops.labels import Labels, text


class Role(IntEnum):
    """What a series is evidence of. Numbers are kept in saved state."""

    RESOURCE = 1  # how much of something limited is in use; up is bad
    LATENCY = 2  # how long an operation takes; up is bad
    AVAILABILITY = 3  # share of what succeeds; down is bad
    ERRORS = 4  # failures; up is bad
    CLIENT = 5  # how long a call takes, as its caller sees it
    SERVER = 6  # the same as its callee sees it
    GAP = 7  # CLIENT - SERVER: the time between them; made here, never reported
    THROUGHPUT = 8  # how much is asked for: a symptom, never evidence


@dataclass(frozen=True, slots=True)
class Meaning:
    """The role of one series and how small a change of it means nothing.

    The spread of the series counts as at least `floor` + `relative` x its usual level. `floor` is in the unit of the
    series; `share` marks one in shares of a whole whose unit may be percent: where its values say so, `floor` is in
    points of a hundred. `up` is False where low values are bad. `caller` and `callee` are the ends of a call,
    `outside` says that the callee sends no telemetry of its own. `weight` is less than 1 where others may be the
    reason: the callee of a slow call, the neighbours on a busy host.
    """

    role: Role
    service: str
    what: str
    resource: str = ""
    unit: str = ""
    up: bool = True
    floor: float = 0.0
    relative: float = 0.0
    share: bool = False
    caller: str = ""
    callee: str = ""
    outside: bool = False
    weight: float = 1.0


CALLING_WEIGHT = 0.3  # of how long calls to others take
HOST_WEIGHT = 0.5  # of what a service shares with its neighbours
LATENCY_FLOOR_S, LATENCY_RELATIVE = 0.001, 0.1
GAP_FLOOR_S = 0.0005
AVAILABILITY_FLOOR = 0.01  # one point
ERRORS_FLOOR, ERROR_SHARE_FLOOR = 0.1, 0.01  # a second; of a whole
BUSY_FLOOR = {"cpu": 0.02, "processor": 0.02, "eventloop": 0.02}  # of a whole; memory and everything else one point
SHARE_FLOOR = 0.01
AMOUNT_RELATIVE = 0.1  # of bytes, cores and counts
CORES_FLOOR = 0.05
BYTES_FLOOR = 2.0**20
COUNT_FLOOR = 2.0  # connections, items in a queue, threads


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_THINGS = {
    **dict.fromkeys(("cpu", "processor", "eventloop", "throttled", "throttling"), "cpu"),
    **dict.fromkeys(("memory", "mem", "heap", "swap", "rss", "gc"), "memory"),
    **dict.fromkeys(("disk", "filesystem", "fs", "volume", "inode", "inodes"), "disk"),
    **dict.fromkeys(("connection", "connections", "pool", "conn"), "connections"),
    **dict.fromkeys(("queue", "lag", "backlog", "pending"), "queue"),
    **dict.fromkeys(("thread", "threads", "goroutine", "goroutines", "descriptor", "descriptors", "fds"), "count"),
}
_IN_USE = _words(
    "utilization utilisation usage used util percent pct ratio load time rss working wss committed count size length "
    "depth lag backlog pending active busy duration throttled io messages delay seconds bytes total descriptors fds "
    "goroutines threads wait"
)
_SHARE_WORDS = _words("utilization utilisation util percent pct ratio rate")
_NOT_USE = _words(
    "limit limits request requests available avail capacity allocatable max maximum min minimum quota free idle faults "
    "fault desired configured network uptime"
)
_DURATIONS = _words("duration latency elapsed responsetime latencies durations")
_UNIT_S = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "min": 60.0}
_UNIT_WORDS = {
    **dict.fromkeys(("seconds", "sec", "s"), "s"),
    **dict.fromkeys(("milliseconds", "millis", "msec", "ms"), "ms"),
    **dict.fromkeys(("microseconds", "micros", "us"), "us"),
    **dict.fromkeys(("nanoseconds", "nanos", "ns"), "ns"),
}
_FAILED = _words("error errors failed failure failures exception exceptions timeouts 5xx errored aborted")
_GOOD = _words("availability success successful succeeded")
_ASKED = _words("request requests calls throughput rps qps count total rate completed operations")
# Values of attributes such as `state` or `cpu.mode` of what is not in use, or is given back when it is needed.
_STATES = ("state", "mode", "cpu.mode", "cpu.state")
_UNUSED = _words("idle free cached buffered buffers slab_reclaimable inactive available reserved steal iowait")
_INSTANCES = (
    "service.instance.id",
    "k8s.pod.name",
    "k8s.pod.uid",
    "container.name",
    "container.id",
    "host.name",
    "k8s.node.name",
    "process.pid",
    "instance",
)
_SPLIT = re.compile(r"[^0-9a-zA-Zµ%]+|(?<=[a-z0-9])(?=[A-Z])")
_CALL = re.compile(r"service_?graph_request_(client|server)(?:_(?:seconds|milliseconds))?(.*)$")
_CALLS = re.compile(r"service_?graph_request_(total|failed_total|count|failed)$")


def meaning(labels: Labels) -> Meaning | None:
    """What a series says about a service; None for one that has no role here.

    Only general words decide: the semantic conventions of OpenTelemetry, the metrics of the Collector's connectors,
    and what exporters commonly write.
    """
    has = {key: text(value) for key, value in (*labels.resource, *labels.attributes)}
    call = _of_call(labels, has)
    if call is not None or ({"client", "server"} <= set(has) and "service" in labels.name):
        return call
    words = [word.lower() for word in _SPLIT.split(labels.name) if word]
    service = _service(has)
    if not words or not service:
        return None
    shared = HOST_WEIGHT if words[0] == "system" or {"node", "host"} & set(words) else 1.0
    where = Meaning(Role.RESOURCE, service, _what(labels), _instance(has), labels.unit, weight=shared)
    for rule in (_errors, _availability, _resource, _latency, _throughput):
        found = rule(where, labels, frozenset(words), has)
        if found is not None:
            return found
    return None


def _with(where: Meaning, role: Role, **more: object) -> Meaning:
    return replace(where, role=role, **more)  # type: ignore[arg-type]  # fields of Meaning, each given by its name


def _share(where: Meaning, role: Role, floor: float, *, up: bool = True) -> Meaning:
    """Of a share of a whole: in percent, or what its values look like, for some say ones and mean percent."""
    scale = 100.0 if where.unit == "%" else 1.0
    return _with(where, role, floor=floor * scale, share=where.unit != "%", up=up)


def _service(has: dict[str, str]) -> str:
    """The service a series is about: span metrics name it in the attributes of their points."""
    for key in ("service.name", "service_name", "service", "k8s.deployment.name", "app"):
        if has.get(key):
            return has[key]
    return ""


def _instance(has: dict[str, str]) -> str:
    return next((has[key] for key in _INSTANCES if has.get(key)), "")


def _what(labels: Labels) -> str:
    """Metric, stat and attributes, as a person would name them."""
    inner = ", ".join(f"{key}={text(value)}" for key, value in labels.attributes)
    return labels.name + (f" {labels.stat}" if labels.stat else "") + (f" {{{inner}}}" if inner else "")


def _of_call(labels: Labels, has: dict[str, str]) -> Meaning | None:
    """Metrics of the Collector's service_graph connector, also after a scrape."""
    caller, callee = has.get("client", ""), has.get("server", "")
    name = labels.name.replace(".", "_").lower()
    if not caller or not callee:
        return None
    call = Meaning(
        Role.THROUGHPUT,
        callee,
        _what(labels),
        caller=caller,
        callee=callee,
        outside=has.get("connection_type") == "virtual_node",
    )
    timed, counted = _CALL.search(name), _CALLS.search(name)
    if counted:
        failed = "failed" in counted[1]
        return _with(call, Role.ERRORS, floor=ERRORS_FLOOR, relative=0.1) if failed else call
    if timed is None or labels.stat == "rate" or (not labels.stat and labels.kind != "gauge"):
        return None
    unit = "ms" if "milliseconds" in name or labels.unit == "ms" else "s"
    rest = {key: value for key, value in has.items() if key not in ("client", "server")}
    return _with(
        call,
        Role.CLIENT if timed[1] == "client" else Role.SERVER,
        what=f"{timed[2]}|{labels.stat}|{sorted(rest.items())}",  # equal for the two sides of a call
        unit=unit,
        floor=LATENCY_FLOOR_S / _UNIT_S[unit],
        relative=LATENCY_RELATIVE,
    )


def _errors(where: Meaning, labels: Labels, words: frozenset[str], has: dict[str, str]) -> Meaning | None:
    if labels.stat not in ("", "rate"):
        return None
    counted = labels.kind == "sum" or labels.stat == "rate" or bool(words & _ASKED)
    if not (words & _FAILED or (_failed(has) and counted)):
        return None
    if labels.kind == "gauge" and words & _SHARE_WORDS and labels.unit in ("", "1", "%"):
        return _share(where, Role.ERRORS, ERROR_SHARE_FLOOR)
    return _with(where, Role.ERRORS, floor=ERRORS_FLOOR, relative=0.1)


def _availability(where: Meaning, labels: Labels, words: frozenset[str], has: dict[str, str]) -> Meaning | None:
    if not words & _GOOD or labels.stat not in ("", "mean"):
        return None
    if labels.kind == "sum" or not ("availability" in words or words & _SHARE_WORDS):
        return None
    return _share(where, Role.AVAILABILITY, AVAILABILITY_FLOOR, up=False)


def _resource(where: Meaning, labels: Labels, words: frozenset[str], has: dict[str, str]) -> Meaning | None:
    things = {_THINGS[word] for word in words if word in _THINGS}
    state = next((has[key].lower() for key in _STATES if has.get(key)), "")
    share = bool(words & _SHARE_WORDS) or labels.unit == "%"
    timed = _unit_of_time(labels, words)
    if not things or not words & _IN_USE or labels.stat not in (("", "mean", "rate") if not timed else (labels.stat,)):
        return None
    if labels.stat == "rate" and labels.kind != "sum":  # how often, not how much
        return None
    if words & _NOT_USE and not words & {"utilization", "utilisation", "pending"}:
        return None
    if state in _UNUSED:
        return None
    if share and "load" not in words:
        busy = max((BUSY_FLOOR.get(word, SHARE_FLOOR) for word in words), default=SHARE_FLOOR)
        return _share(where, Role.RESOURCE, busy)
    if timed and labels.kind != "sum":
        return _with(where, Role.RESOURCE, unit=timed, floor=LATENCY_FLOOR_S / _UNIT_S[timed], relative=AMOUNT_RELATIVE)
    if "cpu" in things:
        return _with(where, Role.RESOURCE, floor=CORES_FLOOR, relative=AMOUNT_RELATIVE)
    counted = things & {"connections", "queue", "count"}
    floor = COUNT_FLOOR if counted else BYTES_FLOOR if labels.unit == "By" or "bytes" in words else 0.0
    return _with(where, Role.RESOURCE, floor=floor, relative=AMOUNT_RELATIVE)


def _latency(where: Meaning, labels: Labels, words: frozenset[str], has: dict[str, str]) -> Meaning | None:
    if not (words & _DURATIONS or {"response", "time"} <= words or {"request", "time"} <= words):
        return None
    if labels.stat == "rate":
        asked = Role.THROUGHPUT if labels.kind in ("histogram", "exponential_histogram", "summary") else None
        return _with(where, asked) if asked else None
    if (not labels.stat and labels.kind != "gauge") or _failed(has):
        return None
    unit = _unit_of_time(labels, words) or "s"
    calling = "client" in words or has.get("span.kind") in ("SPAN_KIND_CLIENT", "SPAN_KIND_PRODUCER")
    return _with(
        where,
        Role.LATENCY,
        unit=unit,
        floor=LATENCY_FLOOR_S / _UNIT_S[unit],
        relative=LATENCY_RELATIVE,
        callee=has.get("peer.service") or has.get("server.address", "") if calling else "",
        weight=CALLING_WEIGHT if calling else where.weight,
    )


def _failed(has: dict[str, str]) -> bool:
    """Whether a series counts only what has failed."""
    keys = ("http.response.status_code", "http.status_code", "status_code", "status.code", "code")
    codes = {has.get(key, "") for key in keys}
    return bool(has.get("error.type")) or any(code.startswith("5") or code == "STATUS_CODE_ERROR" for code in codes)


def _unit_of_time(labels: Labels, words: frozenset[str]) -> str:
    """The unit of a time, by the unit or the name; "" where it is none."""
    if labels.unit in _UNIT_S:
        return labels.unit
    return next((_UNIT_WORDS[word] for word in sorted(words) if word in _UNIT_WORDS and not labels.unit), "")


def _throughput(where: Meaning, labels: Labels, words: frozenset[str], has: dict[str, str]) -> Meaning | None:
    if not words & {"request", "requests", "calls", "throughput", "rps", "qps"} or words & {"size", "bytes", "body"}:
        return None
    return _with(where, Role.THROUGHPUT)
