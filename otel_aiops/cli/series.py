"""Commands about one series: why it had its score, and what is to come of it."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otel_aiops.cli.terminal import JsonOption, TokenOption, UrlOption, ask, bar, load_config, prepare, show

if TYPE_CHECKING:
    from otel_aiops.batch.tracks import Track

SeriesArgument = Annotated[str, typer.Argument(help='A name, or name{key="value"}, that is exactly one series.')]
FilesArgument = Annotated[list[Path] | None, typer.Argument(help="Recorded telemetry, as for replay.")]
# Without -d, or -2d could not be a time.
RecordedOption = Annotated[Path | None, typer.Option("--data-dir", help="The data directory of a service.")]
PlotOption = Annotated[Path | None, typer.Option("--output", "-o", help="Also draw it: a PNG of 1200 x 800.")]


def explain(
    series: SeriesArgument,
    time: Annotated[str, typer.Argument(help="ISO 8601 in UTC, now (the newest point), or -2h before that.")],
    files: FilesArgument = None,
    data_dir: RecordedOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    output: PlotOption = None,
    as_json: JsonOption = False,
    config: Annotated[Path | None, typer.Option("--config", help="YAML configuration, for `detection`.")] = None,
) -> None:
    """Say why a series had its score at a time: band, how unusual, a day and a week before, similar moments."""
    from otel_aiops.batch.explain import Explanation
    from otel_aiops.batch.explain import explain as run

    source = _source(files, data_dir, url)
    if source is None:
        tree = ask(url, token, "explain", {"series": series, "time": time})
        found = Explanation.from_json(tree)
    else:
        from otel_aiops.batch.times import moment_ns

        track = source(series)
        newest_ns = int(track.time_ns[-1])
        settings, at_ns = load_config(config), moment_ns(time, newest_ns)
        prepare()
        with bar("explain") as progress:
            found = run(track, at_ns, settings.detection, jobs=settings.jobs, progress=progress)
    show(found.to_json() if as_json else found.text())
    if output:
        from otel_aiops.batch.plot import plot_explanation

        plot_explanation(found, output)


class Direction(StrEnum):
    """On which side of a limit it is reached."""

    above = "above"
    below = "below"


def forecast(
    series: SeriesArgument,
    files: FilesArgument = None,
    horizon: Annotated[str, typer.Option(help="How far ahead, as 1d or 6h.")] = "1d",
    step: Annotated[str | None, typer.Option(help="Between forecast values, as 5m; default: by the horizon.")] = None,
    limit: Annotated[float | None, typer.Option(help="Say when this value is reached.")] = None,
    direction: Annotated[Direction, typer.Option(help="Reached from below (above) or above (below).")] = (
        Direction.above
    ),
    data_dir: RecordedOption = None,
    url: UrlOption = None,
    token: TokenOption = None,
    output: PlotOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is to come of a series, with interval, method and skill, and when it reaches a limit."""
    from otel_aiops.batch.outlook import Outlook, outlook
    from otel_aiops.config import duration

    source = _source(files, data_dir, url)
    if source is None:
        asked = {"series": series, "horizon": horizon, "step": step, "limit": limit, "direction": direction.value}
        given = {key: str(value) for key, value in asked.items() if value is not None}
        found = Outlook.from_json(ask(url, token, "forecast", given))
    else:
        found = outlook(
            source(series),
            horizon_s=duration(horizon),
            step_s=duration(step) if step else None,
            limit=limit,
            direction=direction.value,
        )
    show(found.to_json() if as_json else found.text())
    if output:
        from otel_aiops.batch.plot import plot_forecast

        plot_forecast(found, output)


def _source(files: list[Path] | None, data_dir: Path | None, url: str | None) -> Callable[[str], Track] | None:
    """Where to read a series from: a function of what is wanted, or None for a running service."""
    if (bool(files) + (data_dir is not None) + (url is not None)) > 1:
        raise typer.BadParameter("expected one of: FILES, --data-dir DIR, --url URL")
    from otel_aiops.batch.tracks import from_directory, from_files
    from otel_aiops.series.wanted import Wanted

    if data_dir is not None:
        return lambda wanted: from_directory(data_dir, Wanted(wanted))
    return (lambda wanted: from_files(files, Wanted(wanted))) if files else None
