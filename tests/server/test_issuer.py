"""Whom an OpenID Connect issuer vouches for: signed tokens, good and forged, and signing in on the page."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
import requests

from otel_aiops.server.access import AccessConfig, Role
from otel_aiops.server.access.issuer import IssuerConfig
from tests.server.issuer import CLIENT, SECRET, Issuer
from tests.server.test_access import BROWSER, COOKIE, Door, open_door

ROLES = {"sre": Role.OPERATOR, "leads": Role.ADMIN}


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    found = Issuer()
    yield found
    found.close()


def config(issuer: Issuer, **more: Any) -> AccessConfig:
    settings: Any = {"issuer": issuer.url, "client_id": CLIENT, "client_secret": SECRET, "roles": ROLES, **more}
    return AccessConfig(oidc=IssuerConfig(**settings))


@pytest.fixture
def door(tmp_path: Path, issuer: Issuer) -> Iterator[Door]:
    with open_door(tmp_path, config(issuer)) as found:
        yield found


def me(door: Door, text: str) -> Any:
    answer = door.ask("GET", "/api/v1/me", text)
    return answer.json() if answer.status_code == 200 else answer.status_code


def part(tree: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(tree).encode()).rstrip(b"=").decode()


@pytest.mark.parametrize("kind", ["RS256", "ES256", "EdDSA"])
def test_a_signed_token_says_who_and_which_role(door: Door, issuer: Issuer, kind: str) -> None:
    issuer.rotate(f"of-{kind}", kind)
    told = {"name": "ana@example.com", "role": "operator", "how": "issuer", "paths": []}
    assert me(door, issuer.sign()) == told
    assert me(door, issuer.sign(kid=None)) == told, "the only key needs no name"
    assert me(door, issuer.sign(groups=["sre", "other", "leads"]))["role"] == "admin"
    assert me(door, issuer.sign(groups=["other"])) == 403
    assert me(door, issuer.sign(groups=None)) == 403
    assert me(door, issuer.sign(groups="sre"))["role"] == "operator"
    assert me(door, issuer.sign(email_verified=False))["name"] == "u1", "anybody may claim an address"
    assert issuer.asked.count("/keys") == 1, "keys are kept"


FORGED: dict[str, Callable[[Issuer], str]] = {
    "expired": lambda of: of.sign(age_s=3600 + 61),
    "not yet": lambda of: of.sign(nbf=4_000_000_000),
    "another audience": lambda of: of.sign(audience="another"),
    "another issuer": lambda of: of.sign(iss="https://evil.example"),
    "no expiry": lambda of: of.sign(exp=None),
    "no subject": lambda of: of.sign(sub=None),
    "no audience": lambda of: of.sign(aud=None),
    "unknown key": lambda of: of.sign(kid="k2"),
    "changed": lambda of: of.sign()[:-6] + "AAAAAA",
    "unsigned": lambda of: f"{part({'alg': 'none'})}.{part({'iss': of.url, 'aud': CLIENT, 'sub': 'x', 'exp': 4e9})}.",
    "no signature": lambda of: of.sign().rsplit(".", 1)[0] + ".",
    "nonsense": lambda of: "a.b.c",
}


@pytest.mark.parametrize("how", FORGED)
def test_what_is_not_right_is_refused(door: Door, issuer: Issuer, how: str) -> None:
    assert me(door, FORGED[how](issuer)) == 401
    assert door.refused["issuer"] == 1


def test_a_public_key_is_no_secret(door: Door, issuer: Issuer) -> None:
    """Signed with HMAC, whose key is the issuer's public one, which everybody has."""
    header, body = {"alg": "HS256", "typ": "JWT", "kid": "k1"}, issuer.sign().split(".")[1]
    for key in (issuer.public_pem(), json.dumps(issuer.jwks()["keys"][0]).encode()):
        text = f"{part(header)}.{body}"
        digest = hmac.new(key, text.encode(), hashlib.sha256).digest()
        assert me(door, f"{text}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}") == 401
    with pytest.raises(jwt.InvalidKeyError):
        jwt.encode({}, issuer.public_pem(), "HS256")  # which is why it is made by hand here


def test_clocks_may_differ_a_little(door: Door, issuer: Issuer) -> None:
    assert me(door, issuer.sign(age_s=3600 + 30))["name"] == "ana@example.com"
    assert me(door, issuer.sign(age_s=-30))["name"] == "ana@example.com"


def test_a_new_key_is_fetched_and_unknown_ones_do_not_flood_the_issuer(tmp_path: Path, issuer: Issuer) -> None:
    now = [1000.0]
    with open_door(tmp_path, config(issuer)) as door:
        assert door.access.issuer
        door.access.issuer._clock = lambda: now[0]
        assert me(door, issuer.sign())["role"] == "operator"
        old = issuer.sign()
        issuer.rotate("k2")
        assert me(door, issuer.sign()) == 401, "asked a moment ago"
        now[0] += 31
        assert me(door, issuer.sign())["role"] == "operator"
        assert me(door, old) == 401, "its key is gone"
        for _ in range(5):
            me(door, issuer.sign(kid="made up"))
        assert issuer.asked.count("/keys") == 2


