import pytest
import torch
from torch import nn

from fourm.errors import ConfigError
from fourm.train.configs import OptimizerConfig, ParameterRule
from fourm.train.optimizer import (
    Updater,
    build_optimizer,
    empty_state,
    optimizer_state,
    parameter_groups,
    select_trainable,
    set_optimizer_state,
)
from tests.unit.train.toy import ToyModel, toy_config


def names_by(model: nn.Module, groups: list[dict], key: str) -> dict[float, set[str]]:
    names = {id(p): name for name, p in model.named_parameters()}
    found: dict[float, set[str]] = {}
    for group in groups:
        found.setdefault(group[key], set()).update(names[id(p)] for p in group["params"])
    return found


def test_norms_and_biases_are_not_decayed_but_embeddings_are() -> None:
    model = ToyModel()
    by_decay = names_by(model, parameter_groups(model, OptimizerConfig(weight_decay=0.05)), "weight_decay")
    assert by_decay[0.05] == {"embed.weight", "heads.even.weight", "heads.odd.weight"}
    assert by_decay[0.0] == {"norm.weight", "norm.bias", "heads.even.bias", "heads.odd.bias"}


def test_the_first_matching_rule_sets_learning_rate_and_decay() -> None:
    model = ToyModel()
    rules = [ParameterRule("heads.odd.*", lr_scale=0.1), ParameterRule("heads.*", lr_scale=3.0, weight_decay=0.0)]
    groups = parameter_groups(model, OptimizerConfig(rules=rules))
    assert names_by(model, groups, "lr_scale") == {
        1.0: {"embed.weight", "norm.weight", "norm.bias"},
        0.1: {"heads.odd.weight", "heads.odd.bias"},
        3.0: {"heads.even.weight", "heads.even.bias"},
    }
    assert "heads.even.weight" in names_by(model, groups, "weight_decay")[0.0]


def test_a_pattern_without_a_parameter_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"'embd\.weight' matches no parameter.*Did you mean 'embed\.weight'"):
        select_trainable(ToyModel(), ["*"], ["embd.weight"])
    with pytest.raises(ConfigError, match=r"train\.optimizer\.rules"):
        parameter_groups(ToyModel(), OptimizerConfig(rules=[ParameterRule("decoder.*")]))
    with pytest.raises(ConfigError, match="no parameter to train"):
        select_trainable(ToyModel(), ["*"], ["*"])


def test_frozen_parameters_get_no_gradient() -> None:
    model = ToyModel()
    select_trainable(model, ["heads.*", "norm.*"], ["*.bias"])
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"heads.even.weight", "heads.odd.weight", "norm.weight"}


def updater(**options: float) -> tuple[ToyModel, Updater]:
    model = ToyModel()
    optimizer = build_optimizer(model, toy_config(optimizer=OptimizerConfig(lr=0.1, weight_decay=0.0)))
    return model, Updater(optimizer, options.get("clip_grad"))


def give_gradients(model: nn.Module, value: float) -> float:
    count = 0
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, value)
        count += parameter.numel()
    return abs(value) * count**0.5


def test_the_fused_kernel_is_used_on_cpu() -> None:
    assert updater()[1].fused


def test_clipping_gives_the_update_of_the_shortened_gradient() -> None:
    model, clipped = updater(clip_grad=1.0)
    norm = give_gradients(model, 3.0)
    assert float(clipped.step(0.1)) == pytest.approx(norm)
    moments = next(iter(clipped.optimizer.state.values()))["exp_avg"]
    torch.testing.assert_close(moments, torch.full_like(moments, 0.1 * 3.0 / norm))


@pytest.mark.parametrize("value", [3.0, float("nan"), float("inf")])
@pytest.mark.parametrize("fused", [True, False])
def test_a_step_with_too_long_a_gradient_changes_nothing(value: float, fused: bool) -> None:
    model = ToyModel()
    optimizer = build_optimizer(model, toy_config(optimizer=OptimizerConfig(lr=0.1, fused=fused)))
    update = Updater(optimizer, None)
    give_gradients(model, 0.01)
    update.step(0.1)
    before = {name: tensor.clone() for name, tensor in [*model.state_dict().items()]}
    moments = {name: tensor.clone() for name, tensor in optimizer_state(model, optimizer).items()}
    give_gradients(model, value)
    update.step(0.1, leaves_out=lambda norm: ~(norm < 5.0))
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    torch.testing.assert_close(optimizer_state(model, optimizer), moments, rtol=0, atol=0)
    give_gradients(model, 0.01)
    update.step(0.1)
    assert not torch.equal(model.embed.weight, before["embed.weight"])


def test_the_learning_rate_of_a_group_is_scaled() -> None:
    model = ToyModel()
    rules = [ParameterRule("heads.*", lr_scale=0.0)]
    config = toy_config(optimizer=OptimizerConfig(lr=0.1, weight_decay=0.0, rules=rules))
    update = Updater(build_optimizer(model, config), None)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    give_gradients(model, 1.0)
    assert update.step(0.1) is None
    assert torch.equal(model.heads["odd"].weight, before["heads.odd.weight"])
    torch.testing.assert_close(model.embed.weight, before["embed.weight"] - 0.1, rtol=1e-4, atol=1e-5)


def test_the_state_by_name_goes_out_and_in_without_what_never_had_a_gradient() -> None:
    model, update = updater()
    give_gradients(model, 1.0)
    model.heads["odd"].bias.grad = None
    update.step(0.1)
    saved = {name: tensor.clone() for name, tensor in optimizer_state(model, update.optimizer).items()}
    assert "heads.odd.bias/exp_avg" not in saved
    assert float(saved["embed.weight/step"]) == 1
    other, fresh = updater()
    state = empty_state(other, fresh.optimizer, [*saved, "gone.weight/exp_avg"])
    assert state.keys() == saved.keys()
    set_optimizer_state(other, fresh.optimizer, {name: target.copy_(saved[name]) for name, target in state.items()})
    torch.testing.assert_close(optimizer_state(other, fresh.optimizer), saved, rtol=0, atol=0)
