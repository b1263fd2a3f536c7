"""What the API says of itself is true, and no request makes it fail: asked by schemathesis, on a real service."""

from __future__ import annotations

import copy
import json
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from otel_aiops.server import asking
from tests.incident_feed import broken, call
from tests.servers import wait_for
from tests.test_app import Running

OBJECTIVE = {"name": "catalog", "match": {"service": "catalog"}, "budget": "2/week", "responses": ["webhook"]}
HOOK = {"name": "hook", "to": {"url": "http://127.0.0.1:9/hook", "attempts": 1}}
POST = {"do": {"kind": "webhook", "use": "hook"}}
ASKS = {"name": "asks", "dry_run": False, "steps": [{**POST, "guard": {"approvals": 2}}]}
TRIES = {"name": "tries", "steps": [POST]}
MORE = f"""
objectives: {json.dumps([OBJECTIVE])}
responses: {json.dumps({"enabled": True, "late": "10000d", "webhooks": [HOOK]})}
playbooks: {json.dumps([ASKS, TRIES])}
"""
WHO = {"who": "ana", "why": "a test"}
AREAS = ("incidents", "series", "models", "feedback", "responses", "access", "service")
BOTH = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
EXAMPLES = 3  # random requests of each operation that fit its description, and as many that do not
SYSTEMATIC = 20  # others that try every part of the description, at most
ONCE = {"POST /api/v1/lifecycle/runs"}  # a run takes the machine


@schemathesis.serializer("application/x-protobuf")
def as_it_is(context: Any, value: Any) -> dict[str, Any]:
    """Bytes, and what is said to be some."""
    return {"data": value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")}


@dataclass
class Asked:
    """A running service with one of everything, and what it says of itself."""

    up: Running
    names: Mapping[str, str]  # of things that are there, by the path before the name

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.up.ports['api']}"

    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = self.up.get("/api/v1/openapi.json")
        return found


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    with full(tmp_path_factory.mktemp("state")) as found:
        yield found


@contextmanager
def full(folder: Path) -> Iterator[Asked]:
    with broken(folder, MORE, still=True) as up:
        incident = up.get("/api/v1/incidents")["incidents"][0]["id"]
        series = up.get("/api/v1/series", limit=1)["series"][0]["fingerprint"]
        made = [
            made_by(up, "models", WHO),
            made_by(up, "silences", {**WHO, "name": "quiet", "for": "2h", "services": ["cart"]}),
            made_by(up, "maintenance", {**WHO, "name": "work", "for": "2h", "every": "1d", "services": ["cart"]}),
            made_by(up, f"incidents/{incident}/verdict", {**WHO, "verdict": "real"}),
            made_by(up, f"incidents/{incident}", {**WHO, "action": "acknowledge"}),
            made_by(up, "verdicts", {"series": series, "time": "now", "verdict": "false", "ratio": 2.0, "by": "ana"}),
        ]
        (run,) = wait_for(lambda: up.get("/api/v1/responses", state="waiting")["responses"], "somebody to be asked")
        names = {"incidents": incident, "series": series, "models": made[0]["id"], "responses": run["id"]}
        names |= {"silences": "quiet", "maintenance": "work", "objectives": "catalog", "datasets": "none"}
        yield Asked(up, names)


def made_by(up: Running, path: str, tree: Any) -> dict[str, Any]:
    answer = call(up, "POST", path, tree)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def closed(document: dict[str, Any]) -> dict[str, Any]:
    """The same, where objects have nothing that is not described: what is told and not described is a fault."""
    found = copy.deepcopy(document)
    left: list[Any] = [found["components"]["schemas"], *found["paths"].values()]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            if isinstance(one.get("properties"), dict) and one.get("type", "object") in ("object", ["object", "null"]):
                one.setdefault("additionalProperties", False)
            left += one.values()
        elif isinstance(one, list):
            left += one
    return found


