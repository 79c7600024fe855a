"""Runs inside the sandbox, as a script: the answer's program in one process, its tests in another.

    tests side  -- {"do": "call", "of": 0, "args": [...]} -->  answer side
    tests side  <-- {"value": ...} or {"raised": "..."}   --   answer side

One JSON line each way. The tests never share a process with the answer, and what comes back is plain data
(numbers, text, lists, ...), rebuilt on the tests' side. So nothing the answer does to its own process
(exiting with 0, patching `assert`, printing "passed", returning an object that equals everything) reaches
the verdict: only a value equal to the expected one does, and the expected ones are not on its side.
What is not plain data stays with the answer and is passed around as a handle (`Remote`).

Scope: standard library only, no import of this package; `asd.quality.sandbox` starts both sides.
"""

from __future__ import annotations

import builtins
import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

MAX_LINE = 4 << 20
"""Bytes of one message; a longer reply fails the answer."""

MAX_REASON = 500
"""Characters told about a failed test."""

CONTAINERS: dict[str, Any] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "bytes": bytes,
    "iterator": Iterator,
}


class Remote:
    """Something on the answer's side that is not plain data: it can be called, read and assigned to."""

    __slots__ = ("_index", "_pipe")

    def __init__(self, pipe: Pipe, index: int) -> None:
        object.__setattr__(self, "_pipe", pipe)
        object.__setattr__(self, "_index", index)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call it, there."""
        return self._pipe.ask("call", self._index, args=list(args), kwargs=kwargs)

    def __getattr__(self, name: str) -> Any:
        return self._pipe.ask("get", self._index, name=name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._pipe.ask("set", self._index, name=name, value=value)


class Pipe:
    """The tests' end: sends requests, gives back values."""

    def __init__(self, requests: BinaryIO, replies: BinaryIO) -> None:
        self._requests = requests
        self._replies = replies

    def ask(self, do: str, of: int, **fields: Any) -> Any:
        """What the answer's side says to one request."""
        message = {"do": do, "of": of} | {key: encode(value, _index_of) for key, value in fields.items()}
        self._requests.write(json.dumps(message).encode() + b"\n")
        line = self._replies.readline(MAX_LINE)
        if not line.endswith(b"\n"):
            raise RuntimeError("the answer's process ended, or said too much")
        reply = json.loads(line)
        if "raised" in reply:
            raise RuntimeError(f"the answer raised {reply['raised']}")
        return decode(reply["value"], lambda index: Remote(self, index))


def encode(value: Any, keep: Callable[[Any], int]) -> Any:
    """Plain data as JSON; anything else as the index that `keep` gives it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    for name, kind in CONTAINERS.items():
        if isinstance(value, kind):
            return [name, [encode(item, keep) for item in value]]
    if isinstance(value, dict):
        return ["dict", [[encode(k, keep), encode(v, keep)] for k, v in value.items()]]
    if isinstance(value, complex):
        return ["complex", [value.real, value.imag]]
    if isinstance(value, type) and value in vars(builtins).values():
        return ["type", value.__name__]
    return ["object", keep(value)]


def decode(value: Any, find: Callable[[int], Any]) -> Any:
    """The inverse of `encode`; `find` gives the object of an index."""
    if not isinstance(value, list):
        return value
    kind, content = value
    if kind == "object":
        return find(content)
    if kind == "type":
        return getattr(builtins, content)
    if kind == "complex":
        return complex(*content)
    if kind == "dict":
        return {decode(k, find): decode(v, find) for k, v in content}
    items = [decode(item, find) for item in content]
    return iter(items) if kind == "iterator" else CONTAINERS[kind](items)


def _index_of(value: Any) -> int:
    if isinstance(value, Remote):
        index: int = object.__getattribute__(value, "_index")
        return index
    raise TypeError(f"a test hands {type(value).__name__} to the answer, which cannot be sent")


def tests_side(job: dict[str, Any], pipe: Pipe) -> str:
    """Run the tests against the answer; why they failed, empty if they passed."""
    try:
        pipe.ask("define", 0, source=job["answer"])
        namespace: dict[str, Any] = {"__name__": "tests"}
        exec(job["prelude"], namespace)  # noqa: S102  (the sandbox is what this is for)
        for name in job["names"]:
            namespace[name] = pipe.ask("find", 0, name=name)
        exec(job["tests"], namespace)  # noqa: S102
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:MAX_REASON]
    return ""


def answer_side(requests: BinaryIO, replies: BinaryIO) -> None:
    """Define the answer's program, then do what the tests ask until they hang up."""
    answer = AnswerProgram()
    for line in requests:
        try:
            reply = {"value": encode(answer.do(json.loads(line)), answer.keep)}
        except BaseException as error:
            reply = {"raised": f"{type(error).__name__}: {error}"[:MAX_REASON]}
        replies.write(json.dumps(reply).encode() + b"\n")


class AnswerProgram:
    """The answer's program and those of its objects that the tests hold a handle of."""

    def __init__(self) -> None:
        self._names: dict[str, Any] = {"__name__": "answer"}
        self._kept: list[Any] = []

    def keep(self, value: Any) -> int:
        """The handle of an object."""
        self._kept.append(value)
        return len(self._kept) - 1

    def do(self, request: dict[str, Any]) -> Any:
        """What one request asks for."""
        do, of = request.pop("do"), request.pop("of")
        fields = {key: decode(value, self._kept.__getitem__) for key, value in request.items()}
        if do == "define":
            return exec(compile(fields["source"], "answer.py", "exec"), self._names)  # noqa: S102
        if do == "find":
            return self._names[fields["name"]]
        if do == "call":
            return self._kept[of](*fields["args"], **fields["kwargs"])
        if do == "set":
            return setattr(self._kept[of], fields["name"], fields["value"])
        return getattr(self._kept[of], fields["name"])


def confine(limits: dict[str, int], uid: int | None) -> None:
    """Give up what this process may use; `uid` is who to become where it was started by root."""
    for name, limit in limits.items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    if uid is not None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)


def take(fd: int, mode: str) -> BinaryIO:
    """Move a standard stream out of reach of `print` and `input`."""
    moved = os.dup(fd)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, fd)
    os.close(null)
    return open(moved, mode, buffering=0 if "w" in mode else -1)  # type: ignore[return-value]  # noqa: PTH123


def main() -> None:
    """Be the side that the command line names."""
    settings = json.loads(sys.argv[1])
    confine(settings["limits"], settings["uid"])
    sys.set_int_max_str_digits(0)
    if settings["side"] == "answer":
        answer_side(take(0, "rb"), take(1, "wb"))
        return
    job = json.loads(take(0, "rb").read())
    verdict = take(1, "wb")
    requests, replies = (os.fdopen(fd, mode, buffering=b) for fd, mode, b in settings["pipes"])
    verdict.write(json.dumps({"failure": tests_side(job, Pipe(requests, replies))}).encode())


if __name__ == "__main__":
    main()
