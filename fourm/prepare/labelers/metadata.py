"""Facts about a photograph that follow from its pixels and its other labels (4M-21, Bachmann et al. 2024, sec. 3.1)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fourm.modality import Modality
from fourm.prepare.labelers.base import Photo
from fourm.prepare.labelers.canny import opencv
from fourm.prepare.labelers.configs import MetadataConfig
from fourm.prepare.labelers.network_configs import FARTHEST
from fourm.prepare.labelers.normal_from_depth import inverse_of_relative, is_relative

_LEVELS = np.arange(256, dtype=np.float64)
_SENTENCE_END = re.compile(r"[.!?]+(?:\s|$)")
_WALKABLE = {
    "floor", "floor-wood", "pavement", "road", "grass", "dirt", "sand", "gravel", "snow", "platform", "playingfield",
    "railroad", "rug", "stairs", "bridge",
}  # fmt: skip
_OCCLUSION = 0.1  # share of the depth by which neighbours differ where one hides the other
_DIGITS = 6


class Metadata:
    """Photographs to JSON, name of a fact -> number. Facts that cannot be known are left out."""

    def __init__(self, config: MetadataConfig, device: str) -> None:
        self.config = config

    def label(self, photos: Sequence[Photo]) -> list[bytes]:
        return [json.dumps(self._facts(photo)).encode() for photo in photos]

    def _facts(self, photo: Photo) -> dict[str, float | int]:
        c = self.config
        facts: dict[str, float | int] = {
            "original_width": photo.origin.width,
            "original_height": photo.origin.height,
            **of_pixels(photo.image),
        }
        found = {source: photo.label(source) for source in c.wants if source in photo.labels}
        if c.caption in found:
            facts |= of_caption(found[c.caption])
        if c.det in found:
            facts |= of_boxes(found[c.det])
        if c.sam_instance in found:
            facts["n_sam_instances"] = len(found[c.sam_instance][0]["num_points"])
        if c.semseg in found:
            facts |= of_classes(found[c.semseg], photo.modalities[c.semseg])
        if c.normal in found:
            facts["geometric_complexity"] = geometric_complexity(found[c.normal])
        if c.depth in found:
            depth = found[c.depth]
            if is_relative(photo.modalities[c.depth]):  # which begins at 0: shares of it would say nothing
                depth = 1 / inverse_of_relative(depth, FARTHEST)
            facts["occlusion_score"] = occlusion_score(depth)
        return {
            name: value if isinstance(value, int) else round(float(value), _DIGITS) for name, value in facts.items()
        }


def of_pixels(image: NDArray[np.uint8]) -> dict[str, float]:
    """Colourfulness (Hasler and Suesstrunk 2003), brightness and contrast (mean and deviation of the grey values),
    saturation (mean of HSV's) and entropy of the grey values in bits.

    Args:
        image: (H, W, 3) RGB.

    Raises:
        MissingExtraError: if OpenCV is not installed.
    """
    cv2 = opencv("the label 'metadata'")
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    shares = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel().astype(np.float64) / grey.size
    brightness = float(shares @ _LEVELS)
    used = shares[shares > 0]
    red, green, blue = cv2.split(image)
    signed = {"dtype": cv2.CV_16S}  # whole numbers, whose sums are exact in any order
    across = cv2.subtract(red, green, **signed)
    twice_along = cv2.subtract(cv2.subtract(cv2.add(red, green, **signed), blue, **signed), blue, **signed)
    (mean_a, spread_a), (mean_b, spread_b) = (
        (v.item() for v in cv2.meanStdDev(values)) for values in (across, twice_along)
    )
    return {
        "colorfulness": float(np.hypot(spread_a, spread_b / 2) + 0.3 * np.hypot(mean_a, mean_b / 2)),
        "brightness": brightness,
        "contrast": float(np.sqrt(shares @ (_LEVELS - brightness) ** 2)),
        "saturation": float(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))[1]),
        "entropy": float(-(used * np.log2(used)).sum()) + 0.0,
    }


def of_caption(caption: str | Sequence[str]) -> dict[str, int]:
    """Characters, words and sentences of a text; of the first of several."""
    text = caption if isinstance(caption, str) else caption[0]
    words = text.split()
    sentences = len(_SENTENCE_END.findall(text))
    unfinished = bool(words) and not _SENTENCE_END.search(text.rstrip()[-1:])
    return {
        "caption_n_chars": len(text),
        "caption_n_words": len(words),
        "caption_n_sentences": sentences + unfinished,
    }


def of_boxes(instances: Sequence[Mapping[str, Any]], threshold: float = 0.6) -> dict[str, int]:
    """People, instances and kinds of them, among boxes with a score of at least `threshold`."""
    names = [instance["class_name"] for instance in instances if instance.get("score", 1.0) >= threshold]
    return {
        "n_humans": names.count("person"),
        "n_coco_instances": len(names),
        "coco_instance_diversity": len(set(names)),
    }


def of_classes(ids: NDArray[np.int32], modality: Modality) -> dict[str, float | int]:
    """What a label map says: the share of walkable ground, that of countable things, the number of classes.

    Args:
        ids: (H, W) class ids.
        modality: names the classes.
    """
    from fourm.catalog import COCO_THINGS

    void = modality.vocab_size - len(modality.classes)  # classes before the first name
    counts = np.bincount((ids[ids >= void] - void).ravel(), minlength=len(modality.classes))
    shares = counts / max(1, ids.size)
    named = dict(zip(modality.classes, shares.tolist()))
    return {
        "walkability": sum(share for name, share in named.items() if name in _WALKABLE),
        "objectness": sum(share for name, share in named.items() if name in COCO_THINGS),
        "semantic_diversity": int((counts > 0).sum()),
    }


def geometric_complexity(normals: NDArray[np.uint8]) -> float:
    """How much surface normals differ: one minus the length of their mean (the angular variance).

    Args:
        normals: (H, W, 3), 8-bit.
    """
    vectors = normals.reshape(-1, 3).astype(np.float32) / 127.5 - 1
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return max(0.0, float(1 - np.linalg.norm(vectors.mean(0))))  # of equal ones, rounding may exceed 1


def occlusion_score(depth: NDArray[np.float32]) -> float:
    """The share of pixels where one thing hides another: depth jumps by a tenth to the next pixel.

    Args:
        depth: (H, W) in any unit.
    """
    jumps = np.zeros(depth.shape, bool)
    for axis in (0, 1):
        near, far = (depth[1:], depth[:-1]) if axis == 0 else (depth[:, 1:], depth[:, :-1])
        jump = np.abs(near - far) > _OCCLUSION * np.minimum(near, far)
        inner = jumps[1:] if axis == 0 else jumps[:, 1:]
        inner |= jump
    return float(jumps.mean())
