import torch

from fourm.train.provenance import provenance


def test_it_names_the_revision_and_the_versions() -> None:
    found = provenance()
    assert found["packages"]["torch"] == torch.__version__.split("+")[0]
    assert found["git"] is None or len(found["git"].removesuffix("-dirty")) == 40
