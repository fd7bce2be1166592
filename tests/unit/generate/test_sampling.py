import numpy as np
import pytest
import torch

from fourm.generate.sampling import categorical, draw, expected_embedding, guide, keep_top_k, keep_top_p

LOGITS = torch.tensor([[0.1, 0.4, 0.2, 0.25, 0.05]]).log()


def kept(logits: torch.Tensor) -> list[int]:
    return logits[0].isfinite().nonzero()[:, 0].tolist()


def test_guidance_of_one_is_the_condition() -> None:
    unconditional, conditional = torch.randn(2, 3), torch.randn(2, 3)
    torch.testing.assert_close(guide(unconditional, [conditional], [1.0]), conditional)


def test_guidance_extrapolates_from_the_unconditional_logits() -> None:
    guided = guide(torch.tensor([1.0, 2.0]), [torch.tensor([2.0, 2.0])], [3.0])
    assert guided.tolist() == [4.0, 2.0]


def test_guidance_adds_up_over_conditions_and_weights_may_be_negative() -> None:
    guided = guide(torch.tensor([1.0]), [torch.tensor([3.0]), torch.tensor([2.0])], [2.0, -1.0])
    assert guided.tolist() == [1.0 + 2 * 2 - 1]


def test_top_k_keeps_so_many() -> None:
    assert kept(keep_top_k(LOGITS, 2)) == [1, 3]


def test_top_k_keeps_exactly_so_many_of_equals() -> None:
    assert len(kept(keep_top_k(torch.zeros(1, 6), 4))) == 4


def test_a_top_k_below_one_is_a_share_of_the_vocabulary() -> None:
    assert kept(keep_top_k(LOGITS, 0.6)) == [1, 2, 3]
    assert kept(keep_top_k(LOGITS, 0.01)) == [1]


def test_top_k_beyond_the_vocabulary_keeps_all() -> None:
    assert kept(keep_top_k(LOGITS, 99)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("share", "expected"), [(0.3, [1]), (0.45, [1, 3]), (0.7, [1, 2, 3]), (1.0, [0, 1, 2, 3, 4])])
def test_top_p_keeps_the_smallest_set_that_reaches_the_share(share: float, expected: list[int]) -> None:
    assert kept(keep_top_p(LOGITS, share)) == expected


def test_top_p_is_the_same_for_vocabularies_too_large_to_sort() -> None:
    scale = torch.tensor([[0.1], [8.0], [0.2], [4.0]])  # flat and peaked
    logits = scale * torch.randn(4, 3000, generator=torch.Generator().manual_seed(0))
    kept = keep_top_p(logits, 0.9).isfinite()
    ordered, order = logits.softmax(-1).sort(descending=True)
    expected = torch.zeros_like(kept).scatter(-1, order, ordered.cumsum(-1) - ordered < 0.9)
    assert torch.equal(kept, expected)
    assert (kept.sum(-1) > 512).tolist() == [True, False, True, False]


def test_a_draw_inverts_the_distribution_function() -> None:
    probabilities = torch.tensor([0.1, 0.4, 0.2, 0.3]).expand(5, 4)
    uniforms = torch.tensor([0.05, 0.11, 0.49, 0.51, 0.99])
    assert categorical(probabilities, uniforms).tolist() == [0, 1, 1, 2, 3]


def test_a_draw_at_the_very_end_never_takes_a_token_without_probability() -> None:
    assert categorical(torch.tensor([[0.5, 0.5, 0.0, 0.0]]), torch.tensor([1.0])).tolist() == [1]


def test_draws_have_the_frequencies_of_the_distribution() -> None:
    uniforms = (torch.arange(1000)[None] + 0.5) / 1000
    drawn = draw(LOGITS.expand(1, 1000, 5), uniforms, 1.0)
    assert torch.bincount(drawn.ids[0], minlength=5).tolist() == [100, 400, 200, 250, 50]


def test_temperature_zero_takes_the_most_probable_token() -> None:
    drawn = draw(LOGITS[None], torch.tensor([[0.999]]), 0.0)
    assert drawn.ids.tolist() == [[1]]
    torch.testing.assert_close(drawn.confidence, torch.tensor([[0.4]]))


def test_temperature_sharpens_after_the_filter() -> None:
    drawn = draw(LOGITS[None], torch.tensor([[0.5]]), 0.5, top_k=2)
    torch.testing.assert_close(drawn.confidence, torch.tensor([[0.4**2 / (0.4**2 + 0.25**2)]]))


def test_every_sample_may_have_a_temperature_of_its_own() -> None:
    logits = LOGITS.expand(2, 1, 5)
    drawn = draw(logits, torch.full((2, 1), 0.999), np.array([0.0, 1.0]))
    assert drawn.ids[:, 0].tolist() == [1, 4]


def test_the_expected_code_is_the_weighted_mean() -> None:
    codebook = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    assert expected_embedding(torch.tensor([[0.25, 0.75]]), codebook).tolist() == [[1.5, 2.5]]
