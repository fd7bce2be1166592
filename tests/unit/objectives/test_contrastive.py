"""The contrastive losses against plain formulas, and who is compared with whom."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fourm.errors import ConfigError, DataError
from fourm.modality import ModalitySet
from fourm.objectives.contrastive import ContrastiveObjective, Sides
from fourm.objectives.contrastive_config import ContrastiveObjectiveConfig
from fourm.rng import generator

SCALE, BIAS = 3.0, -1.5


class Told(nn.Module):
    """Vectors that are given, and no towers."""

    def __init__(self, **vectors: Tensor) -> None:
        super().__init__()
        self.vectors = {name: nn.functional.normalize(v, dim=1).requires_grad_() for name, v in vectors.items()}
        self.logit_bias = torch.tensor(BIAS)

    def forward(self, inputs: Any, valid: Any) -> dict[str, Tensor]:
        return {name: self.vectors[name] for name in inputs}

    def scale(self) -> Tensor:
        return torch.tensor(SCALE)


def objective(modalities: ModalitySet, *pairs: tuple[str, str], **options: Any) -> ContrastiveObjective:
    names = dict.fromkeys(name for pair in pairs for name in pair)
    config = ContrastiveObjectiveConfig(list(pairs), **options)
    return ContrastiveObjective(config, modalities.subset(list(names)))


def samples(number: int, *names: str, same: tuple[int, int] | None = None) -> list[dict[str, Any]]:
    """Random ones; two of them may have the same caption."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(number):
        values = {
            "rgb": rng.standard_normal((3, 8, 8)).astype(np.float32),
            "depth": rng.permutation(16),
            "caption": rng.integers(300, 600, rng.integers(2, 9)),
            "facts": [rng.integers(300, 600, 2) for _ in range(3)],
            "vectors": rng.standard_normal((int(rng.integers(1, 6)), 7)),
        }
        found.append({name: values[name] for name in names})
    if same is not None:
        found[same[1]]["caption"] = found[same[0]]["caption"]
    return found


def batch(asked: ContrastiveObjective, given: list[dict[str, Any]]) -> Sides:
    return asked.collate([asked.prepare(sample, generator(0)) for sample in given])


def vectors(*names: str, number: int = 5) -> Told:
    torch.manual_seed(1)
    return Told(**{name: torch.randn(number, 4) for name in names})


def plain_softmax(a: Tensor, b: Tensor, fits: Tensor) -> Tensor:
    """Mean over both directions of -sum_j share_j log p_j, row by row."""
    total = torch.zeros(())
    for x, y, fit in ((a, b, fits), (b, a, fits.T)):
        for row, own in zip(SCALE * x @ y.T, fit):
            total = total - (row - row.logsumexp(0))[own].mean() / 2
    return total / len(a)


def plain_sigmoid(a: Tensor, b: Tensor, fits: Tensor) -> Tensor:
    """SigLIP's pseudo-code: -sum log sigmoid(z (t x.y + b)) / n, where z is 1 for what fits and -1 else."""
    signs = fits.float() * 2 - 1
    return -torch.sigmoid(signs * (SCALE * a @ b.T + BIAS)).log().sum() / len(a)


@pytest.mark.parametrize(("loss", "plain"), [("softmax", plain_softmax), ("sigmoid", plain_sigmoid)])
@pytest.mark.parametrize("equal_texts", [True, False])
def test_the_loss_is_the_published_formula_and_equal_texts_fit(
    modalities: ModalitySet, loss: Any, plain: Any, equal_texts: bool
) -> None:
    asked = objective(modalities, ("rgb", "caption"), loss=loss, equal_texts=equal_texts)
    given = batch(asked, samples(5, "rgb", "caption", same=(1, 3)))
    model = vectors("rgb", "caption")
    fits = torch.eye(5, dtype=torch.bool)
    fits[1, 3] = fits[3, 1] = equal_texts

    found = asked.loss(model, given).scalar(asked.counts(given))

    torch.testing.assert_close(found, plain(model.vectors["rgb"], model.vectors["caption"], fits))


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_the_sides_of_a_pair_can_be_exchanged(modalities: ModalitySet, loss: Any) -> None:
    losses = []
    for pair in (("rgb", "caption"), ("caption", "rgb")):
        asked = objective(modalities, pair, loss=loss)
        given = batch(asked, samples(5, "rgb", "caption", same=(0, 4)))
        losses.append(asked.loss(vectors("rgb", "caption"), given).scalar(asked.counts(given)))

    torch.testing.assert_close(*losses)


def test_vectors_that_say_nothing_cost_the_logarithm_of_the_batch(modalities: ModalitySet) -> None:
    asked = objective(modalities, ("rgb", "caption"))
    given = batch(asked, samples(5, "rgb", "caption"))
    model = Told(rgb=torch.ones(5, 4), caption=torch.ones(5, 4))

    assert asked.loss(model, given).scalar(asked.counts(given)).item() == pytest.approx(math.log(5))