def test_the_issuer_may_be_away(tmp_path: Path, issuer: Issuer) -> None:
    now = [1000.0]
    issuer.broken = True
    with open_door(tmp_path, config(issuer)) as door:
        assert door.access.issuer
        door.access.issuer._clock = lambda: now[0]
        answer = door.ask("GET", "/api/v1/me", issuer.sign())
        assert answer.status_code == 503 and answer.headers["Retry-After"]
        assert me(door, door.tokens[Role.VIEWER])["role"] == "viewer", "tokens do not need it"
        issuer.broken = False
        assert me(door, issuer.sign()) == 503, "it is asked now and then only"
        now[0] += 31
        assert me(door, issuer.sign())["role"] == "operator"
        issuer.broken = True
        now[0] += 7200
        assert me(door, issuer.sign())["role"] == "operator", "the keys that are known hold"


def test_roles_inside_others_and_an_audience_of_programs(tmp_path: Path, issuer: Issuer) -> None:
    settings = config(issuer, roles_claim="realm_access.roles", audience="api", name_claim="preferred_username")
    with open_door(tmp_path, settings) as door:
        shown = issuer.sign(audience="api", realm_access={"roles": ["leads"]}, preferred_username="ana")
        assert me(door, shown) == {"name": "ana", "role": "admin", "how": "issuer", "paths": []}
        assert me(door, issuer.sign(audience="api", realm_access=["leads"])) == 403
        assert me(door, issuer.sign(realm_access={"roles": ["leads"]})) == 401


class TestSigningIn:
    def begin(self, door: Door, back: str = "/models") -> tuple[requests.Session, str]:
        """A browser that was sent to the issuer, and where the issuer sends it back to."""
        browser = requests.Session()
        browser.headers.update(BROWSER)
        page = browser.get(f"{door.base}/sign-in?next={back}")
        assert f'href="/sign-in/issuer?next={back}"' in page.text
        sent = browser.get(f"{door.base}/sign-in/issuer?next={back}", allow_redirects=False)
        cookie = sent.headers["Set-Cookie"].lower()
        assert sent.status_code == 303 and "httponly" in cookie and "samesite=lax" in cookie
        returned = browser.get(sent.headers["Location"], allow_redirects=False)
        return browser, returned.headers["Location"]

    def test_with_the_code_flow(self, door: Door) -> None:
        browser, place = self.begin(door)
        page = browser.get(place)
        assert page.status_code == 200 and '<meta http-equiv="refresh" content="0; url=/models">' in page.text
        assert "samesite=strict" in page.headers["Set-Cookie"].lower()
        assert browser.get(f"{door.base}/api/v1/me").json()["name"] == "ana@example.com"
        assert "ana@example.com" in browser.get(f"{door.base}/nothing").text

    def test_a_code_works_once_and_only_in_the_browser_that_began(self, door: Door) -> None:
        browser, place = self.begin(door)
        stranger = requests.get(place, headers=BROWSER)
        assert stranger.status_code == 401 and COOKIE not in stranger.cookies
        assert browser.get(place).status_code == 401, "it was used up"
        browser, place = self.begin(door)
        assert browser.get(place).status_code == 200 and browser.get(place, allow_redirects=False).status_code == 401

    @pytest.mark.parametrize(
        "other", [{"nonce": "another"}, {"audience": "another"}, {"azp": "another"}, {"iss": "https://evil.example"}]
    )
    def test_tokens_for_something_else(self, door: Door, issuer: Issuer, other: dict[str, Any]) -> None:
        issuer.other = other
        browser, place = self.begin(door)
        answer = browser.get(place)
        assert answer.status_code == 401 and COOKIE not in browser.cookies

    def test_who_has_no_role(self, door: Door, issuer: Issuer) -> None:
        issuer.claims["groups"] = ["other"]
        browser, place = self.begin(door)
        answer = browser.get(place)
        assert answer.status_code == 403 and "has no role here" in answer.text and COOKIE not in browser.cookies

    def test_what_the_issuer_refuses_is_told(self, door: Door) -> None:
        answer = door.ask("GET", "/sign-in/callback?error=access_denied&state=x", headers=BROWSER)
        assert answer.status_code == 401 and "the issuer refused: access_denied" in answer.text

    def test_an_issuer_that_is_away_is_told(self, door: Door, issuer: Issuer) -> None:
        issuer.broken = True
        answer = door.ask("GET", "/sign-in/issuer", headers=BROWSER)
        assert answer.status_code == 503 and "the issuer answered 500" in answer.text
