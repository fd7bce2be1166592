"""Stages at toy size are those of the papers: the same parts learn, the same is asked, in the same order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fourm import recipes
from fourm.recipe.schema import PretrainRecipe

STAGES = {
    "emu_fashion_1": "emu_13b_1",
    "emu_fashion_instruct": "emu_13b_instruct",
    "emu2_fashion_1": "emu2_33b_1_448",
    "emu2_fashion_2": "emu2_33b_2",
    "emu2_fashion_chat": "emu2_33b_chat",
    "emu2_fashion_gen": "emu2_33b_gen",
    "emu2_fashion_gen_tune": "emu2_33b_gen_tune",
}
"""Toy -> stage of the paper."""
TOWER = "input_embedder.feeders.image.tower.*"
stages = pytest.mark.parametrize(("toy", "paper"), STAGES.items())


def load(name: str) -> PretrainRecipe:
    return recipes.load(name, PretrainRecipe, folder="pretrain")


def packings(recipe: PretrainRecipe) -> list[Any]:
    return [dataset.packing for dataset in recipe.data.train.datasets.values()]


@stages
def test_the_same_is_read_regressed_and_asked(toy: str, paper: str) -> None:
    ours, theirs = load(toy), load(paper)

    assert ours.modality_set()["image"].direction == theirs.modality_set()["image"].direction
    assert (ours.model.vector_head is None) == (theirs.model.vector_head is None)
    assert ours.objective.regress_end == theirs.objective.regress_end
    for rule in ("ask_image_tokens", "drop_given_image", "min_images"):
        assert {getattr(p, rule) for p in packings(ours)} <= {getattr(p, rule) for p in packings(theirs)}, rule
    # Captions are stage 1's only documents, whose images are not regressed: no matter whether the text alone is asked.
    asked = {p.loss_on for p in packings(theirs)} - ({"text"} if toy == "emu2_fashion_1" else set())
    assert {p.loss_on for p in packings(ours)} == (asked or {"answers"})
    assert ("chat" in {p.reader for p in packings(ours)}) == ("chat" in {p.reader for p in packings(theirs)})


@stages
def test_the_same_parts_learn(toy: str, paper: str) -> None:
    """But for the tower, which has no paper's size and comes trained: it stays in the first stages too."""
    ours, theirs = load(toy), load(paper)

    assert ours.train.trainable == theirs.train.trainable
    assert {*ours.train.freeze} | {TOWER} == {*theirs.train.freeze} | {TOWER}
    assert ours.lora == theirs.lora


@stages
def test_every_toy_starts_from_the_one_before_it(toy: str, paper: str) -> None:
    outputs = {str(load(name).output): name for name in STAGES}
    start, theirs = load(toy).init_from, load(paper).init_from

    if start is None:
        assert paper in ("emu_13b_1", "emu2_33b_1_448")
    else:
        assert str(load(STAGES[outputs[str(start)]]).output) == str(theirs)


def test_weights_of_data_are_the_papers() -> None:
    """Of 4,096 pictures of captions 3,584 of things in their places; of editing there is nothing."""
    weights = {name: dataset.weight for name, dataset in load("emu2_fashion_gen").data.train.datasets.items()}
    paper = {name: dataset.weight for name, dataset in load("emu2_33b_gen").data.train.datasets.items()}

    assert weights["text_to_image"] == paper["text_to_image"]
    assert weights["boxes"] + weights["subjects"] == paper["grounded"]


def test_documents_of_the_toys_are_those_that_the_pipeline_prepares() -> None:
    from fourm.pipeline import load as pipeline

    prepared = {word for stage in pipeline("emu").stages for run in stage.run for word in run.split("--task ")[1:]}
    for toy in STAGES:
        data = load(toy).data
        for datasets in (data.train.datasets, data.val.datasets):
            assert {Path(dataset.path).stem for dataset in datasets.values()} <= {word.strip() for word in prepared}
