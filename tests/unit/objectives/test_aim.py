"""AIM as it is trained: who sees whom, what is scored, and how (El-Nouby et al. 2024, sec. 3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fourm.errors import DataError
from fourm.layouts import Continuous, Grid
from fourm.modality import Modality, ModalitySet
from fourm.models.ask import patchify
from fourm.models.configs import MlpHeadConfig, MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.objectives.autoregressive import Autoregressive
from fourm.objectives.configs import AutoregressiveConfig
from fourm.rng import generator
from fourm.tokens import Example
from fourm.transfer.backbone import Backbone
from fourm.transfer.configs import BackboneConfig

NUM = 16
IMAGE = Modality("rgb@16", Grid(4, 4, 4), Continuous(48), "rgb", "image", channels=3, positions="sincos_xy")
MODALITIES = ModalitySet([IMAGE])
CONFIG = MultimodalConfig(
    dim=16, encoder_depth=0, decoder_depth=3, num_heads=2, activation="gelu", norm_bias=True, patch_bias=True,
    patch_norm=True, modality_embeddings=False, vector_head=MlpHeadConfig(dim=16, depth=2),
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Multimodal:
    return Multimodal(MODALITIES, CONFIG).eval()


def images(seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((3, 16, 16)).astype(np.float32)


def prepared(pixels: list[np.ndarray[Any, Any]], *seeds: int) -> Example:
    task = Autoregressive(AutoregressiveConfig(prefix="uniform", standardize=True), MODALITIES)
    rows = [task.prepare({"rgb@16": p}, generator(0, "aim", s)) for p, s in zip(pixels, seeds, strict=True)]
    return task.collate(rows)


def prefixes(example: Example) -> list[int]:
    """(B,) how many patches see one another: what the first of them sees."""
    assert example.decoder.attention is not None
    return example.decoder.attention.reach[:, 0].tolist()


def test_as_many_patches_are_scored_as_come_after_the_prefixes() -> None:
    example = prepared([images(n) for n in range(200)], *range(200))

    drawn = prefixes(example)
    assert set(drawn) == set(range(1, NUM))
    assert example.decoder.num_targets == {"rgb@16": sum(NUM - s for s in drawn)}


@torch.no_grad()
def test_a_patch_changes_what_is_said_from_it_on_or_if_it_is_in_the_prefix_all_that_is_said(model: Multimodal) -> None:
    pixels = images()
    before = prepared([pixels], 3)
    (prefix,) = prefixes(before)
    assert 1 < prefix < NUM - 2
    for changed in range(NUM - 1):
        other, (row, column) = pixels.copy(), divmod(changed, 4)
        other[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
        after = prepared([other], 3)
        assert prefixes(after) == [prefix]

        differs = (model.decode(before.decoder) - model.decode(after.decoder))[0].abs().amax(-1) > 0

        first = 0 if changed < prefix else changed
        assert differs.tolist() == [place >= first for place in range(NUM - 1)], changed


def test_a_prediction_has_no_gradient_of_its_own_patch_or_later_ones(model: Multimodal) -> None:
    example = prepared([images()], 3)
    (prefix,) = prefixes(example)
    vectors = example.decoder.values["rgb@16"].requires_grad_()

    answers = model(example)["rgb@16"]

    for number, answer in enumerate(answers):
        (gradient,) = torch.autograd.grad(answer.sum(), vectors, retain_graph=True)
        target = prefix + number
        assert gradient[:target].abs().amax(-1).gt(0).all()
        assert not gradient[target:].any()


@torch.no_grad()
def test_the_loss_is_the_mean_error_of_standardised_patches_over_all_that_is_scored(model: Multimodal) -> None:
    pixels = [images(1), images(2)]
    example = prepared(pixels, 1, 2)
    task = Autoregressive(AutoregressiveConfig(prefix="uniform", standardize=True), MODALITIES)

    loss = task.loss(model, example)
    value = loss.scalar(task.counts(example))

    patches = patchify(torch.from_numpy(np.stack(pixels)), 4)
    targets = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    mask = torch.arange(NUM) >= torch.tensor(prefixes(example))[:, None]
    hidden = model.decode(example.decoder)
    answers = model.vector_heads["rgb@16"](hidden.flatten(0, 1), torch.arange(NUM - 1).repeat(2)).unflatten(0, (2, -1))
    errors = (answers - targets[:, 1:]).square().mean(-1)
    assert value.item() == pytest.approx((errors[mask[:, 1:]].sum() / mask[:, 1:].sum()).item(), rel=1e-5)


@torch.no_grad()
def test_a_backbone_sees_the_same_with_the_same_prefix_and_all_without(model: Multimodal) -> None:
    pixels = images()
    example = prepared([pixels], 3)
    backbone = Backbone.from_model(model, BackboneConfig(["rgb"])).eval()
    given = torch.from_numpy(pixels)[None]

    trained = backbone.forward_features(given, prefix_lengths=torch.tensor(prefixes(example)))
    both_ways = backbone.forward_features(given)

    torch.testing.assert_close(trained[:, : NUM - 1], model.decode(example.decoder))
    assert not torch.allclose(both_ways, trained)


@pytest.mark.parametrize("wrong", [torch.tensor([3]), torch.tensor([3.0, 4.0]), torch.tensor(3)])
def test_prefixes_are_whole_numbers_one_for_each_image(model: Multimodal, wrong: torch.Tensor) -> None:
    backbone = Backbone.from_model(model, BackboneConfig(["rgb"])).eval()
    with pytest.raises(DataError, match=r"prefix_lengths is .*; expected integers \(2,\)"):
        backbone(torch.from_numpy(np.stack([images(), images()])), prefix_lengths=wrong)


@torch.no_grad()
def test_heads_read_the_mean_of_the_named_blocks_and_nothing_behind_them_is_trained(model: Multimodal) -> None:
    backbone = Backbone.from_model(model, BackboneConfig(["rgb"], average_layers=[0, -2])).eval()
    given = torch.from_numpy(images())[None]
    blocks = Backbone.from_model(model, BackboneConfig(["rgb"], out_layers=[0, 1], normalize=False)).eval()(given)

    mean = torch.stack([block.flatten(2).transpose(1, 2) for block in blocks.values()]).mean(0)

    torch.testing.assert_close(backbone.forward_features(given), mean)
    still = {name.split(".")[1:3][0] for name, p in backbone.named_parameters() if not p.requires_grad}
    assert still == {"blocks", "norm"}
    assert not any(p.requires_grad for p in backbone.encoder.blocks[2].parameters())
    assert all(p.requires_grad for p in backbone.encoder.blocks[1].parameters())
