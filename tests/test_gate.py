"""The gate proves itself: injected regressions of known size, missing and damaged runs, and A against A.

Runs are fabricated at realistic size (`tests/fabricated.py`): 4 datasets x 150 items, 8 lambdas, 3 passes.
"""

from dataclasses import replace
from typing import Literal

import msgspec
import numpy as np
import pytest

from asd.evaluation.statistics import Loss
from asd.measurement.records import Cell, DatasetRecord, Metric, Run
from bench.gate.family import ErrorRates
from bench.gate.judge import RunOptions, judge
from bench.gate.store import Target
from bench.gate.verdicts import Finding, Report, Verdict
from tests.fabricated import (
    DATASETS,
    KEY,
    LAMS,
    N_ITEMS,
    OPTIONS,
    baseline_of,
    change,
    cost_metric,
    fabricate,
    slower,
    speedup_metric,
    with_items,
)

GPU = msgspec.structs.replace(KEY, device="nvidia-h100")
STRICT = replace(OPTIONS, strict=True)


@pytest.fixture(scope="module")
def stored() -> Run:
    return fabricate(np.random.default_rng(0))


def verdict(stored: Run, run: Run, options: RunOptions = OPTIONS, *targets: Target) -> Report:
    return judge(run, baseline_of(stored, *targets), options)


def wrong(share: float, rng: np.random.Generator, *, only: str | None = None):
    """Turns a share of all answers of the adaptive policy from right to wrong."""

    def edit(cell: Cell, metric: Metric) -> Metric:
        if cell.policy != "optimal" or only not in (None, cell.dataset):
            return metric
        items = np.array(metric.items)
        items[rng.choice(np.flatnonzero(items), round(share * len(items)), replace=False)] = 0.0
        return with_items(metric, items)

    return edit


def without(run: Run, gone: str) -> Run:
    return msgspec.structs.replace(run, cells=tuple(cell for cell in run.cells if cell.id != gone))


def test_the_same_run_passes_even_strictly(stored: Run):
    """Nothing changed, so there is nothing to prove."""
    report = verdict(stored, stored, STRICT)
    assert (report.verdict, report.exit_code) == (Verdict.PASS, 0)
    assert {finding.verdict for finding in report.findings} == {Verdict.PASS}


def test_five_per_cent_of_cost_is_a_regression(stored: Run):
    """Every item 5 % dearer."""
    run = change(stored, "cost", "cost", lambda _, m: with_items(m, np.array(m.items) * 1.05))
    report = verdict(stored, run)
    assert (report.verdict, report.exit_code) == (Verdict.REGRESSED, 10)
    assert report.of("cost[tiny-text-optimal-lam=1]", "cost").verdict is Verdict.REGRESSED
    assert report.of("quality[tiny-text-optimal-lam=1]", "quality").verdict is Verdict.PASS


def test_one_per_cent_of_cost_is_tolerated(stored: Run):
    """Below the tolerance, however certain."""
    run = change(stored, "cost", "cost", lambda _, m: with_items(m, np.array(m.items) * 1.01))
    found = verdict(stored, run).of("cost[*-optimal-*]", "cost")
    assert found.verdict is Verdict.PASS
    assert found.loss.estimate == pytest.approx(0.01)


def test_costs_that_only_fall_are_no_regression(stored: Run):
    """Better is not worse."""
    run = change(stored, "cost", "cost", lambda _, m: with_items(m, np.array(m.items) * 0.7))
    assert verdict(stored, run, STRICT).exit_code == 0


@pytest.mark.parametrize("seed", range(5))
def test_three_points_of_quality_are_a_regression(stored: Run, seed: int):
    """Five of 150 answers lost at every lambda of every dataset."""
    run = change(stored, "quality", "quality", wrong(0.03, np.random.default_rng(seed)))
    report = verdict(stored, run)
    assert (report.verdict, report.exit_code) == (Verdict.REGRESSED, 10)
    assert report.of("quality[*-optimal-*]", "quality").verdict is Verdict.REGRESSED


def test_three_points_on_one_dataset_do_not_drown_in_the_others(stored: Run):
    """The pool of the dataset sees what the pool of all datasets averages away."""
    run = change(stored, "quality", "quality", wrong(0.03, np.random.default_rng(0), only="tiny-text"))
    report = verdict(stored, run)
    assert report.of("quality[tiny-text-optimal-*]", "quality").verdict is Verdict.REGRESSED
    assert report.of("quality[tiny-lookup-optimal-lam=1]", "quality").verdict is Verdict.PASS


