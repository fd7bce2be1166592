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
from fourm.serve.request import check_image, check_seed, check_text, whole
from fourm.serve.worker import enlarged, pack
from fourm.tokenizers.units import to_natural
from fourm.tokens import Segment

Kind = Literal["ask", "continue", "paint"]
KINDS: tuple[Kind, ...] = ("ask", "continue", "paint")
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
        kind: a question is answered, a text is continued, or an image is painted.
        text: words.
        images: (C, H, W) as the model reads them.
        before: the conversation that goes on.
        num_samples: answers.
        seed: of all answers.
        writing: how words are chosen.
        guided: see `Interleaved.draw`.
    """

    kind: Kind
    text: str
    images: tuple[Tensor, ...] = ()
    before: Talk = ()
    num_samples: int = 1
    seed: int = 0
    writing: RowWriting = RowWriting()
    guided: bool = False


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
) -> TalkRequest:
    """A request from values of unknown origin, but for `before`, which is ours; its images are read.

    Raises:
        ConfigError: for choices and numbers that are wrong.
        DataError: for files and texts that are too large or of another kind.
    """
    if kind not in KINDS or (kind == "paint" and not model.paints):
        can = KINDS if model.paints else KINDS[:-1]
        raise ConfigError(f"this model cannot do '{kind!s:.40}'; expected {', '.join(can)}")
    words = "" if text is None else check_text("the text", text, limits)
    shown = _images(model, limits, images, sum(len(turn.images) for turn in before))
    if not words and not shown:
        raise ConfigError("nothing is asked: write something, or give an image to describe")
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
        RowWriting(heat, max_tokens=tokens), guided is True,
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
    read = []
    for number, data in enumerate(files, 1):
        where = f"image {number}"
        if len(data) > limits.upload_bytes:
            most = limits.upload_bytes / 2**20
            raise DataError(f"{where}: a file of {len(data) / 2**20:.1f} MB; expected at most {most:g} MB")
        check_image(where, data, limits)
        read.append(model.read_bytes(data, where))
    return tuple(read)


def _number(what: str, value: Any, most: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= most:
        raise ConfigError(f"{what} is {value!r:.40}; expected a number from 0 to {most:g}")
    return float(value)


def document(model: Interleaved, request: TalkRequest) -> list[Segment]:
    """What the model reads: of a conversation all of it, where it has learned from some."""
    if request.kind == "ask" and request.text and model.converses:
        asked = [turn for turn in request.before if turn.kind == "ask"]
        turns = [(model.turns.said(turn.text, len(turn.images)), turn.answers[0]) for turn in asked]
        now = model.turns.said(request.text, len(request.images))
        return model.chat([*turns, (now, "")], [*(i for turn in asked for i in turn.images), *request.images])
    key = {"ask": "question", "continue": "text", "paint": "draw"}[request.kind]
    words: dict[str, Any] = {key: None if request.kind == "ask" and not request.text else request.text}
    return write_prompt(model, images=request.images, **words)


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
        line.news.put(Busy("image" if request.kind == "paint" else "answer", 0, 1))
        seeds = torch.arange(request.seed, request.seed + request.num_samples)  # as `fourm prompt`
        prompts = [document(self.model, request)] * request.num_samples
        with torch.autocast(device_of(self.bundle.model).type, torch.bfloat16, enabled=self.bf16):
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
