"""Documents are answered rightly where every asked word is the likeliest; baselines see no picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fourm.data.interleaved_configs import InterleavedConfig
from fourm.errors import ConfigError, DataError
from fourm.evaluate.configs import DocumentsEvaluation, load
from fourm.evaluate.documents import best_guess, build_documents, by_kind, evaluate_documents, read_facts, wrong_names
from fourm.generate.rows import RowSampling, continue_rows
from fourm.layouts import Continuous, Discrete, Sequence, Slots
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.models.vision_configs import VisionFeederConfig
from fourm.nn.vision_configs import LinearPoolerConfig, TimmTowerConfig
from fourm.objectives.autoregressive import Autoregressive
from fourm.objectives.configs import AutoregressiveConfig
from fourm.recipe.bundle import Bundle
from fourm.rng import generator
from fourm.tokenizers.text import TextTokenizer, train_wordpiece
from tests import language_vocabularies

COLOURS = ("red", "blue", "green")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    sentences = [f"what colour is the {thing}? {colour}" for thing in ("bed", "lamp") for colour in COLOURS]
    path = tmp_path_factory.mktemp("text") / "text.json"
    return train_wordpiece(sentences, 120, [], path, num_sentinels=3, num_coordinates=2)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Twelve questions about pictures of one colour, and two about words alone."""
    lines: list[dict[str, Any]] = []
    for n in range(12):
        thing, colour = ("bed", "lamp")[n % 2], COLOURS[n % 3]
        Image.new("RGB", (16, 16), colour).save(tmp_path / f"{n}.png")
        question = f"what colour is the {thing}?"
        shown = [{"image": f"{n}.png", "asked": False}] if n < 10 else []
        words = [{"text": question, "asked": False}, {"text": colour, "asked": True}]
        kind = "colour" if n < 10 else "words"
        lines.append({"parts": [*shown, *words], "kind": kind, "question": question, "answer": colour})
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def bundle(text: TextTokenizer) -> Bundle:
    words = Modality("text", Sequence(32, 32), Discrete(text.vocab_size), "text", "text", tokenizer="text")
    image = Modality(
        "image", Slots(4, 16, 16), Continuous(16), "rgb", "image", channels=3, direction="input", normalization="half"
    )
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    tower = TimmTowerConfig("vit_tiny_patch16_224", options=sizes)
    config = MultimodalConfig(
        dim=16, encoder_depth=0, decoder_depth=2, num_heads=2, rope_theta=1e4, position_tables=False,
        modality_embeddings=False, tie_heads=False, embedding_std=0.4,
        feeders={"image": VisionFeederConfig(tower, LinearPoolerConfig())},
    )  # fmt: skip
    return Bundle(Multimodal(ModalitySet([words, image]), config).eval(), {}, text)


def config(data: Path, **changes: Any) -> DocumentsEvaluation:
    packing = InterleavedConfig(num_tokens=32, bos="[SOS]", eos="[EOS]")
    return DocumentsEvaluation("documents", Path("model"), data, **{"packing": packing, "batch_size": 5, **changes})


def test_an_untrained_model_is_measured_beside_its_baselines(bundle: Bundle, questions: Path) -> None:
    outcome = evaluate_documents(config(questions, num_pictures=3), bundle)
    assert list(outcome.metrics) == ["all", "colour", "words"]
    # Six questions about each thing; of each, two about every colour.
    assert outcome.metrics["all"]["baseline_accuracy"] == pytest.approx(1 / 3)
    assert outcome.metrics["words"]["accuracy"] == outcome.metrics["words"]["blind_accuracy"]
    (table,) = outcome.tables
    assert len(table.cells) == 3
    assert all(row[3] in COLOURS for row in table.cells)
    for picture, _, _, colour in table.cells:  # the pictures are the questions' own
        if picture is not None:
            shown = np.asarray(picture, np.float32).mean((0, 1))
            assert np.abs(shown - np.asarray(Image.new("RGB", (1, 1), str(colour)))[0, 0]).max() < 3


def test_right_is_what_greedy_generation_would_write(bundle: Bundle, questions: Path) -> None:
    """Without pictures, documents are rows of ids, which the generator of rows continues token by token."""
    only_words = questions.with_name("words.jsonl")
    only_words.write_text("".join(line + "\n" for line in questions.read_text().splitlines()[10:]))
    given = config(only_words)
    model, expected = bundle.model, []
    for n in range(2):
        (document,) = build_documents(given, bundle).sample(n, generator(0, n))
        prompt = torch.from_numpy(np.concatenate([s.value for s in document if not s.asked]))[None]
        wanted = torch.from_numpy(np.concatenate([s.value for s in document if s.asked]))
        made = continue_rows(model, "text", prompt, len(wanted), torch.zeros(1).long(), RowSampling(temperature=0))
        expected.append(bool((made[0] == wanted).all()))
    found = evaluate_documents(given, bundle).metrics["all"]["accuracy"]
    assert found == np.mean(expected)


