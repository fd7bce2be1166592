import pytest

from fourm.errors import ConfigError
from fourm.generate.names import base_name, means_tokens, resolve, short_name
from fourm.modality import ModalitySet


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("rgb", "rgb@16"),
        ("rgb@16", "rgb@16"),
        ("tok_rgb", "tok_rgb@16"),
        ("depth", "tok_depth@16"),
        ("depth@16", "tok_depth@16"),
        ("tok_depth@16", "tok_depth@16"),
        ("caption", "caption"),
        ("caption#not", "caption"),
    ],
)
def test_given_names(name: str, meant: str, modalities: ModalitySet) -> None:
    assert resolve(name, modalities.inputs, "read").name == meant


def test_the_name_of_pixels_means_their_tokens_where_only_these_can_be_generated(modalities: ModalitySet) -> None:
    assert resolve("rgb", modalities.outputs, "generate").name == "tok_rgb@16"


def test_an_unknown_name_lists_what_there_is_and_the_closest(modalities: ModalitySet) -> None:
    with pytest.raises(ConfigError, match="cannot generate 'dept'. It can generate: tok_rgb@16, tok_depth@16") as error:
        resolve("dept", modalities.outputs, "generate")
    assert "Did you mean 'depth'?" in str(error.value)


def test_a_name_that_fits_two_asks_for_the_full_one() -> None:
    from fourm.catalog import get

    with pytest.raises(ConfigError, match="could be tok_rgb@224 or tok_rgb@448"):
        resolve("tok_rgb", [get("tok_rgb@224"), get("tok_rgb@448")], "generate")


def test_short_names(modalities: ModalitySet) -> None:
    assert [short_name(modalities[n]) for n in ("tok_depth@16", "rgb@16", "caption")] == ["depth", "rgb", "caption"]


def test_only_tok_names_stand_for_ids(modalities: ModalitySet) -> None:
    depth = modalities["tok_depth@16"]
    assert means_tokens("tok_depth", depth)
    assert means_tokens("tok_depth@16", depth)
    assert not means_tokens("depth", depth)


def test_labels_are_no_part_of_the_modality() -> None:
    assert base_name("caption#not") == base_name("caption") == "caption"
