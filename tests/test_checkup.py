"""The child process of the self-test: what it is given, what is made of its report, and that it holds nothing up."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from otel_aiops.app import Service
from otel_aiops.checkup import Checkup
from otel_aiops.config import Config, load, parse
from otel_aiops.server.telemetry import Telemetry
from otel_aiops.views import Views
from tests.servers import wait_for

REPORT = {
    "source": "history",
    "series": 3,
    "duration_s": 1.5,
    "problems": [],
    "metrics": [
        ["otel_aiops.selftest.recall", {"fault": "spike"}, 0.75],
        ["otel_aiops.selftest.held", {}, 0.9],
        ["otel_aiops.selftest.problems", {}, 0.0],
    ],
}


def child(code: str) -> tuple[str, ...]:
    """A command that runs some lines; `report` prints a report."""
    head = f"import json, os, sys, time, resource\nreport = {REPORT!r}\nargs = sys.argv[1:]\n"
    return (sys.executable, "-c", head + code)


def says(**changes: Any) -> tuple[str, ...]:
    return child(f"print(json.dumps({{**report, **{changes!r}}}))")


def checkup(folder: Path, command: tuple[str, ...], more: str = "", **options: Any) -> Checkup:
    return Checkup(folder, Telemetry(), parse(more).config, command=command, **options)


class TestOneTest:
    def test_its_report_becomes_metrics(self, tmp_path: Path) -> None:
        one = checkup(tmp_path, says())
        assert one.latest is None
        one.run()
        telemetry = one._telemetry
        assert telemetry.value("otel_aiops.selftest.recall", fault="spike") == 0.75
        assert telemetry.value("otel_aiops.selftest.held") == 0.9
        assert telemetry.value("otel_aiops.selftest.duration") == 1.5
        assert 0 <= telemetry.value("otel_aiops.selftest.age") < 60
        assert telemetry.value("otel_aiops.selftest.failures") == 0
        assert one.latest == {key: value for key, value in REPORT.items() if key != "metrics"}

    def test_a_fault_that_is_gone_has_no_figure(self, tmp_path: Path) -> None:
        one = checkup(tmp_path, says())
        one.run()
        one._command = says(metrics=[["otel_aiops.selftest.recall", {"fault": "dip"}, 1.0]])
        one.run()
        assert one._telemetry.observations("otel_aiops.selftest.recall") == [(1.0, {"fault": "dip"})]

    def test_problems_are_logged(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        checkup(tmp_path, says(problems=["it never fires", "it is late"])).run()
        out = capsys.readouterr()
        assert "the self-test found problems" in out.out + out.err and "it never fires; it is late" in out.out + out.err

    def test_the_child_has_the_live_configuration_and_steps_back(self, tmp_path: Path) -> None:
        code = """
        import shutil
        shutil.copy(args[args.index('--config') + 1], 'COPY')
        time.sleep(0.3)
        limits = resource.getrlimit(resource.RLIMIT_DATA)
        report['seen'] = [os.nice(0), limits[0], os.environ['OMP_NUM_THREADS'], args]
        print(json.dumps(report))
        """.replace("COPY", str(tmp_path / "copy.yaml"))
        more = (
            "detection: {threshold: 7.5, adapt_after: 1h}\nalign: {stopped_min: 1ms}\n"
            "series: {ignore_names: [b, a]}\n"
            "selftest: {max_series: 3, max_memory: 300MiB, limits: {required: [spike]}}"
        )
        one = checkup(tmp_path, child("\n".join(line.strip() for line in code.splitlines())), more)
        one.run()
        assert one.latest is not None
        nice, memory, threads, arguments = one.latest["seen"]
        assert nice == min(19, max(os.nice(0), 15)) and threads == "1"
        if sys.platform == "linux":
            assert memory == 300 << 20
        assert arguments[0] == "--json" and arguments[arguments.index("--data-dir") + 1] == str(tmp_path)
        given, live = load(tmp_path / "copy.yaml").config, parse(more).config
        assert (given.pipeline(), given.selftest) == (live.pipeline(), live.selftest)

    @pytest.mark.parametrize(
        ("code", "why"),
        [
            ("print('{')", "expected a JSON object, got something else"),
            ("sys.exit('no such thing')", "expected a JSON object"),
            ("sys.stderr.write('first\\nthe reason\\n'); sys.exit(3)", "exit code 3: the reason"),
            ("os.abort()", "exit code -6"),
            ("time.sleep(60)", "it took longer than 0.5 s"),
        ],
    )
    def test_a_failure_is_counted_and_the_report_before_stays(
        self, tmp_path: Path, code: str, why: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        one = checkup(tmp_path, says())
        one.run()
        before = one.latest
        one._command = child(code)
        if "sleep" in code:
            one.reload(parse("selftest: {timeout: 500ms}").config)
        one.run()
        out = capsys.readouterr()
        assert why in out.out + out.err
        assert one.latest is before and one._telemetry.value("otel_aiops.selftest.failures") == 1


class TestTime:
    def test_it_tests_again_and_again(self, tmp_path: Path) -> None:
        one = checkup(
            tmp_path, child("print(json.dumps({**report, 'series': args[-1]}))"), "selftest: {interval: 100ms}"
        )
        one._first_after_s = 0.0
        one.start()
        try:
            wait_for(lambda: one.latest is not None and int(one.latest["series"]) >= 2, "two tests")
        finally:
            one.stop()

    @pytest.mark.parametrize("more", ["selftest: {enabled: false}", "selftest: {at_start: false}"])
    def test_it_waits_when_told_so_until_it_is_told_otherwise(self, tmp_path: Path, more: str) -> None:
        one = checkup(tmp_path, says(), more, first_after_s=0.0)
        one.start()
        try:
            time.sleep(0.3)
            assert one.latest is None
            one.reload(Config())
            wait_for(lambda: one.latest is not None, "a test")
        finally:
            one.stop()

    def test_a_stop_ends_the_child_at_once(self, tmp_path: Path) -> None:
        one = checkup(tmp_path, child("time.sleep(60)"), first_after_s=0.0)
        one.start()
        wait_for(lambda: one._child is not None, "a child")
        begun_s = time.monotonic()
        one.stop()
        one.stop()
        assert time.monotonic() - begun_s < 5
        assert one._telemetry.value("otel_aiops.selftest.failures") == 0 and one.latest is None
        one.run()  # nothing begins any more
        assert one._child is None

    def test_a_command_that_is_not_there_does_not_end_the_tests(self, tmp_path: Path) -> None:
        one = checkup(tmp_path, ("/nowhere/at/all",), "selftest: {interval: 20ms}", first_after_s=0.0)
        one.start()
        try:
            wait_for(lambda: one._telemetry.value("otel_aiops.selftest.failures") >= 2, "two failures")
        finally:
            one.stop()


def test_the_real_command_reports(tmp_path: Path) -> None:
    """The child as the service starts it, on made-up series; then the view of it."""
    config = parse("selftest: {max_series: 2, max_points: 120, tested: 0.5}").config
    service = Service(config, tmp_path)
    assert Views(service).selftest() is None
    service.checkup.run()
    report = Views(service).selftest()
    assert report is not None, "the child has not reported"
    assert report["source"] == "specimens" and report["series"] == 2 and "metrics" not in report
    assert report["faults"]["spike"]["series"] == 2
    assert json.dumps(report, allow_nan=False)
    assert service.telemetry.value("otel_aiops.selftest.series") == 2
    assert b'otel_aiops_selftest_recall{fault="spike"}' in service.telemetry.render()
