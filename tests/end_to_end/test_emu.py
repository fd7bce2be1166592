"""Emu's decoder from end to end: what a model generates for captions is stored, painted from, and judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fourm.data.document_form import DocumentForm
from fourm.layouts import Continuous, Discrete, Sequence, Slots
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import LinearHeadConfig, MultimodalConfig
from fourm.models.folder import save_model
from fourm.models.multimodal import Multimodal
from fourm.models.vision_configs import VisionFeederConfig
from fourm.nn.vision_configs import LinearPoolerConfig, TimmTowerConfig
from fourm.tokenizers.text import TextTokenizer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def untrained(root: Path) -> Path:
    """A model of captions and 4 vectors of each room."""
    text_file = root / "tokenizers/text.json"
    size = TextTokenizer.load(text_file).vocab_size
    words = Modality("text", Sequence(64, 64), Discrete(size), "text", "text", tokenizer="text")
    image = Modality("image", Slots(4, 64, 64), Continuous(16), "rgb", "image", channels=3, normalization="half")
    tower = {"img_size": 64, "patch_size": 32, "embed_dim": 16, "depth": 1, "num_heads": 2}
    config = MultimodalConfig(
        dim=16, encoder_depth=0, decoder_depth=1, num_heads=2, rope_theta=1e4, position_tables=False,
        modality_embeddings=False, tie_heads=False, embedding_std=0.4, vector_head=LinearHeadConfig(),
        feeders={
            "image": VisionFeederConfig(TimmTowerConfig("vit_tiny_patch16_224", options=tower), LinearPoolerConfig())
        },
    )  # fmt: skip
    form = DocumentForm(start="[SOS]", image_begin="[IMG]", image_end="[/IMG]")
    model = Multimodal(ModalitySet([words, image]), config).eval()
    save_model(model, root / "emu/model", {"text": text_file}, form)
    return root / "emu"


def test_generated_vectors_are_stored_learned_from_painted_and_judged(world: Path, fourm: Any) -> None:
    model = untrained(world)
    for split in ("train", "test"):
        stored = fourm("embed", model, world / "rooms" / split, "--out", "emu_vectors")
        assert stored.status == 0, stored.err
        made = fourm("prepare", "documents", world / "rooms" / split, world / "documents" / split, "--task", "captions")
        assert made.status == 0, made.err
    trained = fourm(
        "train-tokenizer", "rooms_visual_decoder_emu", f"variables.root={world}", f"output={world}/painter",
        "tokenizer.conditions.image.num_tokens=4", "tokenizer.conditions.image.dim=16", "train.max_steps=2",
        "train.batch_size=4", "train.device=cpu", "train.precision=fp32", "train.tensorboard=false",
        "tokenizer.unet.widths=[16,16]", "tokenizer.sampling.num_steps=2", "evaluation.max_samples=2",
    )  # fmt: skip
    assert trained.status == 0, trained.err
    judged = fourm(
        "evaluate", "captions_rooms", f"model={model}", f"variables.documents={world}/documents", f"output={world}/out",
        f"painter={world}/painter", "guided=true", "device=cpu", "num_prompts=3", "max_tokens=4",
        "classifier={widths: [8, 8, 8], epochs: 1, batch_size: 4}",
    )  # fmt: skip
    assert judged.status == 0, judged.err
    found = json.loads((world / "out/metrics.json").read_text())
    assert {"accuracy", "chance_accuracy", "word_accuracy", "classifier_accuracy"} <= set(found["caption_to_image"])
    assert (world / "out/pictures/captions.png").is_file()
    drawn = fourm(
        "prompt", model, "--draw", "a bed", "--painter", world / "painter", "--guided",
        "--out", world / "answers", "--device", "cpu",
    )  # fmt: skip
    assert drawn.status == 0, drawn.err
    assert list((world / "answers").glob("*.png"))
