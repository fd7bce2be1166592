from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fourm import catalog
from fourm.errors import DataError
from fourm.evaluate.samples import Samples
from fourm.generate.inputs import network_input

KEYS = ("rgb", "depth", "normal", "semseg", "canny")


@pytest.fixture
def samples(rooms: Path) -> Samples:
    modalities = {key: catalog.get(f"{key}@64") for key in KEYS} | {"caption": catalog.get("caption")}
    return Samples(rooms / "train", modalities)


def test_values_are_in_natural_units(samples: Samples) -> None:
    batch = samples.read([0, 3])
    assert batch["rgb"].shape == (2, 3, 64, 64)
    assert 0 <= batch["rgb"].min() < batch["rgb"].max() <= 1
    assert 3000 / 65535 * 16 <= batch["depth"].min() <= batch["depth"].max() <= 30000 / 65535 * 16
    assert torch.allclose(batch["normal"].norm(dim=1), torch.ones(2, 64, 64), atol=1e-5)
    assert batch["semseg"].dtype == torch.int64
    assert batch["caption"] == [["a bed"], ["a rug and a chair"]]


def test_batches_cover_every_sample_once(samples: Samples) -> None:
    whole = samples.read(range(10))["rgb"]
    assert torch.equal(torch.cat([batch["rgb"] for batch in samples.batches(4, ["rgb"])]), whole)


def test_inputs_are_what_training_reads(samples: Samples, rooms: Path) -> None:
    from fourm.data.configs import DatasetConfig
    from fourm.data.dataset import build_dataset
    from fourm.modality import ModalitySet
    from fourm.rng import generator

    modalities = ModalitySet(catalog.get(f"{key}@64") for key in KEYS)
    trained_on = build_dataset("rooms", DatasetConfig(path=str(rooms / "train")), modalities).sample(3, generator(0))
    batch = samples.read([3])
    for key in KEYS:
        expected = torch.as_tensor(trained_on[f"{key}@64"])
        found = network_input(batch[key], catalog.get(f"{key}@64"), key)[0]
        # Normals were rounded to bytes: unit length takes them a little away from what was stored.
        assert torch.allclose(found.float(), expected.float(), atol=1.0 if key == "normal" else 1e-4), key


def test_an_empty_data_set_is_refused(rooms: Path) -> None:
    with pytest.raises(DataError, match="no samples to evaluate on"):
        Samples(rooms / "train", {"rgb": catalog.get("rgb@64")}, limit=0)
