from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from fourm.tokenizers.ema import EmaQuantizer
from fourm.tokenizers.quantizer_configs import EmaConfig


def make(**options) -> EmaQuantizer:
    return EmaQuantizer(EmaConfig(**{"codebook_size": 8, "dim": 3, **options}))


def started(quantizer: EmaQuantizer, codebook: torch.Tensor, size: torch.Tensor, step: int = 1000) -> EmaQuantizer:
    """A quantizer in the middle of training, with the given codes and usage."""
    quantizer.codebook.copy_(codebook)
    quantizer.cluster_size.copy_(size)
    quantizer.cluster_sum.copy_(codebook * size[:, None])
    quantizer.step.fill_(step)
    return quantizer


def test_cosine_assigns_by_angle_whatever_the_lengths():
    quantizer = started(make(codebook_size=2, dim=2), torch.tensor([[10.0, 0.0], [0.0, 0.1]]), torch.ones(2))
    latents = torch.tensor([[[[1.0, 0.9], [0.9, 1.0], [100.0, 1.0], [0.001, 0.1]]]])
    assert quantizer.assign(latents).tolist() == [[[0, 1, 0, 1]]]


def test_euclidean_assigns_by_distance():
    codes = torch.tensor([[10.0, 0.0], [0.0, 0.1]])
    quantizer = started(make(codebook_size=2, dim=2, cosine=False), codes, torch.ones(2))
    latents = torch.tensor([[[[1.0, 0.9], [9.0, 9.0], [100.0, 1.0]]]])
    expected = torch.cdist(latents.reshape(-1, 2), codes).argmin(1)
    assert quantizer.assign(latents).flatten().tolist() == expected.tolist() == [1, 0, 0]


def test_assignment_in_pieces_equals_assignment_at_once(monkeypatch):
    quantizer = make(codebook_size=16)
    latents = torch.randn(2, 5, 5, 3)
    whole = quantizer.assign(latents)
    monkeypatch.setattr("fourm.tokenizers.ema.ROWS_AT_ONCE", 16 * 7)
    assert torch.equal(quantizer.assign(latents), whole)


@pytest.mark.parametrize("cosine", [True, False])
def test_one_step_moves_counts_sums_and_codes_as_the_formulas_say(cosine):
    torch.manual_seed(0)
    codes = F.normalize(torch.randn(4, 3), dim=-1)
    quantizer = started(make(codebook_size=4, cosine=cosine, decay=0.9, revive_below=0.0), codes, torch.full((4,), 2.0))
    latents = torch.randn(2, 2, 2, 3)
    ids = quantizer(latents).ids
    rows = latents.reshape(-1, 3)
    rows = F.normalize(rows, dim=-1) if cosine else rows
    one_hot = F.one_hot(ids.flatten(), 4).float()
    size = 0.9 * 2.0 + 0.1 * one_hot.sum(0)
    sums = 0.9 * codes * 2.0 + 0.1 * one_hot.T @ rows
    expected = F.normalize(sums, dim=-1) if cosine else sums / size[:, None]
    torch.testing.assert_close(quantizer.cluster_size, size)
    torch.testing.assert_close(quantizer.cluster_sum, sums)
    torch.testing.assert_close(quantizer.codebook, expected)
    assert quantizer.step.item() == 1001


def test_first_batch_gives_every_code_one_of_its_latents():
    quantizer = make(codebook_size=32, cosine=False)
    latents = torch.randn(4, 5, 5, 3)
    quantizer(latents)
    distance = (quantizer.codebook[:, None] - latents.reshape(-1, 3)).norm(dim=-1).min(1).values
    assert distance.max() < 1e-5


def test_first_batches_are_sequential_k_means():
    """Codes become the plain mean of the latents assigned to them in steps 1 to t, whatever the decay."""
    torch.manual_seed(0)
    centres = torch.tensor([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0]])
    quantizer = make(codebook_size=2, cosine=False, decay=0.999, revive_below=0.0)
    quantizer(centres.repeat(8, 1).reshape(1, 4, 4, 3))
    started(quantizer, centres, quantizer.cluster_size, step=1)  # both centres have a code
    batches = [centres.repeat(8, 1) + 0.1 * torch.randn(16, 3) for _ in range(6)]
    for batch in batches:
        quantizer(batch.reshape(1, 4, 4, 3))
    seen = torch.stack([centres.repeat(8, 1), *batches])
    expected = torch.stack([seen[:, 0::2].mean((0, 1)), seen[:, 1::2].mean((0, 1))])
    torch.testing.assert_close(quantizer.codebook, expected)


