"""A filter of system calls that no answer to a programming task needs, as bubblewrap reads it.

Refused with EPERM: new namespaces, mounts, tracing, kernel keys, BPF, io_uring and their kin, which would
give a program a larger part of the kernel to attack, or memory outside its limits. `clone3` hides its flags
from a filter and is said not to exist; the C library then uses `clone`.

Classic BPF, one instruction 8 bytes (linux/filter.h): load the architecture, load the number, compare.
"""

from __future__ import annotations

import platform
from struct import pack

from asd.errors import ConfigError

__all__ = ["refusing_filter"]

_MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Number of the architecture in the kernel's words, and the column of its system calls below."""

_REFUSED = {
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "fsopen": (430, 430),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "pivot_root": (155, 41),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
}
_CLONE, _CLONE3 = (56, 220), 435
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
_ALLOW, _KILL, _EPERM, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
_X32 = 0x40000000


def refusing_filter() -> bytes:
    """The filter for the machine this runs on.

    Raises:
        ConfigError: Its system calls are not known here.
    """
    machine = platform.machine()
    if machine not in _MACHINES:
        raise ConfigError(
            f"no filter of system calls is known for {machine}, only for {', '.join(_MACHINES)}; run code "
            "with --unsafe-code, in a virtual machine"
        )
    architecture, column = _MACHINES[machine]
    program = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUAL, architecture, then=1),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
        *_if(_AT_LEAST, _X32, _KILL),
        *_if(_EQUAL, _CLONE3, _ENOSYS),
    ]
    for numbers in _REFUSED.values():
        program += _if(_EQUAL, numbers[column], _EPERM)
    program += [
        _step(_EQUAL, _CLONE[column], otherwise=3),
        _step(_LOAD, _FIRST_ARGUMENT),
        *_if(_ANY_BIT, _NEW_NAMESPACES, _EPERM),
        _step(_RETURN, _ALLOW),
    ]
    return b"".join(program)


def _step(code: int, operand: int, then: int = 0, otherwise: int = 0) -> bytes:
    """One instruction; `then` and `otherwise` are how many to skip."""
    return pack("=HBBI", code, then, otherwise, operand)


def _if(test: int, operand: int, action: int) -> list[bytes]:
    return [_step(test, operand, otherwise=1), _step(_RETURN, action)]
