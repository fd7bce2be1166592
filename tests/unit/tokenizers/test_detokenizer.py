from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fourm.config import build
from fourm.errors import CheckpointError, ConfigError
from fourm.layouts import Continuous, Grid
from fourm.modality import Modality
from fourm.objectives.estimate import Estimate
from fourm.objectives.reconstruct import Reconstruct
from fourm.objectives.reconstruct_config import EstimateConfig, ReconstructConfig
from fourm.tokenizers.base import load_tokenizer
from fourm.tokenizers.detokenizer import Detokenizer
from fourm.tokenizers.detokenizer_configs import DetokenizerConfig
from fourm.tokenizers.visual_decoder import VisualDecoder
from fourm.tokenizers.visual_decoder_configs import VisualDecoderConfig

RGB = Modality(
    "rgb", Grid(4, 4, 4), Continuous(48), "rgb", "image", channels=3, value_range=(0.0, 1.0), normalization="half"
)
TOWER = {"kind": "timm", "name": "vit_tiny_patch16_224", "options": {"patch_size": 4, "depth": 1}}
RESAMPLER = {"dim": 16, "depth": 1, "num_heads": 2}
TOKENS = {
    "encoder": {"kind": "vision", "tower": TOWER, "pooler": {"kind": "resampler", **RESAMPLER}}, "num_tokens": 4,
    "dim": 10,
}  # fmt: skip
PAINTER = {
    "conditions": {
        "text": {"num_tokens": 5, "dim": 12},
        "image": {
            "encoder": {"kind": "conv", "stem": 4, "widths": [8], "num_blocks": [1], "groups": 4}, "attends": "apart",
        },
    },
    "unet": {
        "widths": [8, 16], "num_blocks": 1, "attention_depth": [0, 1], "num_heads": [2, 2], "groups": 4,
        "cross_dim": 12,
    },
    "sampling": {"num_steps": 2},
}  # fmt: skip


def painter() -> VisualDecoder:
    torch.manual_seed(7)
    return VisualDecoder(RGB, build(VisualDecoderConfig, PAINTER)).eval()


def make(**values: Any) -> Detokenizer:
    torch.manual_seed(0)
    own = {} if "painter_from" in values else {"painter": PAINTER}
    facts = {"tokens": TOKENS, "decoder": {**RESAMPLER, "causal": False}, **own, **values}
    return Detokenizer(RGB, build(DetokenizerConfig, facts))


def images(batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, 16, 16) * 2 - 1


def texts(batch: int = 2) -> dict[str, torch.Tensor]:
    return {"text": torch.randn(batch, 5, 12)}


def objective(model: Detokenizer, **config: Any) -> Estimate:
    return Estimate(EstimateConfig(**config), RGB, model.num_tokens, given=model.given, sizes=model.sizes)


def test_tokens_become_estimates_of_all_that_the_visual_decoder_is_told():
    model = make().eval()
    x, given = images(), texts()
    result = model(x, None, given)
    assert model.encode(x).shape == (2, 4, 10)
    assert {name: tuple(value.shape) for name, value in result.outputs.items()} == {
        "text": (2, 5, 12),
        "image": (2, 16, 8),
    }
    torch.testing.assert_close(result.targets["text"], given["text"])
    torch.testing.assert_close(result.targets["image"], model.painter.conditions.encoders["image"](x))


def test_the_tokens_are_causal():
    """Token i knows nothing of later queries (VL-GPT, sec. 3.1)."""
    model, x = make().eval(), images()
    before = model.encode(x)
    with torch.no_grad():
        model.tokens.encoders["image"].pooler.queries[2] += 1.0
    after = model.encode(x)
    torch.testing.assert_close(after[:, :2], before[:, :2])
    assert all(not torch.allclose(after[:, n], before[:, n]) for n in (2, 3))


def test_every_token_reaches_both_estimates_and_the_picture():
    model = make().eval()
    tokens = torch.randn(1, 4, 10).repeat(5, 1, 1)
    tokens[torch.arange(1, 5), torch.arange(4)] += 3 * torch.randn(4, 10)
    estimates, painted = model.decoder(tokens), model.decode(tokens, seeds=torch.zeros(5, dtype=torch.int64), raw=True)
    for values in (*estimates.values(), painted):
        assert all(not torch.allclose(values[0], other) for other in values[1:])


def test_the_picture_is_the_visual_decoders_of_the_estimates():
    model = make().eval()
    tokens, seeds = model.encode(images()), torch.tensor([3, 4])
    torch.testing.assert_close(
        model.decode(tokens, seeds=seeds), model.painter.decode(model.decoder(tokens), seeds=seeds)
    )
    model.use_sampling(guidance=3.0)
    plain, moved = model.decode(tokens, seeds=seeds), model.decode(tokens, seeds=seeds, null=torch.randn(4, 10))
    assert not torch.allclose(plain, moved)


