"""Adaptive speculative decoding: a cascade of language models that stops when going on is not worth its cost.

    import asd

    with asd.load("tiny", quality=0.95) as cascade:
        print(cascade("add 12+30").text)

The names in `__all__`, the errors in `asd.errors`, the policies in `asd.policies` and the fakes in
`asd.testing` are the public interface. Importing `asd` imports neither torch nor scikit-learn nor scipy.
"""

from asd.api import collect, fit, load
from asd.cascade import Cascade
from asd.collection import collect as collect_traces
from asd.engines import GREEDY, LOSSLESS, Acceptance, Engine, Sampling, Verifier
from asd.engines.registry import open_engines
from asd.errors import AsdError
from asd.ladder import Drafter, Ladder, Stage
from asd.messages import Message
from asd.policies import Policy
from asd.policy.artifact import PolicyArtifact
from asd.policy.artifact import load as load_policy
from asd.policy.fit import fit as fit_policy
from asd.prices import Prices
from asd.resilience import Health
from asd.traces import read_traces
from asd.traces.log import TraceLog
from asd.types import (
    STOP,
    Action,
    AnswerForm,
    Completion,
    Decision,
    Draft,
    Failure,
    Outcome,
    Query,
    Trace,
    Usage,
    Verification,
)
from asd.workloads import Split, Workload

__version__ = "0.1.0"

__all__ = [
    "GREEDY",
    "LOSSLESS",
    "STOP",
    "Acceptance",
    "Action",
    "AnswerForm",
    "AsdError",
    "Cascade",
    "Completion",
    "Decision",
    "Draft",
    "Drafter",
    "Engine",
    "Failure",
    "Health",
    "Ladder",
    "Message",
    "Outcome",
    "Policy",
    "PolicyArtifact",
    "Prices",
    "Query",
    "Sampling",
    "Split",
    "Stage",
    "Trace",
    "TraceLog",
    "Usage",
    "Verification",
    "Verifier",
    "Workload",
    "collect",
    "collect_traces",
    "fit",
    "fit_policy",
    "load",
    "load_policy",
    "open_engines",
    "read_traces",
]
