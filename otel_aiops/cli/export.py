"""The command that takes a version out of the service: a file with a scorer beside it, and recording rules."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from otel_aiops.cli.terminal import ConfigOption, DataDirOption, load_config, prepare, say
from otel_aiops.cli.versions import IdArgument


def export(
    name: IdArgument,
    out: Annotated[
        Path | None, typer.Option(help="Write the model here, `model.npz`, and its scorer beside it, `model.py`.")
    ] = None,
    rules: Annotated[
        Path | None, typer.Option(help="Write recording rules of Prometheus here, for what can be written so.")
    ] = None,
    every: Annotated[str, typer.Option(help="How often the rules are evaluated.")] = "1m",
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Take a version out of the service: for the edge, with a scorer that needs only numpy, or as rules of Prometheus.

    `python model.py model.npz < points.csv` scores lines of `timestamp,series,value` as the service would.
    """
    from otel_aiops.lifecycle.version import Models

    if out is None and rules is None:
        raise typer.BadParameter("expected --out or --rules, or both")
    loaded = load_config(config)
    models = Models((data_dir or Path(loaded.storage.directory)) / "lifecycle" / "models")
    if out is not None:
        from otel_aiops.lifecycle.export import export as run

        found = run(models, name, out, loaded.pipeline())
        say(f"{found.model} and {found.scorer}: {found.series} series; {', '.join(found.detectors)}")
        say(f"without {'; '.join(found.without)}")
    if rules is not None:
        from otel_aiops.config import duration
        from otel_aiops.lifecycle.rules import refusals
        from otel_aiops.lifecycle.rules import rules as write
        from otel_aiops.series.disk import storage_errors, whole_file

        duration(every)
        prepare()
        made = write(name, models.trained(name), every=every)
        with storage_errors(f"exporting to {rules}"), whole_file(rules) as file:
            file.write(made.text.encode())
        say(f"{rules}: rules for {made.series} series")
        for line in refusals(made):
            say(line)
