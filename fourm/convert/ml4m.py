"""The published 4M transformers (layout of the `EPFL-VILAB/4M-*` repositories on the Hub), both ways.

Tables that fourm computes itself (fixed positions, zero norm biases) are checked, not stored.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fourm import catalog
from fourm.convert.rules import Rule
from fourm.errors import CheckpointError, ConfigError
from fourm.layouts import Continuous, Sequence
from fourm.modality import Modality, ModalitySet, from_dict
from fourm.models.configs import MultimodalConfig
from fourm.models.embed import TargetEmbedder
from fourm.models.multimodal import Multimodal

_LOG = logging.getLogger(__name__)
_BLOCK = re.compile(r"(encoder|decoder)\.blocks\.(\d+)\.(.+)")
_OUTSIDE = {
    "encoder.norm": "encoder_norm",
    "decoder.norm": "decoder_norm",
    "context_projection": "decoder_proj_context",
}
_NORM = re.compile(r"(.*norm\d?)\.weight")
_PUBLISHED_LIMITS = {
    "caption": 256,
    "det": 256,
    "metadata": 40,
    "human_poses": 263,
    "color_palette": 23,
    "sam_instance": 290,
    "t5_caption": 77,
}
_ACTIVATIONS = {("SiLU", True): "swiglu", ("GELU", False): "gelu"}
_BEYOND = (
    "num_kv_heads",
    "head_dim",
    "mlp_hidden_dim",
    "rope_theta",
    "norm",
    "position_tables",
    "modality_embeddings",
    "vector_head",
)
"""Options of our model that the public code lets nobody change."""
_PLAIN = MultimodalConfig(dim=4, encoder_depth=1, decoder_depth=1, num_heads=1)
_HEAD_DIM = 64
"""Of all published presets; a file without a config does not say how many heads there are."""
_GRID_KEY = re.compile(r"(?:encoder|decoder)_embeddings\.(.+?)\.(?:mod_emb|pos_emb|proj|emb_proj|token_emb|to_logits)")


def complete_config(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The published config, with what it leaves out read from the weights, as for files of a training.

    Args:
        config: `config.json`, the arguments of a training, or empty.
        state: the weights.

    Raises:
        CheckpointError: if the weights are those of something else.
    """
    inputs, outputs = _domains(state, "encoder"), _domains(state, "decoder")
    for key in ("mask_token", "encoder_norm.weight", "decoder_norm.weight", "encoder.0.mlp.fc1.weight"):
        if key not in state:
            raise CheckpointError(f"a published transformer has the tensor {key}, this one has not")
    dim = state["mask_token"].shape[-1]
    gated = "encoder.0.mlp.fc3.weight" in state
    hidden = state["encoder.0.mlp.fc1.weight"].shape[0]
    q_norm = "encoder.0.attn.q_norm.weight"
    head = state[q_norm].shape[0] if q_norm in state else _HEAD_DIM
    found: dict[str, Any] = {
        "domains_in": inputs,
        "domains_out": outputs,
        "dim": dim,
        "encoder_depth": _depth(state, "encoder"),
        "decoder_depth": _depth(state, "decoder"),
        "num_heads": max(dim // head, 1),
        "mlp_ratio": _gated_ratio(dim, hidden) if gated else hidden / dim,
        "qkv_bias": "encoder.0.attn.qkv.bias" in state,
        "proj_bias": "encoder.0.attn.proj.bias" in state,
        "mlp_bias": "encoder.0.mlp.fc1.bias" in state,
        "gated_mlp": gated,
        "act_layer": "SiLU" if gated else "GELU",
        "norm_bias": "encoder.0.attn.qkv.bias" in state,
        "qk_norm": q_norm in state,
    }
    complete = {**found, **{name: value for name, value in config.items() if value is not None}}
    if "num_heads" not in config and q_norm not in state:
        _LOG.warning(
            "the config does not say num_heads; taken as %d, heads of %d channels as in all published presets",
            *(found["num_heads"], _HEAD_DIM),
        )
    for key in ("domains_in", "domains_out"):
        if not isinstance(complete[key], list | tuple) or not all(isinstance(name, str) for name in complete[key]):
            raise CheckpointError(f"{key} is {complete[key]!r}; expected a list of names of modalities")
    return complete


def model_config(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> MultimodalConfig:
    """The config of our model for a published one.

    Raises:
        CheckpointError: for values that make no model, and a combination of options that was never published.
    """
    activation = _ACTIVATIONS.get((str(config["act_layer"]), bool(config["gated_mlp"])))
    if activation is None:
        raise CheckpointError(
            f"act_layer {config['act_layer']!r} with gated_mlp {config['gated_mlp']!r} is not a published combination; "
            "those are SiLU with gates, and GELU without"
        )
    try:
        return MultimodalConfig(
            dim=int(config["dim"]),
            encoder_depth=int(config["encoder_depth"]),
            decoder_depth=int(config["decoder_depth"]),
            num_heads=int(config["num_heads"]),
            mlp_ratio=float(config["mlp_ratio"]),
            activation=activation,  # type: ignore[arg-type]
            qkv_bias=bool(config["qkv_bias"]),
            proj_bias=bool(config["proj_bias"]),
            mlp_bias=bool(config["mlp_bias"]),
            norm_bias=bool(config["norm_bias"]),
            qk_norm=bool(config.get("qk_norm", False)),
            num_register_tokens=state["register_tokens"].shape[1] if "register_tokens" in state else 0,
            tie_heads=False,
        )
    except (TypeError, ValueError, ConfigError) as error:
        raise CheckpointError(f"the published config makes no model: {error}") from None


def model_modalities(config: Mapping[str, Any], known: Mapping[str, Any] | None = None) -> ModalitySet:
    """The modalities of a published model, inputs and outputs together, in alphabetical order.

    Args:
        config: with `domains_in` and `domains_out`.
        known: name -> facts of modalities that the catalog need not have; see `modality.from_dict`.

    Raises:
        CheckpointError: for a modality that is unknown.
    """
    inputs, outputs = set(map(str, config["domains_in"])), set(map(str, config["domains_out"]))
    return ModalitySet(
        _modality(name, name in inputs, name in outputs, (known or {}).get(name)) for name in sorted(inputs | outputs)
    )


def rules(model: Multimodal) -> list[Rule]:
    """What every tensor of the published layout is in a model, which may lie on any device.

    Raises:
        CheckpointError: if the layout has no room for the model's parts.
    """
    return [*_embedding_rules(model), *_trunk_rules(model)]


def spare(model: Multimodal) -> list[str]:
    """Tensors of ours with rows that no published key fills: of modalities that are not read, or not asked."""
    names = [f"{side}_embedder.modality_embedding.weight" for side in ("input", "target")]
    tables = {"input_embedder.table": model.input_embedder.table, "target_embedder.table": _targets(model).table}
    return names + [f"{name}.weight" for name, table in tables.items() if not table.map.total]


def _targets(model: Multimodal) -> TargetEmbedder:
    """What embeds the asked tokens.

    Raises:
        CheckpointError: if the model has parts, or lacks some, that the public code does not know.
    """
    c = model.config
    known = {name: getattr(_PLAIN, name) for name in _BEYOND}
    odd = [f"{name} {value}" for name, value in known.items() if getattr(c, name) != value]
    if model.target_embedder is None or odd:
        raise CheckpointError(
            "the published layout is that of an encoder and a decoder, with "
            + (", ".join(odd) or "encoder_depth above 0")
            + "; another model cannot be written so"
        )
    return model.target_embedder


def published_config(model: Multimodal) -> dict[str, Any]:
    """The config of our model as the public code reads it.

    Raises:
        CheckpointError: if the public code cannot express the model.
    """
    c = model.config
    activation = next((act for act, own in _ACTIVATIONS.items() if own == c.activation), None)
    if activation is None:
        raise CheckpointError(
            f"model.activation is '{c.activation}'; the published layout has {', '.join(_ACTIVATIONS.values())}. A "
            "model to be exported has to be trained with one of these"
        )
    pixels = next((m for m in model.modalities.inputs if m.is_grid and not m.is_discrete), None)
    if c.context != "full":
        raise CheckpointError(
            f"model.context is '{c.context}', but the public code lets all of the context see all. A model to be "
            "exported has to be trained with context full"
        )
    size, patch = (max(pixels.grid.image_size), pixels.grid.patch_size) if pixels else (224, 16)
    registers = {"num_register_tokens": c.num_register_tokens} if c.num_register_tokens else {}
    return {
        **registers,
        "domains_in": [m.name for m in model.modalities.inputs],
        "domains_out": [m.name for m in model.modalities.outputs],
        "image_size": size,
        "patch_size": patch,
        "norm_bias": c.norm_bias,
        "act_layer": activation[0],
        "dim": c.dim,
        "encoder_depth": c.encoder_depth,
        "decoder_depth": c.decoder_depth,
        "num_heads": c.num_heads,
        "mlp_ratio": c.mlp_ratio,
        "qkv_bias": c.qkv_bias,
        "proj_bias": c.proj_bias,
        "mlp_bias": c.mlp_bias,
        "gated_mlp": activation[1],
        "qk_norm": c.qk_norm,
        "share_modality_embeddings": c.share_modality_embeddings,
    }


def _embedding_rules(model: Multimodal) -> Iterator[Rule]:
    dim = model.config.dim
    yield Rule("mask_token", (1, 1, dim), ("target_embedder.mask_token",))
    if model.registers is not None:
        yield Rule("register_tokens", (1, *model.registers.shape), ("registers",))
    for m in model.modalities.inputs:
        yield from _place_rules(model, m, "encoder", "input_embedder")
        key, rows = f"encoder_embeddings.{m.name}", model.input_embedder.table.map.rows
        if m.name in rows:
            target = "input_embedder.table.weight"
            yield Rule(f"{key}.token_emb.weight", (m.vocab_size, dim), (target,), slice(*rows[m.name]))
        elif isinstance(m.content, Continuous):
            ours, theirs = f"input_embedder.projections.{m.name}", f"{key}.{'proj' if m.is_grid else 'emb_proj'}"
            yield Rule(f"{theirs}.weight", (dim, m.content.dim), (f"{ours}.weight",))
            if not m.is_grid:
                yield Rule(f"{theirs}.bias", (dim,), (f"{ours}.bias",))
    for m in model.modalities.outputs:
        yield from _place_rules(model, m, "decoder", "target_embedder")
        key, shape = f"decoder_embeddings.{m.name}", (m.vocab_size, dim)
        embedded, scored = f"{key}.token_emb.weight", f"{key}.to_logits.weight"
        rows = _targets(model).table.map.rows
        if m.name in rows:
            yield Rule(embedded, shape, ("target_embedder.table.weight",), slice(*rows[m.name]), (scored,))
        else:
            yield Rule(embedded, shape, twins=(scored,))  # the mask token stands in for every id of a grid
        yield Rule(scored, shape, ("heads.weight",), model.heads.map.slice(m.name), (embedded,))


def _place_rules(model: Multimodal, m: Modality, side: str, embedder: str) -> Iterator[Rule]:
    """Modality and position embeddings of one side."""
    dim, other = model.config.dim, "decoder" if side == "encoder" else "encoder"
    row = model.modalities.index(m.name)
    yield Rule(
        f"{side}_embeddings.{m.name}.mod_emb",
        (1, 1, dim),
        (f"{embedder}.modality_embedding.weight",),
        slice(row, row + 1),
        (f"{other}_embeddings.{m.name}.mod_emb",),
    )
    positions = getattr(model, embedder).positions
    key, shape = f"{side}_embeddings.{m.name}.pos_emb", (1, m.layout.num_positions, dim)
    if m.positions == "learned":
        start, stop = (edge - positions.num_fixed for edge in positions.map.rows[m.name])
        yield Rule(key, shape, (f"{embedder}.positions.learned",), slice(start, stop))
    else:
        yield Rule(key, shape, constant=positions.table_of(m.name))


def _trunk_rules(model: Multimodal) -> Iterator[Rule]:
    for name, tensor in model.state_dict().items():
        key = _trunk_key(name)
        if key is None:
            continue
        yield Rule(key, tuple(tensor.shape), (name,))
        norm = _NORM.fullmatch(key)
        if norm and not model.config.norm_bias:
            yield Rule(f"{norm[1]}.bias", tuple(tensor.shape), constant=torch.zeros(tensor.shape))


def _trunk_key(name: str) -> str | None:
    """The published name of one of our tensors; None if it is none of the trunks."""
    block = _BLOCK.fullmatch(name)
    if block:
        side, number, rest = block.groups()
        if side == "decoder" and rest.startswith("attn."):
            rest = f"self_{rest}"
        return f"{side}.{number}.{rest}"
    part, _, leaf = name.rpartition(".")
    return f"{_OUTSIDE[part]}.{leaf}" if part in _OUTSIDE else None


def _modality(name: str, is_input: bool, is_output: bool, known: Mapping[str, Any] | None) -> Modality:
    facts: dict[str, Any] = {"direction": "both" if is_input and is_output else "input" if is_input else "output"}
    try:
        base = catalog.get(name) if known is None else from_dict(name, known)
    except ConfigError as error:
        raise CheckpointError(
            f"the published config names a modality that fourm does not know: {error} The catalog has those of 4M-7 "
            "and 4M-21"
        ) from None
    if isinstance(base.layout, Sequence) and known is None:
        facts["layout"] = {"num_target_positions": _PUBLISHED_LIMITS.get(name)}
    return from_dict(name, facts, base)


def _domains(state: Mapping[str, Tensor], side: str) -> list[str]:
    names = {match[1] for key in state if key.startswith(f"{side}_emb") and (match := _GRID_KEY.match(key))}
    return sorted(names)


def _depth(state: Mapping[str, Tensor], side: str) -> int:
    return 1 + max((int(key.split(".")[1]) for key in state if re.match(rf"{side}\.\d+\.", key)), default=-1)


def _gated_ratio(dim: int, hidden: int) -> float:
    """The ratio whose gated MLP has `hidden` channels: the published code takes two thirds of ratio x dim."""
    return next((float(r) for r in (4, 3, 2, 8, 6, 5, 1) if int(2 * r * dim / 3) == hidden), hidden * 3 / (2 * dim))
