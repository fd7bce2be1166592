"""Pictures of fashion photographs: what the model made of an image, a caption or half an image, beside the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from fourm.catalog import FASHION_CLASSES
from fourm.evaluate.configs import EvaluateConfig
from fourm.evaluate.outcome import Cell, PictureTable
from fourm.evaluate.predict import Predictor, greedy, one_step
from fourm.evaluate.samples import Batch
from fourm.modality import Modality
from fourm.report.pictures import draw

_PER_CLASS = 8


def image_to_all(
    predictor: Predictor, raw: Mapping[str, Modality], batch: Batch, wholes: Tensor, config: EvaluateConfig
) -> PictureTable:
    """One row per photograph: its caption, outlines, and the whole made from its upper half.

    Args:
        predictor: the model.
        raw: key -> raw modality.
        batch: the truth.
        wholes: images completed from their upper half.
        config: how answers are decoded.
    """
    caption = predictor.need("caption", asked=True)
    keys = [key for key in ("silhouette", "edges") if key in batch]
    targets = {key: m for key in keys if (m := predictor.find(f"tok_{key}", asked=True)) is not None}
    steps = [greedy(caption), *map(one_step, targets.values())]
    count = len(batch["image"])
    given = predictor.give_image("image", batch["image"])
    generated = predictor.run(steps, given, predictor.seeds(0, count, "pictures"))
    texts = predictor.texts(caption, generated)
    answers = {key: predictor.images(m, generated, config.decoding) for key, m in targets.items()}
    columns = ["image (given)", "caption", "true caption"]
    columns += [label for key in targets for label in (key, f"true {key}")] + ["whole from its upper half"]
    cells: list[list[Cell]] = []
    for n in range(count):
        true = batch["caption"][n]
        row: list[Cell] = [draw(raw["image"], batch["image"][n]), texts[n] or "(nothing)"]
        row.append(true if isinstance(true, str) else true[0])
        for key, images in answers.items():
            row += [draw(raw[key], images[n]), draw(raw[key], batch[key][n])]
        cells.append([*row, draw(raw["image"], wholes[n])])
    note = (
        "Test photographs. Captions and outlines were made from the image alone, the last column from its upper half."
    )
    return PictureTable("image_to_all", "From an image to everything", note, columns, cells)


def caption_to_image(
    raw: Mapping[str, Modality], texts: Sequence[str], labels: Sequence[int], images: Tensor
) -> PictureTable:
    """One row per class: a caption, and images made from captions of that class.

    Args:
        raw: key -> raw modality.
        texts: captions.
        labels: their classes.
        images: (N, 1, H, W) made from them.
    """
    cells: list[list[Cell]] = []
    for label in sorted(set(labels)):
        chosen = [n for n, other in enumerate(labels) if other == label][:_PER_CLASS]
        cells.append([texts[chosen[0]], *(draw(raw["image"], images[n]) for n in chosen)])
    columns = ["caption", *(f"image {n + 1}" for n in range(max(map(len, cells), default=1) - 1))]
    note = "Each image was made from a caption of its class and nothing else, with its own draws."
    return PictureTable("caption_to_image", "From a caption to an image", note, columns, cells)


def first_of_each_class(labels: Sequence[int], count: int) -> list[int]:
    """Numbers of `count` samples that go through the classes in turn."""
    places = [[n for n, label in enumerate(labels) if label == c] for c in range(len(FASHION_CLASSES))]
    turns = max(map(len, places), default=0)
    ordered = [place[turn] for turn in range(turns) for place in places if turn < len(place)]
    return ordered[:count]
