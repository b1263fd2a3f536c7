"""Model versions: settings and what was learned of many series, in a folder that is whole, or refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from otel_aiops.detect.engine import Engine, EngineConfig
from otel_aiops.detect.forest import Forests
from otel_aiops.detect.prototypes import Prototypes
from otel_aiops.detect.serving import Trained
from otel_aiops.detect.smoothing import Smoothing
from otel_aiops.errors import BadInput, ConfigError, StateError, StorageError
from otel_aiops.series.columns import Arrays, pack, unpack
from otel_aiops.series.disk import make_directory, storage_errors, whole_file

FORMAT = 1
ID = re.compile(r"[0-9a-f]{16}")
MODEL, BUNDLE = "model.json", "series.npz"
NUMBER_KINDS = "biuf"  # of numpy dtypes
PARTS = ("engine", "budget", "prototypes", "forest", "forecast")  # of a bundle, as it names them
LABELS = ("labels/bytes", "labels/ends")  # in the bundle: the canonical labels of each series


@dataclass(frozen=True, slots=True, kw_only=True)
class ForestConfig:
    """An isolation forest for the series of each service, see `detect.forest`."""

    trees: int = 25
    samples: int = 128  # moments that each tree is made of
    least_series: int = 3  # of a service, or it gets none
    most_series: int = 64
    most_moments: int = 20_000  # of a service that are looked at
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least, most in (("trees", 1, 500), ("samples", 8, 4_096), ("least_series", 2, 1_000)):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(name, f"must be in {least} .. {most}, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastConfig:
    """Holt-Winters forecasts of the means of series, where they beat the engine's, see `detect.smoothing`."""

    most_series: int = 1_000  # that are fitted; of more, those of which the most is to be expected
    gain: float = 0.05  # share of the engine's mean error on means that a forecast must save
    spreads: float = 6.0  # of its usual errors that are the threshold, at least

    def __post_init__(self) -> None:
        if not 1 <= self.most_series <= 100_000:
            raise ConfigError("most_series", f"must be in 1 .. 100000, got {self.most_series}")
        if not 0 <= self.gain < 1:
            raise ConfigError("gain", f"must be in [0, 1), got {self.gain}")
        if not 1 <= self.spreads <= 100:
            raise ConfigError("spreads", f"must be in 1 .. 100, got {self.spreads}")


Family = ForestConfig | ForecastConfig
FamilyName = Literal["forecast", "forest"]
FAMILIES: Mapping[str, type[Family]] = {  # beside the engine, which every version has
    "forecast": ForecastConfig,
    "forest": ForestConfig,
}


