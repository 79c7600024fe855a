"""The part of msgspec that the harness uses, in plain Python, for machines that do not have it.

What is written is what msgspec writes, byte for byte; what is read or refused is what msgspec reads or
refuses: the tests hold both against each other. A name that is not here raises `ImportError` with the remedy.
"""

from __future__ import annotations

import dataclasses
import json as _json
import math
import tomllib
from collections.abc import Callable
from functools import partial
from json.encoder import encode_basestring
from types import SimpleNamespace
from typing import Any, NoReturn

from asd.schema.reader import DecodeError, MsgspecError, ValidationError, convert
from asd.schema.struct import Struct, fields_of, written

__all__ = [
    "DecodeError",
    "MsgspecError",
    "Struct",
    "ValidationError",
    "convert",
    "json",
    "structs",
    "to_builtins",
    "toml",
]


def __getattr__(name: str) -> NoReturn:
    if name.startswith("__"):
        raise AttributeError(name)
    raise ImportError(f"this needs msgspec.{name}: pip install msgspec", name="msgspec")


def to_builtins(obj: Any, *, enc_hook: Callable[[Any], Any] | None = None) -> Any:
    """Dicts, lists, tuples and scalars that hold the same; `enc_hook` makes one of them of anything else."""
    plain = partial(to_builtins, enc_hook=enc_hook)
    if type(obj) in (str, float, int, bool, type(None)):
        return obj
    if isinstance(obj, list | tuple):
        return (list if isinstance(obj, list) else tuple)(map(plain, obj))
    if isinstance(obj, dict):
        return {key: plain(value) for key, value in obj.items()}
    if dataclasses.is_dataclass(obj) and not isinstance(obj, type):
        return {name: plain(value) for name, value in written(obj).items()}
    if enc_hook is None:
        raise TypeError(f"Encoding objects of type {type(obj).__name__} is unsupported")
    return plain(enc_hook(obj))


def _encode(obj: Any, *, enc_hook: Callable[[Any], Any] | None = None) -> bytes:
    return _json_of(to_builtins(obj, enc_hook=enc_hook)).encode()


def _json_of(content: Any) -> str:
    if isinstance(content, list | tuple):
        return f"[{','.join(map(_json_of, content))}]"
    if isinstance(content, dict):
        return f"{{{','.join(f'{_json_key(key)}:{_json_of(value)}' for key, value in content.items())}}}"
    if isinstance(content, str):
        return encode_basestring(content)
    return _number(content) if isinstance(content, float) else _json.dumps(content)


def _json_key(key: Any) -> str:
    if type(key) not in (str, int, float):
        raise TypeError("Only dicts with str-like or number-like keys are supported")
    return encode_basestring(key if isinstance(key, str) else _json_of(key))


def _number(value: float) -> str:
    """The shortest digits that read back the same; Python and msgspec differ in how they write exponents."""
    if not math.isfinite(value):
        return "null"
    digits, _, exponent = repr(value).partition("e")
    if exponent == "-05":
        return ("-" if value < 0 else "") + "0.0000" + digits.lstrip("-").replace(".", "")
    return f"{digits}e{int(exponent)}" if exponent else digits


def _decode(buf: bytes | str, *, type: Any = Any) -> Any:  # noqa: A002 - msgspec's own name
    text = buf if isinstance(buf, str) else buf.decode()
    try:
        content = _json.loads(text, parse_constant=_not_json, parse_float=_finite)
        if "\\ud" in text.lower():  # half of a surrogate pair is no text
            _json_of(content).encode()
    except (_json.JSONDecodeError, UnicodeEncodeError) as error:
        raise DecodeError(f"JSON is malformed: {error}") from error
    return convert(content, type)


def _not_json(text: str) -> NoReturn:
    raise DecodeError(f"JSON is malformed: {text} is no number")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValidationError("Number out of range")
    return value


@dataclasses.dataclass(frozen=True, slots=True)
class _Decoder:
    type: Any = Any

    def decode_lines(self, buf: bytes) -> list[Any]:
        """One value a line; empty lines are skipped."""
        rows: list[Any] = []
        try:
            for line in filter(bytes.strip, buf.split(b"\n")):
                rows.append(_decode(line, type=self.type))  # noqa: PERF401 - an error counts them
        except ValidationError as error:
            raise error.within(f"[{len(rows)}]") from None
        return rows


def _decode_toml(buf: bytes | str, *, type: Any = Any) -> Any:  # noqa: A002
    try:
        content = tomllib.loads(buf if isinstance(buf, str) else buf.decode())
    except tomllib.TOMLDecodeError as error:
        raise DecodeError(str(error)) from error
    return convert(content, type)


def _asdict(struct: Struct) -> dict[str, Any]:
    return {field.name: getattr(struct, field.name) for field in fields_of(type(struct))}


json = SimpleNamespace(encode=_encode, decode=_decode, Decoder=_Decoder)
toml = SimpleNamespace(decode=_decode_toml)
structs = SimpleNamespace(replace=dataclasses.replace, asdict=_asdict)
