import json
from pathlib import Path

import numpy as np
import torch

from fourm.generate.files import write
from fourm.generate.outputs import decode
from fourm.generate.sampler import Generated
from fourm.modality import ModalitySet
from fourm.tokenizers.text import train_wordpiece
from tests.unit.generate.toy import LEVELS, SEEDS, ToyBundle, build_model, text

IDS = torch.arange(16).expand(3, 16)


def test_ids_become_images_in_natural_units(bundle: ToyBundle) -> None:
    depth = decode(bundle, "tok_depth@16", Generated({"tok_depth@16": IDS}), SEEDS)
    assert depth.shape == (3, 1, 16, 16)
    assert depth[0, 0, 0, 0] == 0
    assert depth[0, 0, -1, -1] == 16


def test_expected_codes_are_decoded_where_probabilities_were_kept(bundle: ToyBundle) -> None:
    probabilities = torch.zeros(3, 16, LEVELS)
    probabilities[..., 0] = probabilities[..., 15] = 0.5
    generated = Generated({"tok_depth@16": IDS}, {"tok_depth@16": probabilities})
    torch.testing.assert_close(
        decode(bundle, "tok_depth@16", generated, SEEDS, expected=True), torch.full((3, 1, 16, 16), 8.0)
    )


def test_texts_and_boxes(bundle: ToyBundle) -> None:
    assert bundle.text is not None
    caption = [*bundle.text.encode("a red sofa").tolist(), -1]
    assert decode(bundle, "caption", Generated({"caption": torch.tensor([caption])}), SEEDS[:1]) == ["a red sofa"]
    boxes = bundle.text.encode("v0=0 v1=0 v2=49 v3=49 bed").tolist()
    nothing = [-1] * len(boxes)
    found = decode(bundle, "det", Generated({"det": torch.tensor([boxes, nothing])}), SEEDS[:2])
    assert found == [[{"boxes": [0.0, 0.0, 1.0, 1.0], "class_name": "bed", "score": 1.0}], []]


def test_without_a_tokenizer_the_ids_are_the_answer(bundle: ToyBundle, tmp_path: Path) -> None:
    poor = ToyBundle(bundle.model, {}, bundle.text)
    ids = decode(poor, "tok_depth@16", Generated({"tok_depth@16": IDS}), SEEDS)
    assert torch.equal(ids, IDS)
    (path,) = write(bundle.model.modalities["tok_depth@16"], ids[0], tmp_path, "depth")
    assert np.load(path).tolist() == list(range(16))


def test_structured_values_are_read_from_ids_and_written_as_they_are(tmp_path: Path) -> None:
    tokenizer = train_wordpiece(["human pose", "point polygon none"] * 4, 4400, num_sentinels=20)
    modality = text("metadata", tokenizer.vocab_size, "metadata")
    toy = ToyBundle(build_model(ModalitySet([modality])), {}, tokenizer)
    ids = tokenizer.encode("v1=5 v0=3 none v1=13 v0=25").tolist()
    found = decode(toy, "metadata", Generated({"metadata": torch.tensor([ids, [-1] * len(ids)])}))
    assert found == [{"n_humans": 3, "entropy": 5.0}, {}]
    (path,) = write(modality, found[0], tmp_path, "facts")
    assert json.loads(path.read_text()) == found[0]


def test_without_a_text_tokenizer_the_ids_of_each_text_are_the_answer(bundle: ToyBundle, tmp_path: Path) -> None:
    mute = ToyBundle(bundle.model, bundle.tokenizers)
    for name in ("caption", "det"):
        first, second = decode(mute, name, Generated({name: torch.tensor([[7, 8, 9], [5, -1, -1]])}), SEEDS[:2])
        assert first.tolist() == [7, 8, 9]
        assert second.tolist() == [5]
        (path,) = write(bundle.model.modalities[name], second, tmp_path, name)
        assert np.load(path).tolist() == [5]
