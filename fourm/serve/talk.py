"""Conversations with models that read and write text and images: what is asked, checked, and the work for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fourm.errors import ConfigError, DataError
from fourm.generate import files
from fourm.generate.bundle import Bundle, device_of
from fourm.generate.interleaved import RowWriting
from fourm.generate.interleaved_job import write_prompt
from fourm.generate.interleaved_prompts import Interleaved
from fourm.report.pictures import draw
from fourm.serve.limits import Limits
from fourm.serve.one_by_one import Busy, Finished, Line, OneByOne
from fourm.serve.request import check_seed, check_text, whole, yes_or_no
from fourm.serve.subjects import Subjects, check_file, check_subjects, images_of
from fourm.serve.worker import enlarged, pack
from fourm.tokenizers.units import to_natural
from fourm.tokens import Segment

Kind = Literal["ask", "continue", "paint", "rebuild"]
KINDS: tuple[Kind, ...] = ("ask", "continue", "paint", "rebuild")
PAINTED: tuple[Kind, ...] = ("paint", "rebuild")
"""What is answered with images."""
_MOST_TURNS = 50
_HOTTEST = 10.0


@dataclass(frozen=True)
class Turn:
    """What was said and answered.

    Args:
        kind: of what was asked.
        text: as it was written.
        images: (C, H, W) as the model reads them, which were given with it.
        answers: in words.
        painted: png files.
    """

    kind: Kind
    text: str
    images: tuple[Tensor, ...] = ()
    answers: tuple[str, ...] = ()
    painted: tuple[bytes, ...] = ()


Talk = tuple[Turn, ...]


@dataclass(frozen=True)
class TalkRequest:
    """One order.

    Args:
        kind: a question is answered, a text is continued, an image is painted, or one is painted anew.
        text: words.
        images: (C, H, W) as the model reads them.
        before: the conversation that goes on.
        num_samples: answers.
        seed: of all answers.
        writing: how words are chosen.
        guided: see `Interleaved.draw`.
        subjects: of what is painted.
    """

    kind: Kind
    text: str
    images: tuple[Tensor, ...] = ()
    before: Talk = ()
    num_samples: int = 1
    seed: int = 0
    writing: RowWriting = RowWriting()
    guided: bool = False
    subjects: Subjects = ()

    @property
    def shown(self) -> tuple[Tensor, ...]:
        """All images that were given."""
        return (*self.images, *images_of(self.subjects))


def check_talk(
    model: Interleaved,
    limits: Limits,
    *,
    kind: Any,
    text: Any,
    images: Any,
    before: Talk = (),
    num_samples: Any = 1,
    seed: Any = 0,
    temperature: Any = 0,
    max_tokens: Any = 64,
    guided: Any = False,
    subjects: Sequence[Any] = (),
) -> TalkRequest:
    """A request from values of unknown origin, but for `before`, which is ours; its images are read.

    Raises:
        ConfigError: for choices and numbers that are wrong.
        DataError: for files and texts that are too large or of another kind.
    """
    can = [known for known in KINDS if model.paints or known not in PAINTED]
    if kind not in can:
        raise ConfigError(f"this model cannot do '{kind!s:.40}'; expected {', '.join(can)}")
    words = "" if text is None else check_text("the text", text, limits)
    parts = _subjects(model, limits, kind, words, images, subjects)
    shown = _images(model, limits, images, sum(len(turn.images) for turn in before) + len(images_of(parts)))
    if not words and not shown:
        raise ConfigError("nothing is asked: write something, or give an image to describe")
    if kind == "rebuild" and (words or len(shown) != 1):
        raise ConfigError("one image is painted anew, from what the model sees in it: give one image and no words")
    if kind == "continue" and not words:
        raise ConfigError("there is no text to go on with: write its beginning")
    said = sum(len(turn.text) + len(turn.answers[0] if turn.answers else "") for turn in before)
    if len(before) >= _MOST_TURNS or said + len(words) > limits.text:
        raise DataError(
            f"the conversation is too long, with {len(before)} turns and {said} characters; begin a new one"
        )
    heat = _number("the temperature", temperature, _HOTTEST)
    tokens = whole("the length of answers", max_tokens, 1, limits.tokens)
    return TalkRequest(
        kind, words, shown, before,
        whole("the number of samples", num_samples, 1, limits.samples), check_seed(seed),
        RowWriting(heat, max_tokens=tokens), yes_or_no("guided", guided), parts,
    )  # fmt: skip


def _images(model: Interleaved, limits: Limits, images: Any, already: int) -> tuple[Tensor, ...]:
    files = [] if images is None else images
    if not isinstance(files, Sequence) or not all(isinstance(data, bytes) for data in files):
        raise DataError("the images are no list of files")
    if already + len(files) > limits.images:
        raise DataError(
            f"{already + len(files)} images in this conversation; expected at most {limits.images}: begin a new one, "
            "or give fewer"
        )
    return tuple(check_file(model, limits, data, f"image {number}") for number, data in enumerate(files, 1))


def _subjects(
    model: Interleaved, limits: Limits, kind: Kind, words: str, images: Any, values: Sequence[Any]
) -> Subjects:
    given = [value for value in values if any(part not in (None, "") for part in value)]
    if not given:
        return ()
    if kind != "paint" or not words or images:
        raise ConfigError(
            "subjects are of what is painted: choose to paint, write a text that has their words, and give images as "
            "theirs alone"
        )
    return check_subjects(model, limits, words, values)


def _number(what: str, value: Any, most: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
        raise ConfigError(f"{what} is {value!r:.40}; expected a number from 0 to {most:g}")
    return float(value)


def document(model: Interleaved, request: TalkRequest) -> list[Segment]:
    """What the model reads: of a conversation all of it, where it has learned from some."""
    if request.kind == "ask" and request.text and model.converses:
        asked = [turn for turn in request.before if turn.kind == "ask"]
        turns = [(model.turns.asked(turn.text, len(turn.images)), turn.answers[0]) for turn in asked]
        now = model.turns.asked(request.text, len(request.images))
        return model.chat([*turns, (now, "")], [*(i for turn in asked for i in turn.images), *request.images])
    key = {"ask": "question", "continue": "text", "paint": "draw"}[request.kind]
    words: dict[str, Any] = {key: None if request.kind == "ask" and not request.text else request.text}
    return write_prompt(model, images=request.images, subjects=request.subjects, **words)


class Talker(OneByOne[TalkRequest]):
    """Answers, or paints."""

    def __init__(self, bundle: Bundle, folder: Path, *, bf16: bool = False) -> None:
        super().__init__(bundle, folder, bf16=bf16)
        self.model = Interleaved(bundle)

    @property
    def networks(self) -> Sequence[nn.Module | None]:
        """The language model, and what paints."""
        painter = self.bundle.tokenizers.get(self.model.row.image or "")
        return self.bundle.model.decoder, getattr(painter, "decoder", None)

    def count(self, request: TalkRequest) -> int:
        """One."""
        return 1

    def generate(self, request: TalkRequest, out: Path, line: Line) -> None:
        """All answers of a request."""
        line.news.put(Busy("image" if request.kind in PAINTED else "answer", 0, 1))
        seeds = torch.arange(request.seed, request.seed + request.num_samples)  # as `fourm prompt`
        with torch.autocast(device_of(self.bundle.model).type, torch.bfloat16, enabled=self.bf16):
            if request.kind == "rebuild":
                images = [*request.images] * request.num_samples
                values = self.model.rebuild(images, seeds, guided=request.guided)
            else:
                prompts = [document(self.model, request)] * request.num_samples
                if request.kind != "paint":
                    line.news.put(Finished(None, [], texts=self.model.answer(prompts, seeds, request.writing)))
                    return
                values = self.model.draw(prompts, seeds, guided=request.guided)
        raw: Any = self.bundle.tokenizers[self.model.row.image or ""].modality
        written = [p for n, value in enumerate(values) for p in files.write(raw, value, out, f"painted_{n}")]
        shown = [out / f"shown_{n}.png" for n in range(len(values))]
        for path, value in zip(shown, values):
            enlarged(draw(raw, value)).save(path)
        line.news.put(Finished(None, [pack(out, written), *written], {"painted": shown}))


def picture(model: Interleaved, image: Tensor) -> Any:
    """An image as the model reads it, to be looked at."""
    modality: Any = model.image
    return enlarged(draw(modality, to_natural(image[None], modality)[0]))
