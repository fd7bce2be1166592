"""The ViT tokenizer computes what the published networks compute on deterministic weights (golden numbers)."""

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

from fourm.modality import Continuous, Discrete, Grid, Modality
from fourm.tokenizers.configs import EmaConfig, ViTConfig, VQVAEConfig
from fourm.tokenizers.vqvae import VQVAE

pytestmark = pytest.mark.slow

MODALITIES = {
    "tok_semseg_4k_vqvae": Modality("semseg", Grid(224, 224, 1), Discrete(134), "semseg", "labels"),
    "tok_sam_instance_1k": Modality("sam", Grid(4, 4, 16), Continuous(256), "sam", "gray", channels=1),
}
RENAMED = [
    ("coder.blocks.", "coder.blocks.trunk.blocks."),
    ("coder.pos_emb", "coder.blocks.pos_emb"),
    ("coder.norm_mlp", "coder.blocks.norm_mlp"),
    ("coder.post_mlp", "coder.blocks.post_mlp"),
    ("cls_emb", "class_embedding"),
    ("quantize._codebook.embed", "quantizer.codebook"),
    ("quantize._codebook.cluster_size", "quantizer.cluster_size"),
]
BEGUN_HERE = {"quantizer.cluster_sum", "quantizer.step"}


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


def published_model(golden: dict[str, Any], modality: Modality, fill: Any) -> VQVAE:
    config = golden["config"]
    positions = golden["tensors"]["encoder.pos_emb"][0][-1]
    encoder = ViTConfig(768, 12, 12, config["patch_size"], grid_size=positions)
    decoder = ViTConfig(
        768, 12, 12, config["patch_size"], grid_size=positions, output_blocks=2 * ("out_conv" in config)
    )
    quantizer = EmaConfig(config["codebook_size"], config["latent_dim"])
    with torch.device("meta"):
        model = VQVAE(modality, VQVAEConfig(encoder, decoder, quantizer, class_dim=config["n_channels"]))
    state = {}
    for key, (shape, kind) in golden["tensors"].items():
        name = key
        for old, new in RENAMED:
            name = name.replace(old, new)
        state[name] = torch.from_numpy(fill(key, shape, kind))
    state.pop("quantize._codebook.initted")
    result = model.load_state_dict(state, strict=False, assign=True)
    assert set(result.missing_keys) == BEGUN_HERE
    assert result.unexpected_keys == []
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
    published = torch.tensor(expected["token_ids"]).reshape(expected["token_shape"])
    ids = model.encode(golden_input(golden, modality, fill))
    assert (ids == published).float().mean() >= 0.995
    values = model.decode(published, raw=True).flatten()[expected["decoded_flat_index"]]
    torch.testing.assert_close(values, torch.tensor(expected["decoded"]), rtol=0, atol=2e-3)
