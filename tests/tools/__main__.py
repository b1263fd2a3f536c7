"""Builds or fetches every server and client that the tests start, and compiles the kernels, before the tests run."""

from __future__ import annotations

import os
import sys

from otel_aiops.detect.engine import prepare
from tests.tools.chromium import chromium
from tests.tools.collector import Unavailable, collector
from tests.tools.golang import compose, helm, kubectl_validate, service_monitor
from tests.tools.javascript import grafana_schema, javascript, shop_javascript
from tests.tools.postgres import postgres
from tests.tools.prometheus import amtool, prometheus
from tests.tools.python import shop_python


def main() -> int:
    """Say what there is; 1 when something is missing that must be there."""
    missing = 0
    browsing = (chromium, javascript, grafana_schema, shop_javascript)
    servers = (*browsing, prometheus, amtool, postgres, shop_python, collector)
    for get in (*servers, compose, kubectl_validate, service_monitor, helm):
        try:
            print(f"{get.__name__}: {get()}", flush=True)
        except Unavailable as why:
            print(f"{get.__name__}: not here, its tests are skipped: {why}", file=sys.stderr, flush=True)
            missing += 1
    prepare(lambda text: print(text, flush=True))
    return int(missing > 0 and os.environ.get("OTEL_AIOPS_REQUIRE_SERVERS") == "1")


if __name__ == "__main__":
    sys.exit(main())
