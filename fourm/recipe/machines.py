"""What a run is spread over, free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from fourm.errors import ConfigError, did_you_mean
from fourm.machine import GPUS
from fourm.ranges import check_range


@dataclass(frozen=True)
class Machines:
    """What a run is to be spread over.

    Args:
        count: GPUs.
        kind: one of `fourm.machine.GPUS`.
        utilisation: share of its peak that training reaches, with what is computed a second time.

    Raises:
        ConfigError: for a kind that is not known.
    """

    count: int = 64
    kind: str = "a100"
    utilisation: float = 0.35

    def __post_init__(self) -> None:
        check_range(self, "count", least=1)
        check_range(self, "utilisation", above=0, most=1)
        if self.kind not in GPUS:
            raise ConfigError(f"GPU '{self.kind}' is not known.{did_you_mean(self.kind, GPUS)}")

    @property
    def memory_bytes(self) -> int:
        """Memory of one GPU."""
        return GPUS[self.kind].memory_gib * 2**30
