"""Import of a configuration of vmanomaly: its queries become policies, and every key that does not is told."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from otel_aiops.batch import promql
from otel_aiops.detect.policy import PolicyConfig, sides
from otel_aiops.errors import BadInput, ConfigError
from otel_aiops.server.endpoint import loopback
from otel_aiops.settings import UniqueKeys

Path = tuple[str, ...]

POLICY_KEYS = ("data_range", "detection_direction", "min_dev_from_expected", "min_rel_dev_from_expected")
MODEL_KEYS = (*POLICY_KEYS, "scale", "clip_predictions", "anomaly_score_outside_data_range")
ABSOLUTE_KEYS = ("data_range", "min_dev_from_expected")  # in the unit of the query's result
LEAST_OUTSIDE = 1.0
MARGIN, SPARSE = (
    0.5,
    5 / 60,
)  # promql-anomaly-detection's margin_multiplier and sparse_threshold, where nobody sets them

PULLED = "series are not queried here, they come by OTLP; `otel-aiops backfill URL` teaches them their past once"
RUNS = "there are no runs here: every point is scored and learned when it comes"
ENGINE = "one engine scores every series here and finds trend, season and spread by itself"
GUARDED = "whoever asks shows a token; `otel-aiops token create prometheus --role viewer --path /metrics` makes one"
SENSITIVITY = "is not taken over, as scores are not made the same way; `threshold` of the policy changes what makes 1"
ELSEWHERE: Mapping[Path, str] = {  # keys that have no counterpart, and why not
    **{("reader", key): PULLED for key in ("class", "datasource_url", "sampling_period", "query_range_path")},
    ("reader", "queries", "*", "step"): PULLED,
    ("schedulers", "*", "class"): RUNS,
    ("schedulers", "*", "infer_every"): RUNS,
    ("schedulers", "*", "fit_every"): RUNS,
    ("schedulers", "*", "fit_window"): RUNS + "; give it to `otel-aiops backfill URL --window`",
    ("models", "*", "class"): ENGINE,
    ("models", "*", "schedulers"): RUNS,
    ("models", "*", "args"): ENGINE,
    ("models", "*", "seasonalities"): ENGINE,
    ("models", "*", "tz_seasonalities"): ENGINE,
    ("models", "*", "decay"): "how fast series are learned is `detection.memory_points`, for all of them",
    (
        "models",
        "*",
        "min_n_samples_seen",
    ): "points before the first score are `detection.warmup_points`, for all series",
    ("models", "*", "z_threshold"): SENSITIVITY,
    ("models", "*", "threshold"): SENSITIVITY,
    ("models", "*", "iqr_threshold"): SENSITIVITY,
    ("models", "*", "groupby"): "every series has a score of its own here",
    ("models", "*", "forecast_at"): "scores and their band are about now",
    (
        "writer",
        "metric_format",
    ): "the names of vmanomaly come with `emit.compat: vmanomaly`; other formats have no counterpart",
    **{("writer", key): "set `exporters.otlp.headers`, with ${env:NAME} for a secret" for key in ("user", "password")},
    ("writer", "bearer_token"): "set `exporters.otlp.headers`, with ${env:NAME} for a secret",
    ("writer", "tenant_id"): "set `exporters.otlp.endpoint` to the OTLP path of that tenant",
    ("monitoring", "push"): "metrics of the service itself are on /metrics of the API",
    ("settings", "n_workers"): "one process scores all series",
    ("settings", "restore_state"): "what was learned always survives a restart",
    ("server",): "the API is at `api.endpoint`",
    ("preset",): "every series that arrives is scored, without a preset",
}
NO_COUNTERPART = "has no counterpart and is not taken over"
LOST = ("not taken over", "have no counterpart", "cannot be read", "is computed and is no series")  # in notes


@dataclass(frozen=True, slots=True)
class Imported:
    """A configuration as YAML, and what an operator should know about what became of the original."""

    config_yaml: str
    notes: list[str]

    @property
    def lost(self) -> list[str]:
        """The notes about what could not be converted."""
        return [note for note in self.notes if any(words in note for words in LOST)]


class _Source:
    """The tree of a file in which every key is taken, or else noted."""

    def __init__(self, tree: Mapping[str, Any]) -> None:
        self._tree = tree
        self._taken: set[Path] = set()
        self.notes: list[str] = []

    def get(self, *path: str) -> Any:
        """What stands at a path, None for nothing; it stays to be taken."""
        here: Any = self._tree
        for key in path:
            here = here.get(key) if isinstance(here, dict) else None
        return here

    def take(self, *path: str) -> Any:
        """What stands at a path, which is thereby taken care of."""
        self._taken.add(path)
        return self.get(*path)

    def section(self, *path: str) -> Mapping[str, Any]:
        """A mapping of keys, empty if there is none. Raises: ConfigError."""
        found = self.get(*path)
        if found is not None and not isinstance(found, dict):
            raise ConfigError(".".join(path), f"expected a mapping of keys, got {found!r}")
        return found or {}

    def note(self, path: Path, text: str) -> None:
        """Say something about a key."""
        self.notes.append(f"{'.'.join(path)}: {text}")

    def note_the_rest(self) -> None:
        """Say of every key that was not taken why not."""
        for path in self._rest(self._tree, ()):
            self.note(path, next((why for at, why in ELSEWHERE.items() if _fits(at, path)), NO_COUNTERPART))

    def _rest(self, node: Any, path: Path) -> Iterator[Path]:
        if path in self._taken:
            return
        if isinstance(node, dict) and node and not any(_fits(at, path) for at in ELSEWHERE):
            for key, value in node.items():
                yield from self._rest(value, (*path, key))
        elif path:
            yield path


def import_vmanomaly(text: str) -> Imported:
    """Convert a configuration of vmanomaly (of any version up to 1.30). Raises: ConfigError with the key path.

    A query becomes a policy for the series that it reads. What a query does not set holds from the first of its
    models that sets it, then from the reader, then from the settings, as in vmanomaly.
    """
    source = _Source(_renamed(read_yaml(text)))
    config: dict[str, Any] = {}
    if endpoint := _listens(source):
        config["api"] = {"endpoint": endpoint}
        if not loopback(endpoint):
            config["api"]["access"] = {}
            source.note(("monitoring", "pull"), GUARDED)
    if exporter := _writes(source):
        config["exporters"] = {"otlp": {"endpoint": exporter, "protocol": "http"}}
    config["emit"] = {"series": "all", "compat": "vmanomaly"}
    if _provides_band(source):
        config["emit"]["expected"] = True
    config["policies"] = _query_policies(source)
    source.note_the_rest()
    return Imported(write_yaml(config), source.notes)


# -- reading ----------------------------------------------------------------------------------------------------------


def read_yaml(text: str) -> dict[str, Any]:
    """The YAML of a text; ``%{NAME}`` of vmanomaly becomes ``${env:NAME}``, which we read alike."""
    try:
        tree = yaml.load(re.sub(r"%\{(\w+)\}", r"${env:\1}", text), Loader=UniqueKeys)
    except yaml.YAMLError as error:
        raise ConfigError("", f"not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError("", f"expected a mapping of keys, got {tree!r}")
    return tree


def _renamed(tree: dict[str, Any]) -> dict[str, Any]:
    """Old forms as vmanomaly itself reads them: one model, one scheduler, queries that are only an expression."""
    tree = dict(tree)
    for old, new, alias in (("model", "models", "default_model"), ("scheduler", "schedulers", "default_scheduler")):
        if old in tree and new not in tree:
            tree[new] = {alias: tree.pop(old)}
    reader = tree.get("reader")
    if isinstance(reader, dict) and isinstance(reader.get("queries"), dict):
        queries = {alias: {"expr": q} if isinstance(q, str) else q for alias, q in reader["queries"].items()}
        tree["reader"] = {**reader, "queries": queries}
    return tree


def _fits(pattern: Path, path: Path) -> bool:
    return len(pattern) == len(path) and all(p in ("*", key) for p, key in zip(pattern, path, strict=True))


def write_yaml(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)


# -- vmanomaly --------------------------------------------------------------------------------------------------------


def _listens(source: _Source) -> str:
    """Where /metrics is asked for, "" for our default."""
    pull = source.section("monitoring", "pull")
    if not pull:
        return ""
    addr, port = source.take("monitoring", "pull", "addr"), source.take("monitoring", "pull", "port")
    if not str(port or "8080").isdigit():
        raise ConfigError("monitoring.pull.port", f"expected a port, got {port!r}")
    return f"{'' if addr in (None, '0.0.0.0') else addr}:{port or 8080}"


def _writes(source: _Source) -> str:
    """The OTLP endpoint of the VictoriaMetrics that scores are written to, "" for none."""
    url = source.get("writer", "datasource_url")
    if not isinstance(url, str) or source.get("writer", "tenant_id") is not None:
        return ""
    if "@" in url:
        source.note(("writer", "datasource_url"), "has a password, so set `exporters.otlp` yourself, with headers")
        source.take("writer", "datasource_url")
        return ""
    source.take("writer", "datasource_url")
    source.take("writer", "class")
    return url.rstrip("/") + "/opentelemetry"


def _provides_band(source: _Source) -> bool:
    """Whether any model writes more than its score, as it does unless told otherwise."""
    given = [source.take("models", alias, "provide_series") for alias in source.section("models")]
    return any(one is None or any(str(name).startswith("yhat") for name in one) for one in given)


def _query_policies(source: _Source) -> list[dict[str, Any]]:
    queries = source.section("reader", "queries")
    models = _models_of(source, queries)
    found = []
    for alias in queries:
        source.section("reader", "queries", alias)
        origin = _origins(source, alias, models[alias])
        keys = {key: _converted(source, key, path) for key, path in origin.items()}
        keys = {key: value for key, value in keys.items() if value is not None}
        match = _series_of(source, alias, keys)
        if not keys:
            source.note(("reader", "queries", alias), "its series are scored like all others and need no policy")
            continue
        try:
            PolicyConfig(name=alias, match=match, **keys)
        except ConfigError as error:
            raise ConfigError(".".join(origin.get(error.path, (error.path,))), error.message) from error
        found.append({"name": alias, "match": dict(match), **keys})
    return found


def _models_of(source: _Source, queries: Mapping[str, Any]) -> dict[str, list[str]]:
    """The models that run on each query, in their order. A model without queries runs on all."""
    found: dict[str, list[str]] = {alias: [] for alias in queries}
    for model in source.section("models"):
        source.section("models", model)
        wanted = source.take("models", model, "queries")
        for alias in [wanted] if isinstance(wanted, str) else wanted or queries:
            if alias not in found:
                raise ConfigError(f"models.{model}.queries", f"expected names of {[*queries]}, got {alias!r}")
            found[alias].append(model)
    return found


def _origins(source: _Source, alias: str, models: Sequence[str]) -> dict[str, Path]:
    """Where each key of a query's policy is set: the query, its first model that does, the reader, the settings."""
    found: dict[str, Path] = {}
    for key in (*MODEL_KEYS, "tz"):
        given: list[Path] = [("reader", "queries", alias, key)] if key in (*POLICY_KEYS, "tz") else []
        given += [("models", model, key) for model in models if key != "tz"]
        given += [("reader", key)] if key in ("data_range", "tz") else []
        given += [("settings", key)] if key == "anomaly_score_outside_data_range" else []
        setting = [path for path in given if source.take(*path) is not None]
        if not setting:
            continue
        found[key] = setting[0]
        for other in setting[1:]:
            if other[0] == setting[0][0] == "models" and source.get(*other) != source.get(*setting[0]):
                where = ".".join(setting[0])
                source.note(other, f"{where} holds for the query {alias}: a series has one score here, not one a model")
    return found


