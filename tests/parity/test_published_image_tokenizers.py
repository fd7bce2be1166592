"""The ViT, and the MLP with memory codes, compute what the published networks do on deterministic weights (goldens)."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from fourm import catalog
from fourm.modality import Continuous, Discrete, Grid, Modality
from fourm.tokenizers.configs import EmaConfig, MemcodesConfig, MLPConfig, ViTConfig, VQVAEConfig
from fourm.tokenizers.vqvae import VQVAE

pytestmark = pytest.mark.slow

MODALITIES = {
    "tok_semseg_4k_vqvae": Modality("semseg", Grid(224, 224, 1), Discrete(134), "semseg", "labels"),
    "tok_sam_instance_1k": Modality("sam", Grid(4, 4, 16), Continuous(256), "sam", "gray", channels=1),
    "tok_dinov2_global_8k": catalog.get("dinov2_global"),
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
RENAMED_MLP = [
    (r"quantize\.(to_k|to_v)\.weight", r"quantizer.\1"),
    (r"quantize\.codes", "quantizer.codes"),
    (r"blocks\.(\d+)\.block\.0", r"blocks.\1.fc1"),
    (r"blocks\.(\d+)\.block\.2", r"blocks.\1.fc2"),
    (r"layernorms\.(\d+)", r"blocks.\1.norm"),
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
    of_kind = _published_mlp if golden["config"]["quant_type"] == "memcodes" else _published_vit
    return of_kind(golden, modality, fill).eval()


def _published_mlp(golden: dict[str, Any], modality: Modality, fill: Any) -> VQVAE:
    config = golden["config"]
    depth, width = map(int, re.fullmatch(r"BottleneckMLP/B_(\d+)-Wi_(\d+)", config["enc_type"]).groups())
    network = MLPConfig(width, depth)
    quantizer = MemcodesConfig(config["num_codebooks"], config["codebook_size"], config["latent_dim"])
    with torch.device("meta"):
        model = VQVAE(modality, VQVAEConfig(encoder=network, decoder=network, quantizer=quantizer))
    state = {}
    for key, (shape, kind) in golden["tensors"].items():
        name = key
        for old, new in RENAMED_MLP:
            name = re.sub(old, new, name)
        state[name] = torch.from_numpy(fill(key, shape, kind))
    model.load_state_dict(state, assign=True)
    return model


def _published_vit(golden: dict[str, Any], modality: Modality, fill: Any) -> VQVAE:
    config = golden["config"]
    positions = golden["tensors"]["encoder.pos_emb"][0][-1]
    encoder = ViTConfig(768, 12, 12, config["patch_size"], grid_size=positions)
    decoder = ViTConfig(
        768, 12, 12, config["patch_size"], grid_size=positions, output_blocks=2 * ("out_conv" in config)
    )
    quantizer = EmaConfig(config["codebook_size"], config["latent_dim"])
    with torch.device("meta"):
        made = VQVAEConfig(encoder=encoder, decoder=decoder, quantizer=quantizer, class_dim=config["n_channels"])
        model = VQVAE(modality, made)
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
    return model


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
    values = model.decode(published, raw=True).flatten()[expected["decoded_flat_index"]]
    torch.testing.assert_close(values, torch.tensor(expected["decoded"]), rtol=0, atol=2e-3)
