"""From names on a command line to workloads."""

from __future__ import annotations

from collections.abc import Sequence

from asd.errors import ConfigError
from asd.workloads import Workload
from asd.workloads.tiny import tiny_workloads

__all__ = ["find_workloads", "workload_names"]


def workload_names() -> list[str]:
    """Names of all workloads that come with the package."""
    return list(tiny_workloads())


def find_workloads(names: Sequence[str]) -> list[Workload]:
    """The workloads of these names, in this order.

    Raises:
        ConfigError: A name is unknown or given twice, or there is none.
    """
    known = tiny_workloads()
    if not names:
        raise ConfigError(f"no dataset given; known are {list(known)}")
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown dataset {name!r}; known are {list(known)}")
        if names.count(name) > 1:
            raise ConfigError(f"dataset {name!r} is given twice")
    return [known[name] for name in names]
