"""Runs a stage with Hugging Face `transformers`: any causal language model, any device.

The decode loop is our own (`asd.engines.hf.decoder`), because `generate()` cannot stop, verify and resume.
Greedy output equals `model.generate(do_sample=False)` token for token. What the checkpoint suggests about
sampling (repetition penalty, top-p and the like) is not applied; its stop tokens are.

Scope: one stage on one device. The number of torch threads is the process's business: one thread is
fastest for models of a few million parameters (`torch.set_num_threads(1)`), more pay from some hundred
million on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import torch

from asd.cancellation import tokens_of
from asd.engines import GREEDY, LOSSLESS, Acceptance, Sampling, StepMode
from asd.engines.closing import Closing
from asd.engines.hf.adapter import require_peft
from asd.engines.hf.caches.growing import open_growing
from asd.engines.hf.caches.launching import Launching, empty_cache, launcher_for
from asd.engines.hf.caches.memory import used_share
from asd.engines.hf.caches.opening import Caches
from asd.engines.hf.decoder import Batch, decode, prefill
from asd.engines.hf.kv_store import Keeper
from asd.engines.hf.model import Loaded, load
from asd.engines.hf.outputs import Answer, Ends, harvest
from asd.engines.hf.readings import Result, VerificationPass, read_all, results
from asd.engines.hf.sampler import TokenSampler, chooser
from asd.engines.hf.settings import TransformersSettings, find_device
from asd.engines.hf.verifier import first_tokens
from asd.engines.memory import release, translated
from asd.engines.prompts import encode
from asd.engines.sampling import check_sampling
from asd.engines.stops import as_tokens_read, first_end, watch
from asd.errors import ConfigError, StageTooLargeError
from asd.ladder import Stage
from asd.stopping.acceptance import point_mass
from asd.stops import cut, cut_draft
from asd.types import NO_CALL, Draft, Query, Usage, Verification

__all__ = ["Resumed", "TransformersEngine"]

_LOG = logging.getLogger(__name__)


class TransformersEngine(Closing):
    """One stage on one device; implements `asd.engines.Engine` and `asd.engines.Verifier`.

    Usage of a draft counts what the query itself needed: its prompt tokens, its decoded tokens (the stop
    token included) and its forward passes, which are as many as decoded tokens: the prompt's pass yields
    the first token, each further token needs one more, the last is never fed. Padding and the steps a
    batch runs for its slower rows are in `seconds` only.

    Args:
        stage: What to run; its `options.transformers` are `asd.engines.hf.settings.TransformersSettings`.
        device: Device in torch's words ("cpu", "cuda:1") of a stage whose options name none; None takes a
            CUDA device if there is one.
        clock: Seconds now, for `Draft.seconds`.
        loader: Brings a stage into memory on a device; the default reads its files.
        launching: Makes what runs the steps of caches of a fixed size; the default takes CUDA graphs.

    Raises:
        ConfigError: The device is unknown, or the stage's options are; it has an adapter, and peft is not
            installed.
    """

    def __init__(
        self,
        stage: Stage,
        device: str | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        loader: Callable[[Stage, torch.device], Loaded] = load,
        launching: Launching = launcher_for,
    ) -> None:
        if stage.adapter is not None:
            require_peft(f"stage {stage.name!r}: an adapter")
        self.stage = stage
        self.settings = TransformersSettings.of(stage)
        self.device = find_device(self.settings.device or device, stage.name)
        self._clock = clock
        self._loader = loader
        self._keeper = Keeper(int(self.settings.cache_gib(self.device) * 2**30))
        self._caches = Caches(stage.name, self.settings, self.device, self._keeper.spare, launching)
        self._has_told_of_evictions = False
        self._loaded: Loaded | None = None

    @property
    def stage_name(self) -> str:
        """Name of the stage this engine serves."""
        return self.stage.name

    @property
    def step_mode(self) -> StepMode:
        """How decode steps are made."""
        return self._caches.step_mode

    @property
    def n_evicted(self) -> int:
        """Verified rows so far whose cache was given up for want of memory, to be read again."""
        return self._keeper.n_evicted

    @property
    def revision(self) -> str:
        """Commit of the hub repository, or "sha256:..." over a local model's files; loads if need be."""
        return self.loaded.revision

    def load(self) -> None:
        """Bring the weights into memory; a second call does nothing.

        Raises:
            StageTooLargeError: The weights do not fit into the memory that is free.
            EngineError: The weights or the tokenizer are missing or damaged.
        """
        if self._loaded is None:
            try:
                self._loaded = self._loader(self.stage, self.device)
            except StageTooLargeError as error:
                release(error)
                self.make_room()
                raise
            self._caches.promise()

    @property
    def loaded(self) -> Loaded:
        """The model and its tokenizer, for what builds on this engine; loads if need be."""
        self.load()
        assert self._loaded is not None
        return self._loaded

    def unload(self) -> None:
        """Give the memory back; a later `generate` loads again."""
        self._loaded = None
        self._keeper.clear()
        self._caches.forget()
        self.make_room()

    def make_room(self) -> None:
        """Give back the caches that `verify` left, and what the device keeps ready for new ones."""
        self._keeper.clear()
        self._caches.clear()
        empty_cache(self.device)

    def synchronise(self) -> None:
        """Wait until the device is idle."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def gauges(self) -> dict[str, float]:
        """How full its GPU is, where that is known (`asd.engines.Gauged`)."""
        share = used_share(self.device)
        return {} if share is None else {"memory": share}

    def open_batch(self, spans: Sequence[int], *, rewinds: bool = False) -> Batch:
        """Rows that have read nothing yet.

        Args:
            spans: Most tokens that each row will hold.
            rewinds: Tokens will be taken back; only for a model that can (`Loaded.rewinds`).
        """
        return self._caches.open(self.loaded, spans, rewinds=rewinds)

    @translated
    @torch.inference_mode()
    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:
        """Answer one batch; log-probabilities are the stage's own, at temperature 1, however it samples.

        Raises:
            ConfigError: An empty prompt, no room for an answer, or `sampling` that cannot be followed.
            PromptTooLongError: A prompt and the room for its answer exceed the model's context.
            OutOfMemoryError: The batch does not fit; its memory has been given back.
            EngineError: The stage cannot be loaded.
        """
        if not queries:
            return []
        loaded = self.loaded
        self.synchronise()
        start = self._clock()
        prompts = [self._encode(loaded, query) for query in queries]
        nothing = [Answer((), (), finished=False)] * len(queries)
        choose = chooser(sampling, len(prompts), max(q.max_new_tokens for q in queries), self.device)
        batch = prefill(self.open_batch(_spans(prompts, queries)), prompts)
        answers = self._write(loaded, batch, queries, nothing, choose)
        usages = [
            Usage(n_prompt=len(prompt), n_decoded=len(answer.tokens), n_passes=len(answer.tokens))
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        return self.drafts(queries, answers, usages, start)

    @translated
    @torch.inference_mode()
    def verify(
        self, queries: Sequence[Query], drafts: Sequence[Draft], acceptance: Acceptance = LOSSLESS
    ) -> list[Verification]:
        """Read one draft per query in one forward pass; what `continue_` needs is kept for a while.

        A draft whose tokens read as the same text here is read as those tokens, else its text is split into
        tokens again. A finished draft ends in this stage's most probable stop token; one longer than the room
        for an answer is cut. Drafts that this stage would only begin with other white space are read once
        more, in a second pass that their usage counts (`asd.engines.hf.readings`).

        Raises:
            ConfigError: As `generate`; `acceptance` cannot be followed.
            PromptTooLongError, OutOfMemoryError, EngineError: As `generate`.
        """
        if not queries:
            return []
        loaded = self.loaded
        self.synchronise()
        start = self._clock()
        prompts = [self._encode(loaded, query) for query in queries]
        rooms = [query.max_new_tokens for query in queries]
        read = [
            as_tokens_read(d, q, loaded.tokenizer, loaded.n_vocab)
            for d, q in zip(drafts, queries, strict=True)
        ]
        batch = self.open_batch(_spans(prompts, queries), rewinds=loaded.rewinds)
        readings = read_all(batch, prompts, read, rooms, acceptance)
        found = [self._up_to_stop(loaded, *pair) for pair in zip(queries, results(readings), strict=True)]
        texts = [self._whole_answer(loaded, *pair) for pair in zip(queries, found, strict=True)]
        self.synchronise()
        seconds = self._clock() - start
        verifications = [
            Verification(
                stage=self.stage.name,
                drafter=draft.stage,
                tokens=result.tokens,
                logprobs=result.logprobs,
                n_accepted=result.n_accepted,
                usage=Usage(len(prompt), 0, result.n_passes, n_verified=result.n_verified),
                seconds=seconds,
                complete=result.carried.complete,
                text=text,
            )
            for draft, prompt, result, text in zip(drafts, prompts, found, texts, strict=True)
        ]
        if loaded.rewinds:
            rows = zip(queries, verifications, found, strict=True)
            self._keep(readings, [_key_to_go_on(*row) for row in rows])
        return verifications

    @translated
    @torch.inference_mode()
    def continue_(
        self,
        queries: Sequence[Query],
        verifications: Sequence[Verification],
        acceptance: Acceptance = LOSSLESS,
    ) -> list[Draft]:
        """Go on after each accepted prefix; the draft is the whole answer, its usage that of this call.

        Where the cache that `verify` left is still there, the first new token costs no pass and each further
        one costs one; where it is gone, prompt and accepted prefix are read again and counted as prompt. A
        draft accepted to its end costs nothing.

        Raises:
            ConfigError: Another stage verified, or `acceptance` cannot be followed.
            PromptTooLongError, OutOfMemoryError, EngineError: As `generate`.
        """
        if not queries:
            return []
        loaded = self.loaded
        self.synchronise()
        start = self._clock()
        resumed = self.resume(queries, verifications)
        answers, usages = resumed.answers, [NO_CALL] * len(queries)
        if resumed.open:
            limits = [queries[i].max_new_tokens - len(answers[i].tokens) for i in resumed.open]
            rejected = [verifications[i].tokens[len(answers[i].tokens) :] for i in resumed.open]
            choose = self._choose_on(resumed.batch, rejected, limits, acceptance)
            asked, begun = [queries[i] for i in resumed.open], [answers[i] for i in resumed.open]
            written = self._write(loaded, resumed.batch, asked, begun, choose)
            for i, answer, n_read in zip(resumed.open, written, resumed.n_read, strict=True):
                n = len(answer.tokens) - len(answers[i].tokens)
                answers[i] = answer
                usages[i] = Usage(n_prompt=n_read, n_decoded=n, n_passes=n if n_read else n - 1)
        return self.drafts(queries, answers, usages, start)

    def resume(self, queries: Sequence[Query], verifications: Sequence[Verification]) -> Resumed:
        """Stand after every accepted prefix, by the caches that `verify` left or by reading again.

        Raises:
            ConfigError, PromptTooLongError, EngineError: As `continue_`.
        """
        for verification in verifications:
            if verification.stage != self.stage.name:
                raise ConfigError(f"{verification.stage!r} verified, so {self.stage.name!r} cannot continue")
        loaded = self.loaded
        answers = [_accepted(loaded, *pair) for pair in zip(queries, verifications, strict=True)]
        still_open = [
            i
            for i, (query, answer) in enumerate(zip(queries, answers, strict=True))
            if len(answer.tokens) < query.max_new_tokens and not answer.finished
        ]
        n_read = [0] * len(still_open)
        if not still_open:
            return Resumed(answers, still_open, n_read, open_growing(loaded, 0))
        kept = self._keeper.take([_key(queries[i], verifications[i]) for i in still_open])
        if len({type(rows.batch) for rows in kept}) > 1:  # caches of two kinds make no batch
            kept = []
        places = [place for rows in kept for place in rows.places]
        gone = sorted(set(range(len(still_open))) - set(places))
        batches = [rows.batch for rows in kept]
        if gone:
            self._tell_of_evictions()
            again = [still_open[place] for place in gone]
            texts = [[*self._encode(loaded, queries[i]), *answers[i].tokens] for i in again]
            spans = _spans(texts, [queries[i] for i in again])
            opened = (
                batches[0].opened_like(spans) if batches else self.open_batch(spans, rewinds=loaded.rewinds)
            )
            batches.append(prefill(opened, texts))
            for place, text in zip(gone, texts, strict=True):
                n_read[place] = len(text)
        batch = batches[0].join(batches[1:], [*places, *gone])
        return Resumed(answers, still_open, n_read, batch)

    def _tell_of_evictions(self) -> None:
        if self.n_evicted and not self._has_told_of_evictions:
            self._has_told_of_evictions = True
            _LOG.warning(
                "stage %r reads prompts again to continue drafts: the caches of %d verified ones did not fit "
                "into %g GiB; raise options.transformers.kv_cache_gib in the ladder",
                self.stage.name,
                self.n_evicted,
                self.settings.cache_gib(self.device),
            )

    def _encode(self, loaded: Loaded, query: Query) -> list[int]:
        return encode(query, self.stage, loaded.tokenizer, loaded.context, loaded.n_vocab)

    def _keep(self, readings: Sequence[VerificationPass], keys: Sequence[Hashable | None]) -> None:
        """Keep the caches of the last reading of every row that has a key."""
        last = {place: reading for reading in readings for place in reading.places}
        for reading in readings:
            own = [keys[place] if last[place] is reading else None for place in reading.places]
            self._keeper.put(reading.batch, reading.judged.drop, own)

    @staticmethod
    def _up_to_stop(loaded: Loaded, query: Query, result: Result) -> Result:
        """The result without what would follow a stop string in the accepted prefix."""
        n = first_end(result.tokens[: result.n_accepted], query, loaded.tokenizer)
        return result if n is None else result.up_to(n)

    @staticmethod
    def _whole_answer(loaded: Loaded, query: Query, result: Result) -> str | None:
        """What the stage would have written, where that is the draft to its end."""
        tokens = result.tokens
        if not (result.n_accepted == len(tokens) > 0 and (result.stopped or tokens[-1] in loaded.stop_ids)):
            return None
        return cut(str(loaded.tokenizer.decode(list(tokens), skip_special_tokens=True)), query.stop)

    def _write(
        self,
        loaded: Loaded,
        batch: Batch,
        queries: Sequence[Query],
        begun: Sequence[Answer],
        choose: TokenSampler,
    ) -> list[Answer]:
        """Bring answers to their ends; the rows of the batch stand where they were `begun`."""
        limits = [q.max_new_tokens - len(a.tokens) for q, a in zip(queries, begun, strict=True)]
        watches = [watch(q, loaded.tokenizer, a.tokens) for q, a in zip(queries, begun, strict=True)]
        ends = Ends(limits, loaded.stop_ids, watches, tokens_of(queries))
        written = harvest(decode(batch, ends, choose), ends)
        return [before + more for before, more in zip(begun, written, strict=True)]

    def _choose_on(
        self,
        batch: Batch,
        rejected: Sequence[Sequence[int]],
        limits: Sequence[int],
        acceptance: Acceptance,
    ) -> TokenSampler:
        """How rows continue after their accepted prefixes, the rest of whose drafts is `rejected`."""
        choose = chooser(acceptance.sampling, len(limits), max(limits), self.device)
        rng = check_sampling(acceptance.sampling)
        if rng is None:
            return choose
        n_vocab = batch.logits.shape[-1]
        q = [point_mass(rest[0], n_vocab) if rest else None for rest in rejected]
        first = first_tokens(batch.logits, q, acceptance.sampling, rng)
        return replace(choose, first=first)

    def drafts(
        self, queries: Sequence[Query], answers: Sequence[Answer], usages: Sequence[Usage], start: float
    ) -> list[Draft]:
        """Answers as drafts of this stage; `start` is what the clock said when their call began."""
        texts = self.loaded.tokenizer.batch_decode([a.tokens for a in answers], skip_special_tokens=True)
        self.synchronise()
        seconds = self._clock() - start
        drafts = [
            Draft(self.stage.name, text, answer.tokens, answer.logprobs, answer.finished, usage, seconds)
            for answer, text, usage in zip(answers, texts, usages, strict=True)
        ]
        return [cut_draft(draft, query) for draft, query in zip(drafts, queries, strict=True)]


@dataclass(frozen=True, slots=True)
class Resumed:
    """Where verified drafts are gone on from.

    Attributes:
        answers: The accepted prefix of every draft.
        open: Indices of those that continue.
        n_read: Tokens that had to be read again for each of them; 0: its cache was still there.
        batch: They stand here after their prefixes, logits included; empty where none continues.
    """

    answers: list[Answer]
    open: list[int]
    n_read: list[int]
    batch: Batch


def _spans(texts: Sequence[Sequence[int]], queries: Sequence[Query]) -> list[int]:
    """Tokens of every row when its answer is as long as it may be."""
    return [len(text) + query.max_new_tokens for text, query in zip(texts, queries, strict=True)]


def _key(query: Query, verification: Verification) -> Hashable:
    """All that the state after an accepted prefix depends on, and the room that was made for the answer."""
    of_query = query.dataset, query.id, query.conversation, query.max_new_tokens
    return *of_query, verification.tokens, verification.n_accepted


def _key_to_go_on(query: Query, verification: Verification, result: Result) -> Hashable:
    """Where the state is kept; None: the answer is whole, so nobody continues from it."""
    return None if result.is_whole or verification.text is not None else _key(query, verification)


def _accepted(loaded: Loaded, query: Query, verification: Verification) -> Answer:
    tokens = verification.tokens[: verification.n_accepted]
    end = first_end(tokens, query, loaded.tokenizer)
    if end is not None:
        return Answer(tokens[:end], verification.logprobs[:end], finished=True)
    is_end = bool(tokens) and tokens[-1] in loaded.stop_ids
    return Answer(tokens, verification.logprobs[: len(tokens)], finished=is_end)
