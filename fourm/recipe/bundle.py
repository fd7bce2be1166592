"""A trained model with the tokenizers it speaks with, ready to be given photographs and asked for pictures and text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fourm import catalog, recipes
from fourm import config as configs
from fourm.convert import checkpoints
from fourm.convert.published import CONFIG_FILE, MODALITIES_FILE, download, is_hub_id, open_published
from fourm.data.document_form import DocumentForm
from fourm.errors import CheckpointError, ConfigError
from fourm.generate.plan import GenerationPlan
from fourm.models import folder as folders
from fourm.models.multimodal import Multimodal
from fourm.recipe.schema import TEXT
from fourm.tokenizers import base, published_text
from fourm.tokenizers.deferred import Deferred
from fourm.tokenizers.text import TextTokenizer

if TYPE_CHECKING:
    from fourm.generate.results import Results
    from fourm.machine import Precision

__all__ = ["Bundle", "generate", "load_bundle", "load_model", "load_tokenizer"]


@dataclass
class Bundle:
    """A model and its tokenizers.

    Args:
        model: in evaluation mode.
        tokenizers: token modality -> its tokenizer.
        text: the text tokenizer; None for a model without text.
        others: name -> further model that steps of a plan may name.
        place: where it was found.
        documents: how documents are written around it; None: it has learned from none, or does not say.
    """

    model: Multimodal
    tokenizers: dict[str, Any] = field(default_factory=dict)
    text: TextTokenizer | None = None
    others: dict[str, Bundle] = field(default_factory=dict)
    place: str = ""
    documents: DocumentForm | None = None


def load_model(path: str | Path) -> Multimodal:
    """A trained model, in evaluation mode, on the CPU.

    Args:
        path: a model folder, the output folder of a pretraining run, a published 4M checkpoint (folder, `.safetensors`
            or `.pth` file), or the id of a repository on the Hugging Face Hub, of fourm or published.

    Raises:
        CheckpointError: if there is no model, or it is damaged.
    """
    found = _find(path)
    if _is_ours(found):
        checkpoints.tell_licence_of(found)
        return folders.load_model(found)
    return _published_model(found, path)


def load_tokenizer(
    path: str | Path,
    device: str = "cpu",
    *,
    modality: str | None = None,
    sampling: Mapping[str, Any] | None = None,
    precision: Precision | None = None,
    channels_last: bool | None = None,
) -> Any:
    """A trained image tokenizer, ready for inference.

    Args:
        path: the same kinds of places as for `load_model`.
        device: where to put it.
        modality: for a published tokenizer, the raw modality in the catalog that it encodes; None: as its config, its
            name or its shapes say.
        sampling, precision, channels_last: how to decode; see `fourm.tokenizers.base.load_tokenizer`.

    Raises:
        CheckpointError: if there is no tokenizer, or it is damaged.
        ConfigError: if it cannot be decoded so.
    """
    found = _find(path)
    options: dict[str, Any] = {"sampling": sampling, "precision": precision, "channels_last": channels_last}
    if _is_ours(found):
        checkpoints.tell_licence_of(found)
        return base.load_tokenizer(found, device, **options)
    from fourm.convert.load import load_published_tokenizer

    published = open_published(found)
    return base.for_use(load_published_tokenizer(published, modality).network.to(device), **options)


def load_bundle(path: str | Path, text_tokenizer: str | Path | None = None) -> Bundle:
    """A trained model with all its tokenizers; see `load_model`.

    The tokenizers of a published model are fetched from the Hub when they are first needed.

    Args:
        path: of the model.
        text_tokenizer: file to use instead of the one that came with the model; None: for a published model that came
            without, the file that the variable FOURM_TEXT_TOKENIZER names.
    """
    return replace(_open_bundle(path, text_tokenizer), place=str(path))


def with_others(
    bundle: Bundle,
    plan: GenerationPlan | str | Path | None,
    models: Mapping[str, str | Path | Bundle],
    text_tokenizer: str | Path | None = None,
) -> Bundle:
    """The same model, with the further ones that steps of a plan name.

    Args:
        bundle: the model that is asked.
        plan: as `fourm generate --plan` takes it; its `models` say where they are.
        models: name -> place as in `load_model`, or an open bundle; instead of the plan's, and beside them.
        text_tokenizer: as in `load_bundle`.

    Raises:
        ConfigError: if no step of the plan names one of `models`.
        CheckpointError: if one is not there, or damaged.
    """
    places: dict[str, str | Path | Bundle] = dict(models)
    if plan is not None:
        loaded = plan if isinstance(plan, GenerationPlan) else recipes.load(plan, GenerationPlan, folder="generate")
        named = {step.model for step in loaded.steps}
        stray = [name for name in models if name not in named]
        if stray:
            raise ConfigError(f"--model {stray[0]}: no step of the plan names this model")
        places = {name: place for name, place in loaded.models.items() if name in named} | places
    if not places:
        return bundle
    others = {
        name: place if isinstance(place, Bundle) else load_bundle(place, text_tokenizer)
        for name, place in places.items()
    }
    return replace(bundle, others={**bundle.others, **others})


def _open_bundle(path: str | Path, text_tokenizer: str | Path | None) -> Bundle:
    found = _find(path)
    if not _is_ours(found):
        model = _published_model(found, path)
        ours = (found / MODALITIES_FILE).is_file()  # exported by fourm: its tokenizers are its own
        return Bundle(model, {} if ours else _published_tokenizers(model, {}), _published_text(text_tokenizer))
    checkpoints.tell_licence_of(found)
    paths = folders.tokenizer_paths(found)
    inside = paths.pop(TEXT, None)
    model, tokenizers = folders.load_model(found), {name: load_tokenizer(p) for name, p in paths.items()}
    if (found / "published").is_dir():  # converted: what it did not bring along is on the Hub
        tokenizers = _published_tokenizers(model, tokenizers)
        return Bundle(model, tokenizers, _published_text(text_tokenizer or inside))
    text = text_tokenizer or inside
    words = TextTokenizer.load(text) if text is not None else None
    return Bundle(model, tokenizers, words, documents=_document_form(found))


def _document_form(found: Path) -> DocumentForm | None:
    """How documents are written around the model of a folder, where it says so.

    Raises:
        CheckpointError: if it says so in another way.
    """
    said, where = folders.read_config(found).documents, str(found / CONFIG_FILE)
    try:
        return None if said is None else configs.build(DocumentForm, said, where, "documents")
    except ConfigError as error:
        raise CheckpointError(f"{error}. The folder is damaged or from another version of fourm") from None


def generate(
    model: str | Path | Bundle,
    given: Mapping[str, Any],
    to: Sequence[str] | str,
    *,
    models: Mapping[str, str | Path | Bundle] | None = None,
    device: str | None = None,
    **options: Any,
) -> Results:
    """Generate any modalities from any others: `fourm.generate(...)`; see `fourm.generate.answer.any_to_any`.

    Args:
        model: as in `load_model`, or an open bundle, which saves the time of loading.
        given: name -> path, PIL image, array, text, or a value in natural units.
        to: what to generate, in this order.
        models: name -> further model, as `model`. It makes what the first cannot, or the steps of a plan that name it.
        device: where to compute; None: an open bundle stays where it is, a model that is loaded takes the best there
            is.
        options: known, plan, sees, seed, num_samples, ensemble, progress and the like.

    Returns:
        a dict of values that can also `.grid()`, `.save(folder)`, and show itself in notebooks.
    """
    from fourm.generate import answer
    from fourm.generate.bundle import device_of, move
    from fourm.machine import choose_device

    bundle = with_others(model if isinstance(model, Bundle) else load_bundle(model), options.get("plan"), models or {})
    if device is not None or not isinstance(model, Bundle):
        move(bundle, choose_device(device or "auto"))
    elif bundle is not model:  # where the open one is
        move(bundle, device_of(bundle.model))
    return answer.any_to_any(bundle, given, to, **options)


def _find(path: str | Path) -> Path:
    """The folder or file of a network: here, inside the output of a run, or downloaded."""
    place = Path(path)
    for candidate in (place / "model", place):
        if (candidate / CONFIG_FILE).is_file():
            return candidate
    if place.is_file():
        return place
    if place.exists() or not is_hub_id(path):
        raise CheckpointError(
            f"there is no model or tokenizer in {path}: expected a folder with config.json and model.safetensors, a "
            "published .safetensors or .pth file, or a repository on the Hub, such as EPFL-VILAB/4M-7_B_CC12M"
        )
    return download(str(path))


def _is_ours(place: Path) -> bool:
    """Whether a folder is in the layout of fourm; what is neither ours nor published counts as ours, and is refused."""
    if place.is_file():
        return False
    try:
        facts = json.loads((place / CONFIG_FILE).read_text())
    except (OSError, ValueError):
        return True
    return not isinstance(facts, dict) or "format" in facts


def _published_model(found: Path, path: str | Path) -> Multimodal:
    from fourm.convert.load import load_published_model

    checkpoints.tell_licence(path)
    model: Multimodal = load_published_model(open_published(found)).network
    return model


def _published_tokenizers(model: Multimodal, own: Mapping[str, Any]) -> dict[str, Any]:
    """Tokenizers of all token modalities that have a published one, fetched when needed; `own` come first."""
    found = dict(own)
    for m in model.modalities.values():
        repository = checkpoints.tokenizer_repository(m.tokenizer) if m.is_grid and m.tokenizer else None
        if m.name not in found and m.tokenizer is not None and repository is not None:
            raw = catalog.get(m.tokenizer)
            found[m.name] = Deferred(raw, partial(load_tokenizer, repository, modality=raw.name))
    return found


def _published_text(path: str | Path | None) -> TextTokenizer | None:
    found = published_text.published_text_tokenizer(path)
    return TextTokenizer.load(found) if found is not None else None
