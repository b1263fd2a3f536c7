"""The import commands: the configuration of other detectors as configuration for this one, and what got lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otel_aiops.cli.terminal import NO, USAGE, say
from otel_aiops.errors import ConfigError

if TYPE_CHECKING:
    from otel_aiops.batch.vmanomaly import Imported

SourceArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The file to convert.")]
YamlOption = Annotated[Path | None, typer.Option("--output", "-o", help="Where to write; default: standard output.")]


def vmanomaly(source: SourceArgument, output: YamlOption = None) -> None:
    """Convert a configuration of vmanomaly: its queries become policies."""
    from otel_aiops.batch.vmanomaly import import_vmanomaly

    _convert(import_vmanomaly, source, output)


def promql(source: SourceArgument, output: YamlOption = None) -> None:
    """Convert recording rules for promql-anomaly-detection: series that they mark get policies."""
    from otel_aiops.batch.promql_anomaly import from_promql_rules

    _convert(from_promql_rules, source, output)


def _convert(convert: Callable[[str], Imported], source: Path, output: Path | None) -> None:
    """Write what a file means here; exit code 1 when some of it means nothing here, 2 for a file that is none."""
    try:
        found = convert(source.read_text(encoding="utf-8"))
    except (ConfigError, OSError, UnicodeDecodeError) as error:
        say(f"error: {source}: {error}", err=True)
        raise typer.Exit(USAGE) from None
    if output:
        output.write_text(found.config_yaml, encoding="utf-8")
    else:
        say(found.config_yaml, nl=False)
    for note in found.notes:
        say(f"{'lost' if note in found.lost else 'note'}: {note}", err=True)
    if found.lost:
        raise typer.Exit(NO)
