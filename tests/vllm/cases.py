"""Random verifiers, prompts and drafts: a cascade on vLLM has to answer as its largest stage alone.

A verifier is a random model with one of several tokenizers and several stop tokens. A draft begins as the
verifier's own answer does and goes wrong somewhere, in text or in tokens, or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from asd.cascade import Cascade
from asd.engines import GREEDY, Sampling, Verifier
from asd.engines.prompts import encode
from asd.ladder import Stage
from asd.policies import Lossless
from asd.prices import Prices
from asd.types import Completion, Draft, Query, Usage
from tests.models import CORPUS, save_random_model

ROUNDING = 1e-5
"""Least gap of two logits that rounding does not close in float32."""
LETTERS = [*"abcdefghijklmnop 0123456789+.,é\n", " the", " add", "</s>", "<s>", "😀"]
PRICES = {"S": Prices(1.0, 0.0, 1.0), "L": Prices(4.0, 0.0, 4.0)}


def save_verifier(path: Path, family: str, splitting: str, seed: int) -> Path:
    """A random model whose tokenizer splits text in this way and whose answers end in any of four tokens."""
    save_random_model(path, family, seed=seed)
    if splitting != "bytes":
        _tokenizer(splitting).save_pretrained(path)
    n_vocab = len(AutoTokenizer.from_pretrained(path))
    stops = [*np.random.default_rng(seed).choice(np.arange(4, n_vocab), 3, replace=False).tolist(), 2]
    model = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        model.lm_head.weight[n_vocab:] = 0  # what the tokenizer does not know is never written
        model.lm_head.weight[stops] *= 2
    model.generation_config.eos_token_id = stops
    model.save_pretrained(path)
    return path


def _tokenizer(splitting: str) -> PreTrainedTokenizerFast:
    """Pairs or single letters, a space being in front ("metaspace", "letters"), or pieces of words."""
    options = {"special_tokens": ["<pad>", "<s>", "</s>", "<unk>"], "show_progress": False}
    if splitting == "pieces":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=200, **options)
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
        trainer = trainers.BpeTrainer(vocab_size=200 if splitting == "metaspace" else 0, **options)
    tokenizer.train_from_iterator([*CORPUS, *"abcdefghijklmnopqrstuvwxyz0123456789"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def asked(n: int, rng: np.random.Generator) -> list[Query]:
    """Prompts of mixed lengths with little and much room."""
    return [
        Query(str(i), "d", _letters(rng, 1, 24), max_new_tokens=int(rng.integers(1, 20))) for i in range(n)
    ]


def _letters(rng: np.random.Generator, least: int, most: int) -> str:
    return "".join(rng.choice(LETTERS, rng.integers(least, most)))


class Drafter:
    """A smaller stage that has its answers already."""

    stage_name = "S"

    def __init__(self, drafts: dict[str, Draft]) -> None:
        self.drafts = drafts

    def load(self) -> None: ...

    def unload(self) -> None: ...

    def synchronise(self) -> None: ...

    def generate(self, queries: Sequence[Query], sampling: Sampling = GREEDY) -> list[Draft]:  # noqa: ARG002
        return [self.drafts[query.id] for query in queries]


def spoiled(own: Draft, tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator) -> Draft:
    """A draft that begins as an answer does."""
    tokens: tuple[int, ...] = ()
    at = int(rng.integers(len(own.text) // 2, len(own.text) + 1))
    match rng.integers(6):
        case 0:  # all of it
            text = own.text
        case 1:  # all of it, in its tokens
            tokens, text = own.tokens, own.text
        case 2:  # cut, and something else
            text = own.text[:at] + _letters(rng, 0, 6)
        case 3:  # something in between
            text = own.text[:at] + _letters(rng, 1, 3) + own.text[at:]
        case 4:  # more than there is room for
            text = own.text + _letters(rng, 1, 30)
        case _:  # in the verifier's own tokens, one of them another
            ids = list(own.tokens)
            ids[int(rng.integers(len(ids)))] = int(rng.integers(len(tokenizer)))
            tokens = tuple(ids)
            text = tokenizer.decode(ids, skip_special_tokens=True)
    n = max(1, len(text))
    return Draft("S", text, tokens, (), bool(rng.integers(4)), Usage(1, n, n), 0.0)


@dataclass
class Tally:
    """What became of drafts."""

    cases: int = 0
    accepting: int = 0
    rejecting: int = 0
    whole: int = 0
    ties: int = 0

    def check(self) -> None:
        """The cases bite, and hardly any difference is left to rounding."""
        assert self.cases >= 50
        assert self.accepting >= 0.3 * self.cases
        assert self.rejecting >= 0.1 * self.cases
        assert self.whole
        assert self.ties < 0.001 * max(self.cases, 1000)


def compare(
    tally: Tally, verifier: Verifier, stage: Stage, n: int, batch_size: int, rng: np.random.Generator
) -> None:
    """Cascade against verifier alone, on n queries."""
    tokenizer = AutoTokenizer.from_pretrained(stage.model)
    queries = asked(n, rng)
    alone = verifier.generate(queries)
    drafts = {q.id: spoiled(own, tokenizer, rng) for q, own in zip(queries, alone, strict=True)}
    cascade = Cascade({"S": Drafter(drafts), "L": verifier}, Lossless(("S", "L")), PRICES)
    for done, own in zip(cascade.run(queries, batch_size), alone, strict=True):
        _count(tally, done)
        answer = done.drafts[-1]
        if (answer.text, answer.tokens, answer.finished) == (own.text, own.tokens, own.finished):
            continue
        same = [a == b for a, b in zip(answer.tokens, own.tokens, strict=False)]
        prefix = own.tokens[: same.index(False)] if False in same else own.tokens
        gap = _gap(stage, [*encode(done.query, stage, tokenizer, None, len(tokenizer)), *prefix])
        assert gap <= ROUNDING, (done.query, drafts[done.query.id], answer, own, gap)
        tally.ties += 1


def _count(tally: Tally, done: Completion) -> None:
    [read] = done.verifications
    tally.cases += 1
    tally.accepting += read.n_accepted > 0
    tally.rejecting += read.n_accepted < len(read.tokens)
    tally.whole += read.text is not None


def _gap(stage: Stage, ids: Sequence[int]) -> float:
    """Between the two most probable tokens behind these, in transformers."""
    model = AutoModelForCausalLM.from_pretrained(stage.model, dtype="float32")
    with torch.no_grad():
        best, second = model(torch.tensor([list(ids)])).logits[0, -1].topk(2).values.tolist()
    return best - second