def test_few_flips_both_ways_are_inconclusive_and_fail_only_strictly(stored: Run):
    """Three answers lost and three won in one cell: no evidence of a loss, none of its absence."""

    def flip(cell: Cell, metric: Metric) -> Metric:
        if cell.id != "quality[tiny-text-S]":
            return metric
        items = np.array(metric.items)
        items[np.r_[np.flatnonzero(items == 1)[:3], np.flatnonzero(items == 0)[:3]]] = [0, 0, 0, 1, 1, 1]
        return with_items(metric, items)

    run = change(stored, "quality", "quality", flip)
    report = verdict(stored, run)
    assert (report.verdict, report.exit_code) == (Verdict.INCONCLUSIVE, 0)
    assert verdict(stored, run, STRICT).exit_code == 13


@pytest.mark.parametrize("seed", range(5))
def test_half_as_slow_again_is_a_regression(seed: int):
    """Calls take 1.5 times as long in a fresh, noisy run."""
    timing = np.random.default_rng(seed)
    stored, fresh = fabricate(timing), fabricate(timing)
    report = verdict(stored, change(fresh, "latency", "speedup", lambda _, m: slower(m, 1.5)))
    assert (report.verdict, report.exit_code) == (Verdict.REGRESSED, 10)
    blamed = {finding.metric for finding in report.findings if finding.verdict is Verdict.REGRESSED}
    assert blamed == {"speedup"}


@pytest.mark.parametrize("policy", ["optimal", "S"])
def test_a_missing_id_is_missing(stored: Run, policy: str):
    """What the baseline has and the options ask for must have been measured."""
    gone = "quality[tiny-text-optimal-lam=2]" if policy == "optimal" else "cost[tiny-text-S]"
    report = verdict(stored, without(stored, gone))
    assert (report.verdict, report.exit_code) == (Verdict.MISSING, 11)
    assert [f.cell for f in report.findings if f.verdict is Verdict.MISSING] == [gone]


@pytest.mark.parametrize(("engine", "exit_code"), [("transformers", 11), ("vllm", 0)])
def test_rivals_are_missed_on_their_own_engine_alone(stored: Run, engine: str, exit_code: int):
    """Another engine has other rivals, or none; nothing else may be missing there."""
    rival = Cell(suite="rivals", policy="own over other", metrics=stored.cells[-1].metrics)
    header = msgspec.structs.replace(
        stored.header, hardware=msgspec.structs.replace(stored.header.hardware, engine=engine)
    )
    run = msgspec.structs.replace(stored, header=header)
    timed = msgspec.structs.replace(stored, cells=(*stored.cells, rival))
    assert verdict(timed, run).exit_code == exit_code
    gone = without(run, "quality[tiny-text-optimal-lam=2]")
    assert verdict(timed, gone).exit_code == 11


def test_a_renamed_id_is_missing_and_new(stored: Run):
    """A rename cannot smuggle a regression past the comparison."""

    def renamed(cell: Cell) -> Cell:
        return msgspec.structs.replace(cell, policy="best") if cell.policy == "optimal" else cell

    run = msgspec.structs.replace(stored, cells=tuple(map(renamed, stored.cells)))
    report = verdict(stored, run)
    assert report.exit_code == 11
    assert report.of("quality[tiny-text-optimal-lam=2]", "quality").verdict is Verdict.MISSING
    assert report.of("quality[tiny-text-best-lam=2]", "quality").verdict is Verdict.NEW


def test_a_vanished_metric_is_missing(stored: Run):
    """A cell that lost its only metric is as gone as the cell."""
    cells = tuple(
        msgspec.structs.replace(cell, metrics=()) if cell.suite == "overhead" else cell
        for cell in stored.cells
    )
    report = verdict(stored, msgspec.structs.replace(stored, cells=cells))
    assert [(f.cell, f.metric) for f in report.findings if f.verdict is Verdict.MISSING] == [
        ("overhead[optimal]", "decision_s")
    ]


def test_a_skipped_suite_is_missing(stored: Run):
    """pytest is green when everything is skipped; the gate is not."""
    cells = tuple(cell for cell in stored.cells if cell.suite != "latency")
    assert verdict(stored, msgspec.structs.replace(stored, cells=cells)).exit_code == 11
    assert verdict(stored, msgspec.structs.replace(stored, cells=())).exit_code == 11


