import importlib
import subprocess
import sys
from typing import Any

import torch

import fourm
from fourm.recipe.bundle import Bundle
from tests.unit.generate.toy import ToyBundle


def test_the_function_works_before_and_after_its_package_is_imported(bundle: ToyBundle) -> None:
    package: Any = fourm
    toy = Bundle(bundle.model, bundle.tokenizers, bundle.text)
    for _ in range(2):
        answers = package.generate(toy, {"rgb": torch.zeros(1, 3, 16, 16)}, ["depth"])
        assert answers["depth"].shape == (1, 1, 16, 16)
        importlib.import_module("fourm.generate.plan")


def test_plans_are_read_without_torch() -> None:
    code = "import sys, fourm.generate.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
