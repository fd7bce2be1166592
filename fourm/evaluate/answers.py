"""What a model predicts out of the box, by generation, on aligned data (4M-21, Bachmann et al. 2024, table 1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fourm.errors import ConfigError, DataError
from fourm.evaluate import instances, metrics, people
from fourm.evaluate.answer_scores import BoxScore, CaptionScore, DepthErrors
from fourm.evaluate.configs import AnswersEvaluation, RetrievalConfig, TextToImageConfig
from fourm.evaluate.networks import NetworkScore, clip_score, fid
from fourm.evaluate.outcome import Outcome
from fourm.evaluate.predict import Given, Predictor, greedy, one_step
from fourm.evaluate.room_pictures import rgb_to_all
from fourm.evaluate.samples import Batch, CentredSamples
from fourm.evaluate.scores import IoUScore
from fourm.evaluate.tasks import NormalsScore
from fourm.generate import outputs
from fourm.generate.ensemble import combine
from fourm.generate.plan import Step
from fourm.generate.retrieve import feature_plan, vectors
from fourm.modality import Modality

DENSE = ("depth", "normal", "semseg")
TEXTS = ("det", "caption")
STRUCTURED = (people.KEY, instances.KEY)
"""Texts that hold codes, which tokenizers of the texts' names decode."""
ALL = (*DENSE, *TEXTS, *STRUCTURED)


def evaluate_answers(config: AnswersEvaluation, predictor: Predictor) -> Outcome:
    """Measure a model.

    Raises:
        ConfigError: if it cannot read what is given, or predict what is asked for.
        DataError: if data is missing, damaged or empty.
    """
    raw = _modalities(config, predictor)
    data = _open(config, raw)
    asked = [key for key in raw if key in ALL and key != config.given and key in data.modalities]
    num_bins = int(getattr(predictor.text, "num_coordinates", 1000))
    scores = {key: _score(key, raw[key], config, predictor) for key in asked}
    finding = Retrieval(config.retrieval, config.given, predictor) if config.retrieval else None
    painting = TextToImage(config.text_to_image, predictor) if config.text_to_image else None
    if not scores and finding is None and painting is None:
        raise ConfigError(
            f"there is nothing to measure: {config.data} has none of {', '.join(ALL)} that the model "
            "predicts. Name other data, or ask for retrieval or text_to_image"
        )
    first: dict[str, Any] = {}
    shown = min(config.num_pictures, len(data))
    for start, batch in _progress(data, config.batch_size):
        answers = predict(config, predictor, asked, batch, start)
        for key, score in scores.items():
            if isinstance(score, instances.InstanceScore):
                score.add(batch[key], _give(predictor, config.given, batch[config.given]), start)
            else:
                score.add(answers[key], batch[key])
        if finding is not None:
            finding.add(batch, start)
        if painting is not None:
            painting.add(batch, start)
        if start < shown:
            first = {key: _join(first.get(key), value, shown) for key, value in answers.items()}
    found = {f"{config.given}_to_{key}": _values(score) for key, score in scores.items()}
    missing: dict[str, str] = {}
    if finding is not None:
        found[f"{finding.config.query}_to_{config.given}_retrieval"] = finding.values()
    if painting is not None:
        found["caption_to_rgb"], missing = painting.values()
    table = []
    if first and config.given == "rgb":
        table = [rgb_to_all(raw, data.read(range(shown)), first, num_bins)]
    facts = {"data": f"{config.data}, {len(data)} samples", "answers to each question": str(config.ensemble)}
    classes = raw["semseg"].classes if "semseg" in raw else ()
    return Outcome({task: values for task, values in found.items() if values}, table, facts, tuple(classes), missing)


