"""The page for each role: it has what the role may send, nothing else, and every form is sealed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from otel_aiops.desk import Desk
from otel_aiops.server import api
from otel_aiops.server.access import Access, AccessConfig, Role
from otel_aiops.server.access.roles import Identity, Needs
from otel_aiops.server.access.tokens import TokenFile
from otel_aiops.server.http_server import HttpServer
from otel_aiops.views import Views
from tests.incident_feed import broken
from tests.server.test_web import BROWSER, OBJECTIVE, _Tags, all_pages, incident
from tests.test_app import Running


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with broken(tmp_path_factory.mktemp("state"), OBJECTIVE, still=True) as found:
        yield found


class Guarded:
    """The same service behind another door, at which people must sign in."""

    def __init__(self, up: Running, folder: Path) -> None:
        views = Views(up.service)
        tokens = TokenFile(folder)
        self.tokens = {role: tokens.create(name=f"{role}-1", role=role, who="test")[1] for role in Role}
        application = api.build(views, Desk(up.service, views.alone), Access(AccessConfig(), None, folder), 1 << 20)
        self.needs = Needs(application.routes)
        self.server = HttpServer(application, "127.0.0.1:0", None, path="api")
        self.server.bind()
        self.server.start()
        self.base = f"http://127.0.0.1:{self.server.port}"

    def browser(self, role: Role) -> requests.Session:
        found = requests.Session()
        found.headers.update(BROWSER | {"Origin": self.base})
        assert found.post(f"{self.base}/sign-in", {"token": self.tokens[role]}, timeout=60).status_code == 200
        return found


@pytest.fixture(scope="module")
def guarded(up: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    found = Guarded(up, tmp_path_factory.mktemp("access"))
    yield found
    found.server.stop(1.0)


def sent(text: str) -> set[str]:
    """Where the forms of a page go, by themselves or by a button."""
    tags = _Tags(text).tags
    found = {str(attrs["action"]) for tag, attrs in tags if tag == "form" and attrs.get("method") == "post"}
    return found | {str(attrs["formaction"]) for tag, attrs in tags if attrs.get("formaction")}


@pytest.mark.parametrize("role", list(Role))
def test_a_page_has_what_the_role_may_send_and_nothing_else(up: Running, guarded: Guarded, role: Role) -> None:
    browser, everything = guarded.browser(role), set[str]()
    for path in all_pages(up):
        answer = browser.get(guarded.base + path, timeout=60)
        assert answer.status_code == 200, answer.text
        places = sent(answer.text)
        assert f'<span class="quiet">{role}-1</span> <span class="badge">{role}</span>' in answer.text, path
        forbidden = {one for one in places if not Identity(role=role).may(guarded.needs.sending(one))}
        assert not forbidden, f"{path} shows {role} what it may not send: ask `may(address)` around {forbidden}"
        assert answer.text.count('<form method="post"') == answer.text.count('name="csrf"'), path
        everything |= places
    everything -= {"/sign-out"}
    kinds = {"mark": role is not Role.VIEWER, "verdict": role is not Role.VIEWER, "save": role is Role.ADMIN}
    for word, wanted in kinds.items():
        assert any(one.endswith(f"/{word}") for one in everything) == wanted, word


def test_who_signed_in_is_who_decided(up: Running, guarded: Guarded) -> None:
    browser, name = guarded.browser(Role.OPERATOR), incident(up)["id"]
    page = browser.get(f"{guarded.base}/incidents/{name}", timeout=60).text
    csrf = next(str(attrs["value"]) for _, attrs in _Tags(page).tags if attrs.get("name") == "csrf")
    place, fields = f"{guarded.base}/incidents/{name}/mark", {"action": "acknowledge", "who": "somebody else"}
    assert browser.post(place, fields, timeout=60).status_code == 403
    done = browser.post(place, fields | {"csrf": csrf}, timeout=60)
    assert done.status_code == 200 and "The incident is acknowledged." in done.text
    assert [one["who"] for one in incident(up)["decisions"]][-1] == "operator-1"
    assert "otel_aiops_name" not in browser.cookies
