"""Rendered rooms: RGB to depth, normals, segmentation, edges, boxes and captions, beside truth and baselines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fourm import catalog
from fourm.evaluate import room_pictures
from fourm.evaluate.configs import Decoding, EvaluateConfig
from fourm.evaluate.decoders import compare_decoders
from fourm.evaluate.outcome import Metrics, Outcome
from fourm.evaluate.predict import Predictor, greedy, one_step
from fourm.evaluate.references import STRUCTURE, References, box_names, compute, score_of, visible_names
from fourm.evaluate.samples import Batch, Samples
from fourm.evaluate.scores import NameScore, Score
from fourm.modality import Modality
from fourm.words import names_in

DENSE = ("depth", "normal", "semseg", "canny")


def evaluate_rooms(config: EvaluateConfig, predictor: Predictor) -> Outcome:
    """Measure a model on held-out rooms.

    Only what the model knows is measured.

    Raises:
        ConfigError: if it cannot read RGB.
        DataError: if data is missing or damaged.
    """
    raw = raw_modalities(predictor)
    test = Samples(config.test, raw, config.num_samples)
    train = Samples(config.train, raw, config.num_train)
    references = compute(train, named_share=config.named_share)
    classes = raw["semseg"].classes if "semseg" in raw else catalog.ROOM_CLASSES
    scores = RoomScores(config, references, predictor, classes)
    shown = min(config.num_pictures, len(test))
    first: dict[str, Any] = {}
    for start, batch in _progress(test, config.batch_size):
        answers = from_rgb(predictor, batch["rgb"], start, config)
        scores.add(batch, answers)
        if len(next(iter(first.values()), ())) < shown:
            first = {name: _join(first.get(name), answer, shown) for name, answer in answers.items()}
    truth = test.read(range(shown))
    tables = [room_pictures.rgb_to_all(raw, truth, first, getattr(predictor.text, "num_coordinates", 1000))]
    if predictor.find("caption", given=True) is not None:
        tables.append(room_pictures.caption_to_all(raw, truth, room_pictures.from_captions(predictor, truth, config)))
    facts = {
        "held-out rooms": str(len(test)),
        "rooms for the baselines": str(len(train)),
        "ridge strengths": ", ".join(f"{name} {value:g}" for name, value in references.strengths.items()),
    }
    found = scores.metrics()
    if config.decoders:
        more, table = compare_decoders(
            config.decoders, config.test, len(test), predictor.device, num_pictures=config.num_pictures
        )
        found |= more
        tables.append(table)
    return Outcome(found, tables, facts, tuple(classes))


def raw_modalities(predictor: Predictor) -> dict[str, Modality]:
    """Key -> what is read from disk for it; `rgb` comes first.

    Raises:
        ConfigError: if the model does not read RGB.
    """
    rgb = predictor.raw("rgb") or predictor.need("rgb", given=True)
    found = {"rgb": rgb} | {key: raw for key in DENSE if (raw := predictor.raw(key)) is not None}
    texts = {key: m for key in ("caption", "det") if (m := predictor.find(key)) is not None}
    return found | texts


def from_rgb(predictor: Predictor, rgb: Tensor, first: int, config: EvaluateConfig) -> dict[str, Any]:
    """Everything the model says about images.

    Args:
        predictor: the model.
        rgb: (B, 3, H, W) in [0, 1].
        first: number of the first image, which keys its draws.
        config: how answers are decoded.

    Returns:
        dense task -> natural units on the host; `caption` and `det` -> texts. Where these were written with
        `config.text_context` in view, `direct_caption` and `direct_det` were written without.
    """
    given = predictor.give_image("rgb", rgb)
    dense = {key: m for key in DENSE if (m := predictor.find(f"tok_{key}", asked=True)) is not None}
    texts = {key: m for key in ("caption", "det") if (m := predictor.find(key, asked=True)) is not None}
    steps = [*map(one_step, dense.values()), *map(greedy, texts.values())]
    seeds = predictor.seeds(first, len(rgb), "rgb to all")
    generated = predictor.run(steps, given, seeds)
    answers: dict[str, Any] = {}
    for key, modality in dense.items():
        decoding: Decoding = config.label_decoding if key == "semseg" else config.decoding
        answers[key] = predictor.images(modality, generated, decoding)
    answers |= {key: predictor.texts(modality, generated) for key, modality in texts.items()}
    seen = [m for key in config.text_context if (m := predictor.find(f"tok_{key}", given=True, asked=True)) is not None]
    if not seen or not texts:
        return answers
    chained = predictor.run(list(map(greedy, texts.values())), given | predictor.give_generated(seen, generated), seeds)
    direct = {f"direct_{key}": answers[key] for key in texts}
    return answers | direct | {key: predictor.texts(modality, chained) for key, modality in texts.items()}


class RoomScores:
    """Scores of the model and of the baselines on the same images."""

    def __init__(
        self, config: EvaluateConfig, references: References, predictor: Predictor, classes: tuple[str, ...]
    ) -> None:
        self.config, self.references, self.classes = config, references, classes
        self.objects = tuple(name for name in classes if name not in STRUCTURE)
        num_classes = references.num_classes
        self.dense: dict[str, dict[str, Score]] = {}
        for task in references.images:
            if predictor.find(f"tok_{task}", asked=True) is None:
                continue
            prefixes = ["", "baseline_", *(["linear_"] if task in references.linear else [])]
            scores = [(prefix, *score_of(task, num_classes)) for prefix in prefixes]
            self.dense[task] = {prefix + name: score for prefix, name, score in scores}
        self.named: dict[str, dict[str, NameScore]] = {}

    def add(self, batch: Batch, answers: dict[str, Any]) -> None:
        """Compare the answers to one batch with the truth."""
        count = len(batch["rgb"])
        for task, scores in self.dense.items():
            for name, score in scores.items():
                if name.startswith("baseline_"):
                    predicted = self.references.constant(task, count)
                elif name.startswith("linear_"):
                    predicted = self.references.from_thumbnail(task, batch["rgb"])
                else:
                    predicted = answers[task]
                score.add(predicted, batch[task])
        if "caption" in answers and "semseg" in batch:
            true = visible_names(batch["semseg"], self.classes, self.config.named_share)
            self._add_names("caption", answers, true, self.references.objects)
        if "det" in answers:
            self._add_names("det", answers, box_names(batch["det"]), self.references.boxes)

    def _add_names(self, task: str, answers: dict[str, Any], true: list[set[str]], usual: frozenset[str]) -> None:
        named = {"baseline_": [set(usual)] * len(true)}
        for prefix in ("", "direct_"):
            if prefix + task in answers:
                named[prefix] = [set(names_in(text, self.objects)) for text in answers[prefix + task]]
        scores = self.named.setdefault(task, {prefix: NameScore() for prefix in sorted(named)})
        for prefix, names in named.items():
            scores[prefix].add(names, true)

    def metrics(self) -> Metrics:
        """As in `metrics.json`."""
        found = {f"rgb_to_{t}": {name: s.value() for name, s in scores.items()} for t, scores in self.dense.items()}
        for task, named in self.named.items():
            found[f"rgb_to_{task}"] = {f"{prefix}object_f1": score.value() for prefix, score in named.items()}
        return found


def _progress(samples: Samples, batch_size: int) -> Iterator[tuple[int, Batch]]:
    from rich.progress import track

    for start in track(range(0, len(samples), batch_size), "held-out rooms", transient=True):
        yield start, samples.read(range(start, min(start + batch_size, len(samples))))


def _join(before: Any, more: Any, limit: int) -> Any:
    if before is None:
        return more[:limit]
    return (torch.cat([before, more]) if isinstance(more, Tensor) else before + more)[:limit]
