"""What stands between the network and the page: bounds on requests, closed doors, and no other host for browsers."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

_log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "media-src 'self' data: blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
# Doors of gradio that this page does not use: they fetch from other hosts, keep what visitors send, or run a function
# past the queue.
_CLOSED = (
    "/proxy=",
    "/file=http:",
    "/file=https:",
    "/run-history",
    "/runs",
    "/deep_link",
    "/stream/",
    "/custom_component",
)


class Guard:
    """An ASGI application around another.

    Args:
        app: the page.
        max_bytes: longest body of a request.
    """

    def __init__(self, app: App, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        started = False

        async def with_headers(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start":
                own = [header for header in message.get("headers", ()) if header[0].lower() != _HEADERS[0][0]]
                message = {**message, "headers": [*own, *_HEADERS]}
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await _answer(with_headers, *refusal)
            return
        try:
            await self.app(scope, receive, with_headers)
        except Exception:  # what gradio makes of numbers and names that it does not check
            _log.warning("cannot read a request to %s", scope["path"], exc_info=_log.isEnabledFor(logging.DEBUG))
            if not started:
                await _answer(with_headers, 400, "the request cannot be read")

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        if any(door in scope["path"] for door in _CLOSED):
            return 404, "not found"
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        headers = {name.lower(): value for name, value in scope["headers"]}
        length = headers.get(b"content-length", b"")
        # Else the server would read on and on. A body in pieces ends where it likes, whatever length stands beside it.
        if b"transfer-encoding" in headers or not length.isdigit():
            return 411, "the request does not say how long it is"
        if int(length) > self.max_bytes:
            return 413, f"the request is too large; expected at most {self.max_bytes / 2**20:.0f} MB"
        return None


async def _answer(send: Send, status: int, detail: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": detail.encode()})
