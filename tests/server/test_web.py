"""The page: what every page shows and does, on a running service with an incident; a browser sees it in tests/e2e."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import yaml

from otel_aiops.app import Service
from otel_aiops.config import parse
from tests.feed import Feed
from tests.incident_feed import broken
from tests.servers import free_port, wait_for
from tests.test_app import QUICK, Running, running

ALERTS = Path(__file__).parents[2] / "grafana" / "alerts"
BROWSER = {"Accept": "text/html,application/xhtml+xml"}
OBJECTIVE = """
objectives:
- {name: catalog, description: of the catalog, match: {service: catalog}, budget: 2/week, responses: [notify]}
"""
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{7*7}}{% raw %}",
    "javascript:alert(1)",
    "'`\\ ${1}",
)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with broken(tmp_path_factory.mktemp("state"), OBJECTIVE, still=True) as found:
        yield found


def url(up: Running, path: str) -> str:
    return f"http://127.0.0.1:{up.ports['api']}{path}"


def page(up: Running, path: str, **more: Any) -> str:
    answer = requests.get(url(up, path), headers=BROWSER, timeout=30, **more)
    assert answer.status_code == 200, answer.text
    return answer.text


def send(up: Running, path: str, fields: dict[str, str], **headers: str) -> requests.Response:
    own = {"Origin": f"http://127.0.0.1:{up.ports['api']}", **BROWSER}
    return requests.post(url(up, path), data=fields, headers=own | headers, timeout=30, allow_redirects=False)


def incident(up: Running) -> dict[str, Any]:
    found: dict[str, Any] = up.get(f"/api/v1/incidents/{up.get('/api/v1/incidents')['incidents'][-1]['id']}")
    return found


class _Tags(HTMLParser):
    """What a browser would make of a page: elements with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def all_pages(up: Running) -> list[str]:
    found = incident(up)
    series = next(one["evidence"]["series"] for one in found["findings"] if one["evidence"]["series"])
    lists = ["/", "/incidents", "/incidents?view=all", "/series", "/objectives", "/models", "/feedback", "/system"]
    lists += ["/incidents?view=alerts", "/responses", "/silences", "/runbooks", "/runbooks/models.md"]
    own = [f"/incidents/{found['id']}", f"/incidents/{found['id']}/playbooks", f"/series/{series}"]
    return [*lists, *own, "/objectives/catalog"]


class TestRunbooks:
    def test_the_link_of_every_alert_rule_leads_to_its_place(self, up: Running) -> None:
        places: dict[str, list[str]] = {}
        for path in ALERTS.glob("*.rules.yaml"):
            for group in yaml.safe_load(path.read_text())["groups"]:
                for rule in group["rules"]:
                    found = urlsplit(rule["annotations"]["runbook_url"])
                    places.setdefault(found.path, []).append(found.fragment)
        assert len(places) == 13
        for address, names in places.items():
            tags = _Tags(page(up, address)).tags
            assert set(names) <= {attrs["id"] for tag, attrs in tags if tag == "h2"}, address

    def test_they_are_read_as_text_and_keep_their_code(self, up: Running) -> None:
        text = page(up, "/runbooks/models.md")
        assert "<code>otel-aiops rollback</code>" in text and "<strong>Do.</strong>" in text and "**" not in text
        assert "# Runbook" not in text and "grafana/alerts/" not in text, "files of the repository cannot be followed"
        assert '<a href="self.md#otelaiopstelemetrystopped">' in text

    @pytest.mark.parametrize("name", ["nothing.md", "..%2F__init__.py", "host"], ids=str)
    def test_there_is_nothing_else(self, up: Running, name: str) -> None:
        answer = requests.get(url(up, f"/runbooks/{name}"), headers=BROWSER, timeout=30)
        assert answer.status_code == 404


