"""Fashion photographs: image to caption, caption to image as a classifier sees it, half an image to the whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fourm import catalog
from fourm.catalog import FASHION_CLASSES
from fourm.evaluate import metrics
from fourm.evaluate.baselines import PixelMean, PixelMode
from fourm.evaluate.classifier import Data, classify, load_or_train
from fourm.evaluate.configs import EvaluateConfig
from fourm.evaluate.fashion_pictures import caption_to_image, first_of_each_class, image_to_all
from fourm.evaluate.outcome import Metrics, Outcome
from fourm.evaluate.predict import Predictor, greedy, one_step
from fourm.evaluate.samples import Samples
from fourm.evaluate.scores import IoUScore, PsnrScore, Score
from fourm.generate.inputs import network_input
from fourm.generate.plan import Step
from fourm.modality import Modality
from fourm.words import class_in

OUTLINES = ("silhouette", "edges")


def evaluate_fashion(config: EvaluateConfig, predictor: Predictor) -> Outcome:
    """Measure a model on the test photographs.

    Raises:
        ConfigError: if the model does not know images and captions.
        DataError: if data is missing or damaged.
    """
    raw = raw_modalities(predictor)
    test, train = Samples(config.test, raw, config.num_samples), Samples(config.train, raw, config.num_train)
    images, labels = load(test)
    judge = load_or_train(
        config.output / "classifier", config.classifier, len(FASHION_CLASSES), lambda: load(train), (images, labels)
    )
    found: Metrics = {}
    prompts, prompt_labels = choose_prompts(test, labels, config.num_captions)
    drawn = from_captions(predictor, prompts, config)
    found["image_to_caption"] = caption_accuracy(predictor, images, labels, config)
    found["caption_to_image"] = {
        "accuracy": metrics.accuracy(classify(judge, drawn), prompt_labels),
        "upper_bound": metrics.accuracy(classify(judge, through_tokenizer(predictor, images, config)), labels),
        "classifier_accuracy": metrics.accuracy(classify(judge, images), labels),
    }
    constant = constants(train)
    found["half_to_whole"] = half_to_whole(predictor, images, constant["image"], config)
    some = Samples(config.test, raw, min(config.num_outlines, len(test)))
    found |= outlines(predictor, some, constant, config)
    shown = test.read(first_of_each_class(labels.tolist(), config.num_pictures))
    wholes = complete(predictor, shown["image"], 0, config)
    tables = [
        image_to_all(predictor, raw, shown, wholes, config),
        caption_to_image(raw, prompts, prompt_labels.tolist(), drawn),
    ]
    facts = {
        "test photographs": str(len(test)),
        "of them for silhouettes and edges": str(len(some)),
        "training photographs of the classifier and baselines": str(len(train)),
        "captions turned into images": f"{len(prompts)}, guidance {config.guidance:g}, {config.num_steps} steps",
    }
    return Outcome(found, tables, facts)


def raw_modalities(predictor: Predictor) -> dict[str, Modality]:
    """Key -> what is read from disk for it.

    Raises:
        ConfigError: if the model has no images or captions.
    """
    predictor.need("tok_image", asked=True)
    found = {key: raw for key in ("image", *OUTLINES) if (raw := predictor.raw(key)) is not None}
    label = Modality("label", catalog.get("caption").layout, catalog.get("caption").content, "label", "structured")
    return found | {"caption": predictor.need("caption", asked=True), "label": label}


def load(samples: Samples) -> Data:
    """All images (N, 1, H, W) in [0, 1] and labels (N,)."""
    images, labels = [], []
    for batch in _progress(samples, ["image", "label"], "photographs"):
        images.append(batch["image"])
        labels += batch["label"]
    return torch.cat(images), torch.tensor(labels)


def constants(samples: Samples) -> dict[str, Tensor]:
    """What ignores the input: the mean image and edges (1, H, W), the usual silhouette (H, W) of 0 and 1."""
    names = [name for name in ("image", *OUTLINES) if name in samples.modalities]
    means = {name: PixelMean() for name in names if name != "silhouette"}
    mode = PixelMode(2)
    for batch in _progress(samples, names, "baselines"):
        for name, mean in means.items():
            mean.add(batch[name])
        if "silhouette" in batch:
            mode.add(_inside(batch["silhouette"]))
    found = {name: mean.image() for name, mean in means.items()}
    return found | ({"silhouette": mode.labels()} if "silhouette" in names else {})


def caption_accuracy(predictor: Predictor, images: Tensor, labels: Tensor, config: EvaluateConfig) -> dict[str, float]:
    """Share of images whose greedy caption names the right class; no class counts as wrong.

    The baseline names the most frequent class.
    """
    texts = to_captions(predictor, images, config)
    named = torch.tensor([_label(text) for text in texts])
    most_frequent = torch.bincount(labels, minlength=len(FASHION_CLASSES)).max()
    return {"accuracy": metrics.accuracy(named, labels), "baseline_accuracy": float(most_frequent) / len(labels)}


def to_captions(predictor: Predictor, images: Tensor, config: EvaluateConfig) -> list[str]:
    """The likeliest caption of each image."""
    step = greedy(predictor.need("caption", asked=True))
    texts: list[str] = []
    for start, batch in _batches(images, config.batch_size, "image to caption"):
        seeds = predictor.seeds(start, len(batch), "image to caption")
        generated = predictor.run([step], predictor.give_image("image", batch), seeds)
        texts += predictor.texts(predictor.need("caption"), generated)
    return texts


def choose_prompts(samples: Samples, labels: Tensor, per_class: int) -> tuple[list[str], Tensor]:
    """Captions of the first `per_class` test photographs of each class, and their labels."""
    numbers = torch.cat([torch.nonzero(labels == c).flatten()[:per_class] for c in range(len(FASHION_CLASSES))])
    captions = samples.read(numbers.tolist(), ["caption"])["caption"]
    return [one if isinstance(one, str) else one[0] for one in captions], labels[numbers]


def from_captions(predictor: Predictor, texts: Sequence[str], config: EvaluateConfig) -> Tensor:
    """An image (N, 1, H, W) in [0, 1] for each caption."""
    target = predictor.need("tok_image", asked=True)
    step = Step(
        target.name,
        scheme="roar",
        num_steps=config.num_steps,
        temperature=config.temperature,
        guidance=config.guidance,
    )
    images = []
    for start, numbers in _batches(torch.arange(len(texts)), config.batch_size, "caption to image"):
        given = predictor.give_texts("caption", [texts[n] for n in numbers.tolist()])
        generated = predictor.run([step], given, predictor.seeds(start, len(numbers), "caption to image"))
        images.append(predictor.images(target, generated))
    return torch.cat(images)


@torch.inference_mode()
def through_tokenizer(predictor: Predictor, images: Tensor, config: EvaluateConfig) -> Tensor:
    """Images encoded and decoded again: what perfect tokens would look like."""
    tokenizer = predictor.tokenizers[predictor.need("tok_image").name]
    out = []
    for _, batch in _batches(images, config.batch_size, "tokenizer"):
        batch = network_input(batch, tokenizer.modality, "image")
        out.append(tokenizer.decode(tokenizer.encode(batch.to(predictor.device))).cpu())
    return torch.cat(out)


def half_to_whole(predictor: Predictor, images: Tensor, mean: Tensor, config: EvaluateConfig) -> dict[str, float]:
    """PSNR of whole images generated from their upper half, beside that of the mean training image."""
    score, baseline = PsnrScore(), PsnrScore()
    for start, batch in _batches(images, config.batch_size, "half to whole"):
        score.add(complete(predictor, batch, start, config), batch)
        baseline.add(mean.expand_as(batch), batch)
    return {"psnr": score.value(), "baseline_psnr": baseline.value()}


def complete(predictor: Predictor, images: Tensor, first: int, config: EvaluateConfig) -> Tensor:
    """Whole images, all of them the model's own, from the first half of the patches, row by row."""
    target = predictor.need("tok_image", asked=True)
    given = predictor.give_image("image", images, patches=target.num_tokens // 2)
    generated = predictor.run([one_step(target)], given, predictor.seeds(first, len(images), "half to whole"))
    return predictor.images(target, generated, config.decoding)


def outlines(predictor: Predictor, test: Samples, constant: dict[str, Tensor], config: EvaluateConfig) -> Metrics:
    """Image to silhouette (mean IoU of inside and outside) and to edges (PSNR), with what ignores the image."""
    targets = {key: m for key in OUTLINES if key in constant and (m := predictor.find(f"tok_{key}", asked=True))}
    if not targets:
        return {}
    scores: dict[str, tuple[str, Score, Score]] = {
        key: ("miou", IoUScore(2), IoUScore(2)) if key == "silhouette" else ("psnr", PsnrScore(), PsnrScore())
        for key in targets
    }
    start = 0
    for batch in _progress(test, ["image", *targets], "image to outlines", config.batch_size):
        given = predictor.give_image("image", batch["image"])
        seeds = predictor.seeds(start, len(batch["image"]), "image to outlines")
        generated = predictor.run([one_step(m) for m in targets.values()], given, seeds)
        start += len(batch["image"])
        for key, modality in targets.items():
            answer, truth = predictor.images(modality, generated, config.decoding), batch[key]
            if key == "silhouette":
                answer, truth = _inside(answer), _inside(truth)
            _, ours, baseline = scores[key]
            ours.add(answer, truth)
            baseline.add(constant[key].expand_as(truth), truth)
    return {
        f"image_to_{key}": {name: ours.value(), f"baseline_{name}": baseline.value()}
        for key, (name, ours, baseline) in scores.items()
    }


def _inside(silhouettes: Tensor) -> Tensor:
    """(B, H, W) 1 inside and 0 outside, of (B, 1, H, W) in [0, 1]."""
    return (silhouettes[:, 0] > 0.5).long()


def _label(text: str) -> int:
    name = class_in(text)
    return -1 if name is None else FASHION_CLASSES.index(name)


def _progress(samples: Samples, names: Sequence[str], title: str, size: int = 500) -> Iterator[dict[str, Any]]:
    from rich.progress import track

    total = -(-len(samples) // size)
    yield from track(samples.batches(size, names), title, total=total, transient=True)


def _batches(values: Tensor, size: int, title: str) -> Iterator[tuple[int, Tensor]]:
    from rich.progress import track

    for start in track(range(0, len(values), size), title, transient=True):
        yield start, values[start : start + size]
