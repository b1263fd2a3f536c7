"""Templates of log records: cost of a record, and how well lines with known templates are told apart."""

from __future__ import annotations

import random
import re
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from benchmarks.table import Row, best_s
from otel_aiops.otlp.log_records import LogRecords
from otel_aiops.signals.logs import Logs, LogsConfig
from otel_aiops.signals.templates import Templates, TemplatesConfig

LINES = 20_000
BATCH = 1_000  # records of a request
CHUNK = 100  # lines that are timed together, so that other work on the machine disturbs only some of them
REPEATS = 3
SERVICES = 10

# Parameters in braces: n number, h hex id, u UUID, w word, i address, m e-mail, p path part, l list, q quoted text.
KNOWN = (
    "User {w} logged in from {i} in {n} ms",
    "User {w} failed to log in from {i}",
    "Order {u} of customer {m} accepted, total {n}",
    "Order {u} of customer {m} rejected, total {n}",
    "GET /api/v1/orders/{n}/items took {n} ms",
    "POST /api/v1/carts/{h} took {n} ms",
    "cache hit for key {h}",
    "cache miss for key {h}",
    "Sending items {l} to warehouse",
    "Received {n} messages from queue {w} at offset {n}",
    "Connection to {i} refused after {n} tries",
    "Connection to {i} closed by peer",
    "payment: amount={n} currency={w} card={n}",
    "trace {h} span {h} get quote for {n} items",
    "trace {h} span {h} ship order to {q}",
    "GC pause {n} ms heap {n} of {n}",
    "Deadlock in table {w} of transaction {h}",
    "Slow query {q} took {n} ms",
    "worker started",
    "worker stopped",
    "Configuration reloaded from {p}",
    "Disk usage of {p} is {n} percent",
    "Config(name={w}, retries={n}, hosts={l}) loaded",
    "token expired for session {h}",
    "java.lang.IllegalStateException: no bean of {w} at step {n}",
)
WORDS = re.findall(
    r"\w+",
    "alice bob carol dave erin frank grace heidi ivan judy mallory oscar peggy rupert sybil trent victor walter amber "
    "olive pearl robin stella ruby",
)


def line(template: str, rng: random.Random) -> str:
    """A template with parameters."""

    def one(found: re.Match[str]) -> str:
        hexadecimal = f"{rng.getrandbits(128):032x}"
        return {
            "n": str(rng.randrange(10 ** rng.randrange(1, 7))),
            "h": hexadecimal[:16],
            "u": f"{hexadecimal[:8]}-{hexadecimal[8:12]}-{hexadecimal[12:16]}-{hexadecimal[16:20]}-{hexadecimal[20:]}",
            "w": rng.choice(WORDS),
            "i": f"10.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(256)}:{rng.randrange(65536)}",
            "m": f"{rng.choice(WORDS)}@example.com",
            "p": f"/var/lib/{rng.choice(WORDS)}{rng.randrange(100)}",
            "l": "[" + ", ".join(str(rng.randrange(1000)) for _ in range(rng.randrange(1, 12))) + "]",
            "q": "'" + " ".join(rng.choice(WORDS) for _ in range(rng.randrange(1, 8))) + "'",
        }[found[1]]

    return re.sub(r"\{(\w)\}", one, template)


def mix(rng: random.Random) -> tuple[list[str], list[int]]:
    """Lines and the templates that made them, frequent and rare ones."""
    weights = [1 / (1 + k % 9) for k in range(len(KNOWN))]
    truth = rng.choices(range(len(KNOWN)), weights, k=LINES)
    return [line(KNOWN[k], rng) for k in truth], truth


class Naive:
    """What one would write first: a few substitutions, and every template held against the line, as Drain has it."""

    MASKS = tuple(
        re.compile(p) for p in (r"[\w.]+@[\w.]+", r"[0-9a-f]{8}-[0-9a-f-]{27}", r"\b[0-9a-f]{16,}\b", r"\d+(?:\.\d+)*")
    )

    def __init__(self) -> None:
        self.templates: list[list[str]] = []

    def find(self, text: str) -> int:
        for mask in self.MASKS:
            text = mask.sub("<*>", text)
        tokens = text.split()
        best, best_share = -1, 0.4
        for number, kept in enumerate(self.templates):
            if len(kept) == len(tokens):
                share = sum(a == b for a, b in zip(kept, tokens, strict=True)) / max(len(kept), 1)
                if share > best_share:
                    best, best_share = number, share
        if best < 0:
            self.templates.append(tokens)
            return len(self.templates) - 1
        self.templates[best] = [a if a == b else "<*>" for a, b in zip(self.templates[best], tokens, strict=True)]
        return best


