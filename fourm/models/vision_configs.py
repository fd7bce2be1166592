"""Configuration of feeders that read whole images, and of towers that are models of ours; free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from fourm import config as configs
from fourm.config import slot
from fourm.errors import ConfigError
from fourm.models.configs import MODELS
from fourm.nn.vision_configs import VisionConfig


@dataclass
class VisionFeederConfig(VisionConfig):
    """A tower and a pooler make the tokens of an image modality.

    Args:
        tower, pooler: see `VisionConfig`.
        projection: a matrix brings the vectors to the width of the model (Emu2's `project_up`); else content.dim is
            that width.
        from_tokenizer: its weights are those of the tokenizer that the recipe names for its modality, a trained
            `detokenizer` (VL-GPT).
    """

    feeder: ClassVar[str] = "fourm.models.vision:VisionFeeder"
    reads_slots: ClassVar[bool] = True

    projection: bool = False
    from_tokenizer: bool = False


@dataclass
class ModelTowerConfig:
    """The trunk of a model of ours: an encoder of 4M, or an AIM. It reads patches of an image, or, as a tower of a
    contrastive model, any modality.

    Args:
        path: folder of a trained model, whose weights are taken; what is not given here is found in it. None: random
            weights.
        modality: the modality of that model that is read; None: its only image.
        model: config of the model, for which a recipe can be checked before the model is there.
        image: facts of that modality; empty: those of the model, or else of the catalog.
        layer: whose outputs are read: -1 is the last block; None: the last one, normalised.
        causal: each token sees itself and those before it, as CLIP's text encoder reads; else all see all.
    """

    target: ClassVar[str] = "fourm.models.towers:ModelTower"

    path: Path | None = None
    modality: str | None = None
    model: Any = slot(MODELS, optional=True)
    image: dict[str, Any] = field(default_factory=dict)
    layer: int | None = None
    causal: bool = False

    def __post_init__(self) -> None:
        if self.layer is not None and self.layer >= 0:
            raise ConfigError(f"layer is {self.layer}; blocks are counted from the last one, -1")

    @staticmethod
    def expand(values: Mapping[str, Any]) -> dict[str, Any]:
        """Fill in the model of `path`, if it is there already; a saved config names no other place for its sizes."""
        from fourm.models.folder import read_config

        own = dict(values)
        folder = Path(str(own["path"])) if own.get("path") else None
        known = own.get("model") is not None and own.get("image")
        if folder is None or known or not (folder / "config.json").is_file():
            return own
        facts = read_config(folder)
        name = own.get("modality") or _only_image(facts.modalities, folder)
        if name not in facts.modalities:
            raise ConfigError(f"modality is '{name}'; the model in {folder} has {', '.join(facts.modalities)}")
        found = {"image": facts.modalities[name], "model": configs.to_dict(facts)["model"]}
        return {**own, "modality": name, **{key: own.get(key) or value for key, value in found.items()}}


def _only_image(modalities: Mapping[str, Any], folder: Path) -> str:
    """The image modality of a model that has one."""
    found = [name for name, facts in modalities.items() if facts["layout"]["kind"] == "grid" and facts.get("channels")]
    found = [name for name in found if modalities[name]["content"]["kind"] == "continuous"]
    if len(found) != 1:
        raise ConfigError(
            f"the model in {folder} reads {', '.join(found) or 'no images'}: name one of its modalities of pixels "
            "under modality"
        )
    return found[0]
