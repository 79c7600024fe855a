"""What a ladder's deployment says changes what a run costs and does, from the shell and from Python."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

import asd
from asd.api import with_loads
from asd.cli import main
from asd.engines.deployment import deploy
from asd.engines.residency import Residency
from asd.errors import ConfigError
from asd.ladder import TINY_POLICY, Deployment, Ladder
from asd.policies import FixedStage
from asd.testing import Script, ScriptedEngine
from asd.types import Action, Query

ROOT = Path(asd.__file__).parent
TINY = (ROOT / "presets/tiny.toml").read_text()


def ladder_file(folder: Path, deployment: str) -> Path:
    """The embedded ladder with a deployment of its own."""
    text = TINY.replace('"../tiny/', f'"{ROOT}/tiny/').replace("tiny-prices", f"{ROOT}/presets/tiny-prices")
    head, *stages = text.split("[[stages]]")
    stages = [stage.rstrip() + "\nmemory_gib = 0.01\n\n" for stage in stages]
    path = folder / "tiny.toml"
    path.write_text("[[stages]]".join([head, *stages]) + f"[deployment]\n{deployment}\n")
    return path


def generate(ladder: Path) -> dict[str, object]:
    arguments = ["generate", "add 12+30", "--json", "--lam", "0.1", "--ladder", str(ladder)]
    result = CliRunner().invoke(main, [*arguments, "--policy", str(TINY_POLICY)])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.usefixtures("one_thread")
def test_an_answer_that_was_given_before_costs_nothing(tmp_path: Path) -> None:
    """The second run of the same command reads the store beside the ladder."""
    ladder = ladder_file(tmp_path, 'response_cache = "answers.sqlite"')
    first, second = generate(ladder), generate(ladder)
    assert (tmp_path / "answers.sqlite").exists()
    assert first["text"] == second["text"]
    assert first["cost"] > 0
    assert second["cost"] == 0


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_stages_take_turns_within_the_memory(tmp_path: Path) -> None:
    """Room for one stage: each one that is asked puts the last one out, and the answer is the same."""
    ladder = Ladder.load(ladder_file(tmp_path, "memory_gib = 0.015"))
    query = Query("1", "d", "run;k=5;b=k*4", form=asd.AnswerForm())
    with asd.load("tiny", policy=TINY_POLICY, lam=50) as alone:
        expected = alone(query)
    with asd.load(ladder, policy=TINY_POLICY, lam=50) as cascade:
        completion = cascade(query)
    assert (completion.text, completion.stage) == (expected.text, expected.stage)
    with pytest.raises(ConfigError, match=r"stage 'S' takes 0.01 GiB, .* the budget is 0.005"):
        asd.load(Ladder.load(ladder_file(tmp_path, "memory_gib = 0.005")), policy=TINY_POLICY)


def test_a_load_has_a_price(tmp_path: Path) -> None:
    """Where a load costs more than a larger stage is worth, the one that is in memory answers."""
    fitted = asd.load_policy(TINY_POLICY)
    ladder = Ladder.load(ladder_file(tmp_path, "memory_gib = 0.02"))
    policy, unit = fitted.policy(50.0), fitted.ladder.unit()
    prices = {
        name: msgspec.structs.replace(price, per_load=1e6) for name, price in ladder.prices_at().items()
    }
    engines = {name: ScriptedEngine(name, {"p": Script("a", (-0.1,))}) for name in prices}
    residency = Residency(engines, dict.fromkeys(prices, 0.01), 0.02, pinned=("S",))
    query = Query("1", "d", "run;k=5;b=k*4")
    assert policy.decide(query, {}).action != Action.draft("S")
    assert with_loads(policy, residency, prices, 1, unit).decide(query, {}).action == Action.draft("S")
    assert with_loads(policy, None, prices, 1, unit) is policy
    assert with_loads(policy, residency, ladder.prices_at(), 1, unit) is policy
    assert with_loads(FixedStage("L"), residency, prices, 1, unit) == FixedStage("L")


def test_nothing_is_asked_that_need_not_be() -> None:
    """Without a deployment the engines are those that were given, and revisions are not looked up."""
    engines = {name: ScriptedEngine(name, {}) for name in ("S", "M", "L")}
    deployed = deploy(Ladder.load("tiny"), engines, lambda: pytest.fail("looked up"))
    assert (deployed.engines, deployed.residency) == (engines, None)


def test_a_deployment_is_no_part_of_what_was_fitted(tmp_path: Path) -> None:
    """A policy goes on fitting a ladder that is deployed another way; unknown keys are refused."""
    ladder = Ladder.load(ladder_file(tmp_path, 'memory_gib = 1.5\npinned = ["S"]'))
    assert ladder.deployment == Deployment(1.5, ("S",), None)
    assert ladder.fingerprint == Ladder.load("tiny").fingerprint
    with pytest.raises(ConfigError, match="unknown field `memory`"):
        Ladder.load(ladder_file(tmp_path, "memory = 1"))
