"""From a name to answers in two lines, and from traces to a policy in two more.

    with asd.load("tiny", quality=0.95) as cascade:
        print(cascade("add 12+30").text)

Everything is put together from parts that can be had one by one: `asd.Ladder`, `asd.open_engines`,
`asd.load_policy`, `asd.Cascade`, `asd.TraceLog`, `asd.collect_traces`, `asd.fit_policy`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from asd.cascade import Cascade
from asd.collection import collect as collect_traces
from asd.collection import header_for, read_collected
from asd.engines import GREEDY, Acceptance, Sampling
from asd.engines.closing import close_all
from asd.engines.deployment import deploy
from asd.engines.registry import open_engines
from asd.engines.residency import Residency
from asd.engines.revisions import revisions
from asd.engines.runtimes import runtimes
from asd.engines.sampling import check_sampling
from asd.errors import ConfigError
from asd.ladder import TINY_POLICY, Ladder
from asd.policies import OptimalPolicy, Policy
from asd.policy import artifact
from asd.policy.artifact import PolicyArtifact
from asd.policy.choice import choose
from asd.policy.fit import fit as fit_policy
from asd.policy.record import Method
from asd.policy.route import routed
from asd.prices import Prices
from asd.resilience import Health
from asd.traces.log import TraceLog
from asd.types import AnswerForm, Trace
from asd.workloads import Split, Workload
from asd.workloads.catalogue import default_names, find_workloads

__all__ = ["collect", "fit", "load", "policy_of", "with_loads"]

_LOG = logging.getLogger(__name__)


def load(  # noqa: PLR0913  (what the command has as options)
    ladder: str | Path | Ladder = "tiny",
    *,
    policy: str | Path | PolicyArtifact | Policy | None = None,
    lam: float | None = None,
    quality: float | None = None,
    engine: str = "transformers",
    device: str | None = None,
    batch: int = 1,
    route: str | None = None,
    sampling: Sampling = GREEDY,
) -> Cascade:
    """A cascade that is ready to answer; as a context manager it closes its engines.

    Models are loaded when they first have to answer. A stage that fails is done without, and asked again a
    minute later (`asd.resilience.Health`).

    Args:
        ladder: A preset's name, a TOML file, or the ladder itself.
        policy: What `asd.fit` or `asd fit` made, its file, or any other policy. Default: the one that comes
            with the ladder, which only "tiny" has.
        lam: Runs of the largest stage that one fully right answer is worth.
        quality: Instead of `lam`, share of the largest stage's quality to keep, in (0, 1].
        engine: What runs the stages that name none: "transformers", "vllm", "openai" or "module:Class".
        device: Such as "cpu" or "cuda:1"; default: a GPU if there is one.
        batch: Queries a call, which decides the prices the policy reckons with; `Cascade.run`'s `batch_size`.
        route: A rule for the first stage, with `lam`: "complexity" (which reads how busy the largest stage is
            with `Cascade.answer`), "taxonomy", or the file of a predictor (`asd evidence fit`).
        sampling: How stages choose tokens. Policies are fitted on greedy answers: above temperature 0 what
            they expect is an approximation, and no guarantee holds.

    Raises:
        ConfigError: An unknown name, a value out of range, a ladder without a policy, `route` without `lam`,
            or `lam`, `quality` or `route` with a policy that is not a fitted one.
        DataError: A file cannot be read.
        PolicyMismatchError: The policy was fitted on another ladder.
    """
    check_sampling(sampling)
    steps = ladder if isinstance(ladder, Ladder) else Ladder.load(ladder)
    fitted = policy_of(steps, policy) if policy is None or isinstance(policy, str | Path) else policy
    chosen = _choose(fitted, steps, lam, quality, route, batch, sampling)
    opened = open_engines(steps, device, engine, batch=batch)
    engines, residency = deploy(steps, opened, lambda: revisions(steps, engine))
    prices, largest = steps.prices_at(batch), steps.stages[-1].name
    if isinstance(fitted, PolicyArtifact):
        chosen = with_loads(chosen, residency, prices, batch, fitted.ladder.unit(batch))
        chosen = routed(route, chosen, fitted, lam, batch, lambda: cascade.utilisation(largest))
    cascade = Cascade(engines, chosen, prices, Health(), Acceptance(sampling), _form_of(fitted), steps.only)
    return cascade


def _choose(
    fitted: PolicyArtifact | Policy,
    ladder: Ladder,
    lam: float | None,
    quality: float | None,
    route: str | None,
    batch: int,
    sampling: Sampling,
) -> Policy:
    """The policy of a lam or of a share of quality, with a warning of what it does not keep."""
    if not isinstance(fitted, PolicyArtifact):
        if not (lam is None and quality is None and route is None):
            raise ConfigError(f"policy {fitted.name!r} is not a fitted one; leave lam, quality and route out")
        return fitted
    chosen, note = choose(fitted, ladder, lam=lam, quality=quality, batch=batch)
    if note:
        _LOG.warning("%s", note)
    if fitted.guarantee is not None and lam is None and sampling.temperature > 0:
        _LOG.warning("the guarantee is for temperature 0; at %g it does not hold", sampling.temperature)
    return chosen


def _form_of(fitted: PolicyArtifact | Policy) -> AnswerForm:
    """What answers are taken to be where a query does not say."""
    return AnswerForm(fitted.model.forms[0]) if isinstance(fitted, PolicyArtifact) else AnswerForm()


def with_loads(
    policy: Policy,
    residency: Residency | None,
    prices: Mapping[str, Prices],
    queries_per_load: float,
    unit: float,
) -> Policy:
    """The policy that reckons with what loading stages costs, where stages take turns and loads have prices.

    Args:
        policy: Chosen as if all stages were in memory.
        residency: What keeps the stages within their memory; None: all stay there.
        prices: By stage name; `per_load` of every stage, or loads are free.
        queries_per_load: Queries that share a load.
        unit: One cost unit in the unit of the prices.
    """
    priced = all(price.per_load is not None for price in prices.values())
    if residency is None or not priced or not isinstance(policy, OptimalPolicy):
        return policy
    return policy.dearer(residency.surcharge(prices, queries_per_load, unit))


def policy_of(ladder: Ladder, policy: str | Path | None = None) -> PolicyArtifact:
    """The fitted policy in a file; by default the one that comes with the ladder.

    Raises:
        ConfigError: The ladder comes without one.
        DataError: The file cannot be read.
    """
    if policy is not None:
        return artifact.load(policy)
    if ladder.name != "tiny":
        raise ConfigError(
            f"ladder {ladder.name!r} comes without a policy; make one with `asd collect` and `asd fit`, then "
            "give it with --policy, or as policy in Python"
        )
    return artifact.load(TINY_POLICY)


def collect(  # noqa: PLR0913  (what the command has as options)
    ladder: str | Path | Ladder,
    workloads: Sequence[str | Workload] | None = None,
    *,
    out: str | Path,
    split: Split = "fit",
    limit: int = 1000,
    batch: int = 16,
    engine: str = "transformers",
    device: str | None = None,
) -> list[Trace]:
    """Let every stage answer every query, once, and record the outcomes; a run that was stopped continues.

    Args:
        ladder: A preset's name, a TOML file, or the ladder itself.
        workloads: Names, FILE.py or workloads; default: those that come with the package.
        out: JSON lines, continued if it exists.
        split: Which rows: "fit", "calibrate" or "test".
        limit: Most queries of a workload.
        batch: Most queries in one call.
        engine: As in `load`.
        device: As in `load`.

    Returns:
        The traces; a query that a stage refused for good has it in `Trace.refusals`.

    Raises:
        ConfigError: An unknown name or a value out of range.
        DataError: A workload is empty or has changed, or cannot score an answer.
        EngineError: A stage cannot be loaded or cannot answer; what it has answered is recorded.
        StorageError: The file cannot be written; what it holds is intact.
    """
    steps = ladder if isinstance(ladder, Ladder) else Ladder.load(ladder)
    found = [
        workload
        for given in (default_names() if workloads is None else workloads)
        for workload in (find_workloads([given]) if isinstance(given, str) else [given])
    ]
    engines = open_engines(steps, device, engine)
    header = header_for(steps, revisions(steps, engine), found, split, runtimes(steps, engine, device))
    try:
        with TraceLog(out, header) as log:
            return collect_traces(found, engines, log, limit=limit, batch_size=batch)
    finally:
        close_all(engines.values())


def fit(
    traces: str | Path | Sequence[str | Path] | Sequence[Trace],
    ladder: str | Path | Ladder = "tiny",
    *,
    method: Method | Literal["auto"] = "dp",
    quality: float = 0.95,
) -> PolicyArtifact:
    """Learn when to stop from recorded outcomes; `save` writes it, `asd.load(policy=...)` takes it.

    Args:
        traces: What `collect` returned for split "fit", or the files that it wrote.
        ladder: What the traces were collected on.
        method: "dp" (backward induction), "lists" (a vote of short lists), or "auto": the one that is surely
            cheaper on held-out rows.
        quality: Share of the largest stage's quality, in (0, 1], at which "auto" compares them.

    Raises:
        ConfigError: A file was collected on another ladder or another split, or the method or the quality is
            none.
        DataError: A file cannot be read, or fewer than 100 queries are answered and scored by every stage.
    """
    steps = ladder if isinstance(ladder, Ladder) else Ladder.load(ladder)
    given = [traces] if isinstance(traces, str | Path) else list(traces)
    paths = [Path(item) for item in given if isinstance(item, str | Path)]
    rows = [item for item in given if isinstance(item, Trace)]
    if paths and rows:
        raise ConfigError("traces are files or outcomes, not both")
    found = read_collected(paths, steps, "fit") if paths else rows
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return fit_policy(found, steps, fitted_at=now, method=method, quality=quality)
