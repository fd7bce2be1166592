"""The real model and objective at the smallest size, on samples whose two halves share no modality."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from fourm.layouts import Continuous, Discrete, Grid, Sequence, Slots
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import LinearHeadConfig, MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.models.vision_configs import VisionFeederConfig
from fourm.nn.vision_configs import ResamplerConfig, TimmTowerConfig
from fourm.objectives.asking import Asking
from fourm.objectives.autoregressive import Autoregressive
from fourm.objectives.configs import AutoregressiveConfig, MaskedConfig
from fourm.objectives.masked import Masked
from fourm.rng import generator
from fourm.tokens import Document, Segment
from fourm.train.configs import TrainConfig
from fourm.train.distributed import World

MODALITIES = ModalitySet(
    [
        Modality("rgb", Grid(4, 4, 2), Continuous(12), source="rgb", decode="image", direction="input", channels=3),
        Modality("depth", Grid(4, 4, 2), Discrete(50), source="depth", decode="tokens"),
        Modality("caption", Sequence(12), Discrete(300), source="caption", decode="text", tokenizer="text"),
        Modality("vectors", Sequence(5), Continuous(7), source="vectors", decode="vectors", direction="input"),
        Modality("codes", Grid(2, 2, 4), Discrete(6), source="codes", decode="tokens", positions="learned"),
    ]
)
READABLE = ModalitySet(replace(m, direction="both") if m.name == "rgb" else m for m in MODALITIES.values())
"""The same for a decoder alone, which also predicts the pixels that it reads."""
HALVES = (("rgb", "depth"), ("caption", "vectors", "codes"))
DOCUMENTS = ModalitySet(
    [
        Modality("text", Sequence(24, 24), Discrete(40), source="text", decode="text"),
        Modality("image", Slots(4, 16, 16), Continuous(16), source="rgb", decode="image", channels=3),
    ]
)
"""Of documents of text and images, of which the model makes vectors; of the halves, one has no images."""


def vision() -> VisionFeederConfig:
    """A tower of timm and a causal resampler."""
    tower = TimmTowerConfig(
        "vit_tiny_patch16_224",
        options={"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2},
    )
    return VisionFeederConfig(tower, ResamplerConfig(dim=16, depth=1, num_heads=2))


def model(seed: int = 0, **options: Any) -> Multimodal:
    sizes = {"dim": 16, "encoder_depth": 2, "decoder_depth": 2, "num_heads": 2, "embedding_std": 0.4}
    if options.pop("alone", False):
        llama = {"num_kv_heads": 1, "norm": "rmsnorm", "rope_theta": 100.0, "tie_heads": False}
        alone = {**sizes, **llama, "encoder_depth": 0, "vector_head": LinearHeadConfig(), **options}
        if alone.pop("slots", False):
            facts = {"position_tables": False, "modality_embeddings": False, "feeders": {"image": vision()}}
            return Multimodal(DOCUMENTS, MultimodalConfig(**{**alone, **facts}), seed)
        if alone.pop("fed", False):
            tower = {"dim": 24, "encoder_depth": 0, "decoder_depth": 2, "num_heads": 2, "norm": "rmsnorm"}
            alone["feeders"] = {"rgb": MultimodalConfig(**tower, patch_norm=True, modality_embeddings=False)}
        return Multimodal(READABLE, MultimodalConfig(**alone), seed)
    return Multimodal(MODALITIES, MultimodalConfig(**{**sizes, "num_register_tokens": 1, **options}), seed)


def objective(reduction: Any = "modality", *, alone: bool = False, fed: bool = False, slots: bool = False) -> Asking:
    if slots:
        return Autoregressive(AutoregressiveConfig(regress_end=True, reduction=reduction, max_tokens=24), DOCUMENTS)
    if alone:
        prefix: Any = "fed" if fed else "uniform"
        return Autoregressive(AutoregressiveConfig(shuffle=True, prefix=prefix, reduction=reduction), READABLE)
    return Masked(MaskedConfig(num_input_tokens=12, num_target_tokens=12, reduction=reduction), MODALITIES)


def sample(number: int, names: tuple[str, ...]) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    depth, first = rng.permutation(16), 210
    values = {
        "rgb": rng.standard_normal((3, 8, 8)).astype(np.float32),
        "depth": depth,
        "caption": first + rng.integers(0, 20, 9),
        "vectors": rng.standard_normal((5, 7)).astype(np.float32),
        "codes": rng.integers(0, 6, 4),
    }
    return {name: values[name] for name in names}


def documents(number: int, half: int) -> list[Document]:
    """A row of two documents; those of the second half are texts."""
    rng = np.random.default_rng(number)

    def text(length: int, *, asked: bool = True) -> Segment:
        return Segment("text", rng.integers(0, 40, length), asked)

    image = Segment("image", rng.standard_normal((3, 16, 16)).astype(np.float32))
    return [[text(3), text(1, asked=False), image, text(2)] if not half else [text(5)], [text(4)]]


class MixedLoader:
    """Each global batch begins with samples of the first modalities and ends with samples of the others."""

    def __init__(self, config: TrainConfig, world: World, objective: Any) -> None:
        self.config, self.world, self.objective = config, world, objective

    def __call__(self, cursor: dict[str, Any] | None) -> Iterator[Any]:
        c, world = self.config, self.world
        n, share = (cursor["n"] if cursor else 0), c.micro_batch_size(world.size)
        while True:
            step, micro = divmod(n, c.accumulation)
            first = (micro * world.size + world.rank) * share
            items = []
            for slot in range(first, first + share):
                half, number = 2 * slot // c.batch_size, step * c.batch_size + slot
                read = "image" in self.objective.modalities
                given = documents(number, half) if read else sample(number, HALVES[half])
                items.append(self.objective.prepare(given, generator(0, number)))
            n += 1
            yield self.objective.collate(items), {"n": n}
