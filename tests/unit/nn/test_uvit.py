from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from fourm.config import build
from fourm.errors import ConfigError
from fourm.nn.attention import AttentionMask
from fourm.nn.configs import UViTConfig
from fourm.nn.uvit import AdaptiveBlock, UViT
from fourm.patterns import AttentionPattern

SMALL = {
    "dim": 16, "depth": 2, "num_heads": 2, "patch_size": 2, "widths": (8, 12), "num_blocks": 1, "grid_size": 4,
    "groups": 4,
}  # fmt: skip
FORMS = [{}, {"conditioning": "cross"}, {"depth": 5, "long_skips": True}, {"halve_again": False}, {"widths": (8,)}]


def make(*, opened: bool = True, **values: Any) -> UViT:
    torch.manual_seed(0)
    net = UViT(build(UViTConfig, {**SMALL, **values}), 3, 5)
    if opened:
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return net.eval()


def call(net: UViT, size: tuple[int, int] = (16, 16), seed: int = 1, **changed: Any) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    given: dict[str, Any] = {
        "noisy": torch.randn(2, 3, *size, generator=draw),
        "timestep": torch.tensor([5, 900]),
        "condition": torch.randn(2, 5, 2, 2, generator=draw),
    }
    return net(**{**given, **changed})


@pytest.mark.parametrize("values", FORMS, ids=str)
def test_the_output_has_the_shape_of_the_image_at_any_size(values):
    for size in ((16, 16), (32, 16)):
        assert call(make(**values), size).shape == (2, 3, *size)


def test_it_starts_by_saying_nothing():
    out = call(make(opened=False))
    assert torch.equal(out, torch.zeros_like(out))


@pytest.mark.parametrize("values", FORMS, ids=str)
def test_it_looks_at_image_time_and_condition(values):
    net = make(**values)
    out = call(net)
    for changed in (
        {"noisy": torch.ones(2, 3, 16, 16)},
        {"timestep": torch.tensor([6, 901])},
        {"condition": torch.ones(2, 5, 2, 2)},
    ):
        other = call(net, **changed)
        assert all(not torch.allclose(a, b) for a, b in zip(out, other))


@pytest.mark.parametrize("conditioning", ["add", "cross"])
def test_hidden_conditions_do_not_matter_and_shown_ones_do(conditioning):
    net = make(conditioning=conditioning)
    keep = torch.tensor([[[True, False], [True, True]]]).expand(2, -1, -1)
    condition = torch.randn(2, 5, 2, 2, generator=torch.Generator().manual_seed(2))
    hidden, shown = condition.clone(), condition.clone()
    hidden[:, :, 0, 1] = 7.0
    shown[:, :, 1, 0] = 7.0
    out = call(net, condition=condition, keep=keep)
    assert torch.equal(out, call(net, condition=hidden, keep=keep))
    assert not torch.allclose(out, call(net, condition=shown, keep=keep))


def test_a_hidden_condition_is_a_token_of_its_own():
    """An image without any condition is told apart from one whose condition is zero."""
    net = make()
    zero, nothing = torch.zeros(2, 5, 2, 2), torch.zeros(2, 2, 2, dtype=torch.bool)
    with torch.no_grad():
        net.middle.cond_proj.bias.zero_()
    assert not torch.allclose(call(net, condition=zero), call(net, condition=zero, keep=nothing))


def test_a_condition_reaches_the_place_it_lies_at_first():
    """Left and right, above and below are not exchanged between the codes and the tokens."""
    net = make(depth=0, halve_again=False, widths=(8,))
    noisy, condition = torch.zeros(1, 3, 16, 16), torch.zeros(1, 5, 4, 4)
    moved = condition.clone()
    moved[:, :, 0, 3] = 10.0
    time = torch.tensor([5])
    change = (net(noisy, time, moved) - net(noisy, time, condition)).abs().sum(1)[0]
    assert change[:4, 12:].mean() > 3 * change[8:, :8].mean()


def test_a_block_follows_its_formula():
    """x += gate f(norm(x) (1 + scale) + shift), in the published order: shift and scale of attention, then of MLP."""
    torch.manual_seed(0)
    block = AdaptiveBlock(build(UViTConfig, SMALL), 6)
    x, time = torch.randn(2, 9, 16), torch.randn(2, 6)
    mask = AttentionMask.prepare(AttentionPattern.full(torch.ones(2, 9, dtype=torch.bool)), "math", torch.float32)
    out = block(x, time, mask)

    gate_a, gate_m = block.gate(F.silu(time)).unsqueeze(1).chunk(2, -1)
    shift_a, scale_a, shift_m, scale_m = block.modulation(F.silu(time)).unsqueeze(1).chunk(4, -1)
    normed = F.layer_norm(x, (16,)) * (1 + scale_a) + shift_a
    q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in block.attn.qkv(normed).chunk(3, -1))
    attended = block.attn.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    middle = x + gate_a * attended
    normed = F.layer_norm(middle, (16,)) * (1 + scale_m) + shift_m
    expected = middle + gate_m * block.mlp.fc2(F.gelu(block.mlp.fc1(normed)))
    torch.testing.assert_close(out, expected)


def test_blocks_of_the_second_half_read_those_of_the_first_in_reverse():
    net = make(depth=5, long_skips=True)
    read: list[torch.Tensor | None] = []
    written: list[torch.Tensor] = []

    def note(_: torch.nn.Module, given: tuple[torch.Tensor | None, ...], out: torch.Tensor) -> None:
        read.append(given[5])
        written.append(out)

    for block in net.middle.blocks:
        block.register_forward_hook(note)
    call(net)
    assert read[:3] == [None, None, None]
    assert read[3] is written[1]
    assert read[4] is written[0]


def test_dropout_acts_in_training_only():
    net = make(dropout=0.5)
    assert torch.equal(call(net), call(net))
    net.train()
    assert not torch.allclose(call(net), call(net))


@pytest.mark.parametrize("values", [{}, {"conditioning": "cross"}, {"depth": 5, "long_skips": True}], ids=str)
def test_gradients_reach_every_parameter(values):
    net = make(**values)
    keep = torch.tensor([[[True, False], [True, True]]]).expand(2, -1, -1)
    call(net, keep=keep).square().mean().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_size_that_does_not_divide_is_refused():
    with pytest.raises(ConfigError, match="12 x 16 pixels does not divide by the denoiser's 8"):
        call(make(), (12, 16))


@pytest.mark.parametrize(
    ("preset", "params"), [("base", 127_537_411), ("large", None), ("huge", None)], ids=["base", "large", "huge"]
)
def test_the_published_networks_have_their_sizes(preset, params):
    with torch.device("meta"):
        net = UViT(build(UViTConfig, {"preset": preset}), 3, 32)
    count = sum(p.numel() for p in net.parameters()) + net.middle.pos_emb.numel()
    assert net.config.stride == 16
    if params is not None:
        assert count == params
    else:
        assert count > 300_000_000


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"widths": (8, 13)}, "not multiples of groups"),
        ({"num_heads": 3}, "multiple of 4 and of num_heads"),
        ({"long_skips": True}, "has to be odd"),
        ({"preset": "tiny"}, "Known: base, huge, large"),
    ],
    ids=str,
)
def test_contradictions_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        build(UViTConfig, {**SMALL, **values})
