"""The page of a model of text and images: what is asked on the left, the conversation on the right."""

from __future__ import annotations

import base64
import html
import io
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from fourm.errors import FourmError
from fourm.generate.interleaved_prompts import Interleaved
from fourm.serve.conversation import Talk
from fourm.serve.entries import image_upload
from fourm.serve.limits import Limits
from fourm.serve.look import answer_for, as_sent, busy, fetch_nothing, named, refused, status, wrong
from fourm.serve.one_by_one import Busy, Finished, Stopped
from fourm.serve.talk import MOST_BEAMS, MOST_SHOWN, PAINTED, Talker, answered, check_talk, picture

_AN_HOUR = 3600
_SUBJECTS = (
    "Words of the text that is painted: how they look, where they are to be, or both. A place is left, top, right and "
    "bottom as shares of the image."
)
_NUM_SUBJECTS = 4
_NAMES = [
    *("images", "text", "kind", "samples", "seed", "temperature", "max_tokens", "guided"),
    *("beams", "examples", "reads"),
    *(f"subject_{number}{part}" for number in range(1, _NUM_SUBJECTS + 1) for part in ("", "_image", "_place")),
    "conversation",
]
_KINDS = {"ask": "Ask", "continue": "Go on with a text", "paint": "Paint", "rebuild": "Paint anew"}

_READS = {"auto": "What suits", "all": "All of it", "last": "Its last image", "nothing": "Nothing"}
_READ = {"all": "with all that was said", "last": "with the last image", "nothing": "read by itself"}