def _converted(source: _Source, key: str, path: Path) -> Any:
    """The value of a policy key, None when it changes nothing."""
    value = source.get(*path)
    if key in ("detection_direction", "tz"):
        return None if value in ("both", "UTC") else value
    if key == "clip_predictions":
        return True if value else None
    if key == "anomaly_score_outside_data_range":
        score = _number(value, path)
        if score < LEAST_OUTSIDE:
            source.note(path, f"a value outside data_range scores 1.01, as {score:g} would hide it")
            return None
        return score
    numbers = [_number(one, path) for one in (value if isinstance(value, list) else [value])]
    if key == "min_rel_dev_from_expected":
        if any(0 < one < 1 for one in numbers):
            source.note(path, f"is in per cent in vmanomaly, so {value} became a ratio a hundred times smaller")
        numbers = [one / 100 for one in numbers]
    nothing = {"data_range": [-math.inf, math.inf], "scale": [1.0, 1.0]}.get(key, [0.0, 0.0])
    if key == "data_range" or len(numbers) != 1:
        return None if numbers == nothing else numbers
    return None if [*sides(numbers[0])] == nothing else numbers[0]


def _number(value: Any, path: Path) -> float:
    try:
        if isinstance(value, bool):
            raise ValueError
        return float(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(".".join(path), f"expected a number, got {value!r}") from error


def _series_of(source: _Source, alias: str, keys: Mapping[str, Any]) -> Mapping[str, str]:
    """The selector of the series that a query reads."""
    path = ("reader", "queries", alias, "expr")
    expression = source.take(*path)
    if not isinstance(expression, str):
        raise ConfigError(".".join(path), f"expected an expression, got {expression!r}")
    try:
        reading = promql.read(expression)
    except BadInput as error:
        reading = promql.Reading((), "computed")
        source.note(path, f"cannot be read ({error})")
    if reading.shape == "computed":
        source.note(path, f"is computed and is no series here; record it as a metric named {alias} and send that")
        return {"name": alias}
    absolute = [key for key in ABSOLUTE_KEYS if key in keys]
    if reading.shape == "aggregate" and absolute:
        source.note(path, f"aggregates, but each series has a score here: see that {' and '.join(absolute)} fit one")
    return reading.matches[0]
