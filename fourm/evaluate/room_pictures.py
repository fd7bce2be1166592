"""Pictures of rooms: what the model made of an image or a caption, beside the truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fourm.evaluate.configs import EvaluateConfig
from fourm.evaluate.outcome import Cell, PictureTable
from fourm.evaluate.predict import Predictor
from fourm.evaluate.samples import Batch
from fourm.generate.plan import Step
from fourm.modality import Modality
from fourm.report.boxes import boxes
from fourm.report.pictures import draw
from fourm.tokenizers.structured import text_to_boxes

NAMES = {"rgb": "RGB", "depth": "depth", "normal": "normals", "semseg": "segmentation", "canny": "edges"}
CHAIN = ("semseg", "rgb", "depth", "normal", "canny")
"""Order in which a caption becomes pictures: where things are before what they look like; each helps those after it."""


def from_captions(predictor: Predictor, truth: Batch, config: EvaluateConfig) -> dict[str, Any]:
    """All pictures from the true captions of some samples, one after the other, each conditioned on those before it.

    Returns:
        key -> natural units.
    """
    texts = [_first(caption) for caption in truth["caption"]]
    targets = {key: m for key in CHAIN if (m := predictor.find(f"tok_{key}", asked=True)) is not None}
    steps = [
        Step(
            modality.name,
            scheme="roar",
            num_steps=config.num_steps,
            temperature=config.temperature,
            guidance=config.guidance,
            grow_conditioning=modality.is_input,
        )
        for modality in targets.values()
    ]
    given = predictor.give_texts("caption", texts)
    generated = predictor.run(steps, given, predictor.seeds(0, len(texts), "caption to all"), chained=True)
    return {key: predictor.images(modality, generated) for key, modality in targets.items()}


def rgb_to_all(
    raw: Mapping[str, Modality], truth: Batch, answers: Mapping[str, Any], num_bins: int = 1000
) -> PictureTable:
    """One row per image: the image, then each answer beside its truth.

    Args:
        raw: key -> raw modality.
        truth: the samples.
        answers: key -> natural units, or texts.
        num_bins: numbers a box coordinate can take.
    """
    pairs = [key for key in NAMES if key in answers and key in truth and key != "rgb"]
    columns = ["RGB (given)", *(label for key in pairs for label in (NAMES[key], f"true {NAMES[key]}"))]
    cells: list[list[Cell]] = []
    count = len(next(iter(answers.values()), ()))
    for n in range(count):
        image = draw(raw["rgb"], truth["rgb"][n])
        row: list[Cell] = [image]
        for key in pairs:
            row += [draw(raw[key], answers[key][n]), draw(raw[key], truth[key][n])]
        if "caption" in answers:
            row += [answers["caption"][n] or "(nothing)", _first(truth["caption"][n])]
        if "det" in answers:
            found = text_to_boxes(answers["det"][n], num_bins=num_bins)
            row += [boxes(found, image, classes=_classes(raw)), boxes(truth["det"][n], image, classes=_classes(raw))]
        cells.append(row)
    columns += ["caption", "true caption"] if "caption" in answers else []
    columns += ["boxes", "true boxes"] if "det" in answers else []
    note = "Held-out rooms. Only the first column was given to the model; each answer stands beside the truth."
    return PictureTable("rgb_to_all", "From RGB to everything", note, columns, cells)


def caption_to_all(raw: Mapping[str, Modality], truth: Batch, answers: Mapping[str, Any]) -> PictureTable:
    """One row per caption: the caption, what was made of it, and the room it was written for."""
    keys = [key for key in NAMES if key in answers]
    cells: list[list[Cell]] = [
        [
            _first(truth["caption"][n]),
            *(draw(raw[key], answers[key][n]) for key in keys),
            draw(raw["rgb"], truth["rgb"][n]),
        ]
        for n in range(len(truth["caption"]))
    ]
    columns = ["caption (given)", *(NAMES[key] for key in keys), "the room it describes"]
    note = (
        "Only the caption was given. Segmentation comes first, then RGB, then the rest, each conditioned on what came "
        "before. Many rooms fit a caption: the last column is one of them, not the answer to copy."
    )
    return PictureTable("caption_to_all", "From a caption to everything", note, columns, cells)


def _classes(raw: Mapping[str, Modality]) -> tuple[str, ...]:
    return raw["semseg"].classes if "semseg" in raw else ()


def _first(caption: str | list[str]) -> str:
    return caption if isinstance(caption, str) else caption[0]
