"""Models that read and write text and images in one row: text until an image begins, its vectors, text again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fourm.errors import ConfigError
from fourm.generate.beams import search
from fourm.generate.columns import Columns, Token
from fourm.generate.grids import stream
from fourm.generate.sampling import check_finite, draw
from fourm.models.multimodal import Multimodal
from fourm.nn.trunk import KVCache
from fourm.ranges import check_range
from fourm.rng import uniform
from fourm.tokens import Document, Segment


def writes_rows(model: Multimodal) -> bool:
    """Whether a model reads and writes rows of text, perhaps with images, and nothing else."""
    modalities = list(model.modalities.values())
    text = [m for m in modalities if m.is_discrete and not m.is_grid and m.decode == "text" and m.is_output]
    return model.encoder is None and len(text) == 1 and sum(m.is_slots for m in modalities) == len(modalities) - 1


@dataclass(frozen=True)
class Row:
    """What the rows of a model are made of.

    Args:
        text: modality of ids.
        image: modality of vectors with slots; None: the model reads text alone.
        begin, end: ids around every image; None: there are none.
    """

    text: str
    image: str | None = None
    begin: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class RowWriting:
    """How a row is continued.

    Args:
        temperature: of ids; 0 takes the likeliest.
        top_k, top_p: see `fourm.generate.sampling`.
        num_beams: search for the likeliest text with so many beams; no images are generated then.
        length_penalty: power of a text's length that its log-probability is divided by, in beam search.
        max_tokens: ids of text that are generated at most.
        max_images: images that are generated at most; then `begin` is never chosen.
        stop: ids that end a row.
        suppress: ids that are never chosen.
        begin_image: an image comes first, whatever the model would choose: `begin` is put behind the prompt.
        cache: keep keys and values of what was read; without, every token is computed from the whole row.
    """

    temperature: float = 0.0
    top_k: int | float | None = None
    top_p: float | None = None
    num_beams: int = 1
    length_penalty: float = 1.0
    max_tokens: int = 64
    max_images: int = 0
    stop: tuple[int, ...] = ()
    suppress: tuple[int, ...] = ()
    begin_image: bool = False
    cache: bool = True

    def __post_init__(self) -> None:
        check_range(self, "temperature", "max_tokens", "max_images", least=0)
        check_range(self, "num_beams", least=1)
        check_range(self, "top_k", above=0)
        check_range(self, "top_p", above=0, most=1)
        if self.num_beams > 1 and (self.temperature or self.max_images or self.begin_image):
            raise ConfigError(
                "num_beams searches for one likeliest text: leave out temperature, max_images and begin_image, or set "
                "num_beams to 1"
            )


@torch.no_grad()
def write_rows(
    model: Multimodal, row: Row, prompts: Sequence[Document], seeds: Tensor, writing: RowWriting = RowWriting()
) -> list[list[Segment]]:
    """Continue rows of text and images.

    Args:
        model: a decoder alone, without position tables.
        row: its modalities and special ids.
        prompts: what each sample reads, at least one token; lengths may differ. An image that `begin` has opened at the
            end of a prompt is generated.
        seeds: (B,) of each sample; its draws depend on its seed and their number alone.
        writing: how.

    Returns:
        for each sample the segments that were generated: ids, without those around images and the one that ended the
            row; and vectors (slots, content.dim) of images.

    Raises:
        ConfigError: if the model cannot generate so.
        DataError: if a prompt is empty or does not fit the model.
        CheckpointError: if what the model says is no number.
    """
    _check(model, row, prompts, writing)
    columns = Columns(model, row.text, row.image, prompts)
    cache = KVCache(model.config.decoder_depth) if writing.cache else None
    if writing.num_beams > 1:
        forbidden = [*writing.suppress, *([] if row.begin is None else [row.begin])]
        texts = search(model, row.text, columns, cache, writing, forbidden)
        return [[Segment(row.text, ids)] if len(ids) else [] for ids in texts]
    states = [_State.after(prompt, model, row, writing) for prompt in prompts]
    finite, step = torch.ones((), dtype=torch.bool, device=columns.device), 0
    chosen = seeds.to(columns.device)[:, None]
    while not all(state.is_done for state in states):
        hidden = columns.read(cache)
        drawn = _ids(model, row, hidden, uniform(chosen, stream(row.text, "interleaved"), step), states, writing)
        finite = finite & drawn[1]
        vectors = _vectors(model, row, hidden, columns, states)
        finite = finite & vectors.isfinite().all()
        for number, state in enumerate(states):
            state.take(int(drawn[0][number]), vectors[number], row, writing)
        columns.append([state.token for state in states])
        step += 1
    check_finite(finite, row.text)
    return [state.segments(row) for state in states]


def opens_image(prompt: Document, row: Row) -> bool:
    """Whether a prompt ends with the token that begins an image, which is then generated."""
    last = prompt[-1] if prompt else None
    return last is not None and last.modality == row.text and len(last.value) > 0 and last.value[-1] == row.begin


def writes_images(model: Multimodal, row: Row) -> bool:
    """Whether a model has a head for vectors of images."""
    return row.image is not None and row.image in model.vector_heads


@dataclass
class _State:
    """Where one sample is.

    Args:
        slots: vectors of an image.
        left: vectors of an open image that are still to come.
        images, ids: how many have been generated.
        forced: id that comes next, whatever the model would choose.
        token: the newest.
        is_done: nothing more is generated.
    """

    slots: int
    left: int = 0
    images: int = 0
    ids: int = 0
    forced: int | None = None
    token: Token = None
    is_done: bool = False
    made: list[list[int] | list[Tensor]] = field(default_factory=list)

    @classmethod
    def after(cls, prompt: Document, model: Multimodal, row: Row, writing: RowWriting) -> _State:
        slots = 0 if row.image is None else model.modalities[row.image].num_tokens
        state = cls(slots)
        if opens_image(prompt, row) or (writing.begin_image and row.begin is None):
            state.open()
        elif writing.begin_image:
            state.forced = row.begin
        elif not writing.max_tokens:
            state.is_done = True
        return state

    def open(self) -> None:
        """An image begins."""
        self.left, self.images = self.slots, self.images + 1
        self.made.append([])

    @property
    def chooses(self) -> bool:
        """Whether the next token is an id of the model's choice."""
        return not (self.is_done or self.left or self.forced is not None)

    def take(self, drawn: int, vector: Tensor, row: Row, writing: RowWriting) -> None:
        """Go on by one token."""
        if self.is_done:
            self.token = None
        elif self.left:
            self.token, self.left = vector, self.left - 1
            self.made[-1].append(vector)  # type: ignore[arg-type]
            if not self.left:
                self.forced = row.end
                self.is_done = not writing.max_tokens and self.images >= writing.max_images
        elif self.forced is not None:
            self.token, is_begin, self.forced = self.forced, self.forced == row.begin, None
            if is_begin:
                self.open()
        else:
            self._choose(drawn, row, writing)

    def _choose(self, drawn: int, row: Row, writing: RowWriting) -> None:
        self.token = drawn
        if drawn in writing.stop:
            self.token, self.is_done = None, True
        elif drawn == row.begin:
            self.open()
        else:
            if not self.made or not self.made[-1] or isinstance(self.made[-1][0], Tensor):
                self.made.append([])
            self.made[-1].append(drawn)  # type: ignore[arg-type]
            self.ids += 1
            self.is_done = self.ids >= writing.max_tokens

    def segments(self, row: Row) -> list[Segment]:
        """What was generated."""
        found = []
        for part in self.made:
            if part and isinstance(part[0], Tensor):
                found.append(Segment(row.image or "", torch.stack(part).float().cpu().numpy()))  # type: ignore[arg-type]
            elif part:
                found.append(Segment(row.text, np.array(part, np.int64)))
        return found


