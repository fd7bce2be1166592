"""The page itself, in gradio: what is given on the left, what comes out on the right."""

from __future__ import annotations

import html
import inspect
import io
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from fourm.errors import DataError, FourmError
from fourm.report.legend import class_names, legend
from fourm.serve.drawing import drawing_file, pencils
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
_CANVAS = 512
_MOST_LAYERS = 2
_MOST_DRAWINGS = 32
_LARGEST_DRAWING = 4 * 2**20


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
                entries = _entries(fields, limits)
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
        inputs = [component for _, _, component in entries]
        settings = [chosen, guidance, samples, seed]
        outputs = [status, gallery, texts, sheet, files]

        def request(*values: Any) -> Request:
            given = _given(entries, values[: len(entries)], limits)
            wanted, weight, count, number = values[len(entries) :]
            return check_request(
                fields, targets, limits, given=given, targets=wanted, guidance=weight, num_samples=count, seed=number
            )

        names = [_parameter(field.name) + ("_drawing" if drawn else "") for field, drawn, _ in entries]
        event = start.click(
            _named(lambda *values: _run(worker, request, values), [*names, "to", "guidance", "samples", "seed"]),
            [*inputs, *settings], outputs, api_name="generate", concurrency_limit=1, concurrency_id="model",
            show_progress="minimal", show_progress_on=[status], trigger_mode="once",
        )  # fmt: skip
        stop.click(
            lambda: _status("Stopped."), None, status, cancels=[event], queue=False, show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip
        if choice is not None:
            _fill_from(choice, examples or {}, entries)
    return page


def _first_target(fields: Sequence[Field], targets: Sequence[str]) -> list[str]:
    """One that is not what people will give: the photograph."""
    photographs = [field.name for field in fields if field.is_photograph]
    return [name for name in targets if name not in photographs[:1]][:1] or list(targets)[:1]


def _entries(fields: Sequence[Field], limits: Limits) -> list[tuple[Field, bool, Any]]:
    """(field, whether it is drawn, its component) of everything that can be given; the first of each kind is open."""
    entries: list[tuple[Field, bool, Any]] = []
    first_image = next((field for field in fields if field.is_photograph), None)
    first_text = next((field for field in fields if field.is_text), None)
    for field in fields:
        with gr.Accordion(field.name, open=field in (first_image, first_text), elem_id=f"given-{field.name}"):
            if field.hint and not field.is_text:
                gr.HTML(f'<div class="fourm-hint">{html.escape(field.hint)}</div>', padding=False)
            if field.is_text:
                box = gr.Textbox(
                    label=field.name, show_label=False, lines=2, max_length=limits.text,
                    placeholder=field.hint or "a text; [S_1] stands for what is missing",
                )  # fmt: skip
                entries.append((field, False, box))
            elif field.is_drawn:
                with gr.Tab("Upload"):
                    entries.append((field, False, _upload(field)))
                with gr.Tab("Draw"):
                    entries.append((field, True, _canvas(field)))
            else:
                entries.append((field, False, _upload(field)))
    return entries


def _upload(field: Field) -> Any:
    """A place for a file. What it hands on are the bytes that came, not what a library made of them."""
    upload: Any
    if field.is_photograph:
        upload = gr.Image(label=field.name, sources=["upload", "clipboard"], type="filepath", height=220)
    else:
        upload = gr.File(label=field.name, height=110)
    # By now gradio has seen that the path is one of its own uploads.
    upload.preprocess = lambda payload: None if payload is None else _uploaded(payload)
    return upload


def _uploaded(payload: Any) -> bytes | None:
    one = payload[0] if hasattr(payload, "root") else payload
    return None if one.path is None else Path(one.path).read_bytes()


def _canvas(field: Field) -> Any:
    """A place to draw, in the shape of the modality; it hands on the image file that the browser sends."""
    height, width = field.raw.grid.image_size
    size = (_CANVAS * width // max(height, width), _CANVAS * height // max(height, width))
    colors: list[str | tuple[str, float]] = list(pencils(field))
    canvas: Any = gr.ImageEditor(
        label=field.name, show_label=False, sources=(), transforms=(), layers=False, canvas_size=size,
        fixed_canvas=True, format="png", brush=gr.Brush(default_size=24, colors=colors, color_mode="fixed"), height=420,
    )  # fmt: skip
    if field.is_label_map:
        names = legend(class_names(field.raw), width=_CANVAS)
        gr.HTML(f'<img alt="colours of the classes" src="{_data_url(names)}">', padding=False)
    canvas.blob_storage = _Bounded(_MOST_DRAWINGS)
    accept = canvas.accept_blobs

    def accept_blobs(data: Any) -> Any:
        index = str(data.data.get("index") or "null")
        if index != "null" and not (index.isdigit() and int(index) < _MOST_LAYERS):
            raise gr.Error("a drawing of too many layers")
        if any(len(content) > _LARGEST_DRAWING for _, content in data.files):
            raise gr.Error("a drawing that is too large")
        return accept(data)

    accept_blobs.__annotations__ = dict(getattr(accept, "__annotations__", {}))
    accept_blobs._is_server_fn = True  # type: ignore[attr-defined]
    canvas.accept_blobs = accept_blobs
    canvas.preprocess = lambda payload: _drawn(canvas, payload)
    return canvas


class _Bounded(dict[str, Any]):
    """Drawings on their way; the oldest make room, for senders that never come back."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        while len(self) > self.most:
            del self[next(iter(self))]


def _drawn(canvas: Any, payload: Any) -> bytes | None:
    """What was drawn, as an image file with an alpha channel."""
    if payload is None:
        return None
    found = payload if payload.id is None else canvas.blob_storage.pop(payload.id, None)
    layers = [layer for layer in (found.layers if found is not None else None) or [] if layer is not None]
    if not layers:
        return None
    layer = layers[0]
    return bytes(layer) if isinstance(layer, bytes | bytearray | memoryview) else _uploaded(layer)


def _given(entries: Sequence[tuple[Field, bool, Any]], values: Sequence[Any], limits: Limits) -> dict[str, Any]:
    """Name -> bytes or text, of an upload or else of a drawing.

    Raises:
        DataError: if there are both.
    """
    given: dict[str, Any] = {}
    for (field, drawn, _), value in zip(entries, values, strict=True):
        content = drawing_file(field, value, limits) if drawn and value is not None else value
        if content is None:
            continue
        if given.get(field.name) is not None:
            raise DataError(f"given {field.name}: there are a file and a drawing; clear one of them")
        given[field.name] = content
    return given


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


def _fill_from(choice: Any, examples: Mapping[str, Example], entries: Sequence[tuple[Field, bool, Any]]) -> None:
    """Choosing an example fills all that can be given."""
    fillable = [(field, component) for field, drawn, component in entries if not drawn]

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


def _data_url(picture: Image.Image) -> str:
    import base64

    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
