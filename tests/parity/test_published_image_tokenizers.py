"""The image tokenizers compute what the published networks compute on deterministic weights (golden numbers)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fourm
from tests.parity.rebuild import golden, values

pytestmark = pytest.mark.slow

MODALITIES = {
    "tok_rgb_16k_divae": "rgb_half@224",
    "tok_semseg_4k_vqvae": "semseg_coco@224",
    "tok_sam_instance_1k": "sam_mask",
    "tok_dinov2_global_8k": "dinov2_global@224",
}


def given(facts: dict[str, Any]) -> torch.Tensor:
    if "semseg" in facts["name"]:
        labels = np.random.Generator(np.random.PCG64(7)).integers(0, 134, (1, 14, 14))
        return torch.from_numpy(labels.repeat(16, 1).repeat(16, 2))
    return values(f"input.{facts['name']}", facts["expected"]["input_shape"], "normal:1.0")


@pytest.mark.parametrize("name", MODALITIES)
def test_ids_and_decoded_values_are_the_published_ones(hub, name):
    facts, tokenizer = golden(name), fourm.load_tokenizer(hub(name))
    expected = facts["expected"]
    assert tokenizer.modality.name == MODALITIES[name]
    # The sixteen codes of a vector come as a grid of 4 x 4, which is how the published transformer reads them.
    published = torch.tensor(expected["token_ids"]).reshape(-1, tokenizer.grid.height, tokenizer.grid.width)
    assert (tokenizer.encode(given(facts)) == published).float().mean() >= 0.995
    if facts["model_class"] == "DiVAE":
        found = tokenizer.denoise(values(f"noise.{name}", expected["decoded_shape"], "normal:1.0"), 500, published)
    else:
        found = tokenizer.decode(published, raw=True)
    found = found.flatten()[expected["decoded_flat_index"]]
    torch.testing.assert_close(found, torch.tensor(expected["decoded"]), rtol=0, atol=2e-3)
