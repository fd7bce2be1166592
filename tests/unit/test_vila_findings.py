"""The study of VILA's findings cuts documents into pairs, and says what its figures say."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourm.prepare.documents.names import bound_names


@pytest.fixture
def script(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(checkout / "benchmarks"))
    return importlib.import_module("vila_findings")


@pytest.fixture
def documents(script: Any) -> Any:
    return importlib.import_module("vila_documents")


def test_documents_fall_into_pairs_of_the_same_pictures_and_words(documents: Any) -> None:
    story = {"parts": ["to begin:", {"image": "a.png"}, "a bed.", "a lamp.", {"image": "b.png"}, "a door."]}
    first, second = documents.pairs_of(story)
    assert first == {"parts": [{"image": "a.png"}, {"text": "a bed."}, {"text": "a lamp."}]}
    assert second == {"parts": [{"image": "b.png"}, {"text": "a door."}]}


def test_in_pairs_every_name_is_asked_and_nothing_tells_it(documents: Any) -> None:
    shown = {kind: [f"{kind}{n}.png" for n in range(5)] for kind in ("bed", "lamp", "door")}
    pairs = list(documents.pairs_of(bound_names(shown, 2, np.random.default_rng(0))))
    assert len(pairs) == 5
    for pair in pairs:
        image, _, name, *_ = pair["parts"]
        assert "image" in image
        assert name["asked"]


def test_more_documents_bind_names_to_what_the_given_ones_show(documents: Any) -> None:
    shown = {kind: [f"{kind}{n}.png" for n in range(8)] for kind in ("bed", "lamp", "door")}
    given = [bound_names(shown, 4, np.random.default_rng(seed)) for seed in range(40)]
    made = list(documents.more_names(given, 60))
    assert [line["shots"] for line in made[:3]] == [1, 2, 4]
    assert len(made) == 60
    for line in made:
        pictures = [part["image"] for part in line["parts"] if "image" in part]
        assert pictures[-1].startswith(line["kinds"][line["names"].index(line["answer"])])


def test_runs_differ_in_one_thing_each(script: Any, tmp_path: Path) -> None:
    options = argparse.Namespace(source=tmp_path, output=tmp_path / "out", tower=tmp_path, steps=[2, 4], batch=8)
    made = {name: script.recipe(name, 1, options) for name, run in script.RUNS.items() if run.start}
    for recipe in made.values():
        del recipe["output"]
    first, data = made["documents"], dict(made["documents"]["data"]["train"]["datasets"])
    assert first["init_from"] == str(tmp_path / "out" / "1" / "projector")
    assert first["train"]["max_steps"] == 4
    assert made["frozen"]["train"].pop("trainable") == ["input_embedder.feeders.image.pooler.*"]
    assert made["frozen"] == first
    assert data.pop("text")
    assert made["no_text"].pop("data") == {"train": {"datasets": data}}
    cut = made["pairs"].pop("data")["train"]["datasets"]
    assert {name for name, given in cut.items() if "variables.made" in given["path"]} == set(script.CUT)
    del first["data"]
    assert made["pairs"] == made["no_text"] == first


def test_findings_are_told_as_they_are(script: Any) -> None:
    found = {}
    for seed in range(3):
        for name in ("documents", "pairs", "frozen", "chat", "no_text"):
            share = (0.9 if name in ("documents", "chat") else 0.5) + 0.1 * (seed == 2)
            found[f"{seed}/{name}"] = dict.fromkeys(script.MEASURES, share)
            found[f"{seed}/{name}"] |= {
                f"questions/{kind}/{key}": share / (1 + (key != "accuracy"))
                for kind in script.KINDS
                for key in ("accuracy", "blind_accuracy", "baseline_accuracy")
            }
    shown = script.findings(found)
    assert "|  | language model | stage 1 | stage 2 | cut into pairs | without text | frozen |" in shown
    assert "| questions about text, % | – | – | 93.3 ± 5.8 | 53.3 ± 5.8 | 53.3 ± 5.8 | 53.3 ± 5.8 |" in shown
    assert "| how many | 93.3 ± 5.8 % | 46.7 ± 2.9 % | 45.0 % |" in script.answers(found)
    compared = script.differences(found)
    assert "| with instead of without text | questions about text, % | 40.0 ± 0.0 | 3 of 3 |" in compared
    assert "| documents instead of pairs | loss at the ends of documents | 0.400 ± 0.000 | 0 of 3 |" in compared
    del found["0/pairs"]
    assert (
        "| documents instead of pairs | loss at the ends of documents | 0.400 ± 0.000 | 0 of 2 |"
        in script.differences(found)
    )
    assert all(picture.startswith("<svg") for picture in script.pictures(found).values())
