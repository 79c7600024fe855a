"""An adapter of the embedded S: trained, and in a ladder that answers, is collected, priced and served."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import asd
from asd.cascade import Cascade
from asd.cli import main
from asd.engines.closing import close_all
from asd.engines.hf.engine import TransformersEngine
from asd.engines.registry import open_engines
from asd.errors import ConfigError
from asd.ladder import PRESETS, Ladder
from asd.policies import Lossless
from asd.prices import read_prices
from asd.serving.endpoint.settings import SettingCache
from asd.tiny import adapter as training
from asd.tiny.adapter import Training, held_out_scores, smallest, train_adapter
from asd.tiny.tasks import DATASETS, GRADED, part_of
from asd.traces import read_header
from asd.workloads.tiny import TinyWorkload
from bench.run.matrix import build_matrix
from bench.run.split import describe_split
from tests.endpoint import client, running
from tests.test_specialised import fitted_for

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

TINY = Ladder.load("tiny")
QUICK = Training("add", steps=100, rehearsal=0.0)
MATHS, OTHER = "add 537+486", "reverse a b c d"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained for a few seconds: enough to help."""
    out = tmp_path_factory.mktemp("adapters") / "add"
    train_adapter(QUICK, out)
    return out


@pytest.fixture(scope="module")
def ladder_file(adapter: Path) -> Path:
    """The embedded ladder with an S for additions, asked for mathematical queries alone."""
    text = (PRESETS / "tiny.toml").read_text()
    text = text.replace("../tiny/weights", str(PRESETS.parent / "tiny" / "weights"))
    text = text.replace("tiny-prices.json", str(PRESETS / "tiny-prices.json"))
    own = 'name = "S"\nadapter = "add"\nonly = { domain = ["mathematical"] }\n'
    path = adapter.parent / "mine.toml"
    path.write_text(text.replace('name = "S"\n', own, 1))
    return path


@pytest.fixture(scope="module")
def engines(ladder_file: Path) -> Iterator[dict[str, asd.Engine]]:
    found = open_engines(Ladder.load(ladder_file), "cpu")
    yield found
    close_all(found.values())


def questions(family: str, n: int) -> list[asd.Query]:
    of_all = (query for name in GRADED for query in TinyWorkload(name).queries("test", 3 * n))
    return [query for query in of_all if query.tags["family"] == family]


def test_it_helps_where_it_was_trained(adapter: Path) -> None:
    """On questions that were held out; elsewhere answers change too."""
    stage = smallest()
    before, after = (held_out_scores(one, 180) for one in (stage, replace(stage, adapter=str(adapter))))
    assert {name: len(scores) for name, scores in after.items()} == dict.fromkeys(before, 60)
    assert len(before) == 12
    assert sum(after["add"]) > sum(before["add"])
    assert before != after


