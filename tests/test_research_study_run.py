"""A study from end to end on made-up traces: what its files say agrees with itself and its libraries."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace as replace_struct
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from asd.errors import ConfigError
from asd.evaluation.replay import Contender
from asd.measurement.environment import read_environment
from asd.policies import FixedStage, RandomMix
from asd.research.study import run
from asd.research.study.comparisons import references
from asd.research.study.methods import methods, pooled
from asd.research.study.record import StudyTable
from asd.research.study.run import LEAST, PER_QUESTION, conduct
from tests import studies, worlds
from tests.conducted import DATASETS, QUICK, Conducted, N, material

Row = Mapping[str, str]
pytestmark = pytest.mark.slow

TIMED = ("measured", "timing-only")


def rows(done: Conducted, name: str) -> list[dict[str, str]]:
    """A table as its CSV says."""
    with (done.out / "tables" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def named(table: StudyTable) -> list[dict[str, object]]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def per_question(table: list[dict[str, str]], metric: str) -> dict[str, np.ndarray]:
    """By method, one value a question in one order, passes averaged."""
    found: dict[str, dict[tuple[str, str], list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in table:
        found[row["method"]][row["dataset"], row["question"]].append(float(row[metric]))
    return {m: np.array([np.mean(of[key]) for key in sorted(of)]) for m, of in found.items()}


def test_everything_is_there(done: Conducted) -> None:
    """Every table, as CSV and, but for the long ones, as text."""
    wanted = {
        "methods",
        "latency",
        "lambda_latency",
        "levels_latency",
        "differences",
        "differences_seconds",
        "lambda",
        "lambda_datasets",
        "levels",
        "domains",
        "datasets",
        "folds",
        "sensitivity",
        "regret",
        "regret_simulated",
        "regret_course",
        "regret_course_simulated",
        "samples",
        "sample_slopes",
        "thresholds",
        "exactness",
        "solving",
        "acceptance",
        "acceptance_shares",
        "reliability",
        "predictors",
        "claims",
    }
    assert {table.name for table in done.study.tables} == wanted
    written = {path.stem for path in (done.out / "tables").glob("*.csv")}
    assert written == wanted | set(PER_QUESTION)
    assert {path.stem for path in (done.out / "tables").glob("*.md")} == wanted


def test_stage_mixes_sum_to_one(done: Conducted) -> None:
    """In every table that has one, in every row but a standard deviation."""
    mixed = 0
    for table in done.study.tables:
        shares = [i for i, name in enumerate(table.columns) if name.startswith("share_") and name[6:] in "SL"]
        for row in table.rows if shares else ():
            if row[0] != "sd":
                assert sum(row[i] for i in shares) == pytest.approx(1.0)
                mixed += 1
    assert mixed > 50


def test_costs_are_the_sums_of_calls(done: Conducted) -> None:
    """Of every question and method: the parts by stage; of a method: the mean; of a stage: its usage."""
    table = rows(done, "items")
    for row in table:
        assert float(row["cost"]) == pytest.approx(float(row["cost_S"]) + float(row["cost_L"]))
    cost = per_question(table, "cost")
    for row in rows(done, "methods"):
        assert float(row["cost"]) == pytest.approx(cost[row["method"]].mean())
    told = material()
    for stage in told.ladder.stages:
        usages = [t.outcomes[stage.name].draft.usage.alone for part in told.test for t in part.traces]
        priced = sum(stage.prices.cost(usage) for usage in usages) / told.test[0].unit
        assert cost[f"always-{stage.name}"].sum() == pytest.approx(priced)


def test_the_largest_stage_with_its_drafter_is_a_method_and_a_reference(done: Conducted) -> None:
    """Its answers are the largest's own; its cost is that with drafts; every table that compares knows it."""
    told, items = material(), rows(done, "items")
    quality, cost = (per_question(items, metric) for metric in ("quality", "cost"))
    assert (quality["drafted"] == quality["always-L"]).all()
    largest = told.ladder.stages[-1]
    usages = [t.outcomes["L"].draft.usage for part in told.test for t in part.traces]
    priced = sum(largest.prices.cost(usage) for usage in usages) / told.test[0].unit
    assert cost["drafted"].sum() == pytest.approx(priced)
    assert priced < 0.9 * cost["always-L"].sum()
    for name in ("differences", "differences_seconds"):
        assert {row["reference"] for row in rows(done, name)} == {"always-L", "always-S", "drafted", "static"}
    groups = named(done.study.table("levels"))
    assert np.average([g["cost_drafted"] for g in groups], weights=[g["n"] for g in groups]) == pytest.approx(
        cost["drafted"].mean()
    )
    about = [row["quantity"] for row in rows(done, "claims")]
    assert sum("with its own drafter" in quantity for quantity in about) == 7
    seconds = per_question(rows(done, "seconds"), "seconds")
    for row in named(done.study.table("latency")):
        ratio = seconds["drafted"].sum() / seconds[row["method"]].sum()
        assert row["speed_up_drafted"] == pytest.approx(ratio)


