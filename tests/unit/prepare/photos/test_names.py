"""Any file name gives a key that is safe in a tar, and different ones give different keys."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fourm.errors import ConfigError
from fourm.prepare.photos.names import beside, check_template, matcher, safe_key, split

NAMES = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=300)


@pytest.mark.parametrize("name", ["tom", "cats/tom", "2024/05/IMG_0001", "a-b_c"])
def test_plain_names_stay(name: str) -> None:
    assert safe_key(name) == name


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../../etc/passwd", "a b", "tom.v2", "写真", "-rf", "a\nb", "x" * 300, "/", "."]
)
def test_others_become_plain(name: str) -> None:
    key = safe_key(name)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_/-]*", key)
    assert ".." not in key
    assert not key.startswith("/")


@given(NAMES)
def test_every_key_fits_a_tar(name: str) -> None:
    key = safe_key(name)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_/-]{0,88}", key)
    assert "//" not in key


@given(NAMES, NAMES)
def test_different_names_have_different_keys(first: str, second: str) -> None:
    assert (safe_key(first) == safe_key(second)) == (first == second)


@pytest.mark.parametrize(
    ("file", "parts"),
    [
        ("cats/tom.jpg", ("cats/tom", "jpg")),
        ("tom.v2.jpg", ("tom.v2", "jpg")),
        ("v1.0/tom", ("v1.0/tom", "")),
        ("cats/.hidden", ("cats/.hidden", "")),
    ],
)
def test_the_ending_is_behind_the_last_dot(file: str, parts: tuple[str, str]) -> None:
    assert split(file) == parts


@pytest.mark.parametrize(
    ("template", "path", "file"),
    [
        ("{path}.txt", "cats/tom", "cats/tom.txt"),
        ("masks/{stem}.png", "cats/tom", "masks/tom.png"),
        ("{folder}/masks/{stem}.png", "cats/tom", "cats/masks/tom.png"),
        ("{folder}/{stem}.txt", "tom", "tom.txt"),
        ("masks/{folder}/{stem}.png", "tom", "masks/tom.png"),
        ("masks/{folder}/{stem}.png", "cats/tom", "masks/cats/tom.png"),
        ("{folder}/../masks/{stem}.png", "a/cats/tom", "a/masks/tom.png"),
        ("{folder}/../masks/{stem}.png", "cats/tom", "masks/tom.png"),
        ("/data/{path}.npy", "a{b}", "/data/a{b}.npy"),
    ],
)
def test_templates(template: str, path: str, file: str) -> None:
    check_template(template)
    assert beside(template, path) == file
    assert matcher([template])(file)


@pytest.mark.parametrize("template", ["labels.txt", "{name}.txt", "{path.parent}.txt", "{}.txt"])
def test_a_template_without_a_place_is_refused(template: str) -> None:
    with pytest.raises(ConfigError, match=r"\{path\}"):
        check_template(template)
