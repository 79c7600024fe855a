"""Without what Windows and macOS lack (`fcntl`, `memfd_create` and more): in processes where it is hidden."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import asd

ROOT = Path(asd.__file__).parent.parent
HIDDEN = "import os, sys; sys.modules['fcntl'] = None; del os.memfd_create\n"


def run(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", HIDDEN + code, *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_trace_file_is_locked_by_a_file_beside_it(tmp_path: Path) -> None:
    """The package imports, a second log is refused and named the remedy, the lock goes with the first."""
    code = (
        "import asd\n"
        "from asd.errors import StorageError\n"
        "from asd.traces.log import TraceLog\n"
        "from tests.test_traces_log import HEADER, trace\n"
        "with TraceLog(sys.argv[1], HEADER) as log:\n"
        "    log.append([trace('q1')])\n"
        "    try: TraceLog(sys.argv[1], HEADER)\n"
        "    except StorageError as error: print(error)\n"
        "with TraceLog(sys.argv[1], HEADER) as log: print(len(log.select([trace('q1').query])))\n"
    )
    path = tmp_path / "t.jsonl"
    assert run(code, path) == (
        f"another process is collecting into {path}; let it finish, or remove {path}.lock if none is\n1\n"
    )
    assert [file.name for file in tmp_path.iterdir()] == ["t.jsonl"]


@pytest.mark.slow
def test_code_runs_without_a_jail() -> None:
    """Unsafe mode needs no file in memory: what a system call filter would be in."""
    code = (
        "from asd.quality.sandbox import CodeTests, Sandbox\n"
        "box = Sandbox.open(unsafe=True)\n"
        "tests = CodeTests(tests='assert f(2) == 4', names=('f',))\n"
        "print(*(box.run(f'def f(x): return x * {n}', tests).passed for n in (2, 3)))\n"
    )
    assert run(code) == "True False\n"


@pytest.mark.slow
def test_what_windows_lacks_is_not_imported_and_models_code_is_refused_there() -> None:
    """Every public name and the harness load; running a model's code ends with one line."""
    code = (
        "sys.modules.update(dict.fromkeys(('resource', 'pwd', 'grp', 'termios')))\n"
        "hidden = ('killpg', 'geteuid', 'getuid', 'setsid', 'fork', 'sched_getaffinity')\n"
        "for name in hidden: delattr(os, name)\n"
        "import asd, bench.run.harness\n"
        "from asd.errors import ConfigError\n"
        "from asd.quality.sandbox import Sandbox\n"
        "for name in asd.__all__: getattr(asd, name)\n"
        "try: Sandbox.open(unsafe=True)\n"
        "except ConfigError as error: print(error)\n"
    )
    assert run(code) == "models' code is run on Linux, or with --unsafe-code on macOS, but not here\n"
