"""The published 4M image tokenizers (layout of the `EPFL-VILAB/4M_tokenizers_*` repositories on the Hub).

A key map is a table `published prefix -> ours`, the longest prefix wins; where it names several of ours, the published
tensor holds their rows one after another. Every published key is used or named in `_UNUSED`, every weight of ours is
filled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fourm.errors import CheckpointError, did_you_mean
from fourm.nn.configs import UVIT_SIZES, NoiseConfig, SamplingConfig, UNetConfig, UViTConfig
from fourm.tokenizers.autoencoder import Autoencoder
from fourm.tokenizers.configs import (
    VIT_SIZES,
    AutoencoderConfig,
    DiVAEConfig,
    EmaConfig,
    MemcodesConfig,
    MLPConfig,
    ViTConfig,
    VQVAEConfig,
)

KeyMap = dict[str, str | tuple[str, ...]]

_OLD_NAMES = {
    "quantizer_type": "quant_type",
    "encoder_type": "enc_type",
    "decoder_type": "dec_type",
    "quantizer_ema_decay": "ema_decay",
}
_VIT = {"vit_s": "small", "vit_b": "base", "vit_l": "large"}
_MLP = re.compile(r"BottleneckMLP/B_(\d+)-Wi_(\d+)")
_PREDICTIONS = {"sample": "sample", "epsilon": "epsilon", "v_prediction": "v"}
_SCHEDULES = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "cosine",
    "shifted_cosine": "shifted_cosine",
}
_UVIT = re.compile(r"uvit_([blh])_p(\d+)_f(8|16)(_longskip|_extraconv)?")
_CONDITIONINGS = {"concat": "add", "xattn": "cross"}
_UNUSED = ("quantize._codebook.initted",)  # whether k-means has begun; the counters of ours say it


def tokenizer_config(published: Mapping[str, Any], state: Mapping[str, Tensor]) -> AutoencoderConfig:
    """The config of our tokenizer for a published one. Unknown keys, such as training options, are passed over.

    Args:
        published: `config.json`, or the `args` of an older file.
        state: the weights, whose shapes say what a config may leave out.

    Raises:
        CheckpointError: for a missing key, and for a family that has no counterpart here.
    """
    facts = {_OLD_NAMES.get(name, name): value for name, value in published.items()}
    decoder = str(_fact(facts, "dec_type"))
    half: dict[str, Any] = {
        "encoder": _network_config(_fact(facts, "enc_type"), "encoder", facts, state),
        "quantizer": _quantizer_config(facts, state),
    }
    if "cls_emb.weight" in state:
        half["class_dim"] = state["cls_emb.weight"].shape[1]
    if decoder.startswith(("vit_", "BottleneckMLP")):
        return VQVAEConfig(**half, decoder=_network_config(decoder, "decoder", facts, state))
    if decoder == "unet_patched":
        return DiVAEConfig(**half, denoiser=_unet_config(facts, state), **_diffusion(facts))
    if _UVIT.fullmatch(decoder):
        return DiVAEConfig(**half, denoiser=_uvit_config(decoder, facts, state), **_diffusion(facts))
    raise CheckpointError(
        f"dec_type is '{decoder}'; known: unet_patched, uvit_b_p4_f16 and relatives, vit_s_dec, vit_b_dec, vit_l_dec, "
        "BottleneckMLP/B_*-Wi_*"
    )


def tokenizer_state(published: Mapping[str, Tensor], model: Autoencoder) -> dict[str, Tensor]:
    """The state of `model` from a published state dict.

    Args:
        published: the weights.
        model: built from `tokenizer_config`, on any device.

    Raises:
        CheckpointError: naming every published key that has no place, and every weight of ours that was not filled.
    """
    names = key_map(model.config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    state: dict[str, Tensor] = {}
    without_place = []
    for key in sorted(published):
        if key in _UNUSED:
            continue
        targets = _targets(key, names)
        if any(target not in shapes for target in targets) or not targets:
            without_place.append(key)
            continue
        for target, value in zip(targets, published[key].chunk(len(targets))):
            _put(state, key, target, value, shapes[target])
    state.update(_counters(state, model))
    missing = sorted(set(shapes) - set(state))
    if without_place or missing:
        raise CheckpointError(
            f"the published tokenizer does not fit: keys without a place here: {', '.join(without_place) or 'none'}; "
            f"weights of ours that nothing fills: {', '.join(missing) or 'none'}"
        )
    return state


def key_map(config: AutoencoderConfig) -> KeyMap:
    """Where every published key goes in a tokenizer of this config."""
    names: KeyMap = {
        "cls_emb": "class_embedding",
        "quant_proj": "quant_proj",
        "quantize._codebook.embed": "quantizer.codebook",
        "quantize._codebook.cluster_size": "quantizer.cluster_size",
        "quantize.codes": "quantizer.codes",
        **{f"quantize.{name}.weight": f"quantizer.{name}" for name in ("to_k", "to_v")},
        **_network_keys("encoder", config.encoder),
    }
    if isinstance(config, DiVAEConfig):
        uvit = isinstance(config.denoiser, UViTConfig)
        return names | (_uvit_keys(config.denoiser) if uvit else _unet_keys(config.denoiser))
    assert isinstance(config, VQVAEConfig)
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
    renamed = {"adaLN_modulation": "modulation", "adaLN_gate": "gate", "self_attn": "attn", "skip_linear": "skip"}
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


def _put(state: dict[str, Tensor], key: str, target: str, value: Tensor, shape: torch.Size) -> None:
    """Fill one weight. A linear layer may be published as a convolution of size 1."""
    if value.numel() != math.prod(shape) or [n for n in value.shape if n > 1] != [n for n in shape if n > 1]:
        raise CheckpointError(f"{key} has shape {tuple(value.shape)}, but {target} has {tuple(shape)}")
    value = value.reshape(shape)
    if target in state and not torch.equal(state[target], value):
        raise CheckpointError(f"two published keys give {target} different values; one of them is {key}")
    state[target] = value


def _counters(state: Mapping[str, Tensor], model: Autoencoder) -> dict[str, Tensor]:
    """The running sums behind the codes, which are not published: training goes on from the codes as they are."""
    config = model.config.quantizer
    size, codes = state.get("quantizer.cluster_size"), state.get("quantizer.codebook")
    if size is None or codes is None:
        return {}
    settled = torch.tensor(math.ceil(1 / (1 - config.decay)))  # the first step with the full decay
    return {"quantizer.cluster_sum": codes * size[:, None], "quantizer.step": settled}


def _fact(facts: Mapping[str, Any], name: str) -> Any:
    if facts.get(name) is None:
        raise CheckpointError(f"the published config lacks {name}. Is this the config.json of a 4M tokenizer?")
    return facts[name]


def _network_config(
    name: Any, part: str, facts: Mapping[str, Any], state: Mapping[str, Tensor]
) -> ViTConfig | MLPConfig:
    mlp = _MLP.fullmatch(str(name))
    return MLPConfig(int(mlp[2]), int(mlp[1])) if mlp else _vit_config(name, part, facts, state)


def _vit_config(name: Any, part: str, facts: Mapping[str, Any], state: Mapping[str, Tensor]) -> ViTConfig:
    size = _VIT.get(str(name).rpartition("_")[0])
    if size is None:
        raise CheckpointError(f"{part} '{name}' is not known.{did_you_mean(str(name), [f'{n}_enc' for n in _VIT])}")
    sizes: dict[str, Any] = dict(VIT_SIZES[size])
    maps = facts.get("patch_proj") is False  # feature maps: one vector per token
    patch = facts.get("patch_size_dec") if part == "decoder" else None
    return ViTConfig(
        **sizes,
        patch_size=1 if maps else int(patch or facts.get("patch_size") or 16),
        grid_size=state[f"{part}.pos_emb"].shape[-1],
        post_mlp=f"{part}.post_mlp.fc1.weight" in state,
        output_blocks=len({key.split(".")[2] for key in state if key.startswith(f"{part}.out_conv.")}),
    )


def _quantizer_config(facts: Mapping[str, Any], state: Mapping[str, Tensor]) -> EmaConfig | MemcodesConfig:
    kind = str(facts.get("quant_type", "lucid"))
    if kind == "memcodes":
        num_heads, codes, dim = state["quantize.codes"].shape
        return MemcodesConfig(num_heads, codes, num_heads * dim)
    if kind != "lucid":
        raise CheckpointError(f"quant_type is '{kind}'; known: lucid, memcodes")
    size, dim = state["quantize._codebook.embed"].shape
    return EmaConfig(
        codebook_size=size,
        dim=dim,
        cosine=bool(facts.get("norm_codes", True)),
        normalize_latents=bool(facts.get("norm_latents", False)),
        decay=float(facts.get("ema_decay") or 0.99),
    )


def _unet_config(facts: Mapping[str, Any], state: Mapping[str, Tensor]) -> UNetConfig:
    width = state["decoder.time_embed.0.weight"].shape[1]
    return UNetConfig(width=width, patch_size=int(facts.get("patch_size_dec") or 4))


def _uvit_config(decoder: str, facts: Mapping[str, Any], state: Mapping[str, Tensor]) -> UViTConfig:
    match = _UVIT.fullmatch(decoder)
    assert match is not None
    size, patch, fold, extra = match.groups()
    sizes, long_skips = UVIT_SIZES[{"b": "base", "l": "large", "h": "huge"}[size]], extra == "_longskip"
    conditioning = str(facts.get("conditioning", "concat"))
    if conditioning not in _CONDITIONINGS:
        raise CheckpointError(f"conditioning is '{conditioning}'; known: {', '.join(_CONDITIONINGS)}")
    return UViTConfig(
        **{**sizes, "depth": sizes["depth"] + long_skips},  # one more block, the middle one
        patch_size=int(patch),
        widths=(128, 256, 512) if extra == "_extraconv" else (128, 256),
        halve_again=fold == "16" and extra != "_extraconv",
        conditioning=_CONDITIONINGS[conditioning],  # type: ignore[arg-type]
        grid_size=state["decoder.mid_block.mid_pos_emb"].shape[-1],
        long_skips=long_skips,
        dropout=float(facts.get("dec_transformer_dropout") or 0.0),
    )


def _diffusion(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Noise process, decoding and hidden codes."""
    name, _, shift = str(facts.get("beta_schedule", "linear")).partition(":")
    schedule, prediction = _SCHEDULES.get(name), _PREDICTIONS.get(str(facts.get("prediction_type", "sample")))
    if schedule is None or prediction is None:
        raise CheckpointError(
            f"beta_schedule is '{facts.get('beta_schedule')}' and prediction_type '{facts.get('prediction_type')}'; "
            f"known: {', '.join(_SCHEDULES)}; {', '.join(_PREDICTIONS)}"
        )
    clip = bool(facts.get("clip_sample", True) or facts.get("thresholding"))
    hides = bool(facts.get("masked_cfg"))
    return {
        "noise": NoiseConfig(
            num_timesteps=int(facts.get("num_train_timesteps") or 1000),
            schedule=schedule,  # type: ignore[arg-type]
            shift=float(shift or 1.0),
            prediction=prediction,  # type: ignore[arg-type]
            zero_terminal_snr=bool(facts.get("zero_terminal_snr")),
        ),
        "sampling": SamplingConfig(clip=clip),
        "condition_dropout": float(facts.get("cls_free_guidance_dropout") or 0.0),
        "masked_condition": (float(facts["masked_cfg_low"]), float(facts["masked_cfg_high"])) if hides else None,
    }
