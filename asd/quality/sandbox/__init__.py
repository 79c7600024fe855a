"""Runs a model's code against tests, where it can do no harm.

Two processes, each in a bubblewrap jail of its own (`testbench` says why two): no network, no
processes but its own, a read-only view of the Python installation and nothing else of the file system, an
empty scratch folder in memory, an empty environment, no capabilities, a filter of system calls; limits on
CPU time, wall time, memory, processes, file sizes and the length of a reply. What it prints goes nowhere.

Where bubblewrap or the kernel's namespaces are missing the sandbox refuses to open, unless it is told to run
unsafe: then the limits hold, and nothing else does.

Not covered: bugs of the kernel. For code of a hostile person rather than of a model, put a virtual machine
around it.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from asd.errors import ConfigError
from asd.quality.sandbox.seccomp import refusing_filter
from asd.schema import msgspec

__all__ = ["CodeTests", "CodeVerdict", "Limits", "Sandbox"]

MIB = 1 << 20
SPARE_UIDS = range(60_100, 64_100)
"""Users of no account, which answers are run as where this runs as root."""

_turn = itertools.count()
_SCRIPT = Path(__file__).with_name("testbench.py")
_INSIDE = "/testbench.py"


class CodeTests(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an answer has to pass.

    Attributes:
        tests: Python statements; the answer fails if they raise or do not come to their end.
        names: Names the tests take from the answer; all others are the tests' own.
        prelude: Statements run before the tests, on their side (imports, helper functions).
    """

    tests: str
    names: tuple[str, ...]
    prelude: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one answer may use.

    CPU time is what stops a loop, whatever else the machine is doing; wall time is generous and stops what
    sleeps. Memory and CPU time are per process, of which there may be `n_processes`, threads included.
    """

    cpu_s: int = 5
    wall_s: float = 30.0
    memory_mib: int = 512
    n_processes: int = 8
    scratch_mib: int = 32

    def rlimits(self) -> dict[str, int]:
        """By the names of the `resource` module."""
        return {
            "RLIMIT_CPU": self.cpu_s,
            "RLIMIT_AS": self.memory_mib * MIB,
            "RLIMIT_NPROC": self.n_processes,
            "RLIMIT_FSIZE": self.scratch_mib * MIB,
            "RLIMIT_NOFILE": 64,
            "RLIMIT_CORE": 0,
        }


@dataclass(frozen=True, slots=True)
class CodeVerdict:
    """Whether an answer passed its tests, and why not (empty if it did)."""

    passed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Where answers are run; made by `Sandbox.open`.

    Attributes:
        limits: Of each answer.
        unsafe: Without a jail.
    """

    limits: Limits
    unsafe: bool

    @classmethod
    def open(cls, limits: Limits | None = None, *, unsafe: bool = False) -> Sandbox:
        """A sandbox that has been seen to work here.

        Raises:
            ConfigError: There is no bubblewrap, or it cannot make a jail, and `unsafe` was not given; or this
                is Windows, where what a program started cannot be ended with it.
        """
        if not hasattr(os, "killpg"):
            raise ConfigError("models' code is run on Linux, or with --unsafe-code on macOS, but not here")
        if not unsafe and (reason := _why_no_jail()):
            raise ConfigError(
                f"running a model's code needs a sandbox, and here is none ({reason}): install bubblewrap "
                "(apt-get install bubblewrap) and allow user namespaces, or give --unsafe-code to run it "
                "without"
            )
        return cls(limits or Limits(), unsafe)

    def run(self, answer: str, tests: CodeTests) -> CodeVerdict:
        """Whether a program passes its tests; returns in little more than `wall_s`, whatever it does."""
        job = msgspec.to_builtins(tests) | {"answer": answer}
        requests, replies = os.pipe(), os.pipe()
        ours = {requests[0], requests[1], replies[0], replies[1]}
        pipes = [(requests[1], "wb", 0), (replies[0], "rb", -1)]
        try:
            with (
                self._started("answer", stdin=requests[0], stdout=replies[1]),
                self._started("tests", pipes=pipes) as process,
            ):
                while ours:  # so that each side sees the other one's end
                    os.close(ours.pop())
                said, _ = process.communicate(json.dumps(job).encode(), timeout=self.limits.wall_s)
        except subprocess.TimeoutExpired:
            return CodeVerdict(passed=False, reason=f"took longer than {self.limits.wall_s:g} s")
        finally:
            for fd in ours:
                os.close(fd)
        if not said:
            return CodeVerdict(passed=False, reason="the tests did not come to their end")
        failure = json.loads(said)["failure"]
        return CodeVerdict(passed=not failure, reason=failure)

    @contextmanager
    def _started(
        self,
        side: str,
        stdin: int = subprocess.PIPE,
        stdout: int = subprocess.PIPE,
        pipes: list[tuple[int, str, int]] | None = None,
    ) -> Iterator[subprocess.Popen[bytes]]:
        drops_root = os.geteuid() == 0 and not self.unsafe
        settings = {
            "side": side,
            "limits": self.limits.rlimits(),
            "uid": _spare_uid() if drops_root else None,
            "pipes": pipes or [],
        }
        python = [str(_python()), "-I", "-S", "-B", str(_SCRIPT) if self.unsafe else _INSIDE]
        with nullcontext() if self.unsafe else _as_file(refusing_filter()) as seccomp:
            process = subprocess.Popen(  # noqa: S603  (the command is ours, the answer is data)
                [*([] if seccomp is None else _jail(self.limits, seccomp)), *python, json.dumps(settings)],
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                pass_fds=[*([] if seccomp is None else [seccomp]), *(fd for fd, *_ in pipes or [])],
                start_new_session=True,
            )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):  # it has ended, with everything it started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


