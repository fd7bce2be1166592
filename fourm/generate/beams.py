"""Beam search: the likeliest text, found by keeping several beginnings of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fourm.generate.columns import Columns
from fourm.generate.sampling import check_finite
from fourm.models.multimodal import Multimodal
from fourm.nn.trunk import KVCache

if TYPE_CHECKING:
    from fourm.generate.interleaved import RowWriting


class Finished(NamedTuple):
    """A whole text.

    Args:
        score: its log-probability over a power of its length.
        ids: of it, without the one that ended it.
    """

    score: float
    ids: list[int]


def search(
    model: Multimodal,
    name: str,
    columns: Columns,
    cache: KVCache | None,
    writing: RowWriting,
    forbidden: Sequence[int],
) -> list[np.ndarray]:
    """Continue each row by the best text that is found.

    A row is done as soon as it has as many whole texts as beams, so that one beam is greedy choice.

    Args:
        model: of which `name` is the modality of ids.
        name: see `model`.
        columns: the prompts.
        cache: keys and values of what was read; None: without.
        writing: number of beams, length, and ids that end a text.
        forbidden: ids that are never chosen.

    Returns:
        (L,) ids of each row.
    """
    beams, batch = writing.num_beams, len(columns.modality)
    hidden = columns.read(cache)
    rows = torch.arange(batch, device=columns.device).repeat_interleave(beams)
    _select(columns, cache, rows)
    hidden = hidden[rows]
    # All beams of a row begin alike: the first alone counts.
    scores = torch.full((batch, beams), -torch.inf, device=columns.device)
    scores[:, 0] = 0
    texts: list[list[list[int]]] = [[[] for _ in range(beams)] for _ in range(batch)]
    finished: list[list[Finished]] = [[] for _ in range(batch)]
    finite = torch.ones((), dtype=torch.bool, device=columns.device)
    for step in range(writing.max_tokens):
        logits = model.heads.logits(name, hidden).float()
        finite = finite & logits.isfinite().all()
        logits[:, list(forbidden)] = -torch.inf
        total = scores[..., None] + logits.log_softmax(-1).unflatten(0, (batch, beams))
        best = total.flatten(1).topk(min(2 * beams, total[0].numel()))
        source, chosen = torch.empty(batch, beams, dtype=torch.int64), torch.empty(batch, beams, dtype=torch.int64)
        for row in range(batch):
            kept = _take(best.values[row], best.indices[row], logits.shape[-1], texts[row], finished[row], writing)
            texts[row] = [text for _, _, _, text in kept]
            for beam, (score, origin, id, _) in enumerate(kept):
                scores[row, beam], source[row, beam], chosen[row, beam] = score, row * beams + origin, id
        is_done = [len(own) >= beams for own in finished]
        if all(is_done) or step + 1 == writing.max_tokens:
            break
        _select(columns, cache, source.flatten().to(columns.device))
        columns.append([int(id) for id in chosen.flatten()])
        hidden = columns.read(cache)
    check_finite(finite, name)
    return [_best(own, text, score, writing) for own, text, score in zip(finished, texts, scores.tolist())]


Kept = tuple[float, int, int, list[int]]
"""Score, beam it comes from, its newest id, and all its ids."""


def _take(
    values: Tensor, indices: Tensor, size: int, texts: list[list[int]], finished: list[Finished], writing: RowWriting
) -> list[Kept]:
    """The beams to go on with; whole texts among the best go to `finished`, unless it is full."""
    kept: list[Kept] = []
    for rank, (score, index) in enumerate(zip(values.tolist(), indices.tolist())):
        beam, id = divmod(index, size)
        if id in writing.stop:
            if rank < writing.num_beams and len(finished) < writing.num_beams:
                finished.append(Finished(_normalised(score, len(texts[beam]) + 1, writing), texts[beam]))
        elif len(kept) < writing.num_beams:
            kept.append((score, beam, id, [*texts[beam], id]))
    while len(kept) < writing.num_beams:  # a vocabulary of little else than ends
        kept.append((-float("inf"), 0, 0, texts[0]))
    return kept


def _best(finished: list[Finished], texts: list[list[int]], scores: list[float], writing: RowWriting) -> np.ndarray:
    """The best whole text; texts that were cut off count where there are fewer whole ones than beams."""
    cut = [Finished(_normalised(s, len(t), writing), t) for s, t in zip(scores, texts) if t]
    found = finished if len(finished) >= writing.num_beams else [*finished, *cut]
    return np.array(max(found, key=lambda one: one.score).ids if found else [], np.int64)


def _normalised(score: float, length: int, writing: RowWriting) -> float:
    return score / max(length, 1) ** writing.length_penalty


def _select(columns: Columns, cache: KVCache | None, rows: Tensor) -> None:
    columns.select(rows)
    if cache is not None:
        cache.select(rows)
