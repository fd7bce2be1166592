"""Finding things through features the model predicts: photographs by a caption, depth by a photograph, and so on.

Every prompt of a set is turned into one vector, a feature that the model predicts from whatever it is given; so is a
question, and the nearest ones by cosine are its hits (4M-21, Bachmann et al. 2024, sec. 4.2).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fourm.errors import ConfigError, DataError
from fourm.files import publish, replacing
from fourm.generate.answer import any_to_any, check_counts
from fourm.generate.asking import SETTINGS, Common, Done, Run, report_path, settle
from fourm.generate.bundle import Bundle, get_ready, identity, raw_modality
from fourm.generate.files import png
from fourm.generate.inputs import GivenValue
from fourm.generate.names import resolve
from fourm.generate.natural import take_text
from fourm.generate.plan import GenerationPlan, Step
from fourm.generate.prompts import Prompt, open_prompts, split_prompts
from fourm.generate.reading import parse_given
from fourm.generate.results import Results, check_folder, make_folder
from fourm.machine import Part, local_place, part_from_environment
from fourm.modality import Modality
from fourm.report.grid import grid
from fourm.report.pictures import draw

_FORMAT = "fourm-index-2"
_ROWS_AT_ONCE = 1 << 16


class Hit(NamedTuple):
    """One thing that was found.

    Args:
        key: of the prompt.
        score: cosine to the question, -1 to 1.
    """

    key: str
    score: float


def feature_plan(bundle: Bundle, feature: str) -> GenerationPlan:
    """One step that predicts a feature, always the likeliest.

    Raises:
        ConfigError: if the model generates no such feature, or cannot decode it.
    """
    outputs = bundle.model.modalities.outputs
    modality = resolve(feature, outputs, "generate")
    if not _is_feature(bundle, modality):
        suited = [m.name for m in outputs if _is_feature(bundle, m)]
        raise ConfigError(
            f"--feature {feature}: '{modality.name}' does not decode to features; of this model's targets these do: "
            f"{', '.join(suited) or 'none'}"
        )
    return GenerationPlan([Step(modality.name, "roar", temperature=0.0)])


def _is_feature(bundle: Bundle, modality: Modality) -> bool:
    if not modality.is_grid or modality.name not in bundle.tokenizers:
        return False
    raw = raw_modality(bundle, modality)
    return raw.decode == "features" or raw.teacher is not None


def vectors(features: Tensor) -> Tensor:
    """(B, C, h, w) features as (B, C) vectors of unit length; those of maps are the mean over places."""
    return F.normalize(features.float().mean((2, 3)), dim=1)


def build(
    bundle: Bundle,
    *,
    prompts: str,
    feature: str,
    out: Path,
    model: str,
    device: str = "auto",
    bf16: bool = False,
    batch_size: int = 32,
    part: Part | None = None,
) -> Done:
    """Make an index: one vector per prompt. A share that is there is not made again.

    Args:
        bundle: model and tokenizers.
        prompts: see `fourm.generate.prompts.open_prompts`; the place is kept, to show what was found.
        feature: name of a target that decodes to features, such as `tok_dinov2_global`.
        out: folder of the index.
        model: place of the model, kept for questions.
        device, bf16, batch_size: as in `fourm.generate.job.run`.
        part: which share; None: as torchrun or SLURM say.

    Raises:
        ConfigError: for a feature that is none, or an index of other settings in `out`.
        DataError: if there are no prompts, or not one of them can be followed.
    """
    check_counts(1, batch_size)
    check_folder(out)
    part = part or part_from_environment()
    plan = feature_plan(bundle, feature)
    get_ready(bundle, plan.makers, device, bf16=bf16, local_rank=local_place().index)
    written, source = _absolute(prompts), open_prompts(bundle, prompts)
    make_folder(out)
    settings = {
        "format": _FORMAT, "model": str(Path(model).resolve()) if Path(model).exists() else model, "prompts": written,
        "feature": feature, "num_prompts": len(source), "keys": _digest(source.keys), "parts": part.count,
        "weights": identity(bundle),
    }  # fmt: skip
    settle(out / SETTINGS, settings)
    path = out / f"vectors_{part.index:05d}.npz"
    done = Done(report_path(out, part))
    if path.is_file():
        done.skipped = len(_load(path)[0])
        return done
    places = {key: number for number, key in enumerate(source.keys)}
    found: dict[int, Tensor] = {}

    def keep(prompt: Prompt, results: Results) -> None:
        found[places[prompt.key]] = vectors(results[feature])[0]

    run = Run(bundle, source, Common(bundle, {}, {}), [feature], plan, 0, 1, lambda _: False, keep, done)
    run.all(part, batch_size, {"expected": True, "bf16": bf16, "batch_size": batch_size})
    numbers = np.array(sorted(found), np.int64)
    size = len(next(iter(found.values()))) if found else 0
    rows = np.stack([found[n].numpy() for n in numbers]) if found else np.zeros((0, size), np.float32)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, numbers=numbers, keys=np.array([source.keys[n] for n in numbers], np.str_), vectors=rows)
    return done


def _absolute(prompts: str) -> str:
    """The same prompts, wherever one stands."""
    names, place = split_prompts(prompts)
    return names + "=" * bool(names) + str(Path(place).resolve())


def _digest(keys: Sequence[str]) -> str:
    """What tells these keys, in this order, from others."""
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]


class Index:
    """An index that was made by `build`.

    Args:
        folder: where it is.

    Raises:
        DataError: if it is not there, damaged or not complete.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        try:
            settings = json.loads((folder / SETTINGS).read_text())
            self.model, self.prompts, self.feature = (str(settings[key]) for key in ("model", "prompts", "feature"))
            self.weights = settings.get("weights")
            self.num_prompts, num_parts = int(settings["num_prompts"]), int(settings["parts"])
            if settings["format"] != _FORMAT:
                raise ValueError(f"format is {settings['format']!r}")
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise DataError(f"{folder} is no index: {error}. Make one with `fourm retrieve index`") from None
        paths = [folder / f"vectors_{number:05d}.npz" for number in range(num_parts)]
        missing = [path.name for path in paths if not path.is_file()]
        if missing:
            raise DataError(
                f"{folder} lacks {missing[0]} ({len(missing)} of {num_parts} parts): run the same `fourm retrieve "
                "index` again, with as many processes"
            )
        parts = [part for part in map(_load, paths) if len(part[0])]
        if not parts:
            raise DataError(f"{folder} holds no vectors: make it again from prompts that can be followed")
        self.numbers, self.keys, rows = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        self.vectors = torch.from_numpy(rows)

    def nearest(self, question: Tensor, count: int) -> list[Hit]:
        """The prompts with the highest cosine, best first, of equals the first.

        Args:
            question: (C,).
            count: most hits.

        Raises:
            DataError: for a vector of another length.
        """
        if question.shape != self.vectors.shape[1:]:
            raise DataError(
                f"the question is a vector of {question.shape[0]} numbers, and those of the index have "
                f"{self.vectors.shape[1]}: ask with the model that made it"
            )
        unit = F.normalize(question.float().cpu(), dim=0)
        scores = torch.cat([rows @ unit for rows in self.vectors.split(_ROWS_AT_ONCE)])
        order = np.lexsort((self.numbers, -scores.numpy()))[:count]
        return [Hit(str(self.keys[i]), float(scores[i])) for i in order]


