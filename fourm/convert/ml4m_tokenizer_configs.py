"""The configs of the published 4M image tokenizers, and what they encode, both ways."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from fourm import catalog
from fourm.convert import checkpoints
from fourm.errors import CheckpointError, did_you_mean
from fourm.modality import Continuous, Discrete, Grid, Modality
from fourm.nn.configs import UVIT_SIZES, NoiseConfig, SamplingConfig, UNetConfig, UViTConfig
from fourm.tokenizers.autoencoder import Autoencoder
from fourm.tokenizers.configs import AutoencoderConfig, DiVAEConfig, VQVAEConfig
from fourm.tokenizers.network_configs import VIT_SIZES, MLPConfig, ViTConfig
from fourm.tokenizers.quantizer_configs import EmaConfig, MemcodesConfig

_LOG = logging.getLogger(__name__)
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
_DOMAINS = {
    "rgb": "rgb_half@224",
    "depth": "depth@224",
    "normal": "normal@224",
    "canny_edge": "canny@224",
    "sam_edge": "canny@224",
    "semseg_coco": "semseg_coco@224",
    "sam_mask": "sam_mask",
    "CLIP-B16": "clip@224",
    "DINOv2-B14": "dinov2@224",
    "DINOv2-B14-global": "dinov2_global@224",
    "ImageBind-H14": "imagebind@224",
    "ImageBind-H14-global": "imagebind_global@224",
    "human_poses": "smpl_pose",
}
_MAPS = {512: "clip@224", 768: "dinov2@224", 1280: "imagebind@224"}
_VECTORS = {768: "dinov2_global@224", 1280: "imagebind_global@224", 207: "smpl_pose"}
_NORMAL_CODES, _MASK_CODE = 8192, 1024  # codes of the normals' tokenizer; length of a code of the masks'


def tokenizer_config(published: Mapping[str, Any], state: Mapping[str, Tensor]) -> AutoencoderConfig:
    """The config of our tokenizer for a published one. Unknown keys, such as training options, are passed over.

    Args:
        published: `config.json`, or the `args` of an older file.
        state: the weights, whose shapes say what a config may leave out.

    Raises:
        CheckpointError: for a missing key, and for a family that has no counterpart here.
    """
    facts = _by_new_names(published)
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


def _by_new_names(published: Mapping[str, Any]) -> dict[str, Any]:
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
    size = _VIT.get(str(name).rpartition("_")[0])
    if size is None:
        raise CheckpointError(f"{part} '{name}' is not known.{did_you_mean(str(name), [f'{n}_enc' for n in _VIT])}")
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


def published_config(model: Autoencoder) -> dict[str, Any]:
    """The config of our tokenizer as the public code reads it.

    Raises:
        CheckpointError: if the public code has no such networks.
    """
    c, modality = model.config, model.modality
    facts: dict[str, Any] = {
        "domain": next((d for d, name in _DOMAINS.items() if name.split("@")[0] == modality.key), modality.key),
        "image_size": max(modality.map_size()) if modality.teacher is None else max(modality.grid.image_size),
        "n_channels": c.class_dim if modality.is_discrete else model.channels,
        "n_labels": model.channels if modality.is_discrete else None,
        "enc_type": _network_name(c.encoder, "encoder"),
        "post_mlp": getattr(c.encoder, "post_mlp", False),
        "patch_size": model.latent_grid.patch_size if modality.teacher is None else modality.grid.patch_size,
        "patch_proj": c.encoder.patch_size > 1,
        "sync_codebook": False,
        **_quantizer_facts(c.quantizer),
    }
    if isinstance(c, VQVAEConfig):
        return {
            **facts,
            "dec_type": _network_name(c.decoder, "decoder"),
            "out_conv": bool(getattr(c.decoder, "output_blocks", 0)),
        }
    if isinstance(c, DiVAEConfig):
        return {**facts, **_denoiser_facts(c.denoiser), **_diffusion_facts(c)}
    raise CheckpointError(f"tokenizers of kind '{model.kind}' were never published, so the public code cannot read one")


def tokenizer_modality(
    published: Mapping[str, Any], config: AutoencoderConfig, state: Mapping[str, Tensor], source: str
) -> Modality:
    """The raw modality of a published tokenizer: what its config, its name or its shapes say.

    Args:
        published: its config; `domain` names the modality, if it is there.
        config: ours.
        state: the weights.
        source: where it came from; the published repositories and folders called like them are known.
    """
    facts = _by_new_names(published)
    checkpoint, channels = checkpoints.find(source), _channels(config, state)
    domain = str(facts.get("domain") or "").partition("@")[0]
    name = (checkpoint.modality if checkpoint else None) or _DOMAINS.get(domain)
    if name is None:
        name = "semseg_coco@224" if "cls_emb.weight" in state else _by_shape(config, channels, source)
    size = facts.get("image_size") or facts.get("input_size")
    return _fitted(name, config, channels, int(size or 224))


def _channels(config: AutoencoderConfig, state: Mapping[str, Tensor]) -> int:
    """Classes of a label map, channels of an image, or length of a vector."""
    if "cls_emb.weight" in state:
        return int(state["cls_emb.weight"].shape[0])
    first = "encoder.linear_in.weight" if isinstance(config.encoder, MLPConfig) else "encoder.proj.weight"
    return int(state[first].shape[1])


def _by_shape(config: AutoencoderConfig, channels: int, source: str) -> str:
    """A modality of the catalog with these numbers of channels and codes."""
    if hasattr(config, "denoiser") or config.encoder.patch_size > 1:
        if channels == 1 and config.quantizer.dim >= _MASK_CODE:
            return "sam_mask"
        name, other = ("depth@224", "canny@224") if channels == 1 else ("rgb_half@224", "normal@224")
        if channels == 3 and config.quantizer.codebook_size == _NORMAL_CODES:
            name, other = other, name
        _LOG.warning(
            "%s does not say what it encodes; by its shapes it is %s (or %s: then name it with modality=)",
            *(source, name, other),
        )
        return name
    is_vector = isinstance(config.encoder, MLPConfig)
    return (_VECTORS if is_vector else _MAPS).get(channels, "")


def _fitted(name: str, config: AutoencoderConfig, channels: int, size: int) -> Modality:
    """The modality called `name`, changed where the tokenizer has other channels, or another size."""
    patch = config.encoder.patch_size
    base = catalog.get(name) if name else None
    if base is not None and (base.vocab_size if base.is_discrete else base.map_channels) != channels:
        if base.is_discrete:
            base = replace(base, content=Discrete(channels), classes=())
        else:
            base = None
    if base is None:
        size = size if isinstance(config.encoder, ViTConfig) and size % patch == 0 else patch
        return Modality(
            "image", Grid(size // patch, size // patch, patch), Continuous(channels * patch * patch), "image",
            "features", direction="input", channels=channels,
        )  # fmt: skip
    if base.teacher is None and any(side % patch for side in base.grid.image_size):
        rows = max(size // patch, 1)
        content = base.content if base.is_discrete else Continuous(channels * patch * patch)
        layout = Grid(rows * patch, rows * patch) if base.is_discrete else Grid(rows, rows, patch)
        base = replace(base, layout=layout, content=content)
    return base


def _network_name(config: Any, part: str) -> str:
    suffix = "enc" if part == "encoder" else "dec"
    if isinstance(config, MLPConfig) and config.mlp_ratio == 4:
        return f"BottleneckMLP/B_{config.depth}-Wi_{config.width}"
    if isinstance(config, ViTConfig) and config.mlp_ratio == 4 and config.activation == "gelu":
        sizes = {"dim": config.dim, "depth": config.depth, "num_heads": config.num_heads}
        known = {name: VIT_SIZES[size] for name, size in _VIT.items()}
        match = next((name for name, own in known.items() if own == sizes), None)
        if match:
            return f"{match}_{suffix}"
    raise CheckpointError(
        f"the {part} ({config}) has no counterpart in the published layout, which has vision transformers of the sizes "
        f"{', '.join(VIT_SIZES)} with GELU, and MLPs of ratio 4"
    )


def _quantizer_facts(config: Any) -> dict[str, Any]:
    if isinstance(config, MemcodesConfig):
        return {
            "quant_type": "memcodes",
            "codebook_size": config.codebook_size,
            "num_codebooks": config.num_heads,
            "latent_dim": config.dim,
        }
    if isinstance(config, EmaConfig):
        return {
            "quant_type": "lucid",
            "codebook_size": config.codebook_size,
            "latent_dim": config.dim,
            "norm_codes": config.cosine,
            "norm_latents": config.normalize_latents,
            "ema_decay": config.decay,
        }
    raise CheckpointError(f"quantizer {config} has no counterpart in the published layout: lucid (ema), memcodes")


def _denoiser_facts(config: Any) -> dict[str, Any]:
    if isinstance(config, UNetConfig):
        known = UNetConfig(patch_size=config.patch_size, dropout=config.dropout)
        if config != known:
            raise CheckpointError(
                f"denoiser {config} has no counterpart in the published layout; its U-Net has width {known.width}, "
                f"multipliers {list(known.multipliers)} and {known.num_blocks} blocks a level"
            )
        return {"dec_type": "unet_patched", "patch_size_dec": config.patch_size}
    sizes = {"dim": config.dim, "depth": config.depth - config.long_skips, "num_heads": config.num_heads}
    size = next((name[0] for name, own in UVIT_SIZES.items() if own == sizes), None)
    extra = "_extraconv" if config.widths == (128, 256, 512) else "_longskip" if config.long_skips else ""
    if size is None or config.widths not in ((128, 256), (128, 256, 512)):
        raise CheckpointError(f"denoiser {config} has no counterpart in the published layout: uvit_b, uvit_l, uvit_h")
    fold = 16 if config.halve_again or extra == "_extraconv" else 8
    return {
        "dec_type": f"uvit_{size}_p{config.patch_size}_f{fold}{extra}",
        "conditioning": next(name for name, own in _CONDITIONINGS.items() if own == config.conditioning),
        "dec_transformer_dropout": config.dropout,
    }


def _diffusion_facts(config: DiVAEConfig) -> dict[str, Any]:
    noise = config.noise
    schedule = next(name for name, own in _SCHEDULES.items() if own == noise.schedule)
    low, high = config.masked_condition or (None, None)
    return {
        "num_train_timesteps": noise.num_timesteps,
        "beta_schedule": f"{schedule}:{noise.shift}" if schedule == "shifted_cosine" else schedule,
        "prediction_type": next(name for name, own in _PREDICTIONS.items() if own == noise.prediction),
        "zero_terminal_snr": noise.zero_terminal_snr,
        "clip_sample": config.sampling.clip,
        "thresholding": config.sampling.clip,
        "cls_free_guidance_dropout": config.condition_dropout,
        "masked_cfg": config.masked_condition is not None,
        "masked_cfg_low": low,
        "masked_cfg_high": high,
    }
