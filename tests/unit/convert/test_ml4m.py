"""The published 4M layout: every key is used or reported, twins stand in for one another."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from fourm.convert import ml4m
from fourm.convert.rules import read, write
from fourm.errors import CheckpointError
from fourm.models.multimodal import Multimodal

INPUTS = ["caption", "metadata", "rgb@224", "t5_caption", "tok_depth@224", "tok_dinov2_global"]
OUTPUTS = ["caption", "metadata", "tok_depth@224", "tok_dinov2_global"]
CONFIG: dict[str, Any] = {
    "domains_in": INPUTS, "domains_out": OUTPUTS, "image_size": 224, "patch_size": 16, "dim": 8, "encoder_depth": 1,
    "decoder_depth": 1, "num_heads": 2, "mlp_ratio": 4, "act_layer": "SiLU", "gated_mlp": True, "qkv_bias": False,
    "proj_bias": False, "mlp_bias": False, "norm_bias": False, "share_modality_embeddings": False,
}  # fmt: skip


def build(**changes: Any) -> Multimodal:
    config = {**CONFIG, **changes}
    state = {"register_tokens": torch.zeros(1, config.pop("registers"), 8)} if "registers" in changes else {}
    return Multimodal(ml4m.model_modalities(config), ml4m.model_config(config, state))


def convert(published: dict[str, Tensor], model: Multimodal) -> dict[str, Tensor]:
    return read(ml4m.rules(model), published, model.state_dict(), spare=ml4m.spare(model)).state


def publish(model: Multimodal) -> dict[str, Tensor]:
    """The published state of a model of ours: the inverse of the converter, written down key by key."""
    state: dict[str, Tensor] = {"mask_token": model.target_embedder.mask_token[None, None]}
    if model.registers is not None:
        state["register_tokens"] = model.registers[None]
    for side, embedder, used in (
        ("encoder", model.input_embedder, model.modalities.inputs),
        ("decoder", model.target_embedder, model.modalities.outputs),
    ):
        positions = embedder.positions
        table = torch.cat([positions.fixed, positions.learned])
        for m in used:
            key = f"{side}_embeddings.{m.name}"
            state[f"{key}.mod_emb"] = embedder.modality_embedding.weight[model.modalities.index(m.name)][None, None]
            state[f"{key}.pos_emb"] = table[positions.map.slice(m.name)][None]
            if m.is_discrete:
                in_table = m.name in embedder.table.map.rows
                state[f"{key}.token_emb.weight"] = (
                    embedder.table.rows(m.name) if in_table else torch.ones(m.vocab_size, 8)
                )
            if side == "decoder":
                state[f"{key}.to_logits.weight"] = model.heads.rows(m.name)
            elif m.name in model.input_embedder.projections:
                layer = model.input_embedder.projections[m.name]
                for leaf, value in layer.named_parameters():
                    state[f"{key}.{'proj' if m.is_grid else 'emb_proj'}.{leaf}"] = value
    for key, value in model.state_dict().items():
        if key.startswith("encoder."):
            state[key.replace("encoder.blocks.", "encoder.").replace("encoder.norm.", "encoder_norm.")] = value
        if key.startswith("decoder."):
            new = key.replace("decoder.blocks.", "decoder.").replace("decoder.norm.", "decoder_norm.")
            state[new.replace(".attn.", ".self_attn.")] = value
        if key.startswith("context_projection."):
            state[key.replace("context_projection", "decoder_proj_context")] = value
    if not model.config.norm_bias:
        state |= {k[: -len("weight")] + "bias": torch.zeros_like(v) for k, v in state.items() if "norm" in k}
    return {key: value.detach().clone() for key, value in state.items()}


@pytest.fixture(scope="module")
def model() -> Multimodal:
    return build()


@pytest.fixture
def published(model: Multimodal) -> dict[str, Tensor]:
    return publish(model)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"registers": 3},
        {"qk_norm": True},
        {
            "act_layer": "GELU",
            "gated_mlp": False,
            "norm_bias": True,
            "qkv_bias": True,
            "proj_bias": True,
            "mlp_bias": True,
        },
    ],
)
def test_what_is_published_comes_back(changes: dict[str, Any]) -> None:
    model = build(**changes)
    state = convert(publish(model), build(**changes))
    # Rows of modalities that a side does not have are read by nothing.
    for name in ("rgb@224", "t5_caption"):
        model.target_embedder.modality_embedding.weight.data[model.modalities.index(name)] = 0
    ours = model.state_dict()
    assert state.keys() == ours.keys()
    assert all(torch.equal(state[key], ours[key]) for key in ours)


def test_published_names_are_those_of_the_real_files(published: dict[str, Tensor]) -> None:
    shapes = {key: tuple(value.shape) for key, value in published.items()}
    expected = {
        "mask_token": (1, 1, 8),
        "encoder_embeddings.rgb@224.proj.weight": (8, 768),
        "encoder_embeddings.t5_caption.emb_proj.weight": (8, 4096),
        "encoder_embeddings.t5_caption.emb_proj.bias": (8,),
        "encoder_embeddings.caption.pos_emb": (1, 512, 8),
        "decoder_embeddings.tok_dinov2_global.pos_emb": (1, 16, 8),
        "decoder_embeddings.tok_depth@224.to_logits.weight": (8192, 8),
        "encoder.0.attn.qkv.weight": (24, 8),
        "encoder.0.mlp.fc3.weight": (21, 8),
        "decoder.0.self_attn.qkv.weight": (24, 8),
        "decoder.0.cross_attn.kv.weight": (16, 8),
        "decoder.0.context_norm.bias": (8,),
        "decoder_proj_context.bias": (8,),
    }
    assert expected.items() <= shapes.items()


def test_modalities_take_their_direction_from_the_domains(model: Multimodal) -> None:
    assert list(model.modalities) == sorted(INPUTS)
    assert [m.name for m in model.modalities.inputs] == sorted(INPUTS)
    assert [m.name for m in model.modalities.outputs] == sorted(OUTPUTS)
    assert model.modalities["metadata"].layout.num_target_positions == 40  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("dropped", "kept"),
    [
        ("encoder_embeddings.caption.mod_emb", "decoder_embeddings.caption.mod_emb"),
        ("decoder_embeddings.caption.mod_emb", "encoder_embeddings.caption.mod_emb"),
        ("decoder_embeddings.caption.to_logits.weight", "decoder_embeddings.caption.token_emb.weight"),
        ("decoder_embeddings.caption.token_emb.weight", "decoder_embeddings.caption.to_logits.weight"),
        ("decoder_embeddings.tok_depth@224.token_emb.weight", None),
    ],
)
def test_a_dropped_tensor_is_filled_from_its_twin(
    model: Multimodal, published: dict[str, Tensor], dropped: str, kept: str | None
) -> None:
    expected = dict(published)
    if kept is not None:
        expected[dropped] = published[kept]
    del published[dropped]
    got, whole = convert(published, model), convert(expected, model)
    assert all(torch.equal(got[key], whole[key]) for key in got)


@pytest.mark.parametrize(
    "key",
    ["mask_token", "encoder.0.norm1.weight", "encoder_embeddings.rgb@224.proj.weight", "decoder_proj_context.bias"],
)
def test_a_missing_key_is_named(model: Multimodal, published: dict[str, Tensor], key: str) -> None:
    del published[key]
    with pytest.raises(CheckpointError, match=f"missing: .*{re.escape(key)}"):
        convert(published, model)


def test_a_key_without_a_place_is_named(model: Multimodal, published: dict[str, Tensor]) -> None:
    published["encoder.1.norm1.weight"] = torch.ones(8)
    with pytest.raises(CheckpointError, match=r"without a place: encoder\.1\.norm1\.weight"):
        convert(published, model)


def test_a_wrong_shape_is_named(model: Multimodal, published: dict[str, Tensor]) -> None:
    published["encoder.0.attn.qkv.weight"] = torch.ones(24, 9)
    with pytest.raises(CheckpointError, match=r"encoder\.0\.attn\.qkv\.weight has shape \(24, 9\).*\(24, 8\)"):
        convert(published, model)


def test_norm_biases_that_are_declared_absent_must_be_zero(model: Multimodal, published: dict[str, Tensor]) -> None:
    published["encoder.0.norm1.bias"][3] = 0.1
    with pytest.raises(CheckpointError, match=r"encoder\.0\.norm1\.bias should be .*zero"):
        convert(published, model)


@pytest.mark.parametrize("name", ["encoder_embeddings.caption.pos_emb", "decoder_embeddings.tok_depth@224.pos_emb"])
def test_fixed_positions_are_checked(model: Multimodal, published: dict[str, Tensor], name: str) -> None:
    published[name][0, 5, 2] += 0.1
    with pytest.raises(CheckpointError, match=r"should be the constant that fourm computes \(a table of shape"):
        convert(published, model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"act_layer": "SiLU", "gated_mlp": False}, "'SiLU' with gated_mlp False is not a published combination"),
        ({"act_layer": "ReLU"}, "'ReLU'"),
    ],
)
def test_unpublished_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        build(**changes)


def test_what_a_config_leaves_out_is_read_from_the_weights(published: dict[str, Tensor]) -> None:
    """As for the files of a training, which hold other arguments."""
    found = ml4m.complete_config({"epochs": 3, "num_heads": 2}, published)
    assert {key: found[key] for key in CONFIG if key in found} == {k: v for k, v in CONFIG.items() if k in found}
    assert ml4m.complete_config({}, published)["num_heads"] == 1  # heads of 64 channels, as in all published presets


def test_another_network_is_refused_by_what_it_lacks() -> None:
    with pytest.raises(CheckpointError, match="has the tensor mask_token, this one has not"):
        ml4m.complete_config({}, {"encoder.0.attn.qkv.weight": torch.zeros(1)})


def test_an_unknown_modality_is_named_with_the_closest() -> None:
    with pytest.raises(CheckpointError, match=r"modality 'tok_dept@224' is not in the catalog.*tok_depth@224"):
        ml4m.model_modalities({**CONFIG, "domains_out": ["tok_dept@224"]})


@pytest.mark.parametrize("changes", [{}, {"registers": 2}, {"qk_norm": True}])
def test_what_is_read_is_written_back_bit_for_bit(changes: dict[str, Any]) -> None:
    model = build(**changes)
    published = publish(model)
    found = read(ml4m.rules(model), published, model.state_dict(), spare=ml4m.spare(model), keep=True)
    again = write(ml4m.rules(model), found.state, kept=found.kept, absent=found.absent)
    assert again.keys() == published.keys()
    assert all(torch.equal(again[key], published[key]) for key in again)
    assert "decoder_embeddings.tok_depth@224.token_emb.weight" in found.kept  # which nothing reads


def test_a_twin_that_was_left_out_stays_out(model: Multimodal, published: dict[str, Tensor]) -> None:
    del published["decoder_embeddings.caption.mod_emb"]
    found = read(ml4m.rules(model), published, model.state_dict(), spare=ml4m.spare(model), keep=True)
    again = write(ml4m.rules(model), found.state, kept=found.kept, absent=found.absent)
    assert again.keys() == published.keys()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_exactly_and_written_as_it_came(
    model: Multimodal, published: dict[str, Tensor], dtype: torch.dtype
) -> None:
    half = {key: value.to(dtype) for key, value in published.items()}
    found = read(ml4m.rules(model), half, model.state_dict(), spare=ml4m.spare(model), keep=True)
    assert {value.dtype for value in found.state.values()} == {torch.float32}
    again = write(ml4m.rules(model), found.state, kept=found.kept, dtypes=found.dtypes)
    assert all(torch.equal(again[key], half[key]) and again[key].dtype == dtype for key in half)


def test_the_config_of_ours_is_the_published_one() -> None:
    expected = {key: value for key, value in CONFIG.items() if key != "share_modality_embeddings"}
    assert expected.items() <= ml4m.published_config(build()).items()


def test_twins_that_were_trained_apart_are_both_written(model: Multimodal, published: dict[str, Tensor]) -> None:
    del published["encoder_embeddings.caption.mod_emb"]
    found = read(ml4m.rules(model), published, model.state_dict(), spare=ml4m.spare(model), keep=True)
    found.state["input_embedder.modality_embedding.weight"] += 1
    again = write(ml4m.rules(model), found.state, kept=found.kept, absent=found.absent)
    own = again["encoder_embeddings.caption.mod_emb"]
    assert torch.equal(own, published["decoder_embeddings.caption.mod_emb"] + 1)


def test_domains_that_are_no_list_are_refused(published: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match="domains_in is 'caption'; expected a list"):
        ml4m.complete_config({**CONFIG, "domains_in": "caption"}, published)
