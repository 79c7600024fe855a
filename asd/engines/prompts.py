"""What every engine does with text before a model sees it: queries to token ids, checked.

Scope: tokenizers of `transformers` as they come, plain lists of ids out; no model, no device.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
from dataclasses import replace
from datetime import datetime
from string import ascii_letters
from typing import Any

from asd.errors import ConfigError, EngineError, PromptTooLongError, RefusedError
from asd.ladder import Stage
from asd.messages import as_messages
from asd.stops import MOST
from asd.types import Query

__all__ = [
    "as_read",
    "as_written",
    "chat_of",
    "check",
    "check_extras",
    "check_template",
    "check_vocabulary",
    "encode",
]

_LOG = logging.getLogger(__name__)

_NO_TEXT = re.compile("[\ud800-\udfff]")
"""What Python makes of bytes that are not UTF-8."""

VARIABLES = {"tools", "documents"}
"""Arguments of `apply_chat_template` that it hands to the template; the others control how it is applied."""

GIVEN = {"system", "developer", "user"}
"""Roles whose messages a template has to hand on word for word."""

PROBE = Query(id="probe", dataset="load", prompt="What is the capital of France?")
"""What a stage's template and tokenizer are tried on when it is loaded."""

INSTRUCTED = Query.chat(
    "probe", "load", [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROBE.prompt}]
)
"""The same with an instruction: some templates print the date only there."""

DAYS = (datetime(1999, 12, 31, 23, 59, 59), datetime(2031, 1, 1), datetime(2044, 7, 16, 12, 30))
"""Moments that every way of writing a date or an hour distinguishes."""


def encode(query: Query, stage: Stage, tokenizer: Any, context: int | None, n_vocab: int) -> list[int]:
    """Token ids of a prompt that is known to fit with its answer.

    Args:
        query: What is asked; its messages go through the chat template of a stage that has one.
        stage: Whom it is for.
        tokenizer: The stage's.
        context: The stage's number of positions (None: unbounded).
        n_vocab: Number of tokens that its model knows.

    Raises:
        ConfigError: The prompt is empty or there is no room for an answer.
        RefusedError: As `as_read` and `check_extras`, or the model does not know the prompt's tokens.
        PromptTooLongError: Prompt and room exceed the context.
    """
    check(query)
    check_extras(query, stage, frozenset())
    tokens = _tokens(query, stage, tokenizer)
    where = _named(query)
    if not tokens:
        raise ConfigError(f"{where} has a prompt without tokens; give it some text")
    if max(tokens) >= n_vocab:
        raise RefusedError(
            f"{where}: the model of stage {stage.name!r} knows {n_vocab} tokens, not "
            f"{tokenizer.convert_ids_to_tokens(max(tokens))!r}; leave that out of the prompt"
        )
    if context is not None and len(tokens) + query.max_new_tokens > context:
        raise PromptTooLongError(
            f"{where}: {len(tokens)} prompt tokens and room for {query.max_new_tokens} new ones exceed "
            f"the context of stage {stage.name!r}, {context} tokens; shorten the prompt or "
            "lower max_new_tokens"
        )
    return tokens


def check(query: Query) -> None:
    """Refuse a query that no model can answer.

    Raises:
        ConfigError: The prompt is empty or no text, there is no room for an answer, the messages are no
            conversation that ends with the prompt, or a stop string is empty or there are too many.
    """
    where = _named(query)
    if query.max_new_tokens < 1:
        raise ConfigError(f"{where}: max_new_tokens must be at least 1, not {query.max_new_tokens}")
    if not query.prompt:
        raise ConfigError(f"{where} has an empty prompt; give it some text")
    if query.messages and as_messages(query.messages)[-1].content != query.prompt:
        raise ConfigError(f"{where} has another prompt than its last message; make it with Query.chat")
    _check_stop(query)
    for message in query.conversation:
        if not message.content.isascii() and _NO_TEXT.search(message.content):
            raise ConfigError(f"{where} has a prompt with bytes that are not UTF-8; give it text in UTF-8")


