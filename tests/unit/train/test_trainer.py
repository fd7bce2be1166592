import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fourm.errors import CheckpointError, ConfigError, DataError, TrainingError
from fourm.train.configs import OptimizerConfig, ScheduleConfig
from fourm.train.distributed import World
from fourm.train.signals import Interrupted
from fourm.train.tracking import read_log
from fourm.train.trainer import Trainer
from tests.unit.train.toy import ToyLoader, ToyModel, ToyObjective, batch_ids, toy_config, toy_trainer

pytestmark = pytest.mark.usefixtures("one_thread")


def records(output: Path, kind: str = "train") -> list[dict[str, Any]]:
    """Records of a run without what depends on the clock."""
    clock = ("tokens_per_second", "data_wait", "samples_per_second", "memory_gib")
    found = [r for r in read_log(output / "log.jsonl") if r["kind"] == kind]
    return [{k: v for k, v in r.items() if k not in clock} for r in found]


def losses(output: Path) -> list[float]:
    return [record["loss"] for record in records(output)]


def checkpoints(output: Path) -> list[str]:
    return sorted(p.name for p in (output / "checkpoints").iterdir())


class StoppingLoader(ToyLoader):
    """Sends this process a signal while it hands out micro-batch `stop_at`."""

    def __init__(self, *args: Any, stop_at: int, number: int = signal.SIGTERM) -> None:
        super().__init__(*args)
        self.stop_at, self.number = stop_at, number

    def __call__(self, cursor: dict[str, Any] | None) -> Iterator[Any]:
        for batch, after in super().__call__(cursor):
            if after["n"] == self.stop_at:
                os.kill(os.getpid(), self.number)
            yield batch, after


def test_the_losses_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    config = toy_config(max_steps=6, schedule=ScheduleConfig(kind="constant"))
    toy_trainer(tmp_path, config).fit()
    model, expected = ToyModel(), []
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.05, betas=(0.9, 0.95))
    for step in range(6):
        ids = batch_ids(0, step, 8)
        answers = torch.stack([model.answer(("even", "odd")[int(i) % 2], i[None])[0] for i in ids])
        loss = (answers - torch.sin(ids.float())).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(float(loss.detach()))
    torch.testing.assert_close(torch.tensor(losses(tmp_path)), torch.tensor(expected))


def test_four_micro_batches_give_the_losses_of_one_batch(tmp_path: Path) -> None:
    toy_trainer(tmp_path / "one", toy_config(batch_size=16)).fit()
    toy_trainer(tmp_path / "four", toy_config(batch_size=16, accumulation=4)).fit()
    whole, parts = records(tmp_path / "one"), records(tmp_path / "four")
    for key in ("loss", "loss/even", "loss/odd", "grad_norm"):
        torch.testing.assert_close(torch.tensor([r[key] for r in whole]), torch.tensor([r[key] for r in parts]))


def test_a_record_is_the_mean_over_its_steps(tmp_path: Path) -> None:
    toy_trainer(tmp_path / "each", toy_config(max_steps=8)).fit()
    toy_trainer(tmp_path / "four", toy_config(max_steps=8, log_every_steps=4)).fit()
    each = losses(tmp_path / "each")
    assert losses(tmp_path / "four") == pytest.approx([sum(each[:4]) / 4, sum(each[4:]) / 4])
    assert [r["step"] for r in records(tmp_path / "four")] == [4, 8]


def test_a_run_in_tokens_ends_and_decays_by_tokens(tmp_path: Path) -> None:
    config = toy_config(max_steps=None, max_tokens=100, schedule=ScheduleConfig(warmup_tokens=16))
    state = toy_trainer(tmp_path, config).fit()
    assert (state.step, state.tokens) == (13, 104)
    assert [r["lr"] for r in records(tmp_path)][:2] == pytest.approx([0.025, 0.05])


def test_bf16_trains(tmp_path: Path) -> None:
    toy_trainer(tmp_path, toy_config(precision="bf16", max_steps=30)).fit()
    assert losses(tmp_path)[-1] < 0.3 * max(losses(tmp_path))


