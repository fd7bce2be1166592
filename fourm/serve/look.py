"""What all pages share: how they look, their line of status, and that they fetch nothing from elsewhere."""

from __future__ import annotations

import html
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import gradio as gr
from gradio_client.utils import is_http_url_like

from fourm.errors import FourmError
from fourm.serve.one_by_one import Busy

_log = logging.getLogger(__name__)

STYLE = """
.fourm-status { min-height: 2.6em; }
.fourm-status .bar { height: 6px; border-radius: 3px; background: var(--border-color-primary); margin-top: 6px; }
.fourm-status .bar i { display: block; height: 100%; border-radius: 3px; background: var(--color-accent);
  transition: width .4s; }
/* What went wrong is told in the line itself, which may be out of sight where the button is. Stopping is no mistake. */
.fourm-status .wrap:has(.error) { display: none; }
.fourm-status .wrong { position: fixed; top: 12px; left: 50%; transform: translateX(-50%); width: max-content;
  max-width: min(640px, 92vw); z-index: 1000; box-shadow: 0 4px 16px rgb(0 0 0 / .25);
  padding: 8px 12px; border-left: 4px solid var(--error-border-color, #c43a48);
  border-radius: var(--radius-sm); background: var(--error-background-fill, #fdecee); color: var(--error-text-color);
  overflow-wrap: anywhere; }
.fourm-hint { color: var(--body-text-color-subdued); font-size: var(--text-sm); }
#sheet img { padding-top: 32px; }
.fourm-answers img { image-rendering: pixelated; }
/* In reverse, so that it is scrolled to its end. */
.fourm-talk { display: flex; flex-direction: column-reverse; max-height: 600px; min-height: 240px; overflow-y: auto;
  padding: 12px; border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg); }
.fourm-talk .turns { display: flex; flex-direction: column; gap: 10px; }
.fourm-talk .turns > div { max-width: 85%; padding: 8px 12px; border-radius: 12px; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.fourm-talk .user { align-self: flex-end; background: var(--color-accent-soft); }
.fourm-talk .model { align-self: flex-start; background: var(--background-fill-secondary); }
.fourm-talk img { display: inline-block; max-height: 160px; margin: 2px 6px 2px 0; border-radius: 6px;
  image-rendering: pixelated; vertical-align: top; }
.fourm-talk .read { color: var(--body-text-color-subdued); font-size: var(--text-xs); }
.fourm-talk .nothing { align-self: center; color: var(--body-text-color-subdued); }
"""


def busy(news: Busy, seconds: float) -> str:
    """The line while work goes on."""
    if news.target is None:
        return status(f"Waiting for its turn ... {seconds:.0f} s")
    return status(
        f"Step {news.number + 1} of {news.total}: {news.target} ... {seconds:.0f} s", news.number / news.total
    )


def status(text: str, share: float | None = None) -> str:
    """The line of status, and a bar of how much is done."""
    bar = "" if share is None else f'<div class="bar"><i style="width:{100 * share:.0f}%"></i></div>'
    return f'<div role="status">{html.escape(text)}</div>{bar}'


def wrong(error: FourmError) -> str:
    """The line of status that says what is wrong."""
    return f'<div role="status" class="wrong">{html.escape(str(error), quote=False)}</div>'


def refused(error: FourmError) -> gr.Error:
    """What is wrong, for programs: plain text, which the page itself has shown as HTML before."""
    return gr.Error(str(error), duration=None, visible=False, print_exception=False)


def as_sent(component: Any) -> Any:
    """The same component, that hands on what a client sent: our own checks say what is wrong with it."""
    component.preprocess = lambda payload: payload
    return component


def answer_for(page: gr.Blocks) -> None:
    """Answer values of other forms than the components have, which gradio only logs, with a message."""
    read = page.preprocess_data

    async def preprocess_data(*values: Any, **options: Any) -> Any:
        try:
            return await read(*values, **options)
        except gr.Error as error:
            error.print_exception = False
            raise
        except Exception as error:  # whatever values of unknown origin lead to
            _log.info("values of a request cannot be read", exc_info=_log.isEnabledFor(logging.DEBUG))
            message = f"a value of the request has another form than expected ({type(error).__name__}); see view_api()"
            raise gr.Error(message, duration=None, print_exception=False) from error

    page.preprocess_data = preprocess_data  # type: ignore[method-assign]


def fetch_nothing(page: gr.Blocks) -> None:
    """Refuse web addresses where files belong: gradio would download them, however large, before our own checks."""
    for block in page.blocks.values():
        component: Any = block
        component.async_move_resource_to_block_cache = _without_addresses(component.async_move_resource_to_block_cache)


def _without_addresses(move: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def checked(path: Any) -> Any:
        if is_http_url_like(path):
            raise gr.Error(
                "a web address was given for a file; this page fetches nothing from other hosts: upload the file",
                duration=None, print_exception=False,
            )  # fmt: skip
        return await move(path)

    return checked


def named(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """A generator function whose parameters have these names, by which other programs call it."""
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None) for name in names]

    def generate(*values: Any) -> Iterator[Any]:
        yield from function(*values)

    generate.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return generate