def operations(document: dict[str, Any], area: str) -> Iterator[Any]:
    schema = schemathesis.openapi.from_dict(closed(document))
    for found in schema.get_all_operations():
        operation = found.ok()
        tags = operation.definition.raw.get("tags", ["service"])
        if area in tags:
            yield operation


@pytest.mark.parametrize("area", AREAS)
def test_no_request_breaks_it_and_what_it_answers_is_described(asked: Asked, area: str) -> None:
    faults = list(faults_of(asked, area))
    assert not faults, "\n".join(faults[:20])
    assert asked.up.get("/api/v1/status")["faults"]["bodies that could not be scored"] == 0


def faults_of(asked: Asked, area: str) -> Iterator[str]:
    """What is answered otherwise than it is described, operation by operation."""
    document, session = asked.document(), requests.Session()
    session.trust_env = False
    faults: list[str] = []
    for operation in operations(document, area):
        first = operation.path.removeprefix("/api/v1/").split("/")[0]

        def ask(case: Any, name: str = asked.names.get(first, ""), label: str = operation.label) -> None:
            if name and case.path_parameters:
                for key in case.path_parameters:
                    case.path_parameters[key] = name
            try:
                answer = case.call(base_url=asked.url, session=session, timeout=60)
                refused = [negative_data_rejection] if answer.status_code == 413 else []  # as with 400
                case.validate_response(answer, excluded_checks=[positive_data_acceptance, *refused])
            except FailureGroup as error:
                faults.append(f"{label}: {error}")

        config = operation.schema.config.generation_for(operation=operation)
        cases = operation.schema.iter_coverage_cases(operation, generation_modes=list(BOTH), generation_config=config)
        if operation.label in ONCE:
            cases = (case for case in cases if case.meta.generation.mode.is_negative)
        for number, case in enumerate(islice(cases, SYSTEMATIC)):
            ask(case) if number % 2 else ask(case, "")
        for mode in BOTH if operation.label not in ONCE else BOTH[1:]:
            with suppress(Unsatisfiable):  # where there is nothing that could be wrong
                draw(operation.as_strategy(mode), ask)
        yield from faults
        faults.clear()


def draw(cases: Any, ask: Any) -> None:
    @seed(1)
    @settings(
        max_examples=EXAMPLES,
        derandomize=False,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases)
    def run(case: Any) -> None:
        ask(case)

    run()


LISTS = (
    *("anomalies", "alerts", "budgets", "objectives", "verdicts", "incidents", "silences", "maintenance"),
    *("predictions", "precursors", "deployments", "advice", "models", "rollout/history", "lifecycle/runs"),
    *("feedback/queue", "audit", "playbooks", "responses", "services", "quality", "series", "datasets", "tokens"),
    "known-alerts",
)


def test_no_list_is_left_out(asked: Asked) -> None:
    document = asked.document()
    schemas, found = document["components"]["schemas"], set()
    for path, operations in document["paths"].items():
        told = operations.get("get", {}).get("responses", {}).get("200", {}).get("content", {})
        name = told.get("application/json", {}).get("schema", {}).get("$ref", "").rpartition("/")[2]
        if "next" in schemas.get(name, {}).get("properties", {}):
            found.add(path.removeprefix("/api/v1/"))
    assert found == set(LISTS)


