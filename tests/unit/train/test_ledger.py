import pytest
import torch

from fourm.errors import TrainingError
from fourm.train.distributed import World
from fourm.train.ledger import LossLedger


def ledger() -> LossLedger:
    return LossLedger(("a", "b"), 4, World())


def test_the_record_divides_sums_by_counts_over_all_steps() -> None:
    book = ledger()
    book.add(torch.tensor([1.0, 6.0, 2.0]), [3.0, 1.0])
    book.add(torch.tensor([3.0, 1.0, 2.0]), [1.0, 3.0])
    book.read(2)
    assert book.record() == {"loss": 2.0, "loss/a": 7 / 4, "loss/b": 4 / 4}
    assert book.pending == []


def test_a_part_that_never_occurred_has_no_value() -> None:
    book = ledger()
    book.add(torch.tensor([1.0, 3.0, 0.0]), [3.0, 0.0])
    book.read(1)
    assert book.record() == {"loss": 1.0, "loss/a": 1.0}


def test_reading_in_between_keeps_the_steps_for_the_next_record() -> None:
    book = ledger()
    for step, loss in enumerate([1.0, 2.0, 6.0], start=1):
        book.add(torch.tensor([loss, 0.0, 0.0]), [0.0, 0.0])
        book.read(step)
        book.read(step)
    assert len(book.pending) == 3
    assert book.record() == {"loss": 3.0}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_named_by_step_and_part(value: float) -> None:
    book = ledger()
    book.add(torch.tensor([1.0, 1.0, 1.0]), [1.0, 1.0])
    book.add(torch.tensor([value, 1.0, value]), [1.0, 1.0])
    book.add(torch.tensor([value, value, value]), [1.0, 1.0])
    with pytest.raises(TrainingError, match=rf"{value} at step 12 \(part: b\)"):
        book.read(13)