def test_nothing_waits_for_the_device_between_log_records(tmp_path: Path) -> None:
    class Waits(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            waiting = func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
            self.count += waiting
            return func(*args, **(kwargs or {}))

    def waits(output: Path, steps: int) -> int:
        options = OptimizerConfig(lr=0.01, clip_grad=1.0, skip_grad=100.0)
        config = toy_config(max_steps=steps, log_every_steps=100, optimizer=options, ema_decay=0.9)
        trainer = toy_trainer(output, config)
        with Waits() as mode:
            trainer.fit()
        return mode.count

    assert waits(tmp_path / "a", 4) == waits(tmp_path / "b", 12)
    assert waits(tmp_path / "c", 1) > 0  # the counter works: the last step is logged


def test_evaluation_pictures_and_export_see_the_averaged_weights_in_eval_mode(tmp_path: Path) -> None:
    model, seen = ToyModel(), {}
    start = model.embed.weight.detach().clone()

    def look(name: str) -> None:
        assert not model.training
        assert not torch.is_grad_enabled()
        seen[name] = model.embed.weight.detach().clone()

    def evaluate() -> dict[str, float]:
        look("eval")
        return {"loss": 1.0}

    def pictures(step: int) -> dict[str, Image.Image]:
        look("pictures")
        return {"grid": Image.new("RGB", (2, 2))}

    def export(exported: nn.Module, folder: Path) -> None:
        look("export")
        (folder / "config.json").write_text("{}")

    config = toy_config(ema_decay=0.9999, max_steps=3)
    calls = {"evaluate": evaluate, "pictures": pictures, "export": export}
    toy_trainer(tmp_path, config, model=model, **calls).fit()
    assert torch.equal(seen["eval"], seen["pictures"])
    assert torch.equal(seen["eval"], seen["export"])
    live = model.embed.weight.detach()
    assert float((seen["eval"] - live).abs().max()) > 0
    assert float((seen["eval"] - start).abs().max()) > 0
    assert (tmp_path / "model" / "config.json").exists()
    assert (tmp_path / "pictures" / "step-00000003" / "grid.png").exists()


def test_evaluations_come_every_so_many_steps_and_at_the_end(tmp_path: Path) -> None:
    values = iter([3.0, 1.0, 2.0])
    config = toy_config(max_steps=5, eval_every_steps=2)
    state = toy_trainer(tmp_path, config, evaluate=lambda: {"loss": next(values), "loss/even": 0.5}).fit()
    assert [(r["step"], r["loss"]) for r in records(tmp_path, "eval")] == [(2, 3.0), (4, 1.0), (5, 2.0)]
    assert state.metrics == {"loss": 2.0, "loss/even": 0.5}
    assert state.best == {"loss": 1.0, "step": 4}


def test_random_draws_of_an_evaluation_do_not_change_training(tmp_path: Path) -> None:
    def evaluate() -> dict[str, float]:
        return {"loss": float(torch.rand(()))}

    for name, every in (("with", 1), ("without", None)):
        config = toy_config(eval_every_steps=every)
        toy_trainer(tmp_path / name, config, model=ToyModel(dropout=0.5), evaluate=evaluate).fit()
    assert losses(tmp_path / "with") == losses(tmp_path / "without")


@pytest.mark.parametrize("log_every", [1, 3])
def test_a_stopped_and_resumed_run_equals_an_undisturbed_one_bit_for_bit(tmp_path: Path, log_every: int) -> None:
    config = toy_config(log_every_steps=log_every, accumulation=2, ema_decay=0.9, save_every_steps=7)

    def run(output: Path, stop_at: int | None) -> Trainer:
        loader = StoppingLoader(config, World(), stop_at=stop_at) if stop_at else None
        trainer = toy_trainer(output, config, loader=loader, model=ToyModel(dropout=0.5))
        trainer.fit()
        return trainer

    whole = run(tmp_path / "whole", None)
    with pytest.raises(Interrupted) as stopped:
        run(tmp_path / "halves", stop_at=21)
    assert stopped.value.code == 143
    assert checkpoints(tmp_path / "halves")[-1] == "step-00000010"  # the batches of step 11 are drawn again
    resumed = run(tmp_path / "halves", None)
    assert records(tmp_path / "halves") == records(tmp_path / "whole")
    torch.testing.assert_close(resumed.model.state_dict(), whole.model.state_dict(), rtol=0, atol=0)
    assert resumed.state == whole.state


def test_a_complete_run_does_nothing_and_a_longer_one_goes_on(tmp_path: Path) -> None:
    toy_trainer(tmp_path, toy_config(max_steps=4)).fit()
    before = (tmp_path / "log.jsonl").read_bytes()
    state = toy_trainer(tmp_path, toy_config(max_steps=4), loader=lambda cursor: pytest.fail("loaded")).fit()
    assert state.step == 4
    assert (tmp_path / "log.jsonl").read_bytes() == before
    toy_trainer(tmp_path, toy_config(max_steps=6)).fit()
    assert [r["step"] for r in records(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_run_killed_before_its_export_only_exports(tmp_path: Path) -> None:
    def disk_full(model: nn.Module, folder: Path) -> None:
        (folder / "half").touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CheckpointError, match="No space left"):
        toy_trainer(tmp_path, export=disk_full).fit()
    assert not (tmp_path / "completed.json").exists()
    assert not (tmp_path / "model").exists()
    loader, export = (lambda cursor: pytest.fail("loaded")), (lambda model, folder: (folder / "whole").touch())
    toy_trainer(tmp_path, loader=loader, export=export).fit()
    assert [p.name for p in (tmp_path / "model").iterdir()] == ["whole"]
    assert (tmp_path / "completed.json").exists()


@pytest.mark.parametrize("log_every", [1, 50])
def test_a_nan_names_step_part_and_remedy_and_the_good_checkpoint_stays(tmp_path: Path, log_every: int) -> None:
    config = toy_config(save_every_steps=5, log_every_steps=log_every)
    with pytest.raises(TrainingError, match=r"nan at step 8 \(part: odd\).*step-00000005.*optimizer\.lr.*clip_grad"):
        toy_trainer(tmp_path, config, objective=ToyObjective(nan_after_calls=7)).fit()
    assert checkpoints(tmp_path) == ["step-00000005"]
    toy_trainer(tmp_path, config).fit()
    toy_trainer(tmp_path / "undisturbed", config).fit()
    assert losses(tmp_path) == losses(tmp_path / "undisturbed")


def test_weights_that_overflowed_are_not_saved(tmp_path: Path) -> None:
    config = toy_config(max_steps=1, optimizer=OptimizerConfig(lr=1e39))
    with pytest.raises(TrainingError, match="weights are not finite after step 1"):
        toy_trainer(tmp_path, config).fit()
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("part", ["model", "modalities", "tokenizer", "modality"])
def test_another_model_is_not_continued_unless_allowed(tmp_path: Path, part: str) -> None:
    recipe = {part: {"dim": 8}, "train": {"path": Path("a")}}
    toy_trainer(tmp_path, toy_config(max_steps=2), metadata={"recipe": recipe}).fit()
    changed = {"recipe": {**recipe, part: {"dim": 9}}}
    with pytest.raises(CheckpointError, match=rf"recipe\.{part}\.dim: 8 -> 9.*train\.allow_changed_recipe"):
        toy_trainer(tmp_path, toy_config(max_steps=4), metadata=changed).fit()
    allowed = toy_config(max_steps=4, allow_changed_recipe=True)
    assert toy_trainer(tmp_path, allowed, metadata=changed).fit().step == 4


@pytest.mark.parametrize(("key", "before", "after"), [("backend", "auto", "sdpa"), ("activation_checkpointing", 0, 1)])
def test_how_the_model_is_computed_may_change(tmp_path: Path, key: str, before: Any, after: Any) -> None:
    toy_trainer(tmp_path, toy_config(max_steps=2), metadata={"recipe": {"model": {"dim": 8, key: before}}}).fit()
    changed = {"recipe": {"model": {"dim": 8, key: after}}}
    assert toy_trainer(tmp_path, toy_config(max_steps=4), metadata=changed).fit().step == 4


def test_tokens_of_other_tokenizers_are_not_continued_unless_allowed(tmp_path: Path) -> None:
    """The recipe names the same files; only what they hold has changed."""
    before = {"tokenizers": {"tok_depth": "a", "text": "b", "tok_rgb": "c"}}
    toy_trainer(tmp_path, toy_config(max_steps=2), metadata=before).fit()
    toy_trainer(tmp_path, toy_config(max_steps=3), metadata={"tokenizers": {"text": "b", "tok_new": "d"}}).fit()

    toy_trainer(tmp_path / "again", toy_config(max_steps=2), metadata=before).fit()
    changed = {"tokenizers": {"tok_depth": "x", "text": "y", "tok_rgb": "c"}}
    with pytest.raises(CheckpointError, match=r"other tokenizers of tok_depth, text.*train\.allow_changed_recipe"):
        toy_trainer(tmp_path / "again", toy_config(max_steps=4), metadata=changed).fit()
    allowed = toy_config(max_steps=4, allow_changed_recipe=True)
    assert toy_trainer(tmp_path / "again", allowed, metadata=changed).fit().step == 4


def test_other_changes_of_the_recipe_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    toy_trainer(tmp_path, toy_config(max_steps=2), metadata={"recipe": {"data": "a"}}).fit()
    toy_trainer(tmp_path, toy_config(max_steps=4), metadata={"recipe": {"data": "b"}}).fit()
    assert "recipe.data: 'a' -> 'b'" in caplog.text


def test_tensors_of_another_shape_are_an_error(tmp_path: Path) -> None:
    toy_trainer(tmp_path, toy_config(max_steps=2)).fit()
    with pytest.raises(CheckpointError, match=r"embed\.weight has shape \(10, 8\), this recipe needs \(10, 4\)"):
        toy_trainer(tmp_path, toy_config(max_steps=4), model=ToyModel(dim=4)).fit()


def test_resume_never_insists_on_a_fresh_folder(tmp_path: Path) -> None:
    toy_trainer(tmp_path, toy_config(max_steps=2)).fit()
    with pytest.raises(ConfigError, match="another output folder"):
        toy_trainer(tmp_path, toy_config(max_steps=2, resume="never")).fit()


def test_an_average_that_the_checkpoint_lacks_starts_from_its_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    toy_trainer(tmp_path, toy_config(max_steps=5)).fit()
    trained: list[torch.Tensor] = []
    model = ToyModel()
    config = toy_config(max_steps=6, ema_decay=0.999999, schedule=ScheduleConfig(kind="constant"))
    trainer = toy_trainer(
        tmp_path, config, model=model, evaluate=lambda: trained.append(model.embed.weight.detach().clone()) or {}
    )
    trainer.fit()
    assert "no averaged weights" in caplog.text
    assert float((trained[0] - ToyModel().embed.weight.detach()).abs().max()) > 0.05  # not the random start


def test_a_full_disk_in_the_middle_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = toy_trainer(tmp_path, toy_config(save_every_steps=5))
    from fourm.train import checkpoint

    publish = checkpoint.publish_folder

    def full_later(temporary: Path, path: Path) -> None:
        if path.name > "step-00000005":
            raise OSError(errno.ENOSPC, "No space left on device")
        publish(temporary, path)

    monkeypatch.setattr(checkpoint, "publish_folder", full_later)
    with pytest.raises(CheckpointError, match="step-00000010: No space left on device"):
        trainer.fit()
    assert checkpoints(tmp_path) == ["step-00000005"]
    assert not (tmp_path / "completed.json").exists()


def test_a_loader_that_ends_too_early_is_an_error(tmp_path: Path) -> None:
    config = toy_config()
    with pytest.raises(DataError, match=r"ended after step 3 .*max_steps=20"):
        toy_trainer(tmp_path, config, loader=ToyLoader(config, World(), end=3)).fit()


def test_an_error_of_the_loader_passes_unchanged(tmp_path: Path) -> None:
    def loader(cursor: Any) -> Iterator[Any]:
        raise DataError("shard-00003.tar is cut short")
        yield

    with pytest.raises(DataError, match="cut short"):
        toy_trainer(tmp_path, loader=loader).fit()


def test_frozen_networks_of_the_objective_are_in_eval_mode_and_not_saved(tmp_path: Path) -> None:
    objective = ToyObjective()
    objective.frozen = {"teacher": nn.Linear(2, 2)}
    toy_trainer(tmp_path, toy_config(max_steps=1), objective=objective).fit()
    teacher = objective.frozen["teacher"]
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())


def test_frozen_parameters_stay_and_the_rest_trains(tmp_path: Path) -> None:
    model = ToyModel()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    toy_trainer(tmp_path, toy_config(max_steps=3, freeze=["embed.*"]), model=model).fit()
    assert torch.equal(model.embed.weight, before["embed.weight"])
    assert not torch.equal(model.norm.weight, before["norm.weight"])


def test_a_contradictory_recipe_fails_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="max_steps"):
        toy_trainer(tmp_path / "run", toy_config(max_steps=None))
    assert not (tmp_path / "run").exists()


