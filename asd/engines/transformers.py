"""Runs a stage with Hugging Face `transformers`: any causal language model, any device.

The decode loop is our own (`asd.engines.decoding`), because `generate()` cannot stop, verify and go on.
Greedy output equals `model.generate(do_sample=False)` token for token. What the checkpoint suggests about
sampling (repetition penalty, top-p and the like) is not applied; its stop tokens are.

The border: one stage on one device. The number of torch threads is the process's business: one thread is
fastest for models of a few million parameters (`torch.set_num_threads(1)`), more pay from some hundred
million on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from asd.engines import GREEDY, Sampling
from asd.engines.decoding import Answer, Choose, PaddingSide, decode, greedy, harvest, prefill, sampler
from asd.engines.loading import Loaded, load
from asd.engines.prompts import encode
from asd.errors import ConfigError
from asd.ladder import Stage
from asd.types import Draft, Query, Usage

__all__ = ["TransformersEngine"]


class TransformersEngine:
    """One stage on one device; implements `asd.engines.Engine`.

    Usage of a draft counts what the query itself needed: its prompt tokens, its decoded tokens (the stop
    token included) and its forward passes, which are as many as decoded tokens: the prompt's pass yields
    the first token, each further token needs one more, the last is never fed. Padding and the steps a
    batch runs for its slower rows are in `seconds` only.

    Args:
        stage: What to run.
        device: Device in torch's words ("cpu", "cuda:1"); None takes a CUDA device if there is one.
        padding_side: Where shorter prompts of a batch are padded; answers do not depend on it.
        clock: Seconds now, for `Draft.seconds`.

    Raises:
        ConfigError: The device or the padding side is unknown.
    """

    def __init__(
        self,
        stage: Stage,
        device: str | None = None,
        *,
        padding_side: PaddingSide = "left",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if padding_side not in ("left", "right"):
            raise ConfigError(f"padding_side must be 'left' or 'right', not {padding_side!r}")
        self.stage = stage
        self.device = _device(device)
        self.padding_side = padding_side
        self._clock = clock
        self._look_every = 1 if self.device.type == "cpu" else 8  # on an accelerator, looking costs a wait
        self._loaded: Loaded | None = None

    @property
    def stage_name(self) -> str:
        """Name of the stage this engine serves."""
        return self.stage.name

    @property
    def revision(self) -> str:
        """Commit of the hub repository, or "sha256:..." over a local model's files; loads if need be."""
        return self._ready().revision

    def load(self) -> None:
        """Bring the weights into memory; a second call does nothing.

        Raises:
            EngineError: The weights or the tokenizer are missing, damaged or do not fit.
        """
        self._ready()

    def unload(self) -> None:
        """Give the memory back; a later `generate` loads again."""
        self._loaded = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def synchronise(self) -> None:
        """Wait until the device is idle."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    @torch.inference_mode()
    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
        """Answer one batch; log-probabilities are the stage's own, at temperature 1, however it samples.

        Raises:
            ConfigError: An empty prompt, no room for an answer, or `sampling` that cannot be followed.
            PromptTooLongError: A prompt and the room for its answer exceed the model's context.
            EngineError: The stage cannot be loaded.
        """
        if not queries:
            return []
        loaded = self._ready()
        self.synchronise()
        start = self._clock()
        prompts = [encode(query, self.stage, loaded.tokenizer, loaded.context) for query in queries]
        answers = self._write(loaded, prompts, [query.max_new_tokens for query in queries], sampling)
        texts = loaded.tokenizer.batch_decode([a.tokens for a in answers], skip_special_tokens=True)
        self.synchronise()
        seconds = self._clock() - start
        return [
            self._draft(prompt, answer, text, seconds)
            for prompt, answer, text in zip(prompts, answers, texts, strict=True)
        ]

    def _write(
        self, loaded: Loaded, prompts: Sequence[Sequence[int]], limits: Sequence[int], sampling: Sampling
    ) -> list[Answer]:
        choose = _chooser(sampling, len(prompts), max(limits), self.device)
        batch = prefill(loaded.model, prompts, max(limits), self.padding_side, loaded.context)
        stretches = decode(loaded.model, batch, limits, loaded.stop_ids, choose, self._look_every)
        return harvest(stretches, limits, loaded.stop_ids)

    def _ready(self) -> Loaded:
        if self._loaded is None:
            self._loaded = load(self.stage, self.device)
        return self._loaded

    def _draft(self, prompt: Sequence[int], answer: Answer, text: str, seconds: float) -> Draft:
        n = len(answer.tokens)
        return Draft(
            stage=self.stage.name,
            text=text,
            tokens=answer.tokens,
            logprobs=answer.logprobs,
            finished=answer.finished,
            usage=Usage(n_prompt=len(prompt), n_decoded=n, n_passes=n),
            seconds=seconds,
        )


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {name!r}; torch knows 'cpu', 'cuda', 'cuda:1', ...") from error


def _chooser(sampling: Sampling, n_prompts: int, n_steps: int, device: torch.device) -> Choose:
    temperature = sampling.temperature
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ConfigError(f"temperature must be a number of at least 0, not {temperature}")
    if temperature == 0:
        return greedy
    if sampling.rng is None:
        raise ConfigError(
            f"sampling at temperature {temperature} needs a random generator: Sampling(rng=...)"
        )
    uniforms = sampling.rng.random((n_prompts, n_steps), dtype=np.float32)
    return sampler(torch.from_numpy(uniforms).to(device), temperature)
