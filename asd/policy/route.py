"""A rule for the first stage (`asd.policies.routing`), by its name, before a policy of a fitted file.

Quality that is kept or guaranteed was measured without a rule, so a rule goes with a lam only.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from asd.errors import ConfigError
from asd.policies import Policy
from asd.policies.routing import ComplexityRule, PredictionRule, Routed, Rule, TaxonomyRule
from asd.policy.artifact import PolicyArtifact

__all__ = ["TARGET", "routed"]

TARGET = 0.8
"""Share of the largest stage that the complexity rule wants in use."""


def routed(
    route: str | None,
    policy: Policy,
    fitted: PolicyArtifact,
    lam: float | None,
    batch: int = 1,
    utilisation: Callable[[], float] = lambda: 0.0,
) -> Policy:
    """Put a rule before a policy.

    Args:
        route: "complexity", "taxonomy", or the file of a predictor (`asd evidence fit`); None: no rule.
        policy: Decides from the first answer on.
        fitted: Where the policy comes from.
        lam: Of the policy.
        batch: Queries a call, which decides the prices.
        utilisation: Share of the largest stage that is in use, in [0, 1].

    Raises:
        ConfigError: No lam was given, or a predictor is of other stages.
        DataError: The file cannot be read, or holds no predictor.
    """
    if route is None:
        return policy
    if lam is None:
        raise ConfigError("a route needs a lam: what a quality or a guarantee keeps was measured without one")
    stages = fitted.model.stages
    rule: Rule
    if route == "complexity":
        rule = ComplexityRule(stages[-1], lam, TARGET, utilisation)
    elif route == "taxonomy":
        rule = TaxonomyRule(stages)
    else:
        rule = _by_prediction(Path(route), fitted, lam, batch)
    return Routed(rule, policy, stages[-1])


def _by_prediction(path: Path, fitted: PolicyArtifact, lam: float, batch: int) -> PredictionRule:
    from asd.evidence.prompt.predictors import QualityPredictor  # noqa: PLC0415  (needed for these files only)

    predictor, stages = QualityPredictor.load(path), fitted.model.stages
    if predictor.stages != stages:
        raise ConfigError(
            f"{path} predicts the success of stages {', '.join(predictor.stages)}, the policy steers "
            f"{', '.join(stages)}: fit it on outcomes of this ladder"
        )
    return PredictionRule(stages, predictor.p, fitted.costs_alone(batch), lam)
