"""Bounds and closed doors in front of the page."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fourm.serve.guard import Guard, own_names


async def page(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"content-type", b"text/html"), (b"content-security-policy", b"default-src *")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"page"})


def ask(path: str, method: str = "GET", app: Any = page, **headers: str) -> tuple[int, dict[bytes, bytes], bytes]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    names = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "path": path, "method": method, "headers": names}
    asyncio.run(Guard(app, max_bytes=1000, names=own_names("page.lan", ["Front.example"]))(scope, None, send))  # type: ignore[arg-type]
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def test_the_page_passes_and_lets_browsers_ask_this_host_alone() -> None:
    status, headers, body = ask("/")
    assert (status, body) == (200, b"page")
    assert b"default-src 'self'" in headers[b"content-security-policy"]
    assert b"http" not in headers[b"content-security-policy"]
    assert headers[b"x-content-type-options"] == b"nosniff"


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/proxy=http://x", "/gradio_api/file=http://x/y", "/gradio_api/file=https://x", "/gradio_api/runs",
     "/gradio_api/deep_link", "/gradio_api/stream/1", "/gradio_api/run-history/connect"],
)  # fmt: skip
def test_doors_that_fetch_from_elsewhere_or_keep_things_are_closed(path: str) -> None:
    assert ask(path)[0] == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content_length": "1000"}, 200),
        ({"content_length": "1001"}, 413),
        ({}, 411),
        ({"content_length": "many"}, 411),
        ({"transfer_encoding": "chunked"}, 411),
        ({"content_length": "2", "transfer_encoding": "chunked"}, 411),
    ],
)
def test_a_body_says_how_long_it_is_and_is_not_too_long(headers: dict[str, str], status: int) -> None:
    assert ask("/gradio_api/upload", "POST", **headers)[0] == status


def test_what_the_page_cannot_read_is_the_fault_of_who_sent_it() -> None:
    async def fail(*_: Any) -> None:
        raise KeyError("fn_index")

    assert ask("/gradio_api/queue/join", "POST", fail, content_length="2")[::2] == (400, b"the request cannot be read")


@pytest.mark.parametrize(
    ("host", "passes"),
    [
        ("localhost:7860", True),
        ("127.0.0.1:7860", True),
        ("[::1]:7860", True),
        ("192.168.1.7", True),
        ("page.lan:7860", True),
        ("FRONT.example.", True),
        ("evil.example:7860", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_name_that_somebody_else_lets_point_here_is_refused(host: str, passes: bool, method: str) -> None:
    status, _, body = ask("/gradio_api/upload", method, host=host, content_length="2")
    assert status == (200 if passes else 421)
    assert passes or b"--allow-host" in body
