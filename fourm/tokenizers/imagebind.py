"""The vision tower of ImageBind-H/14 (Girdhar et al. 2023) as a teacher, with the authors' weights."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fourm.errors import CheckpointError
from fourm.nn.pretrained import frozen, read_tensors
from fourm.tokenizers.teacher_configs import ImageBindConfig
from fourm.tokenizers.teachers import KEY, VisionTransformerTeacher

_WEIGHTS = (
    "get imagebind_huge.pth from its authors (https://github.com/facebookresearch/ImageBind) if their licence, "
    f"CC-BY-NC-SA 4.0, allows your use, and set {KEY}.weights to it"
)
_PATCH_SIZE = 14
_STEM = "modality_preprocessors.vision."
_TRUNK = "modality_trunks.vision."
_HEAD = "modality_heads.vision."
_OUTSIDE = {  # authors' name -> timm's, blocks apart
    f"{_STEM}cls_token": "cls_token",
    f"{_STEM}pos_embedding_helper.pos_embed": "pos_embed",
    f"{_STEM}rgbt_stem.proj.1.weight": "patch_embed.proj.weight",
    f"{_TRUNK}pre_transformer_layer.0.weight": "norm_pre.weight",
    f"{_TRUNK}pre_transformer_layer.0.bias": "norm_pre.bias",
    f"{_HEAD}0.weight": "norm.weight",
    f"{_HEAD}0.bias": "norm.bias",
    f"{_HEAD}2.weight": "head.weight",
}
_INSIDE = {
    "attn.in_proj_": "attn.qkv.",
    "attn.out_proj.": "attn.proj.",
    "norm_1.": "norm1.",
    "norm_2.": "norm2.",
    "mlp.fc1.": "mlp.fc1.",
    "mlp.fc2.": "mlp.fc2.",
}


class ImageBindTeacher(VisionTransformerTeacher):
    """The vision tower. `output: blocks` is what 4M-21 tokenizes, `projection` ImageBind's own embedding, unscaled.

    Args:
        config: sizes, and where the weights are.

    Raises:
        CheckpointError: if the weights are missing, or are not those of this tower.
    """

    def __init__(self, config: ImageBindConfig) -> None:
        if config.pretrained and config.weights is None:
            raise CheckpointError(f"the weights of ImageBind are not fetched: {_WEIGHTS}")
        model = frozen(lambda: _tower(config), f"{KEY} imagebind", f"{KEY}.weights: {_WEIGHTS}")
        if config.weights is not None:
            model.load_state_dict(tower_state(read_tensors(config.weights, f"{KEY}.weights"), model))
        super().__init__(config, model, "imagebind")


def tower_state(published: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The state of timm's vision transformer from the authors' file.

    Args:
        published: all of ImageBind's weights, or those of its vision tower.
        model: the tower.

    Raises:
        CheckpointError: if a weight is missing or of another shape, or a weight of vision has no place here.
    """
    expected = model.state_dict()
    names = {theirs: _our_name(theirs) for theirs in published if ".vision." in theirs}
    unknown = [theirs for theirs, ours in names.items() if ours not in expected]
    missing = sorted(expected.keys() - set(names.values()))
    if unknown or missing:
        raise CheckpointError(
            f"{KEY}.weights is not ImageBind's vision tower of this size: "
            + "; ".join(
                f"{len(keys)} weights {what}, for instance {keys[0]}"
                for keys, what in ((missing, "are missing"), (unknown, "are not known"))
                if keys
            )
            + f". To repair it, {_WEIGHTS}"
        )
    state = {ours: published[theirs] for theirs, ours in names.items() if ours is not None}
    # An image goes in as a film of two equal frames: the sum over time of the kernel gives the same.
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].sum(2)
    for name, value in state.items():
        if value.shape != expected[name].shape:
            raise CheckpointError(
                f"{KEY}.weights: {name} has shape {tuple(value.shape)}; expected {tuple(expected[name].shape)}"
            )
    return state


def _our_name(theirs: str) -> str | None:
    if theirs in _OUTSIDE:
        return _OUTSIDE[theirs]
    number, _, rest = theirs.removeprefix(f"{_TRUNK}blocks.").partition(".")
    for prefix, ours in _INSIDE.items():
        if number.isdigit() and rest.startswith(prefix):
            return f"blocks.{number}.{ours}{rest.removeprefix(prefix)}"
    return None


def _tower(config: ImageBindConfig) -> Any:
    from timm.models.vision_transformer import VisionTransformer

    model: Any = VisionTransformer(
        img_size=config.image_size,
        patch_size=_PATCH_SIZE,
        embed_dim=config.dim,
        depth=config.depth,
        num_heads=config.num_heads,
        num_classes=config.projection_dim,
        pre_norm=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        dynamic_img_size=True,
    )
    model.head = nn.Linear(config.dim, config.projection_dim, bias=False, device=model.cls_token.device)
    torch.nn.init.xavier_uniform_(model.head.weight)
    return model
