"""`fourm convert aim` and `aimv2`: published encoders become backbones, with their probe where there is one."""

from __future__ import annotations

from pathlib import Path

import torch

from fourm.convert import checkpoints
from fourm.convert.aim import Facts, Version, open_encoder, rules
from fourm.convert.load import Loaded, naming, summary
from fourm.convert.rules import read
from fourm.convert.side import write_side
from fourm.layouts import Discrete, Sequence
from fourm.modality import Modality, ModalitySet
from fourm.nn.init import adopt_weights
from fourm.objectives.supervised_configs import ClassificationConfig
from fourm.recipe.finetune_schema import LABEL
from fourm.transfer.backbone import Backbone
from fourm.transfer.configs import BackboneConfig
from fourm.transfer.folder import save_backbone, save_network
from fourm.transfer.head_configs import AttentiveConfig
from fourm.transfer.network import TransferNetwork


def convert(
    source: str | Path,
    out: Path,
    *,
    version: Version,
    head: str | Path | None = None,
    layers: str | None = None,
    num_heads: int | None = None,
) -> list[str]:
    """Turn a published encoder of AIM or AIMv2 into a folder that `fourm.backbone` and `fourm finetune` read.

    Args:
        source, head: see `open_encoder`.
        out: the folder.
        version: `aim` or `aimv2`.
        layers: blocks that the probe averages: `last`, `best`, or numbers such as `14-19`. None: as the config or the
            name of `head` say, or else the last six.
        num_heads: of its attention; None: as the config says, or one for each 128 channels.

    Returns:
        what was done, in lines for people.

    Raises:
        CheckpointError: if tensors are missing, left over or of another shape, or the file is of something else;
            nothing is written then.
    """
    published = open_encoder(source, head)
    checkpoints.tell_licence(published.source)
    if layers is None and head is not None and "best" in Path(head).name:
        layers = "best"
    with naming(published.source):
        facts = Facts.of(published, version, layers, num_heads)
        network = _network(facts)
        found = read(list(rules(facts, network.state_dict())), published.tensors, network.state_dict())
        adopt_weights(network, found.state)
    if isinstance(network, TransferNetwork):
        task = ClassificationConfig(source=LABEL, num_classes=facts.num_classes)
        answer = Modality(LABEL, Sequence(1), Discrete(network.num_outputs), LABEL, "label", direction="input")
        save_network(network.eval(), task, answer, out)
    else:
        save_backbone(network.eval(), out)
    write_side(out, Loaded(network, published, found))
    lines = [
        *summary(published, network, out),
        f"reads {facts.name} in patches of {facts.patch_size}: {facts.depth} blocks of width {facts.dim}",
    ]
    if facts.num_classes is not None:
        lines.append(f"answers {facts.num_classes} classes from blocks {', '.join(map(str, facts.probed))}")
    return lines


def _network(facts: Facts) -> Backbone | TransferNetwork:
    """The network of an encoder, on the meta device."""
    config = BackboneConfig(
        [facts.name],
        image_size=facts.image_size,
        average_layers=list(facts.probed) or None,
        places="counted" if facts.counted else "fitted",
    )
    with torch.device("meta"):
        backbone = Backbone(ModalitySet([facts.modality]), facts.model, config)
        if facts.num_classes is None:
            return backbone
        return TransferNetwork(backbone, AttentiveConfig(None, 1, "aim"), facts.num_classes, False)
