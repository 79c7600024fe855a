"""The study of the guarantee: it counts rightly, and the guarantee passes it."""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from asd.cli import main
from asd.cli.research import study
from asd.errors import ConfigError
from asd.guarantee.certificate import Promise, Sweep, grant
from asd.research.recordings.outcomes import RecordedOutcomes, from_recording
from asd.research.recordings.recording import read_recording
from asd.research.study.validity import RowPopulation, check_validity, from_outcomes, from_traces
from tests import worlds

KEEP = Promise(delta=0.1, keep=0.9)


def population(n: int = 2000) -> RowPopulation:
    """Settings that keep 82 to 100 % of a stage that is always right, cost rising with quality."""
    rng = np.random.default_rng(0)
    p_right = np.linspace(0.82, 1.0, 13)[:, None]
    quality = (rng.random((13, n)) < p_right).astype(float)
    cost = np.tile(np.linspace(0.2, 0.9, 13)[:, None], n)
    everyone = Sweep(np.arange(1.0, 14.0), quality, cost, "L", np.ones(n), np.ones(n), 2.0)
    return RowPopulation("made up", 0, everyone)


def outcomes(n: int = 900) -> RecordedOutcomes:
    """Two stages; the small one's single feature says how likely it is right."""
    rng = np.random.default_rng(1)
    known = rng.random(n)
    scores = np.column_stack([rng.random(n) < known, rng.random(n) < 0.95]).astype(float)
    answers = np.stack([np.column_stack([known, known]), np.zeros((n, 2))], axis=1)
    costs = np.tile([0.1, 1.0], (n, 1))
    return RecordedOutcomes(("S", "L"), ("p",) * n, scores, costs, answers, 0)


@pytest.mark.parametrize("replaced", [True, False])
def test_false_promises_are_rarer_than_delta_and_false_choices_are_not(replaced: bool) -> None:
    """600 draws of 300 rows: the promise holds as stated, choosing by the mean alone does not."""
    checked = check_validity(population(), KEEP, 300, 600, np.random.default_rng(2), replaced=replaced)
    assert checked.violations <= checked.high <= 0.1
    assert checked.unguarded_violations > 0.2
    assert checked.granted > 0.9
    assert 0 < checked.saving < checked.best_saving < checked.unguarded_saving + 0.1


def test_what_is_counted_is_the_truth_in_the_population() -> None:
    """Every figure again, draw by draw, with plain loops."""
    world = population(500)
    seen = world.everyone
    checked = check_validity(world, KEEP, 60, 40, np.random.default_rng(3), replaced=True)
    rng = np.random.default_rng(3)
    granted, wrong, savings = 0, 0, []
    for _ in range(40):
        given = grant(seen.at(rng.choice(500, 60, replace=True)), KEEP, 0.1)
        k = None if given.lam is None else int(given.lam) - 1
        granted += k is not None
        wrong += k is not None and seen.quality[k].mean() < 0.9
        savings.append(0.0 if k is None else 1 - seen.cost[k].mean())
    assert (checked.granted, checked.violations) == (granted / 40, wrong / 40)
    assert checked.saving == pytest.approx(np.mean(savings))
    true = [k for k in range(13) if seen.quality[k].mean() >= 0.9]
    assert checked.best_saving == pytest.approx(1 - seen.cost[true[0]].mean())


def test_a_promise_that_ignores_delta_would_be_caught() -> None:
    """At a level of nine in ten, draws are wrong more often than one in ten: the count can fail."""
    loose = replace(KEEP, delta=0.9)
    checked = check_validity(population(), loose, 300, 300, np.random.default_rng(4), replaced=True)
    assert checked.low > 0.1


def test_the_walk_stops_at_the_first_answer_that_is_likely_enough() -> None:
    """Row by row: below the threshold both stages are paid and the last one's answer counts."""
    recorded = outcomes()
    world = from_outcomes("made up", recorded, 300, np.random.default_rng(5))
    order = np.random.default_rng(5).permutation(900)[300:]
    seen = world.everyone
    assert seen.stage == "L"
    assert seen.quality.shape == (len(seen.lams), 600)
    paid = {round(cost, 9) for cost in np.unique(seen.cost)}
    assert paid == {0.1, 1.1}
    small = seen.cost < 0.5
    assert (np.where(small, recorded.scores[order, 0], recorded.scores[order, 1]) == seen.quality).all()
    known = recorded.answers[order, 0, 0]
    for row in small[1:-1]:
        assert known[row].min() >= known[~row].max()
    assert small[0].all()
    assert not small[-1].any()


