"""Settings: YAML in the Collector's words to a checked dataclass, with the key path in every error."""

from __future__ import annotations

import dataclasses
import os
import re
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from otel_aiops.errors import ConfigError

T = TypeVar("T")
ENDINGS = (".yaml", ".yml")


class Named(Protocol):
    """What has a name of its own."""

    @property
    def name(self) -> str: ...


N = TypeVar("N", bound=Named)


class ConfigErrors(ConfigError):
    """All that is wrong with a file, one error a line."""

    def __init__(self, errors: list[ConfigError]) -> None:
        super().__init__("", "\n".join(str(error) for error in errors))
        self.errors = errors


class Schema(Generic[T]):
    """What a file may hold: a dataclass of settings, in which an unknown key is an error.

    Values such as "1m30s" and "64MiB" become seconds and bytes where the dataclass has a float or an int.
    """

    def __init__(self, root: type[T]) -> None:
        _strict(root)
        self._root = root
        self._adapter: TypeAdapter[T] = TypeAdapter(root)

    def read(self, tree: Any) -> T:
        """The value of a tree as YAML gives it; None is an empty one. Raises: ConfigErrors."""
        try:
            return self._adapter.validate_python(_units(tree, self._root))
        except ValidationError as error:
            raise ConfigErrors([one for detail in error.errors() for one in _explain(detail, self._root)]) from error

    def errors(self, tree: Any) -> list[ConfigError]:
        """All that is wrong with a tree, also where one error hides others: each key is looked at by itself too."""
        found = self._errors(tree)
        for path, alone in _alone(tree):
            found += [one for one in self._errors(alone) if f"{one.path}.".startswith(f"{path}.")]
        return list({str(one): one for one in found}.values())

    def refuse_secrets(self, text: str) -> None:
        """A file is read by more people than may know what opens. Raises: ConfigErrors with what a text writes out."""
        found = [
            ConfigError(path, "expected ${env:NAME}, or a file where a setting names one, got a secret written out")
            for path in _written_out(yaml.load(text, Loader=UniqueKeys), self._root, "")
        ]
        if found:
            raise ConfigErrors(found)

    def _errors(self, tree: Any) -> list[ConfigError]:
        try:
            self.read(tree)
        except ConfigErrors as error:
            return error.errors
        return []


def _alone(tree: Any) -> Iterator[tuple[str, Any]]:
    """(path, tree) of every key of nested mappings, with all others left out."""
    for key, value in tree.items() if isinstance(tree, dict) else ():
        yield key, {key: value}
        for path, inner in _alone(value):
            yield f"{key}.{path}", {key: inner}


def load_named(path: Path, schema: Schema[N], *, least: int = 1) -> tuple[N, ...]:
    """What a file holds, or the YAML files in a folder in the order of their names, each with a name of its own.

    Raises: ConfigErrors with everything that is wrong, each with its file, its key path, what was expected and what
    came; also where a folder has fewer than `least` files.
    """
    found: dict[str, N] = {}
    errors: list[ConfigError] = []
    files: dict[str, Path] = {}
    for file in _files(path, least):
        try:
            one = _load(file, schema)
        except ConfigError as error:
            errors += [_of_file(file, part) for part in (error.errors if isinstance(error, ConfigErrors) else [error])]
            continue
        if one.name in found:
            message = f"expected a name of its own, got {one.name!r}, which {files[one.name]} has"
            errors.append(ConfigError(f"{file}: name", message))
        found.setdefault(one.name, one)
        files.setdefault(one.name, file)
    if errors:
        raise ConfigErrors(errors)
    return tuple(found.values())


def _load(file: Path, schema: Schema[N]) -> N:
    tree, _ = read_yaml(read_text(file))
    errors = schema.errors(tree)
    if errors:
        raise ConfigErrors(errors)
    return schema.read(tree)


def _files(path: Path, least: int) -> list[Path]:
    """The file, or those of a folder. Raises: ConfigErrors when there are too few."""
    folder = path.is_dir()
    found = [path] if path.is_file() else []
    if folder:
        found = sorted(one for one in path.iterdir() if one.suffix in ENDINGS and not one.name.startswith("."))
    if len(found) < (least if folder else 1):
        expected = f"expected a file, or a folder with files that end in {' or '.join(ENDINGS)}"
        raise ConfigErrors([ConfigError(str(path), f"{expected}, got {'none' if folder else 'nothing there'}")])
    return found


