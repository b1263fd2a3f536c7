"""Steps that open an issue in GitHub or GitLab."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from otel_aiops.responses.http import Unreachable, joined, send
from otel_aiops.responses.order import Ended, Lost, Order, Outcome, absent, target_of
from otel_aiops.responses.project import ProjectConfig
from otel_aiops.responses.values import filled
from otel_aiops.settings import ConfigErrors

LOOKED_AT = 100  # newest issues, for the one that was made before a crash
TEXT = (
    "{summary}\n\nSeverity {severity}, first suspect {suspect} ({probability}): {reason}\n\n"
    "Since {start}, incident {id}."
)
_MARKS = re.compile(r"([\\`*_\[\]<>|#~!])")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerConfig(ProjectConfig):
    """A project in which steps may open issues."""

    labels: tuple[str, ...] = ()  # that the issue gets

    def __post_init__(self) -> None:
        if errors := list(self.wrong_project()):
            raise ConfigErrors(errors)

    @property
    def url(self) -> str:
        """Where its issues are."""
        return joined(self.address, "issues")


class Issues:
    """Opens issues; each says by which order it was made, so that one is never made twice."""

    def __init__(self, trackers: tuple[TrackerConfig, ...]) -> None:
        self._trackers = {one.name: one for one in trackers}

    def plan(self, order: Order) -> str:
        config = target_of(self._trackers, order)
        return f"open an issue in {config.project} of {config.name}: {_title(order)}"

    def replicas(self, order: Order) -> None:
        return None

    def run(self, order: Order) -> Outcome:
        config = target_of(self._trackers, order)
        text = f"{filled(order.action.text or TEXT, escaped(order.values))}\n\n<!-- otel-aiops {order.id} -->\n"
        tree: dict[str, Any] = {"title": _title(order)}
        if config.kind == "github":
            tree |= {"body": text, "labels": list(config.labels)}
        else:
            tree |= {"description": text, "labels": ",".join(config.labels)}
        body, headers = json.dumps(tree).encode(), {"Content-Type": "application/json"}
        try:
            answer = send("POST", config.to, config.url, body=body, headers=headers, repeatable=False)
        except Unreachable as error:
            return error.outcome()
        return _made(answer.tree())

    def lost(self, order: Order) -> Outcome | Lost:
        config = target_of(self._trackers, order)
        every = "state=all&sort=created" if config.kind == "github" else "state=all&order_by=created_at"
        try:
            found = send("GET", config.to, f"{config.url}?{every}&per_page={LOOKED_AT}", most_bytes=16 << 20).tree()
        except Unreachable:
            return Lost.UNKNOWN
        if not isinstance(found, list):
            return Lost.UNKNOWN
        for one in found:
            if isinstance(one, dict) and order.id in f"{one.get('body')} {one.get('description')}":
                return _made(one)
        return absent(order, config.to.timeout)


def escaped(values: Mapping[str, str]) -> dict[str, str]:
    """Values as text of Markdown: no links, tags or mentions of their own.

    >>> escaped({"title": "@all [x](http://y) <b>"})["title"].replace(chr(0x200B), "~")
    '@~all \\\\[x\\\\](http://y) \\\\<b\\\\>'
    """
    return {name: _MARKS.sub(r"\\\1", value).replace("@", "@\u200b") for name, value in values.items()}


def _title(order: Order) -> str:
    return " ".join(order.values["title"].replace("@", "@\u200b").split())[:200]


def _made(tree: Any) -> Outcome:
    name = (tree.get("html_url") or tree.get("web_url") or "") if isinstance(tree, dict) else ""
    return Outcome(ended=Ended.DONE, text=f"issue {str(name)[:300]}".strip())
