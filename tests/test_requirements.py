"""What a machine lacks is told in one line with its remedy, before anything is collected."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from bench.run import requirements
from bench.run.requirements import NEEDED, what_is_missing
from tests.minibench import make, run

pytest_plugins = ["pytester"]

CHECKOUT = Path(__file__).parent.parent
IMAGE = {
    "torch": "2.11.0",
    "transformers": "5.17.0",
    "numpy": "2.0.0",
    "scipy": "1.15.0",
    "pytest": "9.1.1",
    "pytest-benchmark": "5.2.3",
}


PAIRED = "'pytest-benchmark>=5.3.1'"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Pretends that these distributions and no others are installed."""

    version_of = metadata.version

    def pretend(versions: dict[str, str]) -> None:
        def version(name: str) -> str:
            if name == "pluggy":  # pytest itself asks for it
                return version_of(name)
            if name not in versions:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(requirements.metadata, "version", version)

    return pretend


def test_the_image_that_is_promised_has_what_is_needed(installed):
    """Six distributions and nothing else, in the lowest versions."""
    installed(IMAGE)
    assert what_is_missing() == ""
    assert set(NEEDED) == set(IMAGE)


@pytest.mark.parametrize("name", IMAGE)
def test_each_of_the_six_is_missed_by_name(installed, name: str):
    """With the command that installs it, in the versions of pyproject.toml."""
    installed({other: version for other, version in IMAGE.items() if other != name})
    told = what_is_missing()
    assert told.startswith(f"{name} is not installed: pip install ")
    assert f"{name}>=" in told
    assert "\n" not in told


def test_several_are_told_at_once(installed):
    """One command mends it."""
    installed({name: IMAGE[name] for name in ("numpy", "pytest", "pytest-benchmark")})
    told = what_is_missing()
    assert "torch is not installed; transformers is not installed; scipy is not installed" in told
    assert told.count("pip install") == 1


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ({"transformers": "4.57.1"}, "transformers 4.57.1 is not >=5.17: pip install 'transformers>=5.17'"),
        ({"torch": "2.6.0+cu124"}, "torch 2.6.0+cu124 is not >=2.11: pip install 'torch>=2.11'"),
        (
            {"pytest": "9.2.0"},
            f"pytest-benchmark 5.2.3 is not >=5.3.1, which pytest 9.2.0 needs: pip install {PAIRED}",
        ),
        ({"pytest": "9.2.0", "pytest-benchmark": "5.3.1"}, ""),
        ({"torch": "2.11.0a0+gitdeadbee", "numpy": "2.5.0rc1"}, ""),
    ],
)
def test_versions_that_do_not_work_are_told(installed, versions: dict[str, str], words: str):
    """Too old, or two that do not go together; builds of images are what they will be called."""
    installed(IMAGE | versions)
    assert what_is_missing() == words


def test_engines_that_leave_the_models_to_others_need_no_models_here(installed):
    """Recorded outcomes and servers are asked without torch."""
    installed({name: version for name, version in IMAGE.items() if name not in ("torch", "transformers")})
    assert what_is_missing("replay") == what_is_missing("openai") == ""
    assert "torch" in what_is_missing("vllm")


def test_a_run_ends_with_that_line_and_the_tests_do_not_care(installed, pytester: pytest.Pytester):
    """Exit code 12 for bench/, whatever is named in it; own tests run."""
    harness = make(pytester)
    installed({name: version for name, version in IMAGE.items() if name != "scipy"})
    for args in (["bench"], ["bench/test_quality.py::test_quality"], ["."], []):
        result = run(harness, *args)
        assert result.ret == 12
        result.stderr.fnmatch_lines(["*cannot run: scipy is not installed: pip install 'scipy>=*'"])
        assert "Traceback" not in result.stderr.str() + result.stdout.str()
    run(harness, "tests").assert_outcomes(passed=1)
    assert run(harness, "bench", "--help").ret == 0


def test_loading_the_plugin_imports_nothing_that_may_be_missing():
    """Every session of the checkout loads it."""
    code = (
        "import bench.plugin, sys; print(*{'numpy', 'scipy', 'msgspec', 'torch', 'asd'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
