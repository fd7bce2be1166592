"""Attention: one result in every backend, zero for a query that sees nothing, and a cache that changes nothing."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from fourm.nn.attention import Attention, AttentionMask, attend
from fourm.nn.cache import LayerCache
from fourm.nn.configs import Backend
from fourm.nn.init import initialise
from fourm.patterns import AttentionPattern, Runs

BACKENDS: list[Backend] = ["math", "sdpa", "flex"]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")


def tensors(*shape: int, count: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
    """The definition, query by query: the values of what is seen, weighted by exp(q k / sqrt d)."""
    out = torch.zeros_like(query)
    for b, q in torch.ones(allowed.shape[:2]).nonzero().tolist():
        seen = allowed[b, q]
        if seen.any():
            weight = (query[b, :, q, None] @ key[b][:, seen].mT / query.shape[-1] ** 0.5).exp()
            out[b, :, q] = (weight / weight.sum(-1, keepdim=True) @ value[b][:, seen])[:, 0]
    return out


PATTERNS = {
    "full": AttentionPattern.full(torch.tensor([[True] * 5, [True] * 3 + [False] * 2])),
    "causal": AttentionPattern.causal(torch.tensor([[True] * 5, [False] * 2 + [True] * 3])),
    "separate": AttentionPattern.full(torch.ones(2, 5, dtype=torch.bool)).separate(torch.tensor([[0, 0, 1, 1, 2]] * 2)),
    "nothing": AttentionPattern.full(torch.zeros(2, 5, dtype=torch.bool)),
    "cross": AttentionPattern.cross(
        torch.ones(2, 5, dtype=torch.bool), torch.tensor([[True, False, True], [False] * 3])
    ),
}


@pytest.mark.parametrize("backend", BACKENDS)
def test_without_a_pattern_all_see_all(backend: Backend) -> None:
    query, key, value = tensors(2, 3, 5, 8)
    everything = AttentionPattern.full(torch.ones(2, 5, dtype=torch.bool)).dense()
    out = attend(query, key, value, AttentionMask.prepare(None, backend, torch.float32))
    torch.testing.assert_close(out, softmax_attention(query, key, value, everything), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", PATTERNS)
def test_every_backend_follows_the_definition(backend: Backend, name: str) -> None:
    pattern = PATTERNS[name]
    query = tensors(2, 3, 5, 8)[0]
    key, value = tensors(2, 3, pattern.keys.shape[1], 8, count=2)
    out = attend(query, key, value, AttentionMask.prepare(pattern, backend, torch.float32))
    torch.testing.assert_close(out, softmax_attention(query, key, value, pattern.dense()), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_query_that_sees_nothing_yields_exactly_zero(backend: Backend) -> None:
    pattern = AttentionPattern(
        reach=torch.tensor([[5, 0, 5, 1, 5]]),
        group=torch.tensor([[0, 0, -1, 7, 0]]),
        key_group=torch.tensor([[0, 0, 0, 0, 0]]),
    )
    out = attend(*tensors(1, 2, 5, 4), AttentionMask.prepare(pattern, backend, torch.float32))
    assert (out[:, :, 1:4] == 0).all()  # no reach; padding; a group without keys
    assert (out[:, :, [0, 4]] != 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("queries", "keys"), [(0, 3), (3, 0), (0, 0)])
def test_empty_tables_are_no_special_case(backend: Backend, queries: int, keys: int) -> None:
    pattern = AttentionPattern.cross(torch.ones(2, queries, dtype=torch.bool), torch.ones(2, keys, dtype=torch.bool))
    query, (key, value) = tensors(2, 2, queries, 4)[0], tensors(2, 2, keys, 4, count=2)
    out = attend(query, key, value, AttentionMask.prepare(pattern, backend, torch.float32))
    assert out.shape == query.shape
    assert (out == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_fewer_key_heads_serve_several_query_heads_in_order(backend: Backend) -> None:
    query = tensors(1, 4, 3, 8)[0]
    key, value = tensors(1, 2, 3, 8, count=2)
    mask = AttentionMask.prepare(AttentionPattern.causal(torch.ones(1, 3, dtype=torch.bool)), backend, torch.float32)
    expected = attend(query, key[:, [0, 0, 1, 1]], value[:, [0, 0, 1, 1]], mask)
    torch.testing.assert_close(attend(query, key, value, mask), expected)


@pytest.mark.parametrize("backend", ["math", "sdpa"])  # FlexAttention has no backward pass on the CPU
def test_nothing_seen_gives_no_gradient_and_no_nan(backend: Backend) -> None:
    query, key, value = (t.requires_grad_() for t in tensors(2, 1, 3, 4))
    pattern = AttentionPattern.full(torch.tensor([[True, True, False], [False] * 3]))
    attend(query, key, value, AttentionMask.prepare(pattern, backend, torch.float32)).sum().backward()
    for tensor in (query, key, value):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert (tensor.grad[0, :, 2] == 0).all()
        assert (tensor.grad[1] == 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_scores_do_not_leak_past_the_mask(backend: Backend) -> None:
    query, key, value = (1e3 * t for t in tensors(1, 1, 4, 4))
    mask = AttentionMask.prepare(AttentionPattern.causal(torch.ones(1, 4, dtype=torch.bool)), backend, torch.float32)
    changed = value.clone()
    changed[:, :, 3] += 1.0
    assert torch.equal(attend(query, key, value, mask)[:, :, :3], attend(query, key, changed, mask)[:, :, :3])


def test_the_backend_is_chosen_by_device() -> None:
    pattern = AttentionPattern.full(torch.ones(1, 2, dtype=torch.bool))
    assert AttentionMask.prepare(pattern, "auto", torch.float32).backend == "math"
    assert AttentionMask.prepare(pattern.to("meta"), "auto", torch.float32).backend == "math"


def make(cross: bool = False, **options: object) -> Attention:
    layer = Attention(16, 4, cross=cross, **options)  # type: ignore[arg-type]
    initialise(layer, 0)
    return layer


@pytest.mark.parametrize("backend", BACKENDS)
def test_normalised_heads_work_in_half_precision(backend: Backend) -> None:
    layer = make(qk_norm=True)
    x = tensors(1, 3, 16)[0]
    mask = AttentionMask.prepare(AttentionPattern.causal(torch.ones(1, 3, dtype=torch.bool)), backend, torch.bfloat16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = layer(x, mask)
    whole = layer(
        x, AttentionMask.prepare(AttentionPattern.causal(torch.ones(1, 3, dtype=torch.bool)), "math", torch.float32)
    )
    torch.testing.assert_close(half.float(), whole, atol=0.05, rtol=0.05)


def test_normalised_heads_do_not_depend_on_the_scale_of_the_projection() -> None:
    layer = make(qk_norm=True, qkv_bias=False)
    x = tensors(1, 3, 16)[0]
    mask = AttentionMask.prepare(AttentionPattern.full(torch.ones(1, 3, dtype=torch.bool)), "math", torch.float32)
    before = layer(x, mask)
    with torch.no_grad():
        layer.qkv.weight[:32] *= 100  # queries and keys
    torch.testing.assert_close(layer(x, mask), before, atol=1e-4, rtol=1e-4)


def test_options_decide_which_parameters_exist() -> None:
    shapes = {n: tuple(p.shape) for n, p in make(num_kv_heads=2, qkv_bias=False, proj_bias=False).named_parameters()}
    assert shapes == {"qkv.weight": (16 + 2 * 8, 16), "proj.weight": (16, 16)}
    shapes = {
        n: tuple(p.shape)
        for n, p in make(cross=True, qk_norm=True, norm_bias=False, proj_bias=False).named_parameters()
    }
    assert shapes == {
        "q.weight": (16, 16), "q.bias": (16,), "kv.weight": (32, 16), "kv.bias": (32,), "proj.weight": (16, 16),
        "q_norm.weight": (4,), "k_norm.weight": (4,),
    }  # fmt: skip


def test_a_cache_collects_keys_and_values() -> None:
    cache = LayerCache()
    (a, b) = tensors(1, 2, 1, 4, count=2)
    cache.append(a, a)
    key, value = cache.append(b, 2 * b)
    assert torch.equal(key, torch.cat([a, b], 2))
    assert torch.equal(value, torch.cat([a, 2 * b], 2))


def test_the_keys_of_a_context_are_computed_once() -> None:
    layer, cache = make(cross=True), LayerCache()
    x, context = tensors(1, 3, 16, count=2)
    mask = AttentionMask.prepare(
        AttentionPattern.cross(*[torch.ones(1, 3, dtype=torch.bool)] * 2), "math", torch.float32
    )
    first = layer(x, mask, context, cache)
    again = layer(x, mask, None, cache)
    torch.testing.assert_close(first, again)
    assert cache.length == 3


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize(("queries", "keys"), [(2, 30), (9, 3)])
def test_few_queries_go_to_the_context_unprojected(
    queries: int, keys: int, kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    layer = Attention(32, 4, num_kv_heads=kv_heads, cross=True, context_dim=24, qkv_bias=False)
    x, context = torch.randn(2, queries, 32), torch.randn(2, keys, 24)
    mask = AttentionMask.prepare(None, "auto", torch.float32)
    projected = []
    layer.kv.register_forward_hook(lambda *_: projected.append(1))
    expected = layer(x, mask, context)
    with torch.no_grad():
        found = layer(x, mask, context)
    torch.testing.assert_close(found, expected.detach(), atol=1e-6, rtol=1e-5)
    assert len(projected) == (1 if queries < keys else 2)


@pytest.mark.parametrize("options", [{"qkv_bias": True}, {"qk_norm": True, "qkv_bias": False}])
def test_keys_with_biases_or_norms_are_projected(options: dict[str, bool]) -> None:
    layer = Attention(32, 4, cross=True, **options)
    projected = []
    layer.kv.register_forward_hook(lambda *_: projected.append(1))
    with torch.no_grad():
        layer(torch.randn(1, 1, 32), AttentionMask.prepare(None, "auto", torch.float32), torch.randn(1, 40, 32))
    assert projected


def test_cached_heads_lie_side_by_side() -> None:
    layer = Attention(32, 4, cross=True)
    cache = LayerCache()
    layer(torch.randn(2, 1, 32), AttentionMask.prepare(None, "auto", torch.float32), torch.randn(2, 5, 32), cache)
    assert cache.all is not None
    assert all(kept.is_contiguous() for kept in cache.all)


@pytest.mark.parametrize(("num_queries", "num_keys"), [(5, 7), (40, 40), (700, 700)], ids=["few", "square", "many"])
@pytest.mark.parametrize("causal", [False, True])
def test_a_run_in_bfloat16_is_attended_as_in_float32(num_queries: int, num_keys: int, causal: bool) -> None:
    """On CPU, short runs take two products and long ones the fused kernel: both are near."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, num_queries, 16, generator=generator)
    key, value = (torch.randn(1, 2, num_keys, 16, generator=generator) for _ in range(2))
    runs = Runs((num_queries,), (num_keys,), (causal and num_queries == num_keys,), (num_queries,), (num_keys,))
    mask = AttentionMask("runs", runs, None)
    exact = attend(query, key, value, mask)
    found = attend(query.bfloat16(), key.bfloat16(), value.bfloat16(), mask)
    assert (found.float() - exact).norm() < 0.02 * exact.norm()
