from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fourm.errors import ConfigError
from fourm.tokenizers.memcodes import MemoryCodes
from fourm.tokenizers.quantizer_configs import MemcodesConfig


def make(num_heads: int = 4, codebook_size: int = 7, dim: int = 8, **options) -> MemoryCodes:
    torch.manual_seed(0)
    return MemoryCodes(MemcodesConfig(num_heads, codebook_size, dim, **options))


def by_hand(quantizer: MemoryCodes, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (heads, V) and values (heads, V, c) of one latent (d,), head by head."""
    heads = quantizer.config.num_heads
    width = len(latent) // heads
    logits, values = [], []
    for head in range(heads):
        query = latent[head * width : (head + 1) * width]
        keys = quantizer.codes[head] @ quantizer.to_k[head]
        logits.append(keys @ query / width**0.5)
        values.append(quantizer.codes[head] @ quantizer.to_v[head])
    return torch.stack(logits), torch.stack(values)


def test_each_head_takes_the_code_its_part_of_the_latent_attends_to_most():
    quantizer = make().eval()
    latent = torch.randn(8)
    logits, values = by_hand(quantizer, latent)
    result = quantizer(latent.view(1, 1, 1, 8))
    chosen = logits.argmax(-1)
    assert result.ids.flatten().tolist() == chosen.tolist()
    torch.testing.assert_close(result.vectors.flatten(), torch.cat([values[n, i] for n, i in enumerate(chosen)]))


@pytest.mark.parametrize(
    ("heads", "block"), [(1, (1, 1)), (4, (2, 2)), (6, (2, 3)), (7, (1, 7)), (8, (2, 4)), (16, (4, 4))]
)
def test_heads_form_the_block_nearest_to_a_square(heads, block):
    assert make(num_heads=heads, dim=2 * heads).block == block


def test_ids_of_a_place_lie_in_its_block_row_by_row():
    quantizer = make().eval()
    latents = torch.randn(1, 2, 3, 8)
    ids = quantizer.assign(latents)
    assert ids.shape == (1, 4, 6)
    for row in range(2):
        for column in range(3):
            expected = by_hand(quantizer, latents[0, row, column])[0].argmax(-1)
            found = ids[0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten()
            assert found.tolist() == expected.tolist()


def test_training_draws_from_the_softmax_of_the_logits():
    """Gumbel-max: the frequencies of a code over many samples are its probability."""
    quantizer = make(num_heads=2, codebook_size=3, dim=4)
    latent = torch.randn(4)
    count = 20_000
    ids = quantizer(latent.expand(count, 1, 1, 4), torch.arange(count)).ids.flatten(1)
    expected = by_hand(quantizer, latent)[0].softmax(-1)
    for head in range(2):
        found = torch.bincount(ids[:, head], minlength=3) / count
        torch.testing.assert_close(found, expected[head].detach(), atol=0.015, rtol=0)


def test_heads_draw_independently():
    quantizer = make(num_heads=2, codebook_size=2, dim=4)
    with torch.no_grad():
        quantizer.to_k.zero_()  # both codes alike
    ids = quantizer(torch.zeros(4000, 1, 1, 4), torch.arange(4000)).ids.flatten(1).float()
    assert abs(torch.corrcoef(ids.T)[0, 1].item()) < 0.06


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_forward_and_backward_are_those_of_the_hard_gumbel_softmax(temperature, monkeypatch):
    """Against torch's own, given the same noise."""
    quantizer = make(temperature=temperature)
    latents = torch.randn(2, 1, 1, 8, requires_grad=True)
    noise = -torch.log(-torch.log(torch.rand(2, 1, 1, 4, 7)))
    monkeypatch.setattr(quantizer, "_gumbel", lambda logits, seeds: noise)
    weight = torch.randn(2, 1, 1, 8)
    inputs = [latents, *quantizer.parameters()]
    vectors = quantizer(latents).vectors
    found = torch.autograd.grad((vectors * weight).sum(), inputs)

    keys = torch.einsum("nvd,ndc->nvc", quantizer.codes, quantizer.to_k)
    values = torch.einsum("nvd,ndc->nvc", quantizer.codes, quantizer.to_v)
    logits = torch.einsum("bhwnc,nvc->bhwnv", latents.unflatten(-1, (4, 2)), keys) / 2**0.5
    soft = ((logits + noise) / temperature).softmax(-1)
    hard = F.one_hot(soft.argmax(-1), 7) - soft.detach() + soft
    expected = torch.einsum("bhwnv,nvc->bhwnc", hard, values).flatten(-2)
    torch.testing.assert_close(vectors, expected)
    torch.testing.assert_close(found, torch.autograd.grad((expected * weight).sum(), inputs))


def test_other_seeds_draw_other_codes():
    quantizer = make(codebook_size=50)
    latents = torch.zeros(1, 4, 4, 8)
    one, again, other = (quantizer(latents, torch.tensor([seed])).ids for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert (one != other).float().mean() > 0.8


def test_assignment_in_pieces_equals_assignment_at_once(monkeypatch):
    quantizer = make()
    latents = torch.randn(2, 5, 5, 8)
    whole = quantizer.assign(latents)
    monkeypatch.setattr("fourm.tokenizers.memcodes.ROWS_AT_ONCE", 4 * 7 * 3)
    assert torch.equal(quantizer.assign(latents), whole)


def test_a_grid_that_does_not_divide_into_blocks_is_refused():
    with pytest.raises(ConfigError, match="1 x 4 ids does not divide into blocks of 2 x 2.*layout of its tokenizer"):
        make().lookup(torch.zeros(1, 1, 4, dtype=torch.int64))


def test_learns_to_tell_clusters_apart():
    """Two heads of two codes for four points: after training each point has ids of its own."""
    torch.manual_seed(0)
    points = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).view(4, 1, 1, 2)
    quantizer = make(num_heads=2, codebook_size=2, dim=4)
    into, out = torch.nn.Linear(2, 4), torch.nn.Linear(4, 2)
    optimizer = torch.optim.Adam([*quantizer.parameters(), *into.parameters(), *out.parameters()], lr=0.02)
    for step in range(300):
        seeds = torch.arange(64) + 64 * step
        batch = points.repeat(16, 1, 1, 1)
        loss = (out(quantizer(into(batch), seeds).vectors) - batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    quantizer.eval()
    assert (out(quantizer(into(points)).vectors) - points).square().mean() < 0.05
    assert len({tuple(row) for row in quantizer.assign(into(points)).flatten(1).tolist()}) == 4
