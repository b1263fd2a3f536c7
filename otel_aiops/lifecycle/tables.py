"""The table of the series of a dataset: what each is like, and by which names labels may mean it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_aiops.errors import StateError
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.truth import Label
from otel_aiops.otlp.points import F64, I64
from otel_aiops.series.disk import whole_file

COLUMNS = {
    "fingerprint": np.uint64,
    "rows": np.int64,
    "first_ns": np.int64,
    "last_ns": np.int64,
    "interval_s": np.float64,
    "missing_ratio": np.float64,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesTable:
    """M series by name, all arrays (M,); `interval_s` is NaN where it is not known."""

    names: tuple[str, ...]
    fingerprint: NDArray[np.uint64]
    rows: I64
    first_ns: I64
    last_ns: I64
    interval_s: F64
    missing_ratio: F64

    @classmethod
    def of(cls, names: Sequence[str], fingerprint: NDArray[np.uint64], **columns: Any) -> SeriesTable:
        """In the order of names."""
        order = sorted(range(len(names)), key=names.__getitem__)
        sorted_ = {name: np.asarray(column)[order] for name, column in columns.items()}
        return cls(names=tuple(names[k] for k in order), fingerprint=fingerprint[order], **sorted_)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sha256(self) -> str:
        """Of what it says, whatever the file is written with."""
        found = hashlib.sha256()
        for name in self.names:
            found.update(name.encode("utf-8", "surrogatepass") + b"\0")
        for name, kind in COLUMNS.items():
            found.update(
                np.ascontiguousarray(getattr(self, name), kind).astype(np.dtype(kind).newbyteorder("<")).tobytes()
            )
        return found.hexdigest()

    def resolved(self, labels: Sequence[Label]) -> tuple[Label, ...]:
        """Labels with the canonical text of their series, where they have its fingerprint or its text for people."""
        wanted = {label.series for label in labels if label.series}
        if not wanted:
            return tuple(labels)
        known = {f"{number:016x}": name for number, name in zip(self.fingerprint.tolist(), self.names, strict=True)}
        if wanted - known.keys() - set(self.names):
            known |= {str(Labels.from_json(name)): name for name in self.names}
        return tuple(sorted(replace(one, series=known.get(one.series, one.series)) for one in labels))


def write_table(table: SeriesTable, path: Path) -> None:
    """Write a table as Parquet, whole or not at all. Raises: OSError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {name: getattr(table, name) for name in COLUMNS}
    with whole_file(path) as file:
        pq.write_table(pa.table({"series": pa.array(table.names, pa.string()), **columns}), file, compression="zstd")


def read_table(path: Path) -> SeriesTable:
    """What `write_table` wrote, under the hash of its content as its name. Raises: StateError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_table(path, partitioning=None)
        columns = {name: found[name].to_numpy().astype(kind) for name, kind in COLUMNS.items()}
        table = SeriesTable(names=tuple(found["series"].to_pylist()), **columns)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path}: the table of series is missing or damaged: {error}") from error
    if table.sha256 != path.stem:
        raise StateError(f"{path}: the table of series was changed")
    return table