@contextmanager
def _as_file(content: bytes) -> Iterator[int]:
    fd = os.memfd_create("seccomp")
    try:
        os.write(fd, content)
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)


def _jail(limits: Limits, seccomp: int) -> list[str]:
    """The bubblewrap command in front of Python's.

    Root is not put into a user namespace, where it would stay root to the kernel, which exempts root from
    the limit on processes: the script gives root up instead, for which it keeps two capabilities.
    """
    if os.geteuid() == 0:
        identity = ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        identity = ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    spaces = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
    scratch = ["--perms", "1777", "--size", str(limits.scratch_mib * MIB), "--tmpfs", "/tmp"]  # noqa: S108
    return [
        str(_bwrap()),
        *identity,
        *spaces,
        *("--die-with-parent", "--new-session"),
        *_visible_files(),
        *scratch,
        *("--remount-ro", "/", "--chdir", "/tmp"),  # noqa: S108
        *("--seccomp", str(seccomp)),
    ]


def _visible_files() -> list[str]:
    """The system's libraries, Python's installation and the script, all read-only."""
    options = ["--ro-bind", "/usr", "/usr"]
    for folder in map(Path, ("/bin", "/lib", "/lib64")):
        if folder.is_symlink():
            options += ["--symlink", str(folder.readlink()), str(folder)]
        elif folder.is_dir():
            options += ["--ro-bind", str(folder), str(folder)]
    if not Path(sys.base_prefix).is_relative_to("/usr"):
        options += [*_parents(sys.base_prefix), "--ro-bind", sys.base_prefix, sys.base_prefix]
    libraries = "/etc/ld.so.cache"
    options += [*_parents(libraries), "--ro-bind-try", libraries, libraries]
    options += _parents("/dev/null")
    for device in ("/dev/null", "/dev/urandom"):
        options += ["--dev-bind", device, device]
    return [*options, "--ro-bind", str(_SCRIPT), _INSIDE]


def _parents(path: str) -> list[str]:
    """Empty folders on the way to a path, which who is no longer root may walk through."""
    folders = list(Path(path).parents)[-2::-1]
    return [word for folder in folders for word in ("--perms", "0755", "--dir", str(folder))]


def _python() -> Path:
    """The interpreter that runs this, without its virtual environment."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def _bwrap() -> Path | None:
    found = shutil.which("bwrap")
    return Path(found) if found else None


def _spare_uid() -> int:
    """A user nobody is, another one each time, so that the limit on processes counts those of one side."""
    return SPARE_UIDS[(os.getpid() + next(_turn)) % len(SPARE_UIDS)]


@cache
def _why_no_jail() -> str:
    if _bwrap() is None:
        return "bwrap is not installed"
    harmless = CodeTests(tests="assert f() == 1", names=("f",))
    verdict = Sandbox(Limits(), unsafe=False).run("def f():\n    return 1\n", harmless)
    return "" if verdict.passed else f"bwrap is there but cannot make one: {verdict.reason}"
