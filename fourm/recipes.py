"""Recipes as YAML files that build on one another; `key=value` overrides come last.

A file may name another one, or a shipped one such as `pretrain/rooms`, under `base:`; its own keys are merged over it.
Of a list of them, each is merged over those before it. Where a slot has another kind than in the base, what the base
says of it is dropped. A key `variables:` may hold values of the file's own, used elsewhere as `${variables.NAME}`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fourm.config import build
from fourm.errors import ConfigError, did_you_mean
from fourm.paths import recipe_folder

T = TypeVar("T")


def load(source: str | Path, schema: type[T], overrides: Sequence[str] = (), *, folder: str = "") -> T:
    """Read a recipe and check it against its schema.

    Args:
        source: a YAML file, or the name of a shipped recipe such as `4m_tiny` or `pretrain/4m_tiny`.
        schema: the dataclass of the whole recipe.
        overrides: `key.subkey=value`, applied last.
        folder: where to look for shipped recipes given by bare name, such as `pretrain`.

    Raises:
        ConfigError: with the full key, what was given, what was expected, and the file.
    """
    path = find(source, folder)
    values = read(path, overrides)
    if "variables" not in {f.name for f in dataclasses.fields(schema)}:  # type: ignore[arg-type]
        values.pop("variables", None)
    return build(schema, values, where=str(source))


def find(source: str | Path, folder: str = "") -> Path:
    """The file of a recipe given as a path or by the name of a shipped one.

    Raises:
        ConfigError: if there is no such file; the message lists the shipped names.
    """
    path = Path(source)
    if path.is_file():
        return path
    shipped = recipe_folder()
    for candidate in (shipped / folder / path, shipped / path):
        for name in (candidate, candidate.with_name(candidate.name + ".yaml")):
            if name.is_file():
                return name
    names = [
        p.relative_to(shipped / folder).with_suffix("").as_posix() for p in sorted((shipped / folder).rglob("*.yaml"))
    ]
    raise ConfigError(
        f"no recipe '{source}': there is no such file and no shipped recipe of that name."
        f"{did_you_mean(str(source), names)}"
    )


def read(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The plain values of a YAML file with its bases, overrides and interpolations resolved.

    Raises:
        ConfigError: if the YAML is not valid, a base is missing or an interpolation cannot be resolved.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    values = _with_bases(path, ())
    for item in overrides:
        _check_variable(values, item, path)
        values = _override(values, item)
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(values), resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{path}: {error.full_key} is '???', which stands for a value you have to give") from None
    except OmegaConfBaseException as error:
        key = f"{error.full_key}: " if getattr(error, "full_key", None) else ""
        raise ConfigError(f"{path}: {key}{str(error).strip().splitlines()[0]}") from None
    assert isinstance(resolved, dict)
    return {str(key): value for key, value in resolved.items()}


def _with_bases(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = path.resolve()
    if path in seen:
        raise ConfigError(f"{path}: its base leads back to itself")
    own = _plain(path)
    bases = own.pop("base", None)
    values: dict[str, Any] = {}
    for base in [] if bases is None else bases if isinstance(bases, list) else [bases]:
        values = _merge(values, _with_bases(_base_of(path, str(base)), (*seen, path)))
    return _merge(values, own)


def _base_of(path: Path, base: str) -> Path:
    """The file that another one names as its base."""
    parent = path.parent / base
    if parent.is_file():
        return parent
    try:
        return find(base)
    except ConfigError as error:
        raise ConfigError(f"{path}: base '{base}' does not exist (looked for {parent}): {error}") from None


def _plain(path: Path) -> dict[str, Any]:
    """The values of one YAML file, interpolations unresolved."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        own: Any = OmegaConf.to_container(OmegaConf.load(path))
    except (yaml.YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    except OSError as error:  # what OmegaConf raises for a lone number or word
        raise ConfigError(f"{path}: {error}; expected keys and values at the top") from None
    if not isinstance(own, dict):
        raise ConfigError(f"{path}: expected keys and values at the top, found {type(own).__name__}")
    return own


def _merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` over `base`, key by key. A part of another `kind` starts afresh: its keys mean nothing to the new kind."""
    if "kind" in own and "kind" in base and own["kind"] != base["kind"]:
        return dict(own)
    merged = dict(base)
    for key, value in own.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _check_variable(values: Mapping[str, Any], item: str, path: Path) -> None:
    """Variables are the file's own, so no schema knows their names: an override may only set one that is there."""
    key = item.partition("=")[0].strip()
    known = [f"variables.{name}" for name in values.get("variables") or {}]
    if key.startswith("variables.") and ".".join(key.split(".")[:2]) not in known:
        raise ConfigError(f"{key} is not a variable of this recipe ({path}).{did_you_mean(key, known)}")


def _override(values: dict[str, Any], item: str) -> dict[str, Any]:
    """`values` with one `key.subkey=value` or `key.3.subkey=value` applied."""
    import yaml
    from omegaconf import OmegaConf

    key, equals, text = item.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override '{item}' is not of the form key=value, for instance train.max_steps=100")
    try:
        value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore[index,call-overload]
    except yaml.YAMLError:
        raise ConfigError(f"override '{item}': the value is not valid YAML; quote it") from None
    parts = key.strip().replace("[", ".").replace("]", "").split(".")
    result = _placed(values, parts, value, item)
    assert isinstance(result, dict)
    return result


def _placed(container: Any, parts: Sequence[str], value: Any, item: str) -> Any:
    """`container` with `value` at the place `parts`."""
    if not parts:
        return _merge(container, value) if isinstance(container, dict) and isinstance(value, dict) else value
    if isinstance(container, list):
        index = int(parts[0]) if parts[0].isdigit() else -1
        if not 0 <= index < len(container):
            raise ConfigError(
                f"override '{item}': '{parts[0]}' is not an entry of this list; expected 0 to {len(container) - 1}"
            )
        return [*container[:index], _placed(container[index], parts[1:], value, item), *container[index + 1 :]]
    own = container if isinstance(container, dict) else {}
    return _merge(own, {parts[0]: _placed(own.get(parts[0]), parts[1:], value, item)})
