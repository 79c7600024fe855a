"""Tokenizers of every common kind, small and random: byte-level, byte pairs, word pieces, unigrams, words.

With and without a leading space, lower-casing, unknown characters, added tokens and special ones: many do not
give back the text they were given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

CORPUS = (
    "add 4821+9377 is 14198 and reverse stone is enots.",
    "sort pear apple plum: apple pear plum. The quick brown fox jumps over the lazy dog; what is 17*3?",
    "Paris is the capital of France. The answer is (B), because 3 + 4 = 7.\n\nSo the answer is 7.",
    "def total(xs):\n    return sum(x for x in xs if x > 0)\n",
    "close ([{ with }]) and then  leave two spaces; naïve café, 東京 — done!",
)
SPECIALS = ["<pad>", "<s>", "</s>", "<unk>"]
TEMPLATE = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"

_QUIET = {"special_tokens": SPECIALS, "show_progress": False}


def random_tokenizer(rng: np.random.Generator, kinds: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """A tokenizer of any kind, or of one of these, trained on `CORPUS`; its kind is in its `name_or_path`."""
    kind = str(rng.choice(list(kinds or KINDS)))
    tokenizer = KINDS[kind](rng)
    if rng.random() < 0.6:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
        )
    if rng.random() < 0.4:
        tokenizer.add_tokens([AddedToken("answer is", lstrip=bool(rng.random() < 0.5)), AddedToken(" plum")])
    if rng.random() < 0.3:
        tokenizer.add_special_tokens(["<|end|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=kind == "word pieces" and bool(rng.random() < 0.5),
        chat_template=TEMPLATE,
        name_or_path=kind,
    )


def _train(tokenizer: Tokenizer, trainer: object, lines: Sequence[str] = CORPUS) -> Tokenizer:
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def _byte_level(rng: np.random.Generator) -> Tokenizer:
    """Pairs of bytes, down to none: any text comes back as it was."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(rng.random() < 0.3))
    tokenizer.decoder = decoders.ByteLevel()
    size = int(rng.choice([260, 300, 340]))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _train(tokenizer, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, **_QUIET))


def _byte_fallback(rng: np.random.Generator) -> Tokenizer:
    """Pairs of characters, a mark for spaces, bytes for what is unknown; one leading space goes and comes."""
    plain = Tokenizer(models.BPE(unk_token="<unk>"))
    marks = pre_tokenizers.Metaspace(prepend_scheme=str(rng.choice(["always", "first", "never"])))
    plain.pre_tokenizer = marks
    _train(plain, trainers.BpeTrainer(vocab_size=int(rng.choice([120, 200])), **_QUIET))
    learnt = json.loads(plain.to_str())["model"]
    vocab = dict(learnt["vocab"])
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    merges = [tuple(pair) for pair in learnt["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.pre_tokenizer = marks
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps[: 4 if rng.random() < 0.7 else 3])
    return tokenizer


def _word_pieces(rng: np.random.Generator) -> Tokenizer:
    """Words and their pieces; spaces, often case and what is unknown are lost."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=bool(rng.random() < 0.5))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=bool(rng.random() < 0.5))
    return _train(tokenizer, trainers.WordPieceTrainer(vocab_size=int(rng.choice([110, 160])), **_QUIET))


def _unigrams(rng: np.random.Generator) -> Tokenizer:
    """The most probable pieces of normalised text; what is unknown is lost."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    marks = {"prepend_scheme": str(rng.choice(["always", "never"]))}
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(**marks)
    tokenizer.decoder = decoders.Metaspace(**marks)
    size = int(rng.choice([90, 140]))
    return _train(tokenizer, trainers.UnigramTrainer(vocab_size=size, unk_token="<unk>", **_QUIET))


def _words(rng: np.random.Generator) -> Tokenizer:
    """Whole words and signs, put together with spaces."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    splits = [pre_tokenizers.Whitespace(), pre_tokenizers.WhitespaceSplit()]
    tokenizer.pre_tokenizer = splits[int(rng.integers(2))]
    return _train(tokenizer, trainers.WordLevelTrainer(**_QUIET))


KINDS: dict[str, Callable[[np.random.Generator], Tokenizer]] = {
    "byte level": _byte_level,
    "byte fallback": _byte_fallback,
    "word pieces": _word_pieces,
    "unigrams": _unigrams,
    "words": _words,
}
