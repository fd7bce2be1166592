from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from fourm.catalog import get
from fourm.data.transforms import normalize
from fourm.errors import ConfigError
from fourm.layouts import Continuous, Grid
from fourm.modality import Modality
from fourm.tokenizers.units import to_natural


@pytest.mark.parametrize("name", ["rgb@64", "rgb@224", "depth@64", "image@28", "rgb_unit@256"])
def test_undoes_the_normalization_of_the_data(name, rng):
    undone(get(name), rng)


def test_undoes_the_normalization_of_clip(rng):
    undone(dataclasses.replace(get("rgb@64"), normalization="clip"), rng)


def undone(modality, rng):
    low, high = modality.value_range
    natural = rng.uniform(low, high, (modality.channels, 4, 4)).astype(np.float32)
    back = to_natural(torch.from_numpy(normalize(natural, modality))[None], modality)[0]
    np.testing.assert_allclose(back, natural, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["image@28", "rgb_unit@256"])
def test_colours_are_clamped_to_their_range(name):
    values = to_natural(torch.tensor([-3.0, 3.0]).reshape(1, 1, 1, 2), get(name))
    assert values.flatten().tolist() == [0.0, 1.0]


def test_log_depth_has_the_geometric_mean_in_the_middle():
    low, high = get("depth@64").value_range
    metres = to_natural(torch.zeros(1, 1, 1, 1), get("depth@64"))
    assert metres.item() == pytest.approx(math.sqrt(low * high))


def test_normals_have_length_one():
    normals = to_natural(torch.randn(2, 3, 4, 4), get("normal@64"))
    torch.testing.assert_close(normals.norm(dim=1), torch.ones(2, 4, 4))


def test_standardised_depth_stays_as_it_is():
    values = torch.randn(1, 1, 2, 2)
    assert torch.equal(to_natural(values, get("depth@224")), values)


def test_a_missing_value_range_is_named():
    modality = Modality("x", Grid(1, 1), Continuous(1), "x", "depth16", channels=1, normalization="half")
    with pytest.raises(ConfigError, match="'x' has normalization 'half' but no value_range"):
        to_natural(torch.zeros(1, 1, 1, 1), modality)


def test_photographs_range_from_nought_to_one_unless_they_say_otherwise():
    modality = Modality("x", Grid(1, 1), Continuous(1), "x", "gray", channels=1, normalization="half")
    assert to_natural(torch.full((1, 1, 1, 1), 0.5), modality).item() == 0.75


def test_features_have_no_unit_but_the_images_they_are_made_of_do():
    modality = Modality(
        "clip", Grid(2, 2, 8), Continuous(5), "rgb", "image",
        channels=3, value_range=(0.0, 1.0), normalization="imagenet", teacher="clip_b16",
    )  # fmt: skip
    features = torch.randn(2, 5, 2, 2)
    assert torch.equal(to_natural(features, modality), features)
    grey = torch.from_numpy(normalize(np.full((3, 1, 1), 0.5, np.float32), modality))[None]
    torch.testing.assert_close(to_natural(grey, modality), torch.full((1, 3, 1, 1), 0.5))
