"""A tiny model over every kind of modality, and tokenizers that can be checked by eye."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fourm.layouts import Continuous, Discrete, Grid, Sequence
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.tokenizers.text import TextTokenizer

SIDE = 4
LEVELS = 16
SEEDS = torch.tensor([11, 12, 13])


def image(name: str, decode: str = "gray", channels: int = 1, **facts: Any) -> Modality:
    content = Continuous(channels * 16)
    facts = {"value_range": (0.0, 1.0), "normalization": "half", "direction": "input", "channels": channels, **facts}
    return Modality(name, Grid(SIDE, SIDE, 4), content, source=name, decode=decode, **facts)


def tokens(name: str, raw: str, **facts: Any) -> Modality:
    return Modality(name, Grid(SIDE, SIDE, 4), Discrete(LEVELS), source=name, decode="tokens", tokenizer=raw, **facts)


def text(name: str, vocab_size: int, decode: str = "text") -> Modality:
    return Modality(name, Sequence(12, 32), Discrete(vocab_size), source=name, decode=decode, tokenizer="text")


class Mosaic:
    """A tokenizer whose id is the mean of each 4 x 4 patch in sixteen levels, and whose codes are these means."""

    def __init__(self, modality: Modality) -> None:
        self.modality = modality
        self.vocab_size = LEVELS
        self.codebook = torch.linspace(0, 1, LEVELS)[:, None]
        self.hash = f"mosaic of {modality.name}"

    def encode(self, values: Tensor) -> Tensor:
        planes = values.mean(1) if values.ndim == 4 else values.float()
        share = (planes + 1) / 2 if values.ndim == 4 else planes / (LEVELS - 1)
        return (torch.nn.functional.avg_pool2d(share, 4) * (LEVELS - 1)).round().clamp(0, LEVELS - 1).long()

    def decode(self, ids: Tensor, *, seeds: Tensor | None = None, raw: bool = False) -> Tensor:
        return self.decode_embeddings(self.codebook[ids])

    def decode_embeddings(self, vectors: Tensor, *, seeds: Tensor | None = None, raw: bool = False) -> Tensor:
        low, high = self.modality.value_range or (0.0, 1.0)
        share = vectors[..., 0].repeat_interleave(4, 1).repeat_interleave(4, 2)
        if self.modality.is_discrete:
            return (share * (LEVELS - 1)).round().long()
        return (low + share * (high - low))[:, None].repeat(1, self.modality.channels or 1, 1, 1)


@dataclass
class ToyBundle:
    model: Multimodal
    tokenizers: dict[str, Any] = field(default_factory=dict)
    text: TextTokenizer | None = None
    others: dict[str, ToyBundle] = field(default_factory=dict)
    place: str = "toy"


def build_model(modalities: ModalitySet, *, seed: int = 0, **options: Any) -> Multimodal:
    """Untrained, with heads strong enough to prefer some tokens."""
    sizes = {"dim": 32, "encoder_depth": 2, "decoder_depth": 2, "num_heads": 2, "embedding_std": 0.4}
    model = Multimodal(modalities, MultimodalConfig(**{**sizes, "tie_heads": False, **options}), seed)
    with torch.no_grad():
        model.heads.weight.mul_(2.0)
    return model.eval()
