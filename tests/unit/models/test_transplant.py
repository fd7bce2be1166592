"""A model starts from another one with other modalities."""

from __future__ import annotations

import pytest
import torch

from fourm import catalog
from fourm.errors import CheckpointError
from fourm.models.configs import MultimodalConfig
from fourm.models.multimodal import Multimodal
from fourm.models.transplant import copy_weights

OLD = ["rgb@64", "tok_depth@64", "caption"]
NEW = ["tok_normal@64", "caption", "rgb@64", "tok_depth@64"]


def build(names: list[str], seed: int, **options: object) -> Multimodal:
    config = {"dim": 16, "encoder_depth": 1, "decoder_depth": 1, "num_heads": 2, **options}
    return Multimodal(
        catalog.resolve({n: {"content": {"vocab_size": 50}} if n == "caption" else {} for n in names}),
        MultimodalConfig(**config),
        seed,
    )  # type: ignore[arg-type]


def answer(model: Multimodal) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    given = {
        "rgb@64": {"values": torch.randn(1, 3, 64, 64, generator=generator), "positions": torch.arange(64)[None]},
        "caption": {"ids": torch.tensor([[7, 8, 9]])},
    }
    asked = {"caption": {"ids": torch.tensor([[5, 7, 9, 6]])}, "tok_depth@64": {"positions": torch.arange(8)[None]}}
    with torch.no_grad():
        logits = model.eval().logits(given, asked)
    return torch.cat([logits["caption"].flatten(), logits["tok_depth@64"].flatten()])


@pytest.mark.parametrize("tie_heads", [True, False])
def test_shared_modalities_answer_as_in_the_source(tie_heads: bool) -> None:
    source, target = build(OLD, 0, tie_heads=tie_heads), build(NEW, 1, tie_heads=tie_heads)
    assert not torch.allclose(answer(source), answer(target))
    result = copy_weights(source, target)
    torch.testing.assert_close(answer(source), answer(target))
    assert (result.copied, result.fresh, result.dropped) == (
        ["caption", "rgb@64", "tok_depth@64"],
        ["tok_normal@64"],
        [],
    )


def test_new_modalities_keep_their_initial_weights() -> None:
    target, same = build(NEW, 1), build(NEW, 1)
    copy_weights(build(OLD, 0), target)
    assert torch.equal(target.heads.rows("tok_normal@64"), same.heads.rows("tok_normal@64"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"norm": "rmsnorm", "activation": "gelu"},
            "activation is gelu here and swiglu there.*norm is rmsnorm here and",
        ),
        ({"num_heads": 4}, "num_heads is 4 here and 2 there"),
        ({"num_heads": 2, "num_kv_heads": 1}, "num_kv_heads is 1 here and None there"),
        ({"rope_theta": 10_000.0}, "rope_theta is 10000.0 here and None there"),
        ({"position_tables": False}, "position_tables is False here and True there"),
        ({"tie_heads": True}, "tie_heads is True here and False there"),
    ],
)
def test_weights_are_not_taken_into_a_trunk_that_reads_them_otherwise(options: dict[str, object], message: str) -> None:
    """Their shapes may fit all the same: a Llama in a recipe that forgets its norm, its positions or its head."""
    source = build(OLD, 0, tie_heads=False, activation="swiglu")
    with pytest.raises(CheckpointError, match=message):
        copy_weights(source, build(OLD, 1, **{"tie_heads": False, "activation": "swiglu", **options}))


def test_a_head_of_its_own_may_begin_as_the_shared_one() -> None:
    source, target = build(OLD, 0, tie_heads=True), build(OLD, 1, tie_heads=False)
    copy_weights(source, target)
    torch.testing.assert_close(answer(source), answer(target))


def test_another_trunk_is_refused() -> None:
    with pytest.raises(CheckpointError, match="trunks must be the same"):
        copy_weights(build(OLD, 0), build(NEW, 1, encoder_depth=2))


def test_added_words_start_as_the_mean_of_the_others() -> None:
    source = build(OLD, 0)
    target = Multimodal(
        catalog.resolve({"caption": {"content": {"vocab_size": 53}}, "rgb@64": {}}), source.config, seed=1
    )
    copy_weights(source, target)
    for table in ("input_embedder.table", "heads"):
        old, new = (model.get_submodule(table).rows("caption") for model in (source, target))
        assert torch.equal(new[:50], old)
        torch.testing.assert_close(new[50:], old.mean(0).expand(3, -1))


def test_a_smaller_vocabulary_is_refused() -> None:
    target = Multimodal(
        catalog.resolve({"caption": {"content": {"vocab_size": 49}}, "rgb@64": {}}), build(OLD, 0).config, seed=1
    )
    with pytest.raises(CheckpointError, match="texts may get a larger vocabulary"):
        copy_weights(build(OLD, 0), target)
