"""Embeddings of captions by T5 and by the text encoder of CLIP."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fourm.data.decode import decode
from fourm.errors import CheckpointError, ConfigError, DataError
from fourm.prepare.labelers.base import Origin, Photo
from fourm.prepare.labelers.configs import like
from fourm.prepare.labelers.feature_configs import ClipTextConfig, T5Config
from fourm.prepare.labelers.t5 import T5, ClipText

transformers = pytest.importorskip("transformers")

WORDS = ["a", "cat", "on", "red", "bed", "the"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny T5 with a vocabulary of six words, as `save_pretrained` writes it."""
    path = tmp_path_factory.mktemp("t5")
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 2, "num_heads": 2, "vocab_size": 128}
    transformers.T5EncoderModel(transformers.T5Config(**sizes)).save_pretrained(path)
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -5.0), *((f"▁{word}", -3.0) for word in WORDS)]
    transformers.T5Tokenizer(vocab=vocabulary, extra_ids=0).save_pretrained(path)
    return path


def photo(caption: str | list[str] | None) -> Photo:
    labels = {} if caption is None else {"caption": json.dumps(caption).encode()}
    pixels = np.zeros((8, 8, 3), np.uint8)
    return Photo("a", pixels, Origin("a.jpg", 8, 8), labels, {"caption": like("caption", "caption")})


def config(folder: Path, **changes: Any) -> T5Config:
    return T5Config(name=str(folder), dim=16, precision="fp32", **changes)


def test_a_caption_becomes_a_vector_per_word_and_one_of_its_end(folder: Path) -> None:
    chosen = config(folder)
    (data,) = T5(chosen, "cpu").label([photo("the red cat")])

    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        assert (file["emb"].shape, file["emb"].dtype) == ((4, 16), np.float16)
        assert file["mask_valid"].tolist() == [True] * 4
    model = transformers.T5EncoderModel.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        expected = model(**tokenizer("the red cat", return_tensors="pt")).last_hidden_state[0]
    found = decode(data, chosen.modality("t5_caption"), lambda: "here")
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_captions_of_a_batch_do_not_change_each_other(folder: Path) -> None:
    photos = [photo(text) for text in ("a cat", "", "the red cat on a red bed", "a bed", "on the cat")]
    network = T5(config(folder, batch_size=2), "cpu")

    for one, data in zip(photos, network.label(photos), strict=True):
        (single,) = network.label([one])
        with np.load(io.BytesIO(data)) as a, np.load(io.BytesIO(single)) as b:
            np.testing.assert_allclose(a["emb"], b["emb"], atol=2e-3)


def test_of_alternatives_the_first_counts_and_long_captions_are_cut(folder: Path) -> None:
    network = T5(config(folder, max_tokens=3), "cpu")

    several, first, long = network.label([photo(["a cat", "the bed"]), photo("a cat"), photo("a red cat on a bed")])

    assert several == first
    with np.load(io.BytesIO(long)) as file:
        assert len(file["emb"]) == 3


def test_bf16_computes_almost_the_same(folder: Path) -> None:
    exact, rounded = (
        decode(T5(c, "cpu").label([photo("a red cat")])[0], c.modality("t5"), lambda: "here")
        for c in (config(folder), replace(config(folder), precision="bf16"))
    )

    assert 0 < np.abs(exact - rounded).max() < 0.1


def test_weights_may_be_torchs_file_of_which_only_tensors_are_read(folder: Path, tmp_path: Path) -> None:
    for file in folder.glob("*.json"):
        shutil.copy(file, tmp_path)
    model = transformers.T5EncoderModel.from_pretrained(folder)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (expected,) = T5(config(folder), "cpu").label([photo("a red cat")])

    assert T5(config(tmp_path), "cpu").label([photo("a red cat")]) == [expected]

    ran = tmp_path / "ran"
    torch.save({**model.state_dict(), "code": _Runs(str(ran))}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="weights cannot be loaded"):
        T5(config(tmp_path), "cpu")
    assert not ran.exists()


class _Runs:
    """What makes a file where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.path),)


def test_the_modality_has_the_length_of_the_vectors(folder: Path) -> None:
    assert T5Config().modality("t5_caption") == like("t5_caption", "t5_caption")
    assert (m := config(folder, max_tokens=9).modality("t5_small")).content.dim == 16  # type: ignore[union-attr]
    assert (m.source, m.layout.max_tokens, m.direction) == ("t5_small", 9, "input")  # type: ignore[union-attr]


def test_what_cannot_work_says_why(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"dim is 4096, but it makes 16; set dim: 16"):
        T5(T5Config(name=str(folder)), "cpu")
    with pytest.raises(CheckpointError, match=r"T5 encoder .* which does not exist"):
        T5(T5Config(weights=tmp_path / "gone"), "cpu")
    with pytest.raises(CheckpointError, match=r"T5 encoder '.*': its weights cannot be loaded.* set `weights`"):
        T5(T5Config(name=str(tmp_path)), "cpu")
    with pytest.raises(DataError, match="it has no 'caption' to embed"):
        T5(config(folder), "cpu").label([photo(None)])


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny text encoder of CLIP with single letters as its vocabulary."""
    path = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    letters = [letter + end for letter in "acdehnort" for end in ("", "</w>")]
    vocabulary = {token: n for n, token in enumerate(["<|startoftext|>", "<|endoftext|>", *letters])}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    settings = transformers.CLIPTextConfig(**sizes, **ends, vocab_size=len(vocabulary), max_position_embeddings=12)
    transformers.CLIPTextModel(settings).save_pretrained(path)
    transformers.CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(path)
    return path


def test_clip_always_gives_as_many_vectors_as_stable_diffusion_reads(clip: Path) -> None:
    chosen = ClipTextConfig(name=str(clip), dim=16, max_tokens=12, precision="fp32")

    one, other = (
        decode(data, chosen.modality("clip_text"), lambda: "here")
        for data in ClipText(chosen, "cpu").label([photo("a cat"), photo("the red cat on the red cat")])
    )

    model, tokenizer = (
        getattr(transformers, name).from_pretrained(clip) for name in ("CLIPTextModel", "AutoTokenizer")
    )
    words = tokenizer("a cat", padding="max_length", max_length=12, return_tensors="pt")
    with torch.no_grad():
        expected = model(words["input_ids"]).last_hidden_state[0]
    assert one.shape == other.shape == (12, 16)
    np.testing.assert_allclose(one, expected, atol=2e-3)
