"""`python -m benchmarks.detection --data PATH`: the table of detectors on labelled series."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.detection import run
from benchmarks.detection.ours import configured
from benchmarks.detection.run import Corpora, Result
from otel_aiops.errors import BadInput, ConfigError
from otel_aiops.pipeline import PipelineConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 2 when it was called wrongly or the data is not what it should be."""
    wanted = _parser().parse_args(arguments)
    try:
        config = configured(wanted.preset, wanted.config)
        configs = [configured(path=path) for path in wanted.configurations]
        corpora = run.load(wanted.data)
        for line in _lines(corpora, wanted.detectors, config, configs):
            print(line, flush=True)
    except (BadInput, ConfigError) as error:
        print(f"benchmarks.detection: {error}", file=sys.stderr)
        return 2
    return 0


def _lines(
    corpora: Corpora, detectors: Sequence[str], config: PipelineConfig, configs: Sequence[PipelineConfig]
) -> Iterator[str]:
    yield f"NAB: {len(corpora.nab)} series; cloud monitoring: {len(corpora.cloud)} series; {corpora.rows} rows"
    without = {name: package for name in detectors if (package := run.missing(name))}
    yield from run.table(_results(corpora, [name for name in detectors if name not in without], config))
    for name, package in without.items():
        yield f"{name}: {package} is not installed: pip install --require-hashes -r benchmarks/requirements.txt"
    yield from run.compare(corpora, configs) if configs else ()
    tried = run.tried(run.TRIED.read_text(encoding="utf-8"))
    yield f"Configurations of ours that were tried with these labels in view: {tried} ({run.TRIED.name})."
    yield "F1* and NAB std, low FP, low FN, held: threshold chosen in-sample. 2-fold, F1cv: on the other half."


def _results(corpora: Corpora, detectors: Sequence[str], config: PipelineConfig) -> Iterator[Result]:
    for name in detectors:
        yield from run.results(name, corpora, config)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help=f"folder with {run.NAB_FOLDER} and {run.CLOUD_FOLDER}, or one of them"
    )
    parser.add_argument("--detectors", nargs="+", choices=run.DETECTORS, default=run.DETECTORS, metavar="NAME",
                        help=f"some of {', '.join(run.DETECTORS)}")  # fmt: skip
    ours = parser.add_mutually_exclusive_group()
    ours.add_argument("--preset", help="a preset of ours instead of the defaults")
    ours.add_argument("--config", type=Path, help="a configuration file of ours instead of the defaults")
    parser.add_argument("--configurations", type=Path, nargs="+", default=[], metavar="FILE",
                        help="configuration files of ours among which NAB's two-fold estimate chooses")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
