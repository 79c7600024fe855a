"""Every method of the comparison: what it may see, what it learns, and that the cascade plays it alike."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from asd.cascade import Cascade
from asd.engines.replay import ReplayEngine
from asd.errors import ConfigError
from asd.research.folds import deal, evenly
from asd.research.offline import curves
from asd.research.offline.binned import BinnedInduction
from asd.research.offline.curves import LOSSES, Curve, cost_shares, cross_validate, cross_validate_all, sweep
from asd.research.offline.lists import Lists
from asd.research.offline.logistic import fit_folds, fit_many, sigmoid
from asd.research.offline.policies import STOPS, Method, Sight, as_traces, play, prices_of
from asd.research.offline.routing import Foresight, PromptRouter, SingleStage
from asd.research.offline.selection import (
    Always,
    Best,
    CrossValidation,
    FittedBest,
    MixtureShare,
    SelectedMix,
    deliver,
    reference_stage,
)
from asd.research.offline.signals import Signals
from asd.research.offline.stopping import Stopping
from asd.research.recordings.recording import Recording, read_recording
from asd.stopping.hull import Hull
from asd.types import STOP, Action, Decision, Drafts, Query
from tests.recordings import STAGES, recording, records

METHODS: tuple[Method, ...] = (
    SingleStage(),
    PromptRouter("ridge"),
    PromptRouter("neighbours"),
    BinnedInduction(),
    Lists(),
    Lists(words=True, name="lists by words"),
    Lists(words=True, n_draws=15, name="lists by words and vote"),
    Stopping(),
    Stopping(words=True, name="words"),
    Stopping(depth=3, isotonic=False, prune=True, words=True, name="deeper"),
    Best((Lists(), Stopping())),
)
LAMS = (0.3, 2.0, 20.0)


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return recording(tmp_path_factory.mktemp("study") / "train.jsonl", records(150, seed=1))


@pytest.fixture(scope="module")
def test(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return recording(tmp_path_factory.mktemp("study") / "test.jsonl", records(60, seed=2))


@dataclass(frozen=True)
class RecordedPolicy:
    """A fitted method at one lam before the recorded queries, seeing only stages that have answered."""

    sight: Sight
    rows: Mapping[tuple[str, str], int]
    lam: float
    name: str = "played"

    def decide(self, query: Query, drafts: Drafts, _verification: object = None) -> Decision:
        bought = tuple(sorted(STAGES.index(stage) for stage in drafts))
        row = np.array([self.rows[query.dataset, query.id]])
        [action], [answer] = self.sight.choose(self.lam, bought, row)
        answered = STAGES[answer] if bought else None
        return Decision(STOP if action == STOPS else Action.draft(STAGES[action]), answered)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_cascade_plays_what_was_worked_out(method: Method, train: Recording, test: Recording) -> None:
    """Replay engines behind the cascade return the same answers at the same cost, query by query."""
    sight = method.fit(train).on(test)
    rows = {key: i for i, key in enumerate(test.keys)}
    traces = as_traces(test)
    for lam in LAMS:
        played = play(sight, test, lam)
        engines = {stage: ReplayEngine(stage, traces) for stage in STAGES}
        done = Cascade(engines, RecordedPolicy(sight, rows, lam), prices_of(test)).run(
            [trace.query for trace in traces]
        )
        assert [STAGES.index(completion.stage) for completion in done] == played.answer.tolist()
        assert [completion.cost for completion in done] == pytest.approx(played.cost.tolist())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_only_what_was_bought_is_seen(method: Method, train: Recording, test: Recording) -> None:
    """Scores, and answers of stages that are not called, may be anything: the choices stay the same."""
    fitted = method.fit(train)
    played = play(fitted.on(test), test, 2.0)
    rng = np.random.default_rng(0)
    hidden = ~played.called
    both = hidden[:, :, None] | hidden[:, None, :]
    other = replace(
        test,
        scores=rng.random(test.scores.shape),
        costs=rng.random(test.costs.shape),
        confidence=np.where(hidden, -rng.random(hidden.shape) * 9, test.confidence),
        texts=np.where(hidden, "anything", test.texts),
        words=np.where(hidden, 1.0, test.words),
        agreement=np.where(both, rng.random(both.shape), test.agreement),
    )
    again = play(fitted.on(other), other, 2.0)
    assert again.answer.tolist() == played.answer.tolist()
    assert (again.called == played.called).all()


def test_foresight_is_the_best_single_stage_of_every_row(train: Recording, test: Recording) -> None:
    """The oracle's value is the row-wise maximum of lam * score - cost."""
    unit = train.costs.mean(axis=0).max()
    curve = sweep(Foresight().fit(train), test, LAMS)
    for lam, values in zip(LAMS, curve.values(unit), strict=True):
        assert values.tolist() == pytest.approx((lam * test.scores - test.costs / unit).max(axis=1).tolist())