def test_unused_codes_restart_from_latents_of_the_batch_and_used_ones_stay():
    codes = torch.eye(3)[[0, 1, 2]]
    sizes = torch.tensor([5.0, 5.0, 1e-3])
    quantizer = started(make(codebook_size=3, cosine=False, revive_below=0.1), codes, sizes)
    latents = torch.tensor([0.9, 0.1, 0.0]).expand(1, 4, 4, 3) + 0.01 * torch.randn(1, 4, 4, 3)
    quantizer(latents)
    revived = quantizer.codebook[2]
    assert torch.cdist(revived[None], latents.reshape(-1, 3)).min() < 1e-6
    assert torch.dist(quantizer.codebook[0], codes[0]) < 0.05
    assert torch.equal(quantizer.codebook[1], codes[1])
    assert quantizer.cluster_size[2] == pytest.approx(16 / 3)


def test_without_revival_an_unused_code_keeps_its_place():
    quantizer = started(make(codebook_size=2, revive_below=0.0, dim=2), torch.eye(2), torch.tensor([4.0, 0.0]))
    quantizer(torch.tensor([1.0, 0.0]).expand(1, 2, 2, 2))
    torch.testing.assert_close(quantizer.codebook, torch.eye(2))


def test_all_codes_of_a_spread_out_input_come_into_use():
    torch.manual_seed(0)
    quantizer = make(codebook_size=64, dim=4)
    for _ in range(60):
        quantizer(torch.randn(4, 8, 8, 4))
    assert quantizer.usage()["used"] == 64
    assert quantizer.usage()["perplexity"] > 48


def test_gradients_pass_straight_through_and_the_commitment_pulls_latents_to_codes():
    quantizer = started(make(codebook_size=2, dim=2, cosine=False), torch.eye(2), torch.ones(2)).eval()
    latents = torch.tensor([[[[0.8, 0.1]]]], requires_grad=True)
    result = quantizer(latents)
    assert result.vectors.tolist() == [[[[1.0, 0.0]]]]
    weight = torch.tensor([3.0, -2.0])
    (gradient,) = torch.autograd.grad((result.vectors * weight).sum(), latents, retain_graph=True)
    torch.testing.assert_close(gradient.flatten(), weight)
    (gradient,) = torch.autograd.grad(result.commitment.sum(), latents)
    torch.testing.assert_close(
        gradient.flatten(), torch.tensor([0.8 - 1.0, 0.1])
    )  # mean over two channels of 2 (z - e)


