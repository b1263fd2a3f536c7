"""Secrets of a configuration are nowhere else: not in logs, answers, pages, metrics, audit, reports or state."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import json
import os
import subprocess
import sys
import time
import typing
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import requests
from starlette.routing import Route
from typer.testing import CliRunner

from otel_aiops.cli import app
from otel_aiops.config import Config, load
from otel_aiops.server import api
from otel_aiops.server.access.roles import Role
from otel_aiops.server.access.tokens import TokenFile
from otel_aiops.settings import dataclass_in
from otel_aiops.shop import LiveShop
from tests.incident_feed import BREAKS_S, LASTS_S, OUTAGE, steps
from tests.server.certificates import Authority
from tests.servers import Server, free_port, wait_for
from tests.test_webhooks import alert, notified

BROWSER = {"Accept": "text/html"}
PLANT = "planted-"
MOST = 10  # of a kind that are looked at
RUNBOOKS = ["host.md", "self.md"]


class Planted:
    """Secrets with names of their own, given by the environment or by files."""

    def __init__(self) -> None:
        self.environment: dict[str, str] = {}
        self.others: dict[str, str] = {}

    def env(self, name: str, text: str = "") -> str:
        """`${env:…}` of a secret, which is a text around it where one is given."""
        secret = f"{PLANT}{name}-7f3a9c"
        self.environment[f"SECRET_{name.upper()}"] = text.format(secret) if text else secret
        self.others[name] = secret
        return f"${{env:SECRET_{name.upper()}}}"

    def value(self, name: str) -> str:
        return self.environment[f"SECRET_{name.upper()}"]

    def file(self, folder: Path, name: str, text: str = "{}") -> str:
        self.others[name] = f"{PLANT}{name}-7f3a9c"
        path = folder / name
        path.write_text(text.format(self.others[name]) + "\n")
        return str(path)

    def found(self, text: str | bytes) -> list[str]:
        """Those that stand in a text, as they are, or as headers and logs would carry them."""
        data = text.encode() if isinstance(text, str) else text
        return [name for name, secret in self.others.items() if any(one in data for one in _forms(secret))]


def _forms(secret: str) -> Iterator[bytes]:
    yield secret.encode()
    yield base64.b64encode(b"user:" + secret.encode())


def http(planted: Planted, name: str) -> dict[str, Any]:
    """An address where nobody listens, with a secret wherever one may stand."""
    return {
        "url": planted.env(f"{name}_url", "http://127.0.0.1:9/hook/{}?key=x"),
        "headers": {"X-Key": planted.env(f"{name}_header")},
        "username": "user",
        "password": planted.env(f"{name}_password"),
        "attempts": 1,
        "timeout": "1s",
    }


def configuration(folder: Path, planted: Planted, ports: dict[str, int]) -> dict[str, Any]:
    """Every setting that takes a secret has one."""
    authority = Authority()
    (folder / "ca.pem").write_bytes(authority.pem)
    cert, key = authority.issue().write(folder)
    planted.others["key_pem"] = Path(key).read_text().splitlines()[1]
    planted.environment["SECRET_KEY_PEM"] = Path(key).read_text()
    line = "ben:" + bcrypt.hashpw(b"x", bcrypt.gensalt(4)).decode()
    planted.environment["SECRET_INLINE"], planted.others["inline"] = line, line[4:]
    steps = [
        {"do": {"kind": "notify", "use": "n", "text": "{title}"}},
        {"do": {"kind": "webhook", "use": "w"}},
        {"do": {"kind": "command", "use": "c"}},
        {"do": {"kind": "scale", "use": "s", "add": 1}},
        {"do": {"kind": "silence", "use": "a", "duration": "1h"}},
        {"do": {"kind": "annotation", "use": "g"}},
        {"do": {"kind": "issue", "use": "t"}},
        {"do": {"kind": "workflow", "use": "hub"}},
        {"do": {"kind": "workflow", "use": "lab"}},
    ]
    playbooks = [
        {
            "name": f"p{k}",
            "on": "alert",
            "dry_run": False,
            "steps": [one | {"guard": {"cooldown": 0, "healthy": False}}],
        }
        for k, one in enumerate(steps)
    ]
    fails = [sys.executable, "-c", "import sys; sys.exit('it failed')"]
    oidc = {
        "issuer": "http://127.0.0.1:9",
        "client_id": "a",
        "client_secret": planted.env("oidc"),
        "roles": {"a": "admin"},
    }
    return {
        "receivers": {
            "otlp": {
                "protocols": {
                    "grpc": {
                        "endpoint": f"127.0.0.1:{ports['grpc']}",
                        "auth": {"bearertokenauth": {"token": planted.env("grpc_token")}},
                    },
                    "http": {
                        "endpoint": f"127.0.0.1:{ports['http']}",
                        "tls": {"cert_file": cert, "key_pem": "${env:SECRET_KEY_PEM}"},
                        "auth": {"bearertokenauth": {"tokens": [planted.env("http_token")]}},
                    },
                }
            }
        },
        "exporters": {
            "otlp": {
                "endpoint": "http://127.0.0.1:9",
                "protocol": "http",
                "headers": {"authorization": planted.env("exporter", "Bearer {}")},
            }
        },
        "api": {
            "endpoint": f"127.0.0.1:{ports['api']}",
            "auth": {
                "basicauth": {
                    "username": "user",
                    "password": planted.env("basic"),
                    "htpasswd": {"inline": "${env:SECRET_INLINE}"},
                },
                "bearertokenauth": {"filename": planted.file(folder, "shared_token")},
            },
            "access": {"oidc": oidc, "programs": {"scraper": {"token": planted.env("program")}}},
            "webhooks": {"secret": planted.env("hmac")},
        },
        "governance": {"hash": ["client.address"], "salt": planted.env("salt")},
        "lifecycle": {"registry": {"uri": planted.env("registry", "http://user:{}@127.0.0.1:9"), "timeout": "1s"}},
        "alertmanager": {"to": [http(planted, "am")]},
        "responses": {
            "enabled": True,
            "late": "10000d",
            "prometheus": http(planted, "prometheus"),
            "notify": [{"name": "n", "urls": [planted.env("apprise", "json://user:{}@127.0.0.1:9/x")]}],
            "webhooks": [{"name": "w", "to": http(planted, "webhook"), "secret": planted.env("signing")}],
            "commands": [{"name": "c", "argv": fails, "env": {"KEY": planted.env("command")}}],
            "scalers": [{"name": "s", "targets": {"catalog": "catalog"}, "http": http(planted, "scaler")}],
            "alertmanagers": [{"name": "a", "to": http(planted, "silence")}],
            "grafanas": [{"name": "g", "to": http(planted, "grafana")}],
            "trackers": [{"name": "t", "project": "a/b", "to": http(planted, "tracker")}],
            "workflows": [
                {
                    **{"name": "hub", "project": "a/b", "workflow": "w.yml", "to": http(planted, "workflow")},
                    "inputs": {"key": planted.env("workflow_input"), "service": "{service}"},
                },
                {
                    **{"name": "lab", "kind": "gitlab", "project": "a/b", "to": http(planted, "pipeline")},
                    **{"token": planted.env("trigger"), "inputs": {"KEY": planted.env("pipeline_input")}},
                },
            ],
        },
        "playbooks": playbooks,
        "objectives": [{"name": "carts", "match": {"service": "cart"}}],
        "incidents": {"alarm": {"warmup": "90s"}},
        "telemetry": {"logs": {"level": "debug", "repeat_interval": 0}},
    }


def hidden(schema: type) -> Iterator[str]:
    """Every setting that is kept out of `repr`, as Class.field."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        inner = dataclass_in(hints[field.name])
        if inner is not None:
            yield from hidden(inner)
        elif not field.repr:
            yield f"{schema.__name__}.{field.name}"


