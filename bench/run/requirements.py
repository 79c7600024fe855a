"""What `pytest bench/` needs on a machine where nothing of this checkout was installed.

The versions are those of pyproject.toml. Whatever else the checkout uses is optional here: see `asd.schema`
and `bench.run.tables`. No library that may be missing is imported.
"""

from __future__ import annotations

import shlex
import tomllib
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import pytest
from packaging.requirements import Requirement  # pytest needs it too
from packaging.version import Version

from bench.gate.verdicts import CANNOT_RUN

__all__ = ["NEEDED", "cannot_run", "what_is_missing"]

NEEDED = ("torch", "transformers", "numpy", "scipy", "pytest", "pytest-benchmark")
MODELS = ("torch", "transformers")
"""Not needed by engines that leave the models to somebody else."""

REMOTE = ("replay", "openai")

PAIRS = ((Requirement("pytest>=9.2"), Requirement("pytest-benchmark>=5.3.1")),)
"""Where the first is installed, the second is needed."""

_PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def what_is_missing(engine: str = "transformers") -> str:
    """One line that names what is missing or too old, and the `pip install` that helps; empty if nothing is.

    Args:
        engine: What runs the stages.
    """
    wanted = [_stated(name) for name in NEEDED if engine not in REMOTE or name not in MODELS]
    problems = [problem for requirement in wanted if (problem := _problem(requirement))]
    remedies = [requirement for requirement in wanted if _problem(requirement)]
    for given, needed in PAIRS:
        if not problems and not _problem(given) and (problem := _problem(needed)):
            problems.append(f"{problem}, which {given.name} {_version(given.name)} needs")
            remedies.append(needed)
    if not problems:
        return ""
    return f"{'; '.join(problems)}: pip install {shlex.join(map(str, remedies))}"


def cannot_run(why: str) -> NoReturn:
    """End the session with one line: what was asked for cannot be measured on this machine."""
    pytest.exit(f"cannot run: {why}", returncode=CANNOT_RUN)


def _problem(requirement: Requirement) -> str:
    """What is wrong with the version that is installed; empty if nothing is."""
    version = _version(requirement.name)
    if version is None:
        return f"{requirement.name} is not installed"
    # images carry builds like 2.11.0a0+git, which are what they will be called
    if requirement.specifier.contains(Version(version).base_version):
        return ""
    return f"{requirement.name} {version} is not {requirement.specifier}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _stated(name: str) -> Requirement:
    """The requirement as pyproject.toml has it."""
    project = tomllib.loads(_PYPROJECT.read_text("utf8"))["project"]
    extras = project["optional-dependencies"]
    texts = (*project["dependencies"], *extras["transformers"], *extras["bench"])
    return next(stated for stated in map(Requirement, texts) if stated.name == name)