def predict(
    config: AnswersEvaluation, predictor: Predictor, tasks: Sequence[str], batch: Batch, start: int
) -> dict[str, Any]:
    """Task -> natural units on the host, texts, or people.

    Args:
        config: how answers are drawn.
        predictor: the model.
        tasks: keys such as `depth` and `caption`. Instances are asked for by `InstanceScore`.
        batch: the samples.
        start: number of the first of them, which keys its draws.
    """
    if not tasks:
        return {}
    given = _give(predictor, config.given, batch[config.given])
    dense = {key: predictor.need(f"tok_{key}", asked=True) for key in tasks if key in DENSE}
    texts = {key: predictor.need(key, asked=True) for key in tasks if key in (*TEXTS, people.KEY)}
    size = len(batch[config.given])
    seeds = predictor.seeds(start, size, "answers")
    answers: dict[str, Any] = {}
    if texts:
        written = predictor.run(list(map(greedy, texts.values())), given, seeds)
        for key, modality in texts.items():
            structured = key in STRUCTURED
            answers[key] = (
                outputs.decode(predictor.bundle, modality.name, written)
                if structured
                else predictor.texts(modality, written)
            )
    if dense and config.ensemble == 1:
        generated = predictor.run(list(map(one_step, dense.values())), given, seeds)
        for key, modality in dense.items():
            answers[key] = predictor.images(modality, generated, "argmax" if key == "semseg" else config.decoding)
    elif dense:
        answers |= _ensemble(config, predictor, dense, given, start, size)
    return answers


def _ensemble(
    config: AnswersEvaluation, predictor: Predictor, dense: dict[str, Modality], given: Given, start: int, size: int
) -> dict[str, Tensor]:
    """The mean of several drawn answers, or their vote."""
    steps = [
        Step(m.name, "roar", config.num_steps, temperature=config.temperature, top_p=config.top_p)
        for m in dense.values()
    ]
    drawn: dict[str, list[Tensor]] = {key: [] for key in dense}
    for number in range(config.ensemble):
        seeds = predictor.seeds(start, size, f"answers {number}")
        generated = predictor.run(steps, given, seeds)
        for key, modality in dense.items():
            drawn[key].append(outputs.decode(predictor.bundle, modality.name, generated, seeds))
    joined: dict[str, Tensor] = {}
    for key, modality in dense.items():
        raw = predictor.tokenizers[modality.name].modality
        stacked = torch.stack(drawn[key])
        joined[key] = torch.stack([combine(stacked[:, n], raw).value for n in range(size)])
    return joined


class Retrieval:
    """Recall of what belongs to a query, by features predicted from either.

    Args:
        config: what is asked with, and by which feature.
        given: what is looked for.
        predictor: the model.

    Raises:
        ConfigError: if it does not predict such a feature.
    """

    def __init__(self, config: RetrievalConfig, given: str, predictor: Predictor) -> None:
        if config.query == given:
            raise ConfigError(f"retrieval.query is '{given}', which is also what is looked for (given); name another")
        self.config, self.given, self.predictor = config, given, predictor
        self.step = feature_plan(predictor.bundle, config.feature).steps[0]
        self.sides: dict[str, list[Tensor]] = {config.query: [], given: []}

    def add(self, batch: Batch, start: int) -> None:
        """Add samples."""
        for key, found in self.sides.items():
            given = _give(self.predictor, key, batch[key])
            seeds = self.predictor.seeds(start, len(batch[key]), "retrieval")
            generated = self.predictor.run([self.step], given, seeds)
            found.append(vectors(outputs.decode(self.predictor.bundle, self.step.target, generated, seeds)))

    def values(self) -> dict[str, float]:
        """`recall_at_1`, ..."""
        queries, things = (torch.cat(self.sides[key]) for key in (self.config.query, self.given))
        counts = self.config.counts
        return {f"recall_at_{n}": value for n, value in zip(counts, metrics.recall_at(queries, things, counts))}