def families_of(names: Iterable[str]) -> tuple[Family, ...]:
    """Families by name, as they are by default, each once. Raises: BadInput."""
    wanted = sorted(set(names))
    if unknown := [name for name in wanted if name not in FAMILIES]:
        raise BadInput(f"family: expected some of {', '.join(FAMILIES)}, got {unknown[0]}")
    return tuple(FAMILIES[name]() for name in wanted)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a detector is made with. Two versions of the same settings differ in what they have learned."""

    detection: EngineConfig = field(default_factory=EngineConfig)
    families: tuple[Family, ...] = ()  # that score beside the engine, each at most once

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        names = {kind: name for name, kind in FAMILIES.items()}
        families = {names[type(one)]: dataclasses.asdict(one) for one in self.families}
        return {"detection": dataclasses.asdict(self.detection), **({"families": families} if families else {})}

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Settings:
        """What `to_json` gave. Raises: StateError."""
        try:
            families = tuple(FAMILIES[name](**of) for name, of in sorted(tree.get("families", {}).items()))
            return cls(EngineConfig(**tree["detection"]), families)
        except (KeyError, TypeError, ConfigError) as error:
            raise StateError(f"settings: expected those of this version of otel-aiops, got {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where a version comes from: all of it can be looked up, so that it can be made again."""

    dataset: str = ""  # id of the manifest; "" for what a service has learned live
    objective: str = ""  # id
    parent: str = ""  # id of the version that it is to replace
    code: str = ""  # version of otel-aiops, and the commit where it is known
    config: str = ""  # hash of the configuration that it was trained under
    seed: int = 0
    until_ns: int = 0  # the newest point that it has learned from
    why: str = ""
    who: str = ""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What was learned: row i of the arrays is the series with labels[i], as canonical JSON."""

    labels: tuple[str, ...]
    engine: Arrays
    budget: Arrays = field(default_factory=dict)  # thresholds and rates by objective, see `Budget.learned`
    prototypes: Arrays = field(default_factory=dict)  # which rows new series begin with, see `Prototypes`
    forest: Arrays = field(default_factory=dict)  # see `Forests`
    forecast: Arrays = field(default_factory=dict)  # see `Smoothing`

    @classmethod
    def saved(cls, of: Trained) -> Bundle:
        """Of a version that serves, see `Model.trained`."""
        return cls(of.labels, of.engine, of.budget, of.prototypes, of.forest, of.forecast)

    def trained(self, detection: EngineConfig) -> Trained:
        """As serving takes it, with these settings."""
        return Trained(detection, self.labels, self.engine, self.budget, self.prototypes, self.forest, self.forecast)

    def arrays(self) -> Arrays:
        """All of it, by path."""
        flat, ends = pack([one.encode("utf-8", "surrogatepass") for one in self.labels])
        named = {f"{part}/{name}": array for part in PARTS for name, array in getattr(self, part).items()}
        return {LABELS[0]: flat, LABELS[1]: ends, **named}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]]) -> Bundle:
        """What `arrays` gave. Raises: StateError."""
        if missing := [name for name in LABELS if name not in arrays]:
            raise StateError(f"bundle: expected {', '.join(LABELS)}, got no {', '.join(missing)}")
        try:
            lines = unpack(arrays[LABELS[0]], arrays[LABELS[1]])
            labels = tuple(line.decode("utf-8", "surrogatepass") for line in lines)
        except (UnicodeDecodeError, TypeError) as error:
            raise StateError(f"bundle: expected labels as text, got {error}") from error
        parts: dict[str, Arrays] = {part: {} for part in PARTS}
        for path, array in arrays.items():
            part, _, name = path.partition("/")
            if part in parts:
                parts[part][name] = array
            elif path not in LABELS:
                raise StateError(f"bundle: expected arrays of labels, {', '.join(parts)}, got {path}")
        return cls(labels, **parts)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a bundle holds: serving refuses one whose arrays are others than the signature says."""

    series: int
    arrays: Mapping[str, tuple[str, tuple[int, ...]]]  # name → dtype, shape

    @classmethod
    def of(cls, bundle: Bundle) -> Signature:
        """The signature of a bundle."""
        arrays = {name: (array.dtype.str, tuple(array.shape)) for name, array in sorted(bundle.arrays().items())}
        return cls(len(bundle.labels), arrays)


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version as it is registered. `id` is the hash of all that it is; `digest` is SHA-256 of the bundle's file."""

    id: str
    settings: Settings
    lineage: Lineage
    signature: Signature
    digest: str

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        arrays = {name: [kind, list(shape)] for name, (kind, shape) in self.signature.arrays.items()}
        return {
            "format": FORMAT,
            "id": self.id,
            "settings": self.settings.to_json(),
            "lineage": dataclasses.asdict(self.lineage),
            "signature": {"series": self.signature.series, "arrays": arrays},
            "digest": self.digest,
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> ModelVersion:
        """What `to_json` gave. Raises: StateError when it is another format, or was changed."""
        if not isinstance(tree, Mapping) or tree.get("format") != FORMAT:
            came = tree.get("format") if isinstance(tree, Mapping) else tree
            raise StateError(f"model: expected format {FORMAT}, got {came!r}")
        try:
            arrays = {name: (kind, tuple(shape)) for name, (kind, shape) in tree["signature"]["arrays"].items()}
            signature = Signature(tree["signature"]["series"], arrays)
            settings, lineage = Settings.from_json(tree["settings"]), Lineage(**tree["lineage"])
            found = cls(tree["id"], settings, lineage, signature, tree["digest"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StateError(f"model: expected a version as JSON, got {error!r}") from error
        wanted = _id(settings, lineage, signature, found.digest)
        if found.id != wanted:
            raise StateError(f"model: expected the id {wanted} of its content, got {found.id!r}: it was changed")
        return found


class Models:
    """The versions below a folder, `models/<id>/`. Written once and never changed; any number may read."""

    def __init__(self, directory: Path) -> None:
        self.directory = self._directory = directory

    def write(self, settings: Settings, bundle: Bundle, lineage: Lineage) -> ModelVersion:
        """Put a version down, durable when this returns. The same again is the same version. Raises: StorageError."""
        signature = Signature.of(bundle)
        _fitting(settings, bundle)
        with storage_errors(f"writing a model version to {self._directory}"):
            make_directory(self._directory)
            staged = self._directory / f".{os.getpid()}-{BUNDLE}"  # two may write at once
            with whole_file(staged) as file:
                np.savez(file, **bundle.arrays())  # type: ignore[arg-type]  # a mapping of names
            digest = _digest(staged)
            version = ModelVersion(_id(settings, lineage, signature, digest), settings, lineage, signature, digest)
            folder = self.folder(version.id)
            if self._whole(version.id, digest):  # as it was registered first, by whom and why
                staged.unlink()
                return self.version(version.id)
            make_directory(folder)
            staged.replace(folder / BUNDLE)
            with whole_file(folder / MODEL) as file:  # last: a folder without it is no version
                file.write(json.dumps(version.to_json(), indent=1, sort_keys=True).encode())
        return version

    def list(self) -> list[str]:
        """Ids of the versions that are whole, sorted."""
        return sorted(path.parent.name for path in self._directory.glob(f"*/{MODEL}") if ID.fullmatch(path.parent.name))

    def version(self, name: str) -> ModelVersion:
        """A version without what it has learned. Raises: BadInput where there is none, StateError if it was changed."""
        if not ID.fullmatch(name):
            raise BadInput(f"model version: expected 16 hexadecimal digits, got {name[:100]!r}")
        path = self.folder(name) / MODEL
        try:
            tree = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise BadInput(f"model version: expected one of {', '.join(self.list()) or 'none'}, got {name}") from None
        except OSError as error:
            raise StorageError(f"{path}: {error}") from error
        except ValueError as error:
            raise StateError(f"{path}: expected JSON, got {error}") from error
        version = ModelVersion.from_json(tree)
        if version.id != name:
            raise StateError(f"{path}: its name says {name}, its content {version.id}")
        return version

    def load(self, name: str) -> tuple[ModelVersion, Bundle]:
        """A version and what it has learned, checked against hash and signature. Raises: as `version`."""
        version = self.version(name)
        path = self.folder(name) / BUNDLE
        try:
            if (came := _digest(path)) != version.digest:
                raise StateError(f"{path}: expected SHA-256 {version.digest}, got {came}: it was changed")
            bundle = Bundle.of(read_arrays(path))
        except OSError as error:
            raise StorageError(f"{path}: {error}") from error
        if Signature.of(bundle) != version.signature:
            raise StateError(f"{path}: its arrays are others than the signature says")
        _fitting(version.settings, bundle)
        return version, bundle

    def trained(self, name: str) -> Trained:
        """What a version has learned, as serving takes it. Raises: as `version`."""
        version, of = self.load(name)
        return of.trained(version.settings.detection)

    def _whole(self, name: str, digest: str) -> bool:
        """Whether a version is there as it was written."""
        try:
            return self.version(name).digest == digest == _digest(self.folder(name) / BUNDLE)
        except (BadInput, StateError, OSError):
            return False

    def folder(self, name: str) -> Path:
        """Where the files of a version are."""
        return self._directory / name


def _fitting(settings: Settings, bundle: Bundle) -> None:
    """See that a detector can take the bundle over. Raises: StateError."""
    Engine(settings.detection).restore(bundle.engine)
    if bundle.forest:
        Forests(bundle.forest)
    if bundle.forecast:
        Smoothing(bundle.forecast)
    Prototypes.among(settings.detection, bundle.prototypes, bundle.engine)
    if (rows := len(bundle.engine["alerts/peak"])) != len(bundle.labels):
        raise StateError(f"bundle: expected the state of {len(bundle.labels)} series, got that of {rows}")


def read_arrays(path: Path) -> Arrays:
    """The arrays of a file, never unpickled. Raises: StateError."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise StateError(f"{path}: expected arrays of numbers, got {error}") from error
    for name, array in arrays.items():
        if array.dtype.kind not in NUMBER_KINDS:
            raise StateError(f"{path}: {name}: expected an array of numbers, got {array.dtype}")
    return arrays


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _id(settings: Settings, lineage: Lineage, signature: Signature, digest: str) -> str:
    """The hash of the content; who made it, and why, is not part of it."""
    content = dataclasses.asdict(lineage)
    del content["who"], content["why"]
    whole = {"settings": settings.to_json(), "lineage": content, "series": signature.series, "digest": digest}
    return hashlib.sha256(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]
