"""Visual sentences as recipes declare them (LVM, Bai et al. 2023, sec. 3), free of torch.

A view is a picture that every sample has: of an image, or of an annotation drawn as one. `NAME:gray` is a view without
its colours, `NAME:masked` one with parts blacked out, `NAME:black` an annotation that is drawn on black instead of on
the image, as DeLVM draws poses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from fourm.data.configs import CropConfig
from fourm.errors import ConfigError
from fourm.ranges import check_range
from fourm.registry import Registry

FILTERS = ("black", "gray", "masked")


@dataclass(frozen=True)
class SentenceConfig:
    """What all kinds of sentences say.

    Args:
        views: pictures of a sample that take part.
        num_images: most pictures of a sentence.
        num_rows: use only the first so many samples; None: all. Of clips, objects and classes, the first that fit in
            whole.
    """

    target: ClassVar[str]
    needs_groups: ClassVar[bool] = False

    views: tuple[str, ...] = ("image",)
    num_images: int = 16
    num_rows: int | None = None

    def __post_init__(self) -> None:
        check_range(self, "num_images", "num_rows", least=1)
        if not self.views:
            raise ConfigError("views is empty; expected names of views, for instance [image, depth]")
        if len(self.views) > self.num_images:
            raise ConfigError(f"a sentence of {self.num_images} images has no room for {len(self.views)} views")
        for view in self.views:
            _, colon, last = view.partition(":")
            if colon and last not in FILTERS:
                raise ConfigError(f"view '{view}' names no filter; known: {', '.join(FILTERS)}")


@dataclass(frozen=True)
class PairsConfig(SentenceConfig):
    """Samples one after another, each with its views: x1, y1, x2, y2, ... (LVM's annotated images).

    Args:
        views, num_images, num_rows: see `SentenceConfig`. Two views are pairs; more are several annotations of an
            image.
        shuffle: draw the order of the views for each sentence; it holds for all samples of the sentence.
        fewest_views: draw for each sentence how many of the views take part, from so many on, and which; None: all.
            A sentence has as many samples as its images allow.
    """

    target: ClassVar[str] = "fourm.data.sentences:pairs"

    views: tuple[str, ...] = ("image", "depth")
    shuffle: bool = False
    fewest_views: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "fewest_views", least=1, most=len(self.views))


@dataclass(frozen=True)
class ColorizationConfig(PairsConfig):
    """An image without its colours, and with them."""

    views: tuple[str, ...] = ("image:gray", "image")


@dataclass(frozen=True)
class InpaintingConfig(PairsConfig):
    """An image with parts blacked out, and whole."""

    views: tuple[str, ...] = ("image:masked", "image")


@dataclass(frozen=True)
class VideoConfig(SentenceConfig):
    """Frames of a clip at even distances; a clip is a group of samples in the natural order of their keys.

    Args:
        views, num_images, num_rows: see `SentenceConfig`. With several views, frames are annotated.
        strides: distances to draw from. A clip that is too short for one takes the largest that it has frames for.
        layout: of several views: `interleaved` f1, a1, f2, a2, ...; `grouped` f1, f2, ..., a1, a2, ...
    """

    target: ClassVar[str] = "fourm.data.sentences:clips"
    needs_groups: ClassVar[bool] = True

    strides: tuple[int, ...] = (10, 20, 30)
    layout: Literal["interleaved", "grouped"] = "interleaved"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "strides", least=1)
        if not self.strides:
            raise ConfigError("strides is empty; expected distances of frames, for instance [10, 20, 30]")


@dataclass(frozen=True)
class RotationConfig(SentenceConfig):
    """An object seen from all sides: views around it are a group in the natural order of their keys, which closes.

    A sentence begins anywhere and goes round in either direction.

    Args:
        views, num_images, num_rows: see `SentenceConfig`.
    """

    target: ClassVar[str] = "fourm.data.sentences:turns"
    needs_groups: ClassVar[bool] = True


@dataclass(frozen=True)
class CategoryConfig(SentenceConfig):
    """Images of one class, a group of samples.

    Args:
        views, num_images, num_rows: see `SentenceConfig`.
    """

    target: ClassVar[str] = "fourm.data.sentences:categories"
    needs_groups: ClassVar[bool] = True


@dataclass(frozen=True)
class SingleConfig(SentenceConfig):
    """One image, the larger part of LVM's data.

    Args:
        views, num_images, num_rows: see `SentenceConfig`. One of the views is drawn for each sample.
    """

    target: ClassVar[str] = "fourm.data.sentences:singles"


SENTENCES = Registry(
    "kind of sentence",
    {
        name: f"fourm.data.sentence_configs:{kind}Config"
        for name, kind in {
            "pairs": "Pairs",
            "colorization": "Colorization",
            "inpainting": "Inpainting",
            "video": "Video",
            "rotation": "Rotation",
            "category": "Category",
            "single": "Single",
        }.items()
    },
)


@dataclass(frozen=True)
class BalanceConfig:
    """How often the sentences of a small task come again, so that large ones do not drown it (DeLVM, Guo et al. 2024).

    The same pictures come in new sentences, or with augmentation in new crops and flips.

    Args:
        share: 1 leaves all tasks as they are, 0 gives all about as many tokens as the largest; between them, the tokens
            of a task are proportional to its own to the power of `share`.
        most: most times that a task comes.
    """

    share: float = 1.0
    most: int = 16

    def __post_init__(self) -> None:
        check_range(self, "share", least=0, most=1)
        check_range(self, "most", least=1)


@dataclass(frozen=True)
class RandomAugmentConfig:
    """A random box, mirrored or not: one draw for all views of a sample (DeLVM's paired augmentation).

    It is drawn anew each time that a task comes, but for the first.

    Args:
        crop: `random_resized`, or `center` to mirror alone.
        hflip: probability of mirroring.
    """

    crop: CropConfig = field(default_factory=lambda: CropConfig("random_resized", scale=(0.4, 1.0)))
    hflip: float = 0.5

    def __post_init__(self) -> None:
        check_range(self, "hflip", least=0, most=1)
        if self.crop.kind not in ("center", "random_resized"):
            raise ConfigError(f"augment.crop.kind is {self.crop.kind}; expected center or random_resized")


@dataclass(frozen=True)
class SixCropsConfig:
    """The squares at the corners and in the middle of the longer sides, one each time that a task comes (DeLVM).

    Args:
        side: pixels of the squares, of the image that is stored.
    """

    side: int = 800

    def __post_init__(self) -> None:
        check_range(self, "side", least=1)


AUGMENTATIONS = Registry(
    "augmentation",
    {
        "random": "fourm.data.sentence_configs:RandomAugmentConfig",
        "six_crops": "fourm.data.sentence_configs:SixCropsConfig",
    },
)


def repeats(tokens: dict[str, int], config: BalanceConfig) -> dict[str, int]:
    """How often each task comes, from the tokens that it has if it comes once.

    Tasks without tokens come once.
    """
    largest = max(tokens.values(), default=0)

    def times(own: int) -> int:
        return 1 if not own else max(1, min(config.most, round((largest / own) ** (1 - config.share))))

    return {name: times(own) for name, own in tokens.items()}


def base_view(view: str) -> tuple[str, str | None]:
    """A view and its filter."""
    name, _, last = view.partition(":")
    return name, last or None
