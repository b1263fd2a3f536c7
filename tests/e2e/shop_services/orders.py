"""Takes orders: asks the basket (Node.js) whether the shop can deliver, writes the order to PostgreSQL."""

from __future__ import annotations

import logging
import os

import psycopg
import requests
import waitress
from flask import Flask, request
from flask.typing import ResponseReturnValue

logging.basicConfig(level=logging.INFO)
log = logging.getLogger("orders")
app = Flask("orders")
session = requests.Session()
BASKET = os.environ["BASKET_URL"]
DATABASE = os.environ["DATABASE"]
INSERT = "INSERT INTO orders (sku, price) VALUES (%s, %s) RETURNING id"


def database() -> psycopg.Connection:
    return psycopg.connect(DATABASE, autocommit=True, connect_timeout=2)


@app.post("/orders")
def place() -> ResponseReturnValue:
    """Place an order for one article."""
    sku = request.args["sku"]
    basket = session.get(f"{BASKET}/basket/{sku}", timeout=5)
    if basket.status_code != 200:
        log.error("no basket for %s: status %d", sku, basket.status_code)
        return {"error": "no basket"}, 502
    price = basket.json()["price"]
    with database() as connection:
        row = connection.execute(INSERT, (sku, price)).fetchone()
    assert row is not None
    log.info("order %d of %s placed for %.2f", row[0], sku, price)
    return {"id": row[0], "price": price}


@app.get("/orders/<int:number>")
def show(number: int) -> ResponseReturnValue:
    """An order as it was placed."""
    with database() as connection:
        row = connection.execute("SELECT sku, price FROM orders WHERE id = %s", (number,)).fetchone()
    if row is None:
        log.warning("order %d is not known", number)
        return {"error": "not found"}, 404
    log.info("order %d shown", number)
    return {"sku": row[0], "price": float(row[1])}


if __name__ == "__main__":
    waitress.serve(app, host="127.0.0.1", port=int(os.environ["PORT"]), threads=8)
