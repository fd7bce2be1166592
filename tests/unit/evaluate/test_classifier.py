from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fourm.evaluate.caption_configs import ClassifierConfig
from fourm.evaluate.classifier import classify, load_or_train

CONFIG = ClassifierConfig(widths=(8, 8, 8), epochs=8, batch_size=16, lr=1e-2)


def data(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Class 0 is bright above, class 1 below."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.rand(count, 1, 16, 16, generator=generator)
    labels = torch.arange(count) % 2
    images[labels == 0, :, :8] += 0.5
    images[labels == 1, :, 8:] += 0.5
    return images, labels


def test_learns_is_saved_and_used_again(tmp_path: Path) -> None:
    test = data(40, 1)
    model = load_or_train(tmp_path, CONFIG, 2, lambda: data(64, 0), test)
    assert (classify(model, test[0]) == test[1]).float().mean() > 0.9

    def refuse() -> tuple[torch.Tensor, torch.Tensor]:
        pytest.fail("was trained again")

    again = load_or_train(tmp_path, CONFIG, 2, refuse, test)
    assert torch.equal(again(test[0]), model(test[0]))


def test_other_settings_train_another_one(tmp_path: Path) -> None:
    test = data(4, 1)
    load_or_train(tmp_path, ClassifierConfig(widths=(8, 8, 8), epochs=1), 2, lambda: data(16, 0), test)
    calls = []
    load_or_train(
        tmp_path, ClassifierConfig(widths=(8, 8, 8), epochs=2), 2, lambda: calls.append(1) or data(16, 0), test
    )
    assert calls == [1]


def test_same_seed_gives_the_same_weights_and_leaves_the_global_generator(tmp_path: Path) -> None:
    test = data(4, 1)
    before = torch.random.get_rng_state()
    models = [load_or_train(tmp_path / name, CONFIG, 2, lambda: data(32, 0), test) for name in "ab"]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in models), strict=True))
