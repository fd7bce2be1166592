"""Rows that go on: draws that belong to each sample, windows, and what a prompt is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from fourm.errors import ConfigError, DataError
from fourm.generate.rows import RowSampling, continue_rows, log_likelihood, row_modality, shot_perplexity
from fourm.generate.sampler import Sampler
from fourm.generate.visual import VisualPrompt, prompt
from fourm.layouts import Continuous, Discrete, Grid, Sequence
from fourm.modality import Modality, ModalitySet
from fourm.models.configs import MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.recipe.bundle import Bundle

CODES, IDS, LONGEST = 16, 18, 41
SEEDS = torch.arange(5)


def row(name: str = "visual") -> Modality:
    return Modality(name, Sequence(LONGEST, LONGEST), Discrete(IDS), name, "tokens", tokenizer="gray")


@pytest.fixture(scope="module")
def model() -> Multimodal:
    values = MultimodalConfig.expand(
        {"preset": "lvm_debug", "dim": 32, "mlp_hidden_dim": 32, "init_std": 0.3, "head_std": 0.3}
    )
    return Multimodal(ModalitySet([row()]), MultimodalConfig(**{**values, "embedding_std": 1.0}), seed=1).eval()


class GrayTokenizer:
    """Four blocks of an image; ids are their brightness."""

    modality = Modality(
        "gray", Grid(2, 2, 4), Continuous(48), "gray", "image", channels=3, value_range=(0.0, 1.0), direction="input"
    )
    grid, vocab_size = Grid(2, 2, 4), CODES

    def encode(self, images: Tensor) -> Tensor:
        blocks = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 4)[:, 0]
        return (blocks * (CODES - 1)).round().long()

    def decode(self, ids: Tensor, *, seeds: Tensor | None = None) -> Tensor:
        gray = ids.float()[:, None] / (CODES - 1)
        return torch.nn.functional.interpolate(gray, scale_factor=4).expand(-1, 3, -1, -1)


@pytest.fixture
def asked(model: Multimodal) -> VisualPrompt:
    return VisualPrompt(Bundle(model, {"visual": GrayTokenizer()}))


def ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(CODES, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5, "top_p": 0.8}, {"top_k": 4}, {"temperature": 0.0}])
def test_a_cache_changes_nothing(model: Multimodal, options: dict[str, Any]) -> None:
    shown = ids(5, 7)
    found = [
        continue_rows(model, "visual", shown, 12, SEEDS, RowSampling(**options, cache=cache)) for cache in (True, False)
    ]
    assert torch.equal(*found)


def test_a_sample_depends_on_its_own_seed_and_prompt(model: Multimodal) -> None:
    shown = ids(1, 7).expand(5, -1)
    together = continue_rows(model, "visual", shown, 12, SEEDS)
    assert len({tuple(found) for found in together.tolist()}) == 5
    assert torch.equal(continue_rows(model, "visual", shown[:1], 12, SEEDS[3:4])[0], together[3])


def test_ids_that_are_no_codes_can_be_left_out(model: Multimodal) -> None:
    many = torch.arange(60)
    free = continue_rows(model, "visual", ids(60, 3), 12, many)
    codes = continue_rows(model, "visual", ids(60, 3), 12, many, RowSampling(num_ids=CODES))
    assert free.max() >= CODES
    assert codes.max() < CODES
    assert codes.shape == (60, 12)


def test_draws_follow_the_model(model: Multimodal) -> None:
    shown = ids(1, 5)
    expected = log_likelihood(model, "visual", shown.expand(IDS, -1), torch.arange(IDS)[:, None])[:, 0].exp()
    assert float(expected.sum()) == pytest.approx(1, abs=1e-5)
    count = 4000
    found = continue_rows(model, "visual", shown.expand(count, -1), 1, torch.arange(count))[:, 0]
    shares = torch.bincount(found, minlength=IDS) / count
    assert (shares - expected).abs().max() < 5 * (0.25 / count) ** 0.5


def test_rows_have_an_end(model: Multimodal) -> None:
    assert continue_rows(model, "visual", ids(1, 1), LONGEST - 1, SEEDS[:1]).shape == (1, LONGEST - 1)
    with pytest.raises(DataError, match=r"a prompt of 30 tokens and 12 new ones; .* from 1 to 29"):
        continue_rows(model, "visual", ids(1, 30), 12, SEEDS[:1])
    with pytest.raises(DataError, match="a prompt of 0 tokens"):
        continue_rows(model, "visual", ids(1, 0), 12, SEEDS[:1])
    with pytest.raises(DataError, match=r"at most 41 tokens"):
        log_likelihood(model, "visual", ids(1, 40), ids(1, 2))


def test_ids_that_the_model_has_not_are_named(model: Multimodal) -> None:
    with pytest.raises(DataError, match="ids from 0 to 18; 'visual' of this model has 18 ids"):
        continue_rows(model, "visual", torch.tensor([[0, 18]]), 4, SEEDS[:1])
    with pytest.raises(DataError, match="ids from -1 to 3"):
        log_likelihood(model, "visual", torch.tensor([[3, 3]]), torch.tensor([[-1, 3]]))


def test_more_ids_than_there_are_can_be_kept(model: Multimodal) -> None:
    free = continue_rows(model, "visual", ids(5, 3), 12, SEEDS)
    assert torch.equal(free, continue_rows(model, "visual", ids(5, 3), 12, SEEDS, RowSampling(top_k=1000)))


# ------------------------------------------------------------------ images


def test_each_new_image_sees_the_last_ones(model: Multimodal, asked: VisualPrompt) -> None:
    images = ids(5, 6, 4)
    new = asked.continue_images(images, 3, SEEDS, window=2)
    assert new.shape == (5, 3, 4)
    assert new.max() < CODES
    everything = torch.cat([images, new], 1)
    for number in range(3):
        shown = everything[:, 4 + number : 6 + number].flatten(1)
        alone = continue_rows(model, "visual", shown, 4, SEEDS + (number << 32), RowSampling(num_ids=CODES))
        assert torch.equal(alone, new[:, number])


def test_the_window_holds_what_the_model_has_room_for(asked: VisualPrompt) -> None:
    images = ids(1, 20, 4)
    wide = asked.continue_images(images, 1, SEEDS[:1])
    assert torch.equal(wide, asked.continue_images(images, 1, SEEDS[:1], window=9))  # 10 images of 4 in 41 tokens
    assert torch.equal(wide, asked.continue_images(images[:, -9:], 1, SEEDS[:1]))
    with pytest.raises(DataError, match="a window of 10; .* from 1 to 9"):
        asked.continue_images(images, 1, SEEDS[:1], window=10)
    with pytest.raises(DataError, match="0 images"):
        asked.continue_images(images[:, :0], 1, SEEDS[:1])


def test_an_analogy_is_a_sentence_of_pairs_and_a_question(model: Multimodal, asked: VisualPrompt) -> None:
    images = ids(5, 5, 4)
    answer = asked.analogy([(images[:, 0], images[:, 1]), (images[:, 2], images[:, 3])], images[:, 4], SEEDS)
    shown = images.flatten(1)
    assert torch.equal(answer, continue_rows(model, "visual", shown, 4, SEEDS, RowSampling(num_ids=CODES)))
    begun = VisualPrompt(Bundle(model, {"visual": GrayTokenizer()}), begin=16)
    shown = torch.cat([torch.full((5, 1), 16), shown], 1)
    expected = continue_rows(model, "visual", shown, 4, SEEDS, RowSampling(num_ids=CODES))
    assert torch.equal(begun.continue_images(images, 1, SEEDS)[:, 0], expected)


def test_images_go_through_the_tokenizer_both_ways(asked: VisualPrompt) -> None:
    shown = ids(3, 4)
    images = asked.decode(shown)
    assert images.shape == (3, 3, 8, 8)
    assert torch.equal(asked.encode(images), shown)


def test_files_are_continued_by_files(model: Multimodal, tmp_path: Path) -> None:
    bundle = Bundle(model, {"visual": GrayTokenizer()})
    paths = [tmp_path / f"{n}.png" for n in range(3)]
    for n, path in enumerate(paths):
        Image.new("RGB", (20, 16), (80 * n,) * 3).save(path)
    written = prompt(bundle, tmp_path / "out", pairs=[(paths[0], paths[1])], frames=paths[2:], num_samples=2, count=2)
    assert [path.name for path in written] == ["0_0.png", "0_1.png", "1_0.png", "1_1.png"]
    assert Image.open(written[0]).size == (8, 8)
    with pytest.raises(DataError, match="cannot read the image .*nowhere.png"):
        prompt(bundle, tmp_path / "out", frames=[tmp_path / "nowhere.png"])
    with pytest.raises(DataError, match="needs at least one image"):
        prompt(bundle, tmp_path / "out")


def test_no_pair_leaves_a_prompt_unsaid(model: Multimodal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair of which one image is out of sight would pair each question with the answer of another."""
    monkeypatch.setattr("fourm.generate.visual.WINDOW", 3)
    bundle = Bundle(model, {"visual": GrayTokenizer()})
    paths = [tmp_path / f"{n}.png" for n in range(10)]
    for n, path in enumerate(paths):
        Image.new("RGB", (8, 8), (20 * n,) * 3).save(path)
    pairs = [(paths[0], paths[1]), (paths[2], paths[3]), (paths[4], paths[5])]
    sampling = RowSampling(temperature=0)
    (written,) = prompt(bundle, tmp_path / "out", pairs=pairs, frames=paths[6:7], sampling=sampling)
    asked = VisualPrompt(bundle)
    shown = torch.cat([asked.read(path) for path in paths[:7]])[None]
    expected = asked.continue_images(shown, 1, SEEDS[:1], sampling, window=7)[:, 0]
    assert torch.equal(asked.read(written), expected)
    with pytest.raises(DataError, match="10 images and a window of 10; .* from 1 to 9"):
        prompt(bundle, tmp_path / "out", pairs=pairs, frames=paths[6:])