def test_the_loss_is_the_weighted_sum_of_the_two_mean_squared_errors():
    model = make()
    task = objective(model, weights={"image": 0.5})
    rng = np.random.default_rng(0)
    samples = [{"rgb": images(1)[0].numpy(), "text": rng.normal(size=(5, 12))} for _ in range(3)]
    batch = task.collate([task.prepare(sample, rng) for sample in samples])
    result = model(batch.images, None, batch.given)
    errors = {name: (result.outputs[name] - result.targets[name]).square().mean() for name in model.sizes}
    loss = task.loss(model, batch).scalar(task.counts(batch))
    torch.testing.assert_close(loss, errors["text"] + 0.5 * errors["image"])


def test_only_the_resampler_and_the_transformer_are_trained_and_nothing_is_painted():
    model = make().train()
    model.painter.decoder.forward = None  # type: ignore[method-assign, assignment]
    task = objective(model)
    rng = np.random.default_rng(0)
    sample = {"rgb": images(1)[0].numpy(), "text": rng.normal(size=(5, 12))}
    batch = task.collate([task.prepare(sample, rng)])
    task.loss(model, batch).scalar(task.counts(batch)).backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert {name.rsplit(".pooler.")[0].split(".")[0] for name in trained} == {"decoder", "tokens"}
    assert not [name for name in trained if "tower" in name or "painter" in name]
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert not model.painter.training


def test_the_visual_decoder_is_taken_from_its_folder_and_saved_along(tmp_path: Path):
    source = painter()
    source.save(tmp_path / "painter")
    model = make(painter_from=str(tmp_path / "painter")).eval()
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.painter.state_dict().items())
    digest = model.save(tmp_path / "saved")
    (tmp_path / "painter" / "config.json").unlink()
    again, x = load_tokenizer(tmp_path / "saved"), images()
    assert again.hash == digest == make().hash  # tokens do not depend on what paints them
    torch.testing.assert_close(again.encode(x), model.encode(x))
    torch.testing.assert_close(again.decode(again.encode(x)), model.decode(model.encode(x)))


def test_another_one_is_a_start():
    one = make()
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(0.1)
    other = make()
    other.adopt_encoder(one)
    assert other.hash == one.hash
    with pytest.raises(CheckpointError, match="same networks"):
        make(decoder={**RESAMPLER, "depth": 2}).adopt(one)


def test_what_does_not_fit_is_refused(tmp_path: Path):
    model = make()
    with pytest.raises(ConfigError, match="set objective.kind to estimate"):
        Reconstruct(ReconstructConfig(), RGB, 4, sizes=model.sizes)
    with pytest.raises(ConfigError, match="is for tokenizer.kind detokenizer"):
        Estimate(EstimateConfig(), RGB, 4)
    with pytest.raises(ConfigError, match="weights names 'depth'"):
        objective(model, weights={"depth": 1.0})
    with pytest.raises(ConfigError, match=r"expected tokens\.encoder\.kind vision"):
        make(tokens={"num_tokens": 4, "dim": 10})
    model.save(tmp_path)
    with pytest.raises(ConfigError, match="expected visual_decoder"):
        make(painter_from=str(tmp_path))


@pytest.mark.slow
def test_the_conditions_are_learned_from_the_tokens():
    """Estimates of what the frozen encoder says of images become better than its mean, which is where they start."""
    torch.manual_seed(1)
    model = make().train()
    x = (torch.rand(64, 3, 1, 1) * 2 - 1).expand(-1, -1, 16, 16).contiguous()  # colours
    task, given = objective(model), {"text": torch.zeros(64, 5, 12)}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(150):
        result = model(x, None, given)
        loss = sum((result.outputs[n] - result.targets[n]).square().mean() for n in task.parts)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
    result = model(x, None, given)
    spread = (result.targets["image"] - result.targets["image"].mean(0)).square().mean()
    assert (result.outputs["image"] - result.targets["image"]).square().mean() < 0.7 * spread


def test_the_feeder_of_a_language_model_takes_the_tokenizer_s_weights():
    from dataclasses import replace

    from fourm.layouts import Discrete, Sequence, Slots
    from fourm.modality import ModalitySet
    from fourm.models.configs import MultimodalConfig
    from fourm.models.multimodal import Multimodal
    from fourm.recipe.pretrain import take_encoder

    text = Modality("text", Sequence(16, 16), Discrete(20), "text", "tokens")
    shown = replace(RGB, name="image", layout=Slots(4, 16, 16), content=Continuous(10))
    feeder = {**TOKENS["encoder"], "projection": True, "from_tokenizer": True}  # type: ignore[dict-item]
    config = {"dim": 16, "encoder_depth": 0, "decoder_depth": 1, "num_heads": 2, "feeders": {"image": feeder}}
    model = Multimodal(ModalitySet([text, shown]), build(MultimodalConfig, config)).eval()
    tokenizer, x = make().eval(), images()
    own = model.input_embedder.feeders["image"]
    assert not torch.allclose(own(x), tokenizer.encode(x))
    take_encoder(model, "image", tokenizer)
    torch.testing.assert_close(own(x), tokenizer.encode(x))
    for other in (None, make(tokens={**TOKENS, "num_tokens": 5})):
        with pytest.raises(ConfigError, match="the folder of a detokenizer with the same tower"):
            take_encoder(model, "image", other)
