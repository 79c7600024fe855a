"""Runs a stage on an OpenAI-compatible server; the way to several machines.

One server a stage, each spread over as many devices and nodes as it likes:

    [[stages]]
    name = "large"
    model = "Qwen/Qwen2.5-72B"
    engine = "openai"
    options.openai = { base_url = "http://gpu-3:8000/v1", dialect = "vllm", api_key_env = "GPU_3_KEY" }

`asd.engines.http.settings.OpenAISettings` lists the keys. Any such server answers
(`asd.engines.http.engine`); vLLM's also verifies drafts (`asd.engines.http.vllm`). Start it with
`--generation-config vllm`: what a checkpoint suggests about sampling would change greedy answers too.

A server may want requests of another form, as OpenAI's reasoning models do, or report no usage:

    [stages.options.openai]
    base_url = "https://api.openai.com/v1"
    api_key_env = "OPENAI_API_KEY"
    logprobs = false
    max_tokens_field = "max_completion_tokens"
    omit = ["temperature", "top_p"]
    extra_body = { reasoning_effort = "low" }
    tokenizer = "./weights/tokenizer"            # counts where the server does not
"""

from __future__ import annotations

from asd.engines.http.engine import OpenAIEngine
from asd.engines.http.settings import OpenAISettings
from asd.engines.http.vllm import VllmServerEngine
from asd.errors import ConfigError
from asd.ladder import Stage

__all__ = ["open_stage"]


def open_stage(stage: Stage, device: str | None = None) -> OpenAIEngine:  # noqa: ARG001 - the server has its own
    """The engine for the server that a stage names.

    Args:
        stage: With `options.openai`.
        device: For the stages that run here; a server has its own.

    Raises:
        ConfigError: The options are missing or wrong, or the key's variable is not set; the stage has an
            adapter, which a server is started with.
    """
    if stage.adapter is not None:
        raise ConfigError(
            f"stage {stage.name!r}: adapter = {stage.adapter!r}, but a server has its adapters under names "
            "of its own: start it with this one (vllm serve MODEL --enable-lora --lora-modules NAME=PATH), "
            "give the stage model = NAME, and drop adapter"
        )
    return VllmServerEngine(stage) if OpenAISettings.of(stage).dialect == "vllm" else OpenAIEngine(stage)
