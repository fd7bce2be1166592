"""What a published 4M image tokenizer encodes, which its file does not always say."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from fourm import catalog
from fourm.convert import checkpoints
from fourm.convert.ml4m_tokenizer_configs import by_new_names
from fourm.layouts import Continuous, Discrete, Grid
from fourm.modality import Modality
from fourm.tokenizers.configs import AutoencoderConfig
from fourm.tokenizers.network_configs import MLPConfig, ViTConfig

_LOG = logging.getLogger(__name__)
DOMAINS = {
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
    facts = by_new_names(published)
    checkpoint, channels = checkpoints.find(source), _channels(config, state)
    domain = str(facts.get("domain") or "").partition("@")[0]
    name = DOMAINS.get(domain) or (checkpoint.modality if checkpoint else None)
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
