"""What commands share: options, the configuration, progress and tables, and questions to a running service."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otel_aiops.labels import visible

if TYPE_CHECKING:
    from otel_aiops.batch.client import Api
    from otel_aiops.config import Config
    from otel_aiops.lifecycle.objective import Objective
    from otel_aiops.lifecycle.truth import Label

NO = 1  # the answer is no: a check found errors
USAGE = 2  # wrong usage
FAULT = 3  # something failed

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML configuration; without one every default holds.")
]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", "-d", help="Where state is kept; overrides storage.directory.")
]
UrlOption = Annotated[str | None, typer.Option(help="A running otel-aiops; without files, --data-dir: localhost:9464.")]
TokenOption = Annotated[
    str | None, typer.Option(help="Bearer token for otel-aiops; @FILE reads one.", envvar="OTEL_AIOPS_TOKEN")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LimitOption = Annotated[int, typer.Option(help="How many to list at most.", min=0, max=1_000)]
WhoOption = Annotated[str, typer.Option(help="Who decides so.", envvar="USER")]
WhyOption = Annotated[str, typer.Option(help="Why.")]


def load_config(path: Path | None) -> Config:
    """The configuration of a file, or the default one."""
    from otel_aiops.config import Config, load

    return load(path).config if path else Config()


def find_objective(wanted: str | None, known: Config) -> Objective | None:
    """An objective by name or file. Raises: BadInput, ConfigErrors."""
    from otel_aiops.errors import BadInput
    from otel_aiops.lifecycle.objective import load_objectives

    if wanted is None:
        return None
    for one in known.objectives:
        if one.name == wanted:
            return one
    if not Path(wanted).is_file():
        names = ", ".join(one.name for one in known.objectives) or "none"
        raise BadInput(f"objective: expected a file or one of {names}, got {wanted}")
    return load_objectives(Path(wanted))[0]


def labels_of(paths: Iterable[Path] | None) -> tuple[Label, ...]:
    """All labels of some files; exit code 2, with what is wrong, where one cannot be read."""
    from otel_aiops.errors import BadInput
    from otel_aiops.lifecycle.truth import read_labels

    try:
        return tuple(one for path in paths or () for one in read_labels(path))
    except BadInput as error:
        say(f"otel-aiops: {error}", err=True)
        raise typer.Exit(USAGE) from None


def prepare() -> None:
    """Have the detection at hand, and say on standard error when that takes a while."""
    from otel_aiops.detect.engine import prepare as run

    run(lambda text: say(text, err=True))


@contextmanager
def service(url: str | None, token: str | None) -> Iterator[Api]:
    """A connection to a running service, the one of this machine unless said otherwise."""
    from otel_aiops.batch.client import Api

    api = Api("the service", url or "http://localhost:9464", token)
    try:
        yield api
    finally:
        api.close()


def ask(url: str | None, token: str | None, what: str, parameters: Mapping[str, str]) -> Any:
    """What a running service answers, as plain values."""
    with service(url, token) as api:
        return api.get(f"/api/v1/{what}", dict(parameters))


def post(url: str | None, token: str | None, what: str, asked: Mapping[str, Any]) -> Any:
    """What a running service answers to an order, as plain values; what is empty is left out."""
    body = json.dumps({key: value for key, value in asked.items() if value not in ("", None, [])}).encode()
    with service(url, token) as api:
        return api.post(f"/api/v1/{what}", body, {"Content-Type": "application/json"})


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print text of which some has come from elsewhere: nothing in it is obeyed by the terminal."""
    typer.echo(visible(text, keep="\n\t"), err=err, nl=nl)


def show(found: object) -> None:
    """Print text as it is, and anything else as JSON."""
    say(found if isinstance(found, str) else json.dumps(found))


@contextmanager
def bar(what: str) -> Iterator[Callable[[float, float, str], None]]:
    """A bar on standard error with the time that is left, for a call of (done, total, text); nothing where nobody
    sees it.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as shown:
        task = shown.add_task(what)

        def tell(done: float, total: float, text: str) -> None:
            shown.update(task, completed=done, total=total, description=escape(visible(f"{what} {text}")))

        yield tell


def print_table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print a table whose first column is text and whose others are numbers."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(visible(cell)) for cell in row))
    Console().print(table)


def print_texts(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    """Print a table of texts; the last columns are broken into lines where the terminal is narrow."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE)
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=not number)
    for row in rows:
        table.add_row(*(escape(visible(str(cell), keep="\n")) for cell in row))
    Console().print(table)


def counted(number: int, what: str) -> str:
    """A number of things: 1 alert, 2 alerts."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def span(seconds: float) -> str:
    """A span in two units at most: 1 h 5 min, 40 s."""
    whole = round(seconds)
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    parts = []
    for name, size in units:
        if whole >= size:
            parts.append(f"{whole // size} {name}")
            whole %= size
    return " ".join(parts[:2]) or "0 s"


def moment(unix_s: float) -> str:
    """A time in UTC: 2026-01-05 12:00:00."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
