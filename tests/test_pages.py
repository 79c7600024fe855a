"""What the pages show: Python runs as it stands there, and every command line exists with its options."""

from __future__ import annotations

import importlib.util
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Container, Iterable
from configparser import ConfigParser
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import asd
from asd.cli import main
from asd.policies import FixedStage
from bench import plugin

ROOT = Path(__file__).parent.parent
WEIGHTS = ROOT / "asd/tiny/weights"
ELSEWHERE = {"apt", "curl", "vllm"}
"""Programs that are not ours to check."""
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob(".github/*.md")]
    + [page for room in ("asd", "bench", "baselines", "tests") for page in (ROOT / room).rglob("README.md")]
)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf8"), re.DOTALL | re.MULTILINE
    )


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]


def commands() -> list[tuple[str, str]]:
    """(page, command line) of everything behind a "$ ", continuation lines joined, comments dropped."""
    found = []
    for page in PAGES:
        for block in blocks(page, "console"):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(str(page.relative_to(ROOT)), line[2:]) for line in lines if line.startswith("$ ")]
    return found


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with two models, and the README's ladder of them."""
    (tmp_path / "models").mkdir()
    for name, stage in (("small", "S"), ("large", "M")):
        (tmp_path / "models" / name).symlink_to(WEIGHTS / stage)
    [ladder] = blocks(ROOT / "README.md", "toml")
    (tmp_path / "mine.toml").write_text(ladder, encoding="utf8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    return tmp_path


def written(block: str) -> Path:
    """The block as a file: the one that its first line names, or any."""
    named = re.match(r"# (\w+\.py)\n", block)
    path = Path(named[1] if named else "block.py")
    path.write_text(block, encoding="utf8")
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("place", "one_thread")
@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_runs(page: Path) -> None:
    """Every block of the page, in its order, by itself."""
    for block in blocks(page, "python"):
        runpy.run_path(str(written(block)))


@pytest.mark.slow
@pytest.mark.usefixtures("place", "one_thread")
def test_what_is_to_be_extended_works() -> None:
    """The README's engine answers as a stage, and its workload is collected."""
    for block in blocks(ROOT / "README.md", "python"):
        written(block)
    own = (
        Path("mine.toml")
        .read_text()
        .replace('model = "./models/large"', 'model = "sums"\nengine = "calculator:Calculator"')
    )
    Path("own.toml").write_text(own)
    with asd.load("own.toml", policy=FixedStage("large")) as cascade:
        assert cascade("add 12+30").text == "42"
    arguments = ["collect", "--ladder", "mine.toml", "--datasets", "capitals.py", "--out", "t.jsonl"]
    assert "1 queries answered by small, large" in CliRunner().invoke(main, arguments).stdout


@pytest.mark.usefixtures("one_thread")
def test_the_first_answer_is_the_one_that_is_shown() -> None:
    """To every digit of the table under it."""
    [shown] = [block for block in blocks(ROOT / "README.md", "console") if "--explain" in block]
    _, line, told = shown.split("\n", 2)
    result = CliRunner().invoke(main, shlex.split(line)[2:])
    assert result.stdout == told


def test_commands_exist_with_their_options() -> None:
    """Every program, environment, extra, module, file and option that a page tells to use."""
    checked = [(page, line, _fault(shlex.split(line, comments=True))) for page, line in commands()]
    faults = [f"{page}: {line}: {fault}" for page, line, fault in checked if fault]
    assert not faults, "\n".join(faults)


def _fault(words: list[str]) -> str:
    match words:
        case ["asd", *arguments]:
            return _click_fault(main, arguments)
        case ["tox", "run", "-e", names]:
            tox = ConfigParser()
            tox.read(ROOT / "tox.ini")
            return _missing(names.split(","), [name.removeprefix("testenv:") for name in tox])
        case ["pip", "install", *what]:
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            named = re.findall(r"\[(.*?)\]", " ".join(what))
            return _missing([extra for group in named for extra in group.split(",")], extras)
        case ["pytest", *options] | ["python", "-m", "pytest", *options]:
            ours = _Options()
            plugin.pytest_addoption(ours)
            return _missing([word.split("=")[0] for word in options if word.startswith("-")], ours.known)
        case ["python", "-m", module, *_]:
            return _missing([module], [module] if importlib.util.find_spec(module) else [])
    own = words[0].startswith(".") and (ROOT / words[0]).exists()
    return "" if own or words[0] in ELSEWHERE else "nobody checks this command"


def _missing(named: Iterable[str], known: Container[str]) -> str:
    missing = [name for name in named if name not in known]
    return f"there is no {missing}" if missing else ""


def _click_fault(command: click.Command, arguments: list[str]) -> str:
    # commands keep what help is called in the first context that they see
    context = click.Context(command, info_name="asd", **command.context_settings)
    while isinstance(command, click.Group):
        if command.invoke_without_command and "".join(arguments[:1]).startswith("--"):
            break
        name, *arguments = [word for word in arguments if word != "--help"] or [""]
        found = command.get_command(context, name)
        if found is None:
            return f"no command {name!r}"
        command = found
    try:
        command.make_parser(context).parse_args(arguments)
    except click.UsageError as error:
        return error.format_message()
    return ""


class _Options:
    """As much of pytest's parser as our options use."""

    def __init__(self) -> None:
        self.known = {"--strict", "-m", "-k", "-q", "-x"}

    def getgroup(self, *_: object) -> _Options:
        return self

    def addoption(self, *names: str, **_: object) -> None:
        self.known |= {*names}


def test_pages_are_short_and_their_links_lead_somewhere() -> None:
    """The README in five minutes; links to files that are there."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf8")):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page}: {link}"
