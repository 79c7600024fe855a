"""What is wrong with what a user wrote: msgspec's message, and beside an unknown field the known ones."""

from __future__ import annotations

import re
from typing import Any, get_args, get_type_hints

from asd.schema import msgspec

__all__ = ["explained"]

UNKNOWN = re.compile(r"unknown field `.*?`(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)


def explained(error: msgspec.DecodeError, kind: Any) -> str:
    """The message of an error that reading a value of type `kind` raised."""
    found = UNKNOWN.search(str(error))
    if found is None:
        return str(error)
    structs = _structs(kind)
    for field in re.findall(r"\.(\w+)", found["path"] or ""):
        structs = [inner for outer in structs for inner in _structs(_fields(outer).get(field))]
    known = dict.fromkeys(name for struct in structs for name in _fields(struct))
    return f"{error}; the known fields are {', '.join(known)}"


def _structs(kind: Any) -> list[type[msgspec.Struct]]:
    """The structs that a value of a type holds, in whatever containers."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return [kind]
    return [struct for inner in get_args(kind) for struct in _structs(inner)]


def _fields(struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(struct).items() if not name.startswith("__")}
