"""Who may do what over the API and on the page: on a real server, with a backend that only says that it was asked."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from starlette.routing import Route

from otel_aiops.config import parse
from otel_aiops.errors import BadInput, ConfigError
from otel_aiops.server import api
from otel_aiops.server.access import Access, AccessConfig, Role
from otel_aiops.server.access.programs import ProgramConfig
from otel_aiops.server.access.roles import ITSELF, MAY, PROBE, SIGNING, Need, listed
from otel_aiops.server.access.tokens import TokenFile
from otel_aiops.server.auth import AuthConfig, BasicConfig, BearerConfig
from otel_aiops.server.http_server import HttpServer
from otel_aiops.server.tls import TlsConfig
from tests.server.certificates import Authority
from tests.servers import wait_for

BROWSER = {"Accept": "text/html,application/xhtml+xml"}
ROLES = tuple(Role)
COOKIE = "otel_aiops_session"


class Asked:
    """Stands for all that is behind the doors: whatever is asked is noted and refused as bad input."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def pulse(self) -> dict[str, int]:
        return {}

    def __getattr__(self, name: str) -> Any:
        def answer(*given: Any, **more: Any) -> Any:
            self.calls.append((name, given))
            raise BadInput("asked")

        return answer


class Door:
    """A server with access, tokens of every role, and counts of what was refused."""

    def __init__(
        self,
        folder: Path,
        config: AccessConfig | None,
        auth: AuthConfig | None = None,
        *,
        tls: TlsConfig | None = None,
        hosts: tuple[str, ...] | None = None,
    ) -> None:
        self.refused: Counter[str] = Counter()
        self.asked: Any = Asked()
        self.file = TokenFile(folder)
        self.tokens = {role: self.file.create(name=f"{role}-1", role=role, who="test")[1] for role in ROLES}
        certificates = tls is not None and bool(tls.client_ca_file)
        count = self.refused.update
        self.access = Access(config, auth, folder, certificates=certificates, refused=lambda reason: count([reason]))
        self.closing = threading.Event()
        application = api.build(self.asked, self.asked, self.access, 1 << 20, closing=self.closing, hosts=hosts)
        self.routes = [one for one in application.routes if isinstance(one, Route)]
        self._server = HttpServer(application, "127.0.0.1:0", tls, path="api", closing=self.closing)
        self._server.bind()
        self._server.start()
        self.base = f"http{'s' if tls else ''}://127.0.0.1:{self._server.port}"

    def ask(self, method: str, path: str, shown: str = "", **more: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {shown}"} if shown else {}
        headers |= more.pop("headers", {})
        settings: Any = {"timeout": 30, "allow_redirects": False, "stream": path == "/live", **more}
        return requests.request(method, self.base + path, headers=headers, **settings)

    def status(self, method: str, path: str, shown: str = "", **more: Any) -> int:
        with self.ask(method, path, shown, **more) as answer:
            return answer.status_code

    def sign_in(self, text: str) -> requests.Session:
        """A browser that has signed in."""
        browser = requests.Session()
        browser.headers.update(BROWSER | {"Origin": self.base, "Sec-Fetch-Site": "same-origin"})
        answer = browser.post(f"{self.base}/sign-in", {"token": text}, allow_redirects=False, timeout=30)
        assert answer.status_code == 303, answer.text
        return browser

    def close(self) -> None:
        self._server.stop(1.0)


@contextmanager
def open_door(*given: Any, **more: Any) -> Iterator[Door]:
    door = Door(*given, **more)
    try:
        yield door
    finally:
        door.close()


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with open_door(tmp_path_factory.mktemp("data"), AccessConfig()) as found:
        found.access.throttle._clock = itertools.count(step=60.0).__next__  # nobody waits here
        yield found


def operations(routes: list[Route]) -> list[str]:
    return sorted({f"{method} {one.path}" for one in routes for method in one.methods or () if method != "HEAD"})


def asked_for(operation: str) -> tuple[str, str]:
    """Method and an address that the route answers."""
    method, path = operation.split()
    return method, re.sub(r"{\w+}", "0123456789abcdef", path)


class TestRoles:
    def test_every_route_has_one_and_each_stands_for_a_route(self, door: Door) -> None:
        table = listed()
        assert set(operations(door.routes)) == set(table), "name the role of each route in access/roles.py"
        assert [route for route, needs in table.items() if len(needs) > 1] == []
        assert set(MAY) == set(Role)

    def test_each_lets_in_who_has_it_or_more(self, door: Door) -> None:
        """Every route, asked by nobody and by every role."""
        for operation, (need,) in listed().items():
            method, path = asked_for(operation)
            if operation in ("GET /", "GET /sign-in/issuer", "POST /sign-in", "POST /sign-out"):  # tested below
                continue
            body = {"data": b"{}"} if method == "POST" else {}
            wanted = self._statuses(need)
            found = [door.status(method, path, shown, **body) for shown in ("", *door.tokens.values())]
            assert [one if one in (401, 403) else 0 for one in found] == wanted, (operation, found)

    def _statuses(self, need: Need) -> list[int]:
        if need in (PROBE, SIGNING):
            return [0] * 5
        if need == ITSELF:
            need = Role.OPERATOR
        assert isinstance(need, Role)
        return [401, *(0 if rank >= ROLES.index(need) else 403 for rank in range(len(ROLES)))]

    def test_one_that_is_in_no_table_is_for_admins(self, door: Door) -> None:
        from otel_aiops.server.access.roles import Needs

        needs = Needs([Route("/new", lambda request: None, methods=["GET", "POST"])])
        assert needs.sending("/new") is Role.ADMIN

    def test_what_nothing_answers_is_told_to_who_may_look(self, door: Door) -> None:
        assert door.status("GET", "/api/v1/nothing") == 401
        assert door.status("GET", "/api/v1/nothing", door.tokens[Role.VIEWER]) == 404
        assert door.status("PATCH", "/api/v1/incidents", door.tokens[Role.VIEWER]) == 405


class TestWho:
    """Whoever has signed in is who decided, whatever the request says."""

    @pytest.mark.parametrize(
        ("role", "path", "key"),
        [
            (Role.OPERATOR, "/api/v1/incidents/x", "who"),
            (Role.OPERATOR, "/api/v1/incidents/x/verdict", "who"),
            (Role.OPERATOR, "/api/v1/incidents/x/silence", "who"),
            (Role.OPERATOR, "/api/v1/silences", "who"),
            (Role.OPERATOR, "/api/v1/maintenance", "who"),
            (Role.OPERATOR, "/api/v1/verdicts", "by"),
            (Role.APPROVER, "/api/v1/responses/x/approve", "who"),
            (Role.APPROVER, "/api/v1/responses/x/refuse", "who"),
            (Role.APPROVER, "/api/v1/responses/stop", "who"),
            (Role.APPROVER, "/api/v1/responses/resume", "who"),
            (Role.ADMIN, "/api/v1/models", "who"),
            (Role.ADMIN, "/api/v1/rollout", "who"),
            (Role.ADMIN, "/api/v1/lifecycle/runs", "who"),
        ],
    )
    def test_over_the_api(self, door: Door, role: Role, path: str, key: str) -> None:
        for sent in ({key: "somebody else"}, {}):
            door.asked.calls.clear()
            assert door.ask("POST", path, door.tokens[role], json=sent).status_code == 400
            ((_, given),) = door.asked.calls
            assert given[-1][key] == f"{role}-1"

    def test_who_ends_a_silence(self, door: Door) -> None:
        door.asked.calls.clear()
        door.ask("DELETE", "/api/v1/silences/x?who=somebody", door.tokens[Role.OPERATOR])
        assert door.asked.calls == [("end_rule", ("silences", "x", {"who": "operator-1"}))]

    def test_of_many_verdicts_every_one(self, door: Door) -> None:
        door.asked.calls.clear()
        door.ask("POST", "/api/v1/verdicts", door.tokens[Role.OPERATOR], json=[{"by": "x"}, {}, 1])
        assert door.asked.calls == [("judge", ([{"by": "operator-1"}, {"by": "operator-1"}, 1],))]

    def test_every_order_of_the_api_is_covered(self) -> None:
        """What changes something for others and is not named above has no `who`, on purpose."""
        changing = {route for route in listed() if route.startswith("POST /api/v1/")}
        (mark,) = (one for one in TestWho.test_over_the_api.pytestmark if one.name == "parametrize")  # type: ignore[attr-defined]
        named = {re.sub(r"/x\b", "/{id}", f"POST {path}") for _, path, _ in mark.args[1]}
        assert changing - named == {
            "POST /api/v1/score",
            "POST /api/v1/backfill",
            "POST /api/v1/playbooks/test",
            "POST /api/v1/webhooks/alertmanager",
            "POST /api/v1/webhooks/grafana",
            "POST /api/v1/tokens",
            "POST /api/v1/tokens/{id}/rotate",
        }

    def test_who_asks(self, door: Door) -> None:
        told = door.ask("GET", "/api/v1/me", door.tokens[Role.APPROVER]).json()
        assert told == {"name": "approver-1", "role": "approver", "how": "token", "paths": []}


class TestTokensOverTheApi:
    def test_life_of_one(self, door: Door) -> None:
        admin = door.tokens[Role.ADMIN]
        made = door.ask("POST", "/api/v1/tokens", admin, json={"name": "ci", "role": "viewer", "paths": ["/metrics"]})
        assert made.status_code == 201 and made.headers["Cache-Control"] == "no-store"
        tree, text = made.json(), made.json()["token"]
        assert door.status("GET", "/metrics", text) == 400 and door.status("GET", "/api/v1/status", text) == 403
        rotated = door.ask("POST", f"/api/v1/tokens/{tree['id']}/rotate", admin, json={"overlap_s": 0}).json()["token"]
        assert door.status("GET", "/metrics", text) == 401 and door.status("GET", "/metrics", rotated) == 400
        listed = door.ask("GET", "/api/v1/tokens", admin)
        (one,) = (one for one in listed.json()["tokens"] if one["id"] == tree["id"])
        assert one["name"] == "ci" and one["last_used"] and [e["who"] for e in one["events"]] == ["admin-1"] * 2
        assert text not in listed.text and rotated not in listed.text and "sha256" not in listed.text
        assert door.status("DELETE", f"/api/v1/tokens/{tree['id']}", admin) == 200
        assert door.status("GET", "/metrics", rotated) == 401
        assert door.refused["revoked"] and door.refused["path"]

    @pytest.mark.parametrize(
        ("sent", "said"),
        [
            ({}, "name: expected who decides"),
            ({"name": "a"}, "role: expected one of viewer, operator, approver, admin"),
            ({"name": "a", "role": "root"}, "role: expected one of"),
            ({"name": "a", "role": "viewer", "paths": "/x"}, "paths: expected a list"),
            ({"name": "a", "role": "viewer", "paths": ["x"]}, "paths: expected paths such as /metrics"),
            ({"name": "a", "role": "viewer", "lasts_s": -1}, "lasts_s: expected 0 to"),
            ({"name": "a", "role": "viewer", "who": "me"}, "who: is not a known key"),
            ([], "expected an object"),
        ],
    )
    def test_that_are_wrong(self, door: Door, sent: Any, said: str) -> None:
        answer = door.ask("POST", "/api/v1/tokens", door.tokens[Role.ADMIN], json=sent)
        assert answer.status_code == 400 and said in answer.json()["error"]

    def test_what_a_command_writes_holds_within_a_second(self, door: Door) -> None:
        token, text = door.file.create(name="late", role=Role.VIEWER, who="root")
        wait_for(lambda: door.status("GET", "/api/v1/me", text) == 200, "the token to be seen", timeout_s=10)
        door.file.revoke(token.id, who="root")
        wait_for(lambda: door.status("GET", "/api/v1/me", text) == 401, "it to be gone", timeout_s=10)


class TestSessions:
    def test_the_cookie(self, door: Door) -> None:
        answer = door.ask(
            "POST", "/sign-in", data={"token": door.tokens[Role.VIEWER], "back": "/models"}, headers=BROWSER
        )
        assert answer.status_code == 303 and answer.headers["Location"] == "/models"
        cookie = answer.headers["Set-Cookie"].lower()
        assert all(part in cookie for part in ("httponly", "samesite=strict", "path=/", "max-age=43200"))
        assert "secure" not in cookie and door.tokens[Role.VIEWER].lower() not in cookie

    def test_a_browser_is_sent_to_sign_in_and_back(self, door: Door) -> None:
        answer = door.ask("GET", "/incidents", headers=BROWSER)
        assert answer.status_code == 303 and answer.headers["Location"] == "/sign-in?next=%2Fincidents"
        shown = door.ask("GET", "/sign-in?next=/incidents", headers=BROWSER)
        assert 'name="back" value="/incidents"' in shown.text and "<nav" in shown.text and "/models" not in shown.text
        assert door.ask("GET", "/", headers=BROWSER).headers["Location"] == "/sign-in"
        assert door.status("GET", "/") == 400, "programs ask whether it is ready"
        evil = door.ask("GET", "/sign-in?next=//evil.example", headers=BROWSER).text
        assert "evil" not in evil
        assert door.ask("GET", "/static/page.css").status_code == 200

    def test_signing_out_ends_it_here(self, door: Door) -> None:
        browser = door.sign_in(door.tokens[Role.VIEWER])
        kept = browser.cookies[COOKIE]
        assert browser.get(f"{door.base}/api/v1/me").json()["name"] == "viewer-1"
        assert browser.get(f"{door.base}/sign-in", allow_redirects=False).headers["Location"] == "/"
        csrf = self._csrf(door, browser)
        answer = browser.post(f"{door.base}/sign-out", {"csrf": csrf}, allow_redirects=False)
        assert answer.status_code == 303 and COOKIE not in browser.cookies
        assert door.status("GET", "/api/v1/me", cookies={COOKIE: kept}) == 401

    def test_it_ends_with_its_token(self, door: Door) -> None:
        token, text = door.file.create(name="short", role=Role.VIEWER, who="root")
        door.access.tokens.reload()
        browser = door.sign_in(text)
        assert browser.get(f"{door.base}/api/v1/me").status_code == 200
        door.ask("DELETE", f"/api/v1/tokens/{token.id}", door.tokens[Role.ADMIN])
        assert browser.get(f"{door.base}/api/v1/me").status_code == 401

    def test_it_expires(self, tmp_path: Path) -> None:
        now = [0.0]
        with open_door(tmp_path, AccessConfig(session=60)) as door:
            door.access.sessions._clock = lambda: now[0]
            browser = door.sign_in(door.tokens[Role.VIEWER])
            now[0] = 59.0
            assert browser.get(f"{door.base}/api/v1/me").status_code == 200
            now[0] = 60.0
            assert browser.get(f"{door.base}/api/v1/me").status_code == 401

    def test_a_token_for_some_paths_is_not_for_the_page(self, door: Door) -> None:
        _, text = door.file.create(name="scraper", role=Role.VIEWER, who="root", paths=("/metrics",))
        door.access.tokens.reload()
        answer = door.ask("POST", "/sign-in", data={"token": text}, headers=BROWSER)
        assert answer.status_code == 403 and "limited to /metrics" in answer.text and "Set-Cookie" not in answer.headers

    def test_what_is_wrong_is_told_on_the_page(self, door: Door) -> None:
        answer = door.ask("POST", "/sign-in", data={"token": "oat_x_<script>"}, headers=BROWSER)
        assert (
            answer.status_code == 401 and "wrong, expired or revoked" in answer.text and "<script>" not in answer.text
        )

    @staticmethod
    def _csrf(door: Door, browser: requests.Session) -> str:
        page = browser.get(f"{door.base}/nothing")
        found = re.search(
            r'<form method="post" action="/sign-out"><input type="hidden" name="csrf" value="([^"]+)">', page.text
        )
        assert found, page.text
        return found[1]


class TestForms:
    def test_need_what_only_our_pages_have(self, door: Door) -> None:
        browser = door.sign_in(door.tokens[Role.OPERATOR])
        csrf, fields = TestSessions._csrf(door, browser), {"action": "acknowledge"}
        place = f"{door.base}/incidents/x/mark"
        for wrong in ({}, {"csrf": ""}, {"csrf": csrf[:-1]}, {"csrf": "ü"}):
            answer = browser.post(place, fields | wrong)
            assert answer.status_code == 403 and "expected a form of this page" in answer.text
        other = TestSessions._csrf(door, door.sign_in(door.tokens[Role.OPERATOR]))
        assert browser.post(place, fields | {"csrf": other}).status_code == 403, "of another session"
        door.asked.calls.clear()
        assert browser.post(place, fields | {"csrf": csrf, "who": "eve"}).status_code == 400
        assert door.asked.calls == [("mark", ("x", {"action": "acknowledge", "who": "operator-1", "why": ""}))]

    def test_with_a_cookie_the_api_needs_a_header(self, door: Door) -> None:
        browser = door.sign_in(door.tokens[Role.OPERATOR])
        place = f"{door.base}/api/v1/incidents/x"
        assert browser.post(place, json={}).status_code == 403
        assert browser.delete(f"{door.base}/api/v1/silences/x").status_code == 403
        seal = {"X-CSRF-Token": TestSessions._csrf(door, browser)}
        assert browser.post(place, json={}, headers=seal).status_code == 400
        assert browser.post(place, data=b"x" * (65 << 10)).status_code == 413

    def test_other_sites_are_refused_first(self, door: Door) -> None:
        browser = door.sign_in(door.tokens[Role.OPERATOR])
        fields = {"csrf": TestSessions._csrf(door, browser)}
        for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": None, "Origin": "http://evil.example"}):
            answer = browser.post(f"{door.base}/incidents/x/mark", fields, headers=headers)
            assert answer.status_code == 403 and "expected a request from this site" in answer.text
        assert door.refused["origin"] >= 2

    def test_who_may_not_is_told_on_a_page(self, door: Door) -> None:
        browser = door.sign_in(door.tokens[Role.VIEWER])
        answer = browser.post(f"{door.base}/models/save", {"csrf": TestSessions._csrf(door, browser)})
        assert (
            answer.status_code == 403 and "expected the role admin or one above it, viewer-1 has viewer" in answer.text
        )
        assert "<h1>" in answer.text and answer.headers["X-Frame-Options"] == "DENY"


class TestWrong:
    def test_guesses_are_counted_and_wait(self, tmp_path: Path) -> None:
        now = [0.0]
        auth = AuthConfig(basicauth=BasicConfig(username="ana", password="right"))
        with open_door(tmp_path, AccessConfig(), auth) as door:
            door.access.throttle._clock = lambda: now[0]
            wrong = [door.ask("GET", "/api/v1/me", auth=("ana", f"guess{k}")) for k in range(12)]
            assert [one.status_code for one in wrong] == [401] * 10 + [429] * 2
            assert int(wrong[-1].headers["Retry-After"]) >= 1
            assert door.status("GET", "/api/v1/me", auth=("ana", "right")) == 429, "a password waits, right or not"
            assert door.status("GET", "/api/v1/me", door.tokens[Role.VIEWER]) == 200, "who has a token does not"
            assert door.status("GET", "/api/v1/me", "oat_00000000_x") == 429
            now[0] += 6
            assert door.status("GET", "/api/v1/me", auth=("ana", "right")) == 200
            assert door.refused["unknown"] == 11 and door.refused["rate"] == 3

    def test_nothing_of_what_was_shown_is_told(self, door: Door) -> None:
        for shown in ("oat_deadbeef_planted", "planted"):
            answer = door.ask("GET", "/api/v1/me", shown)
            assert answer.status_code in (401, 429) and "planted" not in answer.text
        assert door.ask("GET", "/api/v1/me").headers["WWW-Authenticate"] == 'Bearer realm="otel-aiops"'


class TestOtherWays:
    def test_users_have_roles(self, tmp_path: Path) -> None:
        auth = AuthConfig(basicauth=BasicConfig(username="ana", password="pw"))
        roles = [(None, "admin"), (AccessConfig(), "admin"), (AccessConfig(users={"ana": Role.APPROVER}), "approver")]
        roles.append((AccessConfig(users={"ben": Role.ADMIN}), "viewer"))
        for number, (config, role) in enumerate(roles):
            with open_door(tmp_path / str(number), config, auth) as door:
                assert door.ask("GET", "/api/v1/me", auth=("ana", "pw")).json()["role"] == role, config

    def test_a_shared_token_is_one_person_where_others_have_names(self, tmp_path: Path) -> None:
        auth = AuthConfig(bearertokenauth=BearerConfig(token="shared"))
        with open_door(tmp_path / "a", AccessConfig(), auth) as door:
            assert door.ask("GET", "/api/v1/me", "shared").json()["name"] == "api.auth"
        with open_door(tmp_path / "b", None, auth) as door:
            assert door.ask("GET", "/api/v1/me", "shared").json() == {
                "name": None,
                "role": "admin",
                "how": "shared",
                "paths": [],
            }
            assert door.status("GET", "/api/v1/me", door.tokens[Role.ADMIN]) == 401, "tokens are off without access"

    def test_everybody_on_this_machine_may_look_where_that_is_said(self, tmp_path: Path) -> None:
        with open_door(tmp_path, AccessConfig(anonymous="viewer")) as door:
            for address in ("192.0.2.7", "10.0.0.1", "2001:db8::1", "nonsense"):  # as a proxy says it
                assert door.status("GET", "/api/v1/me", headers={"X-Forwarded-For": address}) == 401, address
            assert door.ask("GET", "/api/v1/me").json()["role"] == "viewer"
            assert door.status("POST", "/api/v1/silences", json={}) == 401
            page = door.ask("GET", "/nothing", headers=BROWSER)
            assert page.status_code == 404 and "/sign-in" not in page.text
            sent = door.ask("POST", "/models/save", headers=BROWSER)
            assert sent.status_code == 303 and sent.headers["Location"] == "/sign-in"

    def test_a_program_shows_the_token_of_the_configuration(self, tmp_path: Path) -> None:
        programs = {
            "prometheus": ProgramConfig(token="0123456789abcdef"),
            "batch": ProgramConfig(token="fedcba9876543210", role=Role.OPERATOR, paths=()),
        }
        with open_door(tmp_path, AccessConfig(programs=programs)) as door:
            assert door.status("GET", "/metrics", "0123456789abcdef") == 400, "it comes through"
            assert door.status("GET", "/api/v1/status", "0123456789abcdef") == 403, "another path"
            assert door.status("POST", "/metrics", "0123456789abcdef") == 405
            told = door.ask("GET", "/api/v1/me", "fedcba9876543210").json()
            assert told == {"name": "batch", "role": "operator", "how": "program", "paths": []}
            assert door.status("POST", "/api/v1/rollout", "fedcba9876543210", json={}) == 403
            for wrong in ("0123456789abcdeF", "0123456789abcde", "prometheus"):
                assert door.status("GET", "/metrics", wrong) == 401, wrong
            assert door.refused["path"] == 1 and door.refused["unknown"] == 3

    def test_a_token_is_made_where_there_is_none_and_read_again_when_it_changes(self, tmp_path: Path) -> None:
        file = tmp_path / "prometheus"
        with open_door(tmp_path, AccessConfig(programs={"p": ProgramConfig(token_file=str(file))})) as door:
            made = file.read_text().strip()
            assert len(made) == 43 and file.stat().st_mode & 0o777 == 0o640
            assert door.status("GET", "/metrics", made) == 400
            file.write_text("short\n")  # no good, so the one before stays
            time.sleep(1.1)
            assert door.status("GET", "/metrics", made) == 400
            file.unlink()
            time.sleep(1.1)
            assert door.status("GET", "/metrics", made) == 400 and not file.exists()
            file.write_text("another-one-that-is-long\n")
            time.sleep(1.1)
            assert door.status("GET", "/metrics", "another-one-that-is-long") == 400, "it is read"
            assert door.status("GET", "/metrics", made) == 401
        with open_door(tmp_path, AccessConfig(programs={"p": ProgramConfig(token_file=str(file))})) as door:
            assert door.status("GET", "/metrics", "another-one-that-is-long") == 400, "a restart makes no other"

    def test_client_certificates_have_roles(self, tmp_path: Path) -> None:
        authority = Authority()
        (tmp_path / "ca.pem").write_bytes(authority.pem)
        cert, key = authority.issue("server").write(tmp_path, "server")
        tls = TlsConfig(cert_file=cert, key_file=key, client_ca_file=str(tmp_path / "ca.pem"))
        config = AccessConfig(certificates={"ops": Role.OPERATOR})
        with open_door(tmp_path, config, tls=tls) as door:
            trusted = {"verify": str(tmp_path / "ca.pem")}
            ops, other = (authority.issue(name).write(tmp_path, name) for name in ("ops", "other"))
            told = door.ask("GET", "/api/v1/me", cert=ops, **trusted).json()
            assert told == {"name": "ops", "role": "operator", "how": "certificate", "paths": []}
            assert door.status("POST", "/api/v1/rollout", cert=ops, json={}, **trusted) == 403
            assert door.status("GET", "/api/v1/me", cert=other, **trusted) == 401
            assert door.status("GET", "/api/v1/me", door.tokens[Role.ADMIN], cert=other, **trusted) == 200
            with pytest.raises(requests.exceptions.ConnectionError):
                door.ask("GET", "/api/v1/me", **trusted)
            fields = {"data": {"token": door.tokens[Role.VIEWER]}, "headers": BROWSER}
            signed = door.ask("POST", "/sign-in", cert=other, **fields, **trusted)
            assert "; Secure" in signed.headers["Set-Cookie"]

    def test_hosts(self, tmp_path: Path) -> None:
        with open_door(tmp_path, None, hosts=("aiops.example",)) as door:
            for host in (
                "127.0.0.1",
                "127.0.0.1:1",
                "localhost:9464",
                "[::1]:9464",
                "aiops.example",
                "AIOPS.example:80",
            ):
                assert door.status("GET", "/api/v1/me", headers={"Host": host}) == 200, host
            for host in ("evil.example", "aiops.example.evil", "localhost.evil", "[::1", "127.0.0.1.evil:9464", ""):
                answer = door.ask("GET", "/api/v1/me", headers={"Host": host})
                assert answer.status_code == 421 and "see api.hosts" in answer.json()["error"], host
            assert door.refused["host"] == 6


class TestConfig:
    @pytest.mark.parametrize("end", [":9464", "0.0.0.0:9464", "[::]:9464", "192.0.2.1:9464", "otel-aiops:9464"])
    def test_nobody_is_let_in_from_elsewhere_without_access(self, end: str) -> None:
        with pytest.raises(ConfigError, match=r"api\.endpoint: expected access, auth or tls\.client_ca_file beside it"):
            parse(f"api: {{endpoint: '{end}'}}")
        assert parse(f"api: {{endpoint: '{end}', access: {{}}}}").config.api.known_hosts() is None
        assert parse(f"api: {{endpoint: '{end}', auth: {{bearertokenauth: {{filename: t}}}}}}").config.api.auth

    @pytest.mark.parametrize("end", ["localhost:9464", "127.0.0.1:9464", "[::1]:9464", "127.9.9.9:0"])
    def test_on_this_machine_nothing_is_needed(self, end: str) -> None:
        found = parse(f"api: {{endpoint: '{end}'}}")
        assert found.config.api.access is None and not found.warnings
        assert found.config.api.known_hosts() == (end.rsplit(":", 1)[0].strip("[]"),)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("access: {session: 1s}", "api.access.session: must be 1m to 30d"),
            ("access: {anonymous: admin}", "api.access.anonymous: expected"),
            ("access: {programs: {a: {}}}", "api.access.programs.a.token: expected one of token and token_file"),
            ("access: {programs: {a: {token_file: x, paths: [metrics]}}}", "expected paths such as /metrics"),
            ("access: {programs: {a: {token: '${env:X:-short}'}}}", "token: expected at least 16 characters, got 5"),
            ("access: {programs: {a: {token: 0123456789abcdef}}}", "access.programs.a.token: expected ${env:NAME}"),
            ("access: {users: {ana: admin}}", "api.access.users: expected auth.basicauth"),
            ("access: {certificates: {ops: admin}}", "api.access.certificates: expected tls.client_ca_file"),
            (
                "access: {users: {ana: root}}",
                "api.access.users.ana: expected 'viewer', 'operator'",
            ),
            ("access: {oidc: {issuer: x, client_id: a, roles: {a: admin}}}", "issuer: expected https://host"),
            (
                "access: {oidc: {issuer: 'http://sso.example', client_id: a, roles: {a: admin}}}",
                "expected https://host",
            ),
            ("access: {oidc: {issuer: 'https://sso.example', client_id: a}}", "roles: expected a role for at least"),
        ],
    )
    def test_that_is_wrong(self, text: str, said: str) -> None:
        with pytest.raises(ConfigError) as error:
            parse(f"api: {{{text}}}")
        assert said in str(error.value)


def test_a_file_of_tokens_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "access").mkdir()
    (tmp_path / "access/tokens.json").write_text("{")
    with pytest.raises(ConfigError, match=r"api\.access\.tokens: .*tokens\.json: expected tokens"):
        Access(AccessConfig(), None, tmp_path)