def test_answer_aware_methods_beat_blind_mixing(train: Recording, test: Recording) -> None:
    """On rows whose confidence tells, every one that reads it is worth more on held-out rows."""
    unit = train.costs.mean(axis=0).max()

    def worth(method: Method) -> float:
        return float(sweep(method.fit(train), test, LAMS).values(unit).mean())

    blind = worth(SingleStage())
    for method in METHODS[3:]:
        assert worth(method) > blind + 0.05


def test_lists_count_what_they_promise(train: Recording) -> None:
    """The candidate's counted quality and cost are those of playing it on the rows it was counted on."""
    train = replace(train, confidence=np.round(train.confidence))  # equal ones go the same way
    fitted = Lists().fit(train)
    for lam in LAMS:
        played = play(fitted.on(train), train, lam)
        best = (lam * fitted.table.quality - fitted.table.cost).argmax()
        assert played.quality.mean() == pytest.approx(fitted.table.quality[best, 0])
        assert played.cost.mean() / fitted.signals.unit == pytest.approx(fitted.table.cost[best, 0])


def test_every_draw_counts_its_own_rows(train: Recording) -> None:
    """A list's quality and cost in a draw are those of playing it on the rows drawn, repeats and all."""
    fitted = Lists(n_draws=3).fit(train)
    table, numbers = fitted.table, fitted.signals.signals(train)
    drawn = np.random.default_rng(0).multinomial(150, np.full(150, 1 / 150), size=3)
    for c in range(0, len(table.first), 7):
        i, j = int(table.first[c]), int(table.second[c])
        goes_on = numbers[:, i] < table.threshold[c]
        quality = np.where(goes_on, train.scores[:, j], train.scores[:, i])
        cost = (train.costs[:, i] + np.where(goes_on, train.costs[:, j], 0.0)) / fitted.signals.unit
        assert table.quality[c] == pytest.approx(drawn @ quality / 150)
        assert table.cost[c] == pytest.approx(drawn @ cost / 150)


def test_lists_vote(train: Recording, test: Recording) -> None:
    """Most draws' first model is called; of those draws, most decide whether to go on, and to which."""
    fitted = Lists(n_draws=9).fit(train)
    table, sight = fitted.table, fitted.on(test)
    numbers = fitted.signals.signals(test)
    mixed = 0
    for lam in (*LAMS, 5.0):
        values = lam * table.quality - table.cost
        picks = [
            (int(table.first[c]), int(table.second[c]), table.threshold[c]) for c in values.argmax(axis=0)
        ]
        firsts = [i for i, _, _ in picks]
        first = max(sorted(set(firsts)), key=firsts.count)
        assert (sight.choose(lam, (), np.arange(60)).action == first).all()
        mine = [(j, t) for i, j, t in picks if i == first]
        choice = sight.choose(lam, (first,), np.arange(60))
        for row in range(60):
            onward = [j for j, t in mine if numbers[row, first] < t]
            mixed += 0 < len(onward) < len(mine)
            going = 2 * len(onward) > len(mine)
            assert choice.action[row] == (max(sorted(set(onward)), key=onward.count) if going else -1)
    assert mixed


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS[4:], ids=lambda method: method.name)
def test_a_worthless_rung_is_skipped(method: Method, tmp_path: Path) -> None:
    """A stage as dear as a better one, whose confidence says nothing, is hardly called at any lam."""
    names = ("worthless", *STAGES)
    rows = records(
        600,
        3,
        stages=names,
        quality=(0.4, 0.6, 0.75, 0.9),
        cost=(1.0, 1.0, 3.0, 10.0),
        sharpness=(0, 3, 3, 3),
    )
    outcomes = recording(tmp_path / "rows.jsonl", rows, names)
    curve = cross_validate(method, outcomes, LAMS)
    assert curve.called[:, :, 0].mean() < 0.02


