from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fourm.data.configs import CropConfig, DatasetConfig
from fourm.data.dataset import AlignedDataset, build_dataset
from fourm.data.loader import Loader, Plan, evaluate_batches
from fourm.data.mixture import Draw, Mixture
from fourm.data.shards import ShardWriter
from fourm.errors import ConfigError, DataError, MissingExtraError
from fourm.modality import ModalitySet
from fourm.rng import generator


class Stack:
    """Stands for an objective; picklable, so that workers of any start method can use it."""

    def prepare(self, sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return {"tokens": sample["tok_rgb"], "rgb": sample["rgb"], "mask": rng.random(3)}

    def collate(self, items: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        return {key: np.stack([item[key] for item in items]) for key in items[0]}


@pytest.fixture
def dataset(shards: Path, data: type) -> AlignedDataset:
    modalities: ModalitySet = data.modalities.subset(["rgb", "tok_rgb"])
    config = DatasetConfig(str(shards), crop=CropConfig("crop_settings"), jitter=0.1)
    return build_dataset("rooms", config, modalities)


def loader(dataset: AlignedDataset, **options: Any) -> Loader:
    stack = Stack()
    return Loader(Mixture({"rooms": dataset}), stack.prepare, stack.collate, **{"batch_size": 3, "seed": 5, **options})


def evaluation(dataset: AlignedDataset, **options: Any) -> list[dict[str, np.ndarray]]:
    stack = Stack()
    return list(evaluate_batches(dataset, stack.prepare, stack.collate, **{"batch_size": 3, **options}))


def numbers(batch: dict[str, np.ndarray]) -> list[int]:
    return (batch["tokens"][:, 0] % 100).tolist()


def test_an_epoch_of_batches_has_every_sample_once(dataset: AlignedDataset) -> None:
    found = [numbers(batch) for batch, _ in islice(loader(dataset, batch_size=4), 2)]
    assert sorted(found[0] + found[1]) == list(range(8))


def test_a_batch_may_be_larger_than_the_data_set(dataset: AlignedDataset) -> None:
    batch, cursor = next(iter(loader(dataset, batch_size=20)))
    counts = np.bincount(numbers(batch))
    assert sorted(counts.tolist()) == [2] * 4 + [3] * 4
    assert cursor == {"draws": 20, "datasets": {"rooms": 20}}


def test_prepare_gets_the_generator_of_its_sample(dataset: AlignedDataset) -> None:
    batch, _ = next(iter(loader(dataset)))
    expected = [generator(5, "rooms", 0, n).random(3) for n in numbers(batch)]
    np.testing.assert_array_equal(batch["mask"], expected)


def test_the_same_sample_is_augmented_differently_in_the_next_epoch(dataset: AlignedDataset) -> None:
    first, second = (batch for batch, _ in islice(loader(dataset, batch_size=8), 2))
    by_number = [dict(zip(numbers(b), b["rgb"], strict=True)) for b in (first, second)]
    assert all(not np.array_equal(by_number[0][n], by_number[1][n]) for n in range(8))


def test_a_cursor_continues_exactly(dataset: AlignedDataset) -> None:
    whole = list(islice(loader(dataset), 6))
    resumed = list(islice(loader(dataset, start=whole[2][1]), 3))
    for (batch, cursor), (again, cursor_again) in zip(whole[3:], resumed, strict=True):
        np.testing.assert_equal(batch, again)
        assert cursor == cursor_again


def test_iterating_again_continues_after_the_last_batch(dataset: AlignedDataset) -> None:
    whole = [numbers(batch) for batch, _ in islice(loader(dataset), 4)]
    again = loader(dataset)
    first = [numbers(batch) for batch, _ in islice(again, 2)]
    second = [numbers(batch) for batch, _ in islice(again, 2)]
    assert first + second == whole


def test_two_ranks_see_the_halves_of_the_global_batch(dataset: AlignedDataset) -> None:
    single = [numbers(batch) for batch, _ in islice(loader(dataset, batch_size=4), 3)]
    ranks = [list(islice(loader(dataset, batch_size=2, rank=rank, world_size=2), 3)) for rank in (0, 1)]
    assert [numbers(a) + numbers(b) for (a, _), (b, _) in zip(*ranks, strict=True)] == single


def test_evaluation_sees_every_sample_once_in_order_with_a_smaller_last_batch(dataset: AlignedDataset) -> None:
    found = evaluation(dataset)
    assert [numbers(batch) for batch in found] == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_evaluation_is_the_same_each_time(dataset: AlignedDataset) -> None:
    np.testing.assert_equal(evaluation(dataset), evaluation(dataset))


def test_evaluation_masks_do_not_depend_on_the_batch_size(dataset: AlignedDataset) -> None:
    masks = [np.concatenate([batch["mask"] for batch in evaluation(dataset, batch_size=size)]) for size in (3, 8)]
    np.testing.assert_array_equal(*masks)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_evaluation(dataset: AlignedDataset, world_size: int) -> None:
    found = [evaluation(dataset, batch_size=2, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert sorted(n for batches in found for batch in batches for n in numbers(batch)) == list(range(8))


def test_evaluation_can_be_limited(dataset: AlignedDataset) -> None:
    assert [numbers(batch) for batch in evaluation(dataset, max_samples=4)] == [[0, 1, 2], [3]]


@pytest.mark.parametrize(("options", "words"), [({"batch_size": 0}, "batch_size is 0"), ({"rank": 1}, "rank is 1")])
def test_impossible_sizes_are_named(dataset: AlignedDataset, options: dict[str, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        loader(dataset, **options)
    with pytest.raises(ConfigError, match=words):
        evaluation(dataset, **options)


def damage(shards: Path) -> None:
    with ShardWriter(shards, 0, {"rgb": "png"}) as writer:
        for n in range(5):
            writer.write(f"{n:06d}", {"rgb": b"broken"})


def test_damaged_data_ends_with_its_own_message(dataset: AlignedDataset, shards: Path) -> None:
    damage(shards)
    with pytest.raises(DataError, match=r"rgb/shard-00000\.tar, key"):
        list(islice(loader(dataset, batch_size=8), 1))


@pytest.mark.parametrize("form", ["shards", "folders"])
def test_errors_of_prepare_say_which_sample_it_was(shards: Path, tmp_path: Path, data: type, form: str) -> None:
    root = shards if form == "shards" else data.write_folders(tmp_path / "folders", 8, ["tok_rgb", "caption"])
    where = {
        "shards": f"data set 'rooms', {shards}/*/shard-00001.tar, key '000006'",
        "folders": f"data set 'rooms', {root}/*/class0/006",
    }
    dataset = build_dataset("rooms", DatasetConfig(str(root)), data.modalities.subset(["tok_rgb", "caption"]))

    def out_of_vocabulary(sample: dict[str, Any], rng: np.random.Generator) -> None:
        if sample["tok_rgb"][0] == 6:
            raise DataError("modality 'tok_rgb': token 6 is outside its vocabulary of 6")

    with pytest.raises(DataError) as caught:
        next(iter(Loader(Mixture({"rooms": dataset}), out_of_vocabulary, list, batch_size=8)))
    assert str(caught.value) == f"{where[form]}: modality 'tok_rgb': token 6 is outside its vocabulary of 6"


def test_errors_of_prepare_that_no_user_can_act_on_pass_through(dataset: AlignedDataset) -> None:
    def broken(sample: dict[str, Any], rng: np.random.Generator) -> None:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        next(iter(Loader(Mixture({"rooms": dataset}), broken, list, batch_size=2)))


def test_an_error_with_a_constructor_of_its_own_keeps_its_message(dataset: AlignedDataset) -> None:
    def missing(sample: dict[str, Any], rng: np.random.Generator) -> None:
        raise MissingExtraError("cv2", "rooms", "edges")

    with pytest.raises(MissingExtraError, match="edges needs the package 'cv2'"):
        next(iter(Loader(Mixture({"rooms": dataset}), missing, list, batch_size=2)))


def test_all_images_of_a_batch_have_one_of_the_resolutions(dataset: AlignedDataset) -> None:
    batches = [batch for batch, _ in islice(loader(dataset, resolutions=(8, 24)), 8)]
    assert {batch["rgb"].shape for batch in batches} == {(3, 3, 8, 8), (3, 3, 24, 24)}
    plain = [numbers(batch) for batch, _ in islice(loader(dataset), 8)]
    assert [numbers(batch) for batch in batches] == plain


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("resolutions", [(), (8, 24)])
def test_batches_are_identical_for_any_number_of_workers(dataset: AlignedDataset, resolutions: tuple[int, ...]) -> None:
    runs = [list(islice(loader(dataset, num_workers=n, resolutions=resolutions), 8)) for n in (0, 1, 3)]
    np.testing.assert_equal(runs[1], runs[0])
    np.testing.assert_equal(runs[2], runs[0])
    np.testing.assert_equal(evaluation(dataset, num_workers=3), evaluation(dataset))


@pytest.mark.slow
def test_a_cursor_taken_while_workers_run_ahead_continues_exactly(dataset: AlignedDataset) -> None:
    whole = list(islice(loader(dataset), 5))
    cursor = list(islice(loader(dataset, num_workers=2), 2))[-1][1]
    np.testing.assert_equal(list(islice(loader(dataset, num_workers=2, start=cursor), 3)), whole[2:])


@pytest.mark.slow
def test_damaged_data_in_a_worker_ends_with_the_same_message(dataset: AlignedDataset, shards: Path) -> None:
    damage(shards)
    messages = []
    for workers in (0, 2):
        with pytest.raises(DataError) as caught:
            list(islice(loader(dataset, batch_size=8, num_workers=workers), 1))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "Traceback" not in messages[1]


def test_what_travels_to_workers_can_be_pickled(dataset: AlignedDataset) -> None:
    assemble = loader(dataset)._assemble
    plan = Plan([Draw("rooms", 0, n) for n in range(4)], 8)
    np.testing.assert_equal(pickle.loads(pickle.dumps(assemble))[plan], assemble[plan])


def die(sample: dict[str, Any], rng: np.random.Generator) -> None:
    os._exit(9)


@pytest.mark.slow
def test_a_worker_that_dies_ends_with_one_message(dataset: AlignedDataset) -> None:
    with pytest.raises(DataError, match="a loader process died.*out of memory"):
        next(iter(Loader(Mixture({"rooms": dataset}), die, list, batch_size=2, num_workers=1)))


def tensor(sample: dict[str, Any], rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(sample["rgb"])


@pytest.mark.slow
def test_batches_that_a_dead_worker_had_prepared_end_with_the_same_message(dataset: AlignedDataset) -> None:
    batches = iter(Loader(Mixture({"rooms": dataset}), tensor, torch.stack, batch_size=2, num_workers=1))
    next(batches)
    time.sleep(1)  # it goes on preparing; the tensors stay with it until they are asked for
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would raise right here
    try:
        for worker in multiprocessing.active_children():
            worker.kill()
            worker.join()
        with pytest.raises(DataError, match="a loader process died"):
            list(islice(batches, 20))
    finally:
        signal.signal(signal.SIGCHLD, handler)
