"""A caption is right where it names something and nothing that is not there; a judge looks at painted pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fourm.errors import ConfigError, DataError
from fourm.evaluate.caption_configs import CaptionsEvaluation, ClassifierConfig
from fourm.evaluate.captions import agreement, evaluate_captions, f1, speaker
from fourm.evaluate.configs import load
from fourm.evaluate.judge import load_judge, named, read_pairs
from fourm.layouts import Continuous, Discrete, Grid, Sequence, Slots
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import LinearHeadConfig, MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.models.vision_configs import VisionFeederConfig
from fourm.nn.configs import SamplingConfig
from fourm.nn.vision_configs import LinearPoolerConfig, TimmTowerConfig
from fourm.recipe.bundle import Bundle
from fourm.tokenizers.text import TextTokenizer, train_wordpiece
from fourm.tokenizers.visual_decoder import VisualDecoder
from fourm.tokenizers.visual_decoder_configs import ConditionConfig, CrossUNetConfig, VisualDecoderConfig

COLOURS = ["red", "blue", "green"]
IMAGE = Modality("image", Slots(4, 16, 16), Continuous(16), "rgb", "image", channels=3, normalization="half")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 pictures of one colour each; half of them with a bright corner, which is a lamp."""
    root = tmp_path_factory.mktemp("pairs")
    lines: list[dict[str, Any]] = []
    for n in range(48):
        colour, lit = COLOURS[n % 3], n % 2 == 0
        picture = Image.new("RGB", (16, 16), colour)
        if lit:
            picture.paste("white", (0, 0, 8, 16))
        picture.save(root / f"{n}.png")
        told = [f"something {colour}", "nice", f"{colour}, and a lamp" if lit else f"it is {colour}"]
        lines.append({"image": f"{n}.png", "caption": told})
    for name, chosen in (("train", lines[:36]), ("test", lines[36:])):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in chosen))
    return root


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("text") / "text.json"
    text: TextTokenizer = train_wordpiece(COLOURS * 3, 80, [], path, num_sentinels=3, num_coordinates=2)
    words = Modality("text", Sequence(64, 64), Discrete(text.vocab_size), "text", "text", tokenizer="text")
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    tower = TimmTowerConfig("vit_tiny_patch16_224", options=sizes)
    config = MultimodalConfig(
        dim=16, encoder_depth=0, decoder_depth=1, num_heads=2, rope_theta=1e4, position_tables=False,
        modality_embeddings=False, tie_heads=False, embedding_std=0.4,
        feeders={"image": VisionFeederConfig(tower, LinearPoolerConfig())}, vector_head=LinearHeadConfig(),
    )  # fmt: skip
    painter = VisualDecoderConfig(
        {"image": ConditionConfig(num_tokens=4, dim=16)},
        unet=CrossUNetConfig((8,), 1, (1,), (2,), groups=4, patch_size=4),
        sampling=SamplingConfig(num_steps=2),
    )
    raw = Modality(
        "rgb", Grid(4, 4, 4), Continuous(48), "rgb", "image", channels=3, normalization="half", value_range=(0.0, 1.0)
    )
    return Bundle(
        Multimodal(ModalitySet([words, IMAGE]), config).eval(), {"image": VisualDecoder(raw, painter).eval()}, text
    )


def config(pairs: Path, output: Path, **changes: Any) -> CaptionsEvaluation:
    return CaptionsEvaluation(
        "captions", Path("model"), pairs / "test.jsonl", pairs / "train.jsonl",
        **{
            "words": COLOURS, "output": output, "num_prompts": 5, "max_tokens": 4, "batch_size": 4,
            "classifier": ClassifierConfig((8, 8, 8), epochs=1, batch_size=4), **changes,
        },
    )  # fmt: skip


def test_right_is_what_names_something_and_nothing_that_is_not_there() -> None:
    names = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 0, 0]]).bool()
    there = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 0, 0]]).bool()
    found = agreement(names, there)
    assert found["accuracy"] == pytest.approx(1 / 3)  # the first; the second is wrong, and the third says nothing
    assert found["chance_accuracy"] == pytest.approx(2 / 9)  # of all nine, the first two of the first picture
    assert f1(names, there) == pytest.approx(2 * 2 / (3 + 5))


def test_a_model_is_asked_in_the_given_words(pairs: Path, bundle: Bundle, tmp_path: Path) -> None:
    asked = config(pairs, tmp_path, phrases={"caption": "red <image> blue"})
    model = speaker(asked, bundle, CPU)
    words = [segment for segment in model.caption(torch.zeros(3, 16, 16)) if segment.modality == "text"]
    assert [model.tokenizer.decode(segment.value).strip() for segment in words] == ["red", "blue"]
    with pytest.raises(ConfigError, match="phrases is 'emu3'"):
        config(pairs, tmp_path, phrases="emu3")
    with pytest.raises(ConfigError, match="caption"):
        config(pairs, tmp_path, phrases={"captoin": "<image>"})