def test_selecting_by_hand_is_partial_not_missing(stored: Run):
    """With -k or one file only what was measured is judged, and the run says so."""
    cells = tuple(cell for cell in stored.cells if cell.suite == "quality")
    run = msgspec.structs.replace(stored, cells=cells)
    report = verdict(stored, run, replace(OPTIONS, partial="-k quality"))
    assert (report.verdict, report.exit_code) == (Verdict.PARTIAL, 0)
    assert verdict(stored, run, replace(STRICT, partial="-k quality")).exit_code == 13


def test_options_that_ask_for_less_owe_less(stored: Run):
    """Fewer lambdas or datasets on request are not missing; what sums up the whole sweep cannot be judged."""
    kept = tuple(c for c in stored.cells if c.lam in (None, 1.0) and c.dataset in (None, "tiny-text"))
    datasets = tuple(d for d in stored.datasets if d.name == "tiny-text")
    run = msgspec.structs.replace(stored, cells=kept, datasets=datasets)
    report = verdict(stored, run, replace(OPTIONS, lams=(1.0,), datasets=("tiny-text",)))
    verdicts = {finding.cell: finding.verdict for finding in report.findings}
    assert verdicts.pop("overhead[optimal]") is Verdict.CANNOT_JUDGE
    assert set(verdicts.values()) == {Verdict.PASS}


def limited(run: Run, n_items: int) -> Run:
    """The run as --limit would have made it."""

    def cut(cell: Cell) -> Cell:
        metrics = tuple(with_items(m, np.array(m.items[:n_items])) if m.items else m for m in cell.metrics)
        return msgspec.structs.replace(cell, metrics=metrics)

    datasets = tuple(
        DatasetRecord(name=d.name, items=d.items[:n_items], digests=d.digests[:n_items]) for d in run.datasets
    )
    return msgspec.structs.replace(run, datasets=datasets, cells=tuple(map(cut, run.cells)))


def test_limit_compares_the_items_both_have(stored: Run):
    """A smaller run is judged on its items; times of other items are not compared."""
    report = verdict(stored, limited(stored, 40), replace(OPTIONS, limited=True))
    assert report.of("quality[tiny-text-optimal-lam=1]", "quality").verdict is Verdict.PASS
    assert report.of("latency[tiny-text-optimal-lam=1]", "speedup").verdict is Verdict.CANNOT_JUDGE
    worse = change(stored, "cost", "cost", lambda _, m: with_items(m, np.array(m.items) * 1.05))
    assert verdict(stored, limited(worse, 40), replace(OPTIONS, limited=True)).exit_code == 10


def test_what_did_not_happen_on_fewer_items_is_not_missing(stored: Run):
    """A policy that verifies nothing on a few items counts no verified tokens; on all it would be missed."""
    verified = Metric(
        name="verified_tokens", unit="tokens", kind="count", direction="lower", provenance="replayed",
        value=1.0, tolerance=0.02,
    )  # fmt: skip
    cells = [
        msgspec.structs.replace(cell, metrics=(*cell.metrics, verified)) if cell.suite == "cost" else cell
        for cell in stored.cells
    ]
    more, few = msgspec.structs.replace(stored, cells=tuple(cells)), replace(OPTIONS, limited=True)
    where = "cost[tiny-text-optimal-lam=1]", "verified_tokens"
    assert verdict(more, limited(stored, 40), few).of(*where).verdict is Verdict.CANNOT_JUDGE
    assert verdict(more, stored).of(*where).verdict is Verdict.MISSING
    whole_suite = msgspec.structs.replace(
        stored, cells=tuple(cell for cell in stored.cells if cell.suite != "cost")
    )
    assert verdict(more, whole_suite, few).of(*where).verdict is Verdict.MISSING


def test_times_of_other_numbers_of_units_are_not_compared(stored: Run):
    """The advice is not to record again: nothing was redefined, less was timed."""
    fewer = change(
        stored, "latency", "speedup",
        lambda _, m: msgspec.structs.replace(
            m, samples=tuple(s[:5] for s in m.samples), reference=tuple(s[:5] for s in m.reference)
        ),
    )  # fmt: skip
    found = verdict(stored, fewer).of("latency[tiny-text-optimal-lam=1]", "speedup")
    assert found.verdict is Verdict.CANNOT_JUDGE
    assert found.note == "5 units were timed, of the baseline's 20"