def _ids(
    model: Multimodal, row: Row, hidden: Tensor, uniforms: Tensor, states: Sequence[_State], writing: RowWriting
) -> tuple[list[int], Tensor]:
    """The id that each row would choose, and whether all logits were numbers."""
    if not any(state.chooses for state in states):
        return [0] * len(states), torch.ones((), dtype=torch.bool, device=hidden.device)
    logits = model.heads.logits(row.text, hidden[:, None]).float()
    logits[..., list(writing.suppress)] = -torch.inf
    if row.begin is not None:
        full = torch.tensor([state.images >= writing.max_images for state in states], device=hidden.device)
        logits[full, :, row.begin] = -torch.inf
    drawn = draw(logits, uniforms, writing.temperature, top_k=writing.top_k, top_p=writing.top_p)
    return drawn.ids[:, 0].tolist(), drawn.confidence.isfinite().all()


def _vectors(model: Multimodal, row: Row, hidden: Tensor, columns: Columns, states: Sequence[_State]) -> Tensor:
    """(B, content.dim) what comes next in rows with an open image; zeros in others."""
    found = hidden.new_zeros(len(states), columns.dim)
    drawing = [number for number, state in enumerate(states) if state.left]
    if drawing and row.image is not None:
        rows = torch.tensor(drawing, device=hidden.device)
        found[rows] = model.vector_heads[row.image](hidden[rows], columns.position[rows, -1]).to(found.dtype)
    return found


def _check(model: Multimodal, row: Row, prompts: Sequence[Document], writing: RowWriting) -> None:
    """See that a model can generate so.

    Raises:
        ConfigError: if it cannot.
    """
    if model.encoder is not None or model.config.position_tables:
        raise ConfigError(
            "rows of text and images are continued by a decoder alone that knows distances and not places: expected "
            "model.encoder_depth 0, position_tables false and rope_theta"
        )
    opened = any(opens_image(prompt, row) for prompt in prompts)
    if (writing.max_images or writing.begin_image or opened) and not writes_images(model, row):
        ends = "a prompt ends with the token that begins an image, but " if opened else ""
        raise ConfigError(
            f"{ends}this model has no head for vectors of images: ask it for text alone, or train one with "
            "model.vector_head and an image modality of direction both"
        )
    if opened and writing.num_beams > 1:
        raise ConfigError(
            "a prompt ends with the token that begins an image, but num_beams searches for text alone: set it to 1"
        )
