"""Names that do harm, through every kind of step to real receivers: they are data wherever they come out."""

from __future__ import annotations

import html
import json
import re
import sys
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from otel_aiops.errors import ConfigError
from otel_aiops.responses.alertmanager import AlertmanagersConfig, Story, alerts_of, annotations_of, body_of
from otel_aiops.responses.config import ResponsesConfig
from otel_aiops.responses.kinds import responders
from otel_aiops.responses.order import Ended, Order, Outcome, Refused
from otel_aiops.responses.playbook import KINDS, ActionConfig
from otel_aiops.responses.values import NAMES, values_of
from otel_aiops.settings import Schema
from tests.hostile import ALL, HOSTILE
from tests.responses.makers import incident
from tests.responses.receiver import Asked, Receiver

VALUES = {**HOSTILE, "all at once": ALL}
ECHO = "import json, sys; print(json.dumps(sys.argv[1:]))"
TEXT = " ".join(f"{{{name}}}" for name in NAMES)
PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@=+-]{0,252}")


def order(kind: str, value: str, **more: Any) -> Order:
    """One about an incident in which everything that a sender can choose is the value."""
    of = incident(service=value, title=value)
    suspects = tuple(
        replace(one, service=value, reason=value, resource=value, operation=value, edge=value, deployment=value)
        for one in of.suspects
    )
    of = replace(of, suspects=suspects, services=(value,), summary=value)
    action = ActionConfig(kind=kind, use="it", text=TEXT, **more)  # type: ignore[arg-type]
    known: dict[str, Any] = {"run": "r1", "playbook": "heal", "trigger": "opened", "action": action}
    return Order(id=str(zlib.crc32(value.encode())), incident=of, values=values_of(of, "heal"), **known)


WORKFLOW = {"workflow": "heal.yml", "inputs": {"service": "{service}", "reason": "{reason}"}}


def config(url: str, value: str) -> ResponsesConfig:
    http = {"url": f"{url}/base", "attempts": 1, "headers": {"Authorization": "Bearer planted"}}
    tree = {
        "enabled": True,
        "notify": [{"name": "it", "urls": [f"{url.replace('http', 'json')}/base/told"]}],
        "webhooks": [{"name": "it", "to": http, "secret": "a planted secret"}],
        "commands": [{"name": "it", "argv": [sys.executable, "-c", ECHO, *(f"{{{name}}}" for name in ("service",))]}],
        "scalers": [{"name": "it", "targets": {value: "shop/cart"}, "http": http}],
        "alertmanagers": [{"name": "it", "to": http, "match": {"service_name": "{service}"}}],
        "grafanas": [{"name": "it", "to": http}],
        "trackers": [{"name": "it", "to": http, "project": "team/shop"}],
        "workflows": [{"name": "it", "to": http, "project": "team/shop", **WORKFLOW}],
    }
    return Schema(ResponsesConfig).read(tree)


def served(receiver: Receiver) -> None:
    receiver.routes["GET", "/base/shop%2Fcart"] = {"replicas": 2}
    receiver.routes["PUT", "/base/shop%2Fcart"] = {}
    receiver.routes["POST", "/base/api/v2/silences"] = {"silenceID": "s1"}
    receiver.routes["POST", "/base/api/annotations"] = {"id": 1}
    receiver.routes["POST", "/base/repos/team/shop/actions/workflows/heal.yml/dispatches"] = {}
    receiver.routes["POST", "/base/repos/team/shop/issues"] = {"html_url": "http://x/1"}


