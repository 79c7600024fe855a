"""Token counts where a server reports none: from log-probabilities, or with a tokenizer."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import Any

from asd.engines.http.schema import Written
from asd.engines.prompts import as_read, check_template
from asd.errors import ConfigError, EngineError
from asd.ladder import Stage
from asd.types import Query, Usage

__all__ = ["Counter"]

_LOG = logging.getLogger(__name__)


class Counter:
    """Counts of one stage's answers.

    Args:
        stage: Whose; its prices say whether prompt tokens matter.
        tokenizer: Directory or hub repository of a tokenizer; None: there is none to count with.
    """

    def __init__(self, stage: Stage, tokenizer: str | None) -> None:
        self._stage = stage
        self._name = tokenizer
        self._tokenizer: Any = None
        self._loading = threading.Lock()
        self._warned = False

    def usage(self, query: Query, written: Written) -> Usage:
        """What the server counted, and where it did not, what can be counted here.

        Raises:
            ConfigError: The tokenizer cannot be loaded, or has other template variables than the stage.
            EngineError: It takes a tokenizer, and the stage names none, or one without its chat template.
        """
        n_decoded = written.n_decoded or self._n_written(query, written)
        return Usage(
            n_prompt=written.n_prompt or self._n_read(query), n_decoded=n_decoded, n_passes=n_decoded
        )

    def _n_written(self, query: Query, written: Written) -> int:
        n = len(written.tokens) or len(written.logprobs)
        said = written.text + "".join(str(call) for call in written.tool_calls)
        if n or not said:
            return n or (query.max_new_tokens if written.is_cut else 1)  # an end is a token too
        if self._name is None:
            raise self._uncountable("the tokens of its answers")
        return len(self._ids(said)) + written.finished

    def _n_read(self, query: Query) -> int:
        if self._name is not None and not query.extras:
            prompt = as_read(query, self._stage, self._loaded())
            return len(self._ids(prompt, add_special_tokens=not self._stage.chat_template))
        prices = (self._stage.prices, *self._stage.batched.values())
        if any(price.per_prompt_token for price in prices):
            raise self._uncountable("prompt tokens, which have a price")
        self._warn()
        return 0

    def _uncountable(self, what: str) -> EngineError:
        return EngineError(
            f"the server of stage {self._stage.name!r} does not count {what} (no usage in its reply); name a "
            'tokenizer to count with: options.openai = { tokenizer = "directory or hub repository", ... }'
        )

    def _warn(self) -> None:
        with self._loading:
            if not self._warned:
                _LOG.warning(
                    "stage %r: its server does not count prompt tokens; they are recorded as 0, as they cost "
                    "nothing here; options.openai.tokenizer names a tokenizer to count with",
                    self._stage.name,
                )
            self._warned = True

    def _ids(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        ids: list[int] = self._loaded()(text, add_special_tokens=add_special_tokens)["input_ids"]
        return ids

    def _loaded(self) -> Any:
        with self._loading:
            if self._tokenizer is None:
                self._tokenizer = _load(self._stage, str(self._name))
            return self._tokenizer


def _load(stage: Stage, name: str) -> Any:
    where = f"stage {stage.name!r}: options.openai.tokenizer = {name!r}"
    try:
        from transformers import AutoTokenizer  # noqa: PLC0415  (servers that count need none)
    except ImportError as error:
        raise ConfigError(
            f"{where} needs a library that is not here: pip install 'asd[transformers]'"
        ) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ConfigError(f"{where} cannot be loaded: {error}") from error
    check_template(replace(stage, model=name), tokenizer)
    return tokenizer
