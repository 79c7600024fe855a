"""msgspec's `Struct` as a dataclass: a value that knows how it is read from JSON and written to it."""

from __future__ import annotations

import dataclasses
from copy import copy
from functools import cache, partial
from typing import Any, ClassVar, dataclass_transform

__all__ = ["Config", "Struct", "config_of", "fields_of", "written"]


@dataclasses.dataclass(frozen=True, slots=True)
class Config:
    """How structs of a class are read and written, in msgspec's words."""

    frozen: bool = False
    forbid_unknown_fields: bool = False
    omit_defaults: bool = False
    tag: str | None = None


@dataclass_transform()
class Struct:
    """Base of structs; a subclass inherits what it does not configure itself."""

    __struct_config__: ClassVar[Config] = Config()

    def __init_subclass__(cls, *, kw_only: bool = False, **config: Any) -> None:
        super().__init_subclass__()
        cls.__struct_config__ = dataclasses.replace(cls.__struct_config__, **config)
        for name, default in list(vars(cls).items()):
            if name in cls.__annotations__ and isinstance(default, list | dict | set):
                setattr(cls, name, dataclasses.field(default_factory=partial(copy, default)))
        dataclasses.dataclass(frozen=cls.__struct_config__.frozen, kw_only=kw_only)(cls)


def config_of(kind: Any) -> Config:
    """Of a class or a value; that of a plain dataclass is the default."""
    config: Config = getattr(kind, "__struct_config__", Config())
    return config


def fields_of(kind: Any) -> list[dataclasses.Field[Any]]:
    """Of a struct or dataclass; those with a keyword only come last, as in msgspec."""
    return _fields(kind)


@cache
def _fields(kind: Any) -> list[dataclasses.Field[Any]]:
    return sorted(dataclasses.fields(kind), key=lambda field: field.kw_only is True)


def written(record: Any) -> dict[str, Any]:
    """What is written of a struct or dataclass: its tag and its fields; defaults only if so configured."""
    config = config_of(record)
    content = {} if config.tag is None else {"type": config.tag}
    for field in fields_of(type(record)):
        value = getattr(record, field.name)
        if not (config.omit_defaults and _is_default(field, value)):
            content[field.name] = value
    return content


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.default_factory is not dataclasses.MISSING:
        return not value and not field.default_factory()
    return value is field.default
