"""The fitted evidence: which state a query is in, and what may not influence that."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from asd.errors import ConfigError
from asd.evidence.features import answer_features, prompt_features, state_features, verification_features
from asd.evidence.judge import EvidenceModel, FittedEvidence, best_answer
from asd.evidence.length import LengthScale
from asd.stopping.kernels import Binning
from asd.types import Usage
from tests import worlds

TRACES = worlds.sample(60, np.random.default_rng(11))[0]


def test_the_best_of_equals_is_the_larger_stage() -> None:
    """Same probability: the stage listed later; otherwise the larger probability."""
    assert best_answer({"S": 0.7, "M": 0.7, "L": 0.2}) == "M"
    assert best_answer({"S": 0.8, "M": 0.7}) == "S"


@pytest.mark.slow
def test_root_is_the_nearest_cell_of_prompt_probabilities() -> None:
    """The bin is the centroid at the least Euclidean distance from the vector of calibrated probabilities."""
    model = worlds.fitted().model
    evidence = worlds.fitted().evidence()
    for trace in TRACES:
        row = prompt_features(trace.query.prompt)
        p = np.array([head.p(row) for head in model.prompt.values()])
        state = evidence.judge(trace.query, {})
        assert state.bin == np.linalg.norm(np.array(model.centroids) - p, axis=1).argmin()
        assert (state.node, state.answer, state.p_good, state.scale) == ("root", None, {}, 1.0)
    assert len({evidence.judge(trace.query, {}).bin for trace in TRACES}) > 1


def test_a_node_is_judged_by_its_own_heads_and_bins() -> None:
    """Probability, best answer, bin and scale follow from the model's numbers, recomputed here."""
    model, evidence = worlds.fitted().model, worlds.fitted().evidence()
    for trace in TRACES:
        drafts = worlds.drafts_of(trace)
        row = prompt_features(trace.query.prompt)
        logits = [head.logistic.logit(row) for head in model.prompt.values()]
        answers = {stage: answer_features(draft) for stage, draft in drafts.items()}
        node = model.nodes["S+L"]
        said = {stage: draft.text for stage, draft in drafts.items()}
        want = {s: node.heads[s].p(state_features(s, said, answers, logits)) for s in ("S", "L")}
        state = evidence.judge(trace.query, drafts)
        assert state.p_good == pytest.approx(want)
        assert state.answer == max(("L", "S"), key=state.p_good.__getitem__)
        assert state.bin == Binning(node.edges).index(state.p_good[state.answer])
        assert state.scale == node.scale(Usage(10, len(drafts["L"].tokens), 1))


def test_scale_follows_the_latest_answer() -> None:
    """In a world priced per token, a draft twice as long means a query about twice as dear."""
    evidence = worlds.fitted().evidence()
    trace = TRACES[0]
    draft = trace.outcomes["S"].draft
    short, long = (
        evidence.judge(trace.query, {"S": replace(draft, tokens=(1,) * n, logprobs=(-0.1,) * n)}).scale
        for n in (8, 16)
    )
    assert long / short == pytest.approx(2.0, rel=0.1)


def test_scale_is_read_off_the_largest_answer_in_hand() -> None:
    """Two drafts of different length: that of the larger stage says how long the query is."""
    model = worlds.fitted().model
    node = msgspec.structs.replace(model.nodes["S+L"], scale=LengthScale(bias=-2.0, w_decoded=1.0))
    evidence = FittedEvidence(msgspec.structs.replace(model, nodes={**model.nodes, "S+L": node}))
    drafts = worlds.drafts_of(TRACES[0])
    longer = replace(drafts["L"], tokens=(1,) * 29, logprobs=(-0.1,) * 29)
    state = evidence.judge(TRACES[0].query, {**drafts, "L": longer})
    assert state.scale == pytest.approx(30 * np.exp(-2))


def test_the_order_of_the_calls_does_not_matter() -> None:
    """L before S or S before L: the same state."""
    evidence = worlds.fitted().evidence()
    for trace in TRACES:
        one, other = (evidence.judge(trace.query, worlds.drafts_of(trace, order)) for order in ("SL", "LS"))
        assert one == other


def test_reference_tags_and_names_are_not_read() -> None:
    """What would leak the answer or the dataset changes nothing."""
    evidence = worlds.fitted().evidence()
    for trace in TRACES:
        blind = replace(trace.query, id="?", dataset="?", reference=None, tags={"level": "5"})
        for drafts in ({}, worlds.drafts_of(trace)):
            assert evidence.judge(blind, drafts) == evidence.judge(trace.query, drafts)


READ = worlds.verified(TRACES, np.random.default_rng(12))


