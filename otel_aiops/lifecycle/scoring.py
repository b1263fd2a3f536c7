"""Scoring with a version beside the service: one that was registered, or the champion of a data directory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from otel_aiops.detect.serving import Rules, Trained
from otel_aiops.errors import BadInput, StateError
from otel_aiops.labels import Labels
from otel_aiops.lifecycle.apart import Apart, Loaded
from otel_aiops.lifecycle.version import Models
from otel_aiops.pipeline import Pipeline, PipelineConfig
from otel_aiops.series import snapshot

CHAMPION = "champion"


def rules_of(config: PipelineConfig) -> Rules:
    """What a configuration says that every version follows."""
    return Rules(config.policies, config.calendar, config.jobs, config.budgets, config.budget)


def load(directory: Path, name: str, config: PipelineConfig) -> Loaded:
    """A version of a data directory by its id, or what serves there. Raises: BadInput, StateError, StorageError."""
    if name == CHAMPION:
        return Loaded(_champion(directory, config))
    return Loaded(Models(directory / "lifecycle" / "models").trained(name))


def apart(version: Loaded, labels: Sequence[Labels], rules: Rules) -> Apart:
    """A copy of what a version knows of these series."""
    found = [version.rows.get(one.to_json(), -1) for one in labels]
    known = [row for row in found if row >= 0]
    at = np.cumsum([row >= 0 for row in found]) - 1
    places = [int(k) if row >= 0 else -1 for row, k in zip(found, at, strict=True)]
    return Apart(version.copy(np.array(known, np.int32)), places, labels, rules)


def named(version: Loaded, names: Iterable[str]) -> list[Labels]:
    """Labels of series of a file: they are called as in the history (canonical JSON), or as people are shown them."""
    shown: dict[str, list[str]] = {}
    for text in version.rows:
        shown.setdefault(str(Labels.from_json(text)), []).append(text)
    found = []
    for name in names:
        if len(texts := shown.get(name, ())) > 1:
            raise BadInput(f"series: {len(texts)} series of the version are shown as {name[:200]}; give their labels")
        text = texts[0] if texts else name
        try:
            found.append(Labels.from_json(text) if text.startswith("{") else Labels(text))
        except ValueError:
            found.append(Labels(text))
    if len(set(found)) != len(found):
        raise BadInput("series: expected each once, got one under its labels and under its name")
    return found


def _champion(directory: Path, config: PipelineConfig) -> Trained:
    """What serves, as the newest snapshot that is whole knows it; the service may be running."""
    known = snapshot.Snapshots(directory / "snapshots")
    refused: list[str] = []
    for sequence in reversed(known.sequences()):
        try:
            arrays = known.read(sequence)
        except StateError as error:
            refused.append(str(error))
            continue
        pipeline = Pipeline(config)
        pipeline.restore(arrays)
        rows = pipeline.table.live()
        labels = [one.to_json() for one in pipeline.table.labels_of(rows)]
        return pipeline.serving.champion.trained(rows, labels)
    raise BadInput("; ".join(refused) or f"{directory}: expected a snapshot of what serves, there is none yet")
