"""How documents become rows of tokens, free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fourm.errors import ConfigError
from fourm.ranges import check_range
from fourm.registry import Registry


@dataclass(frozen=True)
class StreamConfig:
    """All documents of a file one after another, cut into rows anywhere (LVM, Bai et al. 2023).

    Args:
        num_tokens: of a row.
        bos, eos: ids before and after every document; null: none.
        separate: documents of a row neither see nor ask one another; positions begin anew with each.
        shuffle: another order of the documents in every epoch.
    """

    target: ClassVar[str] = "fourm.data.packing:Stream"

    num_tokens: int = 4096
    bos: int | None = None
    eos: int | None = None
    separate: bool = False
    shuffle: bool = True

    def __post_init__(self) -> None:
        check_range(self, "num_tokens", least=1)
        check_range(self, "bos", "eos", least=0)

    @property
    def num_added(self) -> int:
        """Tokens that a document gets."""
        return (self.bos is not None) + (self.eos is not None)

    def check_vocabulary(self, vocab_size: int) -> None:
        """Whether a vocabulary has the tokens that documents get.

        Raises:
            ConfigError: if not.
        """
        for name in ("bos", "eos"):
            value = getattr(self, name)
            if value is not None and value >= vocab_size:
                raise ConfigError(f"packing.{name} is {value}; the vocabulary has ids below {vocab_size}")


@dataclass(frozen=True)
class WholeConfig(StreamConfig):
    """Rows of whole documents; what is left of a row is padding.

    Which documents share a row is the same in every epoch; their order in it is not.

    Args:
        num_tokens, bos, eos, separate, shuffle: see `StreamConfig`.
        open_rows: rows that are filled at a time; more leave less padding.
    """

    target: ClassVar[str] = "fourm.data.packing:Whole"

    open_rows: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "open_rows", least=1)


PACKINGS = Registry(
    "packing",
    {
        "interleaved": "fourm.data.interleaved_configs:InterleavedConfig",
        "stream": "fourm.data.packing_configs:StreamConfig",
        "whole": "fourm.data.packing_configs:WholeConfig",
    },
)