def test_the_codebook_has_no_gradient_and_rests_in_evaluation():
    quantizer = make().eval()
    before = copy.deepcopy(quantizer.state_dict())
    quantizer(torch.randn(2, 3, 3, 3))
    assert not list(quantizer.parameters())
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def test_stays_in_float32_under_autocast():
    quantizer = make(codebook_size=64, dim=16)
    latents = torch.randn(2, 4, 4, 16)
    plain = copy.deepcopy(quantizer)(latents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = quantizer(latents)
    assert result.vectors.dtype == torch.float32
    assert torch.equal(result.ids, plain.ids)


def test_a_resumed_quantizer_goes_on_exactly():
    torch.manual_seed(0)
    batches = [torch.randn(2, 4, 4, 3) for _ in range(8)]
    straight = make(codebook_size=40)  # more codes than latents: revival all the time
    for batch in batches:
        straight(batch)
    first = make(codebook_size=40)
    for batch in batches[:4]:
        first(batch)
    torch.rand(100)  # the global generator must not matter
    second = make(codebook_size=40)
    second.load_state_dict(first.state_dict())
    for batch in batches[4:]:
        second(batch)
    assert all(torch.equal(value, straight.state_dict()[name]) for name, value in second.state_dict().items())


def test_the_seed_decides_which_latents_revive_codes():
    latents = torch.randn(4, 6, 6, 3)
    books = []
    for seed in (0, 0, 1):
        quantizer = make(seed=seed)
        quantizer(latents)
        books.append(quantizer.codebook.clone())
    assert torch.equal(books[0], books[1])
    assert not torch.equal(books[0], books[2])


def test_a_training_step_runs_on_meta_tensors():
    with torch.device("meta"):
        quantizer = make(kmeans_steps=3)
    latents = torch.randn(2, 4, 4, 3, device="meta", requires_grad=True)
    result = quantizer(latents)
    (result.vectors.sum() + result.commitment.sum()).backward()
    assert result.ids.shape == (2, 4, 4)
    assert quantizer.usage()["used"].device.type == "meta"


@pytest.mark.parametrize("cosine", [True, False])
def test_the_nearest_code_is_the_nearest_by_brute_force(cosine):
    torch.manual_seed(0)
    quantizer = started(make(codebook_size=50, dim=6, cosine=cosine), torch.randn(50, 6), torch.ones(50))
    latents = torch.randn(3, 4, 5, 6)
    found = quantizer.assign(latents)
    for place in ((0, 0, 0), (1, 2, 3), (2, 3, 4)):
        z = latents[place]
        if cosine:
            scores = [float(z @ e / (z.norm() * e.norm())) for e in quantizer.codebook]
        else:
            scores = [-float((z - e).square().sum()) for e in quantizer.codebook]
        assert found[place] == max(range(50), key=scores.__getitem__)


def test_an_update_by_hand():
    """Two codes on a line, decay 1/2: 0.5 * old + 0.5 * batch, in counts and in sums."""
    codes = torch.tensor([[0.0], [10.0]])
    options = {"codebook_size": 2, "dim": 1, "cosine": False, "decay": 0.5, "revive_below": 0.0}
    quantizer = started(make(**options), codes, torch.tensor([2.0, 4.0]))
    quantizer(torch.tensor([1.0, 3.0, 12.0]).view(1, 3, 1, 1))
    # counts: (0.5*2 + 0.5*2, 0.5*4 + 0.5*1); sums: (0.5*0 + 0.5*(1+3), 0.5*40 + 0.5*12)
    assert quantizer.cluster_size.tolist() == [2.0, 2.5]
    assert quantizer.cluster_sum.flatten().tolist() == [2.0, 26.0]
    assert quantizer.codebook.flatten().tolist() == pytest.approx([1.0, 10.4])


def test_the_commitment_of_directions_is_to_directions():
    """4M's loss: the mean square of the distance, the latent having length 1 first; also its gradient."""
    quantizer = started(make(codebook_size=2, dim=2), torch.eye(2), torch.ones(2)).eval()
    latents = torch.tensor([[[[3.0, 4.0]]]], requires_grad=True)
    result = quantizer(latents)
    assert result.ids.item() == 1
    assert result.commitment.item() == pytest.approx((0.6**2 + 0.2**2) / 2)
    (gradient,) = torch.autograd.grad(result.commitment.sum(), latents)
    assert (gradient.flatten() @ latents.flatten()).item() == pytest.approx(0.0, abs=1e-6)  # lengths are free


def test_latents_that_are_not_normalised_are_pulled_in_length_too():
    quantizer = started(make(codebook_size=2, dim=2, normalize_latents=False), torch.eye(2), torch.ones(2)).eval()
    result = quantizer(torch.tensor([[[[3.0, 4.0]]]]))
    assert result.ids.item() == 1
    assert result.commitment.item() == pytest.approx((3.0**2 + 3.0**2) / 2)


def lloyd(rows: torch.Tensor, codes: torch.Tensor, steps: int) -> torch.Tensor:
    """K-means in loops."""
    codes = codes.clone()
    for _ in range(steps):
        ids = torch.stack([(row - codes).square().sum(1).argmin() for row in rows])
        for code in range(len(codes)):
            if (ids == code).any():
                codes[code] = rows[ids == code].mean(0)
    return codes


def test_a_k_means_start_is_lloyds_algorithm_from_latents_of_the_batch():
    torch.manual_seed(0)
    latents = torch.randn(2, 5, 5, 3)
    plain = make(codebook_size=6, cosine=False, seed=3)
    plain(latents)  # without k-means the first codes are the drawn latents themselves
    quantizer = make(codebook_size=6, cosine=False, seed=3, kmeans_steps=4, revive_below=0.0)
    result = quantizer(latents)
    rows = latents.reshape(-1, 3)
    begun = lloyd(rows, plain.codebook, 4)
    torch.testing.assert_close(result.vectors, begun[torch.cdist(rows, begun).argmin(1)].view_as(latents))
    # The step itself moves the codes once more, to the means of what they were given.
    torch.testing.assert_close(quantizer.codebook, lloyd(rows, begun, 1))


@pytest.mark.parametrize("cosine", [True, False])
def test_a_k_means_start_finds_clusters(cosine):
    centres = F.normalize(torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [-1.0, 0, 0]]), dim=-1)
    noise = 0.01 * torch.randn(4, 64, 3, generator=torch.Generator().manual_seed(0))
    latents = (centres[:, None] + noise).reshape(4, 8, 8, 3)
    quantizer = make(codebook_size=24, cosine=cosine, kmeans_steps=10, revive_below=0.0)
    error = quantizer(latents).commitment.mean()
    assert error < 0.01**2
    assert torch.cdist(centres, quantizer.codebook).min(1).values.max() < 0.03


def test_a_start_happens_once_and_not_again_after_resuming():
    torch.manual_seed(0)
    batches = [torch.randn(2, 4, 4, 3) for _ in range(4)]
    straight = make(kmeans_steps=5)
    for batch in batches:
        straight(batch)
    first, second = make(kmeans_steps=5), make(kmeans_steps=5)
    for batch in batches[:2]:
        first(batch)
    second.load_state_dict(first.state_dict())
    for batch in batches[2:]:
        second(batch)
    assert all(torch.equal(value, straight.state_dict()[name]) for name, value in second.state_dict().items())
