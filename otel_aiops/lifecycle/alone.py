"""The scorer alone: what a version has learned goes on in a program of its own, which needs numpy and nothing else.

    python scorer.py model.npz < points.csv > scores.jsonl

Points are lines of CSV with a header, `timestamp,value` and `series` where there are several: unix seconds or ISO 8601,
a number, and a series by its labels as JSON or as it is shown to people. Each point is scored by what came before it,
then learned; `--save model.npz` keeps what was learned. A score of 1 is the threshold.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.detector import CHANNELS, FORECAST, FOREST
from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.detect.forest import Forests
from otel_aiops.detect.prototypes import Prototypes
from otel_aiops.detect.smoothing import Smoothing
from otel_aiops.errors import StateError
from otel_aiops.labels import Labels
from otel_aiops.series.batch import Batch
from otel_aiops.series.columns import json_array, json_tree, pack, unpack

FORM = 1  # of the file
TOLD = ("score", "probability", "expected", "lower", "upper", "alert")
PARTS = ("engine", "prototypes", "forest", "forecast")


class Alone:
    """A version with the series that it knows, and those that come; points are scored first and learned after."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """What `arrays` wrote. Raises: StateError."""
        told = json_tree(arrays, "version")
        if told.get("form") != FORM:
            raise StateError(f"expected a scorer's file of form {FORM}, got {told.get('form')!r}")
        parts: dict[str, dict[str, NDArray[Any]]] = {part: {} for part in PARTS}
        for path, array in arrays.items():
            part, _, name = path.partition("/")
            if part in parts:
                parts[part][name] = array
        self.told = told
        config = EngineConfig(**told["detection"])
        self.engine = Engine(config)
        self.engine.restore(parts["engine"])
        self._given = parts["prototypes"]
        self._prototypes = Prototypes.among(config, parts["prototypes"], parts["engine"])
        self._families: dict[int, Forests | Smoothing] = {}  # by channel
        if parts["forest"]:
            self._families[FOREST] = Forests(parts["forest"])
        if parts["forecast"]:
            self._families[FORECAST] = Smoothing(parts["forecast"])
        self.labels = [Labels.from_json(text.decode()) for text in unpack(arrays["labels"], arrays["ends"])]
        self._rows = {one.to_json(): row for row, one in enumerate(self.labels)}
        self._rows |= {str(one): row for row, one in enumerate(self.labels)}
        every = np.arange(len(self.labels), dtype=np.int32)
        self._newest_ns = dict(enumerate(self.engine.newest_ns(every).tolist()))
        for family in self._families.values():
            family.assign(every, self.labels)

    def row(self, series: str) -> int:
        """The row of a series by its labels; one that nobody knows gets one."""
        found = self._rows.get(series)
        if found is None:
            labels = Labels.from_json(series) if series.startswith("{") else Labels(series)
            found = self._rows.get(labels.to_json())
            if found is None:
                found = self._begin(labels)
            self._rows[series] = found
        return found

    def _begin(self, labels: Labels) -> int:
        row = len(self.labels)
        self.labels.append(labels)
        self._rows[labels.to_json()] = row
        new = np.array([row], np.int32)
        for family in self._families.values():
            family.assign(new, [labels])
        sources = self._prototypes.find([labels]) if self._prototypes else np.full(1, -1, np.int32)
        if self._prototypes and sources[0] >= 0:
            self.engine.inherit(new, sources, self._prototypes.engine)
        return row

    def score(self, rows: Sequence[int], time_ns: int, values: Sequence[float]) -> list[dict[str, Any]]:
        """Score points of different series at one time, then learn from them.

        What is not newer than the point before of its series in this run, or is no number, is skipped.
        """
        at = [k for k, row in enumerate(rows) if math.isfinite(values[k]) and self._newer(row, time_ns)]
        answers: list[dict[str, Any]] = [{"skipped": "no number, or not newer than the one before"} for _ in rows]
        if not at:
            return answers
        of = np.array([rows[k] for k in at], np.int32)
        before = np.array([self._newest_ns.get(rows[k], 0) for k in at])
        interval_s = np.where((before > 0) & (before < time_ns), (time_ns - before) / 1e9, np.nan)
        value = np.array([values[k] for k in at], np.float64)
        batch = Batch(of, np.full(len(at), time_ns, np.int64), value, interval_s)
        with np.errstate(all="ignore"):
            said = own = self.engine.score(batch)
            for family in self._families.values():
                said = family.combined(batch, said)
            for i, k in enumerate(at):
                answers[k] = self._told(batch, said, i)
            self.engine.learn(batch, own)
        for k in at:
            self._newest_ns[rows[k]] = time_ns
        return answers

    def _newer(self, row: int, time_ns: int) -> bool:
        return bool(time_ns != self._newest_ns.get(row, 0))

    def _told(self, batch: Batch, scores: Any, i: int) -> dict[str, Any]:
        """A point as plain values; what is not known is None."""
        numbers = {name: float(getattr(scores, name)[i]) for name in TOLD}
        channel, why = int(scores.channel[i]), ""
        if numbers["score"] >= 1:
            row = int(batch.rows[i])
            unit = self.labels[row].unit
            family = self._families.get(channel)
            why = family.reason(row, unit) if family else self.engine.reason(batch, scores, i, unit)
        plain = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        return {**plain, "channel": CHANNELS[channel], "reason": why}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Everything, also what was learned since."""
        parts = {
            "engine": self.engine.state(),
            "prototypes": self._prototypes.state() if self._prototypes else {},
            "forest": self._families[FOREST].learned() if FOREST in self._families else {},
            "forecast": self._families[FORECAST].learned() if FORECAST in self._families else {},
        }
        named = {f"{part}/{name}": array for part, of in parts.items() for name, array in of.items()}
        return {**told_of(self.told, [one.to_json() for one in self.labels]), **named}


