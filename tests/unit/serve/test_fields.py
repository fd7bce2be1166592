from fourm.generate.inputs import find_given
from fourm.generate.names import resolve
from fourm.serve.fields import Field, target_names
from tests.unit.generate.toy import ToyBundle


def test_every_modality_the_model_reads_has_one_field_by_a_name_that_means_it(
    bundle: ToyBundle, fields: dict[str, Field]
) -> None:
    meant = {find_given(bundle, name)[0].name for name in fields}
    assert meant == {modality.name for modality in bundle.model.modalities.inputs}
    assert list(fields) == ["rgb", "depth", "semseg", "caption", "det", "tok_rgb@16", "vectors"]


def test_a_field_knows_what_its_files_hold(fields: dict[str, Field]) -> None:
    assert (fields["rgb"].is_photograph, fields["depth"].is_photograph) == (True, False)
    assert fields["semseg"].is_label_map
    assert fields["tok_rgb@16"].hint == "a .npy file"
    assert fields["vectors"].hint == "a .npz file"
    assert "16-bit" in fields["depth"].hint


def test_nobody_draws_metres_or_text(fields: dict[str, Field]) -> None:
    assert [name for name, field in fields.items() if field.is_drawn] == ["rgb", "semseg"]


def test_targets_are_what_the_model_generates(bundle: ToyBundle) -> None:
    names = target_names(bundle)
    outputs = bundle.model.modalities.outputs
    assert [resolve(name, outputs, "generate") for name in names] == list(outputs)
    assert names[:2] == ["rgb", "depth"]
