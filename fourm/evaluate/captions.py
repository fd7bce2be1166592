"""Pictures to captions and captions to pictures, by models of documents: whether what is named is what is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from fourm.errors import ConfigError
from fourm.evaluate.baselines import FrequentObjects
from fourm.evaluate.caption_configs import CaptionsEvaluation
from fourm.evaluate.judge import Judge, Pairs, load_judge, named, read_pairs
from fourm.evaluate.outcome import Cell, Outcome, PictureTable
from fourm.generate.bundle import Bundle, move, with_painter
from fourm.generate.interleaved import RowWriting
from fourm.generate.interleaved_job import form_options
from fourm.generate.interleaved_prompts import Interleaved
from fourm.generate.phrases import IMAGE
from fourm.modality import Modality
from fourm.report.pictures import draw
from fourm.rng import torch_seed
from fourm.tokenizers.units import to_natural

_PER_WORD = 8


def evaluate_captions(config: CaptionsEvaluation, bundle: Bundle, device: torch.device) -> Outcome:
    """Measure captions of held-out pictures, and pictures painted from their captions where the model paints.

    Raises:
        ConfigError: if the model reads no images.
        CheckpointError: if the painter cannot be read.
        DataError: if data is missing or damaged, or no caption names a word.
    """
    model = speaker(config, bundle, device)
    if model.image is None:
        raise ConfigError(f"captions are of pictures, but {config.model} reads text alone: name another model")
    test = read_pairs(config.data, model.image, config.words, config.num_samples)
    said = write_captions(model, test.images, config)
    found = {"image_to_caption": caption_scores(model, said, test, config)}
    outcome = Outcome(found, facts={"held-out pairs": str(len(said)), "words": ", ".join(config.words)})
    if model.image.name not in model.model.vector_heads or model.image.name not in model.bundle.tokenizers:
        outcome.missing["caption_to_image"] = "the model does not paint: name a visual decoder as painter"
        outcome.tables.append(_both(model.image, test, said, None, None, config))
        return outcome
    judge = load_judge(
        config.judge or config.output / "judge",
        config.classifier,
        config.words,
        lambda: read_pairs(config.train, cast(Modality, model.image), config.words, config.num_train),
        test,
        f"{config.train} {config.num_train}",
    )
    chosen = test.there.any(1).nonzero().flatten()[: config.num_prompts]
    prompts = [test.captions[n][0] for n in chosen.tolist()]
    painted = paint(model, prompts, config)
    found["caption_to_image"] = picture_scores(named(prompts, config.words), painted, test.images[chosen], judge)
    outcome.facts["captions painted"] = str(len(prompts))
    some = Pairs(test.images[chosen], [[prompt] for prompt in prompts], test.there[chosen])
    outcome.tables.append(
        _both(model.image, some, [said[n] for n in chosen.tolist()], painted, judge.seen(painted), config)
    )
    if judge.exclusive:
        outcome.tables.append(_by_word(model.image, some.there, painted, config))
    return outcome


def speaker(config: CaptionsEvaluation, bundle: Bundle, device: torch.device) -> Interleaved:
    """The model with what paints for it, as the config says."""
    if config.painter is not None:
        bundle = with_painter(bundle, config.painter)
    move(bundle, device)
    bundle.model.eval()
    model = Interleaved(bundle, **form_options(config.start, config.phrases, config.bare_images))
    decoder = bundle.tokenizers.get(model.image.name) if model.image else None
    changes = {"guidance": config.guidance, "num_steps": config.num_steps}
    wanted = {name: value for name, value in changes.items() if value is not None}
    if decoder is not None and wanted:
        decoder.use_sampling(**wanted)
    return model


def write_captions(model: Interleaved, images: Tensor, config: CaptionsEvaluation) -> list[str]:
    """The likeliest caption of each picture (N, C, H, W) in [0, 1]."""
    writing, texts = RowWriting(max_tokens=config.max_tokens), []
    for numbers in _batches(len(images), config.batch_size, "image to caption"):
        prompts = [model.caption(image) for image in model.images(images[list(numbers)])]
        texts += model.answer(prompts, _seeds(config, "caption", numbers), writing)
    return texts


def paint(model: Interleaved, prompts: Sequence[str], config: CaptionsEvaluation) -> Tensor:
    """(N, C, H, W) in [0, 1], pictures of captions, at the size that the model reads."""
    found = []
    for numbers in _batches(len(prompts), config.batch_size, "caption to image"):
        asked = [model.drawing(prompts[n]) for n in numbers]
        images = model.draw(asked, _seeds(config, "draw", numbers), guided=config.guided)
        found.append(to_natural(model.images(images), cast(Modality, model.image)))
    return torch.cat(found)


def caption_scores(
    model: Interleaved, said: Sequence[str], test: Pairs, config: CaptionsEvaluation
) -> dict[str, float]:
    """How right captions are, beside all put to each picture in turn, one without a picture, and the best constant."""
    names = named(said, config.words)
    scores = agreement(names, test.there)
    blind = model.prompt(model.phrases.caption.replace(IMAGE, ""))
    constant = None
    if blind:
        (text,) = model.answer([blind], torch.zeros(1, dtype=torch.int64), RowWriting(max_tokens=config.max_tokens))
        constant = named([text], config.words).expand_as(names)
        scores["blind_accuracy"] = agreement(constant, test.there)["accuracy"]
    if test.exclusive:
        scores["baseline_accuracy"] = float(test.there.float().mean(0).max())
        return scores
    usual = FrequentObjects()
    usual.add({word for word, is_there in zip(config.words, row) if is_there} for row in test.there.tolist())
    best = torch.tensor([word in usual.best() for word in config.words]).expand_as(names)
    scores |= {"object_f1": f1(names, test.there), "baseline_object_f1": f1(best, test.there)}
    return scores if constant is None else scores | {"blind_object_f1": f1(constant, test.there)}


def picture_scores(names: Tensor, painted: Tensor, real: Tensor, judge: Judge) -> dict[str, float]:
    """How right pictures are, beside all put to each caption in turn, and the real pictures of the same captions.

    Args:
        names: (N, W) bool, words of each caption.
        painted: (N, C, H, W) of them.
        real: (N, C, H, W) their own.
        judge: of both.
    """
    seen = judge.seen(painted)
    scores = agreement(names, seen)
    scores["classifier_accuracy"] = agreement(names, judge.seen(real))["accuracy"]
    if judge.exclusive:
        return scores
    total, shares = names.sum(), seen.float().mean(0)
    words = {"word_accuracy": float((names & seen).sum() / total)}
    return scores | words | {"chance_word_accuracy": float((names * shares).sum() / total)}


def agreement(names: Tensor, there: Tensor) -> dict[str, float]:
    """Share of rows that name something, and nothing that is not there; and the same over all pairs of rows.

    Args:
        names: (N, W) bool, what is named.
        there: (N, W) bool, what is there.
    """
    wrong = names.float() @ (~there).float().T
    right = (wrong == 0) & names.any(1, keepdim=True)
    return {"accuracy": float(right.diagonal().float().mean()), "chance_accuracy": float(right.float().mean())}


def f1(names: Tensor, there: Tensor) -> float:
    """Micro-averaged F1 of (N, W) bool words."""
    return float(2 * (names & there).sum() / (names.sum() + there.sum()).clamp(min=1))


def _both(
    modality: Modality, pairs: Pairs, said: Sequence[str], painted: Tensor | None, seen: Tensor | None,
    config: CaptionsEvaluation,
) -> PictureTable:  # fmt: skip
    """Both directions of pairs that name different things, as far as there are such."""
    firsts = list({tuple(row): n for n, row in reversed(list(enumerate(pairs.there.tolist())))}.values())[::-1]
    columns = ["picture", "caption of it by the model", "its own caption"]
    columns += [] if painted is None else ["painted from that", "the classifier sees"]
    cells: list[list[Cell]] = []
    for n in sorted(firsts)[: config.num_pictures]:
        cells.append([draw(modality, pairs.images[n]), said[n] or "(nothing)", pairs.captions[n][0]])
        if painted is not None and seen is not None:
            words = [word for word, is_seen in zip(config.words, seen[n].tolist()) if is_seen]
            cells[-1] += [draw(modality, painted[n]), ", ".join(words) or "(none of the words)"]
    note = "Held-out pictures. A caption is made of the picture alone, a painting of the caption alone."
    return PictureTable("captions", "From pictures to captions, and from captions to pictures", note, columns, cells)


def _by_word(modality: Modality, there: Tensor, painted: Tensor, config: CaptionsEvaluation) -> PictureTable:
    """Pictures of captions of the same word, one row per word."""
    cells: list[list[Cell]] = []
    for word, column in zip(config.words, there.T):
        numbers = column.nonzero().flatten().tolist()[:_PER_WORD]
        if numbers and len(cells) < config.num_pictures:
            cells.append([word, *(draw(modality, painted[n]) for n in numbers)])
    columns = ["", *(f"picture {n + 1}" for n in range(max(map(len, cells), default=1) - 1))]
    note = "Each was painted from a caption of its word and nothing else."
    return PictureTable("painted", "Pictures of captions", note, columns, cells)


def _seeds(config: CaptionsEvaluation, purpose: str, numbers: Sequence[int]) -> Tensor:
    return torch.tensor([torch_seed(config.seed, purpose, n) for n in numbers], dtype=torch.int64)


def _batches(count: int, size: int, title: str) -> Iterator[range]:
    from rich.progress import track

    for start in track(range(0, count, size), title, transient=True):
        yield range(start, min(start + size, count))