class TestPages:
    def test_every_page_is_whole_and_has_no_inline_code(self, up: Running) -> None:
        for path in all_pages(up):
            tags = _Tags(page(up, path)).tags
            names = [tag for tag, _ in tags]
            assert names.count("h1") == 1 and names.count("main") == 1, path
            assert not any(key.startswith("on") or key == "style" for _, attrs in tags for key in attrs), path
            assert all(attrs.get("src") for tag, attrs in tags if tag == "script") and "style" not in names, path
            ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
            assert len(ids) == len(set(ids)), (path, sorted(one for one in ids if ids.count(one) > 1))
            known = set(ids)
            assert all(attrs["for"] in known for tag, attrs in tags if tag == "label"), path

    def test_every_link_leads_somewhere(self, up: Running) -> None:
        seen: set[str] = set()
        for path in all_pages(up):
            for tag, attrs in _Tags(page(up, path)).tags:
                target = str(attrs.get("href") or "")
                if tag == "a" and target.startswith("/") and not target.startswith("/series/"):
                    seen.add(target)
        for target in sorted(seen):
            assert requests.get(url(up, target), headers=BROWSER, timeout=30).status_code == 200, target

    def test_programs_still_have_their_plain_answer(self, up: Running) -> None:
        for headers in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
            assert requests.get(url(up, "/"), headers=headers, timeout=30).text == "otel-aiops is ready\n"

    def test_what_is_not_there(self, up: Running) -> None:
        for path in (
            *("/nothing", "/incidents/none", "/incidents/alert-none", "/incidents/none/playbooks", "/responses/none"),
            *("/series/0000000000000000", "/objectives/none", "/models/none"),
        ):
            answer = requests.get(url(up, path), headers=BROWSER, timeout=30)
            assert answer.status_code == 404 and "<h1>Not found</h1>" in answer.text, path
        assert requests.get(url(up, "/nothing"), timeout=30).json()["error"].startswith("nothing is at /nothing")
        assert requests.get(url(up, "/static/..%2Frender.py"), headers=BROWSER, timeout=30).status_code == 404

    @pytest.mark.parametrize(
        ("path", "said"),
        [
            ("/incidents?view=odd", "view: expected one of now, predicted, past, all"),
            ("/incidents?view=alerts&page=0", "page: expected at least 1"),
            ("/responses?state=odd", "state: expected one of active, waiting"),
            ("/responses?page=0", "page: expected at least 1"),
            ("/incidents?page=0", "page: expected at least 1"),
            ("/incidents?severity=odd", "severity: expected one of info, warning, critical"),
            ("/series/xyz", "fingerprint: expected 16 hexadecimal digits"),
            ("/series?after=x", "after: expected a whole number"),
        ],
    )
    def test_bad_input_is_told_on_a_page(self, up: Running, path: str, said: str) -> None:
        answer = requests.get(url(up, path), headers=BROWSER, timeout=30)
        assert answer.status_code == 400 and said in _Tags(answer.text).text

    def test_the_overview_says_what_is_wrong(self, up: Running) -> None:
        text = _Tags(page(up, "/")).text
        assert incident(up)["title"] in text and "0 of 2" in text and "incidents now" in text

    def test_one_incident(self, up: Running) -> None:
        found, text = incident(up), page(up, f"/incidents/{incident(up)['id']}")
        shown = _Tags(text)
        assert (
            found["title"] in shown.text
            and "1. catalog" in shown.text
            and 'class="node suspect first suspect-1"' in text
        )
        plots = [attrs["data-plot"] for _, attrs in shown.tags if "data-plot" in attrs]
        assert 1 <= len(plots) <= 6
        drawn = page(up, f"{plots[0]}&width=400")
        assert 'viewBox="0 0 400 ' in drawn and 'class="line value"' in drawn and 'class="level threshold"' in drawn

    def test_search(self, up: Running) -> None:
        text = _Tags(page(up, "/series?search=MEMORY+catalog")).text
        assert "k8s.pod.memory.usage" in text and 'service.name="web"' not in text
        assert "No series has these words" in page(up, "/series?search=nosuchthing")
        first = up.get("/api/v1/series", search="memory", limit=2)
        rest = up.get("/api/v1/series", search="memory", limit=1000, offset=first["next"])
        names = [one["fingerprint"] for one in (*first["series"], *rest["series"])]
        every = [one for one in up.get("/api/v1/series", limit=10_000)["series"] if "memory" in one["name"]]
        assert names == [one["fingerprint"] for one in every] and rest["next"] is None
        of = up.get("/api/v1/series", service="catalog", limit=10_000)["series"]
        assert of and {one["service"] for one in of} == {"catalog"}
        refused = requests.get(url(up, "/api/v1/series?search=x&format=source"), timeout=30)
        assert refused.status_code == 400

    def test_objectives(self, up: Running) -> None:
        (one,) = up.get("/api/v1/objectives")["objectives"]
        assert one["id"] in page(up, "/objectives") and one["id"] in page(up, "/objectives/catalog")
        assert "notify" in _Tags(page(up, "/objectives/catalog")).text

    def test_data_and_self(self, up: Running) -> None:
        text = _Tags(page(up, "/system")).text
        assert "catalog" in text and str(up.service.directory) in text
        assert up.get("/api/v1/quality")["services"][0]["problems"].keys() >= {"gap", "late", "two_senders"}


