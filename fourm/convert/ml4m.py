"""The published 4M transformers (layout of the `EPFL-VILAB/4M-*` repositories on the Hub).

Every key of a published state is used or reported. Tables that fourm computes itself (fixed positions, zero norm
biases) are checked, not stored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fourm import catalog
from fourm.errors import CheckpointError
from fourm.modality import Modality, ModalitySet, Sequence, from_dict
from fourm.models.configs import MultimodalConfig
from fourm.models.multimodal import Multimodal

_BLOCK = re.compile(r"(encoder|decoder)\.(\d+)\.(.+)")
_PUBLISHED_LIMITS = {
    "caption": 256,
    "det": 256,
    "metadata": 40,
    "human_poses": 263,
    "color_palette": 23,
    "sam_instance": 290,
    "t5_caption": 77,
}
_REQUIRED = (
    *("dim", "encoder_depth", "decoder_depth", "num_heads", "act_layer", "gated_mlp"),
    *("qkv_bias", "proj_bias", "mlp_bias", "norm_bias"),
)
_ACTIVATIONS = {("SiLU", True): "swiglu", ("GELU", False): "gelu"}


def model_config(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> MultimodalConfig:
    """The config of our model for a published one.

    Raises:
        CheckpointError: for a missing key or a combination of options that was never published.
    """
    missing = [key for key in _REQUIRED if key not in config]
    if missing:
        raise CheckpointError(f"the published config lacks {', '.join(missing)}")
    activation = _ACTIVATIONS.get((str(config["act_layer"]), bool(config["gated_mlp"])))
    if activation is None:
        raise CheckpointError(
            f"act_layer {config['act_layer']!r} with gated_mlp {config['gated_mlp']!r} is not a published combination"
        )
    return MultimodalConfig(
        dim=config["dim"],
        encoder_depth=config["encoder_depth"],
        decoder_depth=config["decoder_depth"],
        num_heads=config["num_heads"],
        mlp_ratio=float(config.get("mlp_ratio", 4)),
        activation=activation,  # type: ignore[arg-type]
        qkv_bias=config["qkv_bias"],
        proj_bias=config["proj_bias"],
        mlp_bias=config["mlp_bias"],
        norm_bias=config["norm_bias"],
        qk_norm=bool(config.get("qk_norm", False)),
        num_register_tokens=state["register_tokens"].shape[1] if "register_tokens" in state else 0,
        tie_heads=False,
    )


def model_modalities(config: Mapping[str, Any]) -> ModalitySet:
    """The modalities of a published model, inputs and outputs together, in alphabetical order."""
    inputs, outputs = set(config["domains_in"]), set(config["domains_out"])
    return ModalitySet(_modality(name, name in inputs, name in outputs) for name in sorted(inputs | outputs))


def _modality(name: str, is_input: bool, is_output: bool) -> Modality:
    base = catalog.get(name)
    facts: dict[str, Any] = {"direction": "both" if is_input and is_output else "input" if is_input else "output"}
    if isinstance(base.layout, Sequence):
        facts["layout"] = {"num_target_positions": _PUBLISHED_LIMITS.get(name)}
    return from_dict(name, facts, base)


def model_state(published: Mapping[str, Tensor], model: Multimodal) -> dict[str, Tensor]:
    """The state of `model` from a published state dict.

    Raises:
        CheckpointError: naming every published key that has no place, and every weight of ours that was not filled.
    """
    reader = _Reader(published)
    state = {name: torch.empty(p.shape, dtype=p.dtype) for name, p in model.state_dict().items()}
    filled: set[str] = set()

    def put(target: str, value: Tensor, rows: slice | int | None = None) -> None:
        filled.add(target if rows is None else f"{target}[{rows}]")
        place = state[target] if rows is None else state[target][rows]
        if place.shape != value.shape:
            raise CheckpointError(f"{target}: shape {tuple(value.shape)} where {tuple(place.shape)} is expected")
        place.copy_(value)

    put("target_embedder.mask_token", reader.take("mask_token").flatten())
    if model.registers is not None:
        put("registers", reader.take("register_tokens")[0])
    for side, embedder, prefix in (
        ("encoder", model.input_embedder, "input_embedder"),
        ("decoder", model.target_embedder, "target_embedder"),
    ):
        for m in model.modalities.inputs if side == "encoder" else model.modalities.outputs:
            key = f"{side}_embeddings.{m.name}"
            other = f"{'decoder' if side == 'encoder' else 'encoder'}_embeddings.{m.name}"
            put(
                f"{prefix}.modality_embedding.weight",
                reader.take(f"{key}.mod_emb", f"{other}.mod_emb").flatten(),
                model.modalities.index(m.name),
            )
            positions = reader.take(f"{key}.pos_emb")[0]
            start, stop = embedder.positions.map.rows[m.name]
            if m.positions == "learned":
                fixed = embedder.positions.num_fixed
                put(f"{prefix}.positions.learned", positions, slice(start - fixed, stop - fixed))
            else:
                _check_fixed(f"{key}.pos_emb", positions, embedder.positions.fixed_rows(m.name))
            if m.name in embedder.table.map.rows:
                twin = (f"{key}.to_logits.weight",) if side == "decoder" else ()
                weight = reader.take(f"{key}.token_emb.weight", *twin)
                put(f"{prefix}.table.weight", weight, embedder.table.map.slice(m.name))
            elif m.is_discrete:
                reader.skip(f"{key}.token_emb.weight")  # the mask token stands in for every id of a grid in the decoder
            if side == "decoder":
                put(
                    "heads.weight",
                    reader.take(f"{key}.to_logits.weight", f"{key}.token_emb.weight"),
                    model.heads.map.slice(m.name),
                )
            elif not m.is_discrete:
                source, target = f"{key}.{'proj' if m.is_grid else 'emb_proj'}", f"{prefix}.projections.{m.name}"
                put(f"{target}.weight", reader.take(f"{source}.weight"))
                if not m.is_grid:
                    put(f"{target}.bias", reader.take(f"{source}.bias"))
    for key in list(reader.remaining):
        block = _block_key(key)
        if block is not None and block in state:
            put(block, reader.take(key))
        elif (block is not None and block.endswith("norm.bias")) or key.endswith(
            (".norm1.bias", ".norm2.bias", "_norm.bias")
        ):
            reader.skip_zeros(key)
    reader.finish()
    whole = {name.partition("[")[0] for name in filled}
    missing = sorted(
        set(state) - whole - {"target_embedder.modality_embedding.weight", "input_embedder.modality_embedding.weight"}
    )
    if missing:
        raise CheckpointError(f"the published state does not fill: {', '.join(missing)}")
    for prefix, used in (("input_embedder", model.modalities.inputs), ("target_embedder", model.modalities.outputs)):
        unused = set(model.modalities) - {m.name for m in used}
        for name in unused:  # a row that nothing reads
            state[f"{prefix}.modality_embedding.weight"][model.modalities.index(name)] = 0
    return state


def _check_fixed(key: str, found: Tensor, own: Tensor) -> None:
    if found.shape != own.shape or not torch.allclose(found.float(), own, atol=1e-3):
        raise CheckpointError(f"{key}: not the fixed sine-cosine table of shape {tuple(own.shape)} that fourm computes")


def _block_key(key: str) -> str | None:
    match = _BLOCK.fullmatch(key)
    if match:
        return f"{match[1]}.blocks.{match[2]}.{match[3].replace('self_attn.', 'attn.')}"
    part, _, leaf = key.rpartition(".")
    return {
        "encoder_norm": "encoder.norm",
        "decoder_norm": "decoder.norm",
        "decoder_proj_context": "context_projection",
    }.get(part, part) + f".{leaf}"


class _Reader:
    """Takes keys out of a state dict and knows which were never taken."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state
        self.remaining = set(state)

    def take(self, *names: str) -> Tensor:
        """The first of `names` that exists (published files drop aliased tensors)."""
        for name in names:
            if name in self.state:
                self.remaining.discard(name)
                return self.state[name]
        raise CheckpointError(f"the published state lacks {' or '.join(names)}")

    def skip(self, name: str) -> None:
        self.remaining.discard(name)

    def skip_zeros(self, name: str) -> None:
        if bool(self.state[name].any()):
            raise CheckpointError(f"{name} should be zero (the config says norm_bias: false), but is not")
        self.remaining.discard(name)

    def finish(self) -> None:
        if self.remaining:
            raise CheckpointError(f"published keys without a place here: {', '.join(sorted(self.remaining))}")
