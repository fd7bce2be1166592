from __future__ import annotations

from pathlib import Path

import torch

from fourm import catalog
from fourm.evaluate.references import References, visible_names
from fourm.evaluate.samples import Samples

KEYS = ("rgb", "depth", "normal")


def test_objects_count_by_their_share_and_structure_never() -> None:
    labels = torch.zeros(1, 10, 10, dtype=torch.int64)  # floor
    labels[0, 0, :3] = catalog.ROOM_CLASSES.index("lamp")
    labels[0, 1, :2] = catalog.ROOM_CLASSES.index("bed")
    assert visible_names(labels, catalog.ROOM_CLASSES, 0.03) == [{"lamp"}]


def test_baselines_of_noise_are_its_means_and_modes(rooms: Path, references: References) -> None:
    everything = Samples(rooms / "train", {key: catalog.get(f"{key}@64") for key in KEYS}).read(range(10))
    found = references
    assert torch.allclose(found.constant("depth", 2)[1], everything["depth"].mean(0), atol=1e-5)
    assert torch.allclose(found.images["normal"].norm(dim=0), torch.ones(64, 64))
    assert (found.images["semseg"][:40] == 0).all()
    assert found.objects == found.boxes == {"bed", "rug", "chair"}
    answer = found.from_thumbnail("semseg", everything["rgb"])
    assert answer.shape == (10, 64, 64)
    # What never changes is easy from any input.
    assert (answer[:, :38] == 0).all()
    assert found.from_thumbnail("normal", everything["rgb"]).shape == (10, 3, 64, 64)
