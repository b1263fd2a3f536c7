"""On call: a playbook of the demo asks whether the shop may take a deployment back, and somebody agrees."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import requests
from rich.console import Console
from rich.markup import escape

from otel_aiops.demo.alertmanager import Alertmanager
from otel_aiops.demo.service import Service
from otel_aiops.shop import LiveShop
from otel_aiops.shop.control import Control, command

SERVICE = "payment"
PLAYBOOK, COMMAND = "take-back", "roll-back"
WHY = "it throws since its release"
HOLD_S = 5.0  # that the shop's clock waits for an incident to come to somebody
USER_S = 180.0  # that it waits for whoever looks at the page, with KEEP=1
RUN_S = 60.0  # within which the command is done
POLL_S = 0.1
MARGIN = " " * 11


def playbook(*, notified: bool) -> dict[str, Any]:
    """What is to be done about errors of the service, as its file would have it."""
    step = {
        "do": {"kind": "command", "use": COMMAND},
        "guard": {"approvals": 1},
        "verify": {"by": "resolved", "within": "30m"},
    }
    on = "notified" if notified else "opened"
    return {"name": PLAYBOOK, "on": on, "dry_run": False, "match": {"suspects": [SERVICE]}, "steps": [step]}


def settings(folder: Path, alertmanager: str) -> str:
    """What the service's configuration says of it; `alertmanager` is the address of one, or ""."""
    may = {"enabled": True, "commands": [{"name": COMMAND, "argv": command(folder)}]}
    tree: dict[str, Any] = {
        "service": {"tick_interval": "30m"},  # the shop's clock may wait
        "responses": may,
        "playbooks": [playbook(notified=bool(alertmanager))],
    }
    if alertmanager:
        tree["alertmanager"] = {"to": [{"url": alertmanager}], "resend": "5s"}
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in tree.items())


