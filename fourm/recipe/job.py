"""What all training recipes share: data, loaders, fixed evaluation and the trainer around an objective and a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from fourm import config as configs
from fourm.data.configs import DatasetConfig
from fourm.data.dataset import build_dataset
from fourm.data.loader import Loader, evaluate_batches
from fourm.data.mixture import Mixture, build_mixture
from fourm.errors import ConfigError
from fourm.machine import use_bf16
from fourm.modality import ModalitySet
from fourm.objectives.base import Objective
from fourm.objectives.masked import Masked
from fourm.recipe.encoders import Encoder
from fourm.recipe.evaluation import MeanLoss
from fourm.recipe.finetune_schema import FinetuneRecipe
from fourm.recipe.schema import PretrainRecipe, TokenizerRecipe
from fourm.train.configs import TrainConfig
from fourm.train.distributed import World
from fourm.train.trainer import Trainer

if TYPE_CHECKING:
    from PIL.Image import Image


Recipe = PretrainRecipe | TokenizerRecipe | FinetuneRecipe


def train_config(recipe: Recipe) -> TrainConfig:
    """The recipe's `train` part with the recipe's seed."""
    return replace(recipe.train, seed=recipe.seed)


@dataclass
class TrainingJob:
    """A recipe come to life, up to the model and what becomes of it.

    Args:
        recipe: what was asked.
        world: the processes.
        modalities: what the data sets hold.
        objective: scores the model.
        encoders: modality -> function from text or boxes to token ids.
        tokenizers: modality (or `text`) -> hash of its tokenizer; a run that goes on must find the same.
        open_dataset: opens a data set of a name for training (true) or evaluation; None: aligned samples of the
            modalities.
    """

    recipe: Recipe
    world: World
    modalities: ModalitySet
    objective: Objective
    encoders: Mapping[str, Encoder] = field(default_factory=dict)
    tokenizers: Mapping[str, str] = field(default_factory=dict)
    open_dataset: Callable[[str, DatasetConfig, bool], Any] | None = None

    def __post_init__(self) -> None:
        data = self.recipe.data
        self.config = train_config(self.recipe)
        self.validation: list[Any]
        if self.open_dataset is not None:
            training = {n: self.open_dataset(n, d, True) for n, d in data.train.datasets.items() if d.weight > 0}
            self.mixture = Mixture(training, {n: data.train.datasets[n].weight for n in training})
            self.validation = [self.open_dataset(n, d, False) for n, d in data.val.datasets.items()]
            return
        self.mixture = build_mixture(data.train, self.modalities, self.encoders, data.cache)
        self.validation = [
            build_dataset(name, dataset, self.modalities, self.encoders, data.cache)
            for name, dataset in data.val.datasets.items()
        ]
        for dataset in self.mixture.datasets.values():
            dataset.check_resolutions(data.resolutions)

    def fit(
        self,
        model: nn.Module,
        export: Callable[[Any, Path], None],
        *,
        pictures: Callable[[int], dict[str, Image]] | None = None,
        statistics: Callable[[], dict[str, float]] | None = None,
        evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
        flops_per_sample: float | None = None,
    ) -> None:
        """Train to the end, from the newest checkpoint if there is one.

        Args:
            model: what is trained.
            export: writes the finished model into a folder.
            pictures: pictures for a step.
            statistics: further numbers to log with each evaluation.
            evaluate: results by name; None: the losses on the validation sets.
            flops_per_sample: operations of the model per sample, forward and backward.
        """
        measure = evaluate or self.evaluate
        Trainer(
            model,
            self.objective,
            self.loader,
            self.config,
            output=self.recipe.output,
            world=self.world,
            evaluate=(lambda: {**measure(model), **(statistics() if statistics else {})}) if self.validation else None,
            pictures=pictures,
            metadata={"recipe": configs.to_dict(self.recipe), "tokenizers": self.tokenizers},
            read_recipe=self._read_recipe,
            export=export,
            flops_per_sample=flops_per_sample,
        ).fit()

    def _read_recipe(self, saved: Any) -> Any:
        """A recipe of an earlier version with the defaults of what it had not; as it is where it cannot be read."""
        try:
            return configs.to_dict(configs.build(type(self.recipe), saved))
        except ConfigError:
            return saved

    def loader(self, cursor: dict[str, Any] | None) -> Iterable[tuple[Any, dict[str, Any]]]:
        """This rank's endless batches from a cursor on."""
        data, world = self.recipe.data, self.world
        return Loader(
            self.mixture,
            {name: _for_dataset(self.objective, name).prepare for name in self.mixture.datasets},
            self.objective.collate,
            batch_size=self.config.micro_batch_size(world.size),
            rank=world.rank,
            world_size=world.size,
            num_workers=data.num_workers,
            seed=self.recipe.seed,
            window=data.shuffle_window,
            start=cursor,
            resolutions=data.resolutions,
            step_size=self.config.batch_size,
            timeout_seconds=data.timeout_seconds,
            skip_damaged=data.damaged == "skip",
        )

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Losses on the validation sets, with the same masks and crops each time."""
        # Of a student, what is measured of others too.
        results = self._mean_losses(model, getattr(self.objective, "of", self.objective))
        budgets = self.recipe.evaluation.fixed_budgets if isinstance(self.recipe, PretrainRecipe) else None
        if budgets is not None:
            fixed = cast(Masked, getattr(self.objective, "of", self.objective)).with_budgets(*budgets)
            results |= {f"fixed/{name}": value for name, value in self._mean_losses(model, fixed).items()}
        return results

    def _mean_losses(self, model: nn.Module, objective: Any) -> dict[str, float]:
        loss = MeanLoss(objective, self.world, bf16=use_bf16(self.config.precision, self.world.device))
        for dataset in self.validation:
            for batch in self.validation_batches(dataset, _for_dataset(objective, dataset.name)):
                loss.add(model, batch)
        return loss.result()

    def validation_batches(self, dataset: Any, asked: Any) -> Iterator[Any]:
        """This rank's share of a validation set on its device, with the same crops and masks each time.

        Args:
            dataset: one of `validation`.
            asked: an objective, or whatever else prepares its samples and collates them.
        """
        for batch in evaluate_batches(
            dataset,
            asked.prepare,
            asked.collate,
            batch_size=self.recipe.evaluation.batch_size,
            rank=self.world.rank,
            world_size=self.world.size,
            num_workers=self.recipe.data.num_workers,
            seed=self.recipe.seed,
            max_samples=self.recipe.evaluation.max_samples,
        ):
            yield batch.to(self.world.device)


def _for_dataset(objective: Any, name: str) -> Any:
    """The objective as a data set trains it, where that makes a difference."""
    return objective.for_dataset(name) if hasattr(objective, "for_dataset") else objective
