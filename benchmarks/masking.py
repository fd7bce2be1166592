"""Milliseconds of one core that `Masked.prepare` spends per sample.

The published code needs 1.3 (4M-7) to 2.7 (4M-21) milliseconds for the same modalities and budgets.

    python benchmarks/masking.py
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
from typing import Any

import numpy as np

from fourm import catalog, rng
from fourm.layouts import Continuous
from fourm.modality import ModalitySet
from fourm.objectives.configs import MaskComponent, MaskedConfig
from fourm.objectives.masked import Masked

ROOMS = ["rgb@64", "tok_rgb@64", "tok_depth@64", "tok_normal@64", "tok_semseg@64", "caption", "det"]
FOUR_M_7 = ["rgb@224", *(f"tok_{m}@224" for m in ("rgb", "depth", "normal", "semseg", "clip")), "caption", "det"]
FOUR_M_21 = [
    *FOUR_M_7,
    *("t5_caption", "metadata", "human_poses", "color_palette", "sam_instance"),
    *("tok_canny_edge@224", "tok_sam_edge@224", "tok_dinov2@224", "tok_imagebind@224"),
    *("tok_dinov2_global", "tok_imagebind_global"),
]
SETTINGS = {"rooms": (ROOMS, 64, 96), "4M-7": (FOUR_M_7, 128, 128), "4M-21": (FOUR_M_21, 256, 256)}


def sample(modalities: ModalitySet, draw: np.random.Generator) -> dict[str, Any]:
    """Random content of every modality; sequences are half as long as they may be."""
    values: dict[str, Any] = {}
    for m in modalities.values():
        length = m.num_tokens // 2
        if isinstance(m.content, Continuous):
            shape = (m.channels, *m.grid.image_size) if m.is_grid else (length, m.content.dim)
            values[m.name] = draw.standard_normal(shape, np.float32)  # type: ignore[arg-type]
        elif m.is_grid:
            values[m.name] = draw.integers(0, m.vocab_size, m.num_tokens)
        elif m.unit == "chunk":
            values[m.name] = list(draw.integers(300, m.vocab_size, (length // 2, 2)))
        else:
            values[m.name] = draw.integers(300, m.vocab_size, length)
    return values


def milliseconds(name: str, alpha: float, repeats: int = 1000) -> float:
    """Mean time of one `prepare`, its random generator included."""
    names, num_inputs, num_targets = SETTINGS[name]
    modalities = catalog.resolve(names)
    component = MaskComponent(input_alphas={"*": alpha}, target_alphas={"*": alpha})
    objective = Masked(MaskedConfig(num_inputs, num_targets, components=[component]), modalities)
    values = sample(modalities, rng.generator(0))
    start = 0.0
    for n in range(-50, repeats):
        if n == 0:
            start = time.process_time()
        objective.prepare(values, rng.generator(0, "masks", n))
    return (time.process_time() - start) / repeats * 1e3


if __name__ == "__main__":
    print("setting  alpha  ms per sample")
    for name in SETTINGS:
        for alpha in (0.05, 0.5, 10.0):
            print(f"{name:8} {alpha:5}  {milliseconds(name, alpha):.3f}")
