"""Make a model folder of a training checkpoint, at any time of a run and on any machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fourm import config as configs
from fourm.errors import CheckpointError, ConfigError
from fourm.models import folder as folders
from fourm.nn.init import fill_tables
from fourm.nn.lora import add_lora, merge_lora
from fourm.recipe.encoders import adopt_vocabulary, load_text_tokenizer
from fourm.recipe.schema import PretrainRecipe, TokenizerRecipe
from fourm.registry import implementation
from fourm.train.checkpoint import CheckpointStore
from fourm.train.distributed import World
from fourm.train.record import RECORD, damage, read_record
from fourm.train.remote import Place, place


def export(source: str | Path, out: Path, *, averaged: bool | None = None) -> str:
    """Write the weights of a checkpoint as safetensors, in the folder layout that everything else reads.

    Args:
        source: a checkpoint, the folder of a run or of its checkpoints, or a URL of these; the newest one counts.
        out: the model folder to write.
        averaged: take the averaged weights; None: if there are any.

    Returns:
        what was done, for the user.

    Raises:
        CheckpointError: if there is no complete checkpoint, or it does not fit its recipe.
    """
    path = find_checkpoint(source)
    if path is None:
        raise CheckpointError(
            f"there is no complete checkpoint in {source}: expected a folder step-..., or one with such folders"
        )
    model, recipe, step, taken = _restore(path, averaged)
    if isinstance(recipe, PretrainRecipe):
        folders.save_model(model, out, recipe.tokenizers, recipe.document_form)
    else:
        model.save(out)
    return f"{out}: {taken} of {path} (step {step})"


def find_checkpoint(source: str | Path) -> Place | None:
    """The checkpoint that a place is, or the newest complete one in it; None if there is none."""
    start = place(source)
    if (start / RECORD).is_file():
        return start  # type: ignore[no-any-return]
    for folder in (start / "checkpoints", start):
        for path in sorted(folder.glob("step-*"), reverse=True):
            if damage(path) is None:
                return path  # type: ignore[no-any-return]
    return None


def load_checkpoint(path: Place, *, averaged: bool | None = None) -> Any:
    """The model or tokenizer of a checkpoint, in evaluation mode, on the CPU.

    Raises:
        CheckpointError: if it does not fit its recipe.
    """
    return _restore(path, averaged)[0].eval()


def _restore(path: Place, averaged: bool | None) -> tuple[Any, PretrainRecipe | TokenizerRecipe, int, str]:
    record = read_record(path)
    recipe = _recipe(record, path)
    with torch.device("meta"):  # all weights come from the checkpoint: no tower, no painter is read where it came from
        model = _build(recipe)
    model._apply(lambda tensor: torch.empty_like(tensor, device="cpu") if tensor.is_meta else tensor)
    taken = "weights"

    def targets(saved: set[str]) -> dict[str, Tensor]:
        nonlocal taken
        means = {name for name in saved if name.startswith("ema/")}
        if averaged and not means:
            raise CheckpointError(f"{path} has no averaged weights: the run had no train.ema_decay")
        state = model.state_dict()
        if not means or averaged is False:
            return {f"model/{name}": tensor for name, tensor in state.items()}
        taken = "averaged weights"
        parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
        replaced = {tensor.data_ptr() for tensor in parameters.values()}  # a tied one has several names
        rest = {f"model/{n}": t for n, t in state.items() if t.data_ptr() not in replaced}
        return rest | {f"ema/{name}": tensor for name, tensor in parameters.items()}

    with torch.no_grad():
        CheckpointStore(_parent(path), World()).load(path, targets)
        fill_tables(model)
    merge_lora(model)
    return model, recipe, int(record["step"]), taken


def _parent(path: Place) -> Any:
    return path.parent if isinstance(path, Path) else str(path.parent)


def _recipe(record: dict[str, Any], path: Place) -> PretrainRecipe | TokenizerRecipe:
    values = record["metadata"].get("recipe")
    schema: type[Any] = PretrainRecipe if "modalities" in (values or {}) else TokenizerRecipe
    try:
        return configs.build(schema, values or {}, where=str(path))  # type: ignore[no-any-return]
    except ConfigError as error:
        raise CheckpointError(f"the recipe in {path} is from another version of fourm: {error}") from None


def _build(recipe: PretrainRecipe | TokenizerRecipe) -> nn.Module:
    if isinstance(recipe, TokenizerRecipe):
        return implementation(recipe.tokenizer.target)(recipe.raw_modality(), recipe.tokenizer)  # type: ignore[no-any-return]
    modalities = adopt_vocabulary(recipe.modality_set(), load_text_tokenizer(recipe.tokenizers))
    model: nn.Module = implementation(recipe.model.target)(modalities, recipe.model, recipe.seed)
    if recipe.lora is not None:
        add_lora(model, recipe.lora, recipe.seed, freeze=False)
    return model