def of_few_units(run: Run, factor: float = 1.0) -> Run:
    """As at a large batch: two units of every data set."""
    return change(
        run, "latency", "speedup",
        lambda _, m: slower(
            msgspec.structs.replace(
                m, samples=tuple(s[:2] for s in m.samples), reference=tuple(s[:2] for s in m.reference)
            ),
            factor,
        ),
    )  # fmt: skip


def test_times_of_few_units_are_judged_over_all_datasets():
    """Two units of a data set tell nothing, eight of four do; their cells take that verdict."""
    timing = np.random.default_rng(0)
    stored, fresh = of_few_units(fabricate(timing)), of_few_units(fabricate(timing), 4.0)
    report = verdict(stored, fresh)
    assert report.of("latency[tiny-text-optimal-*]", "speedup") is None
    assert report.of("latency[*-optimal-*]", "speedup").verdict is Verdict.REGRESSED
    assert report.of("latency[tiny-text-optimal-lam=1]", "speedup").verdict is Verdict.REGRESSED


def test_a_tail_percentile_of_too_few_items_is_not_missing(stored: Run):
    """P95 needs 59 items: of fewer it cannot be judged, of enough it is missed."""
    p95 = Metric(
        name="p95_s", unit="s", kind="summary", direction="lower", provenance="measured",
        value=1.0, tolerance=0.0, needs=59,
    )  # fmt: skip

    def with_tail(n_units: int, *more: Metric) -> Run:
        seconds = np.ones((3, n_units))
        metrics = (speedup_metric(seconds, seconds), *more)
        return with_cell(stored, Cell(suite="tail", policy="L", metrics=metrics))

    timed = with_tail(80, p95)
    found = verdict(timed, with_tail(8)).of("tail[L]", "p95_s")
    assert found.verdict is Verdict.CANNOT_JUDGE
    assert found.note == "needs 59 items, and 8 were timed"
    assert verdict(timed, with_tail(80)).of("tail[L]", "p95_s").verdict is Verdict.MISSING
    assert verdict(timed, stored).of("tail[L]", "p95_s").verdict is Verdict.MISSING


def test_elsewhere_only_quality_and_priced_cost_block(stored: Run):
    """On other hardware a time says nothing, a wrong answer still does."""
    elsewhere = fabricate(np.random.default_rng(7), hardware=GPU)
    report = verdict(stored, elsewhere)
    assert report.of("latency[tiny-text-optimal-lam=1]", "speedup").verdict is Verdict.CANNOT_JUDGE
    assert report.of("quality[tiny-text-optimal-lam=1]", "quality").verdict is Verdict.PASS
    assert (report.exit_code, verdict(stored, elsewhere, STRICT).exit_code) == (0, 12)
    worse = change(elsewhere, "cost", "cost", lambda _, m: with_items(m, np.array(m.items) * 1.05))
    assert verdict(stored, worse).exit_code == 10


def count(value: float, direction: str = "same") -> Cell:
    metric = Metric(
        name="share_L", unit="share", kind="count", direction=direction, provenance="replayed",
        value=value, tolerance=0.05,
    )  # fmt: skip
    return Cell(suite="mix", dataset="tiny-text", policy="optimal", lam=1.0, metrics=(metric,))


def with_cell(run: Run, cell: Cell) -> Run:
    return msgspec.structs.replace(run, cells=(*run.cells, cell))


@pytest.mark.parametrize("share", [0.2, 0.4])
def test_counts_block_where_arithmetic_is_the_same(stored: Run, share: float):
    """The stage mix must not move either way; another batch is fine, another device kind unknown."""
    old, new = with_cell(stored, count(0.3)), with_cell(stored, count(share))
    assert verdict(old, new).exit_code == 10
    assert verdict(old, with_cell(stored, count(0.33))).exit_code == 0
    batched = msgspec.structs.replace(KEY, batch=16)
    for key, expected in ((batched, Verdict.REGRESSED), (GPU, Verdict.CANNOT_JUDGE)):
        moved = msgspec.structs.replace(new, header=msgspec.structs.replace(new.header, hardware=key))
        assert verdict(old, moved).of(count(share).id, "share_L").verdict is expected


