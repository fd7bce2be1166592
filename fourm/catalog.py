"""The table of built-in modalities. One entry adds a modality; recipes may add more inline, in the same schema.

4M-7 entries: 4M (Mizrahi et al. 2023), with the vocabularies and sizes of the published checkpoints.
`@64`: the quick start's rendered rooms. `@28`: Fashion-MNIST.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fourm.errors import ConfigError, did_you_mean
from fourm.layouts import Continuous, Discrete, Grid, Sequence
from fourm.modality import Direction, Modality, ModalitySet, Normalization, from_dict

ROOM_CLASSES = (
    "floor", "wall", "ceiling", "window", "door", "picture", "rug", "bed",
    "sofa", "table", "chair", "wardrobe", "shelf", "desk", "lamp", "plant",
)  # fmt: skip
FASHION_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip
COCO_THINGS = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis",
    "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich",
    "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed",
    "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven",
    "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier",
    "toothbrush",
)  # fmt: skip
COCO_STUFF = (
    "banner", "blanket", "bridge", "cardboard", "counter", "curtain", "door", "floor-wood", "flower", "fruit",
    "gravel", "house", "light", "mirror", "net", "pillow", "platform", "playingfield", "railroad", "river", "road",
    "roof", "sand", "sea", "shelf", "snow", "stairs", "tent", "towel", "wall-brick", "wall-stone", "wall-tile",
    "wall-wood", "water", "window-blind", "window", "tree", "fence", "ceiling", "sky", "cabinet", "table", "floor",
    "pavement", "mountain", "grass", "dirt", "paper", "food", "building", "rock", "wall", "rug",
)  # fmt: skip
"""The classes of COCO's panoptic segmentation (Lin et al. 2014; Caesar et al. 2018), in the order of their ids."""
MAX_DEPTH_METRES = 16.0


