"""Sessions: who has signed in on the page, known by a cookie whose text only the browser has; gone with a restart."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from otel_aiops.server.access.roles import Identity

MOST: Final = 10_000  # the one that began first ends for another one


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Somebody at a browser. `csrf` stands in every form that we draw, and where another site cannot read it."""

    identity: Identity
    token: str = ""  # the id of the token that was shown; the session ends with it
    until_s: float
    csrf: str


class Sessions:
    """All that go on, in memory; any thread may ask. `clock` is monotonic seconds."""

    def __init__(self, lasts_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.lasts_s = lasts_s
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, Session] = OrderedDict()

    def begin(self, identity: Identity, *, token: str = "", at_most_s: float = 0.0) -> str:
        """A new one; the text of its cookie."""
        text = secrets.token_urlsafe(32)
        lasts_s = min(self.lasts_s, at_most_s) if at_most_s else self.lasts_s
        until_s = self._clock() + lasts_s
        made = Session(identity=identity, token=token, until_s=until_s, csrf=secrets.token_urlsafe(32))
        with self._lock:
            self._known[_digest(text)] = made
            if len(self._known) > MOST:
                self._known.popitem(last=False)
        return text

    def find(self, text: str) -> Session | None:
        """The one of a cookie, while it lasts."""
        key = _digest(text)
        with self._lock:
            found = self._known.get(key)
            if found is not None and self._clock() >= found.until_s:
                del self._known[key]
                return None
        return found

    def end(self, text: str) -> None:
        """Nobody is signed in with this cookie any more."""
        with self._lock:
            self._known.pop(_digest(text), None)


def sealed(session: Session, shown: str) -> bool:
    """Whether a form has what only our own pages have."""
    return hmac.compare_digest(session.csrf.encode(), shown.encode("utf-8", "replace"))


def _digest(text: str) -> bytes:
    """What is remembered cannot be shown as a cookie."""
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()
