"""What a model of documents generates for captions, stored with them for Emu's visual decoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fourm.data.shards import ShardWriter
from fourm.data.source import open_source
from fourm.data.unpack import read_npz
from fourm.errors import ConfigError, DataError
from fourm.generate.interleaved_prompts import Interleaved
from fourm.layouts import Continuous, Discrete, Sequence, Slots
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import LinearHeadConfig, MultimodalConfig
from fourm.models.folder import save_model
from fourm.models.multimodal import Multimodal
from fourm.models.vision_configs import VisionFeederConfig
from fourm.nn.vision_configs import LinearPoolerConfig, TimmTowerConfig
from fourm.recipe.bundle import load_bundle
from fourm.recipe.embed import embed
from fourm.tokenizers.text import TextTokenizer

TOWER = "vit_tiny_patch16_224"
CAPTIONS = [["a red bed", "unused"], ["two green chairs"], ["a red bed"]]


def saved(folder: Path, text_file: Path, text: TextTokenizer, *, generates: bool = True) -> str:
    words = Modality("text", Sequence(32, 32), Discrete(text.vocab_size), "text", "text", tokenizer="text")
    image = Modality(
        "image", Slots(4, 16, 16), Continuous(16), "rgb", "image", channels=3, normalization="half",
        direction="both" if generates else "input",
    )  # fmt: skip
    tower = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    config = MultimodalConfig(
        dim=16, encoder_depth=0, decoder_depth=1, num_heads=2, rope_theta=1e4, position_tables=False,
        modality_embeddings=False, tie_heads=False, embedding_std=0.4,
        feeders={"image": VisionFeederConfig(TimmTowerConfig(TOWER, options=tower), LinearPoolerConfig())},
        vector_head=LinearHeadConfig() if generates else None,
    )  # fmt: skip
    save_model(Multimodal(ModalitySet([words, image]), config).eval(), folder / "model", {"text": text_file})
    return str(folder)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    with ShardWriter(root, 0, {"caption": "json"}) as writer:
        for n, captions in enumerate(CAPTIONS):
            writer.write(str(n), {"caption": json.dumps(captions).encode()})
    return root


def run(model: str, root: Path, start: str | None = "[SOS]") -> None:
    embed(model, root, modality=None, out="drawn", num_tokens=None, batch_size=2, device="cpu", start=start)


def test_what_is_stored_is_what_the_model_generates_when_it_draws(
    data: Path, tmp_path: Path, text_file: Path, text: TextTokenizer
) -> None:
    model = saved(tmp_path / "run", text_file, text)
    run(model, data)

    source = open_source(str(data), ["caption", "drawn"])
    found = np.stack([read_npz(source.read(n)["drawn"], ("emb",))["emb"] for n in range(3)])
    speaker = Interleaved(load_bundle(model), start="[SOS]")
    wanted = speaker.vectors([speaker.drawing("a red bed"), speaker.drawing("two green chairs")], torch.zeros(2).long())
    assert found[:2] == pytest.approx(wanted.numpy(), abs=2e-2, rel=2e-2)
    assert np.array_equal(found[0], found[2])
    empty = load_file(data / "drawn_empty.safetensors")["vectors"]
    (nothing,) = speaker.vectors([speaker.prompt("", draw=True)], torch.zeros(1).long())
    assert torch.allclose(empty, nothing, atol=1e-5)


def test_another_prompt_is_not_mixed_in(data: Path, tmp_path: Path, text_file: Path, text: TextTokenizer) -> None:
    model = saved(tmp_path / "run", text_file, text)
    run(model, data)
    run(model, data)
    with pytest.raises(DataError, match="holds other files"):
        run(model, data, start=None)


def test_a_model_that_generates_no_images_is_refused(
    data: Path, tmp_path: Path, text_file: Path, text: TextTokenizer
) -> None:
    with pytest.raises(ConfigError, match=r"name one with model\.vector_head"):
        run(saved(tmp_path / "run", text_file, text, generates=False), data)
