"""Emu2's decoder: trained to paint what a tower says of images, it paints what a language model says of captions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fourm.config import build
from fourm.generate.interleaved_prompts import Interleaved
from fourm.layouts import Continuous, Discrete, Grid, Sequence, Slots
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.objectives.autoregressive import Autoregressive
from fourm.objectives.configs import AutoregressiveConfig
from fourm.rng import generator
from fourm.tokenizers.text import TextTokenizer, train_wordpiece
from fourm.tokenizers.visual_decoder import VisualDecoder
from fourm.tokenizers.visual_decoder_configs import VisualDecoderConfig
from fourm.tokens import Segment

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE, NUM_TOKENS, DIM = 8, 4, 16
COLOURS = {"red": (1.0, 0.0, 0.0), "green": (0.0, 1.0, 0.0), "blue": (0.0, 0.0, 1.0), "white": (1.0, 1.0, 1.0)}
RGB: dict[str, Any] = {"channels": 3, "value_range": (0.0, 1.0), "normalization": "half"}
TOWER = {"img_size": SIZE, "patch_size": 4, "embed_dim": DIM, "depth": 1, "num_heads": 2}
SEEING = {
    "kind": "vision",
    "tower": {"kind": "timm", "name": "vit_tiny_patch16_224", "options": TOWER, "norm": True},
    "pooler": {"kind": "average"},
}


def pictures(seed: int) -> Tensor:
    """(4, 3, H, W) in [-1, 1]: each colour a little darker here and there."""
    noise = np.random.default_rng(seed).uniform(0, 0.2, (len(COLOURS), 3, SIZE, SIZE))
    colours = np.array(list(COLOURS.values()))[:, :, None, None]
    return torch.from_numpy(np.abs(colours - noise).astype(np.float32) * 2 - 1)


def trained_decoder() -> VisualDecoder:
    """It sees pictures alone: an autoencoder behind a tower of random weights that stays."""
    torch.manual_seed(0)
    image = {"encoder": SEEING, "num_tokens": NUM_TOKENS, "dim": DIM, "empty": "black"}
    facts = {
        "conditions": {"image": image}, "freeze_encoder": True,
        "unet": {"widths": [32], "num_blocks": 1, "attention_depth": [1], "num_heads": [2], "groups": 4},
        "noise": {"schedule": "cosine", "prediction": "sample"}, "sampling": {"num_steps": 5},
    }  # fmt: skip
    raw = Modality("rgb", Grid(1, 1, SIZE), Continuous(3 * SIZE**2), "rgb", "image", **RGB)
    decoder = VisualDecoder(raw, build(VisualDecoderConfig, facts))
    optimizer = torch.optim.AdamW([p for p in decoder.parameters() if p.requires_grad], lr=3e-3)
    for step in range(60):
        shown = torch.cat([pictures(2 * step), pictures(2 * step + 1)])
        found = decoder(shown, torch.arange(8 * step, 8 * step + 8))
        loss = (found.output - found.target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return decoder.eval()


def speaker(decoder: VisualDecoder, tokenizer: TextTokenizer) -> Interleaved:
    """A language model that has learned the vectors of the same tower for the names of colours."""
    modalities = ModalitySet(
        [
            Modality("text", Sequence(32, 32), Discrete(tokenizer.vocab_size), "text", "text", tokenizer="text"),
            Modality("image", Slots(NUM_TOKENS, SIZE, SIZE), Continuous(DIM), "rgb", "image", **RGB),
        ]
    )
    config = {
        "dim": 32, "encoder_depth": 0, "decoder_depth": 2, "num_heads": 2, "rope_theta": 1e4, "position_tables": False,
        "modality_embeddings": False, "tie_heads": False, "embedding_std": 0.4, "vector_head": {"kind": "linear"},
        "feeders": {"image": {**SEEING, "projection": True}},
    }  # fmt: skip
    model = Multimodal(modalities, build(MultimodalConfig, config))
    feeder, encoder = model.input_embedder.feeders["image"], decoder.conditions.encoders["image"]
    feeder.load_state_dict({**feeder.state_dict(), **encoder.state_dict()})
    model.input_embedder.feeders["image"].tower.requires_grad_(False)
    bundle = SimpleNamespace(model=model, tokenizers={"image": decoder}, text=tokenizer, others={}, place="toy")
    talk = Interleaved(bundle)
    objective = Autoregressive(AutoregressiveConfig(modality_weights={"text": 0.0}), modalities)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for step in range(80):
        shown = pictures(1000 + step).numpy()
        rows = [[[*talk.drawing(name), Segment("image", picture)]] for name, picture in zip(COLOURS, shown)]
        batch = objective.collate([objective.prepare(row, generator(0, step, n)) for n, row in enumerate(rows)])
        optimizer.zero_grad()
        objective.loss(model, batch).scalar(objective.counts(batch)).backward()
        optimizer.step()
    model.eval()
    return talk


def named(painted: Tensor) -> list[str]:
    """The nearest colour of each picture (B, 3, H, W) in [0, 1]."""
    distances = torch.cdist(painted.mean((2, 3)), torch.tensor(list(COLOURS.values())))
    return [list(COLOURS)[n] for n in distances.argmin(1).tolist()]


def test_what_a_language_model_says_is_painted_by_a_decoder_that_never_met_it() -> None:
    tokenizer = train_wordpiece(
        [" ".join(COLOURS)], 120, num_sentinels=3, num_coordinates=2, tokens=["[IMG]", "[/IMG]"]
    )
    decoder = trained_decoder()
    talk = speaker(decoder, tokenizer)
    asked = [*COLOURS] * 3

    painted = talk.draw([talk.drawing(name) for name in asked], torch.arange(len(asked)))

    assert named(talk.rebuild(list(pictures(5000)), torch.arange(4))) == [*COLOURS]  # what the decoder learned
    assert named(painted) == asked
