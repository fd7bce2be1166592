"""Class names as models write them, and COCO's as the catalog does. Free of torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from fourm.errors import CheckpointError

NO_CLASS = "N/A"
"""What COCO's numbering has in place of classes that it left out."""
_SUFFIXES = ("-merged", "-other", "-stuff")  # in the order in which they are taken off: `sky-other-merged`
_SYNONYMS = {  # Pascal VOC's names (Everingham et al. 2010), which some models keep for COCO's classes
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


def coco_name(name: str) -> str:
    """A class as the catalog calls it: `sky-other-merged` -> `sky`, `tvmonitor` -> `tv`."""
    plain = name.strip().lower()
    for suffix in _SUFFIXES:
        plain = plain.removesuffix(suffix)
    return _SYNONYMS.get(plain, plain)


def as_coco(names: Sequence[str], classes: Sequence[str]) -> list[str | None] | None:
    """The names of a model as those of COCO, None in place of others; None if it does not know all of `classes`."""
    found = [coco_name(name) for name in names]
    return None if set(classes) - set(found) else [name if name in classes else None for name in found]


@cache
def model_classes(name: str, weights: Path | None) -> tuple[str, ...]:
    """The classes of a model of the transformers library, in the order of their ids, from its `config.json`.

    Args:
        name: repository on the Hub, or a local folder.
        weights: local folder used instead.

    Raises:
        CheckpointError: if the file cannot be had, or lists no classes.
    """
    folder = weights or (Path(name) if Path(name).is_dir() else None)
    try:
        if folder is None:
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(name, "config.json"))
        else:
            path = folder / "config.json"
        labels = json.loads(path.read_bytes())["id2label"]
        return tuple(str(labels[str(number)]) for number in range(len(labels)))
    except Exception as error:  # downloads and files fail in many ways
        reason = str(error).strip().partition("\n")[0]
        reason = f"it has no {reason}" if isinstance(error, KeyError) else reason or type(error).__name__
        raise CheckpointError(
            f"the classes of '{name}' cannot be read from its config.json: {reason}. Run once with access to the "
            "internet, or set `weights` to a local folder with the model, as `save_pretrained` writes it"
        ) from error