PATHS = {
    "notify": {"/base/told", "/base/told/"},
    "webhook": {"/base"},
    "scale": {"/base/shop%2Fcart"},
    "silence": {"/base/api/v2/silences"},
    "annotation": {"/base/api/annotations"},
    "issue": {"/base/repos/team/shop/issues"},
    "workflow": {"/base/repos/team/shop/actions/workflows/heal.yml/dispatches"},
    "command": set[str](),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_goes_where_the_configuration_says(receiver: Receiver, tmp_path: Path, kind: Any) -> None:
    served(receiver)
    for name, value in VALUES.items():
        receiver.asked.clear()
        step(receiver, tmp_path, kind, name, value)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert all(re.fullmatch(r"commands/[0-9]+\.1\.(claim|result)", one) for one in files), files
    assert not Path("/tmp/owned").exists()


def step(receiver: Receiver, folder: Path, kind: Any, name: str, value: str) -> None:
    more = {"add": 1} if kind == "scale" else {}
    responder, asked = responders(config(receiver.url, value[:2_000]), folder)[kind], order(kind, value, **more)
    try:
        responder.plan(asked)
        asked = replace(asked, replicas=responder.replicas(asked))
        found = responder.run(asked)
    except Refused as why:
        assert kind in ("command", "silence", "scale", "workflow"), why
        found = None
    for one in receiver.asked:
        assert one.path in PATHS[kind], f"{name} has moved the request"
        assert "X-Owned" not in one.headers and one.headers["Host"] == urlsplit(receiver.url).netloc
    if kind == "command":
        ran(found, value)
    elif found is not None:
        assert found.ended is Ended.DONE, found.text
        CHECKS[kind](receiver.asked[-1], value)


def ran(found: Outcome | None, value: str) -> None:
    """A command has the value as one whole argument, or is not run at all."""
    if not PLAIN.fullmatch(value) or ".." in value:
        assert found is None
    else:
        assert found is not None and json.loads(found.output) == [value]


def told(one: Asked, value: str) -> None:
    text = json.dumps(one.json(), ensure_ascii=False)
    assert not re.search(r"@(?:channel|everyone|U123)|<[!@]|[\x00-\x09\x0b-\x1f\x1b\x9b\u202e]", text), "calls somebody"


def posted(one: Asked, value: str) -> None:
    assert one.json()["values"]["service"] == value[:2_000], "machines are told what it is"


def silenced(one: Asked, value: str) -> None:
    (matcher,) = one.json()["matchers"]
    assert matcher == {"name": "service_name", "value": value[:2_000], "isRegex": False, "isEqual": True}


def annotated(one: Asked, value: str) -> None:
    text = one.json()["text"]
    assert not set("<>\"'") & set(text) and html.unescape(text).startswith("i1")


def opened(one: Asked, value: str) -> None:
    tree = one.json()
    assert "\n" not in tree["title"] and len(tree["title"]) <= 200
    body = tree["body"].rpartition("<!-- otel-aiops ")[0]
    assert not re.search(r"(?<!\\)[<\[\]`|*_]|@\w", body), "Markdown of its own"


def started(one: Asked, value: str) -> None:
    inputs = one.json()["inputs"]
    assert all(PLAIN.fullmatch(text) and ".." not in text for text in inputs.values()), "it may reach a shell"


def scaled(one: Asked, value: str) -> None:
    assert one.json() == {"replicas": 3}


CHECKS: Mapping[str, Any] = {
    "notify": told,
    "webhook": posted,
    "silence": silenced,
    "annotation": annotated,
    "issue": opened,
    "scale": scaled,
    "workflow": started,
}


@pytest.mark.parametrize("name", VALUES)
def test_an_alert_says_it_as_it_is_and_links_stay_where_they_lead(name: str) -> None:
    to = AlertmanagersConfig(
        page="https://aiops.example.com/here",
        runbook="https://wiki.example.com/a/{service}/{operation}?of={service}#{suspect}",
    )
    one = order("notify", VALUES[name]).incident
    story = Story().after([(one.start_ns, one)])
    (alert,) = alerts_of(to, one, story, one.start_ns)
    json.loads(body_of([alert], one.start_ns, 60.0))
    assert dict(alert.labels).get("service_name", "") in (VALUES[name][:200], "")
    link = urlsplit(dict(annotations_of(to, one)).get("runbook_url", "https://wiki.example.com/a/-/-?of=-"))
    assert (link.scheme, link.netloc) == ("https", "wiki.example.com")
    parts = link.path.split("/")
    assert len(parts) == 4 and parts[1] == "a" and not {".", ".."} & set(parts), link.path
    assert re.fullmatch(r"of=[\w.~%-]*", link.query) and re.fullmatch(r"[\w.~%-]*", link.fragment)


@pytest.mark.parametrize(
    "link", ["https://{service}.example.com/", "{service}", "{service}://x/", "https://a:{service}@b/", "//x/{service}"]
)
def test_a_link_may_not_let_values_choose_its_host(link: str) -> None:
    with pytest.raises(ConfigError, match="runbook: expected http"):
        AlertmanagersConfig(runbook=link)
