"""What a trained encoder says of captions, stored with them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fourm.data.shards import ShardWriter
from fourm.data.source import open_source
from fourm.data.unpack import read_npz
from fourm.errors import ConfigError, DataError
from fourm.models.folder import save_model
from fourm.recipe.bundle import load_bundle
from fourm.recipe.embed import TextReader, embed
from fourm.recipe.encoders import adopt_vocabulary
from fourm.recipe.pretrain import build_model
from fourm.tokenizers.text import TextTokenizer
from tests.unit.recipe.conftest import recipe

CAPTIONS = ["a red bed", ["two green chairs", "a blue sofa"], "a red bed"]


def saved(folder: Path, text_file: Path, text: TextTokenizer, modalities: list[str]) -> str:
    known = {"rgb@64": {}, "tok_depth@64": {}, "caption": {"layout": {"max_tokens": 24}}}
    made = recipe(modalities={name: known[name] for name in modalities})
    named = {"text": text_file} if "caption" in modalities else {}
    save_model(build_model(made, made.modality_set(), {}), folder / "model", named)
    return str(folder)


@pytest.fixture
def model(tmp_path: Path, text_file: Path, text: TextTokenizer) -> str:
    return saved(tmp_path / "run", text_file, text, ["rgb@64", "tok_depth@64", "caption"])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for shard, captions in enumerate((CAPTIONS[:2], CAPTIONS[2:])):
        with ShardWriter(root, shard, {"caption": "json"}) as writer:
            for n, caption in enumerate(captions):
                writer.write(f"{shard}{n}", {"caption": json.dumps(caption).encode()})
    return root


def run(model: str, root: Path, num_tokens: int | None = 12, out: str = "vectors", batch_size: int = 1) -> None:
    embed(model, root, modality=None, out=out, num_tokens=num_tokens, batch_size=batch_size, device="cpu")


def stored(root: Path, out: str = "vectors") -> np.ndarray:
    source = open_source(str(root), ["caption", out])
    return np.stack([read_npz(source.read(n)[out], ("emb",))["emb"] for n in range(len(source))])


def test_the_first_caption_of_each_sample_becomes_what_the_encoder_says_of_its_tokens(model: str, data: Path) -> None:
    run(model, data)

    found, bundle = stored(data), load_bundle(model)
    assert found.shape == (3, 12, 32)
    assert np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[1])
    assert bundle.text is not None
    ids = [*bundle.text.encode("two green chairs").tolist(), bundle.text.eos_id]
    given = {"caption": {"ids": torch.tensor([ids])}}
    from fourm.models.ask import given_table

    table = given_table(given, bundle.model.modalities, 1, torch.device("cpu"))
    content, place, _ = bundle.model.input_embedder(table)
    assert bundle.model.encoder is not None
    with torch.no_grad():
        hidden = bundle.model.encoder(content + place, attention=table.attention)
    assert found[1][: len(ids)] == pytest.approx(hidden[0].numpy(), abs=2e-3)
    assert not found[1][len(ids) :].any()


def test_a_contrastive_model_says_what_its_tower_of_texts_says(
    data: Path, tmp_path: Path, text_file: Path, text: TextTokenizer
) -> None:
    trunk = {"kind": "multimodal", "dim": 16, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2}
    towers = {
        "rgb@64": {"encoder": {"kind": "model", "model": trunk}},
        "caption": {"encoder": {"kind": "model", "model": trunk, "causal": True}, "pool": "last"},
    }
    made = recipe(
        modalities={"rgb@64": {}, "caption": {"layout": {"max_tokens": 24}}},
        model={"kind": "contrastive", "dim": 8, "towers": towers},
        objective={"kind": "contrastive", "pairs": [["rgb@64", "caption"]]},
    )
    modalities = adopt_vocabulary(made.modality_set(), text)
    save_model(build_model(made, modalities, {}), tmp_path / "run" / "model", {"text": text_file})

    run(str(tmp_path / "run"), data, batch_size=8)

    found, bundle = stored(data), load_bundle(str(tmp_path / "run"))
    ids = [*text.encode("a red bed").tolist(), text.eos_id]
    with torch.no_grad():
        hidden, _ = bundle.model.features("caption", torch.tensor([ids]))  # type: ignore[operator]
    assert found.shape == (3, 12, 16)
    assert found[0][: len(ids)] == pytest.approx(hidden[0].numpy(), abs=2e-3)
    assert not found[0][len(ids) :].any()


def test_vectors_do_not_depend_on_the_texts_beside_them(model: str, data: Path) -> None:
    run(model, data, out="alone", batch_size=1)
    run(model, data, out="together", batch_size=8)

    assert stored(data, "alone") == pytest.approx(stored(data, "together"), abs=2e-3)


def test_the_same_command_goes_on_and_other_files_are_never_replaced(model: str, data: Path) -> None:
    run(model, data)
    shard = data / "vectors" / "shard-00001.tar"
    before = (data / "vectors" / "shard-00000.tar").stat().st_mtime_ns
    shard.unlink()

    run(model, data)

    assert shard.is_file()
    assert (data / "vectors" / "shard-00000.tar").stat().st_mtime_ns == before
    with pytest.raises(DataError, match="holds other files than the vectors of 13 tokens"):
        run(model, data, 13)
    with pytest.raises(DataError, match="another name with --out"):
        run(model, data, out="caption")


def test_what_cannot_be_read_is_said(
    model: str, data: Path, tmp_path: Path, text_file: Path, text: TextTokenizer
) -> None:
    with pytest.raises(DataError, match="raise --num-tokens"):
        run(model, data, 2)
    with pytest.raises(ConfigError, match="texts that this one reads: none"):
        run(saved(tmp_path / "blind", text_file, text, ["rgb@64", "tok_depth@64"]), data)
    with pytest.raises(ConfigError, match="texts that this one reads: caption"):
        TextReader(load_bundle(model), "title", None)