def test_samples_that_lack_a_side_are_no_part_of_its_pair(modalities: ModalitySet) -> None:
    asked = objective(modalities, ("rgb", "caption"), ("rgb", "depth"))
    whole = samples(5, "rgb", "caption", "depth")
    for n in (1, 2):
        del whole[n]["caption"]
    del whole[4]["depth"]
    given = batch(asked, whole)
    torch.manual_seed(1)
    model = Told(rgb=torch.randn(5, 4), caption=torch.randn(3, 4), depth=torch.randn(4, 4))

    found = asked.loss(model, given)

    assert asked.counts(given) == {"rgb~caption": 3.0, "rgb~depth": 4.0}
    rgb, eye = model.vectors["rgb"], torch.eye(5, dtype=torch.bool)
    for part, other, rows in (("rgb~caption", "caption", [0, 3, 4]), ("rgb~depth", "depth", [0, 1, 2, 3])):
        expected = plain_softmax(rgb[rows], model.vectors[other], eye[: len(rows), : len(rows)])
        torch.testing.assert_close(found.parts[part][0] / len(rows), expected)
    found.scalar(asked.counts(given)).backward()
    assert all(bool(v.grad is not None) for v in model.vectors.values())


def test_weights_are_factors_of_the_means_of_pairs(modalities: ModalitySet) -> None:
    names = ("rgb", "caption", "depth")
    plain, weighed = (
        objective(modalities, ("rgb", "caption"), ("rgb", "depth"), weights=w) for w in ({}, {0: 0.5, 1: 2.0})
    )
    given = batch(plain, samples(5, *names))
    parts = {name: total / 5 for name, (total, _) in plain.loss(vectors(*names), given).parts.items()}

    found = weighed.loss(vectors(*names), given).scalar(weighed.counts(given))

    torch.testing.assert_close(found, 0.5 * parts["rgb~caption"] + 2 * parts["rgb~depth"])


def test_towers_get_whole_images_grids_and_padded_sequences(modalities: ModalitySet) -> None:
    asked = objective(modalities, ("rgb", "caption"), ("depth", "vectors"), ("facts", "rgb"))
    whole = samples(2, "rgb", "caption", "depth", "vectors", "facts")
    whole[0]["caption"], whole[1]["caption"] = np.arange(300, 303), np.arange(300, 330)
    whole[0]["vectors"], whole[1]["vectors"] = np.ones((2, 7)), np.ones((4, 7))

    given = batch(asked, whole)

    assert given.inputs["rgb"].shape == (2, 3, 8, 8)
    assert given.inputs["depth"].tolist() == [list(whole[0]["depth"]), list(whole[1]["depth"])]
    end, longest = asked.special.end, modalities["caption"].num_tokens
    short = [300, 301, 302, end] + [-1] * (longest - 4)
    assert given.inputs["caption"].tolist() == [short, [*range(300, 299 + longest), end]]
    assert given.valid["vectors"].tolist() == [[True, True, False, False], [True] * 4]
    assert given.inputs["vectors"][0].sum().item() == 14
    assert given.inputs["facts"].shape == (2, 7)


def test_a_batch_without_a_modality_has_an_empty_tensor_of_its_form(modalities: ModalitySet) -> None:
    asked = objective(modalities, ("rgb", "caption"), ("depth", "vectors"))

    given = batch(asked, samples(2, "rgb", "caption"))

    assert given.inputs["depth"].shape == (0, 16)
    assert given.inputs["vectors"].shape == (0, 1, 7)
    assert asked.counts(given) == {"rgb~caption": 2.0, "depth~vectors": 0.0}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"rgb": np.zeros((3, 4, 4))}, "rgb"),
        ({"caption": np.array([900])}, "vocabulary"),
        ({"depth": np.full(16, -1)}, "places without a token"),
    ],
)
def test_a_sample_that_does_not_fit_is_named(modalities: ModalitySet, values: dict[str, Any], named: str) -> None:
    asked = objective(modalities, ("rgb", "caption"), ("depth", "rgb"))
    with pytest.raises(DataError, match=named):
        asked.prepare({**samples(1, "rgb", "caption", "depth")[0], **values}, generator(0))


def test_pairs_are_checked(modalities: ModalitySet) -> None:
    two = modalities.subset(["rgb", "caption"])
    for pairs, named in (
        ([], "empty"),
        ([("rgb", "rgb")], "itself"),
        ([("rgb", "caption"), ("caption", "rgb")], "twice"),
        ([("rgb", "captoin")], "Did you mean 'caption'"),
    ):
        with pytest.raises(ConfigError, match=named):
            ContrastiveObjective(ContrastiveObjectiveConfig(pairs), two)
    config = ContrastiveObjectiveConfig([("rgb", "caption")])
    with pytest.raises(ConfigError, match="'depth' is compared with nothing"):
        ContrastiveObjective(config, modalities.subset(["rgb", "caption", "depth"]))
    asked = ContrastiveObjective(config, two)
    with pytest.raises(ConfigError, match=r"data\.val\.datasets\.words has caption"):
        asked.check_data({"both": ["rgb", "caption"]}, {"words": ["caption"]})
