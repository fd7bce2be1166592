"""Low-rank adapters: nothing changes at first, only they learn, and they can be merged."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fourm.errors import ConfigError
from fourm.nn.attention import Attention
from fourm.nn.configs import LoRAConfig
from fourm.nn.lora import LoRALinear, add_lora, merge_lora
from fourm.transfer.backbone import Backbone

Make = Callable[..., Backbone]


def test_adapters_start_as_nothing_and_merge_into_what_they_became(make: Make) -> None:
    backbone, images = make("rgb"), torch.randn(2, 3, 16, 16)
    before = backbone.forward_features(images)

    assert add_lora(backbone, LoRAConfig(rank=2, alpha=4), seed=0) == 8
    torch.testing.assert_close(backbone.forward_features(images), before)

    trained = [name for name, p in backbone.named_parameters() if p.requires_grad]
    assert len(trained) == 16
    assert all(".lora_" in name for name in trained)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name.endswith("lora_up"):
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
        after = backbone.forward_features(images)
        assert not torch.allclose(after, before)

        names = set(make("rgb").state_dict())
        merge_lora(backbone)
        assert set(backbone.state_dict()) == names
        torch.testing.assert_close(backbone.forward_features(images), after, rtol=1e-4, atol=1e-4)


def test_queries_and_values_of_a_fused_layer_change_by_themselves_and_keys_stay(make: Make) -> None:
    backbone, x = make("rgb"), torch.randn(3, 16)
    base = backbone.encoder.blocks[0].attn.qkv
    before = base(x)

    add_lora(backbone, LoRAConfig(rank=2, fused="qv"), seed=0)

    layer = backbone.encoder.blocks[0].attn.qkv
    assert isinstance(layer, LoRALinear)
    assert layer.lora_down.numel() + layer.lora_up.numel() == 2 * (2 * 16 + 2 * 16)
    with torch.no_grad():
        layer.lora_up.normal_()
    query, key, value = (layer(x) - before).chunk(3, -1)
    assert not key.any()
    rank_of = torch.linalg.matrix_rank
    assert (rank_of(layer.change()[:16]), rank_of(layer.change()[32:]), rank_of(layer.change())) == (2, 2, 4)
    torch.testing.assert_close(torch.cat([query, value], -1), x @ layer.change()[[*range(16), *range(32, 48)]].T)
    torch.testing.assert_close(layer.merged()(x), layer(x))


def test_queries_with_heads_of_their_own_width_are_told_from_keys() -> None:
    network = torch.nn.ModuleDict({"attn": Attention(16, 4, num_kv_heads=2, head_dim=6)})

    add_lora(network, LoRAConfig(match=["attn.qkv"], rank=2, fused="v"), seed=0)

    layer = network["attn"].qkv
    with torch.no_grad():
        layer.lora_up.normal_()
    changed = layer.change().abs().sum(1) > 0
    assert changed.tolist() == [False] * (24 + 12) + [True] * 12


def test_alpha_scales_the_change() -> None:
    base = torch.nn.Linear(3, 2)
    layer = LoRALinear(base, 1, 0.5)
    with torch.no_grad():
        layer.lora_down.fill_(1.0)
        layer.lora_up.fill_(2.0)
    x = torch.tensor([[1.0, 2.0, 3.0]])

    assert torch.allclose(layer(x) - base(x), torch.full((1, 2), 6.0))


def test_a_pattern_that_matches_nothing_is_told(make: Make) -> None:
    with pytest.raises(ConfigError, match="lora.match: 'encoder.blocks.*.attn.q' is no linear layer"):
        add_lora(make("rgb"), LoRAConfig(match=["encoder.blocks.*.attn.q"]), seed=0)
