"""`asd fit --keep` and what `asd generate` takes from it, on traces of a made-up world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result

from asd.cli import main
from asd.errors import ConfigError
from asd.guarantee.record import EVERYTHING
from asd.ladder import Ladder
from asd.policies import FixedStage
from asd.policy import artifact
from asd.policy.choice import choose
from asd.traces import StageHeader, TraceHeader
from asd.traces.log import TraceLog
from asd.types import Query, Trace
from asd.workloads import Split
from tests.worlds import sample

pytestmark = pytest.mark.slow

LADDER = """
name = "pair"
price_unit = "declared"
prices_measured = "made up"
[[stages]]
name = "S"
model = "made-up/S"
prices = { per_call = 0, per_prompt_token = 0, per_decoded_token = 1 }
[[stages]]
name = "L"
model = "made-up/L"
prices = { per_call = 0, per_prompt_token = 0, per_decoded_token = 5 }
"""


def write_traces(path: Path, split: Split, n: int, seed: int, longer: str = "") -> Path:
    stages = {
        s: StageHeader(model=f"made-up/{s}", revision="1", dtype="auto", chat_template=False) for s in "SL"
    }
    header = TraceHeader(ladder="pair", stages=stages, datasets=("made-up",), split=split)
    traces = sample(n, np.random.default_rng(seed))[0]
    with TraceLog(path, header) as log:
        log.append([Trace(_renamed(t.query, split, longer), t.outcomes) for t in traces])
    return path


def _renamed(query: Query, split: Split, longer: str) -> Query:
    return replace(query, id=f"{split}-{query.id}", prompt=query.prompt + longer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guarantee")
    (folder / "pair.toml").write_text(LADDER)
    write_traces(folder / "fit.jsonl", "fit", 300, 0)
    write_traces(folder / "more.jsonl", "calibrate", 300, 1)
    return folder


def fit(folder: Path, *arguments: object) -> Result:
    given = ["fit", folder / "fit.jsonl", "--ladder", folder / "pair.toml", "--out", folder / "policy.json"]
    return CliRunner().invoke(main, [str(a) for a in (*given, *arguments)])


def test_fit_keeps_what_it_promises_in_the_file_and_on_the_screen(folder: Path) -> None:
    """The guarantee is printed and stored, and `generate` without a lam uses it."""
    done = fit(folder, "--calibrate", folder / "more.jsonl", "--keep", 0.7)
    assert done.exit_code == 0, done.output
    fitted = artifact.load(folder / "policy.json")
    assert str(fitted.guarantee) in done.stdout
    assert (fitted.guarantee.keep, fitted.guarantee.delta) == (0.7, 0.1)
    given = fitted.guarantee.grants[EVERYTHING]
    ladder = Ladder.load(folder / "pair.toml")
    assert choose(fitted, ladder).policy.name == f"optimal(lam={given.lam:g})"
    assert choose(fitted, ladder, lam=2.0).policy.name == "optimal(lam=2)"


def test_without_a_guarantee_the_default_lam_is_used(folder: Path) -> None:
    """A plain fit holds no guarantee."""
    assert fit(folder).exit_code == 0
    fitted = artifact.load(folder / "policy.json")
    assert fitted.guarantee is None
    assert choose(fitted, Ladder.load(folder / "pair.toml")).policy.name == "optimal(lam=5)"


def test_fit_prints_intervals_and_what_keeps_a_share(folder: Path) -> None:
    """One line a lam with its 95 % interval, then the settings that are to keep 95 % and 99 %."""
    done = fit(folder)
    fitted = artifact.load(folder / "policy.json")
    row = fitted.fit.replayed[0]
    width = 1.96 * row.errors.quality
    interval = f"({row.quality - width:.3f} to {row.quality + width:.3f})"
    assert f"lam {row.lam:6g}  quality {row.quality:.3f} {interval}, cost" in done.stdout
    for share in (0.95, 0.99):
        assert fitted.keeping(share).why in done.stdout


def test_a_default_that_is_dearer_than_the_largest_stage_gives_way_to_it(folder: Path) -> None:
    """Nobody chose it, so the stage that it should have saved answers, with a note; asked for, it runs."""
    fit(folder)
    fitted, ladder = artifact.load(folder / "policy.json"), Ladder.load(folder / "pair.toml")
    dear = tuple(
        msgspec.structs.replace(row, cost=1.13, quality=fitted.fit.largest_quality - 0.01)
        for row in fitted.fit.replayed
    )
    unlucky = msgspec.structs.replace(fitted, fit=msgspec.structs.replace(fitted.fit, replayed=dear))
    chosen = choose(unlucky, ladder)
    assert chosen.policy == FixedStage("L")
    assert chosen.note.startswith("L alone answers: on held-out rows lam 5 came to quality")
    asked = choose(unlucky, ladder, lam=5.0)
    assert asked.policy.name == "optimal(lam=5)"
    assert asked.note.startswith("on held-out rows lam 5 came to quality")
    assert asked.note.endswith("at cost 1")
    assert choose(fitted, ladder, lam=0.0).note == ""
    assert (choose(fitted, ladder).policy.name, choose(fitted, ladder).note) == ("optimal(lam=5)", "")


def test_a_share_of_quality_is_kept_by_the_guarantee_or_by_held_out_rows(folder: Path) -> None:
    """By the guarantee where it covers the share, else by the estimate, else by the largest stage."""
    fit(folder, "--calibrate", folder / "more.jsonl", "--keep", 0.7)
    fitted, ladder = artifact.load(folder / "policy.json"), Ladder.load(folder / "pair.toml")
    granted = fitted.guarantee.grants[EVERYTHING].lam
    assert choose(fitted, ladder, quality=0.7).policy.name == f"optimal(lam={granted:g})"
    assert choose(fitted, ladder, quality=0.5).policy.name == f"optimal(lam={granted:g})"
    kept = fitted.keeping(0.9)
    assert kept.lam is not None
    assert choose(fitted, ladder, quality=0.9).policy.name == f"optimal(lam={kept.lam:g})"
    unsure = msgspec.structs.replace(fitted, fit=msgspec.structs.replace(fitted.fit, largest_quality=2.0))
    chosen = choose(unsure, ladder, quality=0.9)
    assert chosen == (FixedStage("L"), unsure.keeping(0.9).why)


@pytest.mark.parametrize("quality", [0.0, -0.5, 1.01, float("nan")])
def test_a_share_of_quality_is_a_share(folder: Path, quality: float) -> None:
    """And it stands alone: a weight beside it is refused."""
    fit(folder)
    fitted, ladder = artifact.load(folder / "policy.json"), Ladder.load(folder / "pair.toml")
    with pytest.raises(ConfigError, match=r"quality must be a share in \(0, 1\]"):
        choose(fitted, ladder, quality=quality)
    with pytest.raises(ConfigError, match="give lam or quality, not both"):
        choose(fitted, ladder, quality=0.9, lam=1.0)


def test_fit_marks_what_is_dearer_than_the_largest_stage(folder: Path, monkeypatch) -> None:
    """So that nobody takes such a lam unawares."""
    assert "dearer than L alone" not in fit(folder).stdout
    monkeypatch.setattr(artifact.PolicyArtifact, "is_dearer", lambda _, row: row.lam == 5)
    marked = [line for line in fit(folder).stdout.splitlines() if line.endswith("dearer than L alone")]
    assert [line.split()[1] for line in marked] == ["5"]


def test_the_method_is_chosen_and_said(folder: Path) -> None:
    """Lists steer what `generate` runs; auto prints what its choice rests on, at the share asked for."""
    assert fit(folder, "--method", "lists").exit_code == 0
    fitted, ladder = artifact.load(folder / "policy.json"), Ladder.load(folder / "pair.toml")
    assert fitted.policy(2.0, ladder=ladder).name == "lists(lam=2)"
    done = fit(folder, "--method", "auto", "--quality", 0.9)
    contest = artifact.load(folder / "policy.json").fit.contest
    assert contest.share == 0.9
    assert str(contest) in done.stdout
    refused = fit(folder, "--quality", 0.9)
    assert refused.exit_code == 2
    assert "--quality says where --method auto compares" in refused.output


def test_a_guarantee_for_another_batch_is_not_used_one_by_one(folder: Path) -> None:
    """`generate` answers one query at a time; what was promised at batch 4 is not promised there."""
    assert fit(folder, "--calibrate", folder / "more.jsonl", "--keep", 0.7, "--batch", 4).exit_code == 0
    fitted = artifact.load(folder / "policy.json")
    assert fitted.guarantee.batch == 4
    with pytest.raises(ConfigError, match="holds at batch 4, not at 1"):
        choose(fitted, Ladder.load(folder / "pair.toml"))


def test_a_guarantee_by_dataset_needs_a_lam_where_no_dataset_is_known(folder: Path) -> None:
    """A prompt from the command line belongs to none of them."""
    assert (
        fit(folder, "--calibrate", folder / "more.jsonl", "--cap-cost", 0.9, "--per-dataset").exit_code == 0
    )
    fitted = artifact.load(folder / "policy.json")
    assert set(fitted.guarantee.grants) == {"made-up"}
    with pytest.raises(ConfigError, match="name a lam"):
        choose(fitted, Ladder.load(folder / "pair.toml"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep", 0.9], "needs both what to promise"),
        (["--calibrate", "more.jsonl"], "needs both what to promise"),
        (["--calibrate", "more.jsonl", "--keep", 1.5], "keep, the share of the reference's quality"),
        (["--calibrate", "more.jsonl", "--keep", 0.9, "--delta", 0], "delta"),
        (["--calibrate", "fit.jsonl", "--keep", 0.9], "needed are rows of"),
    ],
)
def test_fit_refuses(folder: Path, monkeypatch, arguments: list[object], message: str) -> None:
    """Each is one line and exit code 2."""
    monkeypatch.chdir(folder)
    done = fit(folder, *arguments)
    assert done.exit_code == 2
    assert message in done.output


@pytest.mark.parametrize(
    ("longer", "message"), [("", "no alarm in 200 queries"), (" or not" * 9, "alarm after")]
)
def test_study_shift_says_whether_live_rows_are_like_the_calibration_rows(
    folder: Path, longer: str, message: str
) -> None:
    """The same world again, and one whose prompts are longer."""
    assert fit(folder, "--calibrate", folder / "more.jsonl", "--keep", 0.7).exit_code == 0
    live = write_traces(folder / f"live{len(longer)}.jsonl", "test", 200, 5, longer)
    given = ("study", "shift", live, "--policy", folder / "policy.json", "--ladder", folder / "pair.toml")
    done = CliRunner().invoke(main, [str(a) for a in given])
    assert done.exit_code == 0, done.output
    assert message in done.stdout
