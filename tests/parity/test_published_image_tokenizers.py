"""The image tokenizers compute what the published networks compute on deterministic weights (golden numbers)."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from fourm import catalog
from fourm.convert.ml4m_tokenizers import tokenizer_config, tokenizer_state
from fourm.modality import Modality
from fourm.registry import implementation

pytestmark = pytest.mark.slow

MODALITIES = {
    "tok_rgb_16k_divae": catalog.get("rgb_half@224"),
    "tok_semseg_4k_vqvae": catalog.get("semseg_coco@224"),
    "tok_sam_instance_1k": catalog.get("sam_mask"),
    "tok_dinov2_global_8k": catalog.get("dinov2_global@224"),
}


@pytest.fixture(scope="module")
def folder(checkout: Path) -> Path:
    path = Path(os.environ.get("FOURM_SHARED", checkout.parent / "shared")) / "goldens"
    if not (path / "fill.py").is_file():
        pytest.skip(f"no golden numbers at {path} (set FOURM_SHARED)")
    return path


def load_fill(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_fill", folder / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def published_model(golden: dict[str, Any], modality: Modality, fill: Any) -> Any:
    state = {key: torch.from_numpy(fill(key, *facts[:2])) for key, facts in golden["tensors"].items()}
    config = tokenizer_config(golden["config"], state)
    with torch.device("meta"):
        model = implementation(config.target)(modality, config)
    model.load_state_dict(tokenizer_state(state, model), assign=True)
    return model.eval()


def golden_input(golden: dict[str, Any], modality: Modality, fill: Any) -> torch.Tensor:
    if modality.is_discrete:
        labels = np.random.Generator(np.random.PCG64(7)).integers(0, 134, (1, 14, 14))
        return torch.from_numpy(labels.repeat(16, 1).repeat(16, 2))
    return torch.from_numpy(fill(f"input.{golden['name']}", golden["expected"]["input_shape"], "normal:1.0"))


@pytest.mark.parametrize("name", MODALITIES)
def test_ids_and_decoded_values_are_the_published_ones(folder, name):
    golden = json.loads((folder / f"{name}.json").read_text())
    fill, modality, expected = load_fill(folder).fill, MODALITIES[name], golden["expected"]
    model = published_model(golden, modality, fill)
    # The sixteen codes of a vector come as a grid of 4 x 4, which is how the published transformer reads them.
    published = torch.tensor(expected["token_ids"]).reshape(-1, model.grid.height, model.grid.width)
    ids = model.encode(golden_input(golden, modality, fill))
    assert (ids == published).float().mean() >= 0.995
    if golden["model_class"] == "DiVAE":
        noise = torch.from_numpy(fill(f"noise.{name}", expected["decoded_shape"], "normal:1.0"))
        values = model.denoise(noise, 500, published)
    else:
        values = model.decode(published, raw=True)
    values = values.flatten()[expected["decoded_flat_index"]]
    torch.testing.assert_close(values, torch.tensor(expected["decoded"]), rtol=0, atol=2e-3)