def _of_file(file: Path, error: ConfigError) -> ConfigError:
    return ConfigError(f"{file}: {error.path}" if error.path else str(file), error.message)


def read_text(path: Path) -> str:
    """The text of a file. Raises: ConfigError that names it."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("", f"cannot read {path}: {error}") from error


def read_yaml(text: str, environment: Mapping[str, str] = os.environ) -> tuple[Any, tuple[str, ...]]:
    """(what a text holds, with its variables filled in; warnings about variables). Raises: ConfigError."""
    try:
        tree = yaml.load(text, Loader=UniqueKeys)
    except yaml.YAMLError as error:
        raise ConfigError("", f"not valid YAML: {' '.join(str(error).split())}") from error
    warnings: list[str] = []
    return _expand(tree, environment, "", warnings), tuple(warnings)


def duration(text: str) -> float:
    """Seconds in a text such as "1m30s" or "90". Raises: ConfigError."""
    try:
        return float(text)
    except ValueError:
        seconds = _seconds(text)
    if seconds is None:
        raise ConfigError("", f"expected a duration such as 90s, 15m or 14d, got {text!r}")
    return seconds


class UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, not a silent choice of the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:bool":
                key_node.tag = "tag:yaml.org,2002:str"  # `on` is a word where a key is expected
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"expected a text key, got {key!r}", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_VARIABLE = re.compile(r"\$\$|\$\{(?:env:)?([^}:]*)(:-([^}]*))?\}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _expand(tree: Any, environment: Mapping[str, str], path: str, warnings: list[str]) -> Any:
    """Fill in ``${env:NAME}``, ``${env:NAME:-default}`` and ``$$`` after parsing, as the Collector does.

    A scalar that is one variable takes the YAML type of its text (a port stays a number), and text that comes from
    the environment can never add keys.
    """
    if isinstance(tree, dict):
        return {key: _expand(value, environment, f"{path}.{key}", warnings) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_expand(value, environment, f"{path}.{i}", warnings) for i, value in enumerate(tree)]
    if not isinstance(tree, str) or "$" not in tree:
        return tree

    def value_of(match: re.Match[str]) -> str:
        if match.group() == "$$":
            return "$"
        name, default = match.group(1), match.group(3)
        if not _NAME.fullmatch(name):
            raise ConfigError(path.lstrip("."), f"expected ${{env:NAME}}, got {match.group()!r}")
        if name not in environment and default is None:
            warnings.append(f"{path.lstrip('.')}: environment variable {name} is not set, used as empty")
        return environment.get(name) or default or ""

    filled = _VARIABLE.sub(value_of, tree)
    whole = _VARIABLE.fullmatch(tree)
    if whole and whole.group() != "$$":
        if "\n" in filled:  # a key in PEM, say, whose lines YAML would join
            return filled
        scalar = yaml.safe_load(filled) if filled else None
        return filled if isinstance(scalar, dict | list) else scalar
    return filled


_SECRET = re.compile(r"token|password|secret|salt|pem|inline|authorization|cookie|api.?key", re.IGNORECASE)
_PASSWORD = re.compile(r"://[^/?#\s]*?:([^/?#\s]+)@")  # in an address


def _written_out(tree: Any, schema: Any, path: str) -> Iterator[str]:
    """Where a tree has secrets instead of variables: settings and headers whose name says so, and addresses."""
    inner = dataclass_in(schema)
    if isinstance(tree, list):
        for i, one in enumerate(tree):
            yield from _written_out(one, schema, f"{path}.{i}")
    elif isinstance(tree, dict) and typing.get_origin(schema) is Mapping:
        for name, one in tree.items():
            yield from _written_out(one, inner, f"{path}.{name}")
    elif isinstance(tree, dict) and inner is not None:
        hints = typing.get_type_hints(inner)
        for field in dataclasses.fields(inner):
            at, value = f"{path}.{field.name}".lstrip("."), tree.get(field.name)
            if field.repr:
                yield from _written_out(value, hints[field.name], at)
            else:
                yield from _open(value, field.name, at)


def _open(value: Any, name: str, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _open(one, key, f"{path}.{key}")
    elif isinstance(value, list):
        for i, one in enumerate(value):
            yield from _open(one, name, f"{path}.{i}")
    elif value:
        text = str(value)
        filled = any(one.group() != "$$" for one in _VARIABLE.finditer(text))
        if not filled and (_SECRET.search(name) or _PASSWORD.search(text)):
            yield path


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d|w)")
_SECONDS = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
    "w": 604800.0,
}
_SIZE = re.compile(r"(\d+)\s*(KiB|MiB|GiB|TiB)")
_BYTES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def _units(tree: Any, schema: Any) -> Any:
    """Turn "1m30s" into 90.0 where a float is expected and "64MiB" into bytes where an int is."""
    inner = dataclass_in(schema)
    if typing.get_origin(schema) is tuple and inner is not None:  # a list of settings
        return [_units(one, inner) for one in tree] if isinstance(tree, list) else () if tree is None else tree
    if tree is None and inner is not None:
        tree = {}  # a key with nothing behind it is there, with its defaults, as in the Collector
    if isinstance(tree, dict) and inner is not None:
        hints = typing.get_type_hints(inner)
        return {key: _units(value, hints.get(key)) for key, value in tree.items()}
    if not isinstance(tree, str):
        return tree
    accepted = {schema, *typing.get_args(schema)}
    seconds = _seconds(tree) if float in accepted else None
    if seconds is not None:
        return seconds
    size = _SIZE.fullmatch(tree)
    if int in accepted and size:
        return int(size[1]) * _BYTES[size[2]]
    return tree


def _seconds(text: str) -> float | None:
    """The seconds of a Go duration, None when it is none."""
    if not text or _DURATION.sub("", text):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text))


def dataclass_in(hint: Any) -> type | None:
    """The dataclass in a type such as `TlsConfig | None`, or None."""
    for candidate in (hint, *typing.get_args(hint)):
        if isinstance(candidate, type) and dataclasses.is_dataclass(candidate):
            return candidate
    return None


_WORDS = {
    "unexpected_keyword_argument": "is not a known key",
    "dataclass_type": "expected a mapping of keys",
    "dataclass_exact_type": "expected a mapping of keys",
}


def _explain(detail: Any, root: type) -> list[ConfigError]:
    """One error of the schema in our words: key path, what was expected, what came; several where a check found so."""
    path = ".".join(str(part) for part in detail["loc"] if not str(part).startswith("function-"))
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        causes = cause.errors if isinstance(cause, ConfigErrors) else [cause]
        return [ConfigError(f"{path}.{one.path}".strip("."), one.message) for one in causes]
    if detail["type"] == "unexpected_keyword_argument":
        return [ConfigError(path, f"is not a known key{_suggest(detail['loc'], root)}")]
    if detail["type"] in ("missing", "missing_argument"):
        return [ConfigError(path, "expected a value, got none")]
    message = _WORDS.get(detail["type"]) or detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if message == detail["msg"].removeprefix("Input should be "):
        message = f"expected {message}" if detail["msg"].startswith("Input should be ") else message
    return [ConfigError(path, f"{message}, got {detail['input']!r}")]


def _suggest(location: tuple[Any, ...], root: type) -> str:
    """The keys that are known at this place, for someone who mistyped one."""
    schema: type | None = root
    for part in location[:-1]:
        if schema is None or part not in (hints := typing.get_type_hints(schema)):
            return ""
        schema = dataclass_in(hints[part])
    return f"; known here: {', '.join(sorted(f.name for f in dataclasses.fields(schema)))}" if schema else ""


def _strict(schema: type) -> None:
    """Make unknown keys an error in a dataclass of settings and in all inside it."""
    schema.__pydantic_config__ = ConfigDict(extra="forbid", strict=False)  # type: ignore[attr-defined]
    for hint in typing.get_type_hints(schema).values():
        inner = dataclass_in(hint)
        if inner is not None:
            _strict(inner)
