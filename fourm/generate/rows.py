"""Models that read one row of ids: what comes next, and how likely what came is (LVM, Bai et al. 2023, sec. 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fourm.errors import ConfigError, DataError
from fourm.generate.grids import stream
from fourm.generate.sampling import check_finite, draw
from fourm.models.multimodal import Multimodal
from fourm.nn.trunk import KVCache
from fourm.patterns import AttentionPattern
from fourm.ranges import check_range
from fourm.rng import uniform
from fourm.tokens import PADDING, TokenBatch


@dataclass(frozen=True)
class RowSampling:
    """How the next ids are drawn.

    Args:
        temperature: 0 takes the likeliest.
        top_k, top_p: see `fourm.generate.sampling`.
        num_ids: ids from 0 on that may be drawn; those behind it are special. None: all.
        cache: keep keys and values of what was read; without, every token is computed from the whole row.
    """

    temperature: float = 1.0
    top_k: int | float | None = None
    top_p: float | None = None
    num_ids: int | None = None
    cache: bool = True

    def __post_init__(self) -> None:
        check_range(self, "temperature", least=0)
        check_range(self, "num_ids", least=1)
        check_range(self, "top_k", above=0)
        check_range(self, "top_p", above=0, most=1)


def row_modality(model: Multimodal, name: str | None = None) -> str:
    """The modality of which a model reads rows.

    Raises:
        ConfigError: if the model has an encoder, or several such modalities and none is named.
    """
    rows = [m.name for m in model.modalities.values() if m.is_discrete and not m.is_grid and m.is_input and m.is_output]
    if model.encoder is not None or not rows or (name is None and len(rows) > 1) or (name and name not in rows):
        raise ConfigError(
            f"prompting continues a row of ids, for which a model has no encoder and one sequence of ids; this one has "
            f"{'an encoder' if model.encoder is not None else 'none'} and the sequences {', '.join(rows) or 'none'}. "
            "Name one of them, or use `fourm generate`"
        )
    return name or rows[0]


@torch.no_grad()
def continue_rows(
    model: Multimodal,
    name: str,
    prompt: Tensor,
    count: int,
    seeds: Tensor,
    sampling: RowSampling = RowSampling(),
) -> Tensor:
    """Draw what comes next.

    Args:
        model: a decoder alone.
        name: the modality.
        prompt: (B, L) ids, L >= 1.
        count: how many.
        seeds: (B,) of each sample; a sample's draws depend on its seed and their place in the row alone.
        sampling: how.

    Returns:
        (B, count) ids.

    Raises:
        DataError: if the row becomes longer than the model's rows, there is no prompt, or it has ids that the model has
            not.
        CheckpointError: if the logits are no numbers.
    """
    batch, length = prompt.shape
    longest = model.modalities[name].num_tokens
    if not length or length + count > longest:
        raise DataError(
            f"a prompt of {length} tokens and {count} new ones; this model reads from 1 to {longest - count} tokens "
            f"before as many new ones. Give fewer images, or a smaller window"
        )
    _check_ids(model, name, prompt)
    row = torch.full((batch, length + count), PADDING, dtype=torch.int64, device=prompt.device)
    row[:, :length] = prompt
    cache = KVCache(model.config.decoder_depth) if sampling.cache else None
    places = torch.arange(length + count, device=prompt.device)
    uniforms = uniform(seeds.to(prompt.device)[:, None], stream(name, "row"), places)
    finite = torch.ones((), dtype=torch.bool, device=prompt.device)
    for end in range(length, length + count):
        start = 0 if cache is None else cache.length
        logits = model.heads.logits(name, _hidden(model, name, row[:, start:end], start, cache)[:, -1:])
        if sampling.num_ids is not None:
            logits[..., sampling.num_ids :] = -torch.inf
        drawn = draw(logits, uniforms[:, end, None], sampling.temperature, top_k=sampling.top_k, top_p=sampling.top_p)
        row[:, end] = drawn.ids[:, 0]
        finite = finite & drawn.confidence.isfinite().all()
    check_finite(finite, name)
    return row[:, length:]


def _check_ids(model: Multimodal, name: str, ids: Tensor) -> None:
    """See that ids are of the model's vocabulary: an embedding of another one means nothing, or ends the program."""
    size = model.modalities[name].vocab_size
    low, high = (int(edge) for edge in ids.aminmax()) if ids.numel() else (0, 0)
    if low < 0 or high >= size:
        raise DataError(f"a row has ids from {low} to {high}; '{name}' of this model has {size} ids, from 0")


def _hidden(model: Multimodal, name: str, ids: Tensor, start: int = 0, cache: KVCache | None = None) -> Tensor:
    """(B, n, dim) hidden states of tokens from place `start` on."""
    index = model.modalities.index(name)
    alone = ids.shape[1] == 1 and cache is not None  # a single token sees all before it
    table = TokenBatch(
        modality=torch.full_like(ids, index),
        position=torch.arange(start, start + ids.shape[1], device=ids.device).expand_as(ids),
        ids=ids,
        target_ids=torch.full_like(ids, PADDING),
        attention=None if alone else AttentionPattern.causal(ids >= 0),
    )
    return model.decode(table, cache=cache)


@torch.no_grad()
def log_likelihood(model: Multimodal, name: str, context: Tensor, target: Tensor) -> Tensor:
    """(B, n) natural logarithms of the probabilities of a target (B, n) behind a context (B, L), L >= 1.

    Raises:
        DataError: if there is no context, both are longer than the model's rows, or have ids that the model has not.
    """
    longest = model.modalities[name].num_tokens
    if not context.shape[1] or context.shape[1] + target.shape[1] > longest:
        raise DataError(
            f"a context of {context.shape[1]} and a target of {target.shape[1]} tokens; this model reads rows of at "
            f"most {longest} tokens, and needs at least one of context"
        )
    row = torch.cat([context, target], 1)
    _check_ids(model, name, row)
    hidden = _hidden(model, name, row[:, :-1])[:, context.shape[1] - 1 :]
    scores = model.heads.logits(name, hidden).float().log_softmax(-1)
    return scores.gather(-1, target[..., None])[..., 0]


def shot_perplexity(model: Multimodal, name: str, sentences: Tensor, shots: Sequence[int]) -> dict[int, float]:
    """How unlikely the answers of pairs are, with some pairs before them: LVM's measure of scale (sec. 4.2).

    The same answers are asked with any number of pairs; those next to them are shown.

    Args:
        model: a decoder alone.
        name: the modality.
        sentences: (B, 2 K + 2, T) ids of images: K pairs, then a question and its answer.
        shots: numbers of pairs, up to K.

    Returns:
        number of pairs -> exp of the mean of -log p over all tokens of the answers.

    Raises:
        DataError: if there are fewer pairs, or no number is given.
    """
    images = sentences.shape[1]
    pairs = max(images // 2 - 1, 0)
    if images < 2 or images % 2 or not shots or not 0 <= min(shots) <= max(shots) <= pairs:
        raise DataError(
            f"sentences of {images} images have {pairs} pairs before a question and its answer; asked for "
            f"{', '.join(map(str, shots)) or 'no number of pairs'}"
        )
    found = {}
    for count in shots:
        context = sentences[:, images - 2 * count - 2 : images - 1].flatten(1)
        found[count] = float((-log_likelihood(model, name, context, sentences[:, -1]).mean()).exp())
    return found
