"""The published 4M image tokenizers (layout of the `EPFL-VILAB/4M_tokenizers_*` repositories on the Hub), both ways.

A key map is a table `published prefix -> ours`, the longest prefix wins; where it names several of ours, the published
tensor holds their rows one after another.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor

from fourm.convert.rules import Rule
from fourm.nn.configs import UNetConfig, UViTConfig
from fourm.tokenizers.autoencoder import Autoencoder
from fourm.tokenizers.configs import AutoencoderConfig, DiVAEConfig, VQVAEConfig
from fourm.tokenizers.network_configs import MLPConfig, ViTConfig
from fourm.tokenizers.quantizer_configs import EmaConfig

KeyMap = dict[str, str | tuple[str, ...]]

_CONV_1D = re.compile(
    r"decoder\.(?:input_blocks\.\d+\.1|output_blocks\.\d+\.1|middle_block\.1)\.(?:qkv|proj_out)\.weight"
)
"""Attention of the patched U-Net is published as convolutions over a row of places."""


def rules(model: Autoencoder) -> list[Rule]:
    """What every tensor of the published layout is in a tokenizer, which may lie on any device."""
    names, own = key_map(model.config), stored(model)
    found: dict[str, list[str]] = {}
    for name in own:
        for key in _published_names(name, names):
            found[key] = _targets(key, names)
    result = []
    for key, targets in found.items():
        first = own[targets[0]].shape
        rows = (sum(own[name].shape[0] for name in targets),) if len(targets) > 1 else first[:1]
        shape = (*rows, *first[1:], *([1] if _CONV_1D.search(key) else []))
        twins = tuple(twin for twin, theirs in found.items() if theirs == targets and twin != key)
        result.append(Rule(key, shape, tuple(targets), twins=twins))
    if isinstance(model.config.quantizer, EmaConfig):  # whether k-means has begun; the counters of ours say it
        result.append(Rule("quantize._codebook.initted", (1,), constant=torch.ones(1), checked=False))
    return result


def stored(model: Autoencoder) -> dict[str, Tensor]:
    """Our tensors that the published layout has a place for."""
    left_out = _derived(model.config)
    return {name: tensor for name, tensor in model.state_dict().items() if name not in left_out}


def complete_state(state: Mapping[str, Tensor], config: AutoencoderConfig) -> dict[str, Tensor]:
    """Our state with the running sums behind the codes, which are not published.

    Training goes on from the codes as they are.
    """
    derived = _derived(config)
    sums = (
        {"quantizer.cluster_sum": state["quantizer.codebook"] * state["quantizer.cluster_size"][:, None]}
        if ("quantizer.cluster_sum" in derived)
        else {}
    )
    if "quantizer.step" in derived:  # the first step with the full decay
        sums["quantizer.step"] = torch.tensor(math.ceil(1 / (1 - config.quantizer.decay)))
    return {**state, **sums}


def _derived(config: AutoencoderConfig) -> tuple[str, ...]:
    if not isinstance(config.quantizer, EmaConfig):
        return ()
    return ("quantizer.cluster_sum", "quantizer.step") if config.quantizer.cosine else ("quantizer.step",)


def key_map(config: AutoencoderConfig) -> KeyMap:
    """Where every published key goes in a tokenizer of this config."""
    names: KeyMap = {
        "cls_emb": "class_embedding",
        "quant_proj": "quant_proj",
        "quantize._codebook.embed": "quantizer.codebook",
        "quantize._codebook.cluster_size": "quantizer.cluster_size",
        "quantize._codebook.embed_avg": "quantizer.cluster_sum",
        "quantize.codes": "quantizer.codes",
        **{f"quantize.{name}.weight": f"quantizer.{name}" for name in ("to_k", "to_v")},
        **_network_keys("encoder", config.encoder),
    }
    if isinstance(config, DiVAEConfig):
        uvit = isinstance(config.denoiser, UViTConfig)
        return names | (_uvit_keys(config.denoiser) if uvit else _unet_keys(config.denoiser))
    if not isinstance(config, VQVAEConfig):
        return names
    return names | {"post_quant_proj": "post_quant_proj"} | _network_keys("decoder", config.decoder)


def _network_keys(part: str, config: ViTConfig | MLPConfig) -> KeyMap:
    return _mlp_keys(part, config.depth) if isinstance(config, MLPConfig) else _vit_keys(part)


def _mlp_keys(part: str, depth: int) -> KeyMap:
    names: KeyMap = {part: part}
    for n in range(depth):
        block = f"{part}.blocks.{n}"
        names |= {f"{block}.block.0": f"{block}.fc1", f"{block}.block.2": f"{block}.fc2"}
        names[f"{part}.layernorms.{n}"] = f"{block}.norm"
    return names


def _vit_keys(part: str) -> KeyMap:
    return {
        part: part,
        f"{part}.blocks": f"{part}.blocks.trunk.blocks",
        **{f"{part}.{name}": f"{part}.blocks.{name}" for name in ("pos_emb", "norm_mlp", "post_mlp")},
    }


def _unet_keys(config: UNetConfig) -> KeyMap:
    """Guided diffusion numbers all blocks in a row; diffusers numbers levels, and blocks within them."""
    names: KeyMap = {
        "decoder.time_embed.0": "decoder.network.time_embedding.linear_1",
        "decoder.time_embed.2": "decoder.network.time_embedding.linear_2",
        "decoder.input_blocks.0.0": "decoder.network.conv_in",
        "decoder.out.0": "decoder.network.conv_norm_out",
        "decoder.out.2": "decoder.network.conv_out",
        **_residual_keys("decoder.middle_block.0", "decoder.network.mid_block.resnets.0"),
        **_attention_keys("decoder.middle_block.1", "decoder.network.mid_block.attentions.0"),
        **_residual_keys("decoder.middle_block.2", "decoder.network.mid_block.resnets.1"),
    }
    last = len(config.multipliers) - 1
    for level in range(last + 1):
        down, up = f"decoder.network.down_blocks.{level}", f"decoder.network.up_blocks.{level}"
        first = 1 + level * (config.num_blocks + 1)  # number 0 is the first convolution, and each level ends in a step
        for block in range(config.num_blocks):
            source = f"decoder.input_blocks.{first + block}"
            names |= _residual_keys(f"{source}.0", f"{down}.resnets.{block}")
            names |= _attention_keys(f"{source}.1", f"{down}.attentions.{block}")
        names[f"decoder.input_blocks.{first + config.num_blocks}.0.op"] = f"{down}.downsamplers.0.conv"
        for block in range(config.num_blocks + 1):
            source = f"decoder.output_blocks.{level * (config.num_blocks + 1) + block}"
            names |= _residual_keys(f"{source}.0", f"{up}.resnets.{block}")
            names |= _attention_keys(f"{source}.1", f"{up}.attentions.{block}")
        attends = last - level in config.attention_levels
        names[f"{source}.{2 if attends else 1}.conv"] = f"{up}.upsamplers.0.conv"
    return names


def _uvit_keys(config: UViTConfig) -> KeyMap:
    published, ours = "decoder.mid_block", "decoder.middle"
    names: KeyMap = {
        "decoder": "decoder",
        "decoder.downsample_mid.conv": "decoder.downsample.conv",
        "decoder.downsample_mid.Conv2d_0": "decoder.downsample.conv",  # diffusers 0.20 had one layer under two names
        "decoder.upsample_mid": "decoder.upsample",
        f"{published}.mask_token": f"{ours}.mask_token",
        f"{published}.mid_block": f"{ours}.blocks",
        **{f"{published}.mid_{name}": f"{ours}.{name}" for name in ("pos_emb", "cond_proj", "proj_in", "proj_out")},
    }
    renamed = {"adaLN_modulation": "modulation", "adaLN_gate": "gate", "skip_linear": "skip"}
    if config.conditioning == "cross":
        renamed["self_attn"] = "attn"
    for block in range(config.depth):
        source, target = f"{published}.mid_block.{block}", f"{ours}.blocks.{block}"
        names |= {f"{source}.{theirs}": f"{target}.{own}" for theirs, own in renamed.items()}
    return names


def _residual_keys(published: str, ours: str) -> KeyMap:
    leaves = {
        "in_layers.0": "norm1",
        "in_layers.2": "conv1",
        "emb_layers.1": "time_emb_proj",
        "out_layers.0": "norm2",
        "out_layers.3": "conv2",
        "skip_connection": "conv_shortcut",
    }
    return {f"{published}.{theirs}": f"{ours}.{own}" for theirs, own in leaves.items()}


def _attention_keys(published: str, ours: str) -> KeyMap:
    return {
        f"{published}.norm": f"{ours}.group_norm",
        f"{published}.qkv": (f"{ours}.to_q", f"{ours}.to_k", f"{ours}.to_v"),
        f"{published}.proj_out": f"{ours}.to_out.0",
    }


def _targets(key: str, names: KeyMap) -> list[str]:
    """Our names of a published key; none if it has no place."""
    prefix, rest = key, ""
    while prefix not in names:
        prefix, dot, leaf = prefix.rpartition(".")
        if not dot:
            return []
        rest = f".{leaf}{rest}"
    own = names[prefix]
    return [name + rest for name in ((own,) if isinstance(own, str) else own)]


def _published_names(name: str, names: KeyMap) -> list[str]:
    """The published keys that hold one of our tensors: those of the longest of our prefixes that it has."""
    prefix = name
    while prefix:
        found = [
            theirs + name[len(prefix) :]
            for theirs, ours in names.items()
            if prefix in ((ours,) if isinstance(ours, str) else ours)
        ]
        if found:
            return found
        prefix = prefix.rpartition(".")[0]
    return []
