"""Knows what is in stock and what it costs, from PostgreSQL."""

from __future__ import annotations

import logging
import os

import psycopg
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

logging.basicConfig(level=logging.INFO)
log = logging.getLogger("stock")
DATABASE = os.environ["DATABASE"]


def article(request: Request) -> Response:
    """Stock and price of an article; runs in Starlette's threads."""
    sku = request.path_params["sku"]
    with psycopg.connect(DATABASE, autocommit=True, connect_timeout=2) as connection:
        row = connection.execute("SELECT stock, price FROM articles WHERE sku = %s", (sku,)).fetchone()
    if row is None:
        log.warning("article %s is not known", sku)
        return JSONResponse({"error": "not found"}, 404)
    log.info("article %s: %d in stock", sku, row[0])
    return JSONResponse({"sku": sku, "stock": row[0], "price": float(row[1])})


def health(_: Request) -> Response:
    return PlainTextResponse("ok")


app = Starlette(routes=[Route("/stock/{sku}", article), Route("/health", health)])

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
