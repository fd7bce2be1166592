"""What of a run goes into a checkpoint, and how it comes back."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fourm.errors import CheckpointError, ConfigError
from fourm.train.checkpoint import CheckpointStore, recipe_differences
from fourm.train.configs import TrainConfig
from fourm.train.ema import WeightAverage
from fourm.train.guard import Guard, NotFiniteError
from fourm.train.optimizer import empty_state, optimizer_state, set_optimizer_state
from fourm.train.provenance import provenance
from fourm.train.record import read_record
from fourm.train.remote import Place
from fourm.train.shards import whole
from fourm.train.state import RunState

# Parts of a recipe that decide what the weights mean.
_MUST_STAY = ("model", "modalities", "tokenizer", "modality", "backbone", "head", "lora")
_MAY_CHANGE = ("backend", "activation_checkpointing")
"""Keys in them that say how the same numbers are computed."""
_LOG = logging.getLogger(__name__)


class Snapshot:
    """Saves and restores weights, optimizer, averaged weights and `RunState`.

    There is no generator state: randomness is a function of seed, step and rank.

    Args:
        store: where checkpoints are.
        model: the plain model, without wrappers; its weights may be spread over the ranks.
        optimizer: over its parameters.
        average: of its weights, or None.
        config: the recipe's `train` part.
        metadata: JSON-able, kept with every checkpoint; holds the resolved recipe under `recipe`, and the hashes of
            the tokenizers in use under `tokenizers`.
        read_recipe: a saved recipe as this version writes it; None: as it is.
        guard: knows what recent steps were like, or None.
    """

    def __init__(
        self,
        store: CheckpointStore,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage | None,
        config: TrainConfig,
        metadata: dict[str, Any],
        read_recipe: Callable[[Any], Any] | None = None,
        guard: Guard | None = None,
    ) -> None:
        self.store, self.config, self._guard = store, config, guard
        self._model, self._optimizer, self._average = model, optimizer, average
        self._metadata = json.loads(json.dumps(metadata, default=str))
        self._read_recipe = read_recipe or (lambda saved: saved)
        self._provenance = provenance()
        self.saved_step = -1

    def save(self, state: RunState, pending_losses: list[list[float]]) -> None:
        """Publish a checkpoint, unless this step has one.

        Args:
            state: where the run stands.
            pending_losses: steps that no log record covers yet.

        Raises:
            NotFiniteError: if weights are not.
            CheckpointError: if it cannot be written.
        """
        if self.saved_step == state.step:
            return
        self._check_weights(state.step)
        record = {
            **dataclasses.asdict(state),
            "pending_losses": pending_losses,
            "recent": {} if self._guard is None else self._guard.state(),
            "world_size": self.store.world.size,
            "seed": self.config.seed,
            "metadata": self._metadata,
            "provenance": self._provenance,
        }
        self.store.save(state.step, self._tensors(), record)
        self.saved_step = state.step

    def resume(self) -> tuple[RunState, list[list[float]]]:
        """Take up the newest complete checkpoint; a new state if there is none.

        Raises:
            CheckpointError: if it belongs to another model or cannot be read.
            ConfigError: if there is one but the recipe forbids resuming.
        """
        path = self.store.latest()
        if path is None:
            return RunState(), []
        if self.config.resume == "never":
            raise ConfigError(
                f"train.resume is never, but {path.parent} already holds {path.name}; choose another output folder"
            )
        self._check_recipe(read_record(path), path)
        _LOG.info("going on from %s", path)
        return self.restore(path)

    def restore(self, path: Place) -> tuple[RunState, list[list[float]]]:
        """Take up a checkpoint of this run.

        Raises:
            CheckpointError: if it cannot be read.
        """
        record = read_record(path)
        tensors = self.store.load(path, self._targets)
        saved = {k.removeprefix("optimizer/"): v for k, v in tensors.items() if k.startswith("optimizer/")}
        set_optimizer_state(self._model, self._optimizer, saved)
        if self._average is not None and not any(k.startswith("ema/") for k in tensors):
            self._average.restart()
        if self._guard is not None:
            self._guard.set_state(record.get("recent", {}))
        state = RunState.from_record(record)
        self.saved_step = state.step
        return state, record["pending_losses"]

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model/{k}": v for k, v in self._model.state_dict().items() if isinstance(v, Tensor)}
        tensors |= {f"optimizer/{k}": v for k, v in optimizer_state(self._model, self._optimizer).items()}
        if self._average is not None:
            tensors |= {f"ema/{k}": v for k, v in self._average.mean.items()}
        return tensors

    def _targets(self, saved: set[str]) -> dict[str, Tensor]:
        """Tensors to fill, given the saved names; an optimizer has state only for what had a gradient."""
        targets = {k: v for k, v in self._tensors().items() if not k.startswith("optimizer/")}
        if self._average is not None and not any(k.startswith("ema/") for k in saved):
            _LOG.warning("the checkpoint has no averaged weights; the average starts from its weights")
            targets = {k: v for k, v in targets.items() if not k.startswith("ema/")}
        keys = [k.removeprefix("optimizer/") for k in saved if k.startswith("optimizer/")]
        state = empty_state(self._model, self._optimizer, keys)
        return targets | {f"optimizer/{k}": v for k, v in state.items()}

    def _check_recipe(self, record: dict[str, Any], path: Place) -> None:
        self._check_tokenizers(record["metadata"].get("tokenizers", {}), path)
        saved, current = record["metadata"].get("recipe", {}), self._metadata.get("recipe", {})
        changes = recipe_differences(json.loads(json.dumps(self._read_recipe(saved), default=str)), current, "recipe")
        if changes:
            _LOG.warning("the recipe differs from the checkpoint's: %s", "; ".join(changes[:10]))
        keys = {line: re.split(r"[.:]", line.partition(": ")[0]) for line in changes}
        changes = [line for line, key in keys.items() if key[1] in _MUST_STAY and key[-1] not in _MAY_CHANGE]
        if changes and not self.config.allow_changed_recipe:
            raise CheckpointError(
                f"{path} was made with another model ({'; '.join(changes[:5])}). Choose another output folder, "
                "go back to the checkpoint's recipe, or set train.allow_changed_recipe=true if its tensors still fit"
            )

    def _check_tokenizers(self, saved: dict[str, str], path: Place) -> None:
        """Ids have to mean what they meant before; files under the same name may have been made again."""
        current = self._metadata.get("tokenizers", {})
        others = [name for name, digest in saved.items() if current.get(name, digest) != digest]
        if others and not self.config.allow_changed_recipe:
            raise CheckpointError(
                f"{path} was trained on the ids of other tokenizers of {', '.join(others)}, which mean something else "
                "now. Choose another output folder, restore the tokenizers and their tokens, or set "
                "train.allow_changed_recipe=true to go on all the same"
            )

    def _check_weights(self, step: int) -> None:
        weights = [p.detach() for p in self._model.parameters() if p.requires_grad]
        if not torch.isfinite(whole(torch.nn.utils.get_total_norm(weights))):
            raise NotFiniteError(
                f"weights are not finite after step {step} although the losses were: the last update overflowed. "
                "Set train.optimizer.clip_grad=1 or a smaller lr; the same command goes on from the last checkpoint"
            )