def given(value: Any) -> Iterator[str]:
    """Those of them that have a value."""
    if isinstance(value, tuple | Mapping):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from given(one)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            one = getattr(value, field.name)
            if not field.repr and one:
                yield f"{type(value).__name__}.{field.name}"
            yield from given(one)


@pytest.fixture(scope="module")
def planted() -> Planted:
    return Planted()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, planted: Planted) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    tree = configuration(folder, planted, {name: free_port() for name in ("grpc", "http", "api")})
    path = folder / "otel-aiops.yaml"
    path.write_text(json.dumps(tree))
    assert planted.found(path.read_bytes()) == []
    return path


def run(planted: Planted, *arguments: str) -> str:
    """What a command says."""
    done = CliRunner().invoke(app, list(arguments), env=planted.environment)
    assert done.output or done.exception
    return f"{done.output}{done.exception or ''}"


def test_every_setting_that_takes_a_secret_has_one_here(config: Path, planted: Planted) -> None:
    loaded = load(config, planted.environment).config
    known = set(hidden(Config))
    assert len(known) >= 15
    assert known - set(given(loaded)) == {"JournalConfig.url"}, "plant these too; the journal has a test of its own"
    assert planted.found(repr(loaded)) == []


def test_the_address_of_a_journal(tmp_path: Path, planted: Planted) -> None:
    path = tmp_path / "c.yaml"
    url = planted.env("journal", "postgresql://user:{}@127.0.0.1:9/x")
    path.write_text(f"journal: {{url: '{url}'}}\napi: {{endpoint: '127.0.0.1:{free_port()}'}}\n")
    command = [sys.executable, "-m", "otel_aiops", "serve", "--config", str(path), "--data-dir", str(tmp_path / "data")]
    env = {**os.environ, **planted.environment}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=200)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "journal" in said.lower() or "database" in said.lower()
    assert planted.found(said) == []


