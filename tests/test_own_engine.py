"""An engine of one's own, named in a ladder as `module:Class`: the documented example, by every command."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from asd.cli import main
from asd.engines.registry import open_engines
from asd.engines.revisions import revisions
from asd.errors import ConfigError
from asd.ladder import Ladder

ROOT = Path(__file__).parent.parent
WEIGHTS = ROOT / "asd/tiny/weights/S"

FEW = ("--datasets", "tiny-arithmetic", "--limit")

LADDER = f"""
name = "own"
price_unit = "declared"
prices_measured = "made up"

[[stages]]
name = "S"
model = "{WEIGHTS}"
chat_template = true
prices = {{ per_call = 1, per_prompt_token = 0, per_decoded_token = 0.1 }}

[[stages]]
name = "calculator"
model = "sums"
engine = "calculator:Calculator"
prices = {{ per_call = 5, per_prompt_token = 0, per_decoded_token = 0.1 }}
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the README's engine and a ladder that names it."""
    page = (ROOT / "asd/engines/README.md").read_text()
    [code] = re.findall(r"```python\n(# calculator.py\n.*?)```", page, re.DOTALL)
    (tmp_path / "calculator.py").write_text(code)
    (tmp_path / "ladder.toml").write_text(LADDER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "calculator", raising=False)
    return tmp_path


def run(*arguments: str) -> str:
    """What a command prints; it must end well."""
    result = CliRunner().invoke(main, [*arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.slow
@pytest.mark.usefixtures("place", "one_thread")
def test_every_command_takes_it() -> None:
    """From priced to collected, fitted and asked."""
    assert "calculator" in run("price", "--ladder", "ladder.toml", "--out", "prices.json", *FEW, "24")
    run("collect", "--ladder", "ladder.toml", "--out", "t.jsonl", *FEW, "100")
    header = json.loads(Path("t.jsonl").read_text().splitlines()[0])
    assert header["stages"]["calculator"]["revision"] == "calculator-1"
    run("fit", "t.jsonl", "--ladder", "ladder.toml", "--out", "policy.json")
    told = run("generate", "add 12+30", "--ladder", "ladder.toml", "--policy", "policy.json", "--lam", "100")
    assert told.strip().endswith("42")


@pytest.mark.usefixtures("place")
def test_its_options_are_those_of_its_module() -> None:
    """`options.calculator` reaches it; options of another name are refused."""
    ladder = Ladder.load("ladder.toml")
    own = replace(ladder.stages[1], options={"calculator": {"digits": 1}})
    engine = open_engines(replace(ladder, stages=(ladder.stages[0], own)), "cpu")["calculator"]
    assert engine.digits == 1
    other = replace(own, options={"abacus": {"digits": 1}})
    with pytest.raises(ConfigError, match=r"options for 'abacus'; options are for .*, calculator"):
        open_engines(replace(ladder, stages=(ladder.stages[0], other)), "cpu")


@pytest.mark.usefixtures("place")
def test_without_a_revision_its_name_stands_for_it() -> None:
    """Two engines of different names are never taken for one."""
    code = Path("calculator.py").read_text()
    Path("plain.py").write_text(code.replace(", self.revision = stage.name", ", _ = stage.name"))
    ladder = Ladder.load("ladder.toml")
    plain = replace(ladder, stages=(replace(ladder.stages[1], engine="plain:Calculator"),))
    assert revisions(plain) == {"calculator": "plain:Calculator:sums"}


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("nowhere:Engine", "module 'nowhere' of its engine cannot be imported"),
        ("calculator:Abacus", "module calculator has nothing to call named 'Abacus'"),
        ("calculator:time", "nothing to call named 'time'"),
        ("calculator:", "no engine named 'calculator:'; there are .* or yours: module:Class"),
        ("../calculator:Calculator", "no engine named"),
    ],
)
def test_what_is_wrong_is_named(engine: str, words: str) -> None:
    """With the stage, and before anything else is loaded."""
    ladder = Ladder.load("ladder.toml")
    with pytest.raises(ConfigError, match=f"stage 'calculator': .*{words}"):
        open_engines(replace(ladder, stages=(replace(ladder.stages[1], engine=engine),)), "cpu")
