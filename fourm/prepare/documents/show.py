"""A page with documents of every task, as a model gets them: pictures and texts in order, what is asked marked."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image as Picture

from fourm.data.interleaved_configs import InterleavedConfig
from fourm.data.interleaved_files import LineDocuments
from fourm.data.interleaved_parts import Image, Part
from fourm.errors import DataError
from fourm.prepare.documents.job import SUMMARY
from fourm.report.html import Cell, Page

_ASKED = "→ "
_SHOWN = 4
"""Pictures are shown so many times as large."""


def show_documents(out: Path, page: Path, *, num: int = 12) -> Path:
    """Write the page.

    Args:
        out: folder of documents.
        page: the HTML file.
        num: documents of each task, at even distances.

    Raises:
        DataError: if there are no documents, or the page cannot be written.
    """
    try:
        summary: dict[str, dict[str, Any]] = json.loads((out / SUMMARY).read_bytes())
    except (OSError, ValueError) as error:
        raise DataError(f"{out} holds no documents ({SUMMARY}: {error}). Run `fourm prepare documents` first") from None
    result = Page(
        f"Documents in {out.name}", f"{_ASKED}marks what a model is asked where a recipe asks for what documents mark."
    )
    for task, facts in summary.items():
        documents = LineDocuments(str(out / f"{task}.jsonl"), InterleavedConfig(reader=facts["reader"]))
        total = documents.sizes[0]
        guess = (
            f"; the best guess without pictures is right in {facts['best_guess']:.1%}" if "best_guess" in facts else ""
        )
        result.section(task, f"{total:,} documents, read as {facts['reader']}{guess}.")
        chosen = sorted({(2 * i + 1) * total // (2 * num) for i in range(num)}) if total else []
        rows = [[_cell(documents, part) for part in documents.read(0, n)] for n in chosen]
        widest = max(map(len, rows), default=0)
        cells = [row + [None] * (widest - len(row)) for row in rows]
        result.grid(cells, rows=[str(n + 1) for n in chosen])
    try:
        return result.save(page)
    except OSError as error:
        raise DataError(f"cannot write {page}: {error.strerror or error}; name another file with --out") from error


def _cell(documents: LineDocuments, part: Part) -> Cell:
    mark = _ASKED if part.asked else ""
    if isinstance(part, Image):
        picture = Picture.open(io.BytesIO(documents.image(part))).convert("RGB")
        size = (picture.width * _SHOWN, picture.height * _SHOWN)
        return picture.resize(size, Picture.Resampling.NEAREST) if max(picture.size) <= 128 else picture
    return mark + (part.text if isinstance(part.text, str) else f"\n{mark}".join(part.text))
