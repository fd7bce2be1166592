from __future__ import annotations

import pytest
import torch

from fourm.errors import ConfigError
from fourm.machine import choose_device, has_bf16, use_bf16

CPU = torch.device("cpu")


def test_unknown_and_missing_devices_are_named() -> None:
    with pytest.raises(ConfigError, match="'gpu'; expected auto, cpu"):
        choose_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="use device: auto"):
            choose_device("cuda")
        assert choose_device("auto").type in ("cpu", "mps")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({}, False), ({"avx512_f": True}, False), ({"avx512_bf16": True}, True), ({"amx_bf16": True}, True)],
)
def test_a_cpu_has_bf16_if_it_has_the_instructions(
    capabilities: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_bf16(CPU) is expected
    assert use_bf16("auto", CPU) is expected


def test_a_named_precision_is_kept() -> None:
    assert use_bf16("bf16", CPU)
    assert not use_bf16("fp32", CPU)
