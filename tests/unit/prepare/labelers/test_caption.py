"""Captions by networks of the transformers library."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    PreTrainedTokenizerFast,
)

from fourm.data.decode import decode
from fourm.errors import ConfigError, DataError
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.caption import Caption, Draws
from fourm.prepare.labelers.network_configs import CaptionConfig

WORDS = (
    "a", "photo", "of", "cat", "dog", "red", "blue", "on", "the", "table", "big", "small", "run", "sits", "green",
    "house",
)  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
IMAGES = BlipImageProcessor(size={"height": 32, "width": 32})


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blip")
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *WORDS]
    text = {
        "vocab_size": len(words), "hidden_size": 16, "encoder_hidden_size": 16, "intermediate_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2, "projection_dim": 8, "max_position_embeddings": 32,
        "bos_token_id": 5, "eos_token_id": 2, "pad_token_id": 0, "sep_token_id": 3,
    }  # fmt: skip
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=VISION, projection_dim=8))
    for parameter in model.parameters():
        parameter.data.mul_(3)  # captions that differ
    model.save_pretrained(folder)
    tokenizer = BertTokenizer(vocab={word: n for n, word in enumerate(words)}, bos_token="[DEC]")
    BlipProcessor(IMAGES, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def blip_2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blip_2")
    torch.manual_seed(0)
    words = ["<pad>", "</s>", "<s>", "<unk>", "<image>", *WORDS]
    layers = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        "model_type": "opt", "vocab_size": len(words), "ffn_dim": 16, "max_position_embeddings": 64,
        "word_embed_proj_dim": 16, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, **layers,
    }  # fmt: skip
    queries = {"vocab_size": 8, "intermediate_size": 16, "encoder_hidden_size": 16, **layers}
    config = Blip2Config(
        vision_config=VISION, qformer_config=queries, text_config=text, num_query_tokens=4, image_token_index=4
    )
    Blip2ForConditionalGeneration(config).save_pretrained(folder)
    table = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    table.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=table, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )
    Blip2Processor(IMAGES, tokenizer, num_query_tokens=4).save_pretrained(folder)
    return folder


def texts(config: CaptionConfig, photos: list[Photo]) -> list[str | list[str]]:
    modality = config.modality("caption")
    return [decode(data, modality, lambda: "caption") for data in Caption(config, "cpu").label(photos)]


def test_a_caption_is_text_of_at_most_so_many_words(blip: Path, photos: list[Photo]) -> None:
    found = texts(CaptionConfig(weights=blip, max_new_tokens=5), photos)

    assert len(found) == len(photos)
    for caption in found:
        assert isinstance(caption, str)
        assert 1 <= len(caption.split()) <= 5
        assert set(caption.split()) <= set(WORDS)


def test_the_beam_search_gives_several_distinct_captions(blip: Path, photos: list[Photo]) -> None:
    found = texts(CaptionConfig(weights=blip, num_captions=3, max_new_tokens=6), photos)
    best = texts(CaptionConfig(weights=blip, max_new_tokens=6), photos)

    for captions, first in zip(found, best):
        assert len(captions) == len(set(captions)) > 1
        assert captions[0] == first


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_batch_gives_what_each_photograph_gives_alone(blip: Path, photos: list[Photo], temperature: float) -> None:
    config = CaptionConfig(weights=blip, num_captions=2, max_new_tokens=6, temperature=temperature, top_p=0.9)

    assert texts(config, photos) == [texts(config, [photo])[0] for photo in photos]


def test_draws_follow_from_the_seed_and_the_key(blip: Path, photos: list[Photo]) -> None:
    config = CaptionConfig(weights=blip, num_captions=3, max_new_tokens=8, temperature=2.0)
    (first,), (again,) = texts(config, photos[:1]), texts(config, photos[:1])

    assert len(first) == 3
    assert first == again
    assert texts(replace(config, seed=1), photos[:1]) != [first]
    assert texts(config, [replace(photos[0], key="other")]) != [first]


@pytest.mark.parametrize("network", ["blip", "blip_2"])
def test_every_caption_starts_with_the_prompt(
    request: pytest.FixtureRequest, photos: list[Photo], network: str
) -> None:
    weights = request.getfixturevalue(network)

    for caption in texts(CaptionConfig(weights=weights, prompt="a photo of", max_new_tokens=5), photos):
        assert caption.startswith("a photo of ")
        assert 4 <= len(caption.split()) <= 8


def test_blip_2_needs_no_prompt(blip_2: Path, photos: list[Photo]) -> None:
    config = CaptionConfig(weights=blip_2, max_new_tokens=5)

    assert all(set(caption.split()) <= set(WORDS) for caption in texts(config, photos))


def test_saying_nothing_is_an_error(blip: Path, photos: list[Photo]) -> None:
    labeler = Caption(CaptionConfig(weights=blip), "cpu")
    predictions = labeler.model.text_decoder.cls.predictions
    predictions.decoder.bias.data[3] = 1e4  # the end

    with pytest.raises(DataError, match="said nothing"):
        labeler.label(photos[:1])


def test_draws_have_the_probabilities_of_the_words() -> None:
    scores = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05])).expand(20_000, 4)

    drawn = Draws(torch.arange(20_000), 1.0, 1.0)(torch.zeros(20_000, 3), scores).argmax(-1)
    colder = Draws(torch.arange(20_000), 0.5, 1.0)(torch.zeros(20_000, 3), scores).argmax(-1)

    torch.testing.assert_close(drawn.bincount() / 20_000, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.012, rtol=0)
    squares = torch.tensor([0.25, 0.09, 0.0225, 0.0025])
    torch.testing.assert_close(colder.bincount() / 20_000, squares / squares.sum(), atol=0.012, rtol=0)


def test_top_p_leaves_the_likeliest_words_that_make_up_so_much() -> None:
    scores = torch.log(torch.tensor([0.05, 0.5, 0.15, 0.3])).expand(2_000, 4)

    drawn = Draws(torch.arange(2_000), 1.0, 0.7)(torch.zeros(2_000, 1), scores).argmax(-1)

    assert set(drawn.tolist()) == {1, 3}


def test_a_beam_search_finds_no_more_captions_than_beams() -> None:
    with pytest.raises(ConfigError, match="num_captions is 5.*set a temperature"):
        CaptionConfig(num_captions=5)
