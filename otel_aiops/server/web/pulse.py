"""Pulse: tells browsers that something has changed, as server-sent events; what it is they fetch themselves."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

MOST: Final = 64  # listeners at a time; others ask now and then
EVERY_S: Final = 1.0
LOOK_S: Final = 0.25  # how soon an end is noticed
COMMENT_S: Final = 15.0  # so that proxies do not take silence for an end
AGAIN_S: Final = 60  # after which who found no room asks


class Pulse:
    """Read in the event loop only; `closing` is set when the server ends, and then every stream does."""

    def __init__(self, changes: Callable[[], Mapping[str, int]], closing: threading.Event) -> None:
        self._changes = changes
        self._closing = closing
        self.listeners = 0

    async def stream(self, request: Request) -> Response:
        """Which counts have changed, at most once a second."""
        if self.listeners >= MOST or self._closing.is_set():
            return PlainTextResponse("too many listen; ask now and then\n", 503, {"Retry-After": str(AGAIN_S)})
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._events(), media_type="text/event-stream", headers=headers)

    async def _events(self) -> AsyncIterator[str]:
        self.listeners += 1
        try:
            known, quiet_s, waited_s = dict(self._changes()), 0.0, 0.0
            yield f"retry: 3000\ndata: {json.dumps([])}\n\n"
            while not self._closing.is_set():
                await asyncio.sleep(LOOK_S)
                waited_s, quiet_s = waited_s + LOOK_S, quiet_s + LOOK_S
                now = dict(self._changes()) if waited_s >= EVERY_S else known
                if now != known:
                    changed = sorted(name for name in now if now[name] != known.get(name))
                    known, quiet_s, waited_s = now, 0.0, 0.0
                    yield f"data: {json.dumps(changed)}\n\n"
                elif quiet_s >= COMMENT_S:
                    quiet_s = 0.0
                    yield ": nothing new\n\n"
        finally:
            self.listeners -= 1