def test_a_redefined_metric_cannot_be_judged(stored: Run):
    """Another unit or direction makes the stored number meaningless."""
    run = with_cell(stored, count(0.3, "lower"))
    report = verdict(with_cell(stored, count(0.3)), run)
    assert report.of(count(0.3).id, "share_L").verdict is Verdict.CANNOT_JUDGE


def test_items_that_ask_something_else_cannot_be_judged(stored: Run):
    """Pairing by id is only sound while the id asks the same."""
    changed = tuple(msgspec.structs.replace(d, digests=("e",) * N_ITEMS) for d in stored.datasets)
    report = verdict(stored, msgspec.structs.replace(stored, datasets=changed))
    assert report.of("quality[tiny-text-optimal-lam=1]", "quality").verdict is Verdict.CANNOT_JUDGE
    assert not any(finding.metric == "retreat" for finding in report.findings)


def test_a_run_without_a_baseline_cannot_be_judged(stored: Run):
    """No baseline is no pass; the report says how to record one."""
    report = judge(stored, None, OPTIONS)
    assert (report.verdict, report.exit_code) == (Verdict.CANNOT_JUDGE, 0)
    assert "--record-baseline" in report.findings[0].note
    assert judge(stored, None, STRICT).exit_code == 12


QUALITY = "quality[tiny-text-optimal-lam=50]"
SPEEDUP = "latency[tiny-text-optimal-lam=50]"


@pytest.mark.parametrize(
    ("target", "hardware", "expected"),
    [
        (Target(cell=QUALITY, metric="quality", least=0.99), KEY, 10),
        (Target(cell=QUALITY, metric="quality", least=0.5), KEY, 0),
        (Target(cell=QUALITY, metric="quality", most=0.5), KEY, 10),
        (Target(cell=SPEEDUP, metric="speedup", least=50), GPU, 10),
        (Target(cell=SPEEDUP, metric="speedup", least=50, hardware=GPU.slug), KEY, 0),
        (Target(cell=SPEEDUP, metric="speedup", least=50, hardware=KEY.slug), KEY, 10),
        (Target(cell="latency[nobody]", metric="speedup", least=1), KEY, 11),
    ],
)
def test_targets_are_absolute(target: Target, hardware: object, expected: int):
    """Floors of ratios hold anywhere, keyed targets on their key; a target on nothing is MISSING."""
    stored, run = fabricate(np.random.default_rng(0)), fabricate(np.random.default_rng(0), hardware=hardware)
    report = judge(run, baseline_of(stored, target), OPTIONS)
    assert report.exit_code == expected
    assert (report.verdict is Verdict.BELOW_TARGET) == (expected == 10)


@pytest.mark.parametrize(
    ("kind", "interval", "expected"),
    [
        ("time", (0.80, 0.90), Verdict.BELOW_TARGET),
        ("time", (0.80, 0.92), Verdict.INCONCLUSIVE),
        ("time", (1.30, 1.40), Verdict.INCONCLUSIVE),
        ("time", (1.33, 1.40), Verdict.BELOW_TARGET),
        ("time", (1.01, 1.19), Verdict.PASS),
        ("summary", (0.80, 0.99), Verdict.BELOW_TARGET),
        ("summary", (1.21, 1.40), Verdict.BELOW_TARGET),
    ],
)
def test_a_time_misses_its_target_by_more_than_two_runs_differ(
    kind: Literal["time", "summary"], interval: tuple[float, float], expected: Verdict
):
    """Between 1 and 1.2; a tenth beyond the interval may be the state of the machine, for times alone."""
    metric = Metric(
        name="speedup", unit="x", kind=kind, direction="higher", provenance="measured",
        value=sum(interval) / 2, tolerance=0.0, interval=interval,
    )  # fmt: skip
    assert Target(cell="c", metric="speedup", least=1.0, most=1.2).verdict(metric) is expected