class TestActions:
    def test_acknowledge_and_who_it_was_is_remembered(self, up: Running) -> None:
        name = incident(up)["id"]
        answer = send(up, f"/incidents/{name}/mark", {"action": "acknowledge", "who": "Ana Ü", "why": "on it"})
        assert answer.status_code == 303 and answer.headers["Location"] == f"/incidents/{name}?done=acknowledge"
        cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie
        assert incident(up)["state"] == "acknowledged" and incident(up)["decisions"][-1]["who"] == "Ana Ü"
        remembered = page(up, f"/incidents/{name}?done=acknowledge", cookies=answer.cookies.get_dict())
        assert 'value="Ana Ü"' in remembered and "The incident is acknowledged." in remembered
        for action, state in (("resolve", "resolved"), ("reopen", "open")):
            own = {"Cookie": cookie.split(";")[0]}
            assert send(up, f"/incidents/{name}/mark", {"action": action}, **own).status_code == 303
            assert incident(up)["state"] == state

    def test_a_verdict_is_shown_with_who_and_when(self, up: Running) -> None:
        name = incident(up)["id"]
        fields = {"verdict": "expected", "who": "bob", "why": "a drill & more", "of": "not meant"}
        assert send(up, f"/incidents/{name}/verdict", fields).status_code == 303
        said = incident(up)["verdicts"][0]
        assert (said["verdict"], said["who"], said["why"]) == ("expected", "bob", "a drill & more")
        text = page(up, f"/incidents/{name}")
        given = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(said["given"]))
        assert "a drill &amp; more" in text and f'<time datetime="{given}">' in text

    def test_what_is_missing_is_told(self, up: Running) -> None:
        name = incident(up)["id"]
        for path, fields, said in (
            ("mark", {"action": "resolve"}, "who: expected your name"),
            ("mark", {"action": "explode", "who": "ana"}, "action: expected one of acknowledge"),
            ("verdict", {"verdict": "duplicate", "who": "ana"}, "of: expected the id of the other incident"),
            ("verdict", {"verdict": "duplicate", "who": "ana", "of": "none"}, "of: expected the id of another"),
        ):
            answer = send(up, f"/incidents/{name}/{path}", fields)
            assert answer.status_code == 400 and said in _Tags(answer.text).text
        for path, fields, said in (
            (f"/incidents/{name}/silence", {"who": "ana"}, "for: expected how long it lasts"),
            ("/silences", {"who": "ana", "for": "1h"}, "kind: expected one of silence, maintenance"),
            ("/silences", {"kind": "silence", "who": "ana"}, "until: expected a time, or `for`"),
            ("/silences/end", {"kind": "maintenance", "name": "nightly", "who": "ana"}, "is in the configuration"),
            ("/responses/switch", {"action": "stop"}, "who: expected your name"),
            ("/responses/switch", {"action": "explode", "who": "ana"}, "action: expected one of stop, resume"),
            ("/responses/none/vote", {"action": "maybe", "who": "ana"}, "action: expected one of approve, refuse"),
        ):
            answer = send(up, path, fields)
            assert answer.status_code == 400 and said in _Tags(answer.text).text
        for path, fields in (
            ("/silences/end", {"kind": "silence", "name": "none", "who": "ana"}),
            ("/responses/none/vote", {"action": "approve", "who": "ana"}),
            ("/incidents/none/silence", {"for": "1h", "who": "ana"}),
        ):
            assert send(up, path, fields).status_code == 404
        assert send(up, "/incidents/none/mark", {"action": "resolve", "who": "ana"}).status_code == 404
        assert send(up, f"/incidents/{name}/mark", {"who": "x" * 70_000}).status_code == 413