class TextToImage:
    """FID and CLIP score of images that are made of captions.

    Args:
        config: how they are made.
        predictor: the model.

    Raises:
        ConfigError: if it does not generate images from captions.
    """

    def __init__(self, config: TextToImageConfig, predictor: Predictor) -> None:
        self.config, self.predictor = config, predictor
        predictor.need("caption", given=True)
        self.image = predictor.need("tok_rgb", asked=True)
        self.scores: dict[str, NetworkScore] = {
            "fid": fid(predictor.device, weights=config.inception),
            "clip_score": clip_score(predictor.device, config.clip),
        }

    def add(self, batch: Batch, start: int) -> None:
        """Make and score images."""
        c, texts = self.config, [_one(text) for text in batch["caption"]]
        step = Step(
            self.image.name, "maskgit", c.num_steps, temperature=c.temperature, top_p=c.top_p, guidance=c.guidance
        )
        seeds = self.predictor.seeds(start, len(texts), "caption to image")
        generated = self.predictor.run([step], self.predictor.give_texts("caption", texts), seeds)
        images = outputs.decode(self.predictor.bundle, self.image.name, generated, seeds).clamp(0, 1)
        self.scores["fid"].add(images, batch["rgb"])
        self.scores["clip_score"].add(images, texts)

    def values(self) -> tuple[dict[str, float], dict[str, str]]:
        """Metric -> value, and metric -> why there is none."""
        found = {name: score.value() for name, score in self.scores.items()}
        missing = {name: score.reason for name, score in self.scores.items() if score.reason}
        return {name: value for name, value in found.items() if name not in missing}, missing


def _modalities(config: AnswersEvaluation, predictor: Predictor) -> dict[str, Modality]:
    """Key -> what is read from disk for it; what is given comes first."""

    def raw(key: str) -> Modality | None:
        return predictor.find(key) if key in (*TEXTS, *STRUCTURED) else predictor.raw(key)

    found = {config.given: raw(config.given) or predictor.need(config.given, given=True)}
    for key in config.tasks or ALL:
        modality = raw(key)
        target = f"tok_{key}" if key in DENSE else key
        askable = predictor.find(target, asked=True)
        if modality is None or askable is None:
            if config.tasks:
                predictor.need(target, asked=True)
            continue
        if key in STRUCTURED and not config.tasks and key not in predictor.tokenizers:
            continue
        found.setdefault(key, modality)
    for key in ["caption", "rgb"] if config.text_to_image else []:
        found.setdefault(key, raw(key) or predictor.need(key))
    if config.retrieval:
        found.setdefault(config.retrieval.query, raw(config.retrieval.query) or predictor.need(config.retrieval.query))
    return found


def _open(config: AnswersEvaluation, raw: dict[str, Modality]) -> CentredSamples:
    """The data, with those of the modalities that it has.

    Raises:
        DataError: if it lacks what is given or asked for by name.
    """
    needed = {config.given, *config.tasks}
    needed |= {"caption", "rgb"} if config.text_to_image else set()
    needed |= {config.retrieval.query} if config.retrieval else set()
    there = {key: m for key, m in raw.items() if key in needed or (config.data / m.source).is_dir()}
    return CentredSamples(config.data, there, config.num_samples)


def _score(key: str, modality: Modality, config: AnswersEvaluation, predictor: Predictor) -> Any:
    if key == "depth":
        return DepthErrors(config.depth_alignment)
    if key == "normal":
        return NormalsScore()
    if key == "semseg":
        return IoUScore(modality.vocab_size)
    if key == instances.KEY:
        return instances.InstanceScore(predictor, config.batch_size)
    if key == people.KEY:
        return people.pose_score(predictor, config.skeleton)
    return BoxScore(int(getattr(predictor.text, "num_coordinates", 1000))) if key == "det" else CaptionScore()


def _values(score: Any) -> dict[str, float]:
    if isinstance(score, IoUScore):
        return {"miou": score.value()}
    values: dict[str, float] = score.result()
    return values


def _give(predictor: Predictor, key: str, values: Any) -> Given:
    if isinstance(values, list):
        return predictor.give_texts(key, [_one(value) for value in values])
    return predictor.give_image(key, values)


def _one(text: Any) -> str:
    """A text, or the first of several."""
    if isinstance(text, list):
        text = text[0] if text else ""
    if not isinstance(text, str):
        raise DataError(f"a text was expected, and {text!r:.60} found; name a modality of texts")
    return text


def _progress(samples: CentredSamples, size: int) -> Iterator[tuple[int, Batch]]:
    from rich.progress import track

    for start in track(range(0, len(samples), size), "samples", transient=True):
        yield start, samples.read(range(start, min(start + size, len(samples))))


def _join(before: Any, more: Any, limit: int) -> Any:
    if before is None:
        return more[:limit]
    return (torch.cat([before, more]) if isinstance(more, Tensor) else before + more)[:limit]
