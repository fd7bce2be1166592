"""`fourm convert`: published checkpoints become folders of fourm, and trained models the published layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from fourm.convert import ml4m, ml4m_tokenizer_export, ml4m_tokenizers
from fourm.convert.load import Loaded, load_published_model, load_published_tokenizer, summary
from fourm.convert.published import CONFIG_FILE, open_published, read_table
from fourm.convert.rules import Imported, Rule, write
from fourm.convert.side import SIDE_FOLDER, read_side, write_side
from fourm.convert.write import own_folder, write_checkpoint
from fourm.errors import CheckpointError
from fourm.files import publish
from fourm.modality import Modality, to_dict
from fourm.models import folder as folders
from fourm.models.multimodal import Multimodal
from fourm.tokenizers import published_text, saved
from fourm.tokenizers.autoencoder import Autoencoder
from fourm.tokenizers.base import load_tokenizer, tokenizer_folder


def from_ml4m(
    source: str | Path,
    out: Path,
    *,
    modality: str | None = None,
    tokenizers: Mapping[str, Path] | None = None,
    text_tokenizer: Path | None = None,
) -> list[str]:
    """Turn a published checkpoint into a folder of fourm.

    Args:
        source: see `open_published`.
        out: folder of the model or tokenizer.
        modality: for a tokenizer, the raw modality that it encodes.
        tokenizers: for a transformer, token modality -> folder of its converted tokenizer, to be copied along.
        text_tokenizer: for a transformer, the published file.

    Returns:
        what was done, in lines for people.

    Raises:
        CheckpointError: if it cannot be converted; nothing is written then.
    """
    published = open_published(source)
    if published.is_tokenizer:
        loaded = load_published_tokenizer(published, modality, keep=True)
        loaded.network.save(out)
    else:
        copies = {**(tokenizers or {}), **({"text": text_tokenizer} if text_tokenizer else {})}
        loaded = load_published_model(published, keep=True)
        _check_tokenizers(loaded.network, copies)
        folders.save_model(loaded.network, out, copies)
    write_side(out, loaded)
    return _told(loaded, out, text_tokenizer)


def from_vqgan(source: str | Path, out: Path) -> list[str]:
    """Turn LVM's tokenizer, or one of its layout, into a tokenizer folder of fourm.

    Args:
        source: see `open_published`.
        out: folder of the tokenizer.

    Returns:
        what was done, in lines for people.

    Raises:
        CheckpointError: if it cannot be converted; nothing is written then.
    """
    published = open_published(source)
    if not published.is_vqgan:
        raise CheckpointError(f"{source} is no VQGAN of LVM's layout but a checkpoint of 4M: use fourm convert ml4m")
    loaded = load_published_tokenizer(published, keep=True)
    loaded.network.save(out)
    write_side(out, loaded)
    return _told(loaded, out, None)


def to_ml4m(source: Path, out: Path) -> list[str]:
    """Write a model or tokenizer of ours in the published layout.

    Args:
        source: folder of a model or tokenizer, or the output folder of its training.
        out: a folder for `config.json` and `model.safetensors`, or a `.safetensors` file that carries its config.

    Returns:
        what was done, in lines for people.

    Raises:
        CheckpointError: if the public code cannot express it.
    """
    folder = own_folder(source, "neither a model nor a tokenizer")
    is_tokenizer = "kind" in read_table(folder / CONFIG_FILE)
    own = _tokenizer_parts(folder) if is_tokenizer else _model_parts(folder)
    side = read_side(folder)
    kept = Imported({}) if side is None else side.imported
    config = (side.config if side is not None else None) or own.config()
    state = write(own.rules, own.state, kept=kept.kept, absent=kept.absent, dtypes=kept.dtypes)
    lines = [write_checkpoint(out, config, state, own.modalities)]
    text = folder / "tokenizers" / "text.json"
    if out.suffix != ".safetensors" and text.is_file():
        publish(out / "text_tokenizer.json", text.read_text(encoding="utf-8"))
    fresh = [rule.key for rule in own.rules if rule.is_unread and rule.key in state and rule.key not in kept.kept]
    if fresh:
        lines.append(f"{len(fresh)} tensors that nothing reads are zero, such as {fresh[0]}")
    return lines


class _Own(NamedTuple):
    """One of our networks on its way out.

    Args:
        state: its tensors.
        rules: for them.
        config: makes its published config.
        modalities: name -> facts.
    """

    state: Mapping[str, Tensor]
    rules: list[Rule]
    config: Callable[[], dict[str, Any]]
    modalities: dict[str, Any]


def _model_parts(folder: Path) -> _Own:
    model = folders.load_model(folder)
    if not isinstance(model, Multimodal):
        raise CheckpointError(f"{folder} holds {type(model).__name__}, which the published layout has not")
    modalities = {name: to_dict(m) for name, m in model.modalities.items()}
    return _Own(model.state_dict(), ml4m.rules(model), partial(ml4m.published_config, model), modalities)


def _tokenizer_parts(folder: Path) -> _Own:
    tokenizer = load_tokenizer(tokenizer_folder(folder))
    config = partial(ml4m_tokenizer_export.published_config, tokenizer)
    rules, state = ml4m_tokenizers.rules(tokenizer), ml4m_tokenizers.stored(tokenizer)
    lost = sorted(state.keys() - {name for rule in rules for name in rule.targets})
    if lost:
        config()  # says better what the published layout lacks, where it can
        raise CheckpointError(f"{lost[0]} and {len(lost) - 1} more tensors have no place in the published layout")
    return _Own(state, rules, config, {tokenizer.modality.name: to_dict(tokenizer.modality)})


def _check_tokenizers(model: Multimodal, tokenizers: Mapping[str, Path]) -> None:
    """Whether the tokenizers to copy along are those of modalities of the model."""
    for name, path in tokenizers.items():
        if name == "text":
            continue
        if name not in model.modalities or model.modalities[name].tokenizer in (None, "text"):
            named = [m.name for m in model.modalities.values() if m.tokenizer not in (None, "text")]
            raise CheckpointError(f"'{name}' is no token modality of this model; it has {', '.join(named) or 'none'}")
        check_codes(path, model.modalities[name])


def check_codes(tokenizer: Path, modality: Modality) -> None:
    """See that a tokenizer makes the ids of a modality; rows of several images have special ids behind its codes.

    Raises:
        CheckpointError: if it has another number of codes, or there is none.
    """
    size, ids = _codes(saved.read_facts(tokenizer_folder(tokenizer))["config"]), modality.vocab_size
    if size is not None and (size > ids or (modality.is_grid and size != ids)):
        raise CheckpointError(f"the tokenizer {tokenizer} has {size} codes, but '{modality.name}' of this model {ids}")


def _codes(config: Mapping[str, Any]) -> int | None:
    quantizer = config.get("quantizer")
    return quantizer.get("codebook_size") if isinstance(quantizer, Mapping) else None


def _told(loaded: Loaded, out: Path, text_tokenizer: Path | None) -> list[str]:
    network, found = loaded.network, loaded.imported
    lines = summary(loaded.published, network, out)
    if found.kept:
        lines.append(f"{len(found.kept)} tensors that are not read or are computed here are kept in {SIDE_FOLDER}/")
    if isinstance(network, Multimodal):
        lines.append(f"reads {', '.join(m.name for m in network.modalities.inputs)}")
        lines.append(f"predicts {', '.join(m.name for m in network.modalities.outputs)}")
        if text_tokenizer is None and any(m.tokenizer == "text" for m in network.modalities.values()):
            lines.append(f"without a text tokenizer: {published_text.TEXT_TOKENIZER_REMEDY}")
    elif isinstance(network, Autoencoder):
        lines.append(f"encodes {network.modality.name} into {network.vocab_size:,} codes; kind {network.kind}")
    return lines