def test_ids_of_tokenizer_and_prompt_have_to_be_the_models(model: Multimodal) -> None:
    tokenizer = GrayTokenizer()
    tokenizer.vocab_size = IDS + 1
    with pytest.raises(ConfigError, match="'visual' of this model has 18 ids, but its tokenizer makes 19"):
        VisualPrompt(Bundle(model, {"visual": tokenizer}))
    with pytest.raises(
        ConfigError, match="begins with id 18; 'visual' of this model has 18 ids, from 0, and 16 of them"
    ):
        VisualPrompt(Bundle(model, {"visual": GrayTokenizer()}), begin=IDS)


def test_rows_of_codes_alone_are_prompted_up_to_their_end() -> None:
    """DeLVM's have no special ids, and its prompt of three pairs and a question leaves room for the answer alone."""
    visual = Modality("visual", Sequence(32, 32), Discrete(CODES), "visual", "tokens", tokenizer="gray")
    sizes = {"preset": "delvm_300m", "dim": 32, "mlp_hidden_dim": 32, "decoder_depth": 2, "num_heads": 2}
    start = {"init_std": 0.3, "head_std": 0.3, "embedding_std": 1.0}
    config = MultimodalConfig(**MultimodalConfig.expand({**sizes, **start, "code_dim": 4}))
    model = Multimodal(ModalitySet([visual]), config, seed=1).eval()
    asked, images = VisualPrompt(Bundle(model, {"visual": GrayTokenizer()})), ids(5, 7, 4)
    pairs = [(images[:, n], images[:, n + 1]) for n in (0, 2, 4)]
    answers = [asked.analogy(pairs, images[:, 6], SEEDS, RowSampling(cache=cache)) for cache in (True, False)]
    assert torch.equal(*answers)
    assert len({tuple(answer) for answer in answers[0].tolist()}) == 5
    sentences = torch.cat([images, answers[0][:, None]], 1)
    alone = log_likelihood(model, "visual", sentences[:, :7].flatten(1), sentences[:, 7])
    assert shot_perplexity(model, "visual", sentences, [3])[3] == pytest.approx(float((-alone.mean()).exp()))
    with pytest.raises(DataError, match="8 images and a window of 8; .* from 1 to 7"):
        asked.continue_images(sentences, 1, SEEDS, window=8)
    with pytest.raises(ConfigError, match="begins with id 16"):
        VisualPrompt(Bundle(model, {"visual": GrayTokenizer()}), begin=CODES)


