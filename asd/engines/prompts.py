"""What every engine does with text before a model sees it: queries to token ids, checked.

The border: tokenizers of `transformers` as they come, plain lists of ids out; no model, no device.
"""

from __future__ import annotations

from typing import Any

from asd.errors import ConfigError, PromptTooLongError
from asd.ladder import Stage
from asd.types import Query

__all__ = ["encode"]


def encode(query: Query, stage: Stage, tokenizer: Any, context: int | None) -> list[int]:
    """Token ids of a prompt that is known to fit with its answer.

    Args:
        query: Whose prompt; goes in as one user message where the stage has a chat template.
        stage: Whom it is for.
        tokenizer: The stage's.
        context: The stage's number of positions (None: unbounded).

    Raises:
        ConfigError: The prompt is empty or there is no room for an answer.
        PromptTooLongError: Prompt and room exceed the context.
    """
    where = f"query {query.id!r} of {query.dataset!r}"
    if query.max_new_tokens < 1:
        raise ConfigError(f"{where}: max_new_tokens must be at least 1, not {query.max_new_tokens}")
    tokens = _tokenize(query.prompt, stage, tokenizer) if query.prompt else []
    if not tokens:
        raise ConfigError(f"{where} has an empty prompt; give it some text")
    if context is not None and len(tokens) + query.max_new_tokens > context:
        raise PromptTooLongError(
            f"{where}: {len(tokens)} prompt tokens and room for {query.max_new_tokens} new ones exceed "
            f"the context of stage {stage.name!r}, {context} tokens; shorten the prompt or "
            "lower max_new_tokens"
        )
    return tokens


def _tokenize(prompt: str, stage: Stage, tokenizer: Any) -> list[int]:
    if not stage.chat_template:
        return list(tokenizer(prompt)["input_ids"])
    chat = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