def accuracy(found: Sequence[int], truth: Sequence[int]) -> float:
    """Share of lines whose group is exactly the one of their template (grouping accuracy, Zhu et al. 2019)."""
    found_array, truth_array = np.asarray(found), np.asarray(truth)
    right = 0
    for number in np.unique(found_array):
        of = truth_array[found_array == number]
        if (of == of[0]).all() and (truth_array == of[0]).sum() == len(of):
            right += len(of)
    return right / len(truth_array)


def cost_us(run: Callable[[Sequence[str]], object], lines: Sequence[str]) -> float:
    """Median over chunks of the fastest of some runs, in microseconds a line."""
    chunks = [lines[k : k + CHUNK] for k in range(0, len(lines), CHUNK)]
    best = np.full(len(chunks), np.inf)
    for _ in range(REPEATS):
        for k, chunk in enumerate(chunks):
            start = time.perf_counter()
            run(chunk)
            best[k] = min(best[k], time.perf_counter() - start)
    return float(np.median(best)) / CHUNK * 1e6


def _mine(templates: Templates, lines: Sequence[str]) -> list[int]:
    count = len(lines)
    services, classes = np.ones(count, np.int32), np.full(count, 3, np.int64)
    found: list[int] = templates.find(services, classes, lines, [""] * count).tolist()
    return found


def _records(lines: Sequence[str]) -> tuple[LogRecords, np.ndarray]:
    count = len(lines)
    ids = np.arange(count, dtype=np.uint64)
    records = LogRecords(
        (b"",), np.zeros(count, np.int32), np.full(count, 5 * 10**9, np.int64), np.full(count, 9, np.uint8),
        list(lines), [""] * count, ids, ids, ids,
    )  # fmt: skip
    return records, np.arange(count, dtype=np.int32) % SERVICES


def _flood(rng: random.Random) -> list[str]:
    """Lines of made-up words, no two alike."""
    return [" ".join("".join(rng.choices("abcdefgh", k=5)) for _ in range(rng.randrange(3, 12))) for _ in range(LINES)]


def _memory_mb() -> float:
    """What stays after a flood."""
    tracemalloc.start()
    templates = Templates(TemplatesConfig())
    _mine(templates, _flood(random.Random(2)))
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return grown / 1e6


def run() -> Iterator[Row]:
    """Cost and accuracy on a mix of lines with known templates, against the naive version in the same run."""
    rng = random.Random(1)
    lines, truth = mix(rng)
    templates, naive = Templates(TemplatesConfig()), Naive()
    found, found_naive = _mine(templates, lines), [naive.find(text) for text in lines]
    peer = "four substitutions, Drain without tree"
    naive_us = cost_us(lambda some: [naive.find(text) for text in some], lines)
    yield Row(
        "a record of a mix, mined", cost_us(lambda some: _mine(templates, some), lines), naive_us, "us", peer, "less"
    )
    same = ["worker started"] * 2_000
    same_us = cost_us(lambda some: [naive.find(text) for text in some], same)
    yield Row(
        "a line without parameters, again",
        cost_us(lambda some: _mine(templates, some), same),
        same_us,
        "us",
        peer,
        "less",
    )
    wrapped = ['{"severity":"info","pid":1,"message":"' + text + '"}' for text in lines]
    yield Row("the same mix as JSON", cost_us(lambda some: _mine(templates, some), wrapped), 0, "us", peer, "less")
    letters = _flood(rng)
    full = Templates(TemplatesConfig())
    _mine(full, letters)
    yield Row(
        "a line of a flood that fits no template",
        cost_us(lambda some: _mine(full, some), letters),
        0,
        "us",
        peer,
        "less",
    )
    logs = Logs(LogsConfig(rate=1e9))
    records, services = _records(lines[:BATCH])
    add_us = best_s(lambda: logs.add(records, services, services, 0), 20) / BATCH * 1e6
    yield Row(f"a record through Logs.add, {BATCH} at a time", add_us, 0, "us", peer, "less")
    yield Row("grouping accuracy", accuracy(found, truth), accuracy(found_naive, truth), "share", peer)
    yield Row(
        f"templates found (there are {len(KNOWN)})", len(templates) - 1, len(naive.templates), "templates", peer, "less"
    )
    yield Row("memory after the flood", _memory_mb(), 0, "MB", peer, "less")