@pytest.mark.skipif("ASD_DATA" not in os.environ, reason="the made-up worthless rung covers the same code")
@pytest.mark.parametrize("method", [Lists(), Stopping()])
@pytest.mark.parametrize("dataset", ["triviaqa", "truthfulqa"])
def test_the_smallest_recorded_llama_is_skipped(method: Method, dataset: str) -> None:
    """It costs what the 3B model costs and its confidence says little."""
    names = ("llama3.2-1b", "llama3.2-3b", "llama3.1-8b", "llama3.1-70b", "llama3.1-405b")
    path = Path(os.environ["ASD_DATA"]) / "traces" / f"ladder_{dataset}.jsonl.gz"
    curve = cross_validate(method, read_recording([path], names), (2.0, 5.0, 20.0))
    assert curve.called[:, :, 0].mean() < 0.05


def delivered(fitted: FittedBest, asked: SelectedMix, rows: Recording) -> Curve:
    """What was picked, played."""
    return deliver(asked, sweep(fitted, rows, asked.lams or LAMS), rows, fitted.contest.reference)


def test_a_ladder_that_does_not_pay_is_the_best_stage_alone(tmp_path: Path) -> None:
    """Where the best stage is the cheapest, asking for no loss returns it for every query."""
    rows = recording(tmp_path / "rows.jsonl", records(200, 4, quality=(0.9, 0.6, 0.6)))
    fitted = Best((Lists(), Stopping())).fit(rows)
    assert rows.stages[fitted.contest.reference] == "small"
    asked = fitted.contest.ask(0.0)
    assert [setting.lam for setting in asked.settings] == [None]
    assert asked.expected_loss == 0.0
    curve = delivered(fitted, asked, rows)
    assert curve.called.sum(axis=(0, 1)).tolist() == [200, 0, 0]


def test_the_first_member_stays_unless_another_is_surely_better(tmp_path: Path) -> None:
    """A method that is worth a little more by luck replaces nothing; one that is worth much more does."""
    rows = recording(tmp_path / "rows.jsonl", records(400, 5))
    assert Best((Always(2, "dearest"), Lists())).compete(rows).name == "lists of two"
    alike = Best((Lists(name="these"), Lists(n_steps=49, name="those")))
    reverse = Best(alike.members[::-1])
    assert (alike.compete(rows).name, reverse.compete(rows).name) == ("these", "those")


def test_what_is_asked_is_picked_with_a_margin(tmp_path: Path) -> None:
    """The setting's out-of-fold loss lies below the asked one, the more so the surer it has to be."""
    rows = recording(tmp_path / "rows.jsonl", records(400, 5))
    fitted = Best((Lists(),)).fit(rows)
    easy, sure = (fitted.contest.ask(0.05, confidence) for confidence in (0.5, 0.95))
    assert any(setting.lam is not None for setting in easy.settings)
    assert easy.expected_loss == pytest.approx(0.05)
    assert sure.expected_loss < 0.05 - 0.005
    cheap, dear = (delivered(fitted, asked, rows).cost.mean() for asked in (easy, sure))
    assert cheap < dear


