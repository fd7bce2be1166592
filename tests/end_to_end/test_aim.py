"""AIM on photographs: prefixes in training make features that can be read both ways, best by attention.

The claims of El-Nouby et al. 2024 (sec. 5) that hold at toy size, on Fashion-MNIST, through the shipped recipes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
SMALL = [
    "model.dim=64", "model.decoder_depth=4", "model.vector_head.dim=64", "model.vector_head.depth=2",
    "train.max_steps=240", "train.batch_size=64", "train.optimizer.lr=2e-3", "train.eval_every_steps=null",
]  # fmt: skip
PROBE = [
    "train.max_steps=200",
    "train.batch_size=64",
    "train.eval_every_steps=null",
    "data.train.datasets.fashion.hflip=0",
]
PLAIN = ["train.tensorboard=false", "train.precision=fp32", "train.device=cpu", "train.threads=1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not Path("/usr/share/datasets/fashion-mnist").is_dir():
        pytest.skip("the package dataset-fashion-mnist is not installed")
    from fourm.cli import main

    root = tmp_path_factory.mktemp("aim")
    main(["prepare", "fashion", str(root / "data"), "--num-train", "4000", "--num-test", "1000"])
    for prefix in ("uniform", "none"):
        place = [f"variables.root={root}", f"output={root / prefix}", f"objective.prefix={prefix}"]
        main(["pretrain", "aim_fashion", *place, *SMALL, *PLAIN])
    return root


def accuracy(fourm: Any, root: Path, prefix: str, probe: str) -> float:
    """Share of right answers of a probe that sees all patches of held-out photographs at once."""
    output = root / f"{prefix}_{probe}"
    place = [f"variables.root={root}", f"init_from={root / prefix}", f"output={output}"]
    outcome = fourm("finetune", f"aim_fashion_{probe}", *place, *PROBE, *PLAIN)
    assert outcome.status == 0, outcome.err
    found: float = json.loads((output / "completed.json").read_text())["metrics"]["top1"]
    return found


def test_training_with_prefixes_is_better_for_probes_that_see_both_ways_and_attention_reads_best(
    root: Path, fourm: Any
) -> None:
    linear, attentive = (accuracy(fourm, root, "uniform", probe) for probe in ("linear", "attentive"))
    causal = accuracy(fourm, root, "none", "attentive")

    assert attentive >= linear
    assert attentive > causal
