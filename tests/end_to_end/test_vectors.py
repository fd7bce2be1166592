"""Vectors of one's own, from files to generated vectors, with nothing but YAML."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fourm.data.shards import read_source_facts
from fourm.data.source import open_source

DIM, NUM = 16, 256
SMALL = [
    "train.device=cpu", "train.precision=fp32", "train.tensorboard=false", "train.max_steps=200",
    "tokenizer.quantizer.codebook_size=16",
]  # fmt: skip
MODEL = """
name: sensors
modalities:
  tok_sensor:
    layout: {kind: grid, height: 2, width: 4}
    content: {kind: discrete, vocab_size: 16}
    source: tok_sensor
    decode: tokens
    tokenizer: sensor
    positions: learned
tokenizers: {tok_sensor: ROOT/tokenizer/model}
data: {train: {datasets: {sensors: {path: ROOT/train}}}}
model: {kind: multimodal, dim: 32, encoder_depth: 1, decoder_depth: 1, num_heads: 2, activation: gelu}
objective: {kind: masked, num_input_tokens: 8, num_target_tokens: 8}
train: {max_steps: 3, batch_size: 4, precision: fp32, device: cpu, tensorboard: false}
output: ROOT/model
"""


@pytest.fixture
def vectors(tmp_path: Path) -> np.ndarray:
    """One vector for each npy file below train/sensor: mixtures of two directions."""
    rng = np.random.default_rng(0)
    values = (rng.uniform(-1, 1, (NUM, 2)) @ rng.standard_normal((2, DIM))).astype(np.float32)
    folder = tmp_path / "train" / "sensor"
    folder.mkdir(parents=True)
    for n, value in enumerate(values):
        np.save(folder / f"{n:04d}.npy", value)
    return values


def train(fourm: Any, root: Path, *more: str) -> Any:
    return fourm("train-tokenizer", "toy_vectors", f"variables.root={root}", f"output={root}/tokenizer", *SMALL, *more)


def test_vectors_become_tokens_and_tokens_vectors(vectors: np.ndarray, tmp_path: Path, fourm: Any) -> None:
    import torch

    from fourm.tokenizers.base import load_tokenizer

    outcome = train(fourm, tmp_path)
    assert outcome.status == 0, outcome.err
    assert fourm("tokenize", tmp_path / "tokenizer", tmp_path / "train", "--device", "cpu").status == 0

    source = open_source(str(tmp_path / "train"), ["tok_sensor"])
    tokens = np.stack([np.load(io.BytesIO(source.read(n)["tok_sensor"])) for n in range(len(source))])
    assert [source.key(n) for n in (0, NUM - 1)] == ["0000", "0255"]
    assert (tokens.shape, tokens.dtype) == ((NUM, 1, 8), np.int16)
    assert read_source_facts(tmp_path / "train", "tok_sensor")["grid"] == [2, 4]
    tokenizer = load_tokenizer(tmp_path / "tokenizer" / "model")
    decoded = tokenizer.decode(torch.from_numpy(tokens.astype(np.int64)).view(NUM, 2, 4)).numpy()
    assert decoded.shape == (NUM, DIM, 1, 1)
    error = np.square(decoded[..., 0, 0] - vectors).mean()
    assert error < 0.3 * vectors.var()

    (tmp_path / "model.yaml").write_text(MODEL.replace("ROOT", str(tmp_path)))
    outcome = fourm("pretrain", tmp_path / "model.yaml")
    assert outcome.status == 0, outcome.err
    known = np.where(np.arange(8) < 4, tokens[7, 0], -1)  # half of it is given
    np.save(tmp_path / "half.npy", known)
    given = f"tok_sensor={tmp_path / 'half.npy'}"
    outcome = fourm("generate", tmp_path / "model", "--given", given, "--to", "sensor", "--out", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    assert np.load(tmp_path / "out" / "sensor.npy").shape == (DIM, 1, 1)


def test_a_vector_with_a_gap_names_its_file(vectors: np.ndarray, tmp_path: Path, fourm: Any) -> None:
    np.save(tmp_path / "train" / "sensor" / "0003.npy", np.full(DIM, np.nan, np.float32))

    outcome = train(fourm, tmp_path)

    assert outcome.status == 1
    assert (
        "sensor/0003.npy: cannot read it as 'features' for modality 'sensor': values that are not finite" in outcome.err
    )


def test_vectors_of_another_length_are_named_with_what_was_expected(
    vectors: np.ndarray, tmp_path: Path, fourm: Any
) -> None:
    outcome = train(fourm, tmp_path, "variables.dim=17")

    assert outcome.status == 1
    assert "an array of shape (16,); expected (17, 1, 1) or (17,)" in outcome.err
