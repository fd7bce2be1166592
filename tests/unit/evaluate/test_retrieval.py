"""Retrieval and classes told in words, by a contrastive model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fourm import catalog
from fourm.config import build
from fourm.errors import ConfigError
from fourm.evaluate import job
from fourm.evaluate.configs import load
from fourm.evaluate.retrieval import Side, found_among
from fourm.evaluate.retrieval_configs import RetrievalEvaluation, ZeroShotConfig
from fourm.layouts import Discrete
from fourm.modality import ModalitySet
from fourm.models.contrastive import Contrastive
from fourm.models.contrastive_configs import ContrastiveConfig
from tests.unit.evaluate.conftest import ToyBundle

IMAGE, CAPTION = catalog.get("image@28"), catalog.get("caption")
CLASSES = list(catalog.FASHION_CLASSES)
TRUNK = {"kind": "multimodal", "dim": 16, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2}


@pytest.fixture
def bundle(fashion_bundle: ToyBundle) -> ToyBundle:
    text = fashion_bundle.text
    caption = replace(CAPTION, layout=replace(CAPTION.layout, max_tokens=12), content=Discrete(text.vocab_size))
    towers = {name: {"encoder": {"kind": "model", "model": TRUNK}} for name in ("image@28", "caption")}
    config = build(ContrastiveConfig, {"dim": 2, "towers": towers})
    return ToyBundle(Contrastive(ModalitySet([IMAGE, caption]), config), {}, text)


def evaluation(data: Path, output: Path, **options: Any) -> RetrievalEvaluation:
    return RetrievalEvaluation("retrieval", Path("m"), str(data), output, **options)


def test_it_is_measured_written_and_shown(bundle: ToyBundle, photographs: Path, tmp_path: Path) -> None:
    config = evaluation(
        photographs / "test", tmp_path, zero_shot=ZeroShotConfig(CLASSES), batch_size=7, counts=[1, 2], num_pictures=3
    )

    found = job.run(config, lambda _: bundle)

    assert json.loads((tmp_path / "metrics.json").read_text()) == found
    for key in ("image_to_caption_retrieval", "caption_to_image_retrieval"):
        assert list(found[key]) == ["recall_at_1", "recall_at_2", "chance_recall_at_1", "chance_recall_at_2"]
        assert 0 < found[key]["chance_recall_at_1"] < found[key]["chance_recall_at_2"] < 1
    assert 0 <= found["zero_shot"]["accuracy"] <= 1
    assert found["zero_shot"]["chance_accuracy"] == 0.1
    assert "chance" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "pictures" / "caption_to_image.png").is_file()


def test_results_do_not_depend_on_batches(bundle: ToyBundle, photographs: Path, tmp_path: Path) -> None:
    results = [
        job.run(evaluation(photographs / "test", tmp_path / str(size), batch_size=size), lambda _: bundle)
        for size in (3, 50)
    ]
    assert results[0] == results[1]


def test_texts_of_several_samples_are_one_thing_and_any_of_their_images_is_right() -> None:
    a, b, c = torch.eye(3)
    owners = torch.tensor([[True, False], [True, False], [False, True]])
    images = Side(IMAGE, torch.stack([a, b, c]), None, [])
    texts = Side(CAPTION, torch.stack([a + 0.1 * c, c]), owners, ["a dress", "a bag"])

    forth = found_among(images, texts, 3, [1, 2])
    back = found_among(texts, images, 3, [1])

    # The second image is as near to no text as to the other: the right one counts as last.
    assert forth["recall_at_1"] == pytest.approx(2 / 3)
    assert forth["recall_at_2"] == 1
    assert forth["chance_recall_at_1"] == pytest.approx(1 / 2)
    assert back == {"recall_at_1": 1.0, "chance_recall_at_1": pytest.approx((2 / 3 + 1 / 3) / 2)}


def test_chance_is_what_random_orders_find() -> None:
    from fourm.evaluate.metrics import recall_among, recall_by_chance

    generator = torch.Generator().manual_seed(0)
    fits = torch.rand(40, 12, generator=generator) < 0.2
    fits[:, 0] = True
    runs = [
        recall_among(torch.randn(40, 16, generator=generator), torch.randn(12, 16, generator=generator), fits, [1, 3])
        for _ in range(200)
    ]

    assert torch.tensor(runs).mean(0).tolist() == pytest.approx(recall_by_chance(fits, [1, 3]), abs=0.02)


def test_other_models_and_names_are_refused(
    bundle: ToyBundle, fashion_bundle: ToyBundle, photographs: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="kind contrastive"):
        job.run(evaluation(photographs / "test", tmp_path), lambda _: fashion_bundle)
    with pytest.raises(ConfigError, match="'captain' is not one.*Did you mean 'caption'"):
        job.run(evaluation(photographs / "test", tmp_path, pairs=[("image", "captain")]), lambda _: bundle)
    with pytest.raises(ConfigError, match=r"'a coat' has no \{\}"):
        ZeroShotConfig(CLASSES, ["a coat"])
    assert isinstance(load("retrieval_fashion"), RetrievalEvaluation)
