"""LoRA adapters: which directory holds one that a stage can answer with, told from its files alone.

    adapter_config.json          peft's settings; only those that say no more than W + (alpha / r) B A
    adapter_model.safetensors    the matrices A and B by module

What changes more than weights (other methods than LoRA, other layers, an initialisation that rewrites the
base model, tokens that switch it on) is refused: engines would answer differently. Scope: files are looked
at, never loaded; neither torch nor peft.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asd.engines.checkpoints.directories import check_pointers
from asd.errors import EngineError
from asd.ladder import Stage
from asd.schema import msgspec
from asd.schema.explained import explained

__all__ = ["Adapter", "adapter_of", "check_fit"]

_LOG = logging.getLogger(__name__)

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"

PLAIN = frozenset(("gaussian", "eva", "orthogonal", "mica", "lora_ga"))
"""Names in `init_lora_weights` that say how training began, no more; the others rewrite the base model."""

NOT_PLAIN = ("megatron_config", "alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora")
"""Settings of peft that bring code, depend on the prompt, or are no sum of two matrices."""


class _Settings(msgspec.Struct, frozen=True):
    peft_type: str
    r: int
    init_lora_weights: bool | str | None = True
    rank_pattern: dict[str, int] | None = None
    base_model_name_or_path: str | None = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter on disk.

    Attributes:
        path: Its directory.
        rank: Largest of its matrices.
        trained_on: Name or directory of the model that it says it was trained on; None: it does not say.
    """

    path: Path
    rank: int
    trained_on: str | None = None

    def warn_of_other_model(self, stage: Stage) -> None:
        """Warn if the stage's model goes by another name than the one that it was trained on.

        A larger model of the same widths has a place for every matrix; then there is nothing else to go by.
        """
        if self.trained_on and Path(self.trained_on).name.lower() != Path(stage.model).name.lower():
            _LOG.warning(
                "stage %r: the adapter %s was trained on %s, and the stage's model is %s; if they are not "
                "the same, name the model that it was trained on",
                stage.name,
                self.path,
                self.trained_on,
                stage.model,
            )


def adapter_of(stage: Stage) -> Adapter | None:
    """The adapter of a stage, checked; None: it has none.

    Raises:
        EngineError: Nothing is there, or no LoRA adapter in safetensors, or one that is more than LoRA.
    """
    if stage.adapter is None:
        return None
    path = Path(stage.adapter).expanduser()
    where = f"stage {stage.name!r}: the adapter {path}"
    if not path.is_dir():
        raise EngineError(f"{where} is not a directory; correct the stage's adapter in the ladder")
    check_pointers(where, path)
    settings = _read(where, path)
    if not (path / WEIGHTS).is_file():
        raise EngineError(_without_weights(where, path))
    largest = max([settings.r, *(settings.rank_pattern or {}).values()])
    return Adapter(path, largest, settings.base_model_name_or_path)


def check_fit(stage: Stage, adapter: Adapter, model: str | Path) -> None:
    """Refuse an adapter with matrices that a model has no place for, or one of another shape.

    For engines that leave such matrices out without a word. Experts go by names of their own and a head that
    is the embedding by none: these are not looked at.

    Args:
        stage: Whose adapter and model.
        adapter: From `adapter_of`.
        model: The model's directory.

    Raises:
        EngineError: It is for another model, or a file is damaged.
    """
    places = _shapes(stage, sorted(Path(model).glob("*.safetensors")))
    for name, shape in _shapes(stage, [adapter.path / WEIGHTS]).items():
        module, factor, _ = name.removeprefix("base_model.model.").rpartition(".lora_")
        if not factor or ".experts" in module or module.endswith("lm_head"):
            continue
        place, side = places.get(f"{module}.weight"), int(".lora_A." in name)
        if place is None or place[side] != shape[side]:
            wanted = "none" if place is None else str(place)
            raise EngineError(
                f"stage {stage.name!r}: the adapter {stage.adapter} does not fit {stage.model}: {name} "
                f"is {shape}, the model's own {module}.weight {wanted}; name the model that it was trained on"
            )


def _shapes(stage: Stage, files: Sequence[Path]) -> dict[str, list[int]]:
    from safetensors import SafetensorError, safe_open  # noqa: PLC0415  (comes with the engines)

    shapes: dict[str, list[int]] = {}
    for path in files:
        try:
            with safe_open(path, "np") as file:
                shapes |= {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise EngineError(f"stage {stage.name!r}: cannot read {path}: {error}; restore it") from error
    return shapes


def _read(where: str, path: Path) -> _Settings:
    try:
        raw = json.loads((path / CONFIG).read_bytes())
        settings = msgspec.convert(raw, _Settings)
    except OSError as error:
        raise EngineError(
            f"{where} has no {CONFIG} that can be read ({error.strerror}); name a directory that peft's "
            "save_pretrained wrote"
        ) from error
    except msgspec.ValidationError as error:
        raise EngineError(
            f"{where}: {CONFIG} is not that of LoRA: {explained(error, _Settings)}; only LoRA adapters are "
            "read"
        ) from error
    except ValueError as error:
        raise EngineError(f"{where}: {CONFIG} is no JSON: {error}; restore the file") from error
    _check_plain(where, settings, raw)
    return settings


def _check_plain(where: str, settings: _Settings, raw: dict[str, object]) -> None:
    if settings.peft_type != "LORA":
        raise EngineError(f"{where} is of the type {settings.peft_type!r}; only LoRA adapters are read")
    if settings.r < 1:
        raise EngineError(f"{where} has the rank r = {settings.r}; a rank is at least 1, restore {CONFIG}")
    init = settings.init_lora_weights
    if isinstance(init, str) and init.lower() not in PLAIN:
        raise EngineError(
            f"{where}: init_lora_weights = {init!r} rewrites the base model; save the adapter again with "
            "peft's path_initial_model_for_weight_conversion, which makes plain LoRA of it"
        )
    if strange := [name for name in NOT_PLAIN if raw.get(name)]:
        raise EngineError(
            f"{where} sets {', '.join(strange)}, which is more than LoRA; merge it with peft "
            "(`merge_and_unload()`), and name what save_pretrained writes as the stage's model"
        )


def _without_weights(where: str, path: Path) -> str:
    if (path / PICKLED).exists():
        return (
            f"{where} has {PICKLED} and no {WEIGHTS}; pickled weights can run code and are never read: save "
            "it again with a newer peft's save_pretrained, which writes safetensors"
        )
    return f"{where} has no {WEIGHTS}; name a directory that peft's save_pretrained wrote"
