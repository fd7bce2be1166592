"""Conversations with models that read and write text and images: what is asked, checked, and the work for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fourm.errors import ConfigError, DataError, FourmError
from fourm.generate import files
from fourm.generate.bundle import Bundle, device_of
from fourm.generate.interleaved import RowWriting
from fourm.generate.interleaved_job import write_prompt
from fourm.generate.interleaved_prompts import Interleaved
from fourm.generate.shots import Example, nearest, one_of_each, open_shots
from fourm.report.pictures import draw
from fourm.serve.conversation import (
    READS,
    Kind,
    Reads,
    Talk,
    Turn,
    check_reads,
    conversation,
    last_image,
    what_suits,
)
from fourm.serve.limits import Limits
from fourm.serve.one_by_one import Busy, Finished, Line, OneByOne
from fourm.serve.request import check_seed, check_text, whole, yes_or_no
from fourm.serve.subjects import Subjects, check_file, check_subjects, images_of
from fourm.serve.worker import enlarged, pack
from fourm.tokenizers.units import to_natural
from fourm.tokens import Segment

_log = logging.getLogger(__name__)
KINDS: tuple[Kind, ...] = ("ask", "continue", "paint", "rebuild")
PAINTED: tuple[Kind, ...] = ("paint", "rebuild")
"""What is answered with images."""
_MOST_TURNS = 50
_HOTTEST = 10.0
MOST_BEAMS = 8
MOST_SHOWN = 16
"""Examples before a question."""
_MOST_EXAMPLES = 1000


@dataclass(frozen=True)
class TalkRequest:
    """One order.

    Args:
        turn: a question is answered, a text is continued, an image is painted, or one is painted anew.
        before: the conversation that goes on.
        num_samples: answers.
        seed: of all answers.
        writing: how words are chosen.
        guided: see `Interleaved.draw`.
    """

    turn: Turn
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
    num_beams: Any = 1,
    num_examples: Any = 0,
    reads: Any = None,
    subjects: Sequence[Any] = (),
    has_examples: bool = False,
) -> TalkRequest:
    """A request from values of unknown origin, but for `before`, which is ours; its images are read.

    Args:
        model: that is asked.
        limits: the most of everything.
        kind: one of `KINDS`.
        text: words.
        images: list of the bytes of files.
        before: the conversation.
        num_samples, seed, num_beams, num_examples: whole numbers.
        temperature: a number.
        max_tokens: whole number, of the answer.
        guided: True or False.
        reads: one of `READS`; None or `auto`: see `what_suits`.
        subjects: see `check_subjects`.
        has_examples: whether there are examples to choose from.

    Raises:
        ConfigError: for choices and numbers that are wrong.
        DataError: for files and texts that are too large or of another kind.
    """
    can = [known for known in KINDS if model.paints or known not in PAINTED]
    if kind not in can:
        raise ConfigError(f"this model cannot do '{kind!s:.40}'; expected {', '.join(can)}")
    words = "" if text is None else check_text("the text", text, limits)
    parts = _subjects(model, limits, kind, words, images, subjects)
    shots = whole("the number of examples", num_examples, 0, MOST_SHOWN)
    if shots and not has_examples:
        raise ConfigError("there are no examples to show: begin with fourm serve MODEL --examples PLACE")
    if shots and (kind != "ask" or not words):
        raise ConfigError("examples are shown before a question: ask one, or set their number to 0")
    already = sum(len(turn.images) + len(images_of(turn.subjects)) for turn in before) + len(images_of(parts))
    turn = Turn(kind, words, _images(model, limits, images, already), subjects=parts, num_examples=shots)
    turn = _with_reads(model, turn, before, reads)
    if turn.reads == "all":
        already += sum(len(one.last) + (one.seen is not None) for one in before)
        _check_count(already + len(turn.images), limits)
    if not words and not turn.shown:
        raise ConfigError("nothing is asked: write something, or give an image to describe")
    if kind == "rebuild" and (words or len(turn.shown) != 1):
        raise ConfigError("one image is painted anew, from what the model sees in it: give one image and no words")
    if kind == "continue" and not words:
        raise ConfigError("there is no text to go on with: write its beginning")
    if shots and not turn.shown:
        raise ConfigError("examples are chosen by their likeness to the first image: give one")
    said = sum(len(one.text) + len(one.answers[0] if one.answers else "") for one in before)
    if len(before) >= _MOST_TURNS or said + len(words) > limits.text:
        raise DataError(
            f"the conversation is too long, with {len(before)} turns and {said} characters; begin a new one"
        )
    heat = _number("the temperature", temperature, _HOTTEST)
    tokens = whole("the length of answers", max_tokens, 1, limits.tokens)
    beams = whole("the number of beams", num_beams, 1, MOST_BEAMS)
    if beams > 1 and heat:
        raise ConfigError("beams search for the likeliest words: set the temperature to 0, or the beams to 1")
    return TalkRequest(
        turn, before, whole("the number of samples", num_samples, 1, limits.samples), check_seed(seed),
        RowWriting(heat, num_beams=beams, max_tokens=tokens), yes_or_no("guided", guided),
    )  # fmt: skip


def _with_reads(model: Interleaved, turn: Turn, before: Talk, reads: Any) -> Turn:
    """What is asked, with what is read of the conversation."""
    if reads not in (None, "auto", *READS):
        raise ConfigError(f"what is read is '{reads!s:.40}'; expected auto, {', '.join(READS)}")
    chosen: Reads = what_suits(model, turn, before) if reads in (None, "auto") else reads
    check_reads(model, turn, before, chosen)
    if chosen == "all" and not before:
        chosen = "nothing"
    image = last_image(before) if chosen == "last" else None
    return replace(turn, reads=chosen, last=() if image is None else (image,))


def _images(model: Interleaved, limits: Limits, images: Any, already: int) -> tuple[Tensor, ...]:
    files = [] if images is None else images
    if not isinstance(files, Sequence) or not all(isinstance(data, bytes) for data in files):
        raise DataError("the images are no list of files")
    _check_count(already + len(files), limits)
    return tuple(check_file(model, limits, data, f"image {number}") for number, data in enumerate(files, 1))


def _check_count(images: int, limits: Limits) -> None:
    if images > limits.images:
        raise DataError(
            f"{images} images in this conversation; expected at most {limits.images}: begin a new one, or give fewer"
        )


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


def document(model: Interleaved, request: TalkRequest, examples: Sequence[Example] = ()) -> list[Segment]:
    """What the model reads."""
    turn = request.turn
    asked = turn.kind == "ask" and turn.text
    if turn.reads == "all" or (asked and model.converses and not examples):
        return conversation(model, request.before if turn.reads == "all" else (), turn)
    key = {"ask": "question", "continue": "text", "paint": "draw"}[turn.kind]
    words: dict[str, Any] = {key: turn.text if asked or turn.kind != "ask" else None}
    images = (*turn.last, *turn.images)
    return write_prompt(model, images=images, subjects=turn.subjects, examples=examples, **words)


def answered(model: Interleaved, request: TalkRequest, news: Finished) -> Talk:
    """The conversation with what was answered; the first of several paintings is what is read later on."""
    painted = tuple(path.read_bytes() for paths in news.pictures.values() for path in paths)
    files = [path for path in news.files if path.suffix != ".zip"]
    seen = model.read_bytes(files[0].read_bytes(), files[0].name) if painted and files else None
    return (*request.before, replace(request.turn, answers=tuple(news.texts), painted=painted, seen=seen))


class Talker(OneByOne[TalkRequest]):
    """Answers, or paints.

    Args:
        bundle, folder, bf16: see `OneByOne`.
        examples: file or folder of examples that may be shown before questions, see `open_shots`; None: there are none.

    Raises:
        DataError: if there are none, or too many to look at all of them for every question.
    """

    def __init__(self, bundle: Bundle, folder: Path, *, bf16: bool = False, examples: Path | None = None) -> None:
        super().__init__(bundle, folder, bf16=bf16)
        self.model = Interleaved(bundle)
        self.shots = [] if examples is None else open_shots(examples)
        count = len({(shot.root, shot.image) for shot in self.shots})
        if count > _MOST_EXAMPLES:
            raise DataError(
                f"--examples {examples}: {count} images, which are all looked at for every question; expected at most "
                f"{_MOST_EXAMPLES}"
            )

    @property
    def networks(self) -> Sequence[nn.Module | None]:
        """The language model, and what paints."""
        painter = self.bundle.tokenizers.get(self.model.row.image or "")
        return self.bundle.model.decoder, getattr(painter, "decoder", None)

    def count(self, request: TalkRequest) -> int:
        """One."""
        return 1

    def examples(self, turn: Turn) -> list[Example]:
        """Those that are shown before a question, the one whose image is most like the first one last.

        Raises:
            FourmError: if they cannot be read; where they lie is for the server's log alone.
        """
        if not turn.num_examples:
            return []
        many = one_of_each(self.shots, turn.text)
        try:
            looks = (shot.read(self.model) for shot in many)
            chosen = nearest(self.model, (*turn.last, *turn.images)[0], looks, turn.num_examples)
            return [many[number].shown(self.model, turn.text) for number in chosen]
        except FourmError as error:
            _log.warning("examples cannot be shown: %s", error)
            raise FourmError("the examples of this server cannot be shown; its log says more") from None

    def generate(self, request: TalkRequest, out: Path, line: Line) -> None:
        """All answers of a request."""
        line.news.put(Busy("image" if request.turn.kind in PAINTED else "answer", 0, 1))
        seeds = torch.arange(request.seed, request.seed + request.num_samples)  # as `fourm prompt`
        with torch.autocast(device_of(self.bundle.model).type, torch.bfloat16, enabled=self.bf16):
            if request.turn.kind == "rebuild":
                images = [*request.turn.shown] * request.num_samples
                values = self.model.rebuild(images, seeds, guided=request.guided)
            else:
                prompts = [document(self.model, request, self.examples(request.turn))] * request.num_samples
                if request.turn.kind != "paint":
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
