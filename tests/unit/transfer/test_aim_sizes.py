"""The presets of AIM and AIMv2 have the published numbers of parameters, on the meta device."""

from __future__ import annotations

import pytest
import torch

from fourm.config import build
from fourm.layouts import Continuous, Grid
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.recipe.schema import PretrainRecipe
from fourm.recipes import load
from fourm.train.optimizer import parameter_groups
from fourm.transfer.backbone import Backbone
from fourm.transfer.configs import BackboneConfig
from fourm.transfer.head_configs import AttentiveConfig
from fourm.transfer.network import TransferNetwork

MILLIONS = {
    "aim_600m": (680.5, 6.26),
    "aim_1b": (1209.4, 10.4),
    "aim_3b": (2720.0, 21.9),
    "aim_7b": (6445.4, 37.7),
    "aimv2_base": (85.6, None),
    "aimv2_large": (309.2, None),
    "aimv2_huge": (680.9, None),
    "aimv2_1b": (1235.0, None),
    "aimv2_3b": (2721.0, None),
}


@pytest.mark.parametrize("preset", MILLIONS)
def test_the_trunk_and_the_probe_have_the_published_sizes(preset: str) -> None:
    positions = "sincos_xy" if preset.startswith("aim_") else "learned"
    modality = Modality(
        "rgb@224", Grid(16, 16, 14), Continuous(588), "rgb", "image", direction="input", channels=3, positions=positions
    )
    model = build(MultimodalConfig, MultimodalConfig.expand({"preset": preset}), where="test")
    trunk, probe = MILLIONS[preset]

    with torch.device("meta"):
        backbone = Backbone(ModalitySet([modality]), model, BackboneConfig(["rgb@224"]))
        network = TransferNetwork(backbone, AttentiveConfig(None, 1, "aim"), 1000, False)

    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(trunk, rel=3e-4)
    if probe is not None:
        assert sum(p.numel() for p in network.head.parameters()) / 1e6 == pytest.approx(probe, rel=6e-3)


def test_the_decoder_of_the_second_version_is_that_of_the_published_training() -> None:
    recipe = load("aimv2_large", PretrainRecipe, folder="pretrain")
    with torch.device("meta"):
        model = Multimodal(recipe.modality_set(), recipe.model)

    block = 4 * 1024**2 + 3 * 1024 * 2816 + 2 * 1024  # hidden width: two thirds of 4096, in steps of 256
    assert sum(p.numel() for p in model.decoder.parameters()) == 12 * block + 1024
    positions = [p for name, p in model.named_parameters() if name.endswith("positions.learned")]
    assert [tuple(p.shape) for p in positions] == [(256, 1024), (78, 1024)]
    (still,) = (g["params"] for g in parameter_groups(model, recipe.train.optimizer) if g["weight_decay"] == 0)
    assert all(any(p is q for q in still) for p in positions)
