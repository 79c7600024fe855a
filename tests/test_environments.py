"""The locks of `.ci/locks` against what pyproject.toml and tox.ini claim."""

from __future__ import annotations

import configparser
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
LOCKS = ROOT / ".ci" / "locks"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))
TOX = configparser.ConfigParser(interpolation=None)
TOX.read(ROOT / "tox.ini", "utf8")

NOT_INSTALLED_LOW = {
    "vllm",
    "gguf",
    "accelerate",
    "torch",
    "ruff",
    "import-linter",
    "pre-commit",
    "mypy",
    "scipy-stubs",
}
"""Extras with environments of their own, torch with its one CPU build, and tools that no test imports."""


def pins(name: str) -> dict[str, Version]:
    lines = (LOCKS / f"{name}.txt").read_text("utf8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(package): Version(version) for package, version in pairs}


def requirements() -> Iterator[Requirement]:
    """Everything that pyproject.toml asks for, its own extras aside."""
    project = PROJECT["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    lists += PROJECT["dependency-groups"].values()
    for line in (line for one in lists for line in one if isinstance(line, str)):
        requirement = Requirement(line)
        if requirement.name != "asd":
            yield requirement


def locked_environments() -> dict[str, str]:
    """By environment of tox.ini, the lock that it is installed from."""
    found = {}
    for section in TOX.sections():
        named = re.search(r"locks/(\w+)\.txt", TOX[section].get("set_env", "") + TOX[section].get("deps", ""))
        if named:
            found[section] = named[1]
    return found


def test_the_lowest_environment_runs_the_lower_bound_of_every_range() -> None:
    """A range claims nothing that `tox run -e lowest` does not install."""
    claimed = {
        canonicalize_name(one.name): Version(next(iter(one.specifier)).version)
        for one in requirements()
        if one.name not in NOT_INSTALLED_LOW and any(s.operator == ">=" for s in one.specifier)
    }
    run = pins("lowest")
    assert run.pop("torch") in Requirement("torch>=2.11").specifier
    assert run == claimed


@pytest.mark.parametrize("lock", sorted(path.stem for path in LOCKS.glob("*.txt")))
def test_every_lock_lies_within_the_ranges_and_has_the_one_build_of_torch(lock: str) -> None:
    """What is installed is what pyproject.toml allows."""
    pinned = pins(lock)
    outside = [
        f"{one} (pinned {pinned[canonicalize_name(one.name)]})"
        for one in requirements()
        if canonicalize_name(one.name) in pinned and pinned[canonicalize_name(one.name)] not in one.specifier
    ]
    assert outside == []
    [torch] = [Requirement(line) for line in _lines(ROOT / ".ci" / "torch-cpu.txt")]
    assert pinned.get("torch", Version("2.13.0")) in torch.specifier


def test_every_environment_is_locked_but_those_that_are_free_on_purpose() -> None:
    """A new environment of tox.ini needs a lock; no lock is left over."""
    environments = {s.removeprefix("testenv:") for s in TOX.sections() if s.startswith("testenv:")}
    locked = {section.removeprefix("testenv:"): lock for section, lock in locked_environments().items()}
    assert environments - set(locked) == {"newest", "image"}
    assert set(locked.values()) == {path.stem for path in LOCKS.glob("*.txt")}


@pytest.mark.parametrize("name", ["bench", "tests", "lint", "types", "real", "vllm"])
def test_a_lock_holds_all_that_its_environment_asks_for_by_name(name: str) -> None:
    """A dependency is added to pyproject.toml and to every lock that it goes into."""
    missing = {canonicalize_name(one.name) for one in asked_for(TOX[f"testenv:{name}"])} - set(pins(name))
    assert missing == set(), f"run `python3 .ci/lock {name}`"


def asked_for(section: configparser.SectionProxy) -> Iterator[Requirement]:
    """What one environment of tox.ini asks for, through the project's extras and dependency groups."""
    lines: list[Any] = [{"include-group": name} for name in section.get("dependency_groups", "").split()]
    lines += [line for line in section.get("deps", "").splitlines() if line and not line.startswith("-")]
    if not section.get("skip_install"):
        lines += [*PROJECT["project"]["dependencies"], f"asd[{','.join(section.get('extras', '').split())}]"]
    while lines:
        line = lines.pop()
        if isinstance(line, dict):
            lines += PROJECT["dependency-groups"][line["include-group"]]
        elif Requirement(line).name == "asd":
            extras = PROJECT["project"]["optional-dependencies"]
            lines += [one for extra in Requirement(line).extras for one in extras[extra]]
        else:
            yield Requirement(line)


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text("utf8").splitlines() if line and not line.startswith("#")]
