"""AIM's head computes what the published training computes, block by block."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from fourm.layouts import Continuous, Grid
from fourm.modality import Modality
from fourm.models.configs import MlpHeadConfig
from fourm.models.heads import MlpHead
from fourm.nn.init import initialise
from fourm.nn.position import sincos

IMAGE = Modality("rgb@16", Grid(4, 4, 4), Continuous(48), "rgb", "image", channels=3, positions="sincos_xy")


def make(**options: bool) -> MlpHead:
    head = MlpHead(IMAGE, 16, MlpHeadConfig(dim=8, depth=2, **options)).eval()  # type: ignore[arg-type]
    initialise(head, 0)
    return head


@torch.no_grad()
def test_each_block_adds_the_normalised_features_and_then_the_mlp_of_the_normalised_sum() -> None:
    head, hidden, position = make(), torch.randn(5, 16), torch.tensor([0, 3, 15, 7, 7])

    x = hidden @ head.project.weight.T + head.project.bias + sincos(IMAGE.grid, 8, columns_first=True)[position]
    for block in head.blocks:
        x = x + F.layer_norm(x, (8,), eps=1e-5)
        normed = F.layer_norm(x, (8,), eps=1e-5)
        x = x + F.gelu(normed @ block.mlp.fc1.weight.T) @ block.mlp.fc2.weight.T
    expected = F.layer_norm(x, (8,), eps=1e-5) @ head.linear.weight.T + head.linear.bias

    torch.testing.assert_close(head(hidden, position), expected)


@torch.no_grad()
def test_without_the_extra_sum_it_is_the_papers() -> None:
    head, hidden, position = make(residual_norm=False), torch.randn(5, 16), torch.arange(5)

    assert not any("norm1" in name for name, _ in head.named_parameters())
    assert not torch.allclose(head(hidden, position), make()(hidden, position))


def test_it_has_twelve_blocks_of_width_2048_and_no_biases_in_them() -> None:
    with torch.device("meta"):
        head = MlpHead(IMAGE, 1536, MlpHeadConfig())

    blocks = 12 * (2 * 2048 * 8192 + 4 * 2048)
    assert sum(p.numel() for p in head.parameters()) == blocks + 1537 * 2048 + 2 * 2048 + 2049 * 48