def _image(
    name: str,
    size: int,
    patch: int,
    decode: str,
    normalization: Normalization,
    *,
    channels: int = 3,
    value_range: tuple[float, float] = (0.0, 1.0),
    direction: Direction = "input",
) -> Modality:
    """An image-like modality: read as patches of pixels, or encoded by a tokenizer."""
    return Modality(
        name,
        Grid(size // patch, size // patch, patch),
        Continuous(channels * patch * patch),
        source=name.split("@")[0],
        decode=decode,
        direction=direction,
        channels=channels,
        value_range=value_range,
        normalization=normalization,
    )


def _features(name: str, size: int, patch: int, dim: int, teacher: str) -> Modality:
    """The vectors that a frozen network makes of colour images: one per patch, or one alone where a patch is all."""
    return Modality(
        name, Grid(size // patch, size // patch, patch), Continuous(dim), source="rgb", decode="image",
        direction="input", teacher=teacher, channels=3, value_range=(0.0, 1.0), normalization="imagenet",
    )  # fmt: skip


def _labels(
    name: str, size: int, classes: tuple[str, ...], *, num_classes: int | None = None, decode: str = "labels"
) -> Modality:
    """A map of class ids, one per pixel; `labels_void_first` moves the ids up by one and makes void class 0."""
    return Modality(
        name,
        Grid(size, size, 1),
        Discrete(num_classes or len(classes)),
        source="semseg",
        decode=decode,
        direction="input",
        classes=classes,
    )


def _tokens(name: str, size: int, patch: int, vocab_size: int, tokenizer: str) -> Modality:
    """The token ids of an image-like modality."""
    return Modality(
        name,
        Grid(size // patch, size // patch, patch),
        Discrete(vocab_size),
        source=name.split("@")[0],
        decode="tokens",
        tokenizer=tokenizer,
    )


def _vector(name: str, dim: int) -> Modality:
    """One feature vector per sample, made beforehand by another network: npy files."""
    return Modality(name, Grid(1, 1), Continuous(dim), source=name, decode="features", direction="input", channels=dim)


def _text(name: str, max_tokens: int, *, vocab_size: int = 30_000, decode: str = "text", **facts: Any) -> Modality:
    """Text, or facts written as text, in WordPiece ids."""
    return Modality(
        name,
        Sequence(max_tokens),
        Discrete(vocab_size),
        source=name.split("@")[0],
        decode=decode,
        tokenizer="text",
        **facts,
    )


def _four_m_7(size: int) -> list[Modality]:
    """The image-like modalities of 4M-7 at `size` pixels, patch 16 (4M, sec. 3.1 and the published checkpoints)."""
    return [
        _image(f"rgb@{size}", size, 16, "image", "imagenet"),
        _tokens(f"tok_rgb@{size}", size, 16, 16_384, f"rgb_half@{size}"),
        _tokens(f"tok_depth@{size}", size, 16, 8_192, f"depth@{size}"),
        _tokens(f"tok_normal@{size}", size, 16, 8_192, f"normal@{size}"),
        _tokens(f"tok_semseg@{size}", size, 16, 4_096, f"semseg_coco@{size}"),
        _tokens(f"tok_clip@{size}", size, 16, 8_192, f"clip@{size}"),
    ]


def _four_m_raw(size: int) -> list[Modality]:
    """What the published tokenizers encode. RGB goes in with mean and deviation .5, not with ImageNet's."""
    return [
        Modality(
            f"rgb_half@{size}", Grid(size // 16, size // 16, 16), Continuous(768), source="rgb", decode="image",
            direction="input", channels=3, value_range=(0.0, 1.0), normalization="half",
        ),
        _image(f"depth@{size}", size, 16, "depth16", "standardize", channels=1),
        _image(f"normal@{size}", size, 16, "normal", "half", value_range=(-1.0, 1.0)),
        _labels(
            f"semseg_coco@{size}", size, COCO_THINGS + COCO_STUFF, num_classes=134, decode="labels_void_first"
        ),
        _image(f"canny@{size}", size, 16, "gray", "half", channels=1),
        _features(f"clip@{size}", size, 16, 512, "clip_b16"),
    ]  # fmt: skip


def _four_m_21(size: int) -> list[Modality]:
    """What 4M-21 adds to 4M-7 (Bachmann et al. 2024, sec. 3.1)."""
    return [
        Modality(
            "t5_caption", Sequence(77), Continuous(4096), source="t5_caption", decode="vectors", direction="input"
        ),
        _text("metadata", 40, decode="metadata", unit="chunk"),
        _text("human_poses", 275, decode="poses"),
        _text("color_palette", 23, decode="palette"),
        _text("sam_instance", 290, decode="sam"),
        _tokens(f"tok_canny_edge@{size}", size, 16, 8_192, f"canny@{size}"),
        _tokens(f"tok_sam_edge@{size}", size, 16, 8_192, f"canny@{size}"),
        _tokens(f"tok_dinov2@{size}", size, 14, 8_192, f"dinov2@{size}"),
        _tokens(f"tok_imagebind@{size}", size, 14, 8_192, f"imagebind@{size}"),
        _vector("dinov2_global", 768),
        _vector("imagebind_global", 1280),
        _vector("smpl_pose", 207),  # whose eight tokens stand in the text of human_poses
        _global_tokens("tok_dinov2_global", f"dinov2_global@{size}"),
        _global_tokens("tok_imagebind_global", f"imagebind_global@{size}"),
        _features(f"dinov2@{size}", size, 14, 768, "dinov2_b14"),
        _features(f"imagebind@{size}", size, 14, 1280, "imagebind_h14"),
        _features(f"dinov2_global@{size}", size, size, 768, "dinov2_b14_global"),
        _features(f"imagebind_global@{size}", size, size, 1280, "imagebind_h14_global"),
        _image("sam_mask", 64, 16, "gray", "mask", channels=1),  # one instance, cut out, for the text of sam_instance
    ]


def _global_tokens(name: str, tokenizer: str) -> Modality:
    """Sixteen codes of one feature vector: their order is fixed, so their positions are learned."""
    return Modality(
        name, Grid(4, 4, 56), Discrete(8_192), source=name, decode="tokens", tokenizer=tokenizer, positions="learned"
    )


_LVM = [
    # LVM's tokenizer reads colours in [0, 1] as they are (Bai et al. 2023, sec. 4.1).
    _image("rgb_unit@256", 256, 16, "image", "none"),
    _tokens("tok_rgb_unit@256", 256, 16, 8_192, "rgb_unit@256"),
]

_ROOMS = [
    _image("rgb@64", 64, 8, "image", "half"),
    _image("depth@64", 64, 8, "depth16", "log", channels=1, value_range=(0.25, MAX_DEPTH_METRES)),
    _image("normal@64", 64, 8, "normal", "half", value_range=(-1.0, 1.0)),
    _labels("semseg@64", 64, ROOM_CLASSES),
    _image("canny@64", 64, 8, "gray", "half", channels=1),
    _tokens("tok_rgb@64", 64, 8, 512, "rgb@64"),
    _tokens("tok_depth@64", 64, 8, 512, "depth@64"),
    _tokens("tok_normal@64", 64, 8, 512, "normal@64"),
    _tokens("tok_semseg@64", 64, 8, 512, "semseg@64"),
    _tokens("tok_canny@64", 64, 8, 512, "canny@64"),
]

_FASHION = [
    _image("image@28", 28, 4, "gray", "half", channels=1),
    _image("silhouette@28", 28, 4, "gray", "half", channels=1),
    _image("edges@28", 28, 4, "gray", "half", channels=1),
    _tokens("tok_image@28", 28, 4, 256, "image@28"),
    _tokens("tok_silhouette@28", 28, 4, 256, "silhouette@28"),
    _tokens("tok_edges@28", 28, 4, 256, "edges@28"),
]

MODALITIES: dict[str, Modality] = {
    modality.name: modality
    for modality in [
        *_four_m_7(224),
        *_four_m_raw(224),
        *_four_m_7(448),
        *_four_m_raw(448),
        _text("caption", 256),
        _text("det", 256, decode="boxes"),
        *_four_m_21(224),
        *_LVM,
        *_ROOMS,
        *_FASHION,
    ]
}

_ALIASES = {alias: m.name for m in MODALITIES.values() for alias in m.aliases}


def get(name: str) -> Modality:
    """The built-in modality called `name`.

    Raises:
        ConfigError: if there is none; the message names the closest.
    """
    name = _ALIASES.get(name, name)
    if name not in MODALITIES:
        raise ConfigError(f"modality '{name}' is not in the catalog.{did_you_mean(name, MODALITIES)}")
    return MODALITIES[name]


def resolve(spec: Any) -> ModalitySet:
    """Modalities as a recipe lists them.

    Args:
        spec: a name from the catalog, several of them, or a mapping name -> inline entry. An entry holds the fields of
            `Modality`; `base: NAME` takes the rest from the catalog, and so does an entry whose own name is there.
            None leaves an entry out.

    Raises:
        ConfigError: for unknown names or fields, or another form.
    """
    if isinstance(spec, Mapping):
        return ModalitySet(_inline(str(name), facts) for name, facts in spec.items() if facts is not None)
    names = [spec] if isinstance(spec, str) else spec
    expected = "expected names of the catalog, or a mapping from names to facts"
    if not isinstance(names, Iterable):
        raise ConfigError(f"modalities is {spec!r}; {expected}")
    for name in (names := list(names)):
        if not isinstance(name, str):
            raise ConfigError(f"modalities holds {name!r}; {expected}")
    return ModalitySet(get(name) for name in names)


def _inline(name: str, facts: Any) -> Modality:
    if isinstance(facts, Mapping):
        base = facts.get("base", name if not facts or name in MODALITIES or name in _ALIASES else None)
        own = {key: value for key, value in facts.items() if key != "base"}
        return from_dict(name, own, get(str(base)) if base else None)
    return from_dict(name, facts)
