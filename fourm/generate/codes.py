"""Codes within texts: masks of instances and poses of bodies, which tokenizers of their own turn into numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fourm.generate.bundle import Bundle, device_of
from fourm.modality import Modality

_AT_ONCE = 64


@dataclass(frozen=True)
class _Part:
    """Where the codes of a kind of value are.

    Args:
        holders: one value -> the mappings in it that may hold codes.
        codes: their key.
        result: key for what the codes stand for.
    """

    holders: Callable[[Any], Iterator[dict[str, Any]]]
    codes: str
    result: str


_PARTS = {
    "sam": _Part(lambda points: (one for point in points for one in point["instances"]), "token_ids", "mask"),
    "poses": _Part(iter, "pose_tokens", "body_pose"),
}
"""`decode` of a modality -> its codes (4M-21, Bachmann et al. 2024)."""


def decode_codes(bundle: Bundle, modality: Modality, values: Sequence[Any]) -> None:
    """Add to values what the codes in them stand for, where the bundle has a tokenizer for them.

    Args:
        bundle: model and tokenizers; that of the codes has the name of the text's modality.
        modality: of the values, a sequence.
        values: lists of points get a `mask` per instance, (64, 64) probabilities over its box; lists of people get a
            `body_pose`, (207,): the rotations of 23 joints, row by row. Codes the tokenizer does not know are passed
            over.
    """
    part, tokenizer = _PARTS.get(modality.decode), bundle.tokenizers.get(modality.name)
    if part is None or tokenizer is None:
        return
    shape = (tokenizer.grid.height, tokenizer.grid.width)
    known = [
        holder
        for value in values
        for holder in part.holders(value)
        if _fits(holder, part, shape[0] * shape[1], tokenizer.vocab_size)
    ]
    for start in range(0, len(known), _AT_ONCE):
        chunk = known[start : start + _AT_ONCE]
        ids = torch.tensor([holder[part.codes] for holder in chunk], device=device_of(tokenizer))
        decoded = tokenizer.decode(ids.unflatten(1, shape)).float().cpu().numpy()
        for holder, numbers in zip(chunk, decoded, strict=True):
            holder[part.result] = numbers.squeeze()


def _fits(holder: Mapping[str, Any], part: _Part, count: int, vocab_size: int) -> bool:
    ids = holder.get(part.codes) or ()
    return len(ids) == count and all(0 <= i < vocab_size for i in ids)
