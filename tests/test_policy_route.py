"""Rules for the first stage by name, from a fitted policy: the files they need, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from asd.errors import ConfigError, DataError
from asd.evidence.prompt.predictors import fit_predictor
from asd.policy.route import routed
from tests import worlds


def predictor(folder: Path, stages: Sequence[str] = ("S", "L")) -> Path:
    """A predictor of the world's stages, fitted on 150 of its queries."""
    traces, _ = worlds.sample(150, np.random.default_rng(1))
    scores = np.array([[trace.outcomes[stage].score for stage in ("S", "L")] for trace in traces], float)
    prompts = [f"{trace.query.prompt} {i % 40}" for i, trace in enumerate(traces)]
    fit_predictor(prompts, scores, stages, "logistic", seed=0).save(folder / "predictor.json")
    return folder / "predictor.json"


def test_a_predictor_is_weighed_at_the_prices_of_the_policy(tmp_path: Path) -> None:
    """L is likelier to be right; at lam 0.5 that never makes up for its price, at lam 200 it does."""
    fitted, path = worlds.fitted(), str(predictor(tmp_path))
    query = worlds.sample(1, np.random.default_rng(3))[0][0].query
    assert fitted.costs_alone() == pytest.approx((0.2, 1.0), rel=0.05)
    chosen = [
        routed(path, fitted.policy(lam), fitted, lam=lam).decide(query, {}).action.stage
        for lam in (0.5, 200.0)
    ]
    assert chosen == ["S", "L"]


def test_what_is_no_rule_is_refused(tmp_path: Path) -> None:
    """No lam, no such file, a file of something else, a predictor of other stages."""
    fitted = worlds.fitted()
    policy = fitted.policy(5.0)
    with pytest.raises(ConfigError, match="needs a lam"):
        routed("complexity", policy, fitted, lam=None)
    with pytest.raises(DataError, match="complexety does not exist"):
        routed("complexety", policy, fitted, lam=5.0)
    fitted.save(tmp_path / "policy.json")
    with pytest.raises(DataError, match="cannot be read"):
        routed(str(tmp_path / "policy.json"), policy, fitted, lam=5.0)
    with pytest.raises(ConfigError, match="stages A, B, the policy steers S, L"):
        routed(str(predictor(tmp_path, ("A", "B"))), policy, fitted, lam=5.0)
