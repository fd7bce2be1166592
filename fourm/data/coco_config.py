"""What a recipe says about images with boxes and masks, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fourm.errors import ConfigError
from fourm.ranges import check_range


@dataclass(frozen=True)
class CocoDataConfig:
    """One data set in COCO's form.

    Args:
        images: folder that the file names of the annotations are below.
        annotations: the JSON file.
        invalid: what becomes of an annotation that cannot be right, such as a box outside its image: `error` ends the
            job before training and names it, `skip` leaves it out.
        keep_empty: keep images without any annotation.
        max_samples: use only the first so many images.
    """

    images: str
    annotations: str
    invalid: Literal["error", "skip"] = "error"
    keep_empty: bool = True
    max_samples: int | None = None

    def __post_init__(self) -> None:
        check_range(self, "max_samples", least=1)


@dataclass(frozen=True)
class ScaleJitterConfig:
    """Large-scale jitter (Ghiasi et al. 2021, as ViTDet, Li et al. 2022, uses it).

    Args:
        scale: smallest and largest size of the image, as a share of the picture it is put into.
        hflip: probability of mirroring left and right.
        min_visible: instances of which less than this share is left after the crop are dropped.
    """

    scale: tuple[float, float] = (0.1, 2.0)
    hflip: float = 0.5
    min_visible: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(f"scale is {list(self.scale)}; expected two numbers with 0 < first <= second")
        check_range(self, "hflip", "min_visible", least=0, most=1)
