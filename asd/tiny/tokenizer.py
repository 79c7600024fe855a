"""The ladder's tokenizer: byte-level BPE of 512 tokens, learnt from the task generators.

Lower-case words (with their leading space) may merge; digits, capitals and punctuation are always single
tokens, so that column arithmetic sees digits and any text at all can be encoded.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from asd.tiny.tasks import LEVELS, draw

VOCAB_SIZE = 512
CORPUS = (
    *("add", "mul", "sum", "reverse", "sort", "close"),
    *("recall", "hop", "encode", "day", "run", "logic", "omen"),
)
"""Families that the vocabulary was learnt from. Fixed: other ones would give other tokens."""
PAD, BOS, EOS = "<pad>", "<s>", "</s>"
CHAT_TEMPLATE = "{{ bos_token + messages[-1]['content'] + '\\n' }}"
"""A question is asked by ending its line."""
_WORDS_OR_CHARACTERS = r" ?[a-z]+|[^a-z]"


def _corpus(seed: int, per_cell: int = 200) -> Iterator[str]:
    rng = np.random.default_rng(seed)
    for family in CORPUS:
        for level in LEVELS:
            for _ in range(per_cell):
                item = draw(rng, family, level, "train")
                yield item.prompt + item.answer


def build_tokenizer(seed: int = 0, context: int = 512) -> PreTrainedTokenizerFast:
    """Learn the tokenizer from training questions; the same seed gives the same vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS_OR_CHARACTERS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(seed), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
