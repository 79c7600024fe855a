"""Token ids into vLLM's engine and out again: requests that run together, and what each of them took.

Scope: ids and numbers; no text, no queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from asd.cancellation import CancelToken
from asd.engines.memory import is_out_of_memory
from asd.engines.stops import Watch
from asd.engines.vllm.loader import Running, unwarned
from asd.errors import EngineError, OutOfMemoryError, UnavailableError

__all__ = ["RequestOutput", "Score", "TokenRequest", "ask"]


class Score(Protocol):
    """What vLLM says of one token at one position."""

    logprob: float
    rank: int


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """Token ids in, at most `room` out.

    `params` are further ones of vLLM's `SamplingParams`. `watch` knows the stop strings of the answer:
    vLLM's own would see the text of this request only, and not what the answer begins with. `cancel` ends it
    after the pass that runs, once there is a token.
    """

    tokens: Sequence[int]
    room: int
    params: Mapping[str, Any]
    watch: Watch | None = None
    cancel: CancelToken = field(default_factory=CancelToken)


@dataclass(slots=True)
class RequestOutput:
    """What came of a request.

    Attributes:
        tokens: Ids written, the stop token included.
        logprobs: Natural log-probability of each of them, at temperature 1.
        finished: A stop token or a stop string ended them.
        n_cached: Tokens of the request that the prefix cache held.
        n_passes: Forward passes that wrote tokens; the first one reads the request.
        scores: By position of the request, where asked for: its own token's score, and the best one's.
    """

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finished: bool = False
    n_cached: int = 0
    n_passes: int = 0
    scores: list[Mapping[int, Score]] = field(default_factory=list)

    def add(self, output: Any, watch: Watch | None = None) -> bool:
        """Take in what one pass wrote; whether a stop string ends it there."""
        n_before = len(self.tokens)
        [written] = output.outputs
        self.tokens += written.token_ids
        scored = zip(written.token_ids, written.logprobs, strict=True)
        self.logprobs += [row[token].logprob for token, row in scored]
        self.finished = written.finish_reason == "stop"
        self.n_cached = max(self.n_cached, output.num_cached_tokens or 0)
        self.n_passes += 1
        self.scores += output.prompt_logprobs or []
        new = enumerate(self.tokens[n_before:], start=n_before + 1)
        end = next((n for n, token in new if watch.ends(token)), None) if watch else None
        if end is None:
            return False
        self.tokens, self.logprobs, self.finished = self.tokens[:end], self.logprobs[:end], True
        return True


def ask(running: Running, requests: Sequence[TokenRequest]) -> list[RequestOutput]:
    """Run requests together; the replies are in their order.

    Raises:
        UnavailableError: vLLM's process died; the stage has to be started again.
        OutOfMemoryError: They do not fit into memory together; nothing of them is left in vLLM.
        EngineError: vLLM failed; nothing of these requests is left in it.
    """
    from vllm.exceptions import VLLMError  # noqa: PLC0415  (loaded with the stage)
    from vllm.v1.engine.exceptions import EngineDeadError  # noqa: PLC0415

    replies = {str(i): RequestOutput() for i in range(len(requests))}
    try:
        with unwarned():
            _run(running, requests, replies)
    except EngineDeadError as error:
        raise UnavailableError(f"stage {running.stage!r}: vLLM's process died: {error}") from error
    except BaseException as error:
        running.engine.abort_request(list(replies))  # else they would come back in the next call
        if isinstance(error, (VLLMError, ValueError, RuntimeError, MemoryError)):
            kind = OutOfMemoryError if is_out_of_memory(error) else EngineError
            raise kind(f"stage {running.stage!r}: vLLM cannot answer: {error or kind.__name__}") from error
        raise
    return list(replies.values())


def _run(running: Running, requests: Sequence[TokenRequest], replies: Mapping[str, RequestOutput]) -> None:
    for name, request in zip(replies, requests, strict=True):
        prompt = {"prompt_token_ids": list(request.tokens)}
        running.engine.add_request(name, prompt, _params(running, request), lora_request=running.adapter)
    by_name = dict(zip(replies, requests, strict=True))
    while running.engine.has_unfinished_requests():
        for output in running.engine.step():
            name, request = output.request_id, by_name[output.request_id]
            ends = replies[name].add(output, request.watch) or request.cancel.cancelled
            if ends and not output.finished:
                running.engine.abort_request([name])


def _params(running: Running, request: TokenRequest) -> Any:
    from vllm import SamplingParams  # noqa: PLC0415
    from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

    return SamplingParams(
        max_tokens=request.room,
        logprobs=0,
        stop_token_ids=list(running.stop_ids),
        ignore_eos=True,  # the stop tokens decide, whatever else vLLM reads from the checkpoint
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        **request.params,
    )