def test_a_target_for_all_datasets_cannot_be_judged_on_a_part(stored: Run):
    """It is neither met nor missed there, whatever the value; on the same items it is."""
    summary = Metric(
        name="relative_quality", unit="of L's", kind="summary", direction="higher", provenance="replayed",
        value=0.9, tolerance=0.0, interval=(0.89, 0.91),
    )  # fmt: skip
    cell = Cell(suite="frontier", policy="optimal@0.95", metrics=(summary,))
    whole = with_cell(stored, cell)
    target = Target(cell=cell.id, metric=summary.name, least=0.95)
    assert verdict(whole, whole, OPTIONS, target).verdict is Verdict.BELOW_TARGET
    part = msgspec.structs.replace(
        whole,
        cells=tuple(c for c in whole.cells if c.dataset in (None, "tiny-text")),
        datasets=tuple(d for d in whole.datasets if d.name == "tiny-text"),
    )
    report = verdict(whole, part, replace(OPTIONS, datasets=("tiny-text",)), target)
    found = report.of(cell.id, summary.name)
    assert (found.verdict, report.exit_code) == (Verdict.CANNOT_JUDGE, 0)
    assert found.note == "a target is for the items that it was stated for"


def test_a_value_that_leaves_a_stored_zero_cannot_be_judged(stored: Run):
    """No share of nothing is a tolerance; one that stays at zero, or gets better, passes."""

    def of(value: float, direction: str = "lower") -> Run:
        return with_cell(stored, count(value, direction))

    assert verdict(of(0.0), of(0.0)).verdict is Verdict.PASS
    assert verdict(of(0.0, "higher"), of(0.5, "higher")).verdict is Verdict.PASS
    found = verdict(of(0.0), of(0.5)).of(count(0.5).id, "share_L")
    assert found.verdict is Verdict.CANNOT_JUDGE
    assert "stored value is 0" in found.note


def with_models(run: Run, revision: str) -> Run:
    """The same run of other weights of L."""
    header = run.header
    ladder = msgspec.structs.replace(header.ladder, models={**header.ladder.models, "L": revision})
    return msgspec.structs.replace(run, header=msgspec.structs.replace(header, ladder=ladder))


def test_a_baseline_pins_the_commits_of_its_models(stored: Run):
    """A repository that moved on the hub cannot be judged; a stage that only one of them has is no matter."""
    moved = verdict(with_models(stored, "aaaa"), with_models(stored, "bbbb"))
    assert moved.exit_code == 0
    [finding] = [f for f in moved.findings if f.verdict is Verdict.CANNOT_JUDGE]
    assert "stage L: the hub has commit bbbb, the baseline is of aaaa" in finding.note
    assert verdict(with_models(stored, "aaaa"), with_models(stored, "bbbb"), STRICT).exit_code == 12
    assert verdict(with_models(stored, "aaaa"), with_models(stored, "aaaa"), STRICT).exit_code == 0


def test_other_weights_of_a_local_model_are_told_and_judged(stored: Run):
    """A model that is trained again is what the gate is there to judge."""
    report = verdict(with_models(stored, "sha256:aaaa"), with_models(stored, "sha256:bbbb"), STRICT)
    assert report.exit_code == 0
    told = "stage L: other weights than the baseline's (sha256:aaaa -> sha256:bbbb)"
    assert report.warnings == (told,)


def test_differences_around_the_runs_are_told(stored: Run):
    """Versions are no part of the key, so they are warned about."""
    surroundings = msgspec.structs.replace(stored.header.environment, packages={"torch": "3.0"}, threads=8)
    header = msgspec.structs.replace(stored.header, environment=surroundings, hardware=GPU)
    warnings = verdict(stored, msgspec.structs.replace(stored, header=header)).warnings
    assert "torch: 2.13.0 -> 3.0" in warnings
    assert "threads: 1 -> 8" in warnings
    assert any(GPU.slug in warning for warning in warnings)


@pytest.mark.parametrize(
    ("verdicts", "code", "strict_code"),
    [
        (["PASS", "NEW"], 0, 0),
        (["PARTIAL"], 0, 13),
        (["INCONCLUSIVE", "PARTIAL"], 0, 13),
        (["CANNOT_JUDGE", "INCONCLUSIVE"], 0, 12),
        (["MISSING", "CANNOT_JUDGE"], 11, 11),
        (["BELOW_TARGET", "MISSING"], 10, 10),
        (["REGRESSED", "BELOW_TARGET"], 10, 10),
    ],
)
def test_the_worst_verdict_decides_the_exit_code(verdicts: list[str], code: int, strict_code: int):
    """Exit codes tell regression, missing, unjudged and inconclusive apart."""
    findings = tuple(Finding("cell", "metric", Verdict(v)) for v in verdicts)
    assert Report(findings, (), strict=False).exit_code == code
    assert Report(findings, (), strict=True).exit_code == strict_code
    assert Report(findings, (), strict=True).verdict is Verdict(
        "PASS" if code == strict_code == 0 else verdicts[0]
    )


