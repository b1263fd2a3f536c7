"""Steps that start a workflow of GitHub Actions, or a pipeline of GitLab."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from otel_aiops.errors import ConfigError
from otel_aiops.responses.http import Unreachable, joined, send
from otel_aiops.responses.order import Ended, Lost, Order, Outcome, Refused, absent, target_of
from otel_aiops.responses.project import ProjectConfig
from otel_aiops.responses.values import NAMES, is_whole, whole, wrong_places
from otel_aiops.settings import ConfigErrors

LOOKED_AT = 100  # newest runs, for the one that was started before a crash
ORDER = "order"  # the value by which a run can be found again, beside those of the incident
_INPUT = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")
_WORDS = re.compile(r"[\w.]+")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowConfig(ProjectConfig):
    """A workflow that steps may start, on one branch."""

    workflow: str = ""  # of GitHub: its file, as heal.yml, or its number; GitLab has one for each branch
    ref: str = "main"  # branch or tag that has the workflow
    # inputs of GitHub, variables of GitLab: fixed texts; {service} and so on, and {order}, as whole values
    inputs: Mapping[str, str] = field(default_factory=dict, repr=False)
    token: str = field(default="", repr=False)  # trigger token of GitLab, instead of a token in `to.headers`

    def __post_init__(self) -> None:
        errors = list(self._errors())
        if errors:
            raise ConfigErrors(errors)

    @property
    def url(self) -> str:
        """Below which its workflow is, or its pipelines are."""
        workflow = f"actions/workflows/{quote(self.workflow)}"
        return joined(self.address, workflow) if self.kind == "github" else self.address

    def _errors(self) -> Iterator[ConfigError]:
        yield from self.wrong_project()
        if self.kind == "github" and not _FILE.fullmatch(self.workflow):
            yield ConfigError("workflow", f"expected the name of its file, as heal.yml, got {self.workflow!r}")
        if self.kind == "gitlab" and self.workflow:
            yield ConfigError("workflow", f"expected it only with kind github, got {self.workflow!r}")
        if self.kind == "github" and self.token:
            yield ConfigError("token", "expected it only with kind gitlab; that of GitHub is an Authorization header")
        if not self.ref.strip():
            yield ConfigError("ref", "expected a branch or tag, got none")
        for name, text in self.inputs.items():
            if not _INPUT.fullmatch(name):
                yield ConfigError(f"inputs.{name}", f"expected letters, digits, _ and -, got {name!r}")
            for why in wrong_places(text, (*NAMES, ORDER)):
                yield ConfigError(f"inputs.{name}", why)


class Workflows:
    """Starts workflows. What one is given may reach its shell: values of incidents are held to those of commands."""

    def __init__(self, workflows: tuple[WorkflowConfig, ...]) -> None:
        self._workflows = {one.name: one for one in workflows}

    def plan(self, order: Order) -> str:
        config = target_of(self._workflows, order)
        inputs = _inputs(config, order)
        given = [f"{name}={inputs[name]}" for name, text in config.inputs.items() if is_whole(text)]
        what = f"the workflow {config.workflow}" if config.kind == "github" else "a pipeline"
        return f"start {what} of {config.project} on {config.ref}{' with ' * bool(given)}{', '.join(given)}"

    def replicas(self, order: Order) -> None:
        return None

    def run(self, order: Order) -> Outcome:
        config = target_of(self._workflows, order)
        path, tree = _asked(config, _inputs(config, order))
        body, headers = json.dumps(tree).encode(), {"Content-Type": "application/json"}
        again, url = order.action.repeatable, joined(config.url, path)
        try:
            answer = send("POST", config.to, url, body=body, headers=headers, repeatable=again)
        except Unreachable as error:
            return error.outcome()
        return _started(answer.tree())

    def lost(self, order: Order) -> Outcome | Lost:
        """Known where the run shows the order in its name; what shows none may have been started all the same."""
        config = target_of(self._workflows, order)
        path = "runs?event=workflow_dispatch" if config.kind == "github" else "pipelines?order_by=id"
        try:
            found = send("GET", config.to, f"{joined(config.url, path)}&per_page={LOOKED_AT}", most_bytes=16 << 20)
        except Unreachable:
            return Lost.UNKNOWN
        tree = found.tree()
        runs = tree.get("workflow_runs") if isinstance(tree, dict) else tree
        for one in runs if isinstance(runs, list) else ():
            if isinstance(one, dict) and order.id in _WORDS.findall(f"{one.get('display_title')} {one.get('name')}"):
                return _started(one)
        return absent(order, config.to.timeout, Lost.UNKNOWN)


def _asked(config: WorkflowConfig, inputs: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """(path, body) of the request that starts it."""
    if config.kind == "github":
        return "dispatches", {"ref": config.ref} | ({"inputs": dict(inputs)} if inputs else {})
    if config.token:
        return "trigger/pipeline", {"token": config.token, "ref": config.ref, "variables": dict(inputs)}
    variables = [{"key": name, "value": value} for name, value in inputs.items()]
    return "pipeline", {"ref": config.ref, "variables": variables}


def _inputs(config: WorkflowConfig, order: Order) -> dict[str, str]:
    """What it is given. Raises: Refused."""
    values = {**order.values, ORDER: order.id}
    try:
        return {name: whole(text, values) for name, text in config.inputs.items()}
    except ValueError as error:
        raise Refused(f"workflow {config.name}: {error}") from error


def _started(tree: Any) -> Outcome:
    name = (tree.get("html_url") or tree.get("web_url") or "") if isinstance(tree, dict) else ""
    return Outcome(ended=Ended.DONE, text=f"it is started {str(name)[:300]}".strip())