def check_extras(query: Query, stage: Stage, accepts: frozenset[str]) -> None:
    """Refuse a query with extras that a stage cannot follow.

    Raises:
        RefusedError: It names them.
    """
    if missing := query.needs - accepts:
        raise RefusedError(
            f"{_named(query)} needs {', '.join(sorted(missing))}, and stage {stage.name!r} does not take "
            "that; a stage behind a server may: options.openai = { accepts = [...] }"
        )


def _check_stop(query: Query) -> None:
    where = f"{_named(query)} has stop strings {query.stop!r}"
    if not all(isinstance(string, str) and string for string in query.stop):
        raise ConfigError(f"{where}; give texts that are not empty")
    if any(_NO_TEXT.search(string) for string in query.stop):
        raise ConfigError(f"{where} with bytes that are not UTF-8; give text in UTF-8")
    if len(query.stop) > MOST:
        raise ConfigError(f"{where}; give at most {MOST}")


def chat_of(query: Query) -> list[dict[str, str]]:
    """A query as chat templates and servers take it: one dict a message."""
    return [{"role": message.role, "content": message.content} for message in query.conversation]


def as_written(query: Query, stage: Stage) -> str:
    """The prompt as it stands, for a stage without a chat template.

    Raises:
        RefusedError: It is a conversation.
    """
    if query.messages:
        raise RefusedError(
            f"{_named(query)} is a conversation of {len(query.messages)} messages, and stage {stage.name!r} "
            "has no chat template: set chat_template = true in the ladder if its model has one, or "
            "ask with one prompt"
        )
    return query.prompt


def as_read(query: Query, stage: Stage, tokenizer: Any) -> str:
    """The prompt as the stage reads it: in its chat template, without the tokens that the tokenizer adds.

    Raises:
        RefusedError: The template fails on it or leaves a message out, or there is none for a conversation.
    """
    if not stage.chat_template:
        return as_written(query, stage)
    chat, kwargs = chat_of(query), stage.chat_template_kwargs
    try:
        text = str(tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False, **kwargs))
    except Exception as error:  # a template is a program, and raises what it likes
        raise RefusedError(
            f"{_named(query)}: the chat template of stage {stage.name!r} fails on {_roles(query)}: "
            f"{_told(error)}; {_other_prompt(query)}, or correct the template of {stage.model}"
        ) from error
    _check_whole(query, stage, text)
    return text


def _check_whole(query: Query, stage: Stage, text: str) -> None:
    """No instruction may get lost; what templates do to answers (thoughts) and tools' output is theirs."""
    for message in query.messages:
        if message.role in GIVEN and message.content.strip() not in text:
            raise RefusedError(
                f"{_named(query)}: the chat template of stage {stage.name!r} leaves out its message of role "
                f"{message.role!r}; {_other_prompt(query)}"
            )


def _named(query: Query) -> str:
    return f"query {query.id!r} of {query.dataset!r}"


def _roles(query: Query) -> str:
    if not query.messages:
        return "it"
    return f"its messages (roles {', '.join(message.role for message in query.messages)})"


def _other_prompt(query: Query) -> str:
    if {"system", "developer"} & {message.role for message in query.messages}:
        return "put the system message's text at the beginning of the first user message"
    return "change the prompt" if not query.messages else "change the messages"


def _tokens(query: Query, stage: Stage, tokenizer: Any) -> list[int]:
    text = as_read(query, stage, tokenizer)
    tokens: list[int] = tokenizer(text, add_special_tokens=not stage.chat_template)["input_ids"]
    return tokens


def _told(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}"


