"""`fourm.backbone` on the folder of a model: maps of a pyramid, or blocks as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fourm.catalog import resolve
from fourm.models.configs import MultimodalConfig
from fourm.models.folder import save_model
from fourm.models.multimodal import Multimodal
from fourm.recipe.pretrained import backbone


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    config = MultimodalConfig(dim=32, encoder_depth=2, decoder_depth=1, num_heads=2)
    save_model(Multimodal(resolve(["rgb@64", "tok_depth@64"]), config), tmp_path / "model")
    return tmp_path / "model"


def test_a_model_gives_maps_of_four_strides_and_blocks_that_are_named_as_they_are(checkpoint: Path) -> None:
    images = torch.rand(1, 3, 64, 64)
    maps = backbone(checkpoint, ["rgb@64"], out_channels=8)(images)
    assert [m.shape[1] for m in maps.values()] == [8] * 4
    assert len({m.shape[-1] for m in maps.values()}) == 4
    plain = backbone(checkpoint, ["rgb@64"], out_layers=[0], normalize=False).eval()
    (block,) = plain(images).values()
    assert plain.pyramid is None
    assert block.shape[-1] == 64 // plain.patch_size
    four = backbone(checkpoint, ["rgb@64"], out_layers=[0] * 4, pyramid="simple", out_channels=8)(images)
    assert [m.shape[1] for m in four.values()] == [8] * 4
