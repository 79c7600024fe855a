"""Workflows, dry: every shell step parses, and the commands it calls exist with the options it gives them.

The steps of the GPU runner are run in order with programs that only note what they were asked; what they
noted goes through the real parsers. So a renamed option fails here and not in the middle of a night.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from asd.cli import main
from bench.gate.verdicts import Verdict
from bench.shapes.__main__ import shapes

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
GPU = ROOT / ".github/workflows/gpu-bench.yml"

NOTING = """#!/bin/sh
for part in "$@"; do printf '%s\\n' "$part" >> "$NOTES"; done
printf '\\036' >> "$NOTES"
case "$*" in
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp "$0" "$3/bin/asd" ;;
    *"pytest bench/"*"--json-out"*) exit "$GATE" ;;
esac
"""
"""A program that writes down its arguments; as Python it makes a venv of itself, as the gate it decides."""


def _steps(path: Path) -> Iterator[dict[str, Any]]:
    for job in yaml.safe_load(path.read_text())["jobs"].values():
        yield from job["steps"]


def _scripts() -> list[tuple[str, str]]:
    return [
        (f"{path.stem}: {s.get('name')}", s["run"]) for path in WORKFLOWS for s in _steps(path) if "run" in s
    ]


@pytest.mark.parametrize(("name", "script"), _scripts(), ids=[name for name, _ in _scripts()])
def test_every_shell_step_is_shell(name: str, script: str) -> None:
    """As bash reads it; expressions of the workflow stand in its environment, never in the script."""
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "${{" not in script


def test_tox_environments_and_locks_that_workflows_name_exist() -> None:
    """Those of a matrix too."""
    tox = ConfigParser()
    tox.read(ROOT / "tox.ini")
    known = " ".join(tox.sections())
    matrix = yaml.safe_load((ROOT / ".github/workflows/newest.yml").read_text())["jobs"]["releases"]
    named = matrix["strategy"]["matrix"]["environment"]
    text = "\n".join(script for _, script in _scripts())
    named += re.findall(r"tox run -e ([\w.]+)", text)
    assert named
    assert all(f"testenv:{environment}" in known for environment in named)
    constraints = re.findall(r"--constraint (\S+)", text)
    assert constraints
    assert all((ROOT / path).exists() for path in constraints)


def _run_gpu_job(folder: Path, gate: int = 0, **inputs: str) -> tuple[list[list[str]], dict[str, int]]:
    """What was called, and every step's exit code, up to the first that fails."""
    (folder / "bin").mkdir()
    for program in ("python3", "nvidia-smi"):
        (folder / "bin" / program).write_text(NOTING)
        (folder / "bin" / program).chmod(0o755)
    workflow = yaml.safe_load(GPU.read_text())
    given = {
        name: one["default"] for name, one in workflow[True]["workflow_dispatch"]["inputs"].items()
    } | inputs
    env = {
        name: given[re.fullmatch(r"\$\{\{ inputs\.(\w+) \}\}", value)[1]]
        for name, value in workflow["jobs"]["bench"]["env"].items()
    }
    env |= {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "HOME": str(folder), "GATE": str(gate)}
    for name in ("NOTES", "GITHUB_ENV", "GITHUB_STEP_SUMMARY"):
        env[name] = str(folder / name)
        Path(env[name]).touch()
    codes: dict[str, int] = {}
    for step in (step for step in _steps(GPU) if "run" in step):
        if step.get("if") == "inputs.shapes != ''" and not given["shapes"]:
            continue
        if any(codes.values()) and step.get("if") != "always()":
            continue
        options = "-eo" if step.get("shell") == "bash" else "-e"
        shell = ["bash", options, *(["pipefail"] if options == "-eo" else []), "-c", step["run"]]
        codes[step["name"]] = subprocess.run(shell, cwd=folder, env=env, check=False).returncode
        env |= dict(line.split("=", 1) for line in Path(env["GITHUB_ENV"]).read_text().splitlines())
    notes = Path(env["NOTES"]).read_text().split("\036")
    return [note.splitlines() for note in notes if note], codes


