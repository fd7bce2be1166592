"""Whether a model answers documents as they do: questions about pictures, names within a document, words alone."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fourm.data.configs import DatasetConfig
from fourm.data.interleaved import InterleavedDocuments
from fourm.data.interleaved_files import LineDocuments
from fourm.data.interleaved_parts import Ids, Text, Vocabulary, parts_from_json
from fourm.errors import ConfigError, DataError
from fourm.evaluate.configs import DocumentsEvaluation
from fourm.evaluate.outcome import Cell, Outcome, PictureTable
from fourm.generate.bundle import Bundle
from fourm.models.multimodal import Multimodal
from fourm.objectives.autoregressive import Autoregressive
from fourm.objectives.configs import AutoregressiveConfig
from fourm.rng import generator
from fourm.tokenizers.units import to_natural
from fourm.tokens import Document, Segment, TokenBatch

NAME = "documents"


@dataclass(frozen=True)
class Answered:
    """What a model made of one document.

    Args:
        right: whether every asked token was the likeliest.
        said: the likeliest tokens in the places of the asked ones.
        wanted: the asked ones.
        likelihood: the logarithm of their probability.
        chosen: whether they are likelier than wrong ones, where both first differ.
    """

    right: bool
    said: list[int]
    wanted: list[int]
    likelihood: float
    chosen: bool = False


def evaluate_documents(config: DocumentsEvaluation, bundle: Bundle) -> Outcome:
    """Share of documents whose last asked words are all the likeliest, which is what greedy generation would write.

    Beside it, of the same documents: the most frequent answer to each question (`baseline`), which nobody who sees no
    picture can exceed; and the model itself without pictures (`blind_accuracy`).

    Raises:
        ConfigError: if the model reads no documents.
        DataError: if there are no documents, or one asks nothing.
    """
    dataset = build_documents(config, bundle)
    facts = read_facts(config.data, len(dataset))
    wrong = wrong_names(bundle.text, facts, config.packing.join)
    answered = list(answer(bundle.model, dataset, config, wrong=wrong))
    blind = list(answer(bundle.model, dataset, config, blind=True)) if config.blind else None
    metrics: dict[str, dict[str, float]] = {}
    for kind, numbers in by_kind(facts).items():
        own = {"accuracy": _share([answered[n].right for n in numbers])}
        if blind is not None:
            own["blind_accuracy"] = _share([blind[n].right for n in numbers])
        if (guess := best_guess([facts[n] for n in numbers])) is not None:
            own["baseline_accuracy"] = guess
        if wrong is not None:
            own["choice_accuracy"] = _share([answered[n].chosen for n in numbers])
        metrics[kind] = own
    shown = _examples(config, bundle, dataset, answered, facts)
    return Outcome(metrics, [shown], {"documents": f"{len(dataset):,} of {config.data}"})


def build_documents(config: DocumentsEvaluation, bundle: Bundle) -> InterleavedDocuments:
    """The data set, a document a row, in the order of the file.

    Raises:
        ConfigError: if the model reads no documents.
    """
    model = bundle.model
    if not isinstance(model, Multimodal) or model.encoder is not None or bundle.text is None:
        raise ConfigError(
            f"evaluating documents needs a model without an encoder that reads text, with its text tokenizer; "
            f"{config.model} is none. Train one with objective.kind autoregressive"
        )
    if config.packing is None or getattr(config.packing, "pack", False) or getattr(config.packing, "group", 1) != 1:
        raise ConfigError("packing must be that of documents one by one: kind interleaved, pack false and group 1")
    given = DatasetConfig(str(config.data), packing=config.packing, max_samples=config.num_samples)
    lines = LineDocuments(given.path, config.packing)
    return InterleavedDocuments(NAME, lines, model.modalities, bundle.text, given)


def answer(
    model: Multimodal, dataset: Any, config: DocumentsEvaluation, *, blind: bool = False,
    wrong: Sequence[Ids] | None = None,
) -> Iterator[Answered]:  # fmt: skip
    """What the model finds likeliest where documents ask, document by document.

    Args:
        model: a decoder alone.
        dataset: of documents.
        config: batch size and seed.
        blind: leave out all images.
        wrong: ids of another answer to every document.
    """
    longest = max(m.num_tokens for m in model.modalities.values())
    task = Autoregressive(AutoregressiveConfig(max_tokens=max(longest, config.packing.num_tokens)), model.modalities)
    device = next(model.parameters()).device
    for start in range(0, len(dataset), config.batch_size):
        numbers = range(start, min(start + config.batch_size, len(dataset)))
        rows = []
        for n in numbers:
            (document,) = dataset.sample(n, generator(config.seed, NAME, n))
            row = task.prepare([_last_asked(_blind(model, document) if blind else document)], generator(0))
            if not (row.target_ids >= 0).any():
                raise DataError(
                    f"{dataset.where(n)}: nothing is asked, or the answer is cut off: raise packing.num_tokens, or "
                    "mark an answer as asked"
                )
            rows.append(row)
        batch = task.collate(rows).decoder.to(device)
        yield from _answers(model, batch, None if wrong is None else [wrong[n] for n in numbers])


def _blind(model: Multimodal, document: Document) -> list[Segment]:
    return [segment for segment in document if model.modalities[segment.modality].is_discrete]


def _last_asked(document: Document) -> list[Segment]:
    """A document of which the last asked words alone are asked: those before them are examples."""
    last = max((n for n, segment in enumerate(document) if segment.asked), default=-1)
    return [segment if n == last else replace(segment, asked=False) for n, segment in enumerate(document)]


@torch.no_grad()
def _answers(model: Multimodal, batch: TokenBatch, wrong: Sequence[Ids] | None) -> Iterator[Answered]:
    (name,) = [m.name for m in model.modalities.values() if m.is_discrete]
    rows = batch.target_rows[name]
    hidden = model.decode(batch).flatten(0, 1)[rows]
    logits, wanted = model.heads.logits(name, hidden).float().cpu(), batch.targets(name).cpu()
    said, likelihood = logits.argmax(-1), logits.log_softmax(-1).gather(-1, wanted[:, None])[:, 0]
    sample = torch.div(rows, batch.modality.shape[1], rounding_mode="floor").cpu()
    for n in range(batch.num_samples):
        own = sample == n
        right, ids = bool((said[own] == wanted[own]).all()), wanted[own].tolist()
        chosen = wrong is not None and _prefers(logits[own], ids, wrong[n].tolist())
        yield Answered(right, said[own].tolist(), ids, float(likelihood[own].sum()), chosen)


def _prefers(logits: Tensor, right: Sequence[int], wrong: Sequence[int]) -> bool:
    """Whether (L, vocabulary) scores are higher for the one than for the other, where both first differ."""
    place = next((n for n, (ours, theirs) in enumerate(zip(right, wrong)) if ours != theirs), None)
    return place is not None and bool(logits[place, right[place]] > logits[place, wrong[place]])


def wrong_names(vocabulary: Vocabulary, facts: Sequence[dict[str, Any]], join: str = " ") -> list[Ids] | None:
    """Of documents that all bind two names: ids of the one that is not asked, in the place of the other.

    Args:
        vocabulary: the text tokenizer.
        facts: of each line `parts`, `names` and `answer`; other documents have none of the latter.
        join: what stands between texts that meet.
    """
    known = [len(line.get("names", ())) == 2 and line.get("answer") in line["names"] for line in facts]
    return [_instead(vocabulary, line, join) for line in facts] if all(known) else None


def _instead(vocabulary: Vocabulary, line: dict[str, Any], join: str) -> Ids:
    """Ids of the wrong name of a document, which may depend on the text that it stands behind."""
    parts = parts_from_json(line) if "parts" in line else []  # of other forms nothing is known of what it stands behind
    wrong = next(name for name in line["names"] if name != line["answer"])
    place = max((n for n, part in enumerate(parts) if isinstance(part, Text) and part.asked), default=0)
    before = parts[place - 1] if place else None
    said = [before.text, join + wrong] if isinstance(before, Text) and isinstance(before.text, str) else [wrong]
    return vocabulary.encode_parts(said)[-1]


def read_facts(path: Path, count: int) -> list[dict[str, Any]]:
    """What the lines of a file say of their documents: `kind`, `question`, `answer`; nothing in an empty line.

    Raises:
        DataError: if it is no file of documents.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            lines = [json.loads(line) if line.strip() else {} for line in file]
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read documents {path}: {error}. Give one file of a JSON object per line") from None
    return lines[:count]


