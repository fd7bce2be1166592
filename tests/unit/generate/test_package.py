import subprocess
import sys

import torch

import fourm
from fourm.recipe.bundle import Bundle
from tests.unit.generate.toy import ToyBundle


def test_it_is_offered_at_the_top(bundle: ToyBundle) -> None:
    toy = Bundle(bundle.model, bundle.tokenizers, bundle.text)
    answers = fourm.generate(toy, {"rgb": torch.zeros(1, 3, 16, 16)}, ["depth"])
    assert answers["depth"].shape == (1, 1, 16, 16)


def test_the_package_stays_a_package_when_it_is_called(bundle: ToyBundle) -> None:
    from fourm.generate.results import Results

    toy = Bundle(bundle.model, bundle.tokenizers, bundle.text)
    assert isinstance(fourm.generate(toy, given={"caption": "a red sofa"}, to=["depth"], seed=1), Results)
    assert fourm.generate.answer.any_to_any is not None


def test_it_can_be_called_without_another_import() -> None:
    code = "import fourm, sys; assert 'torch' not in sys.modules; fourm.generate('nowhere', given={}, to=['rgb'])"
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "there is no model or tokenizer in nowhere" in ended.stderr


def test_plans_are_read_without_torch() -> None:
    code = "import sys, fourm.generate.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
