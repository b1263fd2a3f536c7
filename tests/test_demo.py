"""The demo: the simulated shop is what it says, and the whole runs and tells what was noticed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

from otel_aiops.demo.live import story
from otel_aiops.otlp.decode import decode_metrics
from otel_aiops.otlp.points import Points
from otel_aiops.shop import FAULTS, PODS, SERVICES, STEP_S, Shop
from tests.tools.collector import Unavailable
from tests.tools.prometheus import alertmanager

START_S = 1_759_968_000  # a Thursday, midnight UTC
DAY = 1440


def values(shop: Shop, name: str, steps: range, service: bytes) -> list[float]:
    """One metric of one service, step by step; the first pod where there are several."""
    found = []
    for step in steps:
        points = decode_metrics(shop.request(step)).points
        streams = [k for k, s in enumerate(points.streams) if s.name == name and service in s.resource]
        found.append(float(points.value[points.stream == streams[0]][0]))
    return found


def names(points: Points) -> list[str]:
    return [points.streams[stream].name for stream in points.stream.tolist()]


def test_equal_seeds_give_equal_bytes() -> None:
    one, other = Shop(START_S, DAY, seed=3), Shop(START_S, DAY, seed=3)
    assert [one.request(step) for step in range(20)] == [other.request(step) for step in range(20)]
    assert Shop(START_S, DAY, seed=4).request(0) != Shop(START_S, DAY, seed=3).request(0)


def test_every_series_reports_at_every_step() -> None:
    shop = Shop(START_S, 2 * DAY)
    decoded = decode_metrics(shop.request(5))
    assert not decoded.rejected
    assert set(decoded.points.time_ns.tolist()) == {(START_S + 5 * STEP_S) * 10**9}
    assert len(decoded.points) == len(SERVICES) * (4 + 3 * PODS)


def test_noon_is_busier_than_midnight() -> None:
    shop = Shop(START_S, 2 * DAY)
    total = np.diff(values(shop, "http.server.requests", range(DAY), b"web"))
    assert total[700:740].mean() > 2 * total[:40].mean()


def test_faults_show_where_they_say() -> None:
    shop = Shop(START_S, 2 * DAY)
    drop = next(fault for fault in FAULTS if fault.name == "traffic drop")
    start, end = shop.window(drop)
    total = np.diff(values(shop, drop.metric, range(start - 20, start + 20), b"web"))
    assert total[21:].mean() < 0.5 * total[:18].mean()
    dead = next(fault for fault in FAULTS if fault.name == "dead pod")
    start, end = shop.window(dead)
    counts = [len(decode_metrics(shop.request(step)).points) for step in (start - 1, start, end - 1, end)]
    assert counts == [counts[0], counts[0] - 3, counts[0] - 3, counts[0]]


def test_faults_are_apart() -> None:
    windows = [Shop(START_S, 2 * DAY).window(fault) for fault in FAULTS]
    assert all(end < start for (_, end), (start, _) in pairwise(windows))
    assert windows[0][0] >= DAY and windows[-1][1] <= 2 * DAY


def test_the_demo_runs_and_says_what_was_noticed() -> None:
    try:
        alerts = str(alertmanager())
    except Unavailable:
        alerts = "/none"
    done = subprocess.run(
        [sys.executable, "-m", "otel_aiops.demo", "shop"],
        env={**os.environ, "OTEL_AIOPS_DEMO": "short", "COLUMNS": "200", "ALERTMANAGER": alerts},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("  fault    ") == len(FAULTS) + len(story(START_S, 15))
    for fault in ("slow payments", "error burst", "dead pod"):
        assert f"noticed  {fault}" in done.stdout, done.stdout
    assert " faults were noticed; there were " in done.stdout
    wanted = ["asks  the playbook take-back: run [", "The demo approves it for you:", "done  payment runs 1.4.0 again"]
    wanted += ["helped  the incident is resolved ", "incidents verdict"]
    wanted[:0] = ["fires in Alertmanager, which has told our webhook"] if alerts != "/none" else []
    at = [done.stdout.find(one) for one in wanted]
    assert -1 not in at and at == sorted(at), done.stdout
    assert ("There is no Alertmanager here" in done.stdout) == (alerts == "/none")
    assert "What became an incident" in done.stdout and " log records were read in " in done.stdout
    assert "/api/v1/anomalies" in done.stdout
    assert "\x1b" not in done.stdout  # no control characters where there is no terminal


def test_ended_by_a_signal_it_leaves_nothing_running() -> None:
    command = [sys.executable, "-m", "otel_aiops.demo", "shop"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as demo:
        assert demo.stdout is not None
        started = next(line for line in demo.stdout if "A shop of services" in line)
        demo.send_signal(signal.SIGTERM)
        rest = demo.stdout.read()  # until the service that inherits it has ended too
    assert started and demo.returncode == 130 and rest.endswith("stopped\n")
    with pytest.raises(ProcessLookupError):
        os.killpg(demo.pid, 0)


def test_parts_that_there_are() -> None:
    command = [sys.executable, "-m", "otel_aiops.demo", "shop", "square"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "expected some of shop, circle, got square\n")
