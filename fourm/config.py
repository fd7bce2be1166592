"""Dataclasses are the schema of recipes: from plain values to a config, and back.

A slot with several implementations holds `kind:`. Unknown keys, wrong types and missing values are errors that give the
full key and the closest known one.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from fourm.errors import ConfigError, did_you_mean
from fourm.registry import Registry

T = TypeVar("T")
_SCALARS = (bool, int, float, str, Path)


def slot(registry: Registry, default: str | None = None, *, optional: bool = False) -> Any:
    """A config field that holds one of several kinds, told apart by its key `kind`.

    Args:
        registry: maps each kind to its config dataclass.
        default: kind used, with its own defaults, when the recipe leaves the field out; None: the field is required.
        optional: the field may be left out or null, which is None.
    """
    if optional:
        return dataclasses.field(default=None, metadata={"slot": registry})
    if default is None:
        return dataclasses.field(metadata={"slot": registry})
    return dataclasses.field(default_factory=lambda: registry.resolve(default)(), metadata={"slot": registry})


def slots(registry: Registry) -> Any:
    """A config field `name -> one of several kinds`. An entry without `kind` is of the kind that its name is."""
    return dataclasses.field(default_factory=dict, metadata={"slots": registry})


def fill_preset(values: Mapping[str, Any], presets: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The values of a preset with a config's own over them; for `expand` of a config.

    Args:
        values: of the config, which may name a `preset`.
        presets: name -> values.

    Raises:
        ConfigError: if there is no preset of that name.
    """
    own = {key: value for key, value in values.items() if key != "preset"}
    name = values.get("preset")
    if name is None:
        return own
    if name not in presets:
        raise ConfigError(f"preset '{name}' is not known.{did_you_mean(str(name), presets)}")
    return {**presets[name], **own}


