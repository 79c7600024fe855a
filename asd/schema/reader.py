"""From dicts, lists and scalars to values of a type, or an error that names the place (`$.cells[3].lam`).

A type is compiled once into a table: from what JSON calls a value ("int", "object") to the function that
reads it. What a table does not list is refused. Messages are msgspec's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from functools import cache, partial
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from asd.schema.struct import config_of, fields_of

__all__ = ["NAMES", "DecodeError", "MsgspecError", "ValidationError", "convert"]

Table = dict[str, Callable[[Any], Any]]

NAMES = {
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    list: "array",
    tuple: "array",
    dict: "object",
    NoneType: "null",
}
"""What messages call the types of JSON, in their order."""


class MsgspecError(ValueError):
    """Base of all errors."""


class DecodeError(MsgspecError):
    """A text is not JSON or TOML, or not of its type."""


class ValidationError(DecodeError):
    """A value is not of its type; `path` leads to it, or to the dict whose `key` it is."""

    def __init__(self, problem: str, path: str = "", *, key: bool = False) -> None:
        place = f" - at {'`key` in ' if key else ''}`${path}`"
        super().__init__(problem + place if path or key else problem)
        self.problem, self.path, self.key = problem, path, key

    def within(self, step: str) -> ValidationError:
        """The same error, seen from one level further out."""
        return ValidationError(self.problem, step + self.path, key=self.key)


def convert(obj: Any, type: Any) -> Any:  # noqa: A002 - msgspec's own name
    """A value of the given type; raises `ValidationError`."""
    return _read(_table(type), obj)


def _read(table: Table, value: Any) -> Any:
    name = NAMES.get(type(value), type(value).__name__)
    if name not in table:
        wanted = [one for one in dict.fromkeys(NAMES.values()) if table.get(one, _as_float) is not _as_float]
        raise ValidationError(f"Expected `{' | '.join(wanted)}`, got `{name}`")
    return table[name](value)


@cache
def _table(kind: Any) -> Table:
    origin, args = get_origin(kind) or kind, get_args(kind)
    if kind in (Any, object):
        return dict.fromkeys(NAMES.values(), _same)
    if kind is float:
        return {"float": _same, "int": _as_float}
    if origin is Literal:
        return {NAMES[type(value)]: partial(_one_of, args) for value in args}
    if origin in (Union, UnionType):
        return _any_of(args)
    return {NAMES.get(origin, "object"): _reader(kind, origin, args)}


def _reader(kind: Any, origin: Any, args: tuple[Any, ...]) -> Callable[[Any], Any]:
    if origin in (list, tuple):
        return partial(_array, origin, args)
    if origin is dict:
        return partial(_dict, *(args or (str, Any)))
    if dataclasses.is_dataclass(kind):
        return partial(_object, kind)
    if kind not in NAMES:
        raise TypeError(f"Type {kind!r} is not supported")
    return _same


def _same(value: Any) -> Any:
    return value


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValidationError("Number out of range") from None


def _one_of(values: Collection[Any], value: Any) -> Any:
    if (type(value), value) not in [(type(known), known) for known in values]:
        raise ValidationError(f"Invalid enum value {value!r}")
    return value


def _any_of(kinds: Collection[Any]) -> Table:
    tables = sorted(map(_table, kinds), key=len, reverse=True)  # float reads an int, unless int is listed too
    merged = {name: reader for table in tables for name, reader in table.items()}
    tagged = {config_of(kind).tag: kind for kind in kinds if dataclasses.is_dataclass(kind)}
    if len(tagged) > 1:
        merged["object"] = partial(_tagged, tagged)
    return merged


def _tagged(kinds: Mapping[str | None, Any], content: dict[str, Any]) -> Any:
    if "type" not in content:
        raise ValidationError("Object missing required field `type`")
    return _object(kinds[_tag(kinds, content["type"])], content)


def _tag(known: Collection[str | None], tag: Any) -> str:
    if not isinstance(tag, str):
        raise ValidationError("Expected `str`", ".type")
    if tag not in known:
        raise ValidationError(f"Invalid value {tag!r}", ".type")
    return tag


def _array(origin: Any, kinds: tuple[Any, ...], content: Collection[Any]) -> Any:
    if origin is list or kinds[1:] == (...,) or not kinds:
        kinds = (kinds or (Any,))[:1] * len(content)
    if len(content) != len(kinds):
        raise ValidationError(f"Expected `array` of length {len(kinds)}")
    items: list[Any] = []
    try:
        for kind, item in zip(kinds, content, strict=True):
            items.append(_read(_table(kind), item))
    except ValidationError as error:
        raise error.within(f"[{len(items)}]") from None
    return origin(items)


def _dict(of_key: Any, of_value: Any, content: dict[Any, Any]) -> dict[Any, Any]:
    table, found = _table(of_value), {}
    for key, value in content.items():
        name = _key(of_key, key)
        try:
            found[name] = _read(table, value)
        except ValidationError as error:
            raise error.within("[...]") from None
    return found


def _key(kind: Any, key: Any) -> Any:
    """A key, which is text in JSON and TOML whatever its type."""
    if kind is int and isinstance(key, str) and key.removeprefix("-").isdecimal():
        return int(key)
    try:
        return _read(_table(kind), key)
    except ValidationError as error:
        raise ValidationError(error.problem, key=True) from None


def _object(kind: Any, content: dict[str, Any]) -> Any:
    tables, values = _tables(kind), {}
    for name, value in content.items():
        if name not in tables:
            _check_unknown(kind, name, value)
            continue
        try:
            values[name] = _read(tables[name], value)
        except ValidationError as error:
            raise error.within(f".{name}") from None
    for field in fields_of(kind):
        if field.name not in values and field.default is field.default_factory:
            raise ValidationError(f"Object missing required field `{field.name}`")
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise ValidationError(str(error)) from error


def _check_unknown(kind: Any, name: str, value: Any) -> None:
    config = config_of(kind)
    if name == "type" and config.tag is not None:
        _tag([config.tag], value)
    elif config.forbid_unknown_fields:
        raise ValidationError(f"Object contains unknown field `{name}`")


@cache
def _tables(kind: Any) -> dict[str, Table]:
    hints = get_type_hints(kind)
    return {field.name: _table(hints[field.name]) for field in fields_of(kind)}