def check_template(stage: Stage, tokenizer: Any) -> None:
    """The stage's `chat_template` and `chat_template_kwargs` against its tokenizer.

    Raises:
        ConfigError: The template has no such variables, or they are not to be set.
        EngineError: The stage asks for a template and the tokenizer has none, or one that does not take a
            user's message. That a template is left out may be meant, so it is only logged.
    """
    if stage.chat_template and tokenizer.chat_template is None:
        raise EngineError(
            f"stage {stage.name!r}: chat_template = true, but the tokenizer of {stage.model} has none; "
            "set chat_template = false for a base model"
        )
    taken = inspect.signature(tokenizer.apply_chat_template).parameters.keys() - VARIABLES
    for name in stage.chat_template_kwargs:
        if name in taken or not re.search(rf"\b{re.escape(name)}\b", str(tokenizer.chat_template)):
            raise ConfigError(
                f"stage {stage.name!r}: the chat template of {stage.model} has no variable {name!r} that "
                "chat_template_kwargs could set; correct its name or leave it out"
            )
    if not stage.chat_template and tokenizer.chat_template is not None:
        _LOG.warning(
            "stage %r: prompts are given as they stand, although the tokenizer of %s has a chat template; "
            "chat_template = true in the ladder uses it",
            stage.name,
            stage.model,
        )
    _try_template(stage, tokenizer)


def _try_template(stage: Stage, tokenizer: Any) -> None:
    where = f"stage {stage.name!r}: the chat template of {stage.model}"
    remedy = "correct it where the tokenizer's files are, or set chat_template = false in the ladder"
    try:
        text = as_read(PROBE, stage, tokenizer)
    except RefusedError as error:
        raise EngineError(
            f"{where} fails on one message of a user: {_told(error.__cause__)}; {remedy}"
        ) from error
    if PROBE.prompt not in text:
        raise EngineError(f"{where} leaves the user's message out; {remedy}")
    if damaged := {"\0", "\ufffd"} & set(text):
        raise EngineError(f"{where} is damaged: it writes the character {damaged.pop()!a}; {remedy}")
    if stage.chat_template and "strftime_now" in str(tokenizer.chat_template):
        _warn_of_dates(stage, tokenizer, where)


def _warn_of_dates(stage: Stage, tokenizer: Any, where: str) -> None:
    """Render on several days: where they differ, answers change from day to day."""
    if any(len({_on(day, query, stage, tokenizer) for day in DAYS}) > 1 for query in (PROBE, INSTRUCTED)):
        _LOG.warning(
            "%s looks at today's date, so that answers may change from day to day; collect on one day, or "
            "set the date in chat_template_kwargs if the template has a variable for it",
            where,
        )


def _on(day: datetime, query: Query, stage: Stage, tokenizer: Any) -> str | None:
    """The query as the stage reads it that day; None where the template fails on it."""
    template = {"chat_template": _clock(day) + tokenizer.get_chat_template()}
    try:
        return as_read(
            query, replace(stage, chat_template_kwargs={**stage.chat_template_kwargs, **template}), tokenizer
        )
    except RefusedError:
        return None


def _clock(day: datetime) -> str:
    """A macro in place of the library's `strftime_now`: templates are given data, never functions."""
    codes = [f"%{flag}{letter}" for flag in ("", "-") for letter in ascii_letters]
    written = json.dumps({code: day.strftime(code) for code in codes})
    return (
        "{% macro strftime_now(format) %}{% set day = namespace(text=format) %}"
        f"{{% for code, value in {written} .items() %}}"
        "{% set day.text = day.text.replace(code, value) %}{% endfor %}{{ day.text }}{% endmacro %}"
    )


def check_vocabulary(stage: Stage, tokenizer: Any, n_vocab: int) -> None:
    """Whether the model knows the tokens that its tokenizer puts into any prompt.

    Args:
        stage: Whose, after `check_template`.
        tokenizer: The stage's.
        n_vocab: Number of tokens that its model knows.

    Raises:
        EngineError: It does not know all of them. A tokenizer may have others, for images perhaps, that no
            prompt holds unless somebody writes them out.
    """
    largest = max(_tokens(PROBE, stage, tokenizer), default=0)
    if largest >= n_vocab:
        token = tokenizer.convert_ids_to_tokens(largest)
        raise EngineError(
            f"stage {stage.name!r}: the tokenizer of {stage.model} puts {token!r} (token {largest}) into "
            f"prompts, and the model knows {n_vocab} tokens; take both from one place, or resize the model "
            "(resize_token_embeddings) and train it on what was added"
        )