def told_of(told: Mapping[str, Any], labels: Sequence[str]) -> dict[str, NDArray[Any]]:
    """What a file says beside what was learned: the version, and the series in the order of their rows."""
    flat, ends = pack([one.encode() for one in labels])
    return {"version": json_array(dict(told)), "labels": flat, "ends": ends}


def time_ns_of(text: str) -> int:
    """Unix seconds, or ISO 8601 (UTC without a zone)."""
    if text.isdigit():
        return int(text) * 1_000_000_000
    try:
        return round(float(text) * 1e6) * 1_000
    except ValueError:
        at = datetime.fromisoformat(text)
        return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1e6) * 1_000


def moments(lines: Iterable[Mapping[str, str]]) -> Iterator[tuple[int, list[tuple[str, float]]]]:
    """Lines of CSV by their times, those together that follow each other with one time and different series."""
    time_ns, some = 0, []  # type: tuple[int, list[tuple[str, float]]]
    for line in lines:
        at, series = time_ns_of(line["timestamp"]), line.get("series") or "value"
        if some and (at != time_ns or any(series == other for other, _ in some)):
            yield time_ns, some
            some = []
        time_ns = at
        some.append((series, float(line["value"] or "nan")))
    if some:
        yield time_ns, some


def main(arguments: Sequence[str] | None = None, source: TextIO | None = None, sink: TextIO | None = None) -> int:
    """Score what comes on standard input; the exit code."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("model", help="what `otel-aiops export` wrote")
    asked.add_argument("--save", help="where to keep what was learned", default="")
    of = asked.parse_args(arguments)
    with np.load(of.model, allow_pickle=False) as file:
        alone = Alone({name: file[name] for name in file.files})
    sink = sink or sys.stdout
    for time_ns, some in moments(csv.DictReader(source or sys.stdin)):
        rows = [alone.row(series) for series, _ in some]
        for (series, value), answer in zip(some, alone.score(rows, time_ns, [one for _, one in some]), strict=True):
            known = {"timestamp": time_ns / 1e9, "series": series, "value": value if math.isfinite(value) else None}
            sink.write(json.dumps({**known, **answer}) + "\n")
    if of.save:
        with Path(of.save).open("wb") as kept:
            np.savez(kept, **alone.arrays())  # type: ignore[arg-type]  # a mapping of names
    return 0


if __name__ == "__main__":
    sys.exit(main())
