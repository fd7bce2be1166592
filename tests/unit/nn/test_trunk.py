"""The trunk: causal means causal, caches change nothing, options do what they say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from fourm.errors import ConfigError
from fourm.nn.configs import TrunkConfig
from fourm.nn.init import initialise
from fourm.nn.position import Rotary, places
from fourm.nn.trunk import DropPath, KVCache, Mlp, Trunk
from fourm.patterns import AttentionPattern, Runs

SMALL = TrunkConfig(dim=16, depth=3, num_heads=4)


def trunk(config: TrunkConfig = SMALL, seed: int = 0) -> Trunk:
    model = Trunk(config)
    initialise(model, seed)
    return model.eval()


def run(model: Trunk, x: Tensor, attention: AttentionPattern, **more: Any) -> Tensor:
    return cast(Tensor, model(x, attention=attention, **more))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ones(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.bool)


@pytest.mark.parametrize(("dim", "hidden"), [(384, 1024), (512, 1365), (768, 2048), (1024, 2730), (2048, 5461)])
def test_gated_mlps_have_the_published_widths(dim: int, hidden: int) -> None:
    assert TrunkConfig(dim=dim, depth=1, num_heads=dim // 64, activation="swiglu").mlp_dim == hidden
    assert TrunkConfig(dim=dim, depth=1, num_heads=dim // 64).mlp_dim == 4 * dim


@pytest.mark.parametrize(("wrong", "message"), [({"num_heads": 3}, "dim 16"), ({"num_kv_heads": 3}, "num_kv_heads 3")])
def test_heads_must_divide_the_width(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **wrong)


@torch.no_grad()
def test_heads_may_have_a_width_of_their_own() -> None:
    config = replace(SMALL, num_heads=3, head_dim=6, rope_theta=100.0, cross_attention=True)
    model, x, context = trunk(config), noise(2, 5, 16), noise(2, 4, 16, seed=1)
    assert model.blocks[0].attn.qkv.weight.shape == (3 * 18, 16)
    assert model.blocks[0].attn.proj.weight.shape == (16, 18)
    valid, keys = ones(2, 5), ones(2, 4)
    both = {"context": context, "cross": AttentionPattern.cross(valid, keys)}
    whole = run(model, x, AttentionPattern.causal(valid), **both)
    first = run(
        model,
        x[:, :3],
        AttentionPattern.causal(valid[:, :3]),
        **both | {"cross": AttentionPattern.cross(valid[:, :3], keys)},
    )
    assert whole.shape == (2, 5, 16)
    torch.testing.assert_close(first, whole[:, :3])
    with pytest.raises(ConfigError, match="a head has 5: choose an even number"):
        replace(config, head_dim=5)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu", "silu", "swiglu"])
def test_activations(activation: Any) -> None:
    functional = torch.nn.functional
    mlp = Mlp(replace(SMALL, activation=activation))
    x = noise(2, 16)
    hidden = {
        "gelu": lambda h: functional.gelu(h),
        "gelu_tanh": lambda h: functional.gelu(h, approximate="tanh"),
        "relu": lambda h: functional.relu(h),
        "silu": lambda h: functional.silu(h),
        "swiglu": lambda h: functional.silu(h) * cast(Any, mlp.fc3)(x),
    }[activation](mlp.fc1(x))
    torch.testing.assert_close(mlp(x), mlp.fc2(hidden))


def test_a_token_sees_only_what_its_pattern_allows() -> None:
    model, x = trunk(), noise(1, 5, 16)
    changed = x.clone()
    changed[:, 3] += 1
    attention = AttentionPattern.causal(ones(1, 5))
    before, after = run(model, x, attention), run(model, changed, attention)
    assert torch.equal(before[:, :3], after[:, :3])
    assert (before[:, 3:] != after[:, 3:]).any(-1).all()


def test_the_prefix_sees_its_own_end_and_nothing_sees_the_future() -> None:
    model, x = trunk(), noise(1, 6, 16)
    changed = x.clone()
    changed[:, 4] += 1
    attention = AttentionPattern.prefix_causal(ones(1, 6), torch.tensor([3]))
    assert torch.equal(run(model, x, attention)[:, :4], run(model, changed, attention)[:, :4])
    changed = x.clone()
    changed[:, 2] += 1
    assert (run(model, x, attention)[:, 0] != run(model, changed, attention)[:, 0]).any()


def test_the_whole_prefix_is_full_attention_and_none_is_causal() -> None:
    model, x = trunk(), noise(2, 5, 16)
    valid = ones(2, 5)
    prefix = torch.tensor([5, 0])
    both = run(model, x, AttentionPattern.prefix_causal(valid, prefix))
    torch.testing.assert_close(both[0], run(model, x, AttentionPattern.full(valid))[0])
    torch.testing.assert_close(both[1], run(model, x, AttentionPattern.causal(valid))[1])


def test_padding_changes_nothing() -> None:
    model, x = trunk(), noise(1, 5, 16)
    short = run(model, x[:, :3], AttentionPattern.full(ones(1, 3)))
    padded = run(model, x, AttentionPattern.full(torch.tensor([[True] * 3 + [False] * 2])))
    torch.testing.assert_close(padded[:, :3], short)


CROSS = replace(SMALL, cross_attention=True, num_kv_heads=2, qk_norm=True, activation="swiglu")


@pytest.mark.parametrize("steps", [[1] * 6, [3, 1, 2], [6]])
def test_decoding_with_a_cache_equals_decoding_at_once(steps: list[int]) -> None:
    model, x, context = trunk(CROSS), noise(2, 6, 16), noise(2, 4, 16, seed=1)
    seen = torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    valid = ones(2, 6)
    whole = AttentionPattern.causal(valid)
    cross = AttentionPattern.cross(valid, seen)
    at_once = run(model, x, whole, context=context, cross=cross)
    cache, parts, start = KVCache(3), [], 0
    for n in steps:
        rows = slice(start, start + n)
        attention = AttentionPattern(whole.reach[:, rows], whole.group[:, rows], whole.group[:, : start + n])
        part = AttentionPattern(cross.reach[:, rows], cross.group[:, rows], cross.key_group)
        parts.append(run(model, x[:, rows], attention, context=context, cross=part, cache=cache))
        start += n
    torch.testing.assert_close(torch.cat(parts, 1), at_once, atol=1e-5, rtol=1e-5)


def test_a_context_may_grow_between_passes_and_shrink_again() -> None:
    model, x, context = trunk(CROSS), noise(2, 3, 16), noise(2, 7, 16, seed=1)
    valid = AttentionPattern.full(ones(2, 3))
    made: list[int] = []
    handle = cast(Any, model.blocks[0]).cross_attn.kv.register_forward_hook(lambda _, i, __: made.append(i[0].shape[1]))
    cache = KVCache(3, own=False)
    for length in (2, 5, 5, 7):
        seen = context[:, :length]
        torch.testing.assert_close(
            run(model, x, valid, context=seen, cross=AttentionPattern.cross(ones(2, 3), ones(2, length)), cache=cache),
            run(model, x, valid, context=seen, cross=AttentionPattern.cross(ones(2, 3), ones(2, length))),
        )
    assert made == [2, 2, 3, 5, 5, 2, 7]  # each pass makes what is new, the one beside it all
    assert cache.length == 0
    cache.keep(4)
    other = torch.cat([context[:, :4], noise(2, 2, 16, seed=2)], 1)
    torch.testing.assert_close(
        run(model, x, valid, context=other, cross=None, cache=cache), run(model, x, valid, context=other, cross=None)
    )
    handle.remove()


def test_a_string_is_written_against_a_context_that_is_known() -> None:
    model, x, context = trunk(CROSS), noise(1, 4, 16), noise(1, 5, 16, seed=1)
    cache = KVCache(3, own=False)
    run(model, x, AttentionPattern.full(ones(1, 4)), context=context, cross=None, cache=cache)
    string = cache.string()
    parts = [model(x[:, i : i + 1], attention=None, context=context, cross=None, cache=string) for i in range(4)]
    at_once = run(model, x, AttentionPattern.causal(ones(1, 4)), context=context, cross=None)
    torch.testing.assert_close(torch.cat(parts, 1), at_once, atol=1e-5, rtol=1e-5)
    assert (string.length, cache.length) == (4, 0)


def test_a_context_reaches_only_queries_that_may_see_it() -> None:
    model, x = trunk(CROSS), noise(1, 2, 16)
    cross = AttentionPattern.cross(ones(1, 2), torch.tensor([[True, False]]))
    one, other = noise(1, 2, 16, seed=1), noise(1, 2, 16, seed=2)
    other[:, 0] = one[:, 0]
    valid = AttentionPattern.full(ones(1, 2))
    assert torch.equal(run(model, x, valid, context=one, cross=cross), run(model, x, valid, context=other, cross=cross))


def test_an_invisible_context_is_as_good_as_none() -> None:
    model, x = trunk(replace(CROSS, proj_bias=False)), noise(1, 2, 16)
    valid = AttentionPattern.full(ones(1, 2))
    cross = AttentionPattern.cross(ones(1, 2), ~ones(1, 3))
    torch.testing.assert_close(run(model, x, valid, context=noise(1, 3, 16), cross=cross), run(model, x, valid))


def test_asked_layers_are_returned_before_the_final_norm() -> None:
    model, x = trunk(), noise(1, 2, 16)
    attention = AttentionPattern.full(ones(1, 2))
    layers = model(x, attention=attention, layers=(0, 2))
    assert isinstance(layers, list)
    assert len(layers) == 2
    torch.testing.assert_close(model.norm(layers[1]), run(model, x, attention))


def test_recomputed_activations_give_the_same_gradients() -> None:
    x, attention = noise(1, 4, 16), AttentionPattern.causal(ones(1, 4))
    gradients = []
    for recompute in (False, True):
        model = trunk(replace(SMALL, activation_checkpointing=recompute)).train()
        run(model, x, attention).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_drop_path_leaves_out_whole_samples_and_scales_the_rest() -> None:
    layer = DropPath(0.25).train()
    torch.manual_seed(0)
    out = layer(torch.ones(4000, 3, 2))
    kept = out[:, 0, 0] != 0
    assert torch.equal(out, kept[:, None, None].float().expand_as(out) / 0.75)
    assert abs(kept.float().mean() - 0.75) < 5 * (0.25 * 0.75 / 4000) ** 0.5
    assert torch.equal(layer.eval()(out), out)


def test_drop_path_grows_linearly_over_the_blocks() -> None:
    model = Trunk(replace(SMALL, drop_path=0.4))
    assert [block.drop_path.rate for block in model.blocks] == pytest.approx([0.0, 0.2, 0.4])


def test_a_trunk_of_no_blocks_is_its_norm() -> None:
    model, x = trunk(replace(SMALL, depth=0)), noise(1, 2, 16)
    torch.testing.assert_close(
        run(model, x, AttentionPattern.full(ones(1, 2))), torch.nn.functional.layer_norm(x, (16,)), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_both_norms_build_and_run(norm: Any) -> None:
    model = trunk(replace(SMALL, norm=norm, norm_bias=False))
    assert not [name for name, _ in model.named_parameters() if "norm" in name and "bias" in name]
    assert torch.isfinite(run(model, noise(1, 2, 16), AttentionPattern.full(ones(1, 2)))).all()


# ------------------------------------------------------------------ rotary positions

ROTARY = replace(SMALL, num_kv_heads=2, norm="rmsnorm", activation="swiglu", mlp_hidden_dim=20, rope_theta=100.0)


def test_a_gated_mlp_may_have_any_width() -> None:
    mlp = Mlp(ROTARY)
    assert mlp.fc1.weight.shape == (20, 16)
    assert mlp.fc3 is not None
    assert mlp.fc3.weight.shape == (20, 16)


def test_channels_turn_in_pairs_half_a_head_apart() -> None:
    """As complex numbers x_i + j x_(i + d/2), times exp(j n theta^(-2i/d)) (Su et al. 2021)."""
    x = noise(2, 3, 5, 8)
    position = places(7, 5, x.device)
    turned = Rotary.at(position, 8, 100.0).turn(x)
    angle = position[:, None].double() * 100.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    expected = torch.complex(x[..., :4].double(), x[..., 4:].double()) * torch.exp(1j * angle)
    torch.testing.assert_close(turned, torch.cat([expected.real, expected.imag], -1).float(), atol=1e-5, rtol=1e-5)
    assert position.tolist() == [7, 8, 9, 10, 11]


def test_with_rotary_positions_order_matters_and_distance_alone() -> None:
    model, x = trunk(ROTARY), noise(1, 6, 16)
    seen = AttentionPattern.full(ones(1, 6))
    turned = run(model, x.flip(1), seen).flip(1)
    assert (turned - run(model, x, seen)).abs().max() > 1e-3
    documents = AttentionPattern.causal(ones(1, 6)).separate(torch.tensor([[0, 0, 0, 1, 1, 1]]))
    late = run(model, torch.cat([noise(1, 3, 16, seed=1), x[:, :3]], 1), documents)[:, 3:]
    torch.testing.assert_close(late, run(model, x[:, :3], AttentionPattern.causal(ones(1, 3))), atol=1e-5, rtol=1e-5)


def test_rotary_positions_go_on_in_a_cache_and_in_runs() -> None:
    model, x = trunk(ROTARY), noise(2, 7, 16)
    whole = run(model, x, AttentionPattern.causal(ones(2, 7)))
    cache = KVCache(3)
    parts = []
    for start, stop in ((0, 3), (3, 4), (4, 7)):
        reach = torch.arange(start + 1, stop + 1, dtype=torch.int32).expand(2, -1)
        group = torch.zeros(2, stop, dtype=torch.int32)
        pattern = AttentionPattern(reach=reach, group=group[:, start:], key_group=group)
        parts.append(cast(Tensor, model(x[:, start:stop], attention=pattern, cache=cache)))
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=1e-5)
    rows = Runs((4, 3, 2), (4, 3, 2), (True,) * 3, (7, 2), (7, 2))
    packed = AttentionPattern.causal(ones(2, 7)).separate(torch.tensor([[0] * 4 + [1] * 3, [0] * 2 + [1] * 5]))
    expected = run(model, x, packed)
    found = run(trunk(replace(ROTARY, backend="runs")), x, replace(packed, runs=rows))
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1, :2], expected[1, :2], atol=1e-5, rtol=1e-5)


def test_rotary_positions_need_pairs_of_channels() -> None:
    with pytest.raises(ConfigError, match="a head has 3"):
        TrunkConfig(dim=12, depth=1, num_heads=4, rope_theta=10.0)


def test_linear_layers_may_start_normal() -> None:
    model = Trunk(replace(ROTARY, dim=64, mlp_hidden_dim=64))
    initialise(model, 0, std=0.02)
    assert model.blocks[0].attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.05)  # type: ignore[union-attr]


RELATIVE = replace(SMALL, relative_buckets=4, relative_distance=8)


@pytest.mark.parametrize("backend", ["math", "sdpa"])
def test_biases_by_distance_are_added_to_the_scores_of_every_block(backend: Any) -> None:
    model, x = trunk(replace(RELATIVE, backend=backend, depth=1)), noise(2, 6, 16)
    pattern = AttentionPattern.causal(ones(2, 6))
    block = cast(Any, model.blocks[0])

    found = run(model, x, pattern)

    q, k, v = block.attn.qkv(block.norm1(x)).view(2, 6, 3, 4, 4).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-2, -1) * 4**-0.5
    for i in range(6):
        for j in range(i + 1):
            scores[:, :, i, j] += cast(Any, model.relative).weight[[0, 1, 2, 2, 3, 3][i - j]]
    scores = scores.masked_fill(~ones(6, 6).tril(), -torch.inf)
    hidden = x + block.attn.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    assert torch.allclose(found, model.norm(hidden + block.mlp(block.norm2(hidden))), atol=1e-5)


def test_biases_by_distance_go_on_where_a_cache_ends() -> None:
    model, x = trunk(RELATIVE), noise(1, 7, 16)
    cache = KVCache(3)

    steps = [
        run(model, x[:, a:b], AttentionPattern.causal_after(a, ones(1, b - a)), cache=cache)
        for a, b in ((0, 3), (3, 4), (4, 7))
    ]

    assert torch.allclose(torch.cat(steps, 1), run(model, x, AttentionPattern.causal(ones(1, 7))), atol=1e-5)


def test_biases_by_distance_are_refused_by_a_kernel_that_takes_none() -> None:
    with pytest.raises(ConfigError, match="relative_buckets.*backend flex: use auto"):
        run(trunk(replace(RELATIVE, backend="flex")), noise(1, 4, 16), AttentionPattern.causal(ones(1, 4)))


def test_a_context_may_have_a_width_of_its_own_and_no_norm() -> None:
    wide = trunk(replace(SMALL, cross_attention=True, context_dim=10))
    plain = trunk(replace(SMALL, cross_attention=True, context_dim=10, context_norm=False))

    assert run(wide, noise(2, 3, 16), AttentionPattern.causal(ones(2, 3)), context=noise(2, 5, 10)).shape == (2, 3, 16)
    assert wide.state_dict().keys() - plain.state_dict().keys() == {
        f"blocks.{i}.context_norm.{leaf}" for i in range(3) for leaf in ("weight", "bias")
    }
