"""What the shop is made of: services, their operations as trees of calls, and what users ask for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum


class How(StrEnum):
    """How a call is made, which decides its spans."""

    GRPC = "grpc"
    HTTP = "http"
    DATABASE = "postgresql"
    CACHE = "redis"
    SEND = "kafka"
    RECEIVE = "receive"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Call:
    """A call of an operation: of another one (`target` is its key), of a database, a cache or a queue, or of itself.

    `took_s` is the median time where no other operation answers. `miss` is what is called where the cache does not
    know. Of `attempts` the second and later are made when one fails. What is not `required` may fail.
    """

    how: How
    target: str
    name: str
    took_s: float = 0.0
    attempts: int = 1
    required: bool = True
    chance: float = 1.0
    hit: float = 1.0
    miss: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log: before which stage it is written (-1: at the end), severity, and the text of four numbers."""

    stage: int
    severity: int
    text: str


@dataclass(frozen=True, slots=True)
class Operation:
    """What a service can be asked for. Calls of a stage run at the same time, stages one after the other.

    `own_s` is the median time that it works itself, `fails` how often it fails on a normal day.
    """

    service: str
    name: str
    how: How
    own_s: float
    stages: tuple[tuple[Call, ...], ...] = ()
    lines: tuple[Line, ...] = ()
    fails: float = 0.0

    @property
    def key(self) -> str:
        return f"{self.service} {self.name}"


@dataclass(frozen=True, slots=True)
class Service:
    """A service: how many pods it has, what part of its processors is busy at noon, and whether it keeps files."""

    name: str
    pods: int
    busy: float = 0.2
    volume: bool = False
    language: str = field(default="python")


DEBUG, INFO, WARN, ERROR = 5, 9, 13, 17

SERVICES = (
    Service("web", 3, language="nodejs"),
    Service("auth", 2, language="go"),
    Service("catalog", 3, language="java"),
    Service("cart", 3, language="dotnet"),
    Service("search", 3, busy=0.45, volume=True, language="java"),
    Service("recommendation", 2, busy=0.45),
    Service("checkout", 3, language="go"),
    Service("payment", 2, language="nodejs"),
    Service("inventory", 2, volume=True, language="java"),
    Service("shipping", 2, language="rust"),
    Service("worker", 2, volume=True),
)
TOPIC, CONSUMER = "orders", "worker process orders"
PEERS = (How.DATABASE, How.CACHE, How.SEND)


def grpc(target: str, method: str, **more: object) -> Call:
    """A call of another service over gRPC."""
    name = f"shop.{target.capitalize()}Service/{method}"
    return Call(How.GRPC, f"{target} {name}", name, **more)  # type: ignore[arg-type]


def http(target: str, route: str, **more: object) -> Call:
    """A call of another service over HTTP."""
    return Call(How.HTTP, f"{target} {route}", route.split()[0], **more)  # type: ignore[arg-type]


def sql(verb: str, table: str, took_s: float = 0.003) -> Call:
    """A statement to the database."""
    return Call(How.DATABASE, table, f"{verb} {table}", took_s)


def redis(command: str, what: str, *, hit: float = 1.0, miss: tuple[Call, ...] = ()) -> Call:
    """A command to the cache."""
    return Call(How.CACHE, what, command, 0.0006, hit=hit, miss=miss)


def cached(what: str, hit: float, table: str, took_s: float = 0.003) -> Call:
    """A look into the cache, and where it does not know, into the database, which is then remembered."""
    return redis("GET", what, hit=hit, miss=(sql("SELECT", table, took_s), redis("SET", what)))


def work(name: str, took_s: float) -> Call:
    """Something that the service does itself and gives a span to."""
    return Call(How.INTERNAL, "", name, took_s)


def _web(
    route: str, own_ms: float, *stages: tuple[Call, ...], lines: tuple[Line, ...] = (), fails: float = 0.0
) -> Operation:
    served = Line(-1, INFO, f"{route.split()[0]} {route.split()[1].split('{')[0]} served to user {{1}} in {{2}} ms")
    return Operation("web", route, How.HTTP, own_ms / 1000, stages, (*lines, served), fails)


def _rpc(service: str, method: str, own_ms: float, *stages: tuple[Call, ...], **more: object) -> Operation:
    name = f"shop.{service.capitalize()}Service/{method}"
    return Operation(service, name, How.GRPC, own_ms / 1000, stages, **more)  # type: ignore[arg-type]


def _rest(service: str, route: str, own_ms: float, *stages: tuple[Call, ...], **more: object) -> Operation:
    return Operation(service, route, How.HTTP, own_ms / 1000, stages, **more)  # type: ignore[arg-type]


