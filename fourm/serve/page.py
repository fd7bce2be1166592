"""The page itself, in gradio: what is given on the left, what comes out on the right."""

from __future__ import annotations

import html
import inspect
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import gradio as gr
from gradio_client.utils import is_http_url_like

from fourm.errors import FourmError
from fourm.serve.entries import Entry, make_entries, read_entries
from fourm.serve.examples import Example
from fourm.serve.fields import Field
from fourm.serve.limits import Limits
from fourm.serve.request import Request, check_request
from fourm.serve.worker import Answer, Busy, Finished, Stopped, Worker

STYLE = """
.fourm-status { min-height: 2.6em; }
.fourm-status .bar { height: 6px; border-radius: 3px; background: var(--border-color-primary); margin-top: 6px; }
.fourm-status .bar i { display: block; height: 100%; border-radius: 3px; background: var(--color-accent);
  transition: width .4s; }
/* What went wrong is told in a message, and stopping is no mistake. */
.fourm-status .wrap:has(.error) { display: none; }
.fourm-hint { color: var(--body-text-color-subdued); font-size: var(--text-sm); }
#sheet img { padding-top: 32px; }
.fourm-answers img { image-rendering: pixelated; }
"""


def build_page(
    worker: Worker,
    fields: Sequence[Field],
    targets: Sequence[str],
    limits: Limits,
    *,
    title: str,
    examples: Mapping[str, Example] | None = None,
) -> gr.Blocks:
    """The page of one model.

    Args:
        worker: does the work.
        fields: what can be given.
        targets: what can be generated.
        limits: the most of everything.
        title: heading.
        examples: name -> example.
    """
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(f"# {html.escape(title)}\nGive any of these, choose what to make of them, and generate.")
        choice = None
        if examples:
            choice = gr.Dropdown(["", *examples], value="", label="Examples", info="Choosing one fills what is given.")
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=360):
                entries = make_entries(fields, limits)
                chosen = gr.Dropdown(
                    list(targets), value=_first_target(fields, targets), multiselect=True,
                    label="Generate, in this order", info="What is made first is given to the next step.",
                )  # fmt: skip
                with gr.Row():
                    samples = gr.Number(
                        1, precision=0, minimum=1, maximum=limits.samples, label=f"Samples (1 to {limits.samples})"
                    )
                    seed = gr.Number(0, precision=0, minimum=0, label="Seed")
                    # Text, since an empty number would come as 0.
                    guidance = gr.Textbox("", label="Guidance", placeholder="as suits", max_length=20, max_lines=1)
                ensemble = gr.Checkbox(
                    False, label="One answer from all samples", elem_id="ensemble",
                    info="Means and votes, and maps of where they disagree; of one sample, where it is unsure.",
                )  # fmt: skip
                with gr.Row():
                    start = gr.Button("Generate", variant="primary", elem_id="generate")
                    stop = gr.Button("Stop", elem_id="stop")
            with gr.Column(scale=7, min_width=420):
                status = gr.HTML(_status("Nothing generated yet."), elem_classes="fourm-status", elem_id="status")
                gallery = gr.Gallery(
                    label="Answers", columns=3, height="auto", object_fit="contain", format="png", interactive=False,
                    fit_columns=False, elem_id="answers", elem_classes="fourm-answers",
                    buttons=["download", "fullscreen"],
                )  # fmt: skip
                texts = gr.Textbox(label="Texts", lines=2, max_lines=12, interactive=False, elem_id="texts")
                sheet = gr.Image(
                    label="All in one picture", format="png", interactive=False, elem_id="sheet", buttons=["fullscreen"]
                )
                files = gr.File(label="Files", file_count="multiple", interactive=False, height=220, elem_id="files")
        inputs = [entry.component for entry in entries]
        settings = [chosen, guidance, samples, seed, ensemble]
        outputs = [status, gallery, texts, sheet, files]

        def request(*values: Any) -> Request:
            given, known = read_entries(entries, values[: len(entries)], limits)
            wanted, weight, count, number, together = values[len(entries) :]
            return check_request(
                fields, targets, limits, given=given, targets=wanted, guidance=weight, num_samples=count, seed=number,
                known=known, ensemble=together,
            )  # fmt: skip

        names = [_parameter(entry.field.name) + entry.role for entry in entries]
        names += ["to", "guidance", "samples", "seed", "ensemble"]
        event = start.click(
            _named(lambda *values: _run(worker, request, values), names),
            [*inputs, *settings], outputs, api_name="generate", concurrency_limit=1, concurrency_id="model",
            show_progress="minimal", show_progress_on=[status], trigger_mode="once",
        )  # fmt: skip
        stop.click(
            lambda: _status("Stopped."), None, status, cancels=[event], queue=False, show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip
        if choice is not None:
            _fill_from(choice, examples or {}, entries)
    _fetch_nothing(page)
    return page


def _fetch_nothing(page: gr.Blocks) -> None:
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


def _first_target(fields: Sequence[Field], targets: Sequence[str]) -> list[str]:
    """One that is not what people will give: the photograph."""
    photographs = [field.name for field in fields if field.is_photograph]
    return [name for name in targets if name not in photographs[:1]][:1] or list(targets)[:1]


def _run(worker: Worker, request: Callable[..., Request], values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """What the page shows while a request is worked on: status, pictures, texts, sheet and files."""
    # Paths, not pictures: gradio copies a file in one go, but writes a picture where another client may be reading it.
    shown: list[tuple[str, str]] = []
    lines: list[str] = []
    began = time.monotonic()
    same = gr.skip()
    try:
        wanted = request(*values)
        yield _status("Waiting ..."), [], "", None, None
        for news in worker.follow(wanted):
            if isinstance(news, Busy):
                yield _busy(news, time.monotonic() - began), same, same, same, same
            elif isinstance(news, Answer):
                several = len(news.pictures) > 1
                shown += [(str(p), f"{news.name} {n}" if several else news.name) for n, p in enumerate(news.pictures)]
                lines += [f"{news.name} {n}: {t}" if several else f"{news.name}: {t}" for n, t in enumerate(news.texts)]
                yield same, list(shown), "\n".join(lines), same, same
            elif isinstance(news, Finished):
                status = _status(f"Done in {time.monotonic() - began:.1f} s.", 1.0)
                if news.pictures:
                    shown = [(str(path), name) for name, paths in news.pictures.items() for path in paths]
                yield status, list(shown), "\n".join(lines), str(news.sheet), [str(path) for path in news.files]
    except Stopped:
        return
    except FourmError as error:
        # The message is shown as HTML, and may hold words of the one who asked.
        raise gr.Error(html.escape(str(error), quote=False), duration=None, print_exception=False) from None


def _busy(news: Busy, seconds: float) -> str:
    if news.target is None:
        return _status(f"Waiting for its turn ... {seconds:.0f} s")
    return _status(
        f"Step {news.number + 1} of {news.total}: {news.target} ... {seconds:.0f} s", news.number / news.total
    )


def _status(text: str, share: float | None = None) -> str:
    bar = "" if share is None else f'<div class="bar"><i style="width:{100 * share:.0f}%"></i></div>'
    return f'<div role="status">{html.escape(text)}</div>{bar}'


def _fill_from(choice: Any, examples: Mapping[str, Example], entries: Sequence[Entry]) -> None:
    """Choosing an example fills all that can be given."""
    fillable = [(entry.field, entry.component) for entry in entries if not entry.role]

    def fill(name: Any) -> Any:
        example = examples.get(name, {}) if isinstance(name, str) else {}
        values = [example.get(field.name, "" if field.is_text else None) for field, _ in fillable]
        return values if len(values) > 1 else values[0]

    choice.input(
        fill, choice, [component for _, component in fillable], show_progress="hidden", api_visibility="private"
    )


def _named(function: Callable[..., Any], names: Sequence[str]) -> Callable[..., Any]:
    """A generator function whose parameters have these names, by which other programs call it."""
    parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None) for name in names]

    def generate(*values: Any) -> Iterator[Any]:
        yield from function(*values)

    generate.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return generate


def _parameter(name: str) -> str:
    return re.sub(r"\W", "_", name)
