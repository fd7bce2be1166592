import subprocess
import sys

import torch

import fourm
from fourm.recipe.bundle import Bundle
from tests.unit.generate.toy import ToyBundle


def test_it_is_offered_at_the_top(bundle: ToyBundle) -> None:
    toy = Bundle(bundle.model, bundle.tokenizers, bundle.text)
    answers = fourm.any_to_any(toy, {"rgb": torch.zeros(1, 3, 16, 16)}, ["depth"])
    assert answers["depth"].shape == (1, 1, 16, 16)


def test_plans_are_read_without_torch() -> None:
    code = "import sys, fourm.generate.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
