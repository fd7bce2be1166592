"""LVM's VQGAN tokenizer (layout of `Emma02/vqvae_ckpts` on the Hub, which is openMUSE's) as one of ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fourm import catalog
from fourm.convert.rules import Rule
from fourm.errors import CheckpointError
from fourm.layouts import Continuous, Grid
from fourm.modality import Modality
from fourm.tokenizers.autoencoder import Autoencoder
from fourm.tokenizers.configs import VQVAEConfig
from fourm.tokenizers.network_configs import VQGANConfig
from fourm.tokenizers.quantizer_configs import EmaConfig

MODALITY = "rgb_unit@256"
_DECAY = 0.99
_KEYS = {
    "resolution": 256,
    "num_channels": 3,
    "hidden_channels": 128,
    "channel_mult": (1, 1, 2, 2, 4),
    "num_res_blocks": 2,
    "attn_resolutions": (16,),
    "no_attn_mid_block": False,
    "z_channels": 256,
    "num_embeddings": 1024,
    "quantized_embed_dim": 256,
}
"""What a config says about the networks, with what it means to leave it out."""
_PASSED_OVER = {"dropout", "commitment_cost", "resample_with_conv"}
"""Further keys: of training, or with one possible value."""
_RENAMED = (
    (r"^quant_proj\.", "quant_conv."),
    (r"^post_quant_proj\.", "post_quant_conv."),
    (r"^quantizer\.codebook$", "quantize.embedding.weight"),
    (r"^encoder\.levels\.(\d+)\.resize\.", r"encoder.down.\1.downsample.conv."),
    (r"^decoder\.levels\.(\d+)\.resize\.", r"decoder.up.\1.upsample.conv."),
    (r"^encoder\.levels\.", "encoder.down."),
    (r"^decoder\.levels\.", "decoder.up."),
    (r"\.blocks\.(\d+)\.", r".block.\1."),
    (r"\.attentions\.(\d+)\.", r".attn.\1."),
    (r"\.middle\.0\.", ".mid.block_1."),
    (r"\.middle\.1\.", ".mid.attn_1."),
    (r"\.middle\.2\.", ".mid.block_2."),
    (r"\.shortcut\.", ".nin_shortcut."),
)
_COUNTERS = ("quantizer.cluster_size", "quantizer.cluster_sum", "quantizer.step")


def tokenizer_config(published: Mapping[str, Any]) -> VQVAEConfig:
    """The config of our tokenizer for a published one.

    Raises:
        CheckpointError: for keys that are not known, and for layers that the published checkpoints do not have.
    """
    strange = sorted(key for key in published.keys() - _KEYS.keys() - _PASSED_OVER if not key.startswith("_"))
    if strange:
        raise CheckpointError(f"the config holds {', '.join(strange)}; expected the keys {', '.join(sorted(_KEYS))}")
    facts = {**_KEYS, **published}
    if published.get("resample_with_conv") is False:
        raise CheckpointError("resample_with_conv is false; expected levels that are joined by convolutions")
    sizes = [int(facts["resolution"]) >> level for level in range(len(facts["channel_mult"]))]
    stem = int(facts["hidden_channels"])
    widths = tuple(stem * int(factor) for factor in facts["channel_mult"])
    network = VQGANConfig(
        widths=widths,
        num_blocks=int(facts["num_res_blocks"]),
        attention_levels=tuple(n for n, size in enumerate(sizes) if size in tuple(facts["attn_resolutions"])),
        middle_attention=not facts["no_attn_mid_block"],
        latent_dim=int(facts["z_channels"]),
        stem_width=None if stem == widths[0] else stem,
    )
    # Training goes on from the published codes: none of them is replaced for being rare.
    quantizer = EmaConfig(
        codebook_size=int(facts["num_embeddings"]),
        dim=int(facts["quantized_embed_dim"]),
        cosine=False,
        normalize_latents=False,
        decay=_DECAY,
        revive_below=0.0,
    )
    return VQVAEConfig(encoder=network, decoder=network, quantizer=quantizer)


def tokenizer_modality(published: Mapping[str, Any], config: VQVAEConfig) -> Modality:
    """Colour images in [0, 1] of the size that the tokenizer was made for.

    Raises:
        CheckpointError: if it is for other images.
    """
    facts = {**_KEYS, **published}
    size, patch, base = int(facts["resolution"]), config.patch_size, catalog.get(MODALITY)
    if facts["num_channels"] != base.channels:
        raise CheckpointError(f"num_channels is {facts['num_channels']}; expected 3, for colour images")
    if size % patch:
        raise CheckpointError(f"resolution is {size}; expected a multiple of {patch}, the pixels of a token's side")
    grid = Grid(size // patch, size // patch, patch)
    return replace(base, name=f"{base.key}@{size}", layout=grid, content=Continuous(3 * patch * patch))


def rules(model: Autoencoder) -> list[Rule]:
    """What every tensor of the published layout is in a tokenizer, which may lie on any device."""
    return [Rule(published_name(name), tuple(value.shape), (name,)) for name, value in stored(model).items()]


def stored(model: Autoencoder) -> dict[str, Tensor]:
    """Our tensors that the published layout has a place for."""
    return {name: value for name, value in model.state_dict().items() if name not in _COUNTERS}


def published_name(name: str) -> str:
    """The published key of one of our tensors."""
    for ours, theirs in _RENAMED:
        name = re.sub(ours, theirs, name)
    return name


def complete_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state with the counters behind the codes, as if every code had been used once in a step at full decay."""
    codes = state["quantizer.codebook"]
    counters = (torch.ones(len(codes)), codes.clone(), torch.tensor(round(1 / (1 - _DECAY))))
    return {**state, **dict(zip(_COUNTERS, counters))}
