"""What an evaluation of retrieval and of classes told in words measures, free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fourm.errors import ConfigError
from fourm.ranges import check_range


@dataclass
class ZeroShotConfig:
    """Tell the classes of images by texts alone (CLIP, Radford et al. 2021, sec. 3.1).

    Args:
        classes: names, in the order of the labels.
        prompts: texts about a class, `{}` standing for its name. The vectors of a class's texts are averaged.
        source: folder of the labels in the data.
        image, text: modalities of the model; None: its only ones.
    """

    classes: list[str]
    prompts: list[str] = field(default_factory=lambda: ["a photo of a {}"])
    source: str = "label"
    image: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or not self.prompts:
            raise ConfigError("zero_shot needs at least two classes and one prompt")
        bare = [prompt for prompt in self.prompts if "{}" not in prompt]
        if bare:
            raise ConfigError(f"zero_shot.prompts: '{bare[0]}' has no {{}}, where the name of a class is put")


@dataclass
class RetrievalEvaluation:
    """Find what belongs together by the vectors of a contrastive model, in both directions.

    Args:
        kind: `retrieval`.
        model: model folder, output folder of a pretraining run, or repository on the Hub.
        data: held-out data set.
        output: folder for `metrics.json`, `report.html` and `pictures/`.
        pairs: modalities of the model that are compared; empty: its first one with each of the others.
        counts: how many of the nearest are looked at.
        zero_shot: measure it too.
        num_samples: the first so many samples; None: all.
        batch_size: samples at a time.
        device: auto, cuda, mps or cpu.
        num_pictures: rows of the grid in the report.
    """

    kind: Literal["retrieval"]
    model: Path
    data: str
    output: Path = Path("outputs/retrieval")
    pairs: list[tuple[str, str]] = field(default_factory=list)
    counts: list[int] = field(default_factory=lambda: [1, 5, 10])
    zero_shot: ZeroShotConfig | None = None
    num_samples: int | None = None
    batch_size: int = 64
    device: str = "auto"
    num_pictures: int = 8

    def __post_init__(self) -> None:
        check_range(self, "num_samples", "batch_size", "counts", least=1)
        check_range(self, "num_pictures", least=0)