def test_words_count_in_the_plural_and_not_within_others() -> None:
    assert named(["two lamps", "a t-shirt", "a shirt"], ["lamp", "shirt"]).tolist() == [[1, 0], [0, 0], [0, 1]]


def test_pairs_are_read_with_what_any_caption_names_and_naming_captions_first(pairs: Path) -> None:
    found = read_pairs(pairs / "train.jsonl", IMAGE, ["lamp", "red"], limit=2)
    assert found.there.tolist() == [[True, True], [False, False]]
    assert found.captions[0] == ["something red", "red, and a lamp", "nice"]
    assert found.images.shape == (2, 3, 16, 16)
    assert found.images[0, :, 15, 15].tolist() == [1, 0, 0]


def test_captions_that_name_no_word_are_refused(pairs: Path) -> None:
    with pytest.raises(DataError, match=r"no caption in .* names any of sofa"):
        read_pairs(pairs / "train.jsonl", IMAGE, ["sofa"])


@pytest.mark.parametrize("words", [COLOURS, [*COLOURS, "lamp"]], ids=["one word each", "several"])
def test_a_judge_learns_words_of_real_pictures(pairs: Path, tmp_path: Path, words: list[str]) -> None:
    train, test = (read_pairs(pairs / f"{name}.jsonl", IMAGE, words) for name in ("train", "test"))
    settings = ClassifierConfig((8, 8, 8), epochs=15, batch_size=4, lr=1e-2)
    judge = load_judge(tmp_path, settings, words, lambda: train, test)
    assert judge.exclusive == (words == COLOURS)
    assert (judge.seen(test.images) == test.there).float().mean() > 0.9
    again = load_judge(tmp_path, settings, words, lambda: pytest.fail("was trained again"), test)
    assert torch.equal(again.seen(test.images), judge.seen(test.images))
    with pytest.raises(LookupError):  # other pictures make another judge
        load_judge(tmp_path, settings, words, lambda: {}["trained again"], test, "others")


def test_both_directions_are_measured_beside_chance(bundle: Bundle, pairs: Path, tmp_path: Path) -> None:
    outcome = evaluate_captions(config(pairs, tmp_path), bundle, CPU)
    assert list(outcome.metrics) == ["image_to_caption", "caption_to_image"]
    assert outcome.metrics["image_to_caption"]["baseline_accuracy"] == pytest.approx(1 / 3)
    assert set(outcome.metrics["caption_to_image"]) == {"accuracy", "chance_accuracy", "classifier_accuracy"}
    assert [table.name for table in outcome.tables] == ["captions", "painted"]
    assert len(outcome.tables[0].cells) == 3  # a row for each thing that pictures show
    assert all(len(row) == len(outcome.tables[0].columns) for row in outcome.tables[0].cells)
    assert (tmp_path / "judge/model.safetensors").is_file()


def test_several_words_are_measured_one_by_one_too(bundle: Bundle, pairs: Path, tmp_path: Path) -> None:
    outcome = evaluate_captions(config(pairs, tmp_path, words=[*COLOURS, "lamp"]), bundle, CPU)
    assert {"object_f1", "baseline_object_f1"} <= set(outcome.metrics["image_to_caption"])
    assert {"word_accuracy", "chance_word_accuracy"} <= set(outcome.metrics["caption_to_image"])


def test_a_model_that_does_not_paint_is_measured_on_captions_alone(bundle: Bundle, pairs: Path, tmp_path: Path) -> None:
    outcome = evaluate_captions(config(pairs, tmp_path), replace(bundle, tokenizers={}), CPU)
    assert list(outcome.metrics) == ["image_to_caption"]
    assert "does not paint" in outcome.missing["caption_to_image"]


def test_another_painter_can_be_named(bundle: Bundle, pairs: Path, tmp_path: Path) -> None:
    bundle.tokenizers["image"].save(tmp_path / "painter")
    asked = config(pairs, tmp_path, painter=tmp_path / "painter", guidance=1.0, num_steps=1)
    assert "caption_to_image" in evaluate_captions(asked, replace(bundle, tokenizers={}), CPU).metrics


def test_what_is_painted_does_not_depend_on_the_batches(bundle: Bundle, pairs: Path, tmp_path: Path) -> None:
    found = [
        evaluate_captions(config(pairs, tmp_path, batch_size=size), bundle, CPU).tables[1].cells[0][1]
        for size in (2, 5)
    ]
    first, second = (np.asarray(picture, np.int16) for picture in found)
    assert np.abs(first - second).max() <= 1


def test_words_are_needed() -> None:
    with pytest.raises(ConfigError, match="words is empty"):
        load("captions_fashion", ["model=m", "words=[]"])