def test_what_is_wrong_beside_a_secret(tmp_path: Path, planted: Planted) -> None:
    """Errors of the configuration name what came, but not what is secret."""
    path = tmp_path / "c.yaml"
    for text in (
        "api: {webhooks: {secret: [PLANT]}}",
        "api: {auth: {basicauth: {username: a, password: {x: PLANT}}}}",
        "api: {auth: {bearertokenauth: {tokens: PLANT}}}",
        "responses: {webhooks: [{name: w, to: {url: 'ftp://PLANT/x'}}]}",
        "responses: {webhooks: [{name: w, to: {url: 'http://x', headers: PLANT}}]}",
        "exporters: {otlp: {endpoint: 'x:1', headers: [PLANT]}}",
        "responses: {notify: [{name: n, urls: PLANT}]}",
        "responses: {workflows: [{name: w, project: a/b, workflow: w.yml, token: PLANT}]}",
        "responses: {workflows: [{name: w, project: a/b, workflow: w.yml, inputs: {a: 'PLANT {service}'}}]}",
    ):
        path.write_text(text.replace("PLANT", planted.env("wrong")))
        assert planted.found(run(planted, "check", str(path))) == [], text


@pytest.mark.slow
def test_a_service_at_work_tells_none(config: Path, planted: Planted, tmp_path: Path) -> None:
    data = tmp_path / "data"
    _, token = TokenFile(data).create(name="ana", role=Role.ADMIN, who="root")
    planted.others["token"] = token.rsplit("_", 1)[1]
    loaded = load(config, planted.environment).config
    base = f"http://{loaded.api.endpoint}"
    command = [sys.executable, "-m", "otel_aiops", "serve", "--config", str(config), "--data-dir", str(data)]
    server = Server(command, tmp_path / "log", env=planted.environment)
    server.start(lambda: requests.get(f"{base}/-/ready", timeout=2).status_code == 200)
    heard: dict[str, str | bytes] = {}
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {token}"
    try:
        body = json.dumps(notified(alert(time.time()))).encode()
        digest = hmac.new(planted.value("hmac").encode(), body, hashlib.sha256).hexdigest()
        signed = {"X-Grafana-Alerting-Signature": digest}
        told = requests.post(f"{base}/api/v1/webhooks/alertmanager", body, headers=signed, timeout=30)
        assert told.status_code == 202, told.text
        ended = f"{base}/api/v1/responses?state=done,failed,refused"
        wait_for(lambda: session.get(ended, timeout=30).json()["total"] >= 9, "all playbooks to end")
        for shown in ({"Authorization": "Bearer wrong"}, {"Authorization": "Bearer a.b.c"}, {}):
            heard[f"refused {shown}"] = requests.get(f"{base}/api/v1/status", headers=shown, timeout=30).text
        heard["refused basic"] = requests.get(f"{base}/metrics", auth=("user", "wrong"), timeout=30).text
        heard["issuer"] = requests.get(f"{base}/sign-in/issuer", headers=BROWSER, timeout=30).text
        _something_to_look_at(session, base, planted, loaded, config.parent / "ca.pem")
        for path in _paths(session, base):
            for headers in ({}, BROWSER):
                answer = session.get(base + path, headers=headers, timeout=60)
                assert answer.status_code < 500, (path, answer.text)
                heard[f"GET {path}"] = answer.content + str(answer.headers).encode()
        heard["rotated"] = session.get(f"{base}/api/v1/tokens", timeout=30).text
        for arguments in (["responses", "list"], ["audit"], ["token", "list"], ["playbooks", "list"]):
            shown = [*arguments, "--url", base, "--token", f"@{_file(tmp_path, token)}", "--json"]
            heard[" ".join(arguments)] = run(planted, *shown)
    finally:
        server.stop()
    heard["audit"] = run(planted, "audit", "--config", str(config), "--data-dir", str(data), "--json")
    heard["verify"] = run(planted, "audit", "verify", "--config", str(config), "--data-dir", str(data))
    heard["check"] = run(planted, "check", str(config))
    heard["log"] = (tmp_path / "log").read_bytes()
    for path in data.rglob("*"):
        if path.is_file():
            heard[str(path.relative_to(data))] = path.read_bytes()
    assert len(heard) > 60 and b"refused" in heard["log"]  # type: ignore[operator]
    leaks = {where: names for where, what in heard.items() if (names := planted.found(what))}
    assert not leaks


