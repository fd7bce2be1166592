"""The whole modality set of 4M-21 at toy width: one masked training step, and every output from one chain."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fourm import catalog
from fourm.generate.names import resolve
from fourm.modality import ModalitySet
from fourm.models import folder as folders
from fourm.models.configs import MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.objectives.configs import MaskComponent, MaskedConfig
from fourm.objectives.masked import Masked
from fourm.report.pictures import draw
from fourm.rng import generator
from fourm.tokenizers.configs import VQVAEConfig
from fourm.tokenizers.network_configs import MLPConfig, ViTConfig
from fourm.tokenizers.quantizer_configs import EmaConfig, MemcodesConfig
from fourm.tokenizers.text import train_wordpiece
from fourm.tokenizers.vqvae import VQVAE

TEXTS = ("caption", "det", "metadata", "human_poses", "color_palette", "sam_instance")
MAPS = ("rgb", "depth", "normal", "semseg", "clip", "canny_edge", "sam_edge", "dinov2", "imagebind")
TOKENS = (*(f"tok_{name}@224" for name in MAPS), "tok_dinov2_global", "tok_imagebind_global")
SET = catalog.resolve(["rgb@224", "t5_caption", *TEXTS, *TOKENS])
CODES = {"sam_instance": "sam_mask", "human_poses": "smpl_pose"}
FEATURES = ("clip", "dinov2", "dinov2_global", "imagebind", "imagebind_global")
PICTURES = ("depth", "normal", "semseg", "canny_edge", "sam_edge", "tok_rgb")
TARGETS = (*FEATURES, *PICTURES, *TEXTS)


@pytest.fixture(scope="module")
def model() -> Multimodal:
    config = MultimodalConfig(dim=32, encoder_depth=1, decoder_depth=1, num_heads=2, embedding_std=0.4)
    return Multimodal(SET, config).eval()


def tiny_tokenizer(name: str, vocab_size: int) -> VQVAE:
    """Untrained networks that read and write what the published tokenizer of a modality does."""
    raw = catalog.get(name)
    if raw.grid.num_tokens == 1:
        heads = 8 if name == "smpl_pose" else 16
        network, quantizer = MLPConfig(width=16, depth=1), MemcodesConfig(heads, vocab_size, dim=4 * heads)
        return VQVAE(raw, VQVAEConfig(network, quantizer, decoder=network)).eval()
    patch = 1 if raw.teacher else 16
    vit = ViTConfig(dim=16, depth=1, num_heads=2, patch_size=patch)
    return VQVAE(raw, VQVAEConfig(vit, EmaConfig(vocab_size, dim=4), class_dim=4, decoder=vit)).eval()


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tokenizers")
    torch.manual_seed(0)
    for raw, vocab_size in {
        **{str(SET[name].tokenizer): SET[name].vocab_size for name in TOKENS},
        **dict.fromkeys(CODES.values(), 1024),
    }.items():
        tiny_tokenizer(raw, vocab_size).save(root / raw)
    words = ["human pose global camera shape point polygon none", "a photo of a cat on a red sofa"]
    train_wordpiece(words, classes=["bed", "cat", "sofa"], out=root / "text.json")
    raws = {name: str(SET[name].tokenizer) for name in TOKENS}
    return {"text": root / "text.json", **{name: root / raw for name, raw in {**raws, **CODES}.items()}}


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """Two steps for every grid, a dozen tokens for every text."""
    steps = [
        f"  - {{target: {name}, scheme: autoregressive, num_tokens: 60}}"
        if name in TEXTS
        else f"  - {{target: {name}, num_steps: 2}}"
        for name in TARGETS
    ]
    path = tmp_path / "plan.yaml"
    path.write_text("\n".join(["steps:", *steps, ""]))
    return path


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    Image.fromarray(generator(0, "photo").integers(0, 256, (240, 300, 3), dtype=np.uint8)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


# ------------------------------------------------------------------ training


def random_sample(modalities: ModalitySet, rng: np.random.Generator) -> dict[str, Any]:
    """A sample that has every modality."""
    sample: dict[str, Any] = {
        "rgb@224": rng.standard_normal((3, 224, 224)).astype(np.float32),
        "t5_caption": rng.standard_normal((30, 4096)).astype(np.float32),
    }
    for name in TEXTS:
        sample[name] = rng.integers(204, modalities[name].vocab_size, 20)
    sample["metadata"] = [rng.integers(204, 2204, 2) for _ in range(10)]
    for name in TOKENS:
        sample[name] = rng.integers(0, modalities[name].vocab_size, modalities[name].num_tokens)
    return sample


def test_one_masked_step_reads_19_modalities_and_trains_the_heads_of_17(model: Multimodal) -> None:
    assert (len(SET.inputs), len(SET.outputs)) == (19, 17)
    everywhere = MaskComponent(input_alphas={"*": 50.0}, target_alphas={"*": 50.0})
    objective = Masked(MaskedConfig(256, 256, components=[everywhere]), SET)
    items = [objective.prepare(random_sample(SET, generator(0, "sample", n)), generator(0, "masks", n)) for n in (0, 1)]
    batch = objective.collate(items)
    assert set(batch.encoder.modality.unique().tolist()) - {-1} == {SET.index(m.name) for m in SET.inputs}
    assert all(count > 0 for count in objective.counts(batch).values())

    model.train()
    loss = objective.loss(model, batch)
    loss.scalar(objective.counts(batch)).backward()
    model.eval()

    assert len(loss.parts) == 17
    for name, (total, count) in loss.parts.items():
        # Untrained heads guess: near the logarithm of the vocabulary.
        assert 0.5 * np.log(SET[name].vocab_size) < total.item() / count < 2 * np.log(SET[name].vocab_size), name
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients.values())
    model.zero_grad()


# ------------------------------------------------------------------ generation


def shown_parts() -> list[str]:
    """Beginnings of texts, which the model goes on with; so there is something in them whatever it writes."""
    codes = " ".join(f"v0={n}" for n in range(16))
    parts = {
        "color_palette": "v1=3 v0=200 v0=30 v0=40 v0=0 v0=90 v0=255",
        "metadata": "v1=5 v0=2 v1=10 v0=18",
        "det": "v0=100 v1=200 v2=700 v3=900 cat",
        "sam_instance": f"point v0=100 v1=90 polygon v0=40 v1=50 v2=180 v3=200 {codes}",
        "human_poses": "human v0=100 v1=100 v2=500 v3=950 pose " + " ".join(f"v0={n}" for n in range(8)),
    }
    return [word for name, text in parts.items() for word in ("--given", f"{name}={text} [S_1]")]


def generate(fourm: Any, model: Path, photograph: Path, plan: Path, out: Path) -> dict[str, Path]:
    outcome = fourm(
        "generate", model, "--given", f"rgb={photograph}", *shown_parts(), "--plan", plan, "--to", ",".join(TARGETS),
        "--out", out, "--device", "cpu",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    return {path.stem: path for path in sorted(out.iterdir(), key=lambda path: path.suffix != ".npy")}


def kinds(files: Mapping[str, Path]) -> dict[str, str]:
    return {name: path.suffix for name, path in files.items() if name in TARGETS}


@pytest.mark.slow
def test_every_output_is_generated_in_one_chain_and_written_in_its_usual_format(
    model: Multimodal, tokenizers: dict[str, Path], plan: Path, photograph: Path, tmp_path: Path, fourm: Any
) -> None:
    folders.save_model(model, tmp_path / "model", tokenizers)
    files = generate(fourm, tmp_path / "model", photograph, plan, tmp_path / "out")

    texts = {name: ".txt" if name == "caption" else ".json" for name in TEXTS}
    assert kinds(files) == {**dict.fromkeys(FEATURES, ".npy"), **dict.fromkeys(PICTURES, ".png"), **texts}
    shapes = [np.load(files[name]).shape for name in FEATURES]
    assert shapes == [(512, 14, 14), (768, 16, 16), (768, 1, 1), (1280, 16, 16), (1280, 1, 1)]
    for name in PICTURES:
        with Image.open(files[name]) as picture:
            assert picture.size == (224, 224)
            modes = {"depth": "I;16", "semseg": "P", "normal": "RGB", "tok_rgb": "RGB"}
            assert picture.mode == modes.get(name, "L")
    check_structures({name: json.loads(files[name].read_text()) for name in TEXTS if name != "caption"})
    with Image.open(tmp_path / "out" / "grid.png") as grid:
        assert grid.width > 7 * 224
        assert grid.height > 3 * 224


def check_structures(found: Mapping[str, Any]) -> None:
    """What was shown of each text is part of the answer; codes are decoded."""
    assert found["color_palette"][:2] == [[200, 30, 40], [0, 90, 255]]
    assert found["metadata"] == {**found["metadata"], "n_humans": 2, "brightness": pytest.approx(255 * 18 / 50)}
    assert found["det"]["instances"][0]["class_name"] == "cat"
    point = found["sam_instance"][0]
    (instance,) = point["instances"]
    assert [point["point"], instance["box"]] == [[90 / 224, 100 / 224], [40 / 224, 50 / 224, 180 / 224, 200 / 224]]
    assert instance["token_ids"] == list(range(16))
    assert instance["mask"]["size"] == [64, 64]
    assert sum(instance["mask"]["counts"]) == 64 * 64
    person = found["human_poses"][0]
    assert person["pose_tokens"] == list(range(8))
    assert np.shape(person["body_pose"]) == (207,)


@pytest.mark.slow
def test_answers_with_structure_can_be_given_back(
    model: Multimodal, tokenizers: dict[str, Path], tmp_path: Path, fourm: Any
) -> None:
    folders.save_model(model, tmp_path / "model", {"text": tokenizers["text"]})
    first = fourm("generate", tmp_path / "model", *shown_parts(), "--to", ",".join(TEXTS[1:]), "--out", tmp_path / "a")
    assert first.status == 0, first.err
    given = [word for name in TEXTS[1:] for word in ("--given", f"{name}={tmp_path / 'a' / name}.json")]
    second = fourm("generate", tmp_path / "model", *given, "--to", "tok_dinov2_global", "--out", tmp_path / "b")
    assert second.status == 0, second.err
    assert np.load(tmp_path / "b" / "tok_dinov2_global.npy").shape == (16,)


@pytest.mark.slow
def test_without_tokenizers_answers_are_ids_which_can_be_drawn_and_given_back(
    model: Multimodal, plan: Path, photograph: Path, tmp_path: Path, fourm: Any
) -> None:
    folders.save_model(model, tmp_path / "bare", {})
    outcome = fourm(
        "generate", tmp_path / "bare", "--given", f"rgb={photograph}", "--plan", plan, "--out", tmp_path / "out"
    )
    assert outcome.status == 0, outcome.err

    answers = {
        resolve(path.stem, SET.outputs, "generate").name: np.load(path) for path in (tmp_path / "out").glob("*.npy")
    }
    assert len(answers) == 17
    for name, ids in answers.items():
        assert ids.ndim == 1
        assert len(ids) == SET[name].num_tokens if SET[name].is_grid else len(ids) <= 60
        assert draw(SET[name], ids).mode == "RGB"
    again = fourm(
        "generate", tmp_path / "bare", "--given", f"tok_clip={tmp_path / 'out' / 'clip.npy'}", "--to",
        "tok_dinov2_global", "--out", tmp_path / "again",
    )  # fmt: skip
    assert again.status == 0, again.err
    assert np.load(tmp_path / "again" / "tok_dinov2_global.npy").shape == (16,)


@pytest.mark.slow
def test_photographs_are_found_by_what_the_model_predicts_from_anything(
    model: Multimodal, tokenizers: dict[str, Path], tmp_path: Path, fourm: Any
) -> None:
    own = {name: tokenizers[name] for name in ("text", "tok_dinov2_global")}
    folders.save_model(model, tmp_path / "model", own)
    (tmp_path / "photos").mkdir()
    for n in range(4):
        pixels = generator(n, "photo").integers(0, 256, (240, 300, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{n}.png")
    index = fourm(
        "retrieve", "index", tmp_path / "model", f"rgb={tmp_path / 'photos'}", "--feature", "dinov2_global", "--out",
        tmp_path / "index", "--device", "cpu",
    )  # fmt: skip
    assert (index.status, index.out) == (0, "4 answered\n"), index.err

    words = ["retrieve", "query", tmp_path / "index", "--device", "cpu", "--top", 3]
    itself = fourm(*words, "--given", f"rgb={tmp_path / 'photos' / '2.png'}", "--out", tmp_path / "itself")
    told = fourm(*words, "--given", "caption=a cat on a red sofa", "--out", tmp_path / "told")

    assert (itself.status, told.status) == (0, 0), itself.err + told.err
    assert itself.out.splitlines()[0] == "1.0000 2"
    assert len(told.out.splitlines()) == len(json.loads((tmp_path / "told" / "hits.json").read_text())) == 3
    assert Image.open(tmp_path / "told" / "hits.png").width > 4 * 190
