"""Tokenizers of language models as text tokenizers: byte-level (Qwen, Llama 3) and sentencepiece style (Llama 2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from fourm import config as configs
from fourm.errors import CheckpointError, ConfigError
from fourm.recipe import wordpiece
from fourm.recipe.schema import TextTokenizerRecipe
from fourm.tokenizers.text import TextTokenizer

TEXTS = ["a red bed and a door", "what colour is the bed? red.", "no\nway"]


def trained(backend: Any, special: list[str], **options: Any) -> Any:
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False, **options)
    backend.train_from_iterator(TEXTS * 3, trainer)
    return backend


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    """Bytes, nothing before a text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trained(backend, special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    backend.save(str(tmp_path / "qwen.json"))
    return tmp_path / "qwen.json"


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """Sentencepiece style: spaces are part of words, bytes stand in for unknown characters."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])  # fmt: skip
    trained(backend, ["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_special_ids_are_found_by_their_names(qwen: Path, llama: Path) -> None:
    two, three = TextTokenizer.load(llama), TextTokenizer.load(qwen)
    assert [two.token(id) for id in (two.special.start, two.special.end, two.special.unknown)] == [
        "<s>",
        "</s>",
        "<unk>",
    ]
    assert two.pad_id == two.eos_id  # it has none of its own
    assert [three.token(id) for id in (three.special.start, three.special.end)] == ["<|endoftext|>"] * 2
    assert (two.num_sentinels, two.special.num_sentinels, three.num_coordinates) == (0, 0, 0)


@pytest.mark.parametrize("text", ["a red bed", "what colour is the door?", "  two  spaces", "Zürich 雪", "a\nb"])
def test_texts_come_back(qwen: Path, llama: Path, text: str) -> None:
    byte_level = TextTokenizer.load(qwen)
    assert byte_level.decode(byte_level.encode(text)) == text
    if text.isascii():
        pieces = TextTokenizer.load(llama)
        known = "".join(c for c in text if c in "".join(TEXTS))
        assert pieces.decode(pieces.encode(known)) == known


def test_encoding_is_that_of_the_library(qwen: Path) -> None:
    text = "a red  bed. what colour"
    expected = Tokenizer.from_file(str(qwen)).encode(text, add_special_tokens=False).ids
    assert TextTokenizer.load(qwen).encode(text).tolist() == expected


def test_decoding_ends_where_a_text_does(qwen: Path) -> None:
    tokenizer = TextTokenizer.load(qwen)
    ids = tokenizer.encode("a red bed").tolist()
    assert tokenizer.decode([*ids, tokenizer.eos_id, *ids]) == "a red bed"


def test_tokens_are_added_behind_the_vocabulary(llama: Path, tmp_path: Path) -> None:
    before, tokens = TextTokenizer.load(llama), ["[IMG]", "[/IMG]", "[USER]", "[ASSISTANT]"]
    out = tmp_path / "more.json"
    wordpiece.run(configs.build(TextTokenizerRecipe, {"extend": str(llama), "tokens": tokens, "output": str(out)}))
    after = TextTokenizer.load(out)
    assert [after.id_of(token) for token in tokens] == list(range(before.vocab_size, before.vocab_size + 4))
    assert after.vocab_size == before.vocab_size + 4
    assert after.special.start == before.special.start
    assert after.encode("[USER]: a bed").tolist()[0] == after.id_of("[USER]")
    assert after.hash != before.hash
    assert Tokenizer.from_file(str(out)).get_vocab_size() == after.vocab_size  # others can read it as well


def test_what_begins_and_ends_a_text_can_be_named(qwen: Path, tmp_path: Path) -> None:
    recipe = {"extend": str(qwen), "special": {"start": "<|im_start|>", "end": "<|im_end|>"}, "output": "named.json"}
    wordpiece.run(configs.build(TextTokenizerRecipe, {**recipe, "output": str(tmp_path / "named.json")}))
    named = TextTokenizer.load(tmp_path / "named.json")
    assert [named.token(id) for id in (named.special.start, named.special.end)] == ["<|im_start|>", "<|im_end|>"]
    assert named.encode("a").tolist() == TextTokenizer.load(qwen).encode("a").tolist()


def test_special_tokens_must_be_of_the_vocabulary(qwen: Path) -> None:
    with pytest.raises(ConfigError, match="special.end is '<end>'"):
        TextTokenizer.load(qwen).extended([], {"end": "<end>"})
    with pytest.raises(ConfigError, match="leave out sources"):
        configs.build(TextTokenizerRecipe, {"extend": "a", "sources": ["b"], "output": "c"})
    with pytest.raises(ConfigError, match="special is for a tokenizer that is extended"):
        configs.build(TextTokenizerRecipe, {"special": {"end": "a"}, "output": "c"})


def test_a_bert_has_its_own_names(tmp_path: Path) -> None:
    words = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4}
    backend = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    backend.save(str(tmp_path / "bert.json"))
    special = TextTokenizer.load(tmp_path / "bert.json").special
    assert (special.pad, special.unknown, special.start, special.end) == (0, 1, 2, 3)


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(CheckpointError, match="is not a text tokenizer"):
        TextTokenizer.load(tmp_path)
