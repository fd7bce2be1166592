"""What can be given on the page: uploads, texts, drawings, and which part of them counts."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from PIL import Image

from fourm.errors import DataError
from fourm.report.legend import class_names, legend
from fourm.serve.drawing import drawing_file, painting_files, pencils
from fourm.serve.fields import Field
from fourm.serve.limits import Limits
from fourm.serve.look import as_sent

_CANVAS = 512
_MOST_LAYERS = 2
_MOST_DRAWINGS = 32
_LARGEST_DRAWING = 4 * 2**20
_OVER = "#c43a48"
_PAINT = "Upload an image and paint over what is to be made anew; choose the same modality as target."
_MASK = "Of the same size as the image, white where it counts; the rest is unknown, and may be generated."


class Entry(NamedTuple):
    """A component for what is given.

    Args:
        field: the modality.
        role: behind its name, for programs: nothing for an upload or a text, `_drawing`, `_painting` for an image of
            which a part is painted over, or `_known` for the part of it that counts.
        component: of gradio.
    """

    field: Field
    role: str
    component: Any


def make_entries(fields: Sequence[Field], limits: Limits) -> list[Entry]:
    """Everything that can be given; the first of each kind is open."""
    entries: list[Entry] = []
    parts: list[Entry] = []
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
                entries.append(Entry(field, "", as_sent(box)))
                if field.is_partial:
                    more = gr.Checkbox(False, label="There may be more than this")
                    parts.append(Entry(field, "_known", more))
            elif field.is_image:
                with gr.Tab("Upload"):
                    entries.append(Entry(field, "", _upload(field)))
                if field.is_drawn:
                    with gr.Tab("Draw"):
                        entries.append(Entry(field, "_drawing", _canvas(field)))
                if field.is_photograph:
                    with gr.Tab("Paint over"):
                        gr.HTML(f'<div class="fourm-hint">{_PAINT}</div>', padding=False)
                        entries.append(Entry(field, "_painting", _easel(field)))
                with gr.Tab("Mask"):
                    gr.HTML(f'<div class="fourm-hint">{_MASK}</div>', padding=False)
                    parts.append(Entry(field, "_known", image_upload(f"{field.name}: mask")))
            else:
                entries.append(Entry(field, "", _upload(field)))
    return entries + parts


def _upload(field: Field) -> Any:
    """A place for a file. What it hands on are the bytes that came, not what a library made of them."""
    return image_upload(field.name) if field.is_photograph else _handed_on(gr.File(label=field.name, height=110))


def image_upload(label: str, **options: Any) -> Any:
    """A place for an image, which hands on the bytes that came."""
    shape = {"label": label, "height": 220, **options}
    return _handed_on(gr.Image(sources=["upload", "clipboard"], type="filepath", **shape))


def _handed_on(upload: Any) -> Any:
    """The same component, that gives bytes."""
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
    _bound(canvas)
    canvas.preprocess = lambda payload: _layers(canvas, payload)[1]
    return canvas


def _easel(field: Field) -> Any:
    """A place to paint over an image of any size; it hands on the image and the strokes, scaled to one size."""
    brush = gr.Brush(default_size=48, colors=[_OVER], color_mode="fixed")
    easel: Any = gr.ImageEditor(
        label=field.name, show_label=False, sources=("upload",), transforms=(), layers=False, format="png",
        canvas_size=(_CANVAS, _CANVAS), fixed_canvas=True, brush=brush, height=420,
    )  # fmt: skip
    _bound(easel)
    easel.preprocess = lambda payload: _layers(easel, payload)
    return easel


def _bound(canvas: Any) -> None:
    """Take no more from a browser than a canvas can hold."""
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


class _Bounded(dict[str, Any]):
    """Drawings on their way; the oldest make room, for senders that never come back."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        while len(self) > self.most:
            del self[next(iter(self))]


def _layers(canvas: Any, payload: Any) -> tuple[bytes | None, bytes | None]:
    """The image below, and what was drawn, as image files with an alpha channel."""
    if payload is None:
        return None, None
    found = payload if payload.id is None else canvas.blob_storage.pop(payload.id, None)
    if found is None:
        return None, None
    drawn = next((layer for layer in found.layers or [] if layer is not None), None)
    return _content(found.background), _content(drawn)


def _content(layer: Any) -> bytes | None:
    if layer is None or isinstance(layer, bytes | bytearray | memoryview):
        return None if layer is None else bytes(layer)
    return _uploaded(layer)


def read_entries(
    entries: Sequence[Entry], values: Sequence[Any], limits: Limits
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Name -> bytes or text, of an upload or else of a drawing; and name -> the part of it that counts.

    Raises:
        DataError: if there are an upload and a drawing, or a mask and a painting.
    """
    given: dict[str, Any] = {}
    known: dict[str, Any] = {}
    for (field, role, _), value in zip(entries, values, strict=True):
        content, part = value, None
        if role == "_known":
            content, part = None, value
        elif role == "_drawing":
            content = drawing_file(field, value, limits) if value is not None else None
        elif role == "_painting":
            below, strokes = value or (None, None)
            content, part = painting_files(field, below, strokes, limits) if below is not None else (None, None)
        for found, what, more in ((given, "given", content), (known, "known", part)):
            if more is not None and found.get(field.name) is not None:
                raise DataError(f"{what} {field.name}: there are a file and a drawing; clear one of them")
            if more is not None:
                found[field.name] = more
    return given, known


def _data_url(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