@pytest.mark.parametrize("path", LISTS)
def test_every_list_has_one_shape(asked: Asked, path: str) -> None:
    document = asked.document()
    operation = document["paths"][f"/api/v1/{path}"]["get"]
    assert {"limit", "offset"} <= {one["name"] for one in operation["parameters"]}
    whole = asked.up.get(f"/api/v1/{path}")
    key = {
        "known-alerts": "alerts",
        "rollout/history": "rollouts",
        "lifecycle/runs": "runs",
        "feedback/queue": "queue",
        "audit": "entries",
    }.get(path, {"predictions": "decided", "precursors": "types", "quality": "services"}.get(path, path))
    assert whole["next"] is None or path in ("series",) or whole["total"] > len(whole[key])
    rows, offset, pages = [], 0, 0
    while offset is not None and pages < 5:
        page = asked.up.get(f"/api/v1/{path}", limit=1, offset=offset)
        assert len(page[key]) <= 1 and (page["total"] is None or page["total"] >= len(rows))
        rows += page[key]
        offset, pages = page["next"], pages + 1
    if path != "services":  # which are looked at again between two pages
        assert rows == whole[key][: len(rows)] and len(rows) == min(5, len(whole[key]))
    for key, value in (("limit", "-1"), ("limit", "1e3"), ("limit", "9999999"), ("limit", "\u0663"), ("other", "1")):
        assert call(asked.up, "GET", path, **{key: value}).status_code == 400, (key, value)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"who": "\\ud800"}', "application/json", 400),
        (b'{"who": "a\\u0000b"}', "application/json", 400),
        (b'{"who": "\xff"}', "application/json", 400),
        (b'{"who": NaN}', "application/json", 400),
        (b'{"who": "a", "for": 1e999}', "application/json", 400),
        (b'{"who": "a", "for": ' + b"9" * 5_000 + b"}", "application/json", 400),
        (b'{"who": "a", "for": 1e300}', "application/json", 400),
        (b"null", "application/json", 400),
        (b"who=a", "application/x-www-form-urlencoded", 415),
        (b"{}", "text/plain", 415),
        (b"{}", "application/xml", 415),
        (b"{}", "application/json; charset=utf-16", 400),
        (b"{}", "application/problem+json", 400),
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["silences", "verdicts", "rollout", "score", "responses/stop", "webhooks/grafana"])
def test_bodies_that_are_none(asked: Asked, path: str, body: bytes, kind: str, status: int) -> None:
    answer = requests.post(f"{asked.url}/api/v1/{path}", data=body, headers={"Content-Type": kind}, timeout=30)
    assert answer.status_code == status and answer.json()["error"], answer.text


def test_a_body_that_is_too_large_or_compressed(asked: Asked) -> None:
    most = asked.up.service.config.api.max_request_body_size
    answer = requests.post(f"{asked.url}/api/v1/silences", data=b" " * (most + 1), timeout=60)
    assert answer.status_code == 413
    json_in = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    assert requests.post(f"{asked.url}/api/v1/silences", data=b"{}", headers=json_in, timeout=30).status_code == 415


def test_a_body_that_does_not_come(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "BODY_S", 0.2)
    with socket.create_connection(("127.0.0.1", asked.up.ports["api"]), timeout=30) as sock:
        sock.sendall(b"POST /api/v1/silences HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
        assert sock.recv(1_000).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("path", ["/api/v1/status", "/api/v1/verdicts", "/api/v1/incidents/x", "/-/ready", "/metrics"])
def test_methods_that_are_not_there_are_told_from_those_that_are(asked: Asked, path: str) -> None:
    answer = requests.request("PATCH", f"{asked.url}{path}", timeout=30)
    templates = {"/api/v1/incidents/x": "/api/v1/incidents/{id}"}
    there = {one.upper() for one in asked.document()["paths"][templates.get(path, path)]}
    assert answer.status_code == 405 and {*answer.headers["Allow"].split(", ")} - {"HEAD"} == there


NAMES = ("%00", "a%00b", "..%2f..%2fetc%2fpasswd", "%ff", "x" * 5_000, "%E2%80%AE", "'%20or%201=1--")


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_that_are_none(asked: Asked, name: str) -> None:
    for path in ("incidents", "models", "responses", "objectives", "datasets", "series"):
        answer = requests.get(f"{asked.url}/api/v1/{path}/{name}", timeout=30)
        assert answer.status_code in (400, 404) and answer.json()["error"], path


def test_the_document_is_whole(asked: Asked) -> None:
    document = asked.document()
    references = set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document)))
    assert references == set(document["components"]["schemas"])
    names = [one["operationId"] for path in document["paths"].values() for one in path.values()]
    assert len(set(names)) == len(names)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for status, answer in operation["responses"].items():
                assert answer["content"], (path, method, status)