def by_kind(facts: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """All documents, and those of each kind, where they have kinds."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for n, line in enumerate(facts):
        found["all"].append(n)
        kind = line.get("kind", line.get("shots"))
        if kind is not None:
            found[f"{kind}_shots" if isinstance(kind, int) else str(kind)].append(n)
    return dict(found)


def best_guess(facts: Sequence[dict[str, Any]]) -> float | None:
    """Share of documents that the most frequent answer to their question gets right; None without questions."""
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for line in facts:
        if "question" in line and "answer" in line:
            answers[str(line["question"])][str(line["answer"])] += 1
    total = sum(sum(counts.values()) for counts in answers.values())
    return sum(max(counts.values()) for counts in answers.values()) / total if total else None


def _share(right: Sequence[bool]) -> float:
    return float(np.mean(right)) if right else float("nan")


def _examples(
    config: DocumentsEvaluation, bundle: Bundle, dataset: Any, answered: Sequence[Answered],
    facts: Sequence[dict[str, Any]],
) -> PictureTable:  # fmt: skip
    """Some documents with their first picture, what was asked, and what the model finds likeliest."""
    cells: list[list[Cell]] = []
    for n in generator(config.seed, "examples").permutation(len(answered))[: config.num_pictures]:
        (document,) = dataset.sample(int(n), generator(config.seed, NAME, int(n)))
        found = answered[int(n)]
        question = facts[int(n)].get("question") or _words(bundle, document)
        cells.append([_picture(bundle, document), question, _decode(bundle, found.said), _decode(bundle, found.wanted)])
    note = "The words that a model finds likeliest in the places of those that are asked, one after another."
    return PictureTable(NAME, "Documents and answers", note, ["picture", "asked", "model", "document"], cells)


def _words(bundle: Bundle, document: Document) -> str:
    names = {m.name for m in bundle.model.modalities.values() if m.is_discrete}
    given = [s.value.tolist() for s in document if s.modality in names and not s.asked]
    return _decode(bundle, [id for ids in given for id in ids])


def _decode(bundle: Bundle, ids: Sequence[int]) -> str:
    assert bundle.text is not None
    return bundle.text.decode(list(ids))


def _picture(bundle: Bundle, document: Document) -> Image.Image | None:
    from fourm.report.pictures import draw

    for segment in document:
        modality = bundle.model.modalities[segment.modality]
        if not modality.is_discrete:
            return draw(modality, to_natural(torch.from_numpy(segment.value)[None], modality)[0])
    return None
