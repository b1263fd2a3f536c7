"""The generated parts of the documents: commands, API, metrics, configuration; run as a module it rewrites them."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import tokenize
import typing
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path

import typer.main

DOCS = Path(__file__).parent.parent / "docs"
LISTED = {tuple: "[].", Mapping: ".NAME."}  # how keys of lists and of what has names are written


def commands() -> str:
    """Every command with its first sentence."""
    from otel_aiops.cli import app

    lines = ["| command | what it does |", "|---|---|"]
    for name, command in _commands(typer.main.get_command(app), ""):
        usage = " ".join(
            (one.metavar or one.name.upper()) if one.param_type_name == "argument" else f"[{one.opts[0]}]"
            for one in command.params
            if not getattr(one, "hidden", False)
        )
        first = (command.help or "").split("\n\n")[0].replace("\n", " ").strip()
        lines.append(f"| `otel-aiops {name} {usage}` | {first} |")
    return "\n".join(lines)


def _commands(group: typing.Any, prefix: str) -> Iterator[tuple[str, typing.Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            if command.invoke_without_command:
                yield prefix + name, command
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def api() -> str:
    """Every route with its summary."""
    from starlette.schemas import SchemaGenerator

    from otel_aiops.server.api import build

    routes = build(typing.cast(typing.Any, None), typing.cast(typing.Any, None), None, 1).routes
    paths = SchemaGenerator({"openapi": "3.1.0", "info": {}}).get_schema(routes=routes)["paths"]
    lines = ["| path | what it is |", "|---|---|"]
    for path, methods in paths.items():
        for method, description in methods.items():
            lines.append(f"| `{method.upper()} {path}` | {description['summary']} |")
    return "\n".join(lines)


def metrics() -> str:
    """Every metric that is emitted."""
    from otel_aiops.otlp.semconv import metric_table

    return metric_table()


def events() -> str:
    """Every event that is sent."""
    from otel_aiops.otlp.semconv import event_table

    return event_table()


def configuration() -> str:
    """Every key with its default and the comment that stands beside it in the code."""
    lines = ["| key | default | what it does |", "|---|---|---|"]
    for path, default, comment in settings():
        lines.append(f"| `{path}` | `{default}` | {comment} |")
    return "\n".join(lines)


def settings() -> Iterator[tuple[str, str, str]]:
    """(key path, default as written in YAML, description) of every setting."""
    from otel_aiops.config import Config

    yield from _keys(Config, "")


def _keys(schema: type, prefix: str) -> Iterator[tuple[str, str, str]]:
    from otel_aiops.settings import dataclass_in

    comments = _comments(schema)
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        path = f"{prefix}{field.name}"
        inner = dataclass_in(hints[field.name])
        if inner is not None:
            yield from _keys(inner, path + LISTED.get(typing.get_origin(hints[field.name]), "."))
            continue
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield path, _written(default), comments.get(field.name, "")


def _written(value: object) -> str:
    if value is dataclasses.MISSING:
        return "(required)"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value >= 1 and value == int(value):
        return str(int(value))
    if isinstance(value, tuple | list | frozenset | set):
        return "[" + ", ".join(sorted(map(str, value)) if isinstance(value, frozenset | set) else map(str, value)) + "]"
    return str(value) if value != "" else '""'


def _comments(schema: type) -> dict[str, str]:
    """Field name → the comment on its line, or the one just above it."""
    bases = (one for one in schema.__bases__ if dataclasses.is_dataclass(one))
    source, found = inspect.getsource(schema), {name: text for one in bases for name, text in _comments(one).items()}
    by_line = {
        token.start[0]: token.string.lstrip("# ").strip()
        for token in tokenize.generate_tokens(StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    lines = source.splitlines()
    (tree,) = ast.parse(inspect.cleandoc(source)).body
    assert isinstance(tree, ast.ClassDef)
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            comment = by_line.get(node.end_lineno or node.lineno, "") or by_line.get(node.lineno, "")
            above, row = [], node.lineno - 1
            while not comment and row in by_line and lines[row - 1].lstrip().startswith("#"):
                above.insert(0, by_line[row])
                row -= 1
            found[node.target.id] = comment or " ".join(above)
    return found


def roles() -> str:
    """What each role may do, and the routes that ask for it; those that only look are too many to list."""
    from otel_aiops.server.access.roles import MAY, NEEDS, Role

    lines = ["| role | may | over the API and on the page |", "|---|---|---|"]
    for role, what in MAY.items():
        routes = [" ".join(one.split()) for one in NEEDS[role].split(",")]
        shown = (
            "everything that is asked by `GET`, but `/api/v1/tokens`"
            if role is Role.VIEWER
            else ", ".join(f"`{one}`" for one in routes)
        )
        lines.append(f"| {role} | {what} | {shown} |")
    return "\n".join(lines)


SECTIONS = {
    "access.md": {"roles": roles},
    "commands.md": {"commands": commands},
    "api.md": {"api": api},
    "telemetry.md": {"metrics": metrics, "events": events},
    "configuration.md": {"configuration": configuration},
}


def rewritten(name: str, text: str) -> str:
    """The text of a document with its generated parts made anew."""
    for section, generate in SECTIONS[name].items():
        pattern = re.compile(rf"(<!-- {section} -->\n).*?(<!-- /{section} -->)", re.S)
        assert pattern.search(text), f"{name} has no place for {section}"
        content = generate()
        text = pattern.sub(lambda match, content=content: f"{match[1]}{content}\n{match[2]}", text)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    for name in SECTIONS:
        (DOCS / name).write_text(rewritten(name, (DOCS / name).read_text()))
    sys.stdout.write("the documents are up to date\n")
