"""What the devices of stages hold and what passes to and from them, while a day is simulated.

    memory of a replica = weights + tokens of its call x bytes of a token's keys and values
    network             = bytes of the texts that calls are sent and send back, and the delays of the scenario

A query's tokens are those of its prompt and of its whole answer (or of the draft that is read), from the
beginning of its call to the end, as in a cache of fixed size. Scope: what follows from the model's files, the
ladder and the recorded outcomes; what does not follow from them has no number, and a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from asd.engines.checkpoints.sizes import cache_mib, weights_mib
from asd.errors import DataError, EngineError
from asd.ladder import DTYPES, Ladder, Stage
from asd.operations.books import StageWindow, Summary
from asd.operations.population import Situation
from asd.operations.runs import Scenario, SimulatedRun
from asd.operations.stations import Request
from asd.operations.traffic import Controller
from asd.traces import TraceHeader

__all__ = ["CallMeter", "MeteredRun", "StageMemory", "memories", "metered_run"]


class StageMemory(NamedTuple):
    """What is known of the memory of one replica of a stage, over all its devices.

    Attributes:
        devices: It is spread over.
        weights_mib: Of its weights and those of its drafter; None: not known.
        token_mib: Of the keys and values of a token; None: not known.
        unknown: Why something is not known; "" where everything is.
    """

    devices: int
    weights_mib: float | None
    token_mib: float | None
    unknown: str

    def mean_mib(self, meter: CallMeter, whole: StageWindow) -> float | None:
        """Mean over the time that replicas are up."""
        if self.weights_mib is None or self.token_mib is None:
            return None
        return self.weights_mib + self.token_mib * meter.mean_tokens * whole.utilisation

    def peak_mib(self, meter: CallMeter) -> float | None:
        """In the call of most tokens."""
        if self.weights_mib is None or self.token_mib is None:
            return None
        return self.weights_mib + self.token_mib * meter.most_tokens


def memories(ladder: Ladder, headers: Sequence[TraceHeader]) -> dict[str, StageMemory]:
    """By stage, from the ladder, the files of its models and what answered when outcomes were recorded."""
    return {stage.name: _memory(stage, ladder, headers) for stage in ladder.stages}


def _memory(stage: Stage, ladder: Ladder, headers: Sequence[TraceHeader]) -> StageMemory:
    drafter = stage.drafter if stage.prices.per_drafted is not None else None
    models = [stage, *(other for other in ladder.stages if drafter and other.name == drafter.stage)]
    try:
        known = [_known(model, headers) for model in models]
    except (DataError, EngineError) as error:
        return StageMemory(stage.tensor_parallel, None, None, str(error))
    unknown = next((why for *_, why in known if why), "")
    weights, tokens = _sum([mib for mib, *_ in known]), _sum([mib for _, mib, _ in known])
    return StageMemory(stage.tensor_parallel, weights, tokens, unknown)


def _known(stage: Stage, headers: Sequence[TraceHeader]) -> tuple[float | None, float | None, str]:
    """Weights and a token of one model, MiB, and why one of them is not known."""
    dtype = _dtype(stage, headers)
    if dtype is None:
        why = "the dtype that it runs in is not recorded, or there are several"
        return stage.memory_gib and stage.memory_gib * 1024, None, why
    as_run = replace(stage, dtype=dtype)
    weights, token = weights_mib(as_run, "as recorded"), cache_mib(as_run, "as recorded", 1)
    if stage.options.get("vllm", {}).get("kv_cache_dtype", "auto") != "auto":
        return weights, None, "its cache has a dtype of its own (options.vllm.kv_cache_dtype)"
    if weights is None:
        return None, None, "its model has no files here and the ladder gives no memory_gib"
    if token is None:
        return weights, None, "no files of its model here have the shape of a cache of keys and values"
    return weights, token, ""


def _dtype(stage: Stage, headers: Sequence[TraceHeader]) -> str | None:
    """That of the ladder, or of the engine that answered; None where neither says one."""
    if stage.dtype != "auto":
        return stage.dtype
    runtimes = [found.runtime for header in headers if (found := header.stages.get(stage.name)) is not None]
    dtypes = {dtype for runtime in runtimes for dtype in runtime.split()[1:2]}
    return dtypes.pop() if len(dtypes) == 1 and dtypes <= {*DTYPES} - {"auto"} else None


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


class _CallRow(NamedTuple):
    """One query in a call: tokens that it holds, and bytes of text that it is sent and sends back."""

    tokens: int
    sent: int
    received: int


@dataclass(slots=True)
class CallMeter:
    """What the calls of a stage held and carried.

    Attributes:
        most_tokens: Of a call.
        tokens_s: Tokens of calls that ended, times their seconds.
        calls_s: These seconds.
        n_bytes: Sent and received.
        peak_bytes_per_s: In the busiest window.
        delays_s: That the scenario added to calls.
    """

    most_tokens: int = 0
    tokens_s: float = 0.0
    calls_s: float = 0.0
    n_bytes: int = 0
    peak_bytes_per_s: float = 0.0
    delays_s: float = 0.0
    _rows: dict[Situation, _CallRow] = field(default_factory=dict)
    _bytes_before: int = 0

    @property
    def mean_tokens(self) -> float:
        """Of a call, over the time of calls."""
        return self.tokens_s / self.calls_s if self.calls_s else 0.0

    def begun(self, batch: Sequence[Request], delay_s: float) -> None:
        """A call has begun: it holds its tokens, and its texts have been sent."""
        rows = [self._row(request) for request in batch]
        self.most_tokens = max(self.most_tokens, sum(row.tokens for row in rows))
        self.n_bytes += sum(row.sent for row in rows)
        self.delays_s += delay_s

    def ended(self, batch: Sequence[Request], seconds: float) -> None:
        """A call has ended: its answers are back."""
        rows = [self._row(request) for request in batch]
        self.tokens_s += seconds * sum(row.tokens for row in rows)
        self.calls_s += seconds
        self.n_bytes += sum(row.received for row in rows)

    def close(self, seconds: float) -> None:
        """A window of so many seconds has ended."""
        self.peak_bytes_per_s = max(self.peak_bytes_per_s, (self.n_bytes - self._bytes_before) / seconds)
        self._bytes_before = self.n_bytes

    def _row(self, request: Request) -> _CallRow:
        after = request.doing.after
        assert after is not None
        row = self._rows.get(after)
        if row is None:
            row = self._rows[after] = _row_of(request)
        return row


def _row_of(request: Request) -> _CallRow:
    step = request.doing
    assert step.after is not None
    trace, journey = step.after.trace, step.after.journey
    own, query = trace.outcomes[step.stage].draft, trace.query
    texts = [message.content for message in query.messages] or [query.prompt]
    sent = sum(len(text.encode()) for text in texts)
    if step.action.kind == "verify":
        read = journey.verifications[-1]
        draft = trace.outcomes[read.drafter].draft
        return _CallRow(own.usage.n_prompt + read.usage.n_verified, sent + len(draft.text.encode()), 0)
    return _CallRow(own.usage.n_prompt + own.usage.n_decoded, sent, len(own.text.encode()))


class MeteredRun(NamedTuple):
    """A run, and what was counted of every stage."""

    run: SimulatedRun
    meters: Mapping[str, CallMeter]


def metered_run(
    scenario: Scenario, controller: Controller, seed: int, progress: Callable[[Summary], object]
) -> MeteredRun:
    """One run from its beginning to its end; `progress` is told of every window."""
    sim, windows = scenario.simulator(controller, seed), []
    meters = {name: CallMeter() for name in sim.stations}
    for name, meter in meters.items():
        sim.stations[name].observer = meter
    for window in sim.run(scenario.asked.seconds):
        windows.append(window)
        progress(window)
        for meter in meters.values():
            meter.close(window.seconds)
    done = SimulatedRun(
        controller=controller.name, seed=seed, total=sim.books.total(), windows=tuple(windows)
    )
    return MeteredRun(done, meters)