def by_hand(rows: Recording, losses: list[float], costs: list[float], sd: float) -> CrossValidation:
    """Settings 1, 2, ... that lose so much against the reference, with this spread over rows."""
    n = len(rows)
    noise = np.tile([-1.0, 1.0], n // 2)
    noise = sd * noise / noise.std(ddof=1)
    quality = np.stack([rows.scores[:, reference_stage(rows)] - loss + noise for loss in losses])
    shape = np.zeros(quality.shape, dtype=np.intp)
    cost = np.broadcast_to(np.array(costs)[:, None], quality.shape)
    curve = Curve(np.arange(1.0, len(losses) + 1), quality, cost, shape, np.zeros((*quality.shape, 3), bool))
    reference = reference_stage(rows)
    alone = rows.scores[:, reference], float(rows.costs[:, reference].mean())
    curve = Curve(np.arange(1.0, len(losses) + 1), quality, cost, shape, np.zeros((*quality.shape, 3), bool))
    return CrossValidation(0, "by hand", curve, reference, *alone)


def test_the_margin_is_that_of_the_normal_quantile(train: Recording) -> None:
    """A setting that loses 2 points, sd 10 points over 100 rows, passes 3 points at 84 % and not at 85 %."""
    fitted = by_hand(train.take(np.arange(100)), [0.02], [0.0], sd=0.1)
    asked = fitted.ask(0.03, confidence=0.84)
    assert asked.settings == (MixtureShare(1.0, 1.0),)
    assert asked.expected_loss == pytest.approx(0.02)
    assert fitted.ask(0.03, confidence=0.85).settings[0].share < 1.0


def test_a_loss_between_two_settings_is_a_mix_of_them(train: Recording) -> None:
    """Settings that lose 6 and 2 points, and a sagging one between: 3 points are a quarter and three."""
    fitted = by_hand(train.take(np.arange(100)), [0.06, 0.05, 0.02], [0.1, 0.2, 0.25], sd=0.0)
    asked = fitted.ask(0.03)
    assert [setting.lam for setting in asked.settings] == [1.0, 3.0]
    assert [setting.share for setting in asked.settings] == pytest.approx([0.25, 0.75])
    assert asked.expected_loss == pytest.approx(0.03)
    with_reference = fitted.ask(0.01)
    assert [setting.lam for setting in with_reference.settings] == [3.0, None]
    assert fitted.ask(0.5).settings == (MixtureShare(1.0, 1.0),)
    with pytest.raises(ConfigError, match=r"-0\.1"):
        fitted.ask(-0.1)


def test_a_mix_is_dealt_by_the_name_of_the_query(train: Recording) -> None:
    """About its share of the rows get each setting, the same ones whatever stands beside them."""
    fitted = Best((Lists(),)).fit(train)
    mixed = SelectedMix(0.0, (MixtureShare(0.05, 0.3), MixtureShare(None, 0.7)), 0.0)
    cheap, dear = (
        delivered(fitted, SelectedMix(0.0, (MixtureShare(lam, 1.0),), 0.0), train) for lam in (0.05, None)
    )
    curve = delivered(fitted, mixed, train)
    is_cheap = curve.cost[0] == cheap.cost[0]
    assert (np.where(is_cheap, cheap.quality[0], dear.quality[0]) == curve.quality[0]).all()
    assert is_cheap.mean() == pytest.approx(0.3, abs=0.1)
    back = delivered(fitted, mixed, train.take(np.arange(len(train))[::-1]))
    assert (back.cost[0][::-1] == curve.cost[0]).all()
    assert (back.called[0][::-1] == curve.called[0]).all()


def test_words_of_prompt_and_answer_are_evidence(tmp_path: Path) -> None:
    """Where confidences say nothing and answers give themselves away, only reading them pays."""
    rows = records(300, 6, sharpness=0.0)
    for row in rows:
        for output in row["outputs"].values():
            output["response"] = "certainly paris" if output["score"] else "it depends on context"
    outcomes = recording(tmp_path / "rows.jsonl", rows)
    deaf, reading = (cross_validate(Stopping(words=words), outcomes, (5.0,)) for words in (False, True))
    unit = float(outcomes.costs.mean(axis=0).max())
    assert reading.values(unit).mean() > deaf.values(unit).mean() + 0.2


def test_agreement_is_evidence_of_the_pair_bought(train: Recording) -> None:
    """Beside the two signals stands how much more than usual the two answers agree."""
    signals = Signals.fit(train)
    numbers = signals.signals(train)
    x = signals.features(train, numbers, (0, 2))
    agree = train.agreement[:, 0, 2]
    assert x[:, 0].tolist() == numbers[:, 0].tolist()
    assert x[:, 2] == pytest.approx(2 * (agree - agree.mean()))
    assert x[:, 3].tolist() == [1.0] * len(train)


def test_cross_validation_fits_on_other_rows(train: Recording) -> None:
    """No row is played by a method that was fitted on it."""
    seen: list[frozenset[tuple[str, str]]] = []

    class Spy:
        name = "spy"

        def fit(self, rows: Recording) -> Spy:
            seen.append(frozenset(rows.keys))
            return self

        def on(self, rows: Recording) -> Always:
            assert not seen[-1] & set(rows.keys)
            return Always(0)

    curve = cross_validate(Spy(), train, LAMS)
    assert curve.quality[0].tolist() == train.scores[:, 0].tolist()
    assert len(seen) == 5


@pytest.mark.slow
def test_methods_cross_validated_together_are_so_alone(train: Recording) -> None:
    """Sharing what they learn alike changes nothing."""
    methods = (Lists(), Stopping(words=True), Stopping(depth=1, words=True))
    for method, together in zip(methods, cross_validate_all(methods, train, LAMS), strict=True):
        alone = cross_validate(method, train, LAMS)
        assert (together.answer == alone.answer).all()
        np.testing.assert_array_equal(together.cost, alone.cost)


def test_reference_is_the_best_and_of_equals_the_cheapest(train: Recording) -> None:
    """Quality decides first, cost second."""
    assert train.stages[reference_stage(train)] == "large"
    same = replace(train, scores=np.ones_like(train.scores))
    assert same.stages[reference_stage(same)] == "small"


def test_many_logistic_fits_equal_scikit_learn() -> None:
    """Same weights as one penalised fit at a time, on all rows and without each fold."""
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=(80, 3)), np.ones(80)])
    y = (rng.random((80, 2)) < 0.4).astype(float)
    folds = np.arange(80) % 4
    everything, *without = fit_folds(x, y, folds, strength=2.0)
    assert everything.tolist() == fit_many(x, y, strength=2.0).tolist()
    for fold, weights in ((-1, everything), *enumerate(without)):
        rows = folds != fold
        for t in range(2):
            # scikit-learn does not penalise its constant at all, ours next to nothing.
            model = LogisticRegression(C=0.5, tol=1e-8, max_iter=1000).fit(x[rows, :3], y[rows, t])
            assert weights[:3, t] == pytest.approx(model.coef_[0], abs=2e-3)
            assert weights[3, t] == pytest.approx(model.intercept_[0], abs=2e-3)