def test_a_trained_model_is_right_with_pictures_and_guesses_without(bundle: Bundle, questions: Path) -> None:
    """What learns the twelve documents by heart needs the pictures, since questions are the same for all colours."""
    given = config(questions)
    model = Multimodal(bundle.model.modalities, bundle.model.config)
    dataset = build_documents(given, bundle)
    task = Autoregressive(AutoregressiveConfig(max_tokens=32), model.modalities)
    batch = task.collate([task.prepare(dataset.sample(n, generator(0, n)), generator(0)) for n in range(10)])
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        task.loss(model, batch).scalar(task.counts(batch)).backward()
        optimizer.step()
    found = evaluate_documents(given, Bundle(model.eval(), {}, bundle.text)).metrics["colour"]
    assert found["accuracy"] == 1.0
    assert found["blind_accuracy"] <= 0.5


def test_of_several_asked_words_the_last_alone_count(bundle: Bundle, questions: Path, tmp_path: Path) -> None:
    """Else examples with names that are asked too would make documents with more of them harder to get right."""
    lines = [json.loads(line)["parts"] for line in questions.read_text().splitlines()[10:]]
    plain, shown = tmp_path / "plain.jsonl", tmp_path / "shown.jsonl"
    for path, asked in ((plain, False), (shown, True)):
        examples = [[{**part, "asked": asked and part["asked"]} for part in parts] for parts in lines]
        path.write_text("".join(json.dumps({"parts": [*e, *p]}) + "\n" for e, p in zip(examples, lines)))
    wanted = [
        [row[3] for row in evaluate_documents(config(p, blind=False), bundle).tables[0].cells] for p in (plain, shown)
    ]
    assert wanted[0] == wanted[1]
    assert set(wanted[0]) <= set(COLOURS)


def test_of_two_names_the_likelier_one_is_chosen(bundle: Bundle, tmp_path: Path) -> None:
    """One document asks for each name, of the same words: whatever a model prefers, it is right in one of them."""
    lines = []
    for answer in ("bed", "lamp"):
        parts = [{"text": "what colour is the", "asked": False}, {"text": answer}]
        lines.append({"parts": parts, "names": ["bed", "lamp"], "answer": answer, "shots": 1})
    path = tmp_path / "names.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = evaluate_documents(config(path), bundle).metrics
    assert found["all"]["choice_accuracy"] == found["1_shots"]["choice_accuracy"] == 0.5
    path.write_text("".join(json.dumps(line) + "\n" for line in [lines[0], lines[0]]))
    once = evaluate_documents(config(path), bundle).metrics["all"]["choice_accuracy"]
    path.write_text("".join(json.dumps(line) + "\n" for line in [lines[1], lines[1]]))
    assert {once, evaluate_documents(config(path), bundle).metrics["all"]["choice_accuracy"]} == {0.0, 1.0}


@pytest.mark.parametrize("kind", language_vocabularies.KINDS)
def test_the_other_name_is_written_as_in_its_place(kind: str) -> None:
    words = language_vocabularies.vocabulary(kind)
    line = {"parts": [{"text": "this is a", "asked": False}, "bed"], "names": ["bed", "rug"], "answer": "bed"}
    (wrong,) = wrong_names(words, [line]) or [np.zeros(0)]
    assert [*words.encode("this is a"), *wrong] == words.encode("this is a rug").tolist()
    (alone,) = wrong_names(words, [{"names": line["names"], "answer": "bed"}]) or [np.zeros(0)]
    assert alone.tolist() == words.encode("rug").tolist()


def test_a_document_that_asks_nothing_is_not_right(bundle: Bundle, questions: Path) -> None:
    short = config(questions, packing=InterleavedConfig(num_tokens=8, bos="[SOS]", eos="[EOS]"))
    with pytest.raises(DataError, match=r"line 1: nothing is asked, or the answer is cut off.*num_tokens"):
        evaluate_documents(short, bundle)


def test_what_cannot_be_measured_is_refused(bundle: Bundle, questions: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pack false and group 1"):
        evaluate_documents(config(questions, packing=InterleavedConfig(pack=True)), bundle)
    with pytest.raises(ConfigError, match="without an encoder that reads text"):
        evaluate_documents(config(questions), Bundle(bundle.model, {}, None))
    with pytest.raises(DataError):
        evaluate_documents(config(tmp_path / "nothing.jsonl"), bundle)


def test_guesses_and_kinds() -> None:
    facts = [{"question": "a", "answer": "1"}] * 3 + [
        {"question": "a", "answer": "2"},
        {"question": "b", "answer": "2"},
    ]
    assert best_guess(facts) == pytest.approx(4 / 5)
    assert best_guess([{"parts": []}]) is None
    assert by_kind([{"kind": "x"}, {"shots": 2}, {}]) == {"all": [0, 1, 2], "x": [0], "2_shots": [1]}


def test_empty_lines_are_counted_as_the_data_set_counts_them(tmp_path: Path) -> None:
    (tmp_path / "lines.jsonl").write_text('{"kind": "colour"}\n\n{"kind": "count"}\n')

    assert read_facts(tmp_path / "lines.jsonl", 3) == [{"kind": "colour"}, {}, {"kind": "count"}]
    with pytest.raises(DataError, match="a JSON object per line"):
        read_facts(tmp_path / "none.jsonl", 3)


def test_the_shipped_recipe_is_read() -> None:
    loaded = load("documents", ["model=m", "data=d.jsonl"])
    assert isinstance(loaded, DocumentsEvaluation)
    assert loaded.packing.num_tokens == 512