def build(schema: type[T], values: Mapping[str, Any], where: str = "", key: str = "") -> T:
    """An instance of a config dataclass from plain values, strictly checked.

    Args:
        schema: the dataclass.
        values: plain values, as read from YAML or JSON. A class method `expand(values)` of the dataclass sees them
            first (presets).
        where: file named in errors.
        key: full key of this part, for errors.

    Raises:
        ConfigError: for unknown keys, wrong types, missing values, or what the dataclass's own checks find.
    """
    expand = getattr(schema, "expand", None)
    if expand is not None:
        try:
            values = expand(values)
        except ConfigError as error:
            raise _error(f"{key + ': ' if key else ''}{error}", where) from None
    fields = {f.name: f for f in dataclasses.fields(schema) if f.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(schema)
    prefix = f"{key}." if key else ""
    for name in values:
        if name not in fields:
            raise _error(f"{prefix}{name} is not a known key.{did_you_mean(str(name), fields)}", where)
    arguments = {}
    for name, field in fields.items():
        full = prefix + name
        if name in values:
            registry, several = field.metadata.get("slot"), field.metadata.get("slots")
            if several is not None:
                arguments[name] = _slot_values(several, values[name], where, full)
            elif registry is None:
                arguments[name] = _convert(hints[name], values[name], where, full)
            elif values[name] is not None or field.default is not None:  # null leaves an optional slot empty
                arguments[name] = _slot_value(registry, values[name], where, full)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise _error(f"{full} is missing (expected {_describe(hints[name], field.metadata.get('slot'))})", where)
    try:
        return schema(**arguments)
    except ConfigError as error:
        raise _error(f"{key + ': ' if key else ''}{error}", where) from None


def to_dict(config: Any) -> Any:
    """Plain values of a config, which `build` turns back into an equal one; slots get their `kind`."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        values: dict[str, Any] = {}
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            values[field.name] = to_dict(value)
            registry, several = field.metadata.get("slot"), field.metadata.get("slots")
            if registry is not None and value is not None:
                values[field.name] = {"kind": _kind_of(registry, value), **values[field.name]}
            if several is not None:
                values[field.name] = {
                    name: {"kind": _kind_of(several, part), **to_dict(part)} for name, part in value.items()
                }
        return values
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_dict(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def _kind_of(registry: Registry, value: Any) -> str:
    for kind in registry:
        if registry.resolve(kind) is type(value):
            return kind
    raise ConfigError(f"{type(value).__name__} is not one of the kinds of {registry.slot}: {', '.join(registry)}")


def _slot_value(registry: Registry, value: Any, where: str, key: str) -> Any:
    if not isinstance(value, Mapping) or "kind" not in value:
        raise _error(f"{key}.kind is missing. Known: {', '.join(registry)}", where)
    kind = str(value["kind"])
    if kind not in registry:
        raise _error(f"{key}.kind is '{kind}'.{did_you_mean(kind, registry)}", where)
    return build(registry.resolve(kind), {k: v for k, v in value.items() if k != "kind"}, where, key)


def _slot_values(registry: Registry, values: Any, where: str, key: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise _error(f"{key} is {values!r}; expected names and, for each, keys and values", where)
    built = {}
    for name, value in values.items():
        if value is None:  # leaves out an entry of the base
            continue
        if not isinstance(value, Mapping) or ("kind" not in value and str(name) not in registry):
            raise _error(
                f"{key}.{name}.kind is missing, and the name is none.{did_you_mean(str(name), registry)}", where
            )
        built[str(name)] = _slot_value(registry, {"kind": name, **value}, where, f"{key}.{name}")
    return built


def _convert(hint: Any, value: Any, where: str, key: str) -> Any:
    """`value` as the type `hint`, or an error that names `key`."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(args, value, where, key)
    if origin is Literal:
        if value not in args:
            raise _error(f"{key} is {value!r}.{did_you_mean(str(value), [str(a) for a in args])}", where)
        return value
    if origin in (dict, Mapping):
        return _convert_mapping(args, value, where, key)
    if origin in (list, tuple, Sequence):
        return _convert_sequence(origin, args, value, where, key)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise _error(f"{key} is {value!r}; expected keys and values of {hint.__name__}", where)
        return build(hint, value, where, key)
    return _convert_scalar(hint, value, where, key)


def _convert_union(args: tuple[Any, ...], value: Any, where: str, key: str) -> Any:
    if value is None and type(None) in args:
        return None
    if type(value) in args:  # 1.0 stays a number with a point where both kinds of number are allowed
        return value
    errors = []
    for arg in args:
        if arg is not type(None):
            try:
                return _convert(arg, value, where, key)
            except ConfigError as error:
                errors.append(error)
    raise errors[0]


def _convert_mapping(args: tuple[Any, ...], value: Any, where: str, key: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _error(f"{key} is {value!r}; expected keys and values", where)
    converted = {}
    for name, item in value.items():
        if item is None and args[1] is not Any and type(None) not in get_args(args[1]):
            continue  # `name: null` leaves out an entry of the base
        own = int(name) if args[0] is int and str(name).isdigit() else name  # JSON has only text as keys
        converted[_convert(args[0], own, where, key)] = _convert(args[1], item, where, f"{key}.{name}")
    return converted


def _convert_sequence(origin: Any, args: tuple[Any, ...], value: Any, where: str, key: str) -> Any:
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        raise _error(f"{key} is {value!r}; expected a list", where)
    variadic = origin is not tuple or (len(args) == 2 and args[1] is Ellipsis)
    if not variadic and len(args) != len(value):
        raise _error(f"{key} has {len(value)} entries; expected {len(args)}", where)
    items = [_convert(args[0] if variadic else args[i], v, where, f"{key}[{i}]") for i, v in enumerate(value)]
    return tuple(items) if origin is tuple else items


def _convert_scalar(hint: Any, value: Any, where: str, key: str) -> Any:
    exact = type(value) is hint
    if hint is float and type(value) is int:
        return float(value)
    if hint is float and isinstance(value, str):
        try:
            return float(value)  # YAML 1.1 reads 1e-4 as text
        except ValueError:
            pass
    if hint is int and type(value) is float and value.is_integer():
        return int(value)
    if hint in (Path, str) and isinstance(value, str | int | float | Path) and not isinstance(value, bool):
        return hint(str(value))
    if exact or hint not in _SCALARS:
        return value
    raise _error(f"{key} is {value!r}; expected {_describe(hint)}", where)


def _describe(hint: Any, registry: Registry | None = None) -> str:
    if registry is not None:
        return f"a mapping with kind: {' | '.join(registry)}"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    if hint in names:
        return names[hint]
    return getattr(hint, "__name__", str(hint).replace("typing.", ""))


def _error(message: str, where: str) -> ConfigError:
    return ConfigError(f"{message} ({where})" if where else message)
