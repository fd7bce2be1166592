"""A trunk that reads the patches of an image first, and the table that goes on from its outputs (AIMv2)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fourm.errors import ConfigError
from fourm.layouts import Continuous, Discrete, Grid, Sequence
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import LinearHeadConfig, MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.objectives.autoregressive import Autoregressive
from fourm.objectives.configs import AutoregressiveConfig
from fourm.rng import generator
from fourm.tokens import Example
from fourm.transfer.backbone import Backbone
from fourm.transfer.configs import BackboneConfig

IMAGE = Modality("rgb@16", Grid(4, 4, 4), Continuous(48), "rgb", "image", channels=3, positions="sincos_xy")
CAPTION = Modality("caption", Sequence(6), Discrete(300), "caption", "text", tokenizer="text")
MODALITIES = ModalitySet([IMAGE, CAPTION])
TOWER = MultimodalConfig(
    dim=24, encoder_depth=0, decoder_depth=2, num_heads=2, patch_bias=True, patch_norm=True, modality_embeddings=False
)
CONFIG = MultimodalConfig(
    dim=16, encoder_depth=0, decoder_depth=2, num_heads=2, feeders={"rgb@16": TOWER}, vector_head=LinearHeadConfig(),
    tie_heads=False, embedding_std=0.5,
)  # fmt: skip


def objective(prefix: Any = "fed") -> Autoregressive:
    return Autoregressive(
        AutoregressiveConfig(order=["rgb@16", "caption"], prefix=prefix, standardize=True), MODALITIES
    )


def sample(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"rgb@16": rng.standard_normal((3, 16, 16), dtype=np.float32), "caption": np.array([250, 251, 252])}


def batch(*seeds: int) -> Example:
    task = objective()
    return task.collate([task.prepare(sample(seed), generator(0, "test", seed)) for seed in seeds])


def answers(model: Multimodal, example: Example) -> torch.Tensor:
    """(B, N, dim) hidden states of the decoder."""
    return model.decode(example.decoder)


@pytest.fixture(scope="module")
def model() -> Multimodal:
    return Multimodal(MODALITIES, CONFIG).eval()


def test_patches_after_the_prefix_and_all_words_are_asked() -> None:
    example = batch(*range(20))

    prefix = example.decoder.prefix["rgb@16"]
    assert example.decoder.num_targets == {"rgb@16": int((16 - prefix).sum()), "caption": 20 * 4}
    assert set(prefix.tolist()) <= set(range(1, 16))
    assert len(set(prefix.tolist())) > 5


def test_the_start_of_the_text_predicts_its_first_word_and_no_patch_follows_the_last() -> None:
    decoder = batch(0).decoder

    asks = decoder.target_ids[0]
    assert decoder.ids[0, 16] == 2  # the start
    assert asks[15] == -1
    assert asks[16:].tolist() == [250, 251, 252, 3]


@torch.no_grad()
@pytest.mark.parametrize("changed", [0, 5, 12])
def test_patches_of_the_prefix_change_all_that_is_read_and_later_ones_what_follows(
    model: Multimodal, changed: int
) -> None:
    task, prefix = objective(), 8
    one, other = sample(), sample()
    row, column = divmod(changed, 4)
    other["rgb@16"][:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
    examples = [task.collate([task.prepare(s, generator(0, "test"))]) for s in (one, other)]
    for example in examples:
        example.decoder.prefix["rgb@16"] = torch.tensor([prefix])

    differs = (answers(model, examples[0]) - answers(model, examples[1]))[0].abs().amax(-1) > 1e-6

    first = 0 if changed < prefix else changed
    assert differs.tolist() == [place >= first for place in range(len(differs))]


@torch.no_grad()
def test_a_backbone_of_the_trunk_gives_its_outputs(model: Multimodal) -> None:
    backbone = Backbone.from_model(model, BackboneConfig(["rgb"])).eval()
    feeder = model.input_embedder.feeders["rgb@16"]
    task, one = objective("none"), sample()
    decoder = task.collate([task.prepare(one, generator(0, "test"))]).decoder

    features = backbone.forward_features(torch.from_numpy(one["rgb@16"])[None])

    seen = model.input_embedder(decoder)[0][:, :16]
    torch.testing.assert_close(feeder.projection(features), seen)
    assert backbone.num_features == 24


@torch.no_grad()
def test_samples_without_an_image_do_not_change_the_others(model: Multimodal) -> None:
    task = objective()
    rows = [task.prepare(sample(1), generator(0, "a")), task.prepare({"caption": np.array([250])}, generator(0, "b"))]

    together = answers(model, task.collate(rows))
    alone = answers(model, task.collate(rows[:1]))

    torch.testing.assert_close(together[:1], alone)


@torch.no_grad()
def test_the_loss_is_the_weighted_sum_of_the_means_of_patches_and_words(model: Multimodal) -> None:
    config = AutoregressiveConfig(prefix="fed", reduction="weighted", modality_weights={"rgb@16": 0.4})
    task, example = Autoregressive(config, MODALITIES), batch(0, 1)

    loss = task.loss(model, example)

    means = {name: (total / count).item() for name, (total, count) in loss.parts.items()}
    expected = 0.4 * means["rgb@16"] + means["caption"]
    assert loss.scalar(task.counts(example)).item() == pytest.approx(expected, rel=1e-5)


def test_gradients_reach_the_trunk_from_both_losses(model: Multimodal) -> None:
    task, example = objective(), batch(0, 1)
    for name in ("rgb@16", "caption"):
        model.zero_grad()
        total, count = task.loss(model, example).parts[name]
        (total / count).backward()
        gradient = model.input_embedder.feeders["rgb@16"].decoder.blocks[0].attn.qkv.weight.grad
        assert gradient is not None
        assert gradient.abs().sum() > 0
    model.zero_grad()


def test_a_feeder_of_no_pixels_is_refused() -> None:
    with pytest.raises(ConfigError, match="no grid of pixels"):
        Multimodal(MODALITIES, MultimodalConfig(dim=16, encoder_depth=0, decoder_depth=1, num_heads=2,
                                                feeders={"caption": TOWER}, tie_heads=False))  # fmt: skip


@pytest.mark.parametrize("option", [{"vector_head": LinearHeadConfig()}, {"codebook_init": True}, {"init_std": 0.02}])
def test_options_that_a_feeder_would_not_heed_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"model\.feeders\.rgb@16\.{next(iter(option))} has no effect"):
        Multimodal(MODALITIES, replace(CONFIG, feeders={"rgb@16": replace(TOWER, **option)}))
