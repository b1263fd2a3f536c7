"""What is to be done once, and what came of it: the words between the engine and those who do it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeVar

from otel_aiops.incidents.incident import Incident
from otel_aiops.responses.playbook import ActionConfig

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One thing to do. `id` is the same however often it is tried: receivers can tell by it what they know already."""

    id: str
    attempt: int = 1  # that the journal knows of; another one only where nothing was done before
    run: str
    playbook: str
    trigger: str
    action: ActionConfig
    incident: Incident
    values: Mapping[str, str] = field(default_factory=dict)
    replicas: tuple[int, int] | None = None  # of `scale`: there were, and shall be
    stopping: Callable[[], bool] = lambda: False  # whether whoever does it should leave it
    began_s: float = math.inf  # s since this process began: what another one sent of it was sent before


class Ended(StrEnum):
    """How it ended."""

    DONE = "done"
    FAILED = "failed"
    UNKNOWN = "unknown"  # whether it was done


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of an order, in one plain sentence; `output` is what a command or receiver said."""

    ended: Ended
    text: str
    output: str = ""


class Lost(StrEnum):
    """What is known of an order that was being done when the process ended, where its outcome is not."""

    NEVER = "never"  # it was not begun, and will not be
    RUNNING = "running"  # it may still be done without us
    UNKNOWN = "unknown"


class Refused(Exception):
    """It cannot be done for this incident; the message says why."""


def target_of(targets: Mapping[str, T], order: Order) -> T:
    """What the configuration says of where an order goes. Raises: Refused where it says nothing any more."""
    if order.action.use not in targets:
        raise Refused(f"the configuration has no {order.action.kind} with the name {order.action.use!r} any more")
    return targets[order.action.use]


def absent(order: Order, timeout_s: float, then: Lost = Lost.NEVER) -> Lost:
    """What it means that what an order makes is not there: a request that was sent before the end of the process may
    be carried out after it, for as long as an answer may take.
    """
    return Lost.RUNNING if order.began_s < timeout_s else then


class Responder(Protocol):
    """Does one kind of things. Methods may be called from several threads."""

    def plan(self, order: Order) -> str:
        """What would be done, in one plain sentence without secrets. Raises: Refused."""

    def replicas(self, order: Order) -> tuple[int, int] | None:
        """(how many there are, how many there shall be), of what is scaled. Raises: Refused."""

    def run(self, order: Order) -> Outcome | None:
        """Do it; None when it was left because `stopping` became true."""

    def lost(self, order: Order) -> Outcome | Lost:
        """What became of it after a crash."""
