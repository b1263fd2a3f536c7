"""The part of the API that is about model versions, described by OpenAPI as the others."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from otel_aiops.server.asking import in_own_name, page, posted_json

PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"  # names in a report run nothing


class LifecycleBackend(Protocol):
    """What the API shows and does; any thread. None where there is no such thing, BadInput that names the key."""

    def models(self) -> dict[str, Any]: ...

    def model(self, name: str) -> dict[str, Any] | None: ...

    def health(self) -> dict[str, Any]: ...

    def report_page(self, name: str) -> str | None: ...

    def save_model(self, asked: Any) -> dict[str, Any]: ...

    def rollout(self) -> dict[str, Any]: ...

    def roll(self, asked: Any) -> dict[str, Any]: ...

    def rollouts(self, *, limit: int, offset: int = 0) -> dict[str, Any]: ...

    def runs(self, *, limit: int, offset: int = 0) -> dict[str, Any]: ...

    def order_run(self, asked: Any) -> dict[str, Any]: ...

    def score(self, asked: Any) -> dict[str, Any] | None:
        """Scores of points; None where there is no such version."""


def routes(backend: LifecycleBackend, max_body_bytes: int) -> list[Route]:
    """All of them, in the order of the documents."""
    of = _Routes(backend, max_body_bytes)
    return [
        Route("/api/v1/models", of.models, methods=["GET"]),
        Route("/api/v1/models", of.save, methods=["POST"]),
        Route("/api/v1/models/health", of.health),
        Route("/api/v1/models/{id}", of.model),
        Route("/api/v1/models/{id}/report", of.report),
        Route("/api/v1/rollout", of.rollout, methods=["GET"]),
        Route("/api/v1/rollout", of.roll, methods=["POST"]),
        Route("/api/v1/rollout/history", of.history),
        Route("/api/v1/lifecycle/runs", of.runs, methods=["GET"]),
        Route("/api/v1/lifecycle/runs", of.order_run, methods=["POST"]),
        Route("/api/v1/score", of.score, methods=["POST"]),
    ]


class _Routes:
    def __init__(self, backend: LifecycleBackend, max_body_bytes: int) -> None:
        self._backend = backend
        self._max_body_bytes = max_body_bytes

    async def models(self, request: Request) -> Response:
        """
        summary: The model versions that are registered, with role and lineage; of a changed one, what is wrong.
        parameters: [limit, offset]
        responses: {200: {description: a page of them, returns: Models}}
        """
        wanted = page(request)
        return JSONResponse(wanted.cut(await run_in_threadpool(self._backend.models), "models"))

    async def save(self, request: Request) -> Response:
        """
        summary: Register what serves, as it is now, as a model version.
        requestBody:
          content:
            application/json:
              schema:
                type: object
                required: [who]
                properties: {who: {$ref: '#/components/schemas/Who'}, why: {$ref: '#/components/schemas/Why'}}
        responses: {200: {description: the version, returns: ModelInShort}}
        """
        tree = in_own_name(request, await posted_json(request, self._max_body_bytes, "who wants it"))
        return JSONResponse(await run_in_threadpool(lambda: self._backend.save_model(tree)))

    async def health(self, request: Request) -> Response:
        """
        summary: "How the model that serves does: drift, rates, calibration, budgets, verdicts, what is expected."
        responses: {200: {description: "`problems` is empty when nothing is wrong", returns: Health}}
        """
        return JSONResponse(await run_in_threadpool(self._backend.health))

    async def model(self, request: Request) -> Response:
        """
        summary: One model version with its settings, lineage and report.
        responses:
          200: {description: the version, returns: Model}
          404: {description: no such version}
          409: {description: it was changed since it was registered}
        """
        name = request.path_params["id"]
        found = await run_in_threadpool(lambda: self._backend.model(name))
        if found is None:
            return JSONResponse({"error": f"no model version has the id {name[:100]}"}, 404)
        return JSONResponse(found)

    async def report(self, request: Request) -> Response:
        """
        summary: How a model version did on points that it had not learned from, as a page for a browser.
        responses: {200: {description: a page, text: text/html}, 404: {description: it was not evaluated}}
        """
        name = request.path_params["id"]
        found = await run_in_threadpool(lambda: self._backend.report_page(name))
        if found is None:
            return JSONResponse({"error": f"no model version {name[:100]} has a report"}, 404)
        return HTMLResponse(found, headers={"Content-Security-Policy": PAGE_POLICY})

    async def rollout(self, request: Request) -> Response:
        """
        summary: Which version serves, which runs beside it, and how both do on the same points.
        responses: {200: {description: which versions run, returns: Rollout}}
        """
        return JSONResponse(await run_in_threadpool(self._backend.rollout))

    async def roll(self, request: Request) -> Response:
        """
        summary: Let a version run as shadow or canary, promote it, stop it, or roll back; done when this answers.
        requestBody:
          content:
            application/json:
              schema:
                type: object
                required: [action, who]
                properties:
                  action: {type: string, enum: [shadow, canary, promote, rollback, stop]}
                  version: {type: string, maxLength: 2000, description: id of a model version}
                  share: {type: number, minimum: 0, maximum: 1, description: "of the series, for a canary"}
                  who: {$ref: '#/components/schemas/Who'}
                  why: {$ref: '#/components/schemas/Why'}
        responses:
          200: {description: which versions run now, returns: Rollout}
          409: {description: the version was changed since it was registered}
        """
        tree = in_own_name(request, await posted_json(request, self._max_body_bytes, "an order"))
        return JSONResponse(await run_in_threadpool(lambda: self._backend.roll(tree)))

    async def history(self, request: Request) -> Response:
        """
        summary: What was done with model versions, the latest first, with who, why and the evidence of the time.
        parameters: [limit, offset]
        responses: {200: {description: a page of them, returns: Rollouts}}
        """
        wanted = page(request)
        find = partial(self._backend.rollouts, limit=wanted.limit, offset=wanted.offset)
        return JSONResponse(wanted.of(await run_in_threadpool(find)))

    async def runs(self, request: Request) -> Response:
        """
        summary: The runs of the lifecycle, the newest first, with their steps; who runs now, and why one is due.
        parameters: [limit, offset]
        responses: {200: {description: a page of them, returns: Runs}}
        """
        wanted = page(request)
        find = partial(self._backend.runs, limit=wanted.limit, offset=wanted.offset)
        return JSONResponse(wanted.of(await run_in_threadpool(find)))

    async def order_run(self, request: Request) -> Response:
        """
        summary: Have a new version made, judged, and run as shadow if the gate says yes; begins in a moment.
        requestBody:
          content:
            application/json:
              schema:
                type: object
                required: [who]
                properties:
                  who: {$ref: '#/components/schemas/Who'}
                  why: {$ref: '#/components/schemas/Why'}
                  objective: {type: string, description: name of an objective of the configuration}
                  settings: {type: string, enum: [config, champion, tuned]}
        responses: {202: {description: it begins, returns: Ordered}, 503: {description: one runs}}
        """
        tree = in_own_name(request, await posted_json(request, self._max_body_bytes, "who wants it"))
        return JSONResponse(await run_in_threadpool(lambda: self._backend.order_run(tree)), 202)

    async def score(self, request: Request) -> Response:
        """
        summary: Score points of series with a copy of a model version; nothing that the service has learned changes.
        description: >
          The points of a series are scored in the order that they have here, each by those before it, and the first by
          what the version has learned of the series. At most 1,000 series and 10,000 points. All lists of the answer
          are as long as `timestamps`; null is "cannot say", `skipped` says why.
        requestBody:
          required: true
          content:
            application/json:
              schema:
                type: object
                required: [series]
                additionalProperties: false
                properties:
                  model: {type: string, default: champion, description: id of a model version}
                  series:
                    type: array
                    minItems: 1
                    maxItems: 1000
                    items:
                      type: object
                      required: [labels, timestamps, values]
                      additionalProperties: false
                      properties:
                        labels:
                          type: object
                          required: [name]
                          description: what identifies a series, as `labels` in the history; the rest is empty
                          properties:
                            name: {type: string}
                            unit: {type: string}
                            kind: {type: string, default: gauge}
                            stat: {type: string, description: 'rate, mean, p95; of the value itself it is empty'}
                            resource: {type: object}
                            scope: {type: object}
                            attributes: {type: object}
                        timestamps: {type: array, items: {type: [number, string]}, description: unix s or ISO 8601}
                        values: {type: array, items: {type: [number, "null"]}, description: of counters the rate}
              example:
                model: champion
                series:
                  - labels: {name: queue.depth, resource: {service.name: cart}, scope: {name: app}}
                    timestamps: [1760000000, 1760000030]
                    values: [101.5, 240.0]
        responses:
          200:
            description: the scores
            content:
              application/json:
                schema:
                  type: object
                  properties:
                    model: {type: string, description: its id; empty for a champion that was never registered}
                    series:
                      type: array
                      items:
                        type: object
                        properties:
                          series: {type: string}
                          known: {type: boolean, description: whether the version has learned of it}
                          score: {type: array, items: {type: [number, "null"]}, description: 1 is the threshold}
                          alert_score: {type: array, items: {type: number}}
                          probability: {type: array, items: {type: [number, "null"]}}
                          p_value: {type: array, items: {type: [number, "null"]}}
                          expected: {type: array, items: {type: [number, "null"]}}
                          lower: {type: array, items: {type: [number, "null"]}}
                          upper: {type: array, items: {type: [number, "null"]}}
                          channel: {type: array, items: {type: string}}
                          reason: {type: array, items: {type: string}, description: of scores from 1 on}
                          skipped: {type: array, items: {type: string}, description: why there is no score}
                example:
                  model: 9f2c61d0a4b7e835
                  series:
                    - series: 'queue.depth{service.name="cart"}'
                      known: true
                      score: [0.02, 7.5]
                      alert_score: [0.0, 3.9]
                      probability: [0.31, 0.9999]
                      p_value: [0.69, 0.0001]
                      expected: [100.2, 100.3]
                      lower: [81.9, 82.0]
                      upper: [118.5, 118.6]
                      channel: [level, level]
                      reason: ["", "240 is 23.3 spreads above the usual 100.3."]
                      skipped: ["", ""]
          404: {description: no such model version}
          409: {description: the version was changed since it was registered}
          413: {description: the body is too large, or it holds too many series or points}
          503: {description: "too many score at once; Retry-After says when to come again"}
        """
        tree = await posted_json(request, self._max_body_bytes, "series to be scored")
        found = await run_in_threadpool(lambda: self._backend.score(tree))
        if found is None:
            return JSONResponse({"error": f"no model version has the id {str(tree.get('model'))[:100]}"}, 404)
        return JSONResponse(found)