def test_models_of_other_kinds_are_refused(model: Multimodal) -> None:
    with pytest.raises(ConfigError, match="no tokenizer for the images of 'visual'"):
        VisualPrompt(Bundle(model))
    encoder = Multimodal(ModalitySet([row()]), MultimodalConfig(16, 1, 1, 2, tie_heads=False))
    with pytest.raises(ConfigError, match="this one has an encoder"):
        row_modality(encoder)
    with pytest.raises(ConfigError, match="has no encoder to be given anything.*fourm prompt"):
        Sampler(model)
    with pytest.raises(ConfigError, match="the sequences visual"):
        row_modality(model, "other")


# ------------------------------------------------------------------ what a prompt is worth


def test_perplexity_is_that_of_the_same_answers_behind_more_pairs(model: Multimodal) -> None:
    sentences = ids(3, 8, 4)
    found = shot_perplexity(model, "visual", sentences, [0, 1, 3])
    for count, value in found.items():
        context = sentences[:, 6 - 2 * count : 7].flatten(1)
        nll = -log_likelihood(model, "visual", context, sentences[:, 7])
        assert value == pytest.approx(float(nll.mean().exp()))
    assert len({round(v, 4) for v in found.values()}) == 3
    with pytest.raises(DataError, match="8 images have 3 pairs .* asked for 4"):
        shot_perplexity(model, "visual", sentences, [4])
    for shots in ([], [-1, 0]):
        with pytest.raises(DataError, match="8 images have 3 pairs"):
            shot_perplexity(model, "visual", sentences, shots)
