"""The mixtures of the published systems, as shipped: on data in the form that each reads, a model learns from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fourm import config as configs
from fourm import recipes
from fourm.data.interleaved_configs import InterleavedConfig
from fourm.recipe.pretrain import run
from fourm.recipe.schema import PretrainRecipe
from fourm.tokenizers.text import train_wordpiece
from tests.interleaved import PUBLISHED, SPECIAL, STORYBOARD
from tests.unit.data.test_published_mixtures import FILES, Mixture

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 2
MODEL = {
    "kind": "multimodal", "dim": 16, "encoder_depth": 0, "decoder_depth": 1, "num_heads": 2, "rope_theta": 10000,
    "position_tables": False, "modality_embeddings": False, "tie_heads": False, "embedding_std": 0.4,
    "vector_head": {"kind": "linear"},
    "feeders": {"image": {
        "kind": "vision", "projection": True, "pooler": {"kind": "average"},
        "tower": {"kind": "timm", "name": "vit_tiny_patch16_224", "options": {
            "img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2}},
    }},
}  # fmt: skip
IMAGE = {
    "layout": {"kind": "slots", "num_tokens": 4, "height": 16, "width": 16},
    "content": {"kind": "continuous", "dim": 8},
    "source": "rgb", "decode": "image", "channels": 3, "normalization": "half",
}  # fmt: skip


def write(place: Path, packing: InterleavedConfig) -> None:
    """A file of two documents in the form that a data set reads, and their images."""
    file = place if place.suffix else place / "part-0.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    line = STORYBOARD if "storyboard" in place.name else PUBLISHED[packing.reader]
    file.write_text((json.dumps(line) + "\n") * 2)
    for n, name in enumerate(("a", "b", "0", "1", "2")):
        Image.new("RGB", (24, 20), (40 * n, 90, 10)).save(file.parent / f"{name}.jpg")


def recipe(root: Path, data: Mapping[str, Any]) -> PretrainRecipe:
    """A tiny model of what a mixture holds."""
    words = train_wordpiece(["a bed one two three what where"], 200, num_sentinels=3, num_coordinates=2, tokens=SPECIAL)
    words.save(root / "text.json")
    text = {
        "layout": {"kind": "sequence", "max_tokens": 4096, "num_positions": 4096},
        "content": {"kind": "discrete", "vocab_size": words.vocab_size}, "decode": "text", "tokenizer": "text",
    }  # fmt: skip
    train = {
        "max_steps": STEPS, "batch_size": 16, "device": "cpu", "precision": "fp32", "tensorboard": False,
        "log_every_steps": 1, "optimizer": {"lr": 1e-3},
    }  # fmt: skip
    plain = {
        "name": "mixture", "modalities": {"text": text, "image": IMAGE},
        "tokenizers": {"text": str(root / "text.json")}, "data": {**data, "num_workers": 0}, "model": MODEL,
        "objective": {"kind": "autoregressive", "max_tokens": 4096}, "train": train, "output": str(root / "model"),
    }  # fmt: skip
    return configs.build(PretrainRecipe, plain)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_model_trains_on_every_data_set_of_a_mixture(path: Path, tmp_path: Path) -> None:
    mixture = recipes.load(path, Mixture, [f"variables.data={tmp_path / 'data'}"]).data
    data = configs.to_dict(mixture)
    for name, dataset in mixture.train.datasets.items():
        assert tmp_path in Path(dataset.path).parents
        write(Path(dataset.path), dataset.packing)
        data["train"]["datasets"][name]["weight"] = 1  # as shipped, some are too rare for a few steps

    run(recipe(tmp_path, data))

    done = json.loads((tmp_path / "model" / "completed.json").read_text())
    assert done["step"] == STEPS
    assert done["tokens"] > 0
    assert all(done["cursor"]["datasets"][name] > 0 for name in data["train"]["datasets"])
