"""Issuer: whom an OpenID Connect issuer vouches for, by tokens that it signed and by its sign-in page."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import jwt
import requests
import structlog

from otel_aiops.errors import ConfigError, Overloaded, Unauthorized
from otel_aiops.server.access.roles import Identity, Role, highest
from otel_aiops.server.endpoint import is_here

# Signed with a key that only the issuer has. HS256 and its like would take the issuer's public key for a secret.
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
KINDS: Final = frozenset({"RSA", "EC", "OKP"})
KEYS_S: Final = 3600.0  # how old the keys of the issuer may be before they are asked for again
AGAIN_S: Final = 30.0  # so long after asking it is not asked again, whatever comes
TIMEOUT_S: Final = (3.0, 10.0)
MOST_BYTES: Final = 1 << 20
SIGNING_S: Final = 600.0  # that somebody may take to sign in there
MOST_SIGNING: Final = 1_000
DISCOVERY: Final = "/.well-known/openid-configuration"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerConfig:
    """An OpenID Connect issuer, such as Keycloak, Dex, Entra ID or Google."""

    issuer: str  # its URL, as its tokens name it
    client_id: str  # by which it knows us
    client_secret: str = field(default="", repr=False)  # ours, where it gave us one, as ${env:OIDC_SECRET}
    client_secret_file: str = ""  # the file of it instead
    audience: str = ""  # for whom tokens of programs are; empty is client_id
    scopes: tuple[str, ...] = ("openid", "profile", "email")  # what is asked for when people sign in
    name_claim: str = "email"  # who somebody is; `sub` where it is missing, or an e-mail address that is not verified
    roles_claim: str = "groups"  # where groups or roles stand, as realm_access.roles for one inside another
    roles: Mapping[str, Role] = field(default_factory=dict)  # role by group; who is in several has the highest
    redirect_url: str = ""  # where people come back to, https://HOST/sign-in/callback; empty is the host they ask
    leeway: float = 60.0  # s that its clock and ours may differ
    ca_file: str = ""  # certificates of authorities to trust instead of those of the system

    def __post_init__(self) -> None:
        _check_url("issuer", self.issuer)
        if self.redirect_url:
            _check_url("redirect_url", self.redirect_url)
        if not self.client_id:
            raise ConfigError("client_id", "expected the name by which the issuer knows us, got none")
        if self.client_secret and self.client_secret_file:
            raise ConfigError("client_secret", "give client_secret or client_secret_file, got both")
        if "openid" not in self.scopes:
            raise ConfigError("scopes", f"expected openid among them, got {', '.join(self.scopes) or 'none'}")
        if not self.roles:
            raise ConfigError("roles", "expected a role for at least one group, or nobody may do anything")
        if not 0 <= self.leeway <= 600:
            raise ConfigError("leeway", f"must be 0 to 600 s, got {self.leeway}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Signing:
    """Somebody who was sent to the issuer and has not come back."""

    browser: bytes
    nonce: str
    verifier: str
    redirect: str
    back: str
    until_s: float


class Issuer:
    """One issuer; any thread may ask. Its keys are fetched when they are needed and kept while it is away."""

    def __init__(self, config: IssuerConfig, *, path: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self._clock = clock
        self._lock = threading.Lock()
        self._session = requests.Session()
        self._session.trust_env = False  # no .netrc, which would show our credentials to it
        self._session.verify = config.ca_file or True
        self._secret = _secret(config, path)
        self._known: Mapping[str, Any] = {}
        self._keys: dict[str, jwt.PyJWK] = {}
        self._asked_s = self._fetched_s = -float("inf")
        self._signing: OrderedDict[str, _Signing] = OrderedDict()

    # -- signed tokens ------------------------------------------------------------------------------------------------

    def identify(self, text: str) -> Identity:
        """Who shows a token that it signed. Raises: Unauthorized, Overloaded when it cannot be asked."""
        return self._identity(self._claims(text, self.config.audience or self.config.client_id))

    def _claims(self, text: str, audience: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(text)
            algorithm = header.get("alg")
            if algorithm not in ALGORITHMS:
                raise Unauthorized("the token is signed in a way that is not taken")
            found: dict[str, Any] = jwt.decode(
                text,
                self._key(header.get("kid"), algorithm),
                algorithms=[algorithm],
                audience=audience,
                issuer=self.config.issuer,
                leeway=self.config.leeway,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise Unauthorized(f"the token of the issuer is not good: {error}") from None
        return found

    def _key(self, name: Any, algorithm: str) -> jwt.PyJWK:
        """The key that a token names; its only fitting one where the token names none."""
        with self._lock:
            now_s = self._clock()
            if not self._fits(name, algorithm) or now_s - self._fetched_s > KEYS_S:
                self._fetch(now_s)
            fitting = self._fits(name, algorithm)
        if len(fitting) != 1:
            raise Unauthorized("the token is signed with a key that the issuer does not have")
        return fitting[0]

    def _fits(self, name: Any, algorithm: str) -> list[jwt.PyJWK]:
        return [
            key
            for known, key in self._keys.items()
            if (name is None or known == name) and key.algorithm_name == algorithm
        ]

    def _fetch(self, now_s: float) -> None:
        """Ask for its keys, at most now and then; while it is away the known ones hold. Raises: Overloaded."""
        if now_s - self._asked_s < AGAIN_S:
            if not self._keys:
                raise Overloaded("the issuer of tokens did not answer", retry_after_s=AGAIN_S)
            return
        self._asked_s = now_s
        try:
            self._keys = _usable(self._get(self._place("jwks_uri")))
            self._fetched_s = now_s
        except Overloaded as error:
            _log.warning("the keys of the issuer could not be fetched", issuer=self.config.issuer, error=str(error))
            if not self._keys:
                raise

    # -- signing in on the page ---------------------------------------------------------------------------------------

    def send(self, redirect: str, back: str) -> tuple[str, str]:
        """(where to send a browser, what it must bring back in a cookie). Raises: Overloaded."""
        state, browser, nonce = (secrets.token_urlsafe(32) for _ in range(3))
        verifier = secrets.token_urlsafe(48)
        redirect = self.config.redirect_url or redirect
        asked = {
            "response_type": "code",
            "client_id": self.config.client_id,
            "redirect_uri": redirect,
            "scope": " ".join(self.config.scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": _digest(verifier),
            "code_challenge_method": "S256",
        }
        place = self._place("authorization_endpoint")
        one = _Signing(
            browser=hashlib.sha256(browser.encode()).digest(),
            nonce=nonce,
            verifier=verifier,
            redirect=redirect,
            back=back,
            until_s=self._clock() + SIGNING_S,
        )
        with self._lock:
            self._signing[state] = one
            if len(self._signing) > MOST_SIGNING:
                self._signing.popitem(last=False)
        return f"{place}{'&' if '?' in place else '?'}{urlencode(asked)}", browser

    def receive(self, state: str, code: str, browser: str) -> tuple[Identity, str]:
        """(who has come back, to which page). Raises: Unauthorized, Overloaded when it cannot be asked."""
        with self._lock:
            one = self._signing.pop(state, None)
        shown = hashlib.sha256(browser.encode("utf-8", "replace")).digest()
        if one is None or self._clock() > one.until_s or not secrets.compare_digest(one.browser, shown):
            raise Unauthorized("signing in was not begun in this browser, or it took too long; begin again")
        answer = self._exchange(code, one)
        claims = self._claims(str(answer.get("id_token", "")), self.config.client_id)
        if not secrets.compare_digest(str(claims.get("nonce", "")).encode(), one.nonce.encode()):
            raise Unauthorized("the token of the issuer is for another sign-in")
        if claims.get("azp", self.config.client_id) != self.config.client_id:
            raise Unauthorized("the token of the issuer is for another program")
        return self._identity(claims), one.back

    def _exchange(self, code: str, one: _Signing) -> Mapping[str, Any]:
        config = self.config
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": one.redirect,
            "client_id": config.client_id,
            "code_verifier": one.verifier,
        }
        place, how = self._place("token_endpoint"), self._known.get("token_endpoint_auth_methods_supported") or ()
        basic = None
        if self._secret and "client_secret_post" in how and "client_secret_basic" not in how:
            fields["client_secret"] = self._secret
        elif self._secret:
            basic = (config.client_id, self._secret)
        return self._ask("POST", place, data=fields, auth=basic)

    # -- asking it ----------------------------------------------------------------------------------------------------

    def _place(self, key: str) -> str:
        """An address that it names. Raises: Overloaded."""
        if not self._known:
            found = self._get(self.config.issuer.rstrip("/") + DISCOVERY)
            if found.get("issuer") != self.config.issuer:
                raise Overloaded(f"the issuer calls itself {str(found.get('issuer'))[:200]!r}")
            self._known = found
        try:
            place = str(self._known[key])
            _check_url(key, place)
        except (KeyError, ConfigError):
            raise Overloaded(f"the issuer names no usable {key}") from None
        return place

    def _get(self, url: str) -> Mapping[str, Any]:
        return self._ask("GET", url)

    def _ask(self, method: str, url: str, **content: Any) -> Mapping[str, Any]:
        """A JSON object. Raises: Unauthorized where it refuses what we show, Overloaded for all else."""
        headers = {"Accept": "application/json"}
        try:
            with self._session.request(
                method, url, timeout=TIMEOUT_S, allow_redirects=False, stream=True, headers=headers, **content
            ) as answer:
                body = answer.raw.read(MOST_BYTES + 1, decode_content=True)
                if method == "POST" and answer.status_code in (400, 401, 403):
                    raise Unauthorized(f"the issuer refused the sign-in with status {answer.status_code}")
                if answer.status_code != 200 or len(body) > MOST_BYTES:
                    raise Overloaded(f"the issuer answered {answer.status_code}")
                found = json.loads(body)
        except (requests.RequestException, OSError, ValueError) as error:
            raise Overloaded(f"the issuer cannot be asked: {type(error).__name__}") from error
        if not isinstance(found, dict):
            raise Overloaded("the issuer answered something else than an object")
        return found

    # -- who it is ----------------------------------------------------------------------------------------------------

    def _identity(self, claims: Mapping[str, Any]) -> Identity:
        config = self.config
        name = claims.get(config.name_claim)
        if config.name_claim == "email" and claims.get("email_verified") is False:
            name = None  # anybody may claim the address of somebody else
        groups: Any = claims
        for part in config.roles_claim.split("."):
            groups = groups.get(part) if isinstance(groups, Mapping) else None
        listed = [groups] if isinstance(groups, str) else groups if isinstance(groups, list) else []
        role = highest(config.roles[one] for one in listed if isinstance(one, str) and one in config.roles)
        return Identity(name=" ".join(str(name or claims["sub"]).split())[:100], role=role, how="issuer")


def _usable(tree: Mapping[str, Any]) -> dict[str, jwt.PyJWK]:
    """Public keys for signatures, by name; others are left out."""
    found: dict[str, jwt.PyJWK] = {}
    for number, one in enumerate(tree.get("keys") or ()):
        if isinstance(one, dict) and one.get("kty") in KINDS and one.get("use", "sig") == "sig":
            try:
                key = jwt.PyJWK({name: value for name, value in one.items() if name != "d"})
            except jwt.PyJWTError:
                continue
            if key.algorithm_name in ALGORITHMS:
                found[str(one.get("kid", f"#{number}"))] = key
    return found


def _check_url(key: str, url: str) -> None:
    """Encrypted, or on this machine. Raises: ConfigError."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        good = parts.scheme == "https" or (parts.scheme == "http" and is_here(host))
    except ValueError:
        host, good = "", False
    if not (good and host) or parts.username:
        raise ConfigError(key, f"expected https://host/…, or http:// of this machine, got {url[:200]!r}")


def _secret(config: IssuerConfig, path: str) -> str:
    if not config.client_secret_file:
        return config.client_secret
    try:
        return Path(config.client_secret_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}.client_secret_file", f"cannot read {config.client_secret_file}: {error}") from error


def _digest(verifier: str) -> str:
    """The challenge of PKCE."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
