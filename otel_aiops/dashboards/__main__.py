"""Writes all dashboards into a directory: `python -m otel_aiops.dashboards grafana/dashboards`."""

import sys
from pathlib import Path

from otel_aiops.dashboards import BOARDS
from otel_aiops.dashboards.grafana import rendered


def main(directory: str) -> None:
    for board in BOARDS:
        path = Path(directory) / f"{board.name}.json"
        path.write_text(rendered(board))
        print(path)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) == 2 else sys.exit("usage: python -m otel_aiops.dashboards DIRECTORY"))
