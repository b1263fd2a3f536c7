"""Access: tells who a request comes from, by whatever it shows, and what is refused and why."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NoReturn

from starlette.requests import Request

from otel_aiops.errors import ConfigError, Forbidden, StateError, Unauthorized
from otel_aiops.server.access.issuer import Issuer, IssuerConfig
from otel_aiops.server.access.programs import ProgramConfig, Programs
from otel_aiops.server.access.roles import NOBODY, Identity, Role
from otel_aiops.server.access.sessions import Session, Sessions
from otel_aiops.server.access.throttle import Slower, Throttle
from otel_aiops.server.access.tokens import PREFIX, Tokens
from otel_aiops.server.auth import AuthConfig, Authenticator, user_of
from otel_aiops.server.endpoint import is_here

COOKIE: Final = "otel_aiops_session"
SHARED: Final = "api.auth"  # what decides with a token of api.auth.bearertokenauth is called, where others have names
WRONG: Final = "the token or password is wrong, expired or revoked"
Refused = Callable[[str], None]  # counts a refusal by its reason


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessConfig:
    """Who may do what over the API and on the page; without this, and without `api.auth`, only this machine may ask."""

    tokens: bool = True  # those of `otel-aiops token create` open
    anonymous: Literal["", "viewer"] = ""  # role of who shows nothing and asks from this machine; from elsewhere none
    programs: Mapping[str, ProgramConfig] = field(default_factory=dict)  # by name: tokens that are given here
    users: Mapping[str, Role] = field(default_factory=dict)  # roles of users of api.auth.basicauth; others are admins
    certificates: Mapping[str, Role] = field(default_factory=dict)  # roles by a name in a client certificate
    oidc: IssuerConfig | None = None  # an OpenID Connect issuer
    session: float = 43_200.0  # how long somebody stays signed in on the page

    def __post_init__(self) -> None:
        if not 60 <= self.session <= 2_592_000:
            raise ConfigError("session", f"must be 1m to 30d, got {self.session} s")


class Access:
    """Identifies requests; any thread may ask. Raises: ConfigError under `path` when it cannot be set up."""

    def __init__(
        self,
        config: AccessConfig | None,
        auth: AuthConfig | None,
        directory: Path,
        *,
        path: str = "api",
        certificates: bool = False,
        refused: Refused = lambda reason: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`certificates` says that every client has shown one that our authority has signed."""
        self.config = config or AccessConfig(tokens=False)
        self.open = config is None and auth is None  # nobody must sign in
        self.named = config is not None  # everybody who decides has a name
        self.refused = refused
        self.throttle = Throttle(clock=clock)
        self.sessions = Sessions(self.config.session, clock=clock)
        self._certificates = certificates
        self._auth = Authenticator(auth, path=f"{path}.auth") if auth else None
        self._programs = Programs(self.config.programs, f"{path}.access.programs", clock=clock)
        self._issuer = Issuer(self.config.oidc, path=f"{path}.access.oidc", clock=clock) if self.config.oidc else None
        try:
            self.tokens = Tokens(directory, clock=clock)
        except StateError as error:
            raise ConfigError(f"{path}.access.tokens", str(error)) from error

    @property
    def issuer(self) -> Issuer | None:
        """Where people may sign in."""
        return self._issuer

    @property
    def signs_in(self) -> bool:
        """Whether people sign in on the page; else their browser asks them for a password."""
        return self.config.tokens or self._issuer is not None

    @property
    def challenge(self) -> str:
        """The value of WWW-Authenticate."""
        known = self._auth.challenge if self._auth else ""
        bearer = 'Bearer realm="otel-aiops"'
        if self.signs_in and bearer not in known:
            known = f"{bearer}, {known}" if known else bearer
        return known or bearer

    def identify(self, request: Request) -> tuple[Identity, Session | None]:
        """(who asks where people must sign in, the session by which it is known). Raises: Unauthorized, Overloaded."""
        authorization = request.headers.get("authorization")
        if authorization:
            return self._shown(authorization, _address(request)), None
        if cookie := request.cookies.get(COOKIE):
            found = self.session(cookie)
            if found is not None:
                return found.identity, found
        if (known := self._certified(request)) is not None:
            return known, None
        here = bool(self.config.anonymous) and is_here(_address(request))
        return Identity(role=Role.VIEWER) if here else NOBODY, None

    def session(self, cookie: str) -> Session | None:
        """The session of a cookie, while the token with which it began holds, with the role that the token has now."""
        found = self.sessions.find(cookie)
        if found is not None and found.token and self.tokens.holds(found.token) is None:
            self.sessions.end(cookie)
            self.refused("revoked")
            return None
        return found

    def sign_in(self, text: str, address: str) -> str:
        """Begin a session with a token; the cookie. Raises: Unauthorized, Overloaded, Forbidden."""
        token = None
        identity = self._bearer(text, address)
        if identity.how == "token":
            token, _ = self.tokens.find(text)
        if identity.paths:
            self.refused("path")
            raise Forbidden(f"expected a token for the page, this one is limited to {', '.join(identity.paths)}")
        self._needs_role(identity)
        left_s = (token.expires_ns - time.time_ns()) / 1e9 if token is not None and token.expires_ns else 0.0
        return self.sessions.begin(identity, token=token.id if token else "", at_most_s=max(0.0, left_s))

    def come_back(self, state: str, code: str, browser: str) -> tuple[str, str]:
        """(cookie, page) of somebody whom the issuer sent. Raises: Unauthorized, Overloaded, Forbidden."""
        assert self._issuer is not None
        identity, back = self._issuer.receive(state, code, browser)
        self._needs_role(identity)
        return self.sessions.begin(identity), back

    def _needs_role(self, identity: Identity) -> None:
        if identity.role is None:
            self.refused("role")
            raise Forbidden(f"{identity.name} is known, but has no role here; ask an admin for one")

    # -- what is shown ------------------------------------------------------------------------------------------------

    def _shown(self, authorization: str, address: str) -> Identity:
        scheme, _, credentials = authorization.strip().partition(" ")
        if scheme.lower() == "bearer":
            return self._bearer(credentials.strip(), address)
        return self._password(authorization, address)

    def _bearer(self, text: str, address: str) -> Identity:
        """Of a token of ours, of the issuer, or a shared one. A good one is never kept out by the guesses of others:
        it has 256 random bits, or a signature.
        """
        if self.config.tokens and text.startswith(PREFIX):
            token, why = self.tokens.find(text)
            if token is None:
                self._wrong(address, why)
            return token.identity()
        if (program := self._programs.find(text)) is not None:
            return program
        if self._issuer is not None and text.count(".") == 2:
            try:
                return self._issuer.identify(text)
            except Unauthorized as error:
                self._wrong(address, "issuer", f"{error}")
        return self._password(f"Bearer {text}", address)

    def _password(self, authorization: str, address: str) -> Identity:
        """Of what people choose themselves: who has guessed wrong too often waits, whatever is shown then."""
        if self._auth is None:
            self._wrong(address, "unknown")
        if wait_s := self.throttle.wait_s(address):
            self.refused("rate")
            raise Slower(wait_s)
        try:
            self._auth.check(authorization)
        except Unauthorized as error:
            self._wrong(address, "unknown", str(error))
        name = user_of(authorization)
        if name:
            known = self.config.users
            role = known.get(name, Role.VIEWER) if known else Role.ADMIN
            return Identity(name=name, role=role, how="password")
        return Identity(name=SHARED if self.named else "", role=Role.ADMIN, how="shared")

    def _wrong(self, address: str, reason: str, said: str = WRONG) -> NoReturn:
        """Count it, and raise Unauthorized, or Slower where there were too many."""
        self.refused(reason)
        if wait_s := self.throttle.wait_s(address):
            raise Slower(wait_s)
        self.throttle.wrong(address)
        raise Unauthorized(said)

    def _certified(self, request: Request) -> Identity | None:
        """Of a client certificate. Where nothing else is configured, whoever has one may do everything."""
        if not self._certificates:
            return None
        known = self.config.certificates
        for name in getattr(request.state, "peer", ()):
            if name in known:
                return Identity(name=name, role=known[name], how="certificate")
        return None


def _address(request: Request) -> str:
    return request.client.host if request.client else ""