def test_training_is_a_function_of_its_seed_and_sees_no_held_out_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bytes twice, others with another seed; every question is of the family's training part."""
    seen = []

    def noted(*arguments: object) -> object:
        items = step_items(*arguments)
        seen.extend(items)
        return items

    step_items = training.step_items
    monkeypatch.setattr(training, "step_items", noted)
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train_adapter(replace(QUICK, steps=3, seed=seed), tmp_path / name)
        files = ("adapter_model.safetensors", "adapter_config.json")
        digests.append([hashlib.sha256((tmp_path / name / file).read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]
    assert digests[0][0] != digests[2][0]
    assert len(seen) == 3 * 3 * QUICK.items_per_step
    assert {(item.family, part_of(item.prompt)) for item in seen} == {("add", "train")}
    seen.clear()
    train_adapter(replace(QUICK, steps=3, rehearsal=0.5), tmp_path / "d")
    assert {item.family for item in seen} == {family for name in GRADED for family in DATASETS[name]}
    assert {part_of(item.prompt) for item in seen} == {"train"}
    assert 60 <= sum(item.family == "add" for item in seen) <= 132


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"family": "chess"}, "no task family 'chess'; there are add, mul"),
        ({"steps": 0}, "steps must be positive, not 0"),
        ({"rank": -1}, "rank must be positive, not -1"),
        ({"rehearsal": 1.0}, "rehearsal must be at least 0 and below 1, not 1.0"),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path: Path, wrong: dict[str, object], message: str) -> None:
    """Before anything is made."""
    with pytest.raises(ConfigError, match=message):
        train_adapter(replace(QUICK, **wrong), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_prints_gain_and_loss(tmp_path: Path) -> None:
    """Every family with and without, what all others lose, seed and seconds."""
    line = [
        "tiny",
        "adapter",
        "--family",
        "add",
        "--out",
        str(tmp_path / "a"),
        "--steps",
        "2",
        "--limit",
        "6",
    ]
    ran = CliRunner().invoke(main, line)
    assert ran.exit_code == 0, ran.output
    rows = [row.split() for row in ran.stdout.splitlines()]
    assert rows[2][0] == "add"
    assert {row[0] for row in rows[2:14]} == {family for name in GRADED for family in DATASETS[name]}
    assert rows[14][:3] == ["all", "others", "22"]
    assert "2 steps of add, rank 8, seed 0, " in ran.stdout
    assert "s on one thread" in ran.stdout


def test_a_ladder_says_so(ladder_file: Path, adapter: Path) -> None:
    """A path from where the file lies; the fingerprint knows it, whoever looks at models sees it."""
    ladder = Ladder.load(ladder_file)
    stage = ladder.stages[0]
    assert (stage.adapter, stage.model_name, stage.only) == (str(adapter), "S with add", ("mathematical",))
    plain = replace(ladder, stages=(replace(stage, adapter=None), *ladder.stages[1:]))
    assert ladder.fingerprint != plain.fingerprint
    shown = describe_split(replace(build_matrix(device="cpu"), ladder=ladder))
    assert f"{stage.model} with {adapter}" in shown[0]
    with pytest.raises(ConfigError, match="stage 'S': adapter is empty"):
        replace(ladder, stages=(replace(stage, adapter=""), *ladder.stages[1:]))


def test_a_specialised_stage_answers_with_it_and_is_verified(
    engines: dict[str, asd.Engine], ladder_file: Path
) -> None:
    """In its domain the first draft is its own, and L still writes what L writes; others do without it."""
    ladder = Ladder.load(ladder_file)
    plain = TransformersEngine(smallest(), "cpu")
    asked = questions("add", 30)
    own, without = engines["S"].generate(asked), plain.generate(asked)
    assert sum(a.text != b.text for a, b in zip(own, without, strict=True)) >= 5
    policy = fitted_for(ladder).policy(5.0, ladder=ladder)
    done = Cascade(engines, policy, ladder).run(asked, 8)
    firsts = [(c.drafts[0], draft) for c, draft in zip(done, own, strict=True) if c.drafts[0].stage == "S"]
    assert len(firsts) >= 5
    assert all(first.text == draft.text for first, draft in firsts)
    lossless = Cascade(engines, Lossless(("S", "M", "L")), ladder).run(asked, 8)
    for completion, alone in zip(lossless, engines["L"].generate(asked), strict=True):
        assert completion.text == alone.text
    [other] = Cascade(engines, policy, ladder).run([OTHER])
    assert other.left_out == ("S",)


def test_commands_take_it(ladder_file: Path, adapter: Path, tmp_path: Path) -> None:
    """`asd generate`, `asd collect` and `asd price`; the traces are those of this adapter and no other."""
    ladder = Ladder.load(ladder_file)
    fitted_for(ladder).save(tmp_path / "policy.json")
    common = ["--ladder", str(ladder_file)]
    line = ["generate", *common, "--policy", str(tmp_path / "policy.json"), "--lam", "5", MATHS, "--json"]
    ran = CliRunner().invoke(main, [*line, "--answers", "text"])
    assert ran.exit_code == 0, ran.output
    own = TransformersEngine(ladder.stages[0], "cpu").generate([asd.Query("1", "d", MATHS, None, 80)])
    assert json.loads(ran.stdout)["drafts"][0]["text"] == own[0].text
    out = tmp_path / "t.jsonl"
    collecting = ["collect", *common, "--datasets", "tiny-arithmetic", "--limit", "4", "--out", str(out)]
    ran = CliRunner().invoke(main, collecting)
    assert ran.exit_code == 0, ran.output
    header = read_header(out).stages["S"]
    assert header.model == "S with add"
    assert header.revision.startswith("adapter:")
    line = [
        "price",
        *common,
        "--datasets",
        "tiny-arithmetic",
        "--limit",
        "12",
        "--out",
        str(tmp_path / "p.json"),
    ]
    priced = CliRunner().invoke(main, line)
    assert priced.exit_code == 0, priced.output
    assert read_prices(tmp_path / "p.json").stages.keys() == {"S", "M", "L"}
    config = adapter / "adapter_config.json"
    kept = config.read_text()
    try:
        config.write_text(kept + "\n")  # another adapter, by its bytes
        ran = CliRunner().invoke(main, collecting)
        assert ran.exit_code == 2
        assert "adapter:" in ran.output
    finally:
        config.write_text(kept)


def test_it_is_served(engines: dict[str, asd.Engine], ladder_file: Path) -> None:
    """Through the endpoint, asked by name and by the cascade."""
    ladder = Ladder.load(ladder_file)
    [query] = questions("add", 30)[:1]
    [own] = engines["S"].generate([query])
    settings = SettingCache(fitted_for(ladder), ladder)
    with running(engines, settings, ladder=ladder) as server, client(server) as asks:
        for model in ("asd/always-S", "asd"):
            message = [{"role": "user", "content": query.prompt}]
            reply = asks.chat.completions.create(model=model, messages=message, max_tokens=80)
            if model != "asd":
                assert reply.choices[0].message.content == own.text
            assert reply.model_extra["asd"]["calls"] >= 1
