"""Work for the page: generation of any modalities from any others."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from fourm.generate.answer import follow, read_all, shown_by
from fourm.generate.bundle import Bundle
from fourm.generate.chain import Answers, sample_seeds
from fourm.generate.inputs import GivenValue, find_given, give
from fourm.generate.natural import take, take_bytes
from fourm.generate.overview import pictures
from fourm.generate.planning import plan_for
from fourm.generate.reading import read_bytes, read_text
from fourm.modality import Modality
from fourm.serve.one_by_one import Answer, Busy, Finished, Line, OneByOne, Stopped
from fourm.serve.request import Request

__all__ = ["Answer", "Busy", "Finished", "Stopped", "Worker", "read_value"]

_SMALL = 256


class Worker(OneByOne[Request]):
    """Generates any modalities from any others."""

    def count(self, request: Request) -> int:
        """Targets of a request."""
        return len(request.targets)

    def generate(self, request: Request, out: Path, line: Line) -> None:
        """All targets, and their files."""
        bundle = self.bundle
        plan, names, kept = plan_for(bundle, request.targets, request.given, request.known, None)
        if request.guidance is not None:
            plan = replace(plan, steps=[replace(step, guidance=request.guidance) for step in plan.steps])
        values = read_all(bundle, request.given, request.known, kept, read_value)
        label, shown = {target: name for name, target in names.items()}, shown_by(bundle, plan, names)
        order = list(plan.targets)
        done: Answers = {}

        def tell(target: str, answers: Any) -> None:
            done[label[target]] = answers
            line.news.put(_answer(values, done, shown, out))
            line.check()
            if len(done) < len(order):
                line.news.put(Busy(label[order[len(done)]], len(done), len(order)))

        line.news.put(Busy(label[order[0]], 0, len(order)))
        seeds = sample_seeds(request.seed, request.num_samples)
        results = follow(
            bundle, values, plan, names, seeds, request.num_samples, ensemble=request.ensemble, bf16=self.bf16,
            batch_size=len(seeds), watch=tell,
        )  # fmt: skip
        paths = results.write(out)
        drawn = pictures(results.given, results, shown, results.uncertainty) if request.ensemble else {}
        last = {name: _write(found, out, f"last_{n}") for n, (name, found) in enumerate(drawn.items())}
        line.news.put(Finished(out / "grid.png", [pack(out, paths), *paths], last))


def read_value(bundle: Bundle, name: str, content: bytes | str, known: bytes | str | None = None) -> GivenValue:
    """A value of a request as the model reads it, from the content of a file or from text. Opens no file.

    Args:
        bundle: model and tokenizers.
        name: of the modality.
        content: the file, or the text.
        known: the file of a mask, or `some`; see `fourm.generate.natural.take`.

    Raises:
        FourmError: if it is damaged, or of another kind.
    """
    if isinstance(content, bytes):
        if known is None:
            return read_bytes(bundle, name, content, f"given {name}")
        return take_bytes(bundle, name, content, known)
    modality, _ = find_given(bundle, name)
    # The name of a modality stands where a path could, so that a text such as `secrets.json` opens no file.
    value = read_text(Path(name), content, modality)
    return give(bundle, name, value) if known is None else take(bundle, name, value, known)


def _answer(values: list[GivenValue], done: Answers, shown: Mapping[str, Modality], folder: Path) -> Answer:
    """The last of what is done, drawn as in the picture of all: boxes on the photograph, in the colours of the map."""
    name, found = list(done.items())[-1]
    is_written = isinstance(found, list) and not any(hasattr(value, "shape") for value in found)
    texts = [value if isinstance(value, str) else _as_text(value) for value in found] if is_written else []
    return Answer(name, _write(pictures(values, done, shown)[name], folder, f"shown_{len(done)}"), texts)


def _write(drawn: Sequence[Image.Image], folder: Path, stem: str) -> list[Path]:
    paths = [folder / f"{stem}_{number}.png" for number in range(len(drawn))]
    for path, picture in zip(paths, drawn, strict=True):
        enlarged(picture).save(path)
    return paths


def enlarged(picture: Image.Image) -> Image.Image:
    """Small maps by whole pixels, so that they stay what they are."""
    times = max(1, _SMALL // max(picture.size))
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def _as_text(value: Any) -> str:
    return json.dumps(_short(value), ensure_ascii=False)


def _short(value: Any) -> Any:
    """To read, not to compute with; the files hold all digits."""
    if isinstance(value, Mapping):
        return {str(key): _short(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_short(item) for item in value]
    return float(f"{value:.3g}") if isinstance(value, float) else value


def pack(folder: Path, paths: list[Path]) -> Path:
    """All files in one, `answers.zip` beside them."""
    packed = folder / "answers.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            archive.write(path, path.name)
    return packed