def test_a_verified_answer_is_judged_by_the_heads_of_its_node() -> None:
    """What L says of S's tokens joins what S says of them; other answers so far are not judged again."""
    model, evidence = worlds.fitted_verified().model, worlds.fitted_verified().evidence()
    for trace in READ:
        drafts, read = worlds.drafts_of(trace, "S"), trace.verifications["S>L"]
        row = prompt_features(trace.query.prompt)
        logits = [head.logistic.logit(row) for head in model.prompt.values()]
        answers = {"S": answer_features(drafts["S"])}
        said = {"S": drafts["S"].text}
        features = [*state_features("S", said, answers, logits), *verification_features(read)]
        node = model.verified["S>L"]
        state = evidence.judge(trace.query, drafts, read)
        assert (state.node, state.answer) == ("S>L", "S")
        assert state.p_good == pytest.approx({"S": node.heads["S"].p(features)})
        assert state.bin == Binning(node.edges).index(state.p_good["S"])
        assert state.scale == evidence.judge(trace.query, drafts).scale


def test_a_larger_stage_knows_better_whether_an_answer_is_right() -> None:
    """Accepted answers are right in this world, and the probability says so."""
    evidence = worlds.fitted_verified().evidence()
    p = {True: [], False: []}
    for trace in READ:
        read = trace.verifications["S>L"]
        p[read.accepted].append(evidence.judge(trace.query, worlds.drafts_of(trace, "S"), read).p_good["S"])
    assert min(p[True]) > 0.9
    assert np.mean(p[False]) < 0.5


def test_a_verification_that_was_never_fitted_is_refused() -> None:
    """By evidence that knows no verifications, and of an answer that nobody was seen reading."""
    trace = READ[0]
    read = trace.verifications["S>L"]
    with pytest.raises(ConfigError, match=r"'L' has read the answer of 'S' at node 'S'.*fitted on \[\]"):
        worlds.fitted().evidence().judge(trace.query, worlds.drafts_of(trace, "S"), read)
    evidence = worlds.fitted_verified().evidence()
    with pytest.raises(ConfigError, match=r"fitted on \['S>L'\]"):
        evidence.judge(trace.query, worlds.drafts_of(trace, "L"), replace(read, drafter="L", stage="S"))


def without_verified_node(model: EvidenceModel) -> EvidenceModel:
    return msgspec.structs.replace(worlds.fitted_verified().model, verified={})


def test_an_unknown_stage_is_refused() -> None:
    """A draft of a stage that was not there when the evidence was fitted."""
    draft = TRACES[0].outcomes["S"].draft
    with pytest.raises(ConfigError, match=r"\['S', 'XL'\].*\['S', 'L'\]"):
        worlds.fitted().evidence().judge(TRACES[0].query, {"S": draft, "XL": draft})


def without_node(model: EvidenceModel) -> EvidenceModel:
    nodes = {name: node for name, node in model.nodes.items() if name != "S+L"}
    return msgspec.structs.replace(model, nodes=nodes)


def without_head(model: EvidenceModel) -> EvidenceModel:
    node = msgspec.structs.replace(model.nodes["S+L"], heads={"S": model.nodes["S+L"].heads["S"]})
    return msgspec.structs.replace(model, nodes={**model.nodes, "S+L": node})


def without_weight(model: EvidenceModel) -> EvidenceModel:
    head = model.prompt["S"]
    logistic = msgspec.structs.replace(head.logistic, weights=head.logistic.weights[1:])
    return msgspec.structs.replace(
        model, prompt={**model.prompt, "S": msgspec.structs.replace(head, logistic=logistic)}
    )


def without_centroids(model: EvidenceModel) -> EvidenceModel:
    return msgspec.structs.replace(model, centroids=())


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (without_node, r"nodes \['L', 'S'\] are not the sets of stages"),
        (without_head, r"node 'S\+L' has heads \('S',\) instead of \('S', 'L'\)"),
        (without_weight, r"head 'S' of node 'root' has \d+ weights where this version computes \d+ features"),
        (without_centroids, "there must be a centroid"),
        (without_verified_node, r"verified nodes \[\] do not follow from pairs \('S>L',\)"),
    ],
)
def test_a_model_with_a_part_missing_is_refused(broken, message: str) -> None:
    """It cannot even be made; decoding a file runs the same check."""
    with pytest.raises(ValueError, match=message):
        broken(worlds.fitted().model)


def test_judging_imports_no_fitting_library() -> None:
    """The hot path runs where scikit-learn is not installed."""
    heavy = ("sklearn", "scipy", "torch")
    code = f"import sys, asd.policy.artifact, asd.policy.fit; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"
