"""What a recipe of `fourm prepare sentences` says. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fourm import catalog
from fourm.config import slot, slots
from fourm.data.sentence_configs import AUGMENTATIONS, SENTENCES, BalanceConfig, base_view
from fourm.errors import ConfigError, did_you_mean
from fourm.modality import Modality
from fourm.ranges import check_range


@dataclass(frozen=True)
class SentencesRecipe:
    """Visual sentences of aligned data, as documents of tokens.

    Args:
        data: folder of shards or of files.
        tokenizer: folder of the image tokenizer.
        output: folder; every task gets one below it.
        views: name of a view -> modality that it draws; boxes are drawn on the first that is an image.
        sentences: name of a task -> its sentences; an entry without `kind` is of the kind that its name is.
        group_by: what makes samples a clip, an object or a class: `folder`, the part of their keys before the last
            slash; or a source of the data, whose file says its name.
        epochs: how often every task comes, each time in other sentences.
        balance: of tasks of different sizes.
        augment: changes the pictures each time that a task comes anew; null: they stay.
        rows_per_file: samples whose sentences share a file; they are kept in memory together. A clip, an object or a
            class is not split: a file ends before one that it has no room for, and one that is larger has its own.
        batch_size: pictures that are encoded at a time.
        device: that the tokenizer uses; `auto` is the first of cuda, mps and cpu.
        seed: of everything that is drawn.
    """

    data: str
    tokenizer: Path
    output: Path
    views: dict[str, str]
    sentences: dict[str, Any] = slots(SENTENCES)
    group_by: str = "folder"
    epochs: int = 1
    balance: BalanceConfig = field(default_factory=BalanceConfig)
    augment: Any = slot(AUGMENTATIONS, optional=True)
    rows_per_file: int = 10_000
    batch_size: int = 64
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        check_range(self, "epochs", "rows_per_file", "batch_size", least=1)
        if not self.sentences:
            raise ConfigError("sentences is empty; expected tasks, for instance depth: {kind: pairs}")
        for task, sentence in self.sentences.items():
            for view in sentence.views:
                if base_view(view)[0] not in self.views:
                    raise ConfigError(
                        f"sentences.{task}.views: '{view}' is not one of views.{did_you_mean(view, self.views)}"
                    )
        self.modalities()

    def modalities(self) -> dict[str, Modality]:
        """View -> modality that it draws."""
        return {view: catalog.get(name) for view, name in self.views.items()}