def _load(path: Path) -> tuple[Any, Any, Any]:
    """Numbers of prompts, their keys and vectors."""
    try:
        with np.load(path, allow_pickle=False) as file:
            numbers, keys, rows = file["numbers"], file["keys"], file["vectors"]
            if not numbers.shape == keys.shape == rows.shape[:1] or rows.ndim != 2 or not np.isfinite(rows).all():
                raise ValueError(f"{rows.shape} vectors of {numbers.shape} prompts with {keys.shape} keys")
            return numbers, keys, rows
    except (OSError, ValueError, LookupError, EOFError) as error:
        raise DataError(f"{path} is damaged: {error}. Remove it, and run `fourm retrieve index` again") from None


def query(
    bundle: Bundle,
    index: Index,
    *,
    given: Sequence[str],
    out: Path,
    top: int = 8,
    device: str = "auto",
    bf16: bool = False,
) -> list[Hit]:
    """What of an index is nearest to what is given.

    Args:
        bundle: the model that made the index.
        index: where to look.
        given: `NAME=VALUE`, any modalities the model reads, as in `fourm.generate.job.run`.
        out: folder for `hits.json` and `hits.png`.
        top: most hits.
        device: auto, cuda, mps or cpu.
        bf16: compute in bfloat16.

    Raises:
        ConfigError: for names that the model cannot read.
        DataError: for values that do not fit, prompts that are not where they were, or a model that has been trained
            since.
    """
    if index.weights not in (None, identity(bundle)):
        raise DataError(f"the index was made by another model than that in {index.model}: make it again")
    check_folder(out)
    arguments = parse_given(given)
    plan = feature_plan(bundle, index.feature)
    get_ready(bundle, plan.makers, device, bf16=bf16)
    source = open_prompts(bundle, index.prompts)
    if len(source) != index.num_prompts:
        raise DataError(
            f"{index.prompts} holds {len(source)} prompts, and the index was made of {index.num_prompts}: make it again"
        )
    places = {key: number for number, key in enumerate(source.keys)}
    gone = [str(key) for key in index.keys if key not in places]
    if gone:
        raise DataError(
            f"{index.prompts} no longer holds the prompt '{gone[0]}' ({len(gone)} of {len(index.keys)} in the index "
            "are gone): put it back, or make the index again in a new folder"
        )
    values = [take_text(bundle, name, text) for name, text in arguments.items()]
    asked = any_to_any(bundle, {v.key: v.facts for v in values}, [index.feature], plan=plan, expected=True, bf16=bf16)
    hits = index.nearest(vectors(asked[index.feature])[0], top)
    shown = []
    for hit in hits:
        prompt = source[places[hit.key]]
        shown.append([prompt.read(name, name) for name in prompt.names])
    make_folder(out)
    report = [
        {"key": hit.key, "score": round(hit.score, 6), "where": source.place(places[hit.key])} for hit in hits
    ]  # fmt: skip
    publish(out / "hits.json", json.dumps(report, indent=1) + "\n")
    publish(out / "hits.png", png(_picture(values, hits, shown)))
    return hits


def _picture(values: Sequence[GivenValue], hits: Sequence[Hit], shown: Sequence[Sequence[GivenValue]]) -> Any:
    """The question in a column of its own, and each hit under its score."""
    columns = [list(values), *shown]
    rows = max(map(len, columns))
    cells = [[draw(c[row].shown, c[row].pictures[0]) if row < len(c) else None for c in columns] for row in range(rows)]
    return grid(cells, columns=["question", *(f"{hit.score:.3f} {hit.key}" for hit in hits)])