def build_talk_page(worker: Talker, limits: Limits, *, title: str) -> gr.Blocks:
    """The page of one model.

    Args:
        worker: does the work.
        limits: the most of everything.
        title: heading.
    """
    model = worker.model
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, _AN_HOUR)) as page:
        gr.Markdown(f"# {html.escape(title)}\n{_greeting(model)}")
        talk: Any = gr.State((), time_to_live=_AN_HOUR)
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=360):
                images = _images(visible=model.image is not None)
                text = as_sent(gr.Textbox(
                    label="Text", lines=3, max_lines=12, max_length=limits.text, elem_id="text",
                    placeholder="a question, or a text; with an image and no words, what it shows is told",
                ))  # fmt: skip
                kinds = [(label, kind) for kind, label in _KINDS.items() if kind not in PAINTED or model.paints]
                kind = as_sent(gr.Radio(kinds, value="ask", label="What to do", elem_id="kind", info=_hint(model)))
                reads = _reads(model)
                settings = [*_settings(limits, guided=model.paints, has_examples=bool(worker.shots)), reads]
                with gr.Row():
                    start = gr.Button("Send", variant="primary", elem_id="generate", min_width=100)
                    stop = gr.Button("Stop", elem_id="stop", min_width=80)
                    anew = gr.Button("Begin anew", elem_id="new", min_width=130)
                subjects = _subjects(limits, visible=model.paints)
            with gr.Column(scale=7, min_width=420):
                line = gr.HTML(status("Nothing asked yet."), elem_classes="fourm-status", elem_id="status")
                shown = gr.HTML(_as_html(model, ()), elem_id="talk")
                answers = gr.JSON(visible=False)
                files = gr.File(
                    label="Files", file_count="multiple", interactive=False, height=160, elem_id="files",
                    visible=model.paints,
                )  # fmt: skip
        event = start.click(
            named(lambda *values: _run(worker, limits, values), _NAMES),
            [images, text, kind, *settings, *subjects, talk], [line, shown, answers, files, talk], api_name="ask",
            concurrency_limit=1, concurrency_id="model", show_progress="minimal", show_progress_on=[line],
            trigger_mode="once",
        )  # fmt: skip
        event.success(
            lambda: (None, "", *[None] * len(subjects)), None, [images, text, *subjects], show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip
        stop.click(
            lambda: status("Stopped."), None, line, cancels=[event], queue=False, show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip
        anew.click(
            lambda: (status("A new conversation."), _as_html(model, ()), None, ()), None, [line, shown, files, talk],
            api_name="new", show_progress="hidden",
        )  # fmt: skip
    fetch_nothing(page)
    answer_for(page)
    return page


def _greeting(model: Interleaved) -> str:
    if model.image is None:
        return "Ask it something, or let it go on with a text."
    last = "let it go on with a text, or paint." if model.paints else "or let it go on with a text."
    return f"Show it images and ask about them, {last}"


def _hint(model: Interleaved) -> str:
    anew = "Paint anew takes one image, and paints it from what the model sees in it. " if model.paints else ""
    return f"{anew}<image> in a text stands where an image belongs; without, images come first."


def _reads(model: Interleaved) -> Any:
    """What is read of the conversation."""
    if model.converses:
        suits = (
            "What suits: all, with a question and with whatever else this model has learned to do in conversations; "
            "else nothing."
        )
    else:
        suits = (
            "This model has learned from no conversations. What suits: the last image, with a question that has none; "
            "else nothing."
        )
    change = " To change what was painted, choose to paint, and its last image." if model.paints else ""
    can = [key for key in _READS if (key != "all" or model.converses) and (key != "last" or model.image is not None)]
    choices = [(_READS[key], key) for key in can]
    return as_sent(
        gr.Radio(choices, value="auto", label="Reads of the conversation", elem_id="reads", info=suits + change)
    )


def _images(*, visible: bool) -> Any:
    """A place for several images, which hands on the bytes that came."""
    images: Any = gr.Gallery(
        label="Images", elem_id="images", columns=4, height=220, object_fit="contain", interactive=True,
        fit_columns=False, allow_preview=False, file_types=["image"], sources=["upload", "clipboard"], visible=visible,
        buttons=[],
    )  # fmt: skip
    # By now gradio has seen that the paths are its own uploads.
    images.preprocess = lambda payload: [] if payload is None else [_uploaded(item) for item in payload.root]
    return images


def _uploaded(item: Any) -> bytes | None:
    path = getattr(getattr(item, "image", None), "path", None)
    return None if path is None else Path(path).read_bytes()


def _settings(limits: Limits, *, guided: bool, has_examples: bool) -> list[Any]:
    """Samples, seed, temperature, length of answers, guidance, beams, and examples."""
    with gr.Row():
        samples = gr.Number(1, precision=0, minimum=1, maximum=limits.samples, label=f"Samples (1 to {limits.samples})")
        seed = gr.Number(0, precision=0, minimum=0, label="Seed")
    with gr.Row():
        heat = gr.Number(0, minimum=0, maximum=10, step=0.1, label="Temperature", info="0: the likeliest words")
        tokens = gr.Number(
            min(64, limits.tokens), precision=0, minimum=1, maximum=limits.tokens, label="Longest answer",
            info="in tokens",
        )  # fmt: skip
    away = gr.Checkbox(
        False, label="Away from the empty prompt", info="Guidance of painted images, as Emu.", visible=guided
    )
    with gr.Row():
        beams = gr.Number(
            1, precision=0, minimum=1, maximum=MOST_BEAMS, label=f"Beams (1 to {MOST_BEAMS})",
            info="of the search for likely words",
        )  # fmt: skip
        shots = gr.Number(
            0, precision=0, minimum=0, maximum=MOST_SHOWN, label=f"Examples (0 to {MOST_SHOWN})",
            info="shown before a question: those most like its first image", visible=has_examples, elem_id="examples",
        )  # fmt: skip
    return [as_sent(component) for component in (samples, seed, heat, tokens, away, beams, shots)]


def _subjects(limits: Limits, *, visible: bool) -> list[Any]:
    """Words, an image and a place of some subjects, one behind the other."""
    found = []
    with gr.Accordion("Subjects and places", open=False, visible=visible, elem_id="subjects"):
        gr.HTML(f'<div class="fourm-hint">{_SUBJECTS}</div>', padding=False)
        for number in range(1, _NUM_SUBJECTS + 1):
            with gr.Row(equal_height=True):
                with gr.Column(scale=3, min_width=180):
                    words = gr.Textbox(
                        label=f"Words {number}", max_length=limits.text, elem_id=f"subject-{number}",
                        placeholder="a red chair",
                    )  # fmt: skip
                    place = gr.Textbox(
                        label="Place",
                        max_length=limits.text,
                        elem_id=f"place-{number}",
                        placeholder="0.1, 0.2, 0.5, 0.9",
                    )
                with gr.Column(scale=2, min_width=140):
                    image = image_upload("Looks", height=170, elem_id=f"looks-{number}")
            found += [as_sent(words), image, as_sent(place)]
    return found


def _run(worker: Talker, limits: Limits, values: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
    """What the page shows while a request is worked on: status, conversation, answers, files, and what is kept."""
    model, began, same = worker.model, time.monotonic(), gr.skip()
    images, text, kind, samples, seed, heat, tokens, guided, beams, shots, reads, *parts, talk = values
    try:
        wanted = check_talk(
            model, limits, kind=kind, text=text, images=images, before=talk or (), num_samples=samples, seed=seed,
            temperature=heat, max_tokens=tokens, guided=guided, num_beams=beams, num_examples=shots, reads=reads,
            subjects=[tuple(parts[n : n + 3]) for n in range(0, len(parts), 3)], has_examples=bool(worker.shots),
        )  # fmt: skip
        yield status("Waiting ..."), _as_html(model, (*wanted.before, wanted.turn)), same, None, same
        for news in worker.follow(wanted):
            if isinstance(news, Busy):
                yield busy(news, time.monotonic() - began), same, same, same, same
            elif isinstance(news, Finished):
                kept = answered(model, wanted, news)
                done = status(f"Done in {time.monotonic() - began:.1f} s.", 1.0)
                yield done, _as_html(model, kept), list(news.texts), [str(path) for path in news.files] or None, kept
    except Stopped:
        return
    except FourmError as error:
        yield wrong(error), same, same, same, same
        raise refused(error) from None


def _as_html(model: Interleaved, talk: Talk) -> str:
    """The conversation, the newest at the bottom. Nothing that somebody wrote is more than text in it."""
    if not talk:
        return '<div class="fourm-talk"><div class="turns"><div class="nothing">Nothing said yet.</div></div></div>'
    lines = []
    for number, turn in enumerate(talk):
        images = "".join(_img(_png(picture(model, image)), "image") for image in turn.shown)
        label = "" if turn.kind == "ask" else f"<b>{_KINDS[turn.kind]}{':' * bool(turn.text)}</b> "
        shown = f"<div>{images}</div>" if images else ""
        notes = [f"with {turn.num_examples} examples"] if turn.num_examples else []
        notes += [_READ[turn.reads]] if number else []
        read = f'<div class="read">{", ".join(notes)}</div>' if notes else ""
        lines.append(f'<div class="user">{shown}{label}{html.escape(turn.text)}{read}</div>')
        # The likeliest words are the same for every seed.
        several = dict.fromkeys(turn.answers)
        lines += [f'<div class="model">{html.escape(answer) or "&hellip;"}</div>' for answer in several]
        if turn.painted:
            lines.append('<div class="model">' + "".join(_img(png, "painted") for png in turn.painted) + "</div>")
    return f'<div class="fourm-talk"><div class="turns">{"".join(lines)}</div></div>'


def _img(png: bytes, alt: str) -> str:
    return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def _png(drawn: Image.Image) -> bytes:
    buffer = io.BytesIO()
    drawn.save(buffer, "PNG")
    return buffer.getvalue()
