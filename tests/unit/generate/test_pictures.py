from typing import Any

import numpy as np
from PIL import Image

from fourm.generate.pictures import sample_pictures
from fourm.modality import ModalitySet
from tests.unit.generate.toy import ToyBundle


class Samples:
    """Held-out samples as a data set gives them: normalised pixels, ids of tokens and text."""

    def __init__(self, modalities: ModalitySet) -> None:
        self.modalities = modalities

    def __len__(self) -> int:
        return 5

    def sample(self, n: int, rng: np.random.Generator) -> dict[str, Any]:
        return {
            "rgb@16": rng.uniform(-1, 1, (3, 16, 16)).astype(np.float32),
            "tok_depth@16": rng.integers(0, 16, 16),
            "caption": np.array([230, 231, 232][: n + 1]),
            "vectors": np.ones((n + 1, 8), np.float32),
        }


def draw(bundle: ToyBundle, given: list[str], targets: list[str], names: list[str], num: int = 2) -> Image.Image:
    samples = Samples(bundle.model.modalities.subset(names))
    return sample_pictures(bundle, samples, given, targets, num, seed=0)["samples"]


def test_predictions_stand_beside_the_truth_one_row_per_sample(bundle: ToyBundle) -> None:
    names = ["rgb@16", "tok_depth@16", "caption"]
    picture = draw(bundle, ["rgb@16"], ["tok_depth@16", "caption"], names)
    one_row = draw(bundle, ["rgb@16"], ["tok_depth@16", "caption"], names, num=1)
    assert picture.width > 5 * 192
    assert picture.height - one_row.height > 192


def test_a_target_without_truth_has_one_column(bundle: ToyBundle) -> None:
    names = ["rgb@16", "caption", "vectors"]
    assert draw(bundle, names, ["tok_depth@16"], names).width < 5 * 192


def test_the_same_step_draws_the_same_picture(bundle: ToyBundle) -> None:
    names = ["rgb@16", "tok_depth@16"]
    first, second = (draw(bundle, ["rgb@16"], ["tok_depth@16"], names) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_drawing_leaves_the_model_in_training(bundle: ToyBundle) -> None:
    bundle.model.train()
    try:
        draw(bundle, ["rgb@16"], ["tok_depth@16"], ["rgb@16", "tok_depth@16"], num=1)
        assert bundle.model.training
    finally:
        bundle.model.eval()
