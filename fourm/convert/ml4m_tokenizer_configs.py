"""The configs of the published 4M image tokenizers, as ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fourm.errors import CheckpointError, did_you_mean
from fourm.nn.configs import UVIT_SIZES, NoiseConfig, SamplingConfig, UNetConfig, UViTConfig
from fourm.tokenizers.configs import AutoencoderConfig, DiVAEConfig, VQVAEConfig
from fourm.tokenizers.network_configs import VIT_SIZES, MLPConfig, ViTConfig
from fourm.tokenizers.quantizer_configs import EmaConfig, MemcodesConfig

_OLD_NAMES = {
    "quantizer_type": "quant_type",
    "encoder_type": "enc_type",
    "decoder_type": "dec_type",
    "quantizer_ema_decay": "ema_decay",
}
VIT_NAMES = {"vit_s": "small", "vit_b": "base", "vit_l": "large"}
_MLP = re.compile(r"BottleneckMLP/B_(\d+)-Wi_(\d+)")
PREDICTIONS = {"sample": "sample", "epsilon": "epsilon", "v_prediction": "v"}
SCHEDULES = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "cosine",
    "shifted_cosine": "shifted_cosine",
}
_UVIT = re.compile(r"uvit_([blh])_p(\d+)_f(8|16)(_longskip|_extraconv)?")
CONDITIONINGS = {"concat": "add", "xattn": "cross"}


def tokenizer_config(published: Mapping[str, Any], state: Mapping[str, Tensor]) -> AutoencoderConfig:
    """The config of our tokenizer for a published one. Unknown keys, such as training options, are passed over.

    Args:
        published: `config.json`, or the `args` of an older file.
        state: the weights, whose shapes say what a config may leave out.

    Raises:
        CheckpointError: for a missing key, and for a family that has no counterpart here.
    """
    facts = by_new_names(published)
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


def by_new_names(published: Mapping[str, Any]) -> dict[str, Any]:
    """The config with the names of today; what is null is left out."""
    return {_OLD_NAMES.get(name, name): value for name, value in published.items() if value is not None}


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
    size = VIT_NAMES.get(str(name).rpartition("_")[0])
    if size is None:
        raise CheckpointError(
            f"{part} '{name}' is not known.{did_you_mean(str(name), [f'{n}_{part[:3]}' for n in VIT_NAMES])}"
        )
    sizes: dict[str, Any] = dict(VIT_SIZES[size])
    projection = state.get("encoder.proj.weight")
    maps = projection is not None and projection.shape[-1] == 1  # feature maps: one vector per token
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
    if conditioning not in CONDITIONINGS:
        raise CheckpointError(f"conditioning is '{conditioning}'; known: {', '.join(CONDITIONINGS)}")
    return UViTConfig(
        **{**sizes, "depth": sizes["depth"] + long_skips},  # one more block, the middle one
        patch_size=int(patch),
        widths=(128, 256, 512) if extra == "_extraconv" else (128, 256),
        halve_again=fold == "16" and extra != "_extraconv",
        conditioning=CONDITIONINGS[conditioning],  # type: ignore[arg-type]
        grid_size=state["decoder.mid_block.mid_pos_emb"].shape[-1],
        long_skips=long_skips,
        dropout=float(facts.get("dec_transformer_dropout") or 0.0),
    )


def _diffusion(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Noise process, decoding and hidden codes."""
    name, _, shift = str(facts.get("beta_schedule", "linear")).partition(":")
    schedule, prediction = SCHEDULES.get(name), PREDICTIONS.get(str(facts.get("prediction_type", "sample")))
    if schedule is None or prediction is None:
        raise CheckpointError(
            f"beta_schedule is '{facts.get('beta_schedule')}' and prediction_type '{facts.get('prediction_type')}'; "
            f"known: {', '.join(SCHEDULES)}; {', '.join(PREDICTIONS)}"
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
