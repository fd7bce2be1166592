"""The configs of our image tokenizers, as the public 4M code reads them."""

from __future__ import annotations

from typing import Any

from fourm.convert.ml4m_tokenizer_configs import CONDITIONINGS, PREDICTIONS, SCHEDULES, VIT_NAMES
from fourm.convert.ml4m_tokenizer_modality import DOMAINS
from fourm.errors import CheckpointError
from fourm.nn.configs import UVIT_SIZES, UNetConfig
from fourm.tokenizers.autoencoder import Autoencoder
from fourm.tokenizers.configs import DiVAEConfig, VQVAEConfig
from fourm.tokenizers.network_configs import VIT_SIZES, MLPConfig, ViTConfig
from fourm.tokenizers.quantizer_configs import EmaConfig, MemcodesConfig


def published_config(model: Autoencoder) -> dict[str, Any]:
    """The config of our tokenizer as the public code reads it.

    Raises:
        CheckpointError: if the public code has no such networks.
    """
    c, modality = model.config, model.modality
    facts: dict[str, Any] = {
        "domain": next((d for d, name in DOMAINS.items() if name.split("@")[0] == modality.key), modality.key),
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


def _network_name(config: Any, part: str) -> str:
    suffix = "enc" if part == "encoder" else "dec"
    if isinstance(config, MLPConfig) and config.mlp_ratio == 4:
        return f"BottleneckMLP/B_{config.depth}-Wi_{config.width}"
    if isinstance(config, ViTConfig) and config.mlp_ratio == 4 and config.activation == "gelu":
        sizes = {"dim": config.dim, "depth": config.depth, "num_heads": config.num_heads}
        known = {name: VIT_SIZES[size] for name, size in VIT_NAMES.items()}
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
        "conditioning": next(name for name, own in CONDITIONINGS.items() if own == config.conditioning),
        "dec_transformer_dropout": config.dropout,
    }


def _diffusion_facts(config: DiVAEConfig) -> dict[str, Any]:
    noise = config.noise
    schedule = next(name for name, own in SCHEDULES.items() if own == noise.schedule)
    low, high = config.masked_condition or (None, None)
    return {
        "num_train_timesteps": noise.num_timesteps,
        "beta_schedule": f"{schedule}:{noise.shift}" if schedule == "shifted_cosine" else schedule,
        "prediction_type": next(name for name, own in PREDICTIONS.items() if own == noise.prediction),
        "zero_terminal_snr": noise.zero_terminal_snr,
        "clip_sample": config.sampling.clip,
        "thresholding": config.sampling.clip,
        "cls_free_guidance_dropout": config.condition_dropout,
        "masked_cfg": config.masked_condition is not None,
        "masked_cfg_low": low,
        "masked_cfg_high": high,
    }
