"""Adaptive speculative decoding: a cascade of language models that stops when going on is not worth its cost.

    import asd

    ladder = asd.Ladder.load("tiny")
    policy = asd.load_policy("policy.json").policy(lam=5.0, ladder=ladder)
    prices = {stage.name: stage.prices for stage in ladder.stages}
    cascade = asd.Cascade(asd.open_engines(ladder), policy, prices)
    [completion] = cascade.run([asd.Query(id="1", dataset="mine", prompt="add 12+30")])

The names in `__all__`, the errors in `asd.errors`, the policies in `asd.policies` and the fakes in
`asd.testing` are the public interface. Importing `asd` imports neither torch nor scikit-learn nor scipy.
"""

from asd.cascade import Cascade
from asd.collect import collect as collect_traces
from asd.engines import GREEDY, Engine, Sampling
from asd.engines.registry import open_engines
from asd.errors import AsdError
from asd.ladder import Ladder, Stage
from asd.messages import Message
from asd.policies import Policy
from asd.policy.artifact import PolicyArtifact
from asd.policy.artifact import load as load_policy
from asd.policy.fit import fit as fit_policy
from asd.prices import Prices
from asd.traces import read_traces
from asd.types import STOP, AnswerForm, Completion, Decision, Draft, Outcome, Query, Trace, Usage
from asd.workloads import Workload

__version__ = "0.1.0"

__all__ = [
    "GREEDY",
    "STOP",
    "AnswerForm",
    "AsdError",
    "Cascade",
    "Completion",
    "Decision",
    "Draft",
    "Engine",
    "Ladder",
    "Message",
    "Outcome",
    "Policy",
    "PolicyArtifact",
    "Prices",
    "Query",
    "Sampling",
    "Stage",
    "Trace",
    "Usage",
    "Workload",
    "collect_traces",
    "fit_policy",
    "load_policy",
    "open_engines",
    "read_traces",
]