@pytest.mark.parametrize("seed", range(40))
def test_logistic_fits_end_at_the_optimum(seed: int) -> None:
    """The slope of the penalised loss is zero, also where classes are all but told apart, or missing."""
    rng = np.random.default_rng(seed)
    n, scale, sharp = int(rng.integers(5, 400)), rng.choice([0.1, 1.0, 10.0]), rng.choice([0.0, 5.0, 50.0])
    x = np.column_stack([scale * rng.normal(size=(n, 4)), np.ones(n)])
    y = (rng.random((n, 6)) < sigmoid(sharp * x[:, [0]] + 3.0 * rng.normal(size=6))).astype(float)
    weights = fit_many(x, y, strength=0.5)
    penalty = np.array([0.5] * 4 + [0.01])[:, None]
    assert np.abs(x.T @ (sigmoid(x @ weights) - y) + penalty * weights).max() < 1e-6


def test_many_rows_are_played_in_blocks(
    train: Recording, test: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many at once, every row is played alike."""
    fitted = Stopping(words=True).fit(train)
    at_once = sweep(fitted, test, LAMS)
    monkeypatch.setattr(curves, "_BLOCK", 7)
    for whole, blocks in zip(at_once, sweep(fitted, test, LAMS), strict=True):
        np.testing.assert_array_equal(whole, blocks)


def test_members_compete_on_so_many_rows_and_the_winner_learns_from_all(train: Recording) -> None:
    """Evenly spaced ones."""
    seen: list[int] = []

    class Spy:
        name = "spy"

        def fit(self, rows: Recording) -> Always:
            seen.append(len(rows))
            return Always(0)

    fitted = Best((Spy(),), n_folds=5, most_rows=50).fit(train)
    assert seen == [40] * 5 + [150]
    reference = fitted.contest.reference
    assert fitted.contest.quality.tolist() == train.scores[evenly(150, 50), reference].tolist()


def test_cost_shares_are_read_off_the_hull_of_every_draw(
    train: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand for the rows as they are; however many are drawn at once, the same draws."""
    curve = cross_validate(Lists(), train, LAMS)
    [shares] = cost_shares(train, [curve])
    hull = Hull([*zip(train.costs.mean(axis=0), train.scores.mean(axis=0), strict=True), *curve.points()])
    best = reference_stage(train)
    quality, cost = train.scores[:, best].mean(), train.costs[:, best].mean()
    assert shares[0] == pytest.approx([hull.cost_at(quality - loss) / cost for loss in LOSSES])
    assert shares.shape == (201, 3)
    assert np.median(shares[1:], axis=0) == pytest.approx(shares[0], abs=0.1)
    monkeypatch.setattr(curves, "_MOST_DRAWN", 150 * 7)
    assert cost_shares(train, [curve])[0] == pytest.approx(shares)


def test_of_stages_as_good_the_cheaper_is_the_best_in_whatever_order_means_were_summed() -> None:
    """A difference of rounding is none; one of a single right answer among a million is one."""
    assert curves.best_stage(np.array([0.5, 0.7, 0.7 + 2e-16]), np.array([1.0, 3.0, 10.0])) == 1
    assert curves.best_stage(np.array([0.5, 0.7, 0.7 + 1e-6]), np.array([1.0, 3.0, 10.0])) == 2


def test_rows_are_dealt_and_taken_evenly() -> None:
    """Folds are as large as each other and not in order; too many rows are thinned from end to end."""
    folds = deal(103, 5)
    assert sorted(np.bincount(folds).tolist()) == [20, 20, 21, 21, 21]
    assert folds.tolist() != sorted(folds.tolist())
    assert deal(103, 5, seed=1).tolist() != folds.tolist()
    assert evenly(5, 9).tolist() == [0, 1, 2, 3, 4]
    assert evenly(9, 3).tolist() == [0, 4, 8]
