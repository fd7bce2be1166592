"""What towers in one space find: images by texts, texts by images, and classes that are told in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fourm import layouts
from fourm.data.transforms import is_image
from fourm.errors import ConfigError, did_you_mean
from fourm.evaluate import metrics
from fourm.evaluate.outcome import Cell, Outcome, PictureTable
from fourm.evaluate.retrieval_configs import RetrievalEvaluation, ZeroShotConfig
from fourm.evaluate.samples import CentredSamples, Samples
from fourm.generate.bundle import Bundle, move, text_tokenizer
from fourm.generate.inputs import network_input
from fourm.modality import Modality
from fourm.models.contrastive import Contrastive
from fourm.report.pictures import draw

_SHOWN = 5


@dataclass
class Side:
    """One modality of all samples.

    Args:
        modality: which.
        vectors: (T, dim) of its things: the samples, or the different texts.
        owners: (N, T) bool, which things are of which sample; None: thing n is of sample n.
        texts: of the things; none of images.
    """

    modality: Modality
    vectors: Tensor
    owners: Tensor | None
    texts: list[str]


class Reader:
    """The vectors of a contrastive model.

    Args:
        bundle: the model and its text tokenizer.
        batch_size: inputs at a time.
        device: to compute on.

    Raises:
        ConfigError: for a model of another kind.
    """

    def __init__(self, bundle: Bundle, batch_size: int, device: torch.device) -> None:
        model: Any = bundle.model
        if not isinstance(model, Contrastive):
            raise ConfigError(f"kind retrieval is for models of kind contrastive; {bundle.place} is another")
        move(bundle, device)
        self.bundle, self.model, self.batch_size, self.device = bundle, model.eval(), batch_size, device

    def find(self, name: str | None, *, text: bool | None = None) -> Modality:
        """A modality of the model by its name or key; None: the only text, or image.

        Raises:
            ConfigError: if there is none, or it holds neither images nor texts.
        """
        known = [m for m in self.model.modalities.values() if text is None or (m.decode == "text") == text]
        found = [m for m in known if name in (None, m.name, m.key)]
        if len(found) != 1:
            names = ", ".join(m.name for m in known) or "none"
            raise ConfigError(
                f"'{name or ('text' if text else 'image')}' is not one of its modalities of this sort: {names}."
                f"{did_you_mean(name, [m.name for m in known]) if name else ''}"
            )
        if found[0].decode != "text" and not is_image(found[0]):
            raise ConfigError(f"'{found[0].name}' holds neither images nor texts, which are what is measured")
        return found[0]

    @torch.no_grad()
    def texts(self, modality: Modality, texts: Sequence[str]) -> Tensor:
        """(T, dim) of texts."""
        tokenizer = text_tokenizer(self.bundle, modality)
        rows = [[*tokenizer.encode(text)[: modality.num_tokens - 1].tolist(), tokenizer.eos_id] for text in texts]
        found = []
        for start in range(0, len(rows), self.batch_size):
            ids = [torch.tensor(row) for row in rows[start : start + self.batch_size]]
            padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-1)
            found.append(self.model.embed(modality.name, padded.to(self.device)).cpu())
        return torch.cat(found)

    @torch.no_grad()
    def images(self, modality: Modality, samples: Samples) -> Tensor:
        """(N, dim) of the images of all samples."""
        from rich.progress import track

        starts = range(0, len(samples), self.batch_size)
        found = []
        for start in track(starts, f"{modality.name} to vectors", transient=True):
            numbers = range(start, min(start + self.batch_size, len(samples)))
            values = samples.read(numbers, [modality.name])[modality.name]
            values = network_input(values, modality, f"sample {start}")
            found.append(self.model.embed(modality.name, values.to(self.device)).cpu())
        return torch.cat(found)

    def side(self, modality: Modality, samples: Samples) -> Side:
        """All there is of a modality; texts that occur several times are one thing."""
        if modality.decode != "text":
            return Side(modality, self.images(modality, samples), None, [])
        told: list[list[str]] = []
        for batch in samples.batches(self.batch_size, [modality.name]):
            told += [[text] if isinstance(text, str) else list(text) for text in batch[modality.name]]
        numbers = {text: n for n, text in enumerate(dict.fromkeys(text for texts in told for text in texts))}
        owners = torch.zeros(len(told), len(numbers), dtype=torch.bool)
        for row, texts in zip(owners, told):
            row[[numbers[text] for text in texts]] = True
        return Side(modality, self.texts(modality, list(numbers)), owners, list(numbers))


def evaluate_retrieval(config: RetrievalEvaluation, bundle: Bundle, device: torch.device) -> Outcome:
    """Measure how well the sides of pairs find one another.

    Raises:
        ConfigError: if the model is of another kind, or has not what is asked.
        DataError: if data is missing or damaged.
    """
    reader = Reader(bundle, config.batch_size, device)
    names = list(reader.model.modalities)
    pairs = [(reader.find(a), reader.find(b)) for a, b in config.pairs or [(names[0], name) for name in names[1:]]]
    chosen = {m.name: m for pair in pairs for m in pair}
    samples = CentredSamples(Path(config.data), chosen, config.num_samples)
    sides = {name: reader.side(m, samples) for name, m in chosen.items()}
    outcome = Outcome({}, facts={"held-out samples": str(len(samples))})
    for side in sides.values():
        if side.texts:
            outcome.facts[f"different texts of {side.modality.name}"] = str(len(side.texts))
    for a, b in pairs:
        for x, y in ((sides[a.name], sides[b.name]), (sides[b.name], sides[a.name])):
            key = f"{x.modality.key}_to_{y.modality.key}_retrieval"
            outcome.metrics[key] = found_among(x, y, len(samples), config.counts)
    if config.zero_shot is not None:
        outcome.metrics["zero_shot"] = zero_shot(reader, config, config.zero_shot, sides)
    if config.num_pictures:
        outcome.tables += [t for a, b in pairs if (t := _table(sides[a.name], sides[b.name], samples, config))]
    return outcome


def found_among(queries: Side, things: Side, num_samples: int, counts: Sequence[int]) -> dict[str, float]:
    """`recall_at_1`, ..., and what drawing at random finds on average."""
    eye = torch.eye(num_samples, dtype=torch.bool)
    ours, theirs = (side.owners if side.owners is not None else eye for side in (queries, things))
    fits = theirs if queries.owners is None else (ours.T.float() @ theirs.float()) > 0
    recalls = metrics.recall_among(queries.vectors, things.vectors, fits, counts)
    chances = metrics.recall_by_chance(fits, counts)
    values = {f"recall_at_{n}": value for n, value in zip(counts, recalls)}
    return values | {f"chance_recall_at_{n}": value for n, value in zip(counts, chances)}


def zero_shot(
    reader: Reader, config: RetrievalEvaluation, asked: ZeroShotConfig, sides: dict[str, Side]
) -> dict[str, float]:
    """Share of images whose class's texts are nearest, and that of guessing."""
    image, text = reader.find(asked.image, text=False), reader.find(asked.text, text=True)
    label = Modality(
        "label",
        layouts.Sequence(1),
        layouts.Discrete(len(asked.classes)),
        asked.source,
        "label",
        classes=tuple(asked.classes),
    )
    labels = Samples(Path(config.data), {"label": label}, config.num_samples)
    truth = torch.cat([batch["label"].flatten() for batch in labels.batches(config.batch_size)])
    named = [prompt.replace("{}", name) for name in asked.classes for prompt in asked.prompts]
    told = reader.texts(text, named).unflatten(0, (len(asked.classes), len(asked.prompts))).mean(1)
    if image.name not in sides:
        samples = CentredSamples(Path(config.data), {image.name: image}, config.num_samples)
        sides = {image.name: reader.side(image, samples)}
    guess = (sides[image.name].vectors @ F.normalize(told, dim=1).T).argmax(1)
    return {"accuracy": metrics.accuracy(guess, truth), "chance_accuracy": 1 / len(asked.classes)}


