"""The OpenAPI document: what the docstrings of the routes say, with what holds for all of them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Collection, Mapping
from functools import wraps
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.schemas import SchemaGenerator

from otel_aiops import __version__
from otel_aiops.errors import BadInput
from otel_aiops.server.asking import FURTHEST, MOST, PAGE

PREFIX: Final = "/api/v1/"
SHARED: Final[Mapping[str, Mapping[str, Any]]] = {  # parameters that docstrings have by name only
    "limit": {"type": "integer", "minimum": 0, "maximum": MOST, "default": PAGE, "description": "entries at most"},
    "offset": {
        "type": "integer",
        "minimum": 0,
        "maximum": FURTHEST,
        "default": 0,
        "description": "`next` of the page before",
    },
}
PROBLEMS: Final[Mapping[int, str]] = {
    400: "what was expected, and what came",
    401: "credentials are missing or wrong",
    403: "it was sent by another site, or is not allowed to who asks",
    405: "there is no such method here; Allow names those that are",
    408: "the body did not come in time",
    413: "the body is too large",
    415: "the body is no JSON, or is compressed",
    421: "it was asked by a name that is none of ours",
    429: "credentials were guessed too often; Retry-After says when to come again",
    503: "it cannot be done now; Retry-After says when to come again",
}
TAGS: Final = {
    "incidents silences maintenance predictions precursors service-graph deployments advice": "incidents",
    "series anomalies alerts services quality explain forecast backfill": "series",
    "models rollout lifecycle score datasets selftest": "models",
    "objectives budgets verdicts feedback audit": "feedback",
    "responses playbooks webhooks": "responses",
    "me tokens": "access",
}
_READER = SchemaGenerator({})


def described(routes: list[BaseRoute]) -> dict[str, Any]:
    """The OpenAPI document of these routes."""
    from otel_aiops.server.schemas import SCHEMAS

    info = {"title": "otel-aiops", "version": __version__, "description": "Times are unix seconds, in UTC."}
    generator = SchemaGenerator({"openapi": "3.1.0", "info": info})
    found: dict[str, Any] = generator.get_schema(routes=routes)
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            operations[method] = _operation(path, method, operation)
    found["components"] = {"schemas": {**SCHEMAS}}
    return found


def strict(routes: list[Route]) -> list[Route]:
    """These routes, but those of the API refuse parameters of the query that are not described."""
    return [_strict(route) if route.path.startswith(PREFIX) else route for route in routes]


def allowed(routes: list[BaseRoute], path: str) -> str:
    """The value of Allow: the methods of all routes at a path."""
    there = [one for one in routes if isinstance(one, Route) and one.path_regex.match(path)]
    there = [one for one in there if one.path == path] or there  # /responses/stop is no name of a response
    return ", ".join(sorted({method for one in there for method in one.methods or ()}))


def _strict(route: Route) -> Route:
    endpoint, known = route.endpoint, None

    @wraps(endpoint)
    async def checked(request: Request) -> Response:
        nonlocal known
        if known is None:  # read when it is first needed: all docstrings together take a moment
            known = [one["name"] for one in _parameters(_READER.parse_docstring(endpoint))]
        check_query(request, known)
        answer: Awaitable[Response] = endpoint(request)
        return await answer

    methods = [one for one in route.methods or () if one != "HEAD"]
    return Route(route.path, checked, methods=methods, include_in_schema=route.include_in_schema)


def check_query(request: Request, known: Collection[str]) -> None:
    """See that what stands in a query is asked for, once. Raises: BadInput."""
    keys = [key for key, _ in request.query_params.multi_items()]
    for key in keys:
        if key not in known:
            raise BadInput(f"{key[:100]}: is not a known key; known here: {', '.join(known) or 'none'}")
        if keys.count(key) > 1:
            raise BadInput(f"{key}: expected it once, got it {keys.count(key)} times")


def _operation(path: str, method: str, operation: dict[str, Any]) -> dict[str, Any]:
    """What a docstring says, with what it need not say."""
    ours = path.startswith(PREFIX)
    names = re.findall(r"{(\w+)}", path)
    parameters = [{"in": "path", "name": one, "required": True, "schema": {"type": "string"}} for one in names]
    parameters += _parameters(operation)
    answers: dict[str, Any] = {str(k): _answer(one) for k, one in operation.get("responses", {}).items()}
    if ours:
        usual = [400, 401, 403, 405, 421, 429, 503]
        usual += [408, 413, 415] if "requestBody" in operation else []
        for status in usual:
            answers.setdefault(str(status), _problem(PROBLEMS[status]))
    found = {**operation, "operationId": _name(path, method), "responses": dict(sorted(answers.items()))}
    if tag := _tag(path) if ours else "":
        found["tags"] = [tag]
    if parameters:
        found["parameters"] = parameters
    if "requestBody" in operation:
        found["requestBody"] = {"required": True, **operation["requestBody"]}
        for content in found["requestBody"]["content"].values():
            content["schema"] = _closed(content["schema"])
    return found


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """That of a body: keys that are not known are refused, unless it says otherwise."""
    return {"additionalProperties": False, **schema} if "properties" in schema else schema


def _parameters(operation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Those of the query, written out."""
    found = []
    for one in operation.get("parameters", ()):
        if isinstance(one, str):
            schema = dict(SHARED[one])
            found.append({"in": "query", "name": one, "description": schema.pop("description"), "schema": schema})
        else:
            found.append({"in": "query", **one})
    return found


def _answer(said: Mapping[str, Any]) -> dict[str, Any]:
    """An answer of a docstring: `returns` names a schema, `text` a content type; without both it is a problem."""
    found = dict(said)
    if name := found.pop("returns", None):
        found["content"] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    elif kind := found.pop("text", None):
        found["content"] = {kind: {"schema": {"type": "string"}}}
    elif "content" not in found:
        return _problem(found["description"])
    return found


def _problem(text: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _name(path: str, method: str) -> str:
    words = re.findall(r"\w+", path.removeprefix(PREFIX))
    return "_".join([method, *words]) if words else f"{method}_root"


def _tag(path: str) -> str:
    first = path.removeprefix(PREFIX).split("/")[0]
    return next((tag for names, tag in TAGS.items() if first in names.split()), "service")