@pytest.mark.slow
def test_own_traces_make_a_population_of_the_rows_that_did_not_fit() -> None:
    """The policies of a fit on 150 rows, played on the other 100."""
    traces = worlds.sample(250, np.random.default_rng(6))[0]
    world = from_traces("pair", traces, worlds.ladder(), 150, np.random.default_rng(7))
    rest = np.random.default_rng(7).permutation(250)[150:]
    assert (world.n_fit, world.everyone.cost.shape[1], world.everyone.stage) == (150, 100, "L")
    assert world.everyone.stage_quality.tolist() == [traces[i].outcomes["L"].score for i in rest]


def test_what_cannot_be_drawn_is_refused() -> None:
    """More rows than there are, a cap, no rows left."""
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="without replacement"):
        check_validity(population(50), KEEP, 51, 1, rng, replaced=False)
    with pytest.raises(ConfigError, match="no cap"):
        check_validity(population(50), Promise(delta=0.1, cap_cost=1.0), 10, 1, rng, replaced=True)
    with pytest.raises(ConfigError, match="leave a population"):
        from_outcomes("made up", outcomes(20), 20, rng)


def write_recorded(path: Path, models: tuple[str, ...]) -> None:
    rng = np.random.default_rng(8)
    lines = []
    for i in range(400):
        right = rng.random(len(models)) < np.linspace(0.8, 0.95, len(models))
        outputs = {
            m: {"score": int(r), "answer": "A" if r else m} for m, r in zip(models, right, strict=True)
        }
        lines.append(json.dumps({"id": str(i), "prompt": "which?", "outputs": outputs}))
    with gzip.open(path, "wt") as file:
        file.write("\n".join(lines))


def test_the_command_prints_and_writes_the_table(tmp_path: Path, monkeypatch) -> None:
    """Two sizes, drawn both ways; the JSON holds what is printed."""
    (tmp_path / "traces").mkdir()
    monkeypatch.setattr(study, "_RECORDED", {"some": {"m1": 1.0, "m2": 9.0}})
    write_recorded(tmp_path / "traces" / "some.jsonl.gz", ("m1", "m2"))
    given = [
        "--data",
        tmp_path,
        "--draws",
        20,
        "--rows",
        "50,90",
        "--fit-rows",
        200,
        "--json",
        tmp_path / "out",
    ]
    done = CliRunner().invoke(main, ["study", "validity", *map(str, given)])
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "out").read_text())
    assert [(row["n"], row["replaced"]) for row in rows] == [(50, True), (50, False), (90, True), (90, False)]
    assert all(f"{row['saving']:.1%}" in done.stdout for row in rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "give traces of"), (["--rows", "300,x"], "give numbers of rows"), (["--keep", "2"], "keep")],
)
def test_the_command_refuses(arguments: list[str], message: str, monkeypatch) -> None:
    """Exit code 2 and one line."""
    monkeypatch.delenv("ASD_DATA", raising=False)
    done = CliRunner().invoke(main, ["study", "validity", *arguments])
    assert done.exit_code == 2
    assert message in done.output


@pytest.mark.skipif("ASD_DATA" not in os.environ, reason="ASD_DATA names the folder with recorded outcomes")
@pytest.mark.parametrize("n", [300, 1000])
def test_the_guarantee_holds_on_recorded_models(n: int) -> None:
    """500 draws from public models' MMLU-Pro outcomes: the interval's upper end is below delta."""
    models = ("Phi-3-mini-4k-instruct", "Meta-Llama-3_1-8B-Instruct", "Meta-Llama-3_1-70B-Instruct")
    path = Path(os.environ["ASD_DATA"]) / "traces" / "mmlu_pro.jsonl.gz"
    world = from_outcomes(
        "mmlu_pro",
        from_recording(read_recording([path], models, (3.8, 8, 70))),
        300,
        np.random.default_rng(0),
    )
    checked = check_validity(
        world, Promise(delta=0.1, keep=0.95), n, 500, np.random.default_rng(1), replaced=True
    )
    assert checked.high <= 0.1
    assert checked.unguarded_violations > 0.2
    assert checked.granted > 0.2
