"""Writes what Grafana is given into its directory: `python -m otel_aiops.dashboards grafana`."""

import sys
from pathlib import Path

from otel_aiops.dashboards import BOARDS
from otel_aiops.dashboards.grafana import rendered
from otel_aiops.dashboards.rules import provisioned


def main(directory: str) -> None:
    home = Path(directory)
    texts = {home / "dashboards" / f"{board.name}.json": rendered(board) for board in BOARDS}
    sources = sorted((home / "alerts").glob("*.rules.yaml"))
    texts[home / "provisioning" / "alerting" / "rules.yaml"] = provisioned(sources)
    for path, text in texts.items():
        path.write_text(text)
        print(path)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) == 2 else sys.exit("usage: python -m otel_aiops.dashboards DIRECTORY"))
