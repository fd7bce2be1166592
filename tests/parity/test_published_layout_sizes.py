"""The exported layout of the published models has the published number of parameters and of keys."""

from __future__ import annotations

import pytest
import torch

from fourm import config as configs
from fourm.convert import ml4m
from fourm.models.configs import MultimodalConfig
from fourm.models.multimodal import Multimodal

GRIDS = [f"tok_{name}" for name in ("rgb", "depth", "normal", "semseg", "clip")]
AT_224, AT_448 = [f"{name}@224" for name in GRIDS], [f"{name}@448" for name in GRIDS]
SETS: dict[str, tuple[list[str], list[str]]] = {
    "4M-7": (["caption", "det", "rgb@224", *AT_224], ["caption", "det", *AT_224]),
    "4M-7-SR": (["caption", "det", "rgb@224", "rgb@448", *AT_224, *AT_448], AT_448),
}
_WORDS = ["caption", "det", "metadata", "human_poses", "color_palette", "sam_instance"]
_MORE = [f"tok_{name}@224" for name in ("canny_edge", "sam_edge", "dinov2", "imagebind")]
_OUT = [*_WORDS, *AT_224, *_MORE, "tok_dinov2_global", "tok_imagebind_global"]
SETS["4M-21"] = ([*_OUT, "rgb@224", "t5_caption"], _OUT)

PUBLISHED = [
    ("4M-7", "base", 441.5, 359),
    ("4M-21", "base", 834.4, 433),
    ("4M-7", "large", 1029.3, 659),
    ("4M-21", "large", 1553.2, 733),
    ("4M-7-SR", "large", 953.3, 669),
    ("4M-7", "xlarge", 3470, 659),
    ("4M-21", "xlarge", 4518, 733),
]


@pytest.mark.parametrize(("modalities", "size", "millions", "num_keys"), PUBLISHED)
def test_numbers_of_parameters_and_keys(modalities: str, size: str, millions: float, num_keys: int) -> None:
    inputs, outputs = SETS[modalities]
    config = configs.build(MultimodalConfig, {"preset": size, "tie_heads": False}, where="test")
    with torch.device("meta"):
        model = Multimodal(ml4m.model_modalities({"domains_in": inputs, "domains_out": outputs}), config)
    rules = ml4m.rules(model)
    learned = sum(torch.Size(rule.shape).numel() for rule in rules if rule.constant is None)
    assert len({rule.key for rule in rules}) == len(rules) == num_keys
    assert learned / 1e6 == pytest.approx(millions, abs=0.05 if millions < 3000 else 0.5)
