"""A small shop of really instrumented services with PostgreSQL behind and load in front, and the faults it can have.

    load -> orders (Flask) -> basket (Node.js, Express) -> stock (Starlette) -> PostgreSQL
                    `-----------------------------------------------------------> PostgreSQL

OpenTelemetry's auto-instrumentation is all that the services have of telemetry. Everything listens on loopback.
"""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import requests

from tests.postgres import Postgres
from tests.servers import Aiops, Server, free_port, require, running_collector
from tests.tools.javascript import shop_javascript
from tests.tools.python import shop_python

SERVICES = Path(__file__).parent / "shop_services"
NAMES = ("orders", "basket", "stock")
DATABASE = "shop"
ARTICLES = 200_000  # looking for one of these without an index takes some 20 ms, with it some 0.1 ms
SCHEMA = f"""
CREATE TABLE articles (sku text, stock int, price numeric(9, 2));
INSERT INTO articles SELECT 'sku-' || n, n % 90 + 1, 1 + n % 500 / 10.0 FROM generate_series(1, {ARTICLES}) n;
CREATE INDEX articles_sku ON articles (sku);
CREATE TABLE orders (id serial PRIMARY KEY, sku text, price numeric(9, 2));
INSERT INTO orders (sku, price) SELECT 'sku-' || n, 10 FROM generate_series(1, 100) n;
ANALYZE;
"""
TELEMETRY = {
    "OTEL_TRACES_EXPORTER": "otlp",
    "OTEL_METRICS_EXPORTER": "otlp",
    "OTEL_LOGS_EXPORTER": "otlp",
    "OTEL_METRIC_EXPORT_INTERVAL": "5000",
    "OTEL_BSP_SCHEDULE_DELAY": "1000",
    "OTEL_BLRP_SCHEDULE_DELAY": "1000",
    "OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED": "true",
    "OTEL_SEMCONV_STABILITY_OPT_IN": "http,database",
    # host-metrics has process.cpu.utilization, is off unless named, and naming one turns the others off
    "OTEL_NODE_ENABLED_INSTRUMENTATIONS": "express,host-metrics,http,net,pino,router,runtime-node,undici",
    "OTEL_NODE_RESOURCE_DETECTORS": "env,host,process,serviceinstance",  # the others ask clouds that are not there
}


class Load:
    """Requests to the shop at a steady rate from a thread of its own: orders placed and orders read."""

    def __init__(self, url: str, *, rate: float = 25.0, seed: int = 1) -> None:
        self._url, self._every_s, self._random = url, 1 / rate, random.Random(seed)
        self._stop = threading.Event()
        self._free = threading.Semaphore(8)  # a shop that answers slowly gets no more than this at a time
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._lock = threading.Lock()
        self.answered: dict[int, int] = {}

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with ThreadPoolExecutor(8) as pool, requests.Session() as session:
            due = time.monotonic()
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                due = max(due + self._every_s, time.monotonic() - 1)
                number, place = self._random.randint(1, 100), self._random.random() < 0.6
                if self._free.acquire(blocking=False):
                    pool.submit(self._one, session, number, place)

    def _one(self, session: requests.Session, number: int, place: bool) -> None:
        try:
            if place:
                answer = session.post(f"{self._url}/orders", params={"sku": f"sku-{number * 1999}"}, timeout=10)
            else:
                answer = session.get(f"{self._url}/orders/{number}", timeout=10)
            status = answer.status_code
        except requests.RequestException:
            status = 0
        finally:
            self._free.release()
        with self._lock:
            self.answered[status] = self.answered.get(status, 0) + 1


class Shop:
    """The services, the database, the Collector, the load and `otel-aiops serve`, all real."""

    def __init__(self, folder: Path, config: str) -> None:
        node, python = require(shop_javascript), require(shop_python)
        self._folder = folder
        self._stack = ExitStack()
        self.aiops = Aiops(folder, config)
        self.database = Postgres(folder, DATABASE, SCHEMA)
        listeners = ("OTLP_GRPC", "OTLP_HTTP", "HEALTH", "SELF", *NAMES)
        self._ports = ports = {name: free_port() for name in listeners}
        instrumented = [str(python / "opentelemetry-instrument"), str(python / "python")]
        register = ["node", "--require", "@opentelemetry/auto-instrumentations-node/register", "basket.js"]
        basket, stock = (f"http://127.0.0.1:{ports[name]}" for name in ("basket", "stock"))
        orders_py, stock_py = ([*instrumented, str(SERVICES / name)] for name in ("orders.py", "stock.py"))
        uri = self.database.uri
        self.stock = self._service("stock", stock_py, DATABASE=uri)
        self.basket = self._service("basket", register, cwd=node, STOCK_URL=stock)
        self.orders = self._service("orders", orders_py, DATABASE=uri, BASKET_URL=basket)
        self.load = Load(f"http://127.0.0.1:{ports['orders']}")

    @property
    def collector_metrics(self) -> str:
        """What the Collector says of itself."""
        return requests.get(f"http://127.0.0.1:{self._ports['SELF']}/metrics", timeout=10).text

    def _service(self, name: str, command: list[str], cwd: Path | None = None, **known: str) -> Server:
        grpc = command[0] != "node"
        telemetry = {
            "OTEL_SERVICE_NAME": name,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc" if grpc else "http/protobuf",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self._ports['OTLP_GRPC' if grpc else 'OTLP_HTTP']}",
        }
        environment = {**TELEMETRY, **telemetry, **known, "PORT": str(self._ports[name]), "PYTHONPATH": ""}
        return Server(command, self._folder / f"{name}.log", env=environment, cwd=cwd)

    def __enter__(self) -> Shop:
        with ExitStack() as stack:
            stack.enter_context(self.database)
            stack.enter_context(self.aiops)
            values = {name: f"127.0.0.1:{self._ports[name]}" for name in ("OTLP_GRPC", "OTLP_HTTP", "HEALTH")}
            values |= {"AIOPS_GRPC": f"127.0.0.1:{self.aiops.grpc}", "SELF_PORT": str(self._ports["SELF"])}
            config = SERVICES / "collector.yaml"
            stack.enter_context(running_collector(config, self._folder, values, health=self._ports["HEALTH"]))
            for name, server in (("stock", self.stock), ("basket", self.basket), ("orders", self.orders)):
                stack.callback(server.kill)  # Node.js, when instrumented, stays on SIGTERM
                server.start(_listens(self._ports[name]))
            stack.enter_context(self.load)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def slow_query(self) -> Iterator[None]:
        """The stock's query loses its index; every other query stays as fast as it was."""
        self.database.sql("DROP INDEX articles_sku")
        try:
            yield
        finally:
            self.database.sql("CREATE INDEX articles_sku ON articles (sku)")

    @contextlib.contextmanager
    def crashed_database(self) -> Iterator[None]:
        """PostgreSQL is gone, from one moment to the next."""
        self.database.server.kill()
        try:
            yield
        finally:
            self.database.start()

    @contextlib.contextmanager
    def crashed_service(self) -> Iterator[None]:
        """The stock is gone, and what it had not sent yet."""
        self.stock.kill()
        try:
            yield
        finally:
            self.stock.start(_listens(self._ports["stock"]))

    @contextlib.contextmanager
    def cpu_hog(self) -> Iterator[None]:
        """The basket's process spins."""
        self.basket.signal(signal.SIGUSR2)
        try:
            yield
        finally:
            self.basket.signal(signal.SIGUSR2)


def _listens(port: int) -> Callable[[], bool]:
    """Asked without a request, which would be in the telemetry."""

    def ready() -> bool:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True

    return ready
