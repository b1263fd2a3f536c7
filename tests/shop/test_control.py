"""A deployment of the live shop is taken back from outside, by a command that waits for the shop."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from otel_aiops.shop import Kind, LiveFault, LiveShop
from otel_aiops.shop.control import Control, command
from otel_aiops.shop.faults import effects
from tests.servers import wait_for

START_S = 1_767_614_400.0
CHARGE = "payment shop.PaymentService/Charge"
BAD = LiveFault(
    kind=Kind.BAD_DEPLOY,
    service="payment",
    operation=CHARGE,
    start_s=START_S + 100,
    end_s=START_S + 9_000,
    size=0.5,
    what="a bad version of payment",
)


def test_only_a_bad_deployment_that_is_there_is_taken_back() -> None:
    shop = LiveShop(START_S, plan=[BAD])
    assert shop.roll_back("payment", START_S + 90) == "" and shop.roll_back("catalog", START_S + 200) == ""
    assert shop.plan == (BAD,)
    assert CHARGE in effects(shop.plan, START_S + 300).raises
    assert shop.roll_back("payment", START_S + 300) == "1.4.0"
    assert CHARGE not in effects(shop.plan, START_S + 300).raises
    assert shop.roll_back("payment", START_S + 305) == "", "once"


@pytest.mark.parametrize(
    ("service", "code", "said"),
    [("payment", 0, "payment runs 1.4.0 again\n"), ("cart", 1, "cart has no deployment to take back\n")],
)
def test_the_command_asks_and_says_what_came_of_it(tmp_path: Path, service: str, code: int, said: str) -> None:
    control = Control(tmp_path / "shop", LiveShop(START_S, plan=[BAD]))
    argv = [service if one == "{service}" else one for one in command(tmp_path / "shop")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env={}, cwd="/") as process:
        wait_for(lambda: list((tmp_path / "shop").iterdir()), "to be asked")
        assert control.look(START_S + 200) == ([service] if code == 0 else [])
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, said)
    assert not list((tmp_path / "shop").iterdir()) and control.look(START_S + 200) == []


@pytest.mark.parametrize("name", ["../payment", "", "a b", "-x"])
def test_what_is_no_name_of_a_service_asks_nothing(tmp_path: Path, name: str) -> None:
    argv = [name if one == "{service}" else one for one in command(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, env={}, timeout=60)
    assert done.returncode == 1 and done.stdout == f"expected the name of a service, got {name!r}\n"
    assert not list(tmp_path.iterdir())
