"""Export: a version as a file with a scorer beside it that needs only numpy, and as recording rules of Prometheus."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from otel_aiops import __version__
from otel_aiops.errors import BadInput
from otel_aiops.lifecycle.alone import FORM, told_of
from otel_aiops.lifecycle.bundler import bundle
from otel_aiops.lifecycle.version import Models
from otel_aiops.pipeline import PipelineConfig
from otel_aiops.series.disk import storage_errors, whole_file

SUFFIX = ".npz"
DETECTORS = ("level", "season", "shift", "variance", "flat", "constant", "novelty")  # and the families that it has


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the model and the scorer, and what the scorer has and leaves out, in plain words."""

    model: Path
    scorer: Path
    series: int
    detectors: tuple[str, ...]
    without: tuple[str, ...]


def export(models: Models, name: str, out: Path, config: PipelineConfig) -> Exported:
    """Write a version to `out`, and the scorer beside it. The same version gives the same bytes.

    Raises: BadInput when there is no such version, StateError when it was changed, StorageError.
    """
    if out.suffix != SUFFIX:
        raise BadInput(f"{out}: expected a name that ends in {SUFFIX}, got {out.name!r}")
    version, of = models.load(name)
    told = {"form": FORM, "id": version.id, "code": __version__, "detection": asdict(version.settings.detection)}
    parts = {"engine": of.engine, "prototypes": of.prototypes, "forest": of.forest, "forecast": of.forecast}
    arrays = {f"{part}/{key}": array for part, some in parts.items() for key, array in some.items()}
    scorer = out.with_suffix(".py")
    with storage_errors(f"exporting to {out}"):
        with whole_file(out) as file:
            np.savez(file, **told_of(told, of.labels), **arrays)  # type: ignore[arg-type]  # a mapping of names
        with whole_file(scorer) as file:
            file.write(bundle().encode())
    families = [name for name in ("forest", "forecast") if parts[name]]
    return Exported(out, scorer, len(of.labels), (*DETECTORS, *families), without(config))


def without(config: PipelineConfig) -> tuple[str, ...]:
    """What a service with this configuration does besides, that no version holds."""
    parts = {
        "policies": bool(config.policies),
        "calendars": bool(config.calendar),
        "known jobs": config.jobs.enabled,
        "peers and services": config.peers.enabled or config.joint.enabled,
        "the alert budget": True,
        "rates and percentiles: values are taken as they are scored": True,
    }
    return tuple(name for name, there in parts.items() if there)
