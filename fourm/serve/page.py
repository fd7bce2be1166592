"""The page itself, in gradio: what is given on the left, what comes out on the right."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gradio as gr

from fourm.errors import FourmError
from fourm.serve.entries import Entry, make_entries, read_entries
from fourm.serve.examples import Example
from fourm.serve.fields import Field
from fourm.serve.limits import Limits
from fourm.serve.look import answer_for, as_sent, busy, fetch_nothing, named, refused, status, wrong
from fourm.serve.request import Request, check_request
from fourm.serve.worker import Answer, Busy, Finished, Stopped, Worker


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
                line = gr.HTML(status("Nothing generated yet."), elem_classes="fourm-status", elem_id="status")
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
        settings = [as_sent(component) for component in (chosen, guidance, samples, seed, ensemble)]
        outputs = [line, gallery, texts, sheet, files]

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
            named(lambda *values: _run(worker, request, values), names),
            [*inputs, *settings], outputs, api_name="generate", concurrency_limit=1, concurrency_id="model",
            show_progress="minimal", show_progress_on=[line], trigger_mode="once",
        )  # fmt: skip
        stop.click(
            lambda: status("Stopped."), None, line, cancels=[event], queue=False, show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip
        if choice is not None:
            _fill_from(choice, examples or {}, entries)
    fetch_nothing(page)
    answer_for(page)
    return page


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
        yield status("Waiting ..."), [], "", None, None
        for news in worker.follow(wanted):
            if isinstance(news, Busy):
                yield busy(news, time.monotonic() - began), same, same, same, same
            elif isinstance(news, Answer):
                several = len(news.pictures) > 1
                shown += [(str(p), f"{news.name} {n}" if several else news.name) for n, p in enumerate(news.pictures)]
                lines += [f"{news.name} {n}: {t}" if several else f"{news.name}: {t}" for n, t in enumerate(news.texts)]
                yield same, list(shown), "\n".join(lines), same, same
            elif isinstance(news, Finished):
                line = status(f"Done in {time.monotonic() - began:.1f} s.", 1.0)
                if news.pictures:
                    shown = [(str(path), name) for name, paths in news.pictures.items() for path in paths]
                yield line, list(shown), "\n".join(lines), str(news.sheet), [str(path) for path in news.files]
    except Stopped:
        return
    except FourmError as error:
        yield wrong(error), same, same, same, same
        raise refused(error) from None


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


def _parameter(name: str) -> str:
    return re.sub(r"\W", "_", name)
