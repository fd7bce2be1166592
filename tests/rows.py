"""A tiny model that reads and writes text and images, with random weights, and what paints its vectors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fourm.config import build
from fourm.generate.interleaved_prompts import Interleaved
from fourm.layouts import Continuous, Discrete, Grid, Sequence, Slots
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import MultimodalConfig
from fourm.models.folder import save_model
from fourm.models.multimodal import Multimodal
from fourm.tokenizers.text import TextTokenizer, train_wordpiece
from fourm.tokenizers.visual_decoder import VisualDecoder
from fourm.tokenizers.visual_decoder_configs import VisualDecoderConfig

TEXTS = ["a red chair and a blue sofa", "how many chairs are there ?", "it is one of two", "based on the picture"]
SIZE = 16


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return train_wordpiece(TEXTS, 120, num_sentinels=3, num_coordinates=2, tokens=["[IMG]", "[/IMG]"])


@pytest.fixture(scope="module")
def bundle(tokenizer: TextTokenizer) -> Any:
    rgb: Any = {"channels": 3, "value_range": (0.0, 1.0), "normalization": "half"}
    modalities = ModalitySet(
        [
            Modality("text", Sequence(64, 64), Discrete(tokenizer.vocab_size), "text", "text", tokenizer="text"),
            Modality("image", Slots(3, SIZE, SIZE), Continuous(12), "rgb", "image", **rgb),
        ]
    )
    tower = {"kind": "timm", "name": "vit_tiny_patch16_224", "options": {"patch_size": 8, "depth": 1}}
    feeder = {"kind": "vision", "tower": tower, "pooler": {"kind": "resampler", "dim": 16, "depth": 1, "num_heads": 2}}
    config = {
        "dim": 16, "encoder_depth": 0, "decoder_depth": 2, "num_heads": 2, "rope_theta": 1e4, "position_tables": False,
        "modality_embeddings": False, "tie_heads": False, "embedding_std": 1.0, "vector_head": {"kind": "linear"},
        "feeders": {"image": {**feeder, "projection": True}},
    }  # fmt: skip
    model = Multimodal(modalities, build(MultimodalConfig, config)).eval()
    raw = Modality("rgb", Grid(1, 1, SIZE), Continuous(3 * SIZE**2), "rgb", "image", **rgb)
    unet = {"widths": [8, 8], "num_blocks": 1, "attention_depth": [0, 1], "num_heads": [2, 2], "groups": 4}
    painter = {"conditions": {"image": {"num_tokens": 3, "dim": 12}}, "unet": unet}
    torch.manual_seed(0)
    decoder = VisualDecoder(raw, build(VisualDecoderConfig, {**painter, "sampling": {"num_steps": 2, "guidance": 2.0}}))
    return SimpleNamespace(model=model, tokenizers={"image": decoder.eval()}, text=tokenizer, others={}, place="toy")


def image(seed: int = 0) -> torch.Tensor:
    return torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def folder(bundle: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a folder `model`, and two images beside it."""
    root = tmp_path_factory.mktemp("model")
    bundle.text.save(root / "text.json")
    bundle.tokenizers["image"].save(root / "decoder")
    save_model(bundle.model, root / "model", {"text": root / "text.json", "image": root / "decoder"})
    for seed in range(2):
        pixels = ((image(seed).permute(1, 2, 0).numpy() + 1) * 127.5).astype(np.uint8)
        Image.fromarray(pixels).resize((40, 32)).save(root / f"{seed}.png")
    return root


def written(talk: Interleaved, document: Any) -> str:
    """A prompt as one line, images by their numbers."""
    names = {image(seed).numpy().tobytes(): f"<{seed}>" for seed in range(5)}

    def parts() -> Iterator[str]:
        for segment in document:
            if segment.modality == "text":
                yield " ".join(talk.tokenizer.token(int(i)) for i in segment.value)
            else:
                yield names.get(segment.value.tobytes(), "<?>")

    return " ".join(parts())