class OnCall:
    """Somebody beside the live shop. `look` acts and tells; the shop's clock stands still meanwhile."""

    def __init__(self, console: Console, service: Service, folder: Path, alertmanager: Alertmanager | None) -> None:
        self._console, self._service, self._folder, self._alertmanager = console, service, folder, alertmanager
        self._control: Control | None = None
        self._held: set[tuple[str, int]] = set()
        self._runs: dict[str, str] = {}  # incident → run that was approved
        self._healed_s: dict[str, float] = {}
        self.done: dict[str, str] = {}  # incident → what was done, and whether it helped

    def join(self, shop: LiveShop) -> None:
        """Have the shop listen, and say what will happen."""
        self._control = Control(self._folder, shop)
        on = "Alertmanager tells of it by its webhook" if self._alertmanager else "it opens"
        if self._alertmanager is None:
            self._console.print(
                "There is no Alertmanager here (`alertmanager` or `prometheus-alertmanager` on the PATH, or "
                "ALERTMANAGER=/path/to/it): incidents are told to nobody, and playbooks begin without it."
            )
        self._console.print(
            f"The playbook {PLAYBOOK} has the shop take back a deployment of {SERVICE}, when an incident suspects it "
            f"first, {on}, and somebody approves."
        )

    def look(self, time_s: float, incidents: Iterable[dict[str, Any]]) -> None:
        """Do what is to be done at a time of the shop."""
        for incident in incidents:
            name = incident["id"]
            if name in self._runs:
                self._follow(incident, time_s)
            elif incident["state"] == "open" and _first(incident) == SERVICE and self._new(incident):
                waiting = self._poll(lambda name=name: self._asked(name), HOLD_S)  # type: ignore[misc]
                if waiting is not None:
                    self._act(incident, waiting, time_s)

    # -- one incident -------------------------------------------------------------------------------------------------

    def _new(self, incident: dict[str, Any]) -> bool:
        """Whether it has not been waited for in this form."""
        known = incident["id"], incident["revision"]
        new = known not in self._held
        self._held.add(known)
        return new

    def _asked(self, incident: str) -> dict[str, Any] | None:
        found = self._get("responses", incident=incident, state="waiting")["responses"]
        return next(iter(found), None)

    def _act(self, incident: dict[str, Any], run: dict[str, Any], time_s: float) -> None:
        name = run["id"]
        if self._alertmanager is not None and (alert := self._alertmanager.alert(incident["id"])):
            labels = alert["labels"]
            self._say(
                "alert",
                f"{labels['alertname']} ({labels['severity']}) fires in Alertmanager, which has told our webhook",
            )
        (step,) = run["steps"]
        self._say("asks", f"the playbook {PLAYBOOK}: {step['plan']}; {step['approvals_needed']} approval is missing")
        if not self._approved_by_somebody(name):
            self._console.print(f"{MARGIN}The demo approves it for you:")
            self._type("responses", "approve", name, "--who", "you", "--why", WHY)
        step = self._poll(lambda: self._ended(name, time_s), RUN_S)
        if step is None:
            raise RuntimeError(f"expected the command of {PLAYBOOK} to end within {RUN_S:g} s, it goes on")
        self._say(step["state"], " ".join((step["output"] or step["result"]).split()))
        self._runs[incident["id"]], self._healed_s[incident["id"]] = name, time_s
        self.done[incident["id"]] = "taken back"

    def _approved_by_somebody(self, run: str) -> bool:
        """With KEEP=1 there is time to do it on the page."""
        if not os.environ.get("KEEP"):
            return False
        self._console.print(
            f"{MARGIN}Approve it at {self._service.url}/responses within {USER_S / 60:g} minutes, or by "
            f"`otel-aiops responses approve {run} --who you --url {self._service.url}`.",
            soft_wrap=True,
        )
        return self._poll(lambda: self._step(run)["state"] != "waiting" or None, USER_S) is not None

    def _ended(self, run: str, time_s: float) -> dict[str, Any] | None:
        assert self._control is not None
        self._control.look(time_s)
        step = self._step(run)
        return step if step["state"] not in ("waiting", "intended") else None

    def _follow(self, incident: dict[str, Any], time_s: float) -> None:
        """See whether it has helped; then say what it was."""
        name, healed_s = incident["id"], self._healed_s.get(incident["id"])
        if incident["state"] != "resolved" or healed_s is None:
            return
        del self._healed_s[name]
        step = self._poll(lambda: self._seen(self._runs[name]), RUN_S)
        if step is None or step["verified"] != "recovered":
            self._say("not over", f"the response does not see that it helped: {step and step['verified_why']}")
            return
        gone = self._alertmanager is not None and self._poll(lambda: self._gone(name), RUN_S)
        more = "; Alertmanager has no alert of it any more" if gone else ""
        self._say(
            "helped", f"the incident is resolved {time_s - healed_s:.0f} s after the deployment was taken back{more}"
        )
        self.done[name] = f"taken back; resolved {time_s - healed_s:.0f} s later"
        said = self._type("incidents", "verdict", name, "real", "--who", "you", "--why", "a bad release")
        case = "" if "of 0 series" in said else ", and a case that every later version is asked"
        self._console.print(f"{MARGIN}The verdict is a label of later datasets{case}: see part two.")

    def _seen(self, run: str) -> dict[str, Any] | None:
        step = self._step(run)
        return step if step["verified"] not in (None, "pending") else None

    def _gone(self, incident: str) -> bool | None:
        assert self._alertmanager is not None
        return self._alertmanager.alert(incident) is None or None

    # -- asking and telling -------------------------------------------------------------------------------------------

    def _step(self, run: str) -> dict[str, Any]:
        (step,) = self._get(f"responses/{run}")["steps"]
        return dict(step)

    def _get(self, path: str, **asked: str) -> Any:
        answer = requests.get(f"{self._service.url}/api/v1/{path}", params=asked, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def _poll(self, check: Callable[[], Any], within_s: float) -> Any:
        """Ask until there is an answer; None where there is none in time."""
        ends_s = time.monotonic() + within_s
        while (found := check()) is None and time.monotonic() < ends_s:
            time.sleep(POLL_S)
        return found

    def _type(self, *words: str) -> str:
        """Type a command of the product, and show what it says; that. Raises: RuntimeError."""
        self._console.print(f"{MARGIN}[bold]$ otel-aiops {escape(shlex.join(words))}[/]", soft_wrap=True)
        argv = [sys.executable, "-m", "otel_aiops", *words, "--url", self._service.url]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise RuntimeError(f"{shlex.join(words)}: exit code {done.returncode}\n{done.stderr}{done.stdout}")
        for line in done.stdout.splitlines():
            self._console.print(f"{MARGIN}{line}", soft_wrap=True, markup=False)
        return done.stdout

    def _say(self, what: str, text: str) -> None:
        self._console.print(f"{MARGIN}[cyan]{what}[/]  {escape(text)}", soft_wrap=True)


def _first(incident: dict[str, Any]) -> str:
    return next((str(one["service"]) for one in incident["suspects"]), "")