def test_a_ladder_without_a_drafter_has_no_such_method() -> None:
    """Neither among the methods nor among the references."""
    fitted = worlds.fitted_verified()
    outcomes = replace(material().calibration[0], ladder=worlds.ladder())
    assert "drafted" not in {method.name for method in methods(fitted, [outcomes])}
    assert references(("S", "L"), drafted=False) == ("always-L", "always-S", "static")


def test_random_costs_what_the_policy_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expected over its draws, on the calibration rows, where its stages have drafters as the policy's do."""
    monkeypatch.setattr("asd.research.study.methods.KEPT", 0.8)
    told = material()
    by = {method.name: method for method in told.methods}
    mix = by["random"].policy(told.calibration[0])
    assert isinstance(mix, RandomMix)
    assert 0 < mix.weights["S"] < 1
    cost = {
        stage: pooled(
            [o.walk(Contender(stage, None, FixedStage(stage))) for o in told.calibration], lambda r: r.cost
        )
        for stage in "SL"
    }
    wanted = pooled([by["optimal"].walk(o) for o in told.calibration], lambda r: r.cost)
    assert sum(mix.weights[stage] * cost[stage] for stage in "SL") == pytest.approx(wanted)


def test_a_mean_lies_between_its_parts(done: Conducted) -> None:
    """Of data sets over all, of levels over all, and within its own interval."""
    table = done.study.table
    for row in named(table("lambda")):
        parts = [p for p in named(table("lambda_datasets")) if p["lambda"] == row["lambda"]]
        assert len(parts) == len(DATASETS)
        for metric in ("quality", "cost"):
            assert row[metric] == pytest.approx(np.mean([p[metric] for p in parts]))
    own = next(row for row in named(table("methods")) if row["method"] == "optimal-verified")
    for name in ("levels", "domains", "datasets"):
        parts = named(table(name))
        assert sum(p["n"] for p in parts) == N * len(DATASETS)
        weights = [p["n"] for p in parts]
        assert np.average([p["quality"] for p in parts], weights=weights) == pytest.approx(own["quality"])
        assert np.average([p["cost"] for p in parts], weights=weights) == pytest.approx(own["cost"])
    for row in named(table("methods")):
        for metric in ("quality", "cost"):
            assert row[f"{metric}_low"] <= row[metric] <= row[f"{metric}_high"]
    for row in named(table("latency")):
        assert 0 < row["median_ms"] <= row["p95_ms"]
        assert row["speed_up_low"] <= row["speed_up"] <= row["speed_up_high"]
        assert row["queries_per_s"] == pytest.approx(1e3 / row["mean_ms"])


def compared(done: Conducted) -> Iterator[tuple[Row, np.ndarray, np.ndarray]]:
    """Every row of the two tables of differences, with the two vectors behind it."""
    items, seconds = rows(done, "items"), rows(done, "seconds")
    values = {metric: per_question(items, metric) for metric in ("quality", "cost")}
    values["seconds"] = per_question(seconds, "seconds")
    for row in (*rows(done, "differences"), *rows(done, "differences_seconds")):
        of = values[row["metric"]]
        yield row, of[row["method"]], of[row["reference"]]


def test_every_p_value_can_be_computed_again_from_the_files(done: Conducted) -> None:
    """Paired t, Wilcoxon and McNemar by scipy and statsmodels, from the rows in the CSV beside the table."""
    kinds = defaultdict(int)
    for row, method, reference in compared(done):
        change = method - reference
        assert float(row["difference"]) == pytest.approx(change.mean(), abs=1e-12)
        assert float(row["percent"]) == pytest.approx(100 * change.mean() / reference.mean(), abs=1e-9)
        if np.ptp(change) == 0:
            sign = 1.0 if change[0] == 0 else 0.5 ** (len(change) - 1)
            assert float(row["p"]) == pytest.approx(sign)
            kinds["no spread"] += 1
            continue
        assert float(row["p_t"]) == pytest.approx(stats.ttest_rel(method, reference).pvalue, rel=1e-9)
        assert float(row["p_wilcoxon"]) == pytest.approx(stats.wilcoxon(change).pvalue, rel=1e-9)
        assert float(row["cohens_d"]) == pytest.approx(change.mean() / change.std(ddof=1))
        if row["metric"] == "quality":
            pairs = [[((method == i) & (reference == j)).sum() for j in (1, 0)] for i in (1, 0)]
            assert float(row["p_mcnemar"]) == pytest.approx(mcnemar(pairs, exact=True).pvalue)
            assert row["p"] == row["p_mcnemar"]
        else:
            assert row["p_mcnemar"] == ""
            assert row["p"] == row["p_t"]
        kinds[row["metric"]] += 1
    assert min(kinds[metric] for metric in ("quality", "cost", "seconds")) > 10


