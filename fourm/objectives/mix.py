"""Mixup and cutmix between neighbours of a batch: the same for any number of ranks and micro-batches of even size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fourm.rng import generator


@dataclass(frozen=True)
class Mix:
    """How two images become one.

    Args:
        mixup: concentration of the shares in which they are blended; 0: never.
        cutmix: concentration of the areas that are pasted from one into the other; 0: never.
        cutmix_probability: how often it is cutmix, where there are both.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    cutmix_probability: float = 0.5


def mix_pairs(images: Mapping[str, Tensor], seeds: Sequence[int], mix: Mix) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Mix samples 0 and 1, 2 and 3, and so on, each pair with its own draw; a last one without a neighbour stays.

    Args:
        images: modality -> (B, C, H, W); all are mixed alike.
        seeds: of each sample; that of the first counts for a pair.
        mix: how.

    Returns:
        the mixed images, (B,) the number of each one's neighbour, and (B,) the share of its own that is left.
    """
    count = len(seeds)
    partner = torch.arange(count)
    partner[: count - count % 2] ^= 1
    mixed = {name: value.clone() for name, value in images.items()}
    share = torch.ones(count)
    for first in range(0, count - 1, 2):
        rng = generator(seeds[first], "mix")
        cut = bool(mix.cutmix) and (not mix.mixup or rng.random() < mix.cutmix_probability)
        concentration = mix.cutmix if cut else mix.mixup
        left = float(rng.beta(concentration, concentration)) if concentration else 1.0
        place = rng.random(2)
        pair = [first, first + 1]
        for name, value in images.items():
            own, other = value[pair], value[pair[::-1]]
            if cut:
                box = _box(value.shape[-2:], left, place)
                mixed[name][pair, :, box[0], box[1]] = other[:, :, box[0], box[1]]
                area = (box[0].stop - box[0].start) * (box[1].stop - box[1].start)
                share[pair] = 1 - area / (value.shape[-2] * value.shape[-1])
            else:
                mixed[name][pair] = own * left + other * (1 - left)
                share[pair] = left
    return mixed, partner, share


def _box(size: Sequence[int], left: float, place: Sequence[float]) -> tuple[slice, slice]:
    """A box of about 1 - `left` of the area around a random place, cut off at the border."""
    edges = []
    for side, where in zip(size, place):
        length = round(side * (1 - left) ** 0.5)
        start = int(where * side) - length // 2
        edges.append(slice(max(0, start), min(side, start + length)))
    return edges[0], edges[1]
