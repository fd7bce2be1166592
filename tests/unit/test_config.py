"""Recipes: strict against their schema, with errors that name the full key and the remedy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from fourm import recipes
from fourm.config import build, slot, slots, to_dict
from fourm.errors import ConfigError
from fourm.recipes import find, load, read
from fourm.registry import Registry


@dataclass
class Circle:
    radius: float = 1.0


@dataclass
class Square:
    side: int = 2

    def __post_init__(self) -> None:
        if self.side < 0:
            raise ConfigError(f"side is {self.side}; expected at least 0")


SHAPES = Registry("shape", {"circle": f"{__name__}:Circle", "square": f"{__name__}:Square"})


@dataclass
class Inner:
    rate: float = 0.1
    names: list[str] = field(default_factory=list)


@dataclass
class Preset:
    width: int = 1

    @staticmethod
    def expand(values: Mapping[str, Any]) -> dict[str, Any]:
        own = {key: value for key, value in values.items() if key != "preset"}
        if values.get("preset", "big") != "big":
            raise ConfigError(f"preset '{values['preset']}' is not known")
        return {"width": 100, **own} if "preset" in values else own


@dataclass
class Recipe:
    steps: int
    rate: float = 1.0
    name: str = "x"
    fast: bool = False
    mode: Literal["a", "b"] = "a"
    folder: Path = Path(".")
    inner: Inner = field(default_factory=Inner)
    table: dict[str, float] = field(default_factory=dict)
    by_size: dict[int, str] = field(default_factory=dict)
    pair: tuple[int, int] = (1, 2)
    several: list[Inner] = field(default_factory=list)
    top: int | float | None = None
    shape: Any = slot(SHAPES, default="circle")
    preset: Preset = field(default_factory=Preset)
    parts: dict[str, Inner] = field(default_factory=dict)


def write(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# ------------------------------------------------------------------ values


def test_defaults_fill_what_a_recipe_leaves_out() -> None:
    assert build(Recipe, {"steps": 3}) == Recipe(steps=3, shape=Circle())


def test_a_whole_number_serves_where_a_number_is_expected() -> None:
    assert build(Recipe, {"steps": 3, "rate": 2}).rate == 2.0
    assert isinstance(build(Recipe, {"steps": 3, "rate": 2}).rate, float)


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", ".0001", "'1e-4'"])
def test_numbers_with_exponents_are_numbers(tmp_path: Path, text: str) -> None:
    assert load(write(tmp_path, f"steps: 1\nrate: {text}"), Recipe).rate == pytest.approx(1e-4)


def test_a_number_without_fraction_serves_where_a_whole_number_is_expected() -> None:
    assert build(Recipe, {"steps": 1e3}).steps == 1000


def test_numbers_serve_as_text_and_paths() -> None:
    recipe = build(Recipe, {"steps": 1, "name": 64, "folder": "a/b"})
    assert recipe.name == "64"
    assert recipe.folder == Path("a/b")


def test_nested_values_are_converted() -> None:
    recipe = build(
        Recipe,
        {
            "steps": 1,
            "inner": {"rate": 1},
            "several": [{"rate": 2}],
            "table": {"a": 1},
            "by_size": {64: "x"},
            "pair": [3, 4],
        },
    )
    assert recipe.inner == Inner(rate=1.0)
    assert recipe.several == [Inner(rate=2.0)]
    assert recipe.table == {"a": 1.0}
    assert recipe.by_size == {64: "x"}
    assert recipe.pair == (3, 4)


@pytest.mark.parametrize("value", [5, 0.9, 1.0, None])
def test_a_union_keeps_the_type_that_was_written(value: float | None) -> None:
    got = build(Recipe, {"steps": 1, "top": value}).top
    assert got == value
    assert type(got) is type(value)


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"^steps is missing \(expected a whole number\) \(f\.yaml\)$"),
        ({"steps": 1, "stepz": 2}, r"^stepz is not a known key\..*Did you mean 'steps'\?"),
        ({"steps": 1, "inner": {"rat": 1}}, r"^inner\.rat is not a known key\..*Did you mean 'rate'\?"),
        ({"steps": 1, "several": [{}, {"rat": 1}]}, r"^several\[1\]\.rat is not a known key"),
        ({"steps": "many"}, r"^steps is 'many'; expected a whole number \(f\.yaml\)$"),
        ({"steps": 1.5}, r"^steps is 1\.5; expected a whole number"),
        ({"steps": True}, r"^steps is True; expected a whole number"),
        ({"steps": None}, r"^steps is None; expected a whole number"),
        ({"steps": 1, "rate": "fast"}, r"^rate is 'fast'; expected a number"),
        ({"steps": 1, "fast": 1}, r"^fast is 1; expected true or false"),
        ({"steps": 1, "fast": "true"}, r"^fast is 'true'; expected true or false"),
        ({"steps": 1, "name": [1]}, r"^name is \[1\]; expected text"),
        ({"steps": 1, "mode": "c"}, r"^mode is 'c'\. Known: a, b\."),
        ({"steps": 1, "inner": 3}, r"^inner is 3; expected keys and values of Inner"),
        ({"steps": 1, "inner": {"names": "x"}}, r"^inner\.names is 'x'; expected a list"),
        ({"steps": 1, "inner": {"names": [1, {}]}}, r"^inner\.names\[1\] is \{\}; expected text"),
        ({"steps": 1, "table": [1]}, r"^table is \[1\]; expected keys and values"),
        ({"steps": 1, "table": {"a": "b"}}, r"^table\.a is 'b'; expected a number"),
        ({"steps": 1, "pair": [1]}, r"^pair has 1 entries; expected 2"),
        ({"steps": 1, "top": "x"}, r"^top is 'x'; expected a whole number"),
        ({"steps": 1, "shape": {"side": 1}}, r"^shape\.kind is missing\. Known: circle, square"),
        ({"steps": 1, "shape": "square"}, r"^shape\.kind is missing\. Known: circle, square"),
        ({"steps": 1, "shape": {"kind": "squre"}}, r"^shape\.kind is 'squre'\..*Did you mean 'square'\?"),
        ({"steps": 1, "shape": {"kind": "square", "radius": 1}}, r"^shape\.radius is not a known key\. Known: side"),
        (
            {"steps": 1, "shape": {"kind": "square", "side": -1}},
            r"^shape: side is -1; expected at least 0 \(f\.yaml\)$",
        ),
        ({"steps": 1, "preset": {"preset": "tall"}}, r"^preset: preset 'tall' is not known \(f\.yaml\)$"),
    ],
)
def test_errors_name_the_full_key_the_value_and_what_was_expected(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Recipe, values, where="f.yaml")


def test_a_required_slot_lists_its_kinds() -> None:
    @dataclass
    class Needy:
        shape: Any = slot(SHAPES)

    # Annotations of a local class are looked up in the module, where `Any` is.
    with pytest.raises(ConfigError, match=r"shape is missing \(expected a mapping with kind: circle \| square\)"):
        build(Needy, {})


def test_an_optional_slot_may_be_left_out_or_null_but_not_without_a_kind() -> None:
    @dataclass
    class Frame:
        shape: Any = slot(SHAPES, optional=True)

    assert build(Frame, {}).shape is None
    assert build(Frame, {"shape": None}).shape is None
    assert build(Frame, to_dict(build(Frame, {"shape": {"kind": "square"}}))).shape == Square()
    assert build(Frame, to_dict(Frame())) == Frame()
    with pytest.raises(ConfigError, match="shape.kind is missing. Known: circle, square"):
        build(Frame, {"shape": {"side": 3}})


# ------------------------------------------------------------------ slots and presets


def test_a_kind_selects_the_schema() -> None:
    assert build(Recipe, {"steps": 1, "shape": {"kind": "square", "side": 5}}).shape == Square(5)


def test_a_preset_fills_values_that_own_keys_override() -> None:
    assert build(Recipe, {"steps": 1, "preset": {"preset": "big"}}).preset.width == 100
    assert build(Recipe, {"steps": 1, "preset": {"preset": "big", "width": 3}}).preset.width == 3


def test_plain_values_build_an_equal_config_again() -> None:
    recipe = build(
        Recipe,
        {
            "steps": 2,
            "shape": {"kind": "square"},
            "folder": "a",
            "several": [{"rate": 3}],
            "by_size": {1: "a"},
            "top": 2.0,
        },
    )
    plain = to_dict(recipe)
    assert plain["shape"] == {"kind": "square", "side": 2}
    assert plain["folder"] == "a"
    assert build(Recipe, plain) == recipe


def test_a_kind_that_another_module_re_exports_keeps_its_name() -> None:
    again = Registry("shape", {"round": f"{__name__}:ALIAS"})

    @dataclass
    class Holder:
        shape: Any = slot(again)

    assert to_dict(Holder(Circle())) == {"shape": {"kind": "round", "radius": 1.0}}


ALIAS = Circle


# ------------------------------------------------------------------ files


def test_overrides_come_last(tmp_path: Path) -> None:
    path = write(tmp_path, "steps: 1\ninner: {rate: 1}\n")
    recipe = load(path, Recipe, ["steps=2", "inner.rate=1e-4", "inner.names=[a, b]", "fast=true", "name=a=b"])
    assert (recipe.steps, recipe.inner, recipe.fast, recipe.name) == (2, Inner(1e-4, ["a", "b"]), True, "a=b")


@dataclass
class Mappings:
    """Values of several types by name."""

    paths: dict[str, Path] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    inners: dict[str, Inner] = field(default_factory=dict)
    optional: dict[str, int | None] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)


def test_null_leaves_out_an_entry_of_a_mapping_unless_it_is_a_value_there(tmp_path: Path) -> None:
    entries = {"paths": "p", "numbers": 1, "inners": {"rate": 1}, "optional": 1, "free": 1}
    path = write(tmp_path, "\n".join(f"{name}: {{a: {value}, b: {value}}}" for name, value in entries.items()))
    made = load(path, Mappings, [f"{name}.a=null" for name in entries])
    assert (made.paths, made.numbers, made.inners) == ({"b": Path("p")}, {"b": 1.0}, {"b": Inner(1.0)})
    assert (made.optional, made.free) == ({"a": None, "b": 1}, {"a": None, "b": 1})


@pytest.mark.parametrize("key", ["several[1].rate", "several.1.rate"])
def test_overrides_reach_into_lists(tmp_path: Path, key: str) -> None:
    path = write(tmp_path, "steps: 1\nseveral: [{rate: 1}, {rate: 2, names: [a]}]\n")
    assert load(path, Recipe, [f"{key}=9"]).several == [Inner(1.0), Inner(9.0, ["a"])]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "'steps' is not of the form key=value"),
        ("=3", "'=3' is not of the form key=value"),
        ("inner.names=[a", "not valid YAML"),
        ("several[4].rate=1", "'4' is not an entry of this list; expected 0 to 1"),
        ("several.rate=1", "'rate' is not an entry of this list"),
        ("stepz=1", "Did you mean 'steps'"),
    ],
)
def test_wrong_overrides_are_explained(tmp_path: Path, override: str, message: str) -> None:
    path = write(tmp_path, "steps: 1\nseveral: [{rate: 1}, {rate: 2}]\n")
    with pytest.raises(ConfigError, match=message):
        load(path, Recipe, [override])


def test_a_base_gives_what_the_file_leaves_out(tmp_path: Path) -> None:
    write(tmp_path, "steps: 1\nrate: 5\ninner: {rate: 7, names: [a, b]}\n", "common/base.yaml")
    path = write(tmp_path, "base: common/base.yaml\nrate: 6\ninner: {names: [c]}\n")
    recipe = load(path, Recipe)
    assert (recipe.steps, recipe.rate, recipe.inner) == (1, 6.0, Inner(7.0, ["c"]))


def test_of_several_bases_each_goes_over_those_before_it(tmp_path: Path) -> None:
    write(tmp_path, "steps: 1\nrate: 5\ninner: {rate: 7, names: [a]}\n", "one.yaml")
    write(tmp_path, "rate: 6\ninner: {names: [b]}\n", "two.yaml")
    recipe = load(write(tmp_path, "base: [one.yaml, two.yaml]\nname: leaf\n"), Recipe)
    assert (recipe.steps, recipe.rate, recipe.inner, recipe.name) == (1, 6.0, Inner(7.0, ["b"]), "leaf")
    with pytest.raises(ConfigError, match=r"base 'three\.yaml' does not exist"):
        load(write(tmp_path, "base: [one.yaml, three.yaml]\n"), Recipe)


def test_bases_have_bases_relative_to_their_own_folder(tmp_path: Path) -> None:
    write(tmp_path, "steps: 1\nrate: 2\n", "a/root.yaml")
    write(tmp_path, "base: root.yaml\nrate: 3\n", "a/middle.yaml")
    recipe = load(write(tmp_path, "base: a/middle.yaml\nname: leaf\n"), Recipe)
    assert (recipe.steps, recipe.rate, recipe.name) == (1, 3.0, "leaf")


@pytest.mark.parametrize("override", [False, True])
def test_another_kind_than_the_base_starts_afresh(tmp_path: Path, override: bool) -> None:
    write(tmp_path, "steps: 1\nshape: {kind: circle, radius: 3}\n", "base.yaml")
    if override:
        recipe = load(tmp_path / "base.yaml", Recipe, ["shape.kind=square", "shape.side=4"])
    else:
        recipe = load(write(tmp_path, "base: base.yaml\nshape: {kind: square, side: 4}\n"), Recipe)
    assert recipe.shape == Square(4)


def test_the_same_kind_keeps_what_the_base_says(tmp_path: Path) -> None:
    write(tmp_path, "steps: 1\nshape: {kind: square, side: 9}\n", "base.yaml")
    assert load(write(tmp_path, "base: base.yaml\nshape: {kind: square}\n"), Recipe).shape == Square(9)


@pytest.mark.parametrize("name", ["a.yaml", "b.yaml"])
def test_a_loop_of_bases_is_an_error(tmp_path: Path, name: str) -> None:
    write(tmp_path, "base: sub/../b.yaml\n", "a.yaml")
    (tmp_path / "sub").mkdir()
    write(tmp_path, "base: a.yaml\n", "b.yaml")
    with pytest.raises(ConfigError, match="base leads back to itself"):
        read(tmp_path / name)


def test_a_base_may_be_a_shipped_recipe(tmp_path: Path) -> None:
    own = read(write(tmp_path, "base: pretrain/rooms\nname: mine\n"))

    assert own == {**read(find("pretrain/rooms")), "name": "mine"}


def test_null_leaves_out_an_entry_of_the_base(tmp_path: Path) -> None:
    write(tmp_path, "steps: 1\nparts: {a: {rate: 1}, b: {rate: 2}}\n", "base.yaml")

    recipe = load(write(tmp_path, "base: base.yaml\nparts: {a: null, c: {rate: 3}}\n"), Recipe)

    assert recipe.parts == {"b": Inner(2.0), "c": Inner(3.0)}


def test_a_missing_base_names_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"base 'no\.yaml' does not exist \(looked for .*no\.yaml\)"):
        read(write(tmp_path, "base: no.yaml\n"))


def test_values_refer_to_one_another_also_across_bases_and_overrides(tmp_path: Path) -> None:
    write(tmp_path, "steps: 1\nrate: ${steps}\nname: n${inner.rate}\n", "base.yaml")
    recipe = load(write(tmp_path, "base: base.yaml\ninner: {rate: 7}\n"), Recipe, ["steps=4"])
    assert (recipe.rate, recipe.name) == (4.0, "n7")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: [1", "not valid YAML"),
        ("steps: 1\nsteps: 2", "duplicate key"),
        ("\tsteps: 1", "not valid YAML"),
        ("5", "expected keys and values at the top"),
        ("- 1", "expected keys and values at the top, found list"),
        ("steps: ${stepz}", "steps: Interpolation key 'stepz' not found"),
        ("steps: ${stepz", "steps"),
        ("steps: ???", "steps is '\\?\\?\\?', which stands for a value you have to give"),
        ("inner:\n  rate: ???", "inner.rate is"),
    ],
)
def test_broken_files_are_explained_with_their_name(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        load(write(tmp_path, text), Recipe)
    assert "recipe.yaml" in str(error.value)


def test_an_empty_file_misses_what_is_required(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="steps is missing"):
        load(write(tmp_path, ""), Recipe)


def test_bytes_that_are_not_text_are_not_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigError, match="not valid YAML"):
        read(path)


# ------------------------------------------------------------------ shipped recipes


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cfgs"
    write(folder, "steps: 7\n", "pretrain/small_run.yaml")
    monkeypatch.setattr(recipes, "recipe_folder", lambda: folder)
    return folder


@pytest.mark.parametrize(
    ("name", "folder"), [("small_run", "pretrain"), ("pretrain/small_run", ""), ("pretrain/small_run.yaml", "")]
)
def test_shipped_recipes_are_found_by_name(shipped: Path, name: str, folder: str) -> None:
    assert load(name, Recipe, folder=folder).steps == 7


def test_an_unknown_recipe_lists_the_shipped_ones(shipped: Path) -> None:
    with pytest.raises(ConfigError, match=r"no recipe 'smal_run'.*Known: small_run\. Did you mean 'small_run'\?"):
        load("smal_run", Recipe, folder="pretrain")


def test_reading_a_recipe_needs_no_torch(checkout: Path) -> None:
    import subprocess
    import sys

    modules = "fourm, fourm.config, fourm.catalog, fourm.models.configs, fourm.objectives.configs"
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=checkout)


@dataclass
class Shapes:
    parts: dict[str, Any] = slots(SHAPES)


def test_named_parts_of_several_kinds() -> None:
    built = build(Shapes, {"parts": {"circle": {"radius": 2}, "big": {"kind": "square", "side": 9}, "gone": None}})
    assert built.parts == {"circle": Circle(2.0), "big": Square(9)}
    assert build(Shapes, to_dict(built)) == built
    assert build(Shapes, {}).parts == {}


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"cirle": {}}, r"parts.cirle.kind is missing.*Did you mean 'circle'"),
        ({"big": {"kind": "cube"}}, r"parts.big.kind is 'cube'"),
        ({"square": {"sides": 1}}, r"parts.square.sides is not a known key"),
        ({"square": 3}, r"parts.square.kind is missing"),
        ([], "expected names"),
    ],
)
def test_mistakes_in_named_parts(parts: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build(Shapes, {"parts": parts})