def _something_to_look_at(
    session: requests.Session, base: str, planted: Planted, config: Config, authority: Path
) -> None:
    """The shop breaks, and what was learned becomes a version of the models."""
    receiver = config.receivers.otlp.protocols.http
    assert receiver
    headers = {"Authorization": f"Bearer {planted.value('http_token')}", "Content-Type": "application/x-protobuf"}
    lasts_s = BREAKS_S + 60
    start_s = time.time() - lasts_s
    outage = replace(OUTAGE, start_s=start_s + BREAKS_S, end_s=start_s + BREAKS_S + LASTS_S)
    shop = LiveShop(start_s, rate=12, plan=[outage])
    with requests.Session() as sender:
        for step in range(steps(lasts_s)):
            for signal, body in zip(("metrics", "traces", "logs"), shop.requests(step), strict=True):
                url = f"https://{receiver.endpoint}/v1/{signal}"
                sent = sender.post(url, body, headers=headers, verify=str(authority), timeout=30)
                assert sent.status_code == 200, sent.text
    kept = session.post(f"{base}/api/v1/models", json={"who": "ana", "why": "a test"}, timeout=60)
    assert kept.status_code < 300, kept.text
    for what in ("incidents", "series", "models"):
        wait_for(lambda what=what: _ids(session, base, what), f"{what} to look at")  # type: ignore[misc]


def _ids(session: requests.Session, base: str, what: str) -> list[str]:
    listed = session.get(f"{base}/api/v1/{what}", timeout=30).json()[what]
    return [str(one.get("fingerprint") or one.get("id") or one.get("name")) for one in listed]


def _paths(session: requests.Session, base: str) -> Iterator[str]:
    """Every address that can be looked at, with some of the names that there are for it."""
    nobody: Any = None
    for route in api.build(nobody, nobody, None, 1).routes:
        assert isinstance(route, Route)
        if "GET" not in (route.methods or ()) or route.path in ("/live", "/sign-in/issuer"):
            continue
        if route.path == "/static/{name}":
            yield from (f"/static/{name}" for name in ("page.js", "page.css"))
        elif "{" not in route.path:
            yield route.path
        else:
            before, _, rest = route.path.partition("{")
            after = rest.partition("}")[2]
            what = before.strip("/").rsplit("/", 1)[-1]
            found = RUNBOOKS if what == "runbooks" else _ids(session, base, what)
            assert found or what == "datasets", f"nothing to look at for {route.path}"
            yield from (f"{before}{name}{after}" for name in found[:MOST])


def _file(folder: Path, token: str) -> Path:
    path = folder / "token"
    path.write_text(token + "\n")
    return path