def _table(a: Side, b: Side, samples: Samples, config: RetrievalEvaluation) -> PictureTable | None:
    """What is nearest to some things of the side that is told, or of the first."""
    asked, things = (b, a) if b.texts else (a, b)
    if things.texts:
        return None
    step = max(1, len(asked.vectors) // config.num_pictures)
    numbers = list(range(0, len(asked.vectors), step))[: config.num_pictures]
    cells: list[list[Cell]] = []
    for n in numbers:
        nearest = (things.vectors @ asked.vectors[n]).topk(min(_SHOWN, len(things.vectors))).indices.tolist()
        shown = _drawn(things.modality, samples, nearest)
        cells.append([asked.texts[n] if asked.texts else _drawn(asked.modality, samples, [n])[0], *shown])
    columns = [asked.modality.key, *(f"nearest {n + 1}" for n in range(_SHOWN))]
    title = f"{things.modality.key} found by {asked.modality.key}"
    note = "Held-out samples; the nearest ones by the cosine of their vectors come first."
    return PictureTable(f"{asked.modality.key}_to_{things.modality.key}", title, note, columns, cells)


def _drawn(modality: Modality, samples: Samples, numbers: Sequence[int]) -> list[Cell]:
    values = samples.read(numbers, [modality.name])[modality.name]
    return [draw(modality, value) for value in values]