@pytest.mark.parametrize("name", ["differences", "differences_seconds"])
def test_a_table_is_one_family(done: Conducted, name: str) -> None:
    """Holm and Bonferroni over the p column of the CSV, by statsmodels."""
    table = rows(done, name)
    p = [float(row["p"]) for row in table]
    for method in ("holm", "bonferroni"):
        told = [float(row[f"p_{method}"]) for row in table]
        assert told == pytest.approx(multipletests(p, method=method)[1].tolist())


def test_power_and_size_are_those_of_statsmodels(done: Conducted) -> None:
    """To three digits, wherever its solver gives a number."""
    n_compared = 0
    for row in rows(done, "differences"):
        if row["n_needed"] and abs(d := float(row["cohens_d"])) < 1:
            power = TTestPower().power(-abs(d), int(row["n"]), 0.05)
            assert float(row["power"]) == pytest.approx(power, abs=5e-4)
            solved = TTestPower().solve_power(abs(d), power=0.8, alpha=0.05)
            assert int(row["n_needed"]) == np.ceil(solved)
            n_compared += 1
    assert n_compared > 10


def test_one_seed_one_result(done: Conducted, tmp_path: Path) -> None:
    """A second run says the same but for what a clock said, although its clock runs differently."""
    told = material()
    again = conduct(replace(told, clock=lambda: 0.5 * told.clock()), tmp_path, QUICK)
    assert [table.name for table in again.tables] == [table.name for table in done.study.tables]
    n_compared = 0
    for table, before in zip(again.tables, done.study.tables, strict=True):
        if table.provenance not in TIMED:
            where = table.columns.index("provenance") if "provenance" in table.columns else None
            told = [[r for r in t.rows if where is None or r[where] not in TIMED] for t in (table, before)]
            assert told[0] == told[1], table.name
            n_compared += len(told[0])
    assert n_compared > 300


def test_a_study_that_was_stopped_goes_on(done: Conducted, tmp_path: Path) -> None:
    """Ctrl-C in a step: the steps before it are read and not made again, and the result is the same."""

    def interrupted(*_: object) -> list[StudyTable]:
        raise KeyboardInterrupt

    def never(*_: object) -> list[StudyTable]:
        raise AssertionError("a finished step was made again")

    names = list(QUICK)
    cut = names.index("lambda")
    with pytest.raises(KeyboardInterrupt):
        conduct(material(), tmp_path, {**QUICK, "lambda": interrupted})
    assert not (tmp_path / "results.json").exists()
    kept = {path.stem for path in (tmp_path / "steps").glob("*.json")} - {"study"}
    assert kept == set(names[:cut])
    quick = {name: never if i < cut else QUICK[name] for i, name in enumerate(names) if i <= cut + 1}
    found = conduct(material(), tmp_path, quick)
    for name in ("methods", "differences", "lambda", "levels"):
        assert found.table(name) == done.study.table(name)


def test_a_day_stands_beside(tmp_path: Path) -> None:
    """Its tables are in the study, its claims in the study's; steps made without it are not continued."""
    tables = studies.table("claims", ["claim"], [("x",)]), studies.table("load", ["load"], [(1.0,)])
    day = replace_struct(studies.study(), tables=tables)
    few = {name: QUICK[name] for name in ("items", "latency")}
    found = conduct(replace(material(), day=day), tmp_path, few)
    assert found.tables[-1] == day.table("load")
    assert "claims" not in {one.name for one in found.tables}
    with pytest.raises(ConfigError, match=r"\(day differs\)"):
        conduct(material(), tmp_path, few)


def test_another_study_is_refused(done: Conducted) -> None:
    """Steps of another seed in the same folder are not mixed in."""
    with pytest.raises(ConfigError, match=r"another study \(seed differs\)"):
        conduct(material(seed=1), done.out, QUICK)


def test_a_study_is_not_continued_elsewhere(done: Conducted, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of another engine, device, machine or version of the code are not mixed in."""
    with pytest.raises(ConfigError, match=r"\(runs_on differs\)"):
        conduct(replace(material(), runs_on="transformers, device cuda"), done.out, QUICK)
    there = replace_struct(read_environment(), devices=("a GPU",))
    for name, changed, told in (("read_environment", lambda: there, "machine"), ("__version__", "0", "code")):
        with monkeypatch.context() as patch:
            patch.setattr(run, name, changed)
            with pytest.raises(ConfigError, match=rf"\({told} differs\)"):
                conduct(material(), done.out, QUICK)


def test_a_study_too_small_to_cross_validate_is_refused(tmp_path: Path) -> None:
    """At the border and before anything is made, with what to do about it."""
    told = material()
    part = replace(told.test[0], traces=told.test[0].traces[: LEAST - 1])
    with pytest.raises(ConfigError, match="larger --limit"):
        conduct(replace(told, test=(part,)), tmp_path, QUICK)
    assert not (tmp_path / "steps").exists()