def test_without_an_alertmanager_an_incident_is_silenced_here(up: Running) -> None:
    found = incident(up)
    for scope in ("incident", "services"):
        fields = {"for": "1h", "scope": scope, "who": "ana", "why": "known"}
        assert send(up, f"/incidents/{found['id']}/silence", fields).status_code == 303
        (rule,) = up.get("/api/v1/silences")["silences"]
        assert rule["ends_here"] and rule["services"] == ([] if scope == "incident" else found["services"])
        said = incident(up)["suppressed_by"]
        assert said == f"silence {rule['name']} by ana: known" and said in page(up, f"/incidents/{found['id']}")
        assert send(up, "/silences/end", {"kind": "silence", "name": rule["name"], "who": "ana"}).status_code == 303
        assert not incident(up)["suppressed_by"]


class TestShield:
    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"Origin": "http://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Sec-Fetch-Site": "same-site"}, 403),
            ({"Sec-Fetch-Site": "same-origin", "Origin": "https://behind.a.proxy"}, 303),
        ],
    )
    def test_other_sites_change_nothing(self, up: Running, headers: dict[str, str], status: int) -> None:
        name = incident(up)["id"]
        before = len(incident(up)["decisions"])
        fields = {"action": "acknowledge", "who": "mallory"}
        assert send(up, f"/incidents/{name}/mark", fields, **headers).status_code == status
        assert len(incident(up)["decisions"]) == before + (status == 303)

    def test_nor_by_the_api(self, up: Running) -> None:
        body = {"action": "resolve", "who": "mallory"}
        path = f"/api/v1/incidents/{incident(up)['id']}"
        for headers in ({"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
            answer = requests.post(url(up, path), json=body, headers=headers, timeout=30)
            assert answer.status_code == 403 and "expected a request from this site" in answer.json()["error"]

    def test_headers(self, up: Running) -> None:
        for path in ("/", "/static/page.js", "/api/v1/status", "/nothing"):
            headers = requests.get(url(up, path), headers=BROWSER, timeout=30).headers
            assert headers["X-Frame-Options"] == "DENY" and headers["X-Content-Type-Options"] == "nosniff", path
            policy = headers["Content-Security-Policy"]
            assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy

    def test_nothing_of_an_address_is_shown_as_done(self, up: Running) -> None:
        assert "hacked" not in page(up, "/?done=hacked")


class TestPulse:
    def events(self, up: Running) -> Iterator[str]:
        with requests.get(url(up, "/live"), stream=True, timeout=30) as answer:
            assert answer.headers["Content-Type"].startswith("text/event-stream")
            yield from (line.decode() for line in answer.iter_lines(chunk_size=1) if line.startswith(b"data:"))

    def test_tells_what_has_changed(self, up: Running) -> None:
        events = self.events(up)
        assert next(events) == "data: []"
        send(up, f"/incidents/{incident(up)['id']}/verdict", {"verdict": "real", "who": "ana"})
        assert "verdicts" in next(events)
        events.close()

    def test_listeners_are_bounded_and_end_with_the_service(self, tmp_path: Path) -> None:
        with running(tmp_path) as up:
            streams = [requests.get(url(up, "/live"), stream=True, timeout=30) for _ in range(64)]
            assert all(one.status_code == 200 for one in streams)
            full = requests.get(url(up, "/live"), timeout=30)
            assert full.status_code == 503 and full.headers["Retry-After"]
            streams.pop().close()
            wait_for(lambda: requests.get(url(up, "/live"), stream=True, timeout=30).status_code == 200, "room")
        for one in streams:  # every stream has an end, and not a broken one
            assert b"data: []" in b"".join(one.iter_content())


def test_hostile_names_are_text(tmp_path: Path) -> None:
    with running(tmp_path) as up:
        now_s = time.time()
        for name in HOSTILE:
            for k in range(30):
                up.send(Feed(name).gauge(name, now_s - 31 + k, 50 + k % 3, unit=name, pod=name))
            up.send(Feed(name).gauge(name, now_s - 1, 500, unit=name, pod=name))
        up.settle()
        series = up.get("/api/v1/series")["series"]
        assert {one["service"] for one in series} == set(HOSTILE)
        own = [f"/series/{one['fingerprint']}{part}" for one in series for part in ("", "/plot", "/forecast")]
        for path in ("/", "/series", "/system", "/feedback", "/objectives", "/models", *own):
            text = page(up, path)
            shown = _Tags(text)
            assert not [tag for tag, _ in shown.tags if tag == "img"], path
            assert all(attrs.get("src") == "/static/page.js" for tag, attrs in shown.tags if tag == "script"), path
            links = [str(attrs.get("href") or "/") for tag, attrs in shown.tags if tag == "a"]
            assert all(re.match(r"[/?#]", one) for one in links), (path, links)
            assert not any(key.startswith("on") for _, attrs in shown.tags for key in attrs), path
        everything = _Tags(page(up, "/series")).text
        assert all(name in everything for name in HOSTILE[2:4])  # quotes are escaped in labels


def test_a_page_needs_credentials_where_the_api_does(tmp_path: Path) -> None:
    auth = "\napi: {endpoint: '127.0.0.1:%d', auth: {basicauth: {username: ana, password: '${env:NONE:-secret}'}}}\n"
    port = free_port()
    receivers = "receivers: {otlp: {protocols: {grpc: {endpoint: '127.0.0.1:0'}, http: {endpoint: '127.0.0.1:0'}}}}\n"
    service = Service(parse(receivers + auth % port + QUICK).config, tmp_path)
    service.start()
    try:
        base = f"http://127.0.0.1:{port}"
        for path in ("/", "/incidents", "/static/page.css", "/live"):
            answer = requests.get(f"{base}{path}", headers=BROWSER, timeout=30)
            assert answer.status_code == 401 and answer.headers["WWW-Authenticate"].startswith("Basic "), path
        assert requests.get(f"{base}/", timeout=30).text == "otel-aiops is ready\n"
        shown = requests.get(f"{base}/models", headers=BROWSER, auth=("ana", "secret"), timeout=30).text
        assert '<span class="quiet">ana</span>' in shown and 'name="who"' not in shown
        fields, own = {"who": "somebody else"}, {**BROWSER, "Origin": base}
        done = requests.post(f"{base}/models/save", fields, headers=own, auth=("ana", "secret"), timeout=30)
        assert done.status_code == 200 and "Set-Cookie" not in done.history[0].headers
        (saved,) = requests.get(f"{base}/api/v1/models", auth=("ana", "secret"), timeout=30).json()["models"]
        assert saved["lineage"]["who"] == "ana"
    finally:
        service.stop()
