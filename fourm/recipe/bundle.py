"""A trained model with the tokenizers it speaks with, ready to be given photographs and asked for pictures and text."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fourm.errors import CheckpointError
from fourm.models import folder as folders
from fourm.models.multimodal import Multimodal
from fourm.recipe.schema import TEXT
from fourm.tokenizers.base import Tokenizer, load_tokenizer
from fourm.tokenizers.text import TextTokenizer

__all__ = ["Bundle", "any_to_any", "load_bundle", "load_model", "load_tokenizer"]


@dataclass
class Bundle:
    """A model and its tokenizers.

    Args:
        model: in evaluation mode.
        tokenizers: token modality -> its tokenizer.
        text: the text tokenizer; None for a model without text.
    """

    model: Multimodal
    tokenizers: dict[str, Tokenizer] = field(default_factory=dict)
    text: TextTokenizer | None = None


def load_model(path: str | Path) -> Multimodal:
    """A trained model, in evaluation mode.

    Args:
        path: a model folder, the output folder of a pretraining run, or the id of a repository on the Hugging Face Hub.

    Raises:
        CheckpointError: if there is no model, or it is damaged.
    """
    return folders.load_model(_find(path))


def load_bundle(path: str | Path) -> Bundle:
    """A trained model with all its tokenizers; see `load_model`."""
    folder = _find(path)
    paths = folders.tokenizer_paths(folder)
    text = TextTokenizer.load(paths.pop(TEXT)) if TEXT in paths else None
    return Bundle(folders.load_model(folder), {name: load_tokenizer(p) for name, p in paths.items()}, text)


def any_to_any(model: str | Path | Bundle, given: dict[str, Any], to: list[str], **options: Any) -> dict[str, Any]:
    """Generate any modalities from any others; see `fourm.generate.answer.any_to_any`.

    Args:
        model: as in `load_model`, or an open bundle.
        given: name -> value in natural units.
        to: what to generate, in this order.
        options: plan, seed, num_samples and the like.
    """
    from fourm.generate import answer

    bundle = model if isinstance(model, Bundle) else load_bundle(model)
    return answer.any_to_any(bundle, given, to, **options)


def _find(path: str | Path) -> Path:
    folder = Path(path)
    for candidate in (folder, folder / "model"):
        if (candidate / "config.json").is_file():
            return candidate
    if folder.exists() or str(path).count("/") != 1 or str(path).startswith((".", "/")):
        raise CheckpointError(f"there is no model in {path}: expected a folder with config.json and model.safetensors")
    return _download(str(path))


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=["*.json", "*.safetensors", "tokenizers/*"]))
    except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise CheckpointError(f"no folder '{repository}' here, and the Hub does not give it: {first}") from None
