"""Configuration of detectors, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from fourm.errors import ConfigError
from fourm.ranges import check_range

NUM_MAPS = 5
"""Maps that a detector looks at: the four of a pyramid, and the coarsest one at half its size."""


@dataclass(frozen=True)
class MaskRCNNConfig:
    """Mask R-CNN (He et al. 2017), or Faster R-CNN without masks, on a pyramid of maps.

    Args:
        masks: predict masks too.
        anchors: side in pixels of the boxes tried at each place, for each of the five maps, finest first; None: eight
            times the stride.
        ratios: height : width of these boxes.
        box_head: `mlp` (two layers) or `conv` (four convolutions and a layer, as ViTDet has).
        box_dim: width of the box heads.
        mask_dim: channels of the mask head.
        num_proposals_train, num_proposals_test: boxes of each map and image that go on before overlapping ones are
            dropped, and of each image after it.
        rpn_samples, box_samples: boxes of each image that are scored in training.
        box_positives: largest share of examples of a class among `box_samples`.
        score_threshold: detections below are dropped.
        nms_iou: of two overlapping detections of one class the worse one is dropped.
        max_detections: of an image.
    """

    target: ClassVar[str] = "fourm.transfer.detector:DetectorHead"

    masks: bool = True
    anchors: tuple[float, ...] | None = None
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    box_head: Literal["mlp", "conv"] = "conv"
    box_dim: int = 1024
    mask_dim: int = 256
    num_proposals_train: tuple[int, int] = (2000, 1000)
    num_proposals_test: tuple[int, int] = (1000, 1000)
    rpn_samples: int = 256
    box_samples: int = 512
    box_positives: float = 0.25
    score_threshold: float = 0.05
    nms_iou: float = 0.5
    max_detections: int = 100

    def __post_init__(self) -> None:
        check_range(self, "box_dim", "mask_dim", "rpn_samples", "box_samples", "max_detections", least=1)
        check_range(self, "num_proposals_train", "num_proposals_test", least=1)
        check_range(self, "anchors", "ratios", above=0)
        check_range(self, "box_positives", above=0, most=1)
        check_range(self, "score_threshold", "nms_iou", least=0, most=1)
        if self.anchors is not None and len(self.anchors) != NUM_MAPS:
            raise ConfigError(f"anchors has {len(self.anchors)} entries; expected {NUM_MAPS}, one for each map")
        if not self.ratios:
            raise ConfigError("ratios is empty; expected one or more, for instance [0.5, 1, 2]")

    @property
    def loss_names(self) -> tuple[str, ...]:
        """Names of the parts of its loss."""
        return ("objectness", "rpn_box_reg", *self.box_losses, *(("mask",) if self.masks else ()))

    @property
    def box_losses(self) -> tuple[str, ...]:
        """Those of the box heads."""
        return ("classifier", "box_reg")


@dataclass(frozen=True)
class CascadeMaskRCNNConfig(MaskRCNNConfig):
    """The same with stages that refine boxes one after the other (Cascade R-CNN, Cai and Vasconcelos 2018).

    Args:
        ious: overlap with the truth from which a box is an example of its class, stage by stage.
        stage_weights: of the losses of each stage.
        box_weights: scale of the box corrections of each stage, which get smaller.
    """

    ious: tuple[float, ...] = (0.5, 0.6, 0.7)
    stage_weights: tuple[float, ...] = (1.0, 0.5, 0.25)
    box_weights: tuple[float, ...] = (10.0, 20.0, 30.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "ious", above=0, below=1)
        check_range(self, "stage_weights", "box_weights", above=0)
        if not len(self.ious) == len(self.stage_weights) == len(self.box_weights) or not self.ious:
            raise ConfigError(
                f"ious, stage_weights and box_weights have {len(self.ious)}, {len(self.stage_weights)} and "
                f"{len(self.box_weights)} entries; every stage needs one of each"
            )

    @property
    def box_losses(self) -> tuple[str, ...]:
        """Those of the box heads, stage by stage."""
        return tuple(f"{part}_{n}" for n in range(len(self.ious)) for part in ("classifier", "box_reg"))
