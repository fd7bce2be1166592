from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fourm.errors import ConfigError
from fourm.evaluate.predict import Predictor, greedy, one_step


@pytest.fixture(scope="module")
def predictor(fashion_bundle: Any) -> Predictor:
    return Predictor(fashion_bundle, torch.device("cpu"))


def test_pixels_are_given_where_the_model_reads_them(predictor: Predictor) -> None:
    given = predictor.give_image("image", torch.full((2, 1, 28, 28), 0.75))
    facts = given["image@28"]
    assert facts["positions"].shape == (2, 49)
    assert torch.allclose(facts["values"], torch.tensor(0.5))  # normalised


def test_nothing_below_the_given_rows_is_looked_at(predictor: Predictor) -> None:
    images = torch.rand(2, 1, 28, 28)
    other = images.clone()
    other[..., 12:, :] = torch.rand(2, 1, 16, 28)
    a, b = (predictor.give_image("image", x, patches=21)["image@28"] for x in (images, other))
    assert a["positions"].tolist() == [list(range(21))] * 2
    assert torch.equal(a["values"], b["values"])
    assert not torch.equal(images, a["values"])


def test_images_become_tokens_where_the_model_reads_no_pixels(predictor: Predictor) -> None:
    facts = predictor.give_image("edges", torch.rand(2, 1, 28, 28), patches=21)["tok_edges@28"]
    assert facts["ids"].shape == facts["positions"].shape == (2, 21)


def test_texts_are_given_whole_with_their_end(predictor: Predictor) -> None:
    ids = predictor.give_texts("caption", ["a photo of a t-shirt", "a boot"])["caption"]["ids"]
    short = [i for i in ids[1].tolist() if i >= 0]
    assert short[-1] == predictor.text.eos_id
    assert predictor.text.decode(short) == "a boot"
    assert (ids[1, len(short) :] == -1).all()


def test_draws_of_a_sample_do_not_depend_on_its_batch(predictor: Predictor) -> None:
    together = predictor.seeds(0, 4, "x")
    assert torch.equal(together[2:], predictor.seeds(2, 2, "x"))
    assert not torch.equal(together, predictor.seeds(0, 4, "y"))


def test_answers_do_not_depend_on_the_batch(predictor: Predictor) -> None:
    images = torch.rand(3, 1, 28, 28)
    target, caption = predictor.need("tok_image", asked=True), predictor.need("caption", asked=True)
    steps = [one_step(target), greedy(caption)]
    whole = predictor.run(steps, predictor.give_image("image", images), predictor.seeds(0, 3, "x"))
    last = predictor.run(steps, predictor.give_image("image", images[2:]), predictor.seeds(2, 1, "x"))
    expected = predictor.images(target, last, "expected")
    assert torch.allclose(predictor.images(target, whole, "expected")[2:], expected, atol=1e-3)
    assert predictor.texts(caption, whole)[2] == predictor.texts(caption, last)[0]


def test_expected_code_of_a_certain_answer_is_its_code(predictor: Predictor) -> None:
    target = predictor.need("tok_image")
    ids = torch.randint(0, 256, (2, 49), generator=torch.Generator().manual_seed(0))
    certain = torch.nn.functional.one_hot(ids, 256).float()
    generated = SimpleNamespace(ids={target.name: ids}, probabilities={target.name: certain})
    expected = predictor.images(target, generated)
    assert torch.allclose(predictor.images(target, generated, "expected"), expected, atol=1e-5)
    assert torch.allclose(predictor.images(target, generated, "argmax"), expected, atol=1e-5)


def test_an_unknown_modality_is_named_with_the_closest(predictor: Predictor) -> None:
    with pytest.raises(ConfigError, match=r"no input modality 'tok_imag'.*Did you mean 'tok_image'"):
        predictor.need("tok_imag", given=True)
