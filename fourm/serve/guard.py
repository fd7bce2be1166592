"""What stands between the network and the page: bounds on requests, closed doors, and no other host for browsers."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Collection, MutableMapping
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


def own_names(host: str, more: Collection[str] = ()) -> frozenset[str]:
    """Names under which browsers may ask for the page.

    Args:
        host: where it listens.
        more: names that a user allows, as that of a server in front of it.
    """
    return frozenset(name.strip().rstrip(".").lower() for name in ("localhost", host, socket.gethostname(), *more))


class Guard:
    """An ASGI application around another.

    Args:
        app: the page.
        max_bytes: longest body of a request.
        names: hosts that may be asked for, beside addresses. Else a page from elsewhere, whose name its owner lets
            point here, could ask in the name of whoever looks at it (DNS rebinding).
    """

    def __init__(self, app: App, max_bytes: int, names: Collection[str]) -> None:
        self.app, self.max_bytes, self.names = app, max_bytes, names

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
        headers = {name.lower(): value for name, value in scope["headers"]}
        host = _host(headers.get(b"host", b"").decode("latin-1"))
        if b"host" in headers and not _is_address(host) and host not in self.names:
            return 421, f"this is no page of {host[:100]!r}; allow the name with fourm serve --allow-host"
        if any(door in scope["path"] for door in _CLOSED):
            return 404, "not found"
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        length = headers.get(b"content-length", b"")
        # Else the server would read on and on. A body in pieces ends where it likes, whatever length stands beside it.
        if b"transfer-encoding" in headers or not length.isdigit():
            return 411, "the request does not say how long it is"
        if int(length) > self.max_bytes:
            return 413, f"the request is too large; expected at most {self.max_bytes / 2**20:.0f} MB"
        return None


def _host(header: str) -> str:
    """The name or address of a `Host` header, without its port."""
    name = header.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].rstrip(".")


def _is_address(host: str) -> bool:
    """Whether a host is no name, which whoever owns it could let point anywhere."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _answer(send: Send, status: int, detail: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": detail.encode()})
