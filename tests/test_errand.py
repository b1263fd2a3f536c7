"""An errand goes on whatever goes wrong, and ends when it is told to."""

from __future__ import annotations

import threading

import pytest

from otel_aiops.errand import Errand
from otel_aiops.errors import BadInput
from tests.servers import wait_for


@pytest.mark.parametrize("fault", [BadInput("no"), ValueError("no")], ids=["expected", "not expected"])
def test_what_goes_wrong_is_tried_again(fault: Exception) -> None:
    done: list[int] = []

    def work() -> None:
        done.append(len(done))
        if len(done) < 3:
            raise fault

    errand = Errand("a test", work, every_s=lambda: 0.01, failure="it could not be done")
    errand.stop()  # before the start
    again = Errand("a test", work, every_s=lambda: 0.01, failure="it could not be done")
    again.start()
    wait_for(lambda: len(done) > 4, "the errand to go on", every_s=0.01)
    again.stop()
    again.stop()
    assert again.stopping and "a test" not in {one.name for one in threading.enumerate()}


def test_the_first_wait_may_be_shorter_and_each_is_asked_for() -> None:
    asked, done = [], threading.Event()

    def every_s() -> float:
        asked.append(1)
        return 3600.0

    errand = Errand("a test", done.set, every_s=every_s, failure="", first_s=0.01)
    errand.start()
    assert done.wait(10)
    wait_for(lambda: len(asked) == 2, "the second wait", every_s=0.01)
    errand.stop()


def test_what_the_end_cuts_off_is_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    begun, going = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert going.wait(30)
        raise BadInput("the service is shutting down")

    errand = Errand("a test", work, every_s=lambda: 0.01, failure="it could not be done")
    errand.start()
    assert begun.wait(30)
    threading.Timer(0.1, going.set).start()
    errand.stop()
    assert "it could not be done" not in capsys.readouterr().out
