"""Tables in one row without padding: what goes where, who sees whom, and when it is done."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from fourm.nn.attention import attend
from fourm.nn.configs import TrunkConfig
from fourm.nn.packing import Packing, has_flex, packed_mask, packed_pattern, way_of
from fourm.nn.trunk import Trunk
from fourm.patterns import PACKED_BLOCK, AttentionPattern, Runs, packed_capacity

LENGTHS = (5, 0, 7, 2)
VALID = torch.arange(7) < torch.tensor(LENGTHS)[:, None]
SIZES = TrunkConfig(dim=32, depth=2, num_heads=2)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        yield


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def long_rows(count: int = 6, columns: int = 150, seed: int = 0) -> Tensor:
    """(B, N) bool, so many tokens that rows begin and end within and across blocks."""
    lengths = torch.randint(0, columns + 1, (count, 1), generator=torch.Generator().manual_seed(seed))
    return torch.arange(columns) < lengths


def patterns(valid: Tensor) -> dict[str, AttentionPattern]:
    """Every filling of the columns that the objectives make."""
    blocks = torch.arange(valid.shape[1]).expand_as(valid) // 3
    by = torch.arange(valid.shape[1]).expand_as(valid) % 3
    return {
        "full": AttentionPattern.full(valid),
        "causal": AttentionPattern.causal(valid),
        "blocks": AttentionPattern.blockwise(blocks, valid),
        "separate": AttentionPattern.blockwise(blocks, valid).separate(by),
    }


def test_tokens_of_all_rows_stand_one_after_the_other_and_come_back() -> None:
    packing, x = Packing.of(VALID, 16), noise(4, 7, 3)
    packed = packing.pack(x)
    assert packed.shape == (1, 16, 3)
    assert torch.equal(packed[0, :14], torch.cat([x[i, :n] for i, n in enumerate(LENGTHS)]))
    assert packing.column[:14].tolist() == [i for n in LENGTHS for i in range(n)]
    assert packing.used.tolist() == [True] * 14 + [False] * 2
    assert torch.equal(packing.unpack(packed), x * VALID[..., None])


def test_padding_may_stand_anywhere() -> None:
    valid = torch.tensor([[True, False, True], [False, True, False]])
    packing, x = Packing.of(valid, 4), noise(2, 3, 2)
    assert torch.equal(packing.pack(x)[0, :3], x[valid])
    assert torch.equal(packing.unpack(packing.pack(x)), x * valid[..., None])
    assert packing.before.tolist() == [[0, 1, 1, 2], [2, 2, 3, 3]]


def test_the_gradient_of_a_token_is_its_own_alone() -> None:
    packing = Packing.of(VALID, 16)
    x = noise(4, 7, 3).requires_grad_()
    (packing.unpack(packing.pack(x)) * noise(4, 7, 3, seed=1)).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, noise(4, 7, 3, seed=1) * VALID[..., None])


@pytest.mark.parametrize("kind", ["full", "causal", "blocks", "separate"])
def test_tokens_see_in_the_row_whom_they_see_in_the_table(kind: str) -> None:
    pattern, packing = patterns(VALID)[kind], Packing.of(VALID, 16)
    dense = packed_pattern(pattern, packing, packing).dense()[0]
    expected = torch.zeros(16, 16, dtype=torch.bool)
    own = pattern.dense()
    begin = 0
    for i, n in enumerate(LENGTHS):
        expected[begin : begin + n, begin : begin + n] = own[i, :n, :n]
        begin += n
    assert torch.equal(dense, expected)


@pytest.mark.parametrize("kind", ["full", "causal", "blocks", "separate", "cross"])
@pytest.mark.parametrize("seed", range(3))
def test_flex_attention_of_the_row_is_attention_of_the_table(kind: str, seed: int) -> None:
    valid, keys = long_rows(seed=seed), long_rows(columns=90, seed=seed + 9)
    pattern = AttentionPattern.cross(valid, keys) if kind == "cross" else patterns(valid)[kind]
    keys = keys if kind == "cross" else valid
    ours, theirs = (Packing.of(v, packed_capacity(int(v.sum()), v.numel())) for v in (valid, keys))
    packed = packed_pattern(pattern, ours, theirs)
    query, key, value = (noise(1, p.source.shape[0], 64, seed=i) for i, p in enumerate((ours, theirs, theirs)))
    q, k, v = (x.unflatten(-1, (4, 16)).transpose(1, 2) for x in (query, key, value))
    with torch.no_grad():
        mask = packed_mask(packed, "packed", torch.float32)
        assert mask.backend == "flex"
        found = ours.unpack(attend(q, k, v, mask).transpose(1, 2).flatten(2))
    own = pattern.dense()
    expected = torch.zeros_like(found)
    for i in range(len(valid)):
        scores = (q[0, :, ours.target[i]] @ k[0, :, theirs.target[i]].transpose(1, 2)) / 4
        scores = scores.masked_fill(~own[i], -torch.inf).softmax(-1).nan_to_num(0.0)
        expected[i] = (scores @ v[0, :, theirs.target[i]]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(found, expected * valid[..., None], rtol=1e-5, atol=1e-6)


def test_blocks_that_nobody_sees_are_not_computed() -> None:
    valid = torch.ones(8, PACKED_BLOCK, dtype=torch.bool)
    packing = Packing.of(valid, 8 * PACKED_BLOCK)
    with torch.no_grad():
        mask = packed_mask(packed_pattern(AttentionPattern.full(valid), packing, packing), "packed", torch.float32)
    assert mask.allowed.kv_num_blocks.flatten().tolist() == [1] * 8
    assert mask.allowed.kv_indices[0, 0, :, 0].tolist() == list(range(8))
    assert mask.allowed.sparsity() == pytest.approx(87.5)


@pytest.mark.parametrize("options", [{}, {"rope_theta": 100.0}, {"num_kv_heads": 1, "qk_norm": True, "head_dim": 16}])
@pytest.mark.parametrize("train", [True, False])
def test_a_trunk_computes_the_same_without_padding(options: dict[str, Any], train: bool) -> None:
    valid, keys = long_rows(), long_rows(columns=40, seed=3)
    keys[:, 0] = True
    known = {"capacity": packed_capacity(int(valid.sum()), valid.numel())}
    attention = replace(AttentionPattern.causal(valid), **known)
    cross = AttentionPattern.cross(valid, keys, **known, key_capacity=packed_capacity(int(keys.sum()), keys.numel()))
    results = []
    for backend in ("math", "packed"):
        torch.manual_seed(0)
        model = Trunk(replace(SIZES, cross_attention=True, backend=backend, **options))
        x, context = noise(6, 150, 32).requires_grad_(), noise(6, 40, 32, seed=1).requires_grad_()
        with torch.set_grad_enabled(train):
            out = cast(Tensor, model(x, attention=attention, context=context, cross=cross)) * valid[..., None]
        if train:
            (out * noise(6, 150, 32, seed=2)).sum().backward()
            out = torch.cat([out.flatten(), *(p.grad.flatten() for p in (x, context, *model.parameters()))])  # type: ignore[union-attr]
        results.append(out.detach())
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


def test_the_row_has_few_lengths() -> None:
    """A batch of 128 samples whose tables are filled more or less: a handful of kernels serve them all."""
    sizes = [128 * columns for columns in (126, 127, 128)]
    found = {packed_capacity(tokens, size) for size in sizes for tokens in range(12_500, 13_500, 7)}
    assert found == {13312, 14336}
    for size in (1, 100, 512, 16384, 1_000_000):
        for share in (0.0, 0.3, 1.0):
            tokens = int(share * size)
            capacity = packed_capacity(tokens, size)
            assert capacity % PACKED_BLOCK == 0
            assert tokens <= capacity <= tokens + max(PACKED_BLOCK, size / 15)


def test_registers_have_room_too() -> None:
    pattern = replace(AttentionPattern.full(VALID), capacity=128)
    assert pattern.prepend(3).capacity == 256
    assert AttentionPattern.full(VALID).prepend(3).capacity is None
    assert pattern.separate(torch.zeros_like(pattern.group)).capacity == 128


RUNS = Runs((1,), (1,), (False,), (1,), (1,))


@pytest.mark.parametrize(
    ("backend", "device", "columns", "known", "flex", "way"),
    [
        ("auto", "cpu", 128, {"runs": RUNS, "capacity": 1024}, True, "padded"),
        ("auto", "cpu", 256, {"runs": RUNS, "capacity": 1024}, True, "runs"),
        ("auto", "cpu", 256, {"capacity": 1024}, True, "padded"),
        ("auto", "cuda", 128, {"runs": RUNS, "capacity": 1920}, True, "packed"),
        ("auto", "cuda", 128, {"runs": RUNS, "capacity": 1920}, False, "padded"),
        ("auto", "cuda", 128, {"runs": RUNS, "capacity": 2048}, True, "padded"),  # there is no padding to leave out
        ("auto", "cuda", 128, {"runs": RUNS}, True, "padded"),
        ("auto", "meta", 256, {"runs": RUNS, "capacity": 1024}, True, "padded"),
        ("auto", "mps", 256, {"runs": RUNS, "capacity": 1024}, False, "padded"),
        ("sdpa", "cuda", 128, {"runs": RUNS, "capacity": 1024}, True, "padded"),
        ("runs", "cuda", 128, {"runs": RUNS, "capacity": 1024}, True, "runs"),
        ("runs", "cpu", 128, {"capacity": 1024}, True, "padded"),
        ("packed", "cpu", 128, {"runs": RUNS, "capacity": 2048}, False, "packed"),
        ("packed", "cuda", 128, {"runs": RUNS}, True, "padded"),
    ],
)
def test_what_is_done_with_padding(
    backend: Any, device: str, columns: int, known: dict[str, Any], flex: bool, way: str
) -> None:
    pattern = replace(AttentionPattern.full(torch.ones(16, columns, dtype=torch.bool)), **known)
    assert way_of(backend, device, (16, columns), pattern, flex=flex) == way


def test_without_a_backward_pass_no_kernel_is_compiled_unasked() -> None:
    pattern = replace(AttentionPattern.full(torch.ones(16, 128, dtype=torch.bool)), capacity=1024)
    assert way_of("auto", "cuda", (16, 128), pattern, flex=True, learns=False) == "padded"
    assert way_of("packed", "cuda", (16, 128), pattern, flex=True, learns=False) == "packed"


def test_packed_is_padded_where_a_gpu_has_no_flex_attention() -> None:
    pattern = replace(AttentionPattern.full(torch.ones(16, 128, dtype=torch.bool)), capacity=1024)
    assert way_of("packed", "cuda", (16, 128), pattern, flex=False) == "padded"


@pytest.mark.parametrize(
    ("capability", "head_bytes", "has"),
    [
        ((7, 5), 128, False),
        ((8, 0), 128, True),
        ((8, 0), 256, True),  # 128 channels in bfloat16
        ((8, 0), 512, False),
        ((8, 0), 16, False),
        ((8, 6), 128, True),
        ((8, 9), 256, False),  # there is no room for the backward pass
        ((9, 0), 256, True),
        ((12, 0), 256, False),
    ],
)
def test_which_gpus_have_flex_attention(
    capability: tuple[int, int], head_bytes: int, has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr("fourm.nn.packing._HAS_TRITON", True)
    assert has_flex(torch.device("cuda", 0), head_bytes) is has
    assert not has_flex(torch.device("cpu"), head_bytes)
    monkeypatch.setattr("fourm.nn.packing._HAS_TRITON", False)
    assert not has_flex(torch.device("cuda", 0), head_bytes)


@pytest.mark.parametrize("part", ["trunk", "blocks"])
def test_what_is_compiled_serves_batches_of_other_lengths(part: str) -> None:
    """It is not compiled again when rows have other lengths but the same room, and at most once for another room."""
    torch.compiler.reset()
    model = Trunk(replace(SIZES, backend="packed")).eval()
    expected = Trunk(replace(SIZES, backend="math")).eval()
    expected.load_state_dict(model.state_dict())
    graphs = []

    def keep(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    for module in [model] if part == "trunk" else model.blocks:
        module.compile(backend=keep, fullgraph=True)
    counts = []
    for seed, capacity in enumerate([896, 896, 896, 1024, 1152, 896, 1024]):
        valid = long_rows(8, 128, seed=seed + 20)
        pattern = replace(AttentionPattern.full(valid), runs=Runs((seed,), (seed,), (False,), (seed,), (seed,)))
        x = noise(8, 128, 32, seed=seed)
        with torch.no_grad():
            found = model(x, attention=replace(pattern, capacity=capacity))
            known = expected(x, attention=pattern)
        torch.testing.assert_close(found * valid[..., None], known * valid[..., None], rtol=1e-4, atol=1e-5)
        counts.append(len(graphs))
    assert counts == [counts[0]] * 3 + [counts[3]] * 4