def test_a_loader_process_that_dies_of_the_signal_within_a_step_ends_the_run_as_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = toy_trainer(tmp_path, toy_config(max_steps=30))
    step = trainer._step

    def dying(*arguments: Any) -> None:
        step(*arguments)
        if trainer.state.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Terminated.")

    monkeypatch.setattr(trainer, "_step", dying)
    with pytest.raises(Interrupted):
        trainer.fit()
    monkeypatch.undo()
    toy_trainer(tmp_path, toy_config(max_steps=30)).fit()


def test_a_crash_leaves_its_reason_in_the_last_line_of_the_log(tmp_path: Path) -> None:
    config = toy_config(max_steps=9)
    with pytest.raises(TrainingError):
        toy_trainer(tmp_path, config, objective=ToyObjective(nan_after_calls=4)).fit()
    last = read_log(tmp_path / "log.jsonl")[-1]
    assert (last["kind"], last["error"]) == ("end", "NotFiniteError")
    assert "the loss is nan at step 5" in last["reason"]


def test_records_say_how_fast_the_run_is_and_what_share_of_the_peak_it_reaches(tmp_path: Path) -> None:
    toy_trainer(tmp_path, toy_config(max_steps=3, peak_tflops=1e-6), flops_per_sample=10.0).fit()
    for record in (r for r in read_log(tmp_path / "log.jsonl") if r["kind"] == "train"):
        assert record["samples_per_second"] == pytest.approx(record["tokens_per_second"])  # one token a sample
        assert record["mfu"] == pytest.approx(record["samples_per_second"] * 10 / 1e6)
        assert record["memory_gib"] > 0