VERIFY = (grpc("auth", "Verify", attempts=2),)
PRODUCT = grpc("catalog", "GetProduct")
PRICES = grpc("catalog", "GetPrices")

ENTRIES = (
    (
        0.13,
        _web(
            "GET /",
            3,
            (grpc("catalog", "ListProducts"), http("recommendation", "GET /recommendations", required=False)),
        ),
    ),
    (
        0.22,
        _web(
            "GET /products/{id}",
            3,
            (
                PRODUCT,
                grpc("inventory", "GetStock", attempts=3),
                http("recommendation", "GET /recommendations", required=False),
            ),
            lines=(Line(0, DEBUG, "product page {0:08x} asked for by 10.8.{3}.{3}"),),
        ),
    ),
    (0.16, _web("GET /search", 3, (http("search", "GET /search", attempts=3),))),
    (0.12, _web("GET /cart", 2, VERIFY, (grpc("cart", "GetCart", attempts=2),))),
    (0.1, _web("POST /cart", 2, VERIFY, (grpc("inventory", "GetStock", attempts=3),), (grpc("cart", "AddItem"),))),
    (0.03, _web("DELETE /cart/{item}", 2, VERIFY, (grpc("cart", "RemoveItem"),))),
    (0.08, _web("POST /checkout", 4, VERIFY, (grpc("checkout", "PlaceOrder"),))),
    (0.05, _web("POST /login", 2, (grpc("auth", "Login"),))),
    (0.04, _web("GET /orders", 2, VERIFY, (grpc("checkout", "ListOrders"),))),
    (0.04, _web("GET /shipping", 2, (http("shipping", "POST /quote"),))),
    (0.03, _web("GET /orders/{id}/track", 2, VERIFY, (http("shipping", "GET /track/{id}"),))),
)  # (part of the users' requests, what is asked for)