def test_a_single_lambda_cannot_slide_behind_the_others(stored: Run):
    """One cell ten points down is 1.2 points in its pool; the frontier names it."""

    def edit(cell: Cell, metric: Metric) -> Metric:
        return wrong(0.2, np.random.default_rng(0))(cell, metric) if cell.id == QUALITY else metric

    report = verdict(stored, change(stored, "quality", "quality", edit))
    found = report.of("frontier[tiny-text-optimal-lam=50]", "retreat")
    assert found.verdict is Verdict.REGRESSED
    assert found.loss.estimate == pytest.approx(0.2, abs=0.02)
    assert report.of("frontier[tiny-text-optimal-lam=1]", "retreat").verdict is not Verdict.REGRESSED


@pytest.mark.slow
def test_a_against_a_hardly_ever_alarms():
    """200 pairs of runs that differ by the noise of their times alone: at most two alarms."""
    alarms = 0
    for seed in range(200):
        timing = np.random.default_rng(seed)
        report = judge(fabricate(timing), baseline_of(fabricate(timing)), OPTIONS)
        alarms += report.exit_code != 0
    assert alarms <= 2


@pytest.mark.slow
def test_a_against_a_with_flipping_answers_hardly_ever_alarms():
    """As between two machines: every answer redrawn with probability 1 %."""
    alarms = 0
    for seed in range(40):
        timing, flips = np.random.default_rng(seed), np.random.default_rng(1000 + seed)
        stored, run = fabricate(timing, flip=flips), fabricate(timing, flip=flips)
        alarms += judge(run, baseline_of(stored), OPTIONS).exit_code != 0
    assert alarms == 0


def test_a_verdict_is_a_function_of_the_two_runs():
    """The same two runs always get the same report."""
    timing = np.random.default_rng(0)
    stored, run = fabricate(timing), fabricate(timing)
    assert verdict(stored, run) == verdict(stored, run)


def test_losses_between_tolerance_and_proof_are_inconclusive():
    """PASS needs an interval below the tolerance, REGRESSED significance and a loss above it."""
    limits = ErrorRates()
    assert limits.verdict(Loss(0.03, 0.02, 0.04, 0.0), 0.0, 0.02, 99) is Verdict.REGRESSED
    assert limits.verdict(Loss(0.03, -0.02, 0.08, 0.2), 0.2, 0.02, 99) is Verdict.INCONCLUSIVE
    assert limits.verdict(Loss(0.03, -0.02, 0.08, 0.2), 0.006, 0.02, 99) is Verdict.INCONCLUSIVE
    assert limits.verdict(Loss(0.03, -0.02, 0.08, 0.2), 0.004, 0.02, 99) is Verdict.REGRESSED
    assert limits.verdict(Loss(0.01, -0.02, 0.04, 0.0), 0.0, 0.02, 99) is Verdict.INCONCLUSIVE
    assert limits.verdict(Loss(0.01, 0.0, 0.02, 0.0), 0.0, 0.02, 99) is Verdict.PASS
    assert limits.verdict(Loss(0.03, -0.02, 0.08, 0.2), 0.2, 0.02, 3) is Verdict.CANNOT_JUDGE


def test_the_fabricated_runs_are_of_realistic_size(stored: Run):
    """What the tests above claim, they claim for runs like the real ones."""
    assert len(stored.datasets) == len(DATASETS) == 4
    assert len([c for c in stored.cells if c.suite == "quality"]) == 4 * (len(LAMS) + 3)
    assert cost_metric(np.ones(3)).kind == "cost"


def test_items_are_paired_by_id_not_by_place(stored: Run):
    """The same answers in another order are the same run."""

    def reversed_items(cell: Cell, metric: Metric) -> Metric:
        return with_items(metric, np.array(metric.items)[::-1])

    run = change(change(stored, "quality", "quality", reversed_items), "cost", "cost", reversed_items)
    datasets = tuple(msgspec.structs.replace(d, items=d.items[::-1]) for d in run.datasets)
    report = verdict(stored, msgspec.structs.replace(run, datasets=datasets))
    assert report.of("quality[tiny-text-optimal-lam=1]", "quality").verdict is Verdict.PASS
    assert report.of("cost[*-optimal-*]", "cost") is None
