"""From names on a command line to workloads.

tiny-text                       an embedded data set
gsm8k, gsm8k:shots=0:chars=300  a public task set, with options (`asd.workloads.tasks`)
my_workload.py                  the object called `workload` in a file of the user's own
"""

from __future__ import annotations

import os
import runpy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from asd.errors import ConfigError
from asd.quality.sandbox import Sandbox
from asd.tiny.tasks import GRADED
from asd.workloads import FreeText, Workload
from asd.workloads.arc_challenge import ARC_CHALLENGE
from asd.workloads.bbh import BBH
from asd.workloads.gsm8k import GSM8K
from asd.workloads.humaneval import humaneval
from asd.workloads.mbpp import mbpp
from asd.workloads.mmlu import MMLU
from asd.workloads.simpleqa import SIMPLEQA
from asd.workloads.sources import Folder, Hub, Source
from asd.workloads.tasks import Options, TaskSet, TaskWorkload
from asd.workloads.tiny import tiny_workloads
from asd.workloads.truthfulqa import TRUTHFULQA
from asd.workloads.wmt22 import WMT22

__all__ = ["HUB", "default_names", "find_free_text", "find_workloads", "task_names", "workload_names"]

HUB = "hub"
"""Given as the place of the data: fetch them."""

TASK_SETS: Mapping[str, Callable[[bool], TaskSet[Any]]] = {
    "arc_challenge": lambda _: ARC_CHALLENGE,
    "bbh": lambda _: BBH,
    "gsm8k": lambda _: GSM8K,
    "humaneval": lambda unsafe: humaneval(Sandbox.open(unsafe=unsafe)),
    "mbpp": lambda unsafe: mbpp(Sandbox.open(unsafe=unsafe)),
    "mmlu": lambda _: MMLU,
    "simpleqa": lambda _: SIMPLEQA,
    "truthfulqa": lambda _: TRUTHFULQA,
    "wmt22": lambda _: WMT22,
}
"""Makes each public task set; told whether code may run without a sandbox."""


def workload_names() -> list[str]:
    """Names of all workloads that come inside the package and need no data."""
    return list(tiny_workloads())


def default_names() -> list[str]:
    """Those of them that are taken where none is named: all but the one that nobody can answer."""
    return [name for name in workload_names() if name in GRADED]


def task_names() -> list[str]:
    """Names of the public task sets, whose rows are read from files or the hub."""
    return list(TASK_SETS)


def find_workloads(
    names: Sequence[str],
    data: str | None = None,
    *,
    unsafe_code: bool = False,
    pinned: Mapping[str, str] | None = None,
) -> list[Workload]:
    """The workloads of these names, in this order. Rows are read when they are first asked for.

    Args:
        names: As at the top of this module.
        data: Folder of the task files, or "hub"; None takes the folder in `ASD_DATA`.
        unsafe_code: Run models' code without a sandbox.
        pinned: Commits to read from the hub, by repository.

    Raises:
        ConfigError: A name is unknown or given twice, or there is none; a public task set is named and there
            is no place to read it from, or it needs a sandbox and there is none.
    """
    if not names:
        raise ConfigError(f"no dataset given; {_known()}")
    found = [_find(name, data, unsafe_code, pinned or {}) for name in names]
    taken = [workload.name for workload in found]
    for name in taken:
        if taken.count(name) > 1:
            raise ConfigError(f"dataset {name!r} is given twice")
    return found


def find_free_text(name: str) -> FreeText:
    """What one workload says of its answers; its rows are not read, and no code is run.

    Raises:
        ConfigError: The name is unknown, or its workload says nothing of the kind.
    """
    base = name.partition(":")[0]
    found: object = TASK_SETS[base](True) if base in TASK_SETS else _find(name, None, False, {})
    if not isinstance(found, FreeText):
        raise ConfigError(
            f"dataset {name!r} does not say that its answers are free text; its workload needs `kind` and "
            "`reply` (asd.workloads.FreeText)"
        )
    return found


def _find(name: str, data: str | None, unsafe_code: bool, pinned: Mapping[str, str]) -> Workload:
    if name.endswith(".py"):
        return _own(Path(name))
    base, *options = name.split(":")
    if base in TASK_SETS:
        source = _source(base, data, pinned)
        return TaskWorkload(TASK_SETS[base](unsafe_code), source, Options.parse(options))
    if name not in tiny_workloads():
        raise ConfigError(f"unknown dataset {name!r}; {_known()}")
    return tiny_workloads()[name]


def _source(name: str, data: str | None, pinned: Mapping[str, str]) -> Source:
    place = data or os.environ.get("ASD_DATA")
    if not place:
        raise ConfigError(
            f"dataset {name!r} needs its rows: give --data DIR or set ASD_DATA to the folder of the task "
            f"files, or --data {HUB} to fetch them"
        )
    if place == HUB:
        return Hub(pinned)
    if not Path(place).is_dir():
        raise ConfigError(f"the data folder {place} does not exist")
    return Folder(Path(place))


def _own(path: Path) -> Workload:
    """The workload in a user's file."""
    if not path.is_file():
        raise ConfigError(f"there is no file {path} to take a workload from")
    try:
        workload: Any = runpy.run_path(str(path)).get("workload")
    except Exception as error:
        raise ConfigError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    if not all(hasattr(workload, part) for part in ("name", "queries", "score")):
        raise ConfigError(f"{path} defines no `workload` with a name, queries and score (asd.Workload)")
    found: Workload = workload
    return found


def _known() -> str:
    return f"known are {', '.join([*workload_names(), *task_names()])} and FILE.py"