INNER = (
    _rpc(
        "auth",
        "Verify",
        1,
        (cached("session", 0.97, "sessions"),),
        lines=(Line(0, DEBUG, "verifying token {0:08x} of user {1}"), Line(-1, DEBUG, "user {1} verified")),
    ),
    _rpc(
        "auth",
        "Login",
        2,
        (sql("SELECT", "users"),),
        (work("verify password", 0.012),),
        (redis("SET", "session"),),
        lines=(
            Line(1, INFO, "login of user {1} from 10.8.{3}.{3}"),
            Line(-1, INFO, "session {0:08x} opened for user {1}"),
        ),
    ),
    _rpc(
        "catalog",
        "GetProduct",
        1.5,
        (cached("product", 0.92, "products"),),
        lines=(Line(-1, DEBUG, "product {1} found"),),
    ),
    _rpc(
        "catalog",
        "ListProducts",
        4,
        (cached("front-page", 0.85, "products", 0.009),),
        lines=(Line(-1, INFO, "listed {2} products for page {3}"),),
    ),
    _rpc("catalog", "GetPrices", 1.5, (sql("SELECT", "prices", 0.002),)),
    _rpc(
        "cart",
        "GetCart",
        1.5,
        (redis("HGETALL", "cart"),),
        (PRICES,),
        lines=(Line(1, DEBUG, "cart of user {1} has {3} items"),),
    ),
    _rpc(
        "cart",
        "AddItem",
        1.5,
        (redis("HGET", "cart"),),
        (redis("HSET", "cart"),),
        lines=(Line(0, INFO, "adding item {1} to cart {0:08x}"), Line(-1, INFO, "cart {0:08x} saved")),
    ),
    _rpc(
        "cart", "RemoveItem", 1, (redis("HDEL", "cart"),), lines=(Line(-1, INFO, "item {1} removed from cart {0:08x}"),)
    ),
    _rpc("cart", "EmptyCart", 1, (redis("DEL", "cart"),), lines=(Line(-1, INFO, "cart {0:08x} emptied"),)),
    _rest(
        "search",
        "GET /search",
        6,
        (work("parse query", 0.001),),
        (cached("query", 0.6, "documents", 0.015),),
        (work("rank results", 0.012),),
        (PRICES,),
        fails=0.001,
        lines=(Line(0, INFO, "query with {3} words from user {1}"), Line(3, DEBUG, "{2} documents ranked in {3} ms")),
    ),
    _rest(
        "recommendation",
        "GET /recommendations",
        4,
        (cached("profile", 0.8, "profiles"),),
        (work("score candidates", 0.015),),
        (PRODUCT, PRODUCT),
        lines=(Line(1, DEBUG, "profile of user {1} loaded"), Line(2, INFO, "{2} candidates scored, best is {1}")),
    ),
    _rpc(
        "checkout",
        "PlaceOrder",
        5,
        (grpc("cart", "GetCart", attempts=2),),
        (grpc("inventory", "Reserve"), http("shipping", "POST /quote"), PRICES),
        (grpc("payment", "Charge", attempts=4),),
        (sql("INSERT", "orders", 0.004),),
        (Call(How.SEND, TOPIC, f"send {TOPIC}", 0.002), grpc("cart", "EmptyCart")),
        lines=(
            Line(0, INFO, "placing order for user {1}"),
            Line(3, INFO, "payment went through for user {1}, {2}.{3:02d} EUR"),
            Line(-1, INFO, "order {0:08x} placed"),
        ),
    ),
    _rpc(
        "checkout",
        "ListOrders",
        2,
        (sql("SELECT", "orders", 0.006),),
        lines=(Line(-1, INFO, "{3} orders of user {1} listed"),),
    ),
    _rpc(
        "payment",
        "Charge",
        4,
        (sql("SELECT", "accounts"),),
        (work("fraud check", 0.02),),
        (sql("INSERT", "payments", 0.004),),
        fails=0.003,
        lines=(
            Line(0, INFO, "charging {2}.{3:02d} EUR to card ending {1:04d}"),
            Line(-1, INFO, "transaction {0:08x} settled in {2} ms"),
        ),
    ),
    _rpc(
        "inventory",
        "GetStock",
        1,
        (cached("stock", 0.8, "stock"),),
        lines=(Line(-1, DEBUG, "{3} pieces of product {1} in stock"),),
    ),
    _rpc(
        "inventory",
        "Reserve",
        2,
        (sql("UPDATE", "stock", 0.004),),
        lines=(Line(-1, INFO, "reserved {3} pieces for order {0:08x}"),),
    ),
    _rpc(
        "inventory",
        "Commit",
        2,
        (sql("UPDATE", "stock", 0.004),),
        lines=(Line(-1, INFO, "stock of product {1} is now {2}"),),
    ),
    _rest(
        "shipping",
        "POST /quote",
        3,
        (work("compute rates", 0.006),),
        (sql("SELECT", "zones", 0.002),),
        lines=(Line(-1, INFO, "quote of {2}.{3:02d} EUR for zip {1}"),),
    ),
    _rest(
        "shipping",
        "GET /track/{id}",
        2,
        (sql("SELECT", "parcels"),),
        lines=(Line(-1, INFO, "parcel {0:08x} is in depot {3}"),),
    ),
    _rest(
        "shipping",
        "POST /shipments",
        4,
        (sql("INSERT", "parcels", 0.004),),
        fails=0.001,
        lines=(Line(-1, INFO, "shipment {0:08x} handed to carrier {3}"),),
    ),
    Operation(
        "worker",
        f"process {TOPIC}",
        How.RECEIVE,
        0.2,
        (
            (grpc("inventory", "Commit"),),
            (work("render invoice", 0.2),),
            (http("shipping", "POST /shipments", attempts=2),),
            (sql("UPDATE", "orders", 0.004),),
        ),
        (
            Line(0, INFO, "order {0:08x} taken from partition {3}"),
            Line(2, DEBUG, "invoice {1} has {2} kB"),
            Line(-1, INFO, "order {0:08x} done, mail sent to user {1}"),
        ),
    ),
)
OPERATIONS = {operation.key: operation for operation in (*(entry for _, entry in ENTRIES), *INNER)}
IDLE = (  # what pods say now and then, outside of requests
    Line(0, INFO, "garbage collected in {3} ms, heap is {2} MB"),
    Line(0, INFO, "health check from 10.8.{3}.{3} answered in {3} ms"),
    Line(0, INFO, "connection pool has {3} idle connections"),
    Line(0, WARN, "clock differs from time server by {3} ms"),
)


def calls(operation: Operation) -> Iterator[tuple[int, Call]]:
    """Every call of an operation with its stage, those after a miss of a cache too."""
    for stage, group in enumerate(operation.stages):
        for call in group:
            yield stage, call
            yield from ((stage, missed) for missed in call.miss)


def demand_s() -> dict[str, float]:
    """Seconds that each service works itself for one request of a user, on average."""
    found = {service.name: 0.0 for service in SERVICES}

    def visit(operation: Operation, share: float) -> None:
        found[operation.service] += share * operation.own_s
        for _, call in calls(operation):
            if call.how is How.INTERNAL:
                found[operation.service] += share * call.took_s
            elif call.target in OPERATIONS:
                visit(OPERATIONS[call.target], share * call.chance)
            elif call.how is How.SEND:
                visit(OPERATIONS[CONSUMER], share)

    for share, entry in ENTRIES:
        visit(entry, share)
    return found