def _called(calls: list[list[str]], *start: str) -> list[list[str]]:
    """Arguments of the calls that begin like this, without that."""
    return [call[len(start) :] for call in calls if tuple(call[: len(start)]) == start]


@pytest.fixture(scope="module")
def harness_options() -> set[str]:
    """Every option that `pytest bench/` takes."""
    command = [sys.executable, "-m", "pytest", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"(--[\w-]+)", shown))


def _parsed(command: click.Command, arguments: list[str]) -> dict[str, Any]:
    return command.make_context("it", list(arguments)).params


@pytest.mark.slow
def test_the_gpu_job_calls_what_exists(tmp_path: Path, harness_options: set[str]) -> None:
    """Plan, shapes, collect, fit and measure, each with options that its parser knows, on one policy."""
    calls, codes = _run_gpu_job(tmp_path, shapes="0.5B,7B")
    assert set(codes.values()) == {0}
    plan, measured = _called(calls, "-m", "pytest")
    assert {part for part in [*plan, *measured] if part.startswith("--")} <= harness_options
    assert "--plan" in plan
    assert {"--require-gpu", "--strict"} <= set(measured)
    policy = measured[measured.index("--policy") + 1]
    (collect,), (fit,) = (_called(calls, name) for name in ("collect", "fit"))
    context = click.Context(main)
    collected = _parsed(main.get_command(context, "collect"), collect)
    assert (collected["engine"], collected["ladder"], collected["limit"]) == ("vllm", "qwen2.5-3", 500)
    fitted = _parsed(main.get_command(context, "fit"), fit)
    assert (str(fitted["out"]), fitted["traces"]) == (policy, (collected["out"],))
    (timed,) = _called(calls, "-m", "bench.shapes")
    assert _parsed(shapes, timed)["sizes"] == "0.5B,7B"


def test_what_the_gpu_job_installs_is_locked(tmp_path: Path) -> None:
    """Extras that the project has; a lock that an earlier run left is installed first, and cached by what it
    was resolved from."""
    (tmp_path / "gpu.lock").write_text("numpy==2.3.5\n")
    calls, _ = _run_gpu_job(tmp_path)
    installed = _called(calls, "-m", "pip", "install")
    assert installed[0][-2:] == ["--requirement", "gpu.lock"]
    extras = re.fullmatch(r"\.\[([\w,]+)\]", installed[1][-1])[1].split(",")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras) <= project["optional-dependencies"].keys()
    cached = [step["with"] for step in _steps(GPU) if "cache" in step.get("uses", "")]
    assert [one["path"] for one in cached] == ["gpu.lock", "gpu.lock"]
    assert all("hashFiles('pyproject.toml')" in one["key"] for one in cached)


@pytest.mark.parametrize("code", [0, 1, 10, 11, 12, 13])
def test_the_gpu_job_fails_with_the_exit_code_of_the_gate(tmp_path: Path, code: int) -> None:
    """Nothing after the measurement hides it, and the summary is written all the same."""
    (tmp_path / "bench-run.md").write_text(f"{Verdict.REGRESSED}\n")
    _, codes = _run_gpu_job(tmp_path, code)
    assert codes["Measure and judge"] == code
    assert (tmp_path / "GITHUB_STEP_SUMMARY").read_text() == f"{Verdict.REGRESSED}\n"


def test_the_gpu_job_keeps_what_it_measured(tmp_path: Path) -> None:
    """JSON and Markdown that the run was told to write are uploaded, whatever the verdict."""
    calls, _ = _run_gpu_job(tmp_path, baseline_reason="a new card")
    _, measured = _called(calls, "-m", "pytest")
    assert measured[measured.index("--reason") + 1] == "a new card"
    (upload,) = [step for step in _steps(GPU) if step.get("uses", "").startswith("actions/upload-artifact")]
    assert upload["if"] == "always()"
    kept = upload["with"]["path"].split()
    for option in ("--json-out", "--markdown-out", "--benchmark-json"):
        assert measured[measured.index(option) + 1] in kept
