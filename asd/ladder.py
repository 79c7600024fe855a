"""A ladder: the stages of a cascade, small to large, and what running them costs.

    ladder = Ladder.load("qwen2.5")           # a preset; Ladder.load("mine.toml") reads a file

A ladder file names its stages, cheapest first, and holds their prices or names the file that does:

    name = "mine"
    price_unit = "ms"                # or: prices = "mine-prices.json", which may price other stages too
    prices_measured = "one H100, bfloat16, batch 1, 2026-01-31"
    money = { currency = "EUR", per_unit = 5.5e-7 }            # if need be: what one price unit is worth

    [[stages]]
    name = "small"
    model = "./weights/small"     # a path if it starts with ".", "/" or "~", from here; else a hub repository
    prices = { per_call = 2.0, per_prompt_token = 0.1, per_decoded_token = 8.0 }
    batched.16 = { per_call = 0.2, per_prompt_token = 0.05, per_decoded_token = 1.0 }    # of 16 a call
    options.vllm = { max_model_len = 8192 }    # if need be: settings for one engine
    only = { domain = ["mathematical"] }       # if need be: asked for queries of these domains alone
    adapter = "loras/sums"        # if need be: a LoRA adapter's directory, from here

Unknown keys are rejected. Nothing here touches a model; an engine opens a `Stage`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from asd.errors import ConfigError
from asd.prices import Money, PriceFile, Prices, check_prices, read_prices
from asd.schema import msgspec
from asd.schema.explained import explained
from asd.types import DOMAINS, STOP, VERIFY, Usage

__all__ = ["PRESETS", "TINY_POLICY", "Drafter", "Ladder", "Stage"]

PRESETS = Path(__file__).parent / "presets"
"""Where the ladders that ship with the package are."""

TINY_POLICY = PRESETS.parent / "tiny" / "policy.json"
"""The fitted policy of the embedded ladder."""

REFERENCE_CALL = Usage(n_prompt=100, n_decoded=100, n_passes=100)
"""The call by whose cost stages are put in order."""

ROOT = "root"
"""Name of the node before any stage has answered; no stage may be called so."""

T = TypeVar("T")

DTYPES = ("auto", "float32", "bfloat16", "float16")


class Drafter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A smaller stage that drafts while a stage writes: which, and how many tokens at a time."""

    stage: str
    block: int


@dataclass(frozen=True, slots=True)
class Stage:
    """One model of the ladder: where its weights are, how it is loaded, what a call costs.

    Attributes:
        name: Unique in the ladder; without "+" and ">", which join stage names.
        model: Repository on the Hugging Face hub, or the path of a directory.
        prices: What a call of one query costs.
        batched: By batch size above 1, what a query's share of such a call costs.
        dtype: "auto" (the checkpoint's; float32 on a CPU unless it is quantised), "float32", "bfloat16" or
            "float16".
        tensor_parallel: Devices the model is spread over.
        memory_gib: Memory the weights take, over all devices; None: not known.
        chat_template: Wrap the prompt in the tokenizer's chat template.
        chat_template_kwargs: Variables that the template is given, as `{"enable_thinking": False}`.
        engine: What runs it, one of `asd.engines.registry.ENGINES`, or "module:Class"; None: as the run says.
        drafter: Drafts for it where that pays (`Prices.per_drafted`); None: nobody.
        only: Domains of the queries that a cascade asks it for (`asd.types.DOMAINS`); empty: all queries.
        adapter: Directory of a LoRA adapter that the model answers with; None: it answers as it is.
        options: Further settings, by the engine they are for; they change how a stage runs, never what it is.
    """

    name: str
    model: str
    prices: Prices
    dtype: str = "auto"
    tensor_parallel: int = 1
    memory_gib: float | None = None
    chat_template: bool = False
    engine: str | None = None
    options: Mapping[str, Mapping[str, object]] = field(default_factory=dict, hash=False)
    batched: Mapping[int, Prices] = field(default_factory=dict, hash=False)
    drafter: Drafter | None = None
    chat_template_kwargs: Mapping[str, object] = field(default_factory=dict, hash=False)
    only: tuple[str, ...] = ()
    adapter: str | None = None

    @property
    def model_name(self) -> str:
        """Repository or last part of a directory, and that of the adapter: the same on every machine."""
        name = Path(self.model).name if Path(self.model).is_absolute() else self.model
        return name if self.adapter is None else f"{name} with {Path(self.adapter).name}"


class Deployment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a ladder is run where it answers (`asd generate`, `asd.load`); never where it is measured.

    Attributes:
        memory_gib: What the weights of all stages may take together; stages that do not fit take turns
            (`asd.engines.residency`), and the policy reckons with the price of a load. None: as much as it
            takes.
        pinned: Stages that stay in memory once loaded.
        response_cache: File in which greedy answers are kept and looked up (`asd.engines.cache`); None:
            nowhere.
    """

    memory_gib: float | None = None
    pinned: tuple[str, ...] = ()
    response_cache: str | None = None


@dataclass(frozen=True, slots=True)
class Ladder:
    """Stages in order of cost, cheapest first.

    Attributes:
        name: What reports call it.
        stages: At least one; in order of the cost of a call with 100 prompt and 100 decoded tokens.
        price_unit: Unit of all prices: "ms", "usd", "declared".
        prices_measured: Where, when and how the prices were measured, or who declared them.
        deployment: How it is run where it answers.
        money: What a price unit is worth; None: nobody has said.

    Raises:
        ConfigError: The ladder contradicts the above, or a value is out of range.
    """

    name: str
    stages: tuple[Stage, ...]
    price_unit: str
    prices_measured: str
    deployment: Deployment = field(default_factory=Deployment)
    money: Money | None = None

    def __post_init__(self) -> None:
        if not self.stages:
            raise ConfigError(f"ladder {self.name!r} has no stages; give it at least one")
        names = [stage.name for stage in self.stages]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"ladder {self.name!r} names stages twice: {twice}; rename one of each")
        for stage in self.stages:
            _check_stage(stage, f"ladder {self.name!r}, stage {stage.name!r}")
        _check_order(self)
        _check_drafters(self)
        if self.stages[-1].only:
            raise ConfigError(
                f"ladder {self.name!r}: its largest stage, {self.stages[-1].name!r}, answers what no other "
                "may; drop its only"
            )

    @classmethod
    def load(cls, name_or_path: str | Path) -> Ladder:
        """A preset by its name, or the ladder in a TOML file.

        Anything that ends in ".toml" or contains a directory is a path.

        Raises:
            ConfigError: No such preset or file, an unknown or missing key, a value out of range.
        """
        path = Path(name_or_path)
        if path.suffix != ".toml" and path.name == str(path):
            path = PRESETS / f"{name_or_path}.toml"
            if not path.exists():
                presets = ", ".join(sorted(preset.stem for preset in PRESETS.glob("*.toml")))
                raise ConfigError(
                    f"no ladder named {str(name_or_path)!r}; there are {presets}; or give the path of "
                    "a .toml file"
                )
        return _read(path)

    @property
    def only(self) -> dict[str, frozenset[str]]:
        """Domains by stage, of the stages that are for some only."""
        return {stage.name: frozenset(stage.only) for stage in self.stages if stage.only}

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes that every stage has prices for, ascending; 1 is always among them."""
        return (1, *sorted(set.intersection(*(set(stage.batched) for stage in self.stages))))

    def prices_at(self, batch: int = 1) -> dict[str, Prices]:
        """What a query costs in calls of `batch` queries, by stage.

        Milliseconds hold for the batch size they were measured at, other prices (declared ones, those of a
        list) for every one.

        Raises:
            ConfigError: Prices are in milliseconds, and nobody has measured them at this batch size.
        """
        if batch in self.batches:
            return {stage.name: stage.batched.get(batch, stage.prices) for stage in self.stages}
        if self.price_unit == "ms":
            raise ConfigError(
                f"ladder {self.name!r} has prices at batch {', '.join(map(str, self.batches))}, not {batch}; "
                f"measure them: asd price --batch 1,{batch}"
            )
        return {stage.name: stage.prices for stage in self.stages}

    @property
    def fingerprint(self) -> str:
        """Hash of what a fitted policy depends on: the stages in order, their models and their prices.

        Prices at other batch sizes than 1 do not enter, for a policy can be solved with any; nor do the place
        where the ladder runs and that of its weights: of a path its last part counts.
        """
        stages = [
            {
                "name": stage.name,
                "model": Path(stage.model).name if _is_path(stage.model) else stage.model,
                "dtype": stage.dtype,
                "chat_template": stage.chat_template,
                "prices": stage.prices.known(),
            }
            | ({"drafter": msgspec.structs.asdict(stage.drafter)} if stage.drafter else {})
            | ({"chat_template_kwargs": stage.chat_template_kwargs} if stage.chat_template_kwargs else {})
            | ({"only": sorted(stage.only)} if stage.only else {})
            | ({"adapter": Path(stage.adapter).name} if stage.adapter else {})
            for stage in self.stages
        ]
        content = json.dumps({"price_unit": self.price_unit, "stages": stages}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


class _Only(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    domain: tuple[str, ...]


class _StageTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A `Stage` before its prices are found, which may be in another file, and the path of its weights."""

    name: str
    model: str
    prices: Prices | None = None
    batched: dict[int, Prices] = {}
    dtype: str = "auto"
    tensor_parallel: int = 1
    memory_gib: float | None = None
    chat_template: bool = False
    engine: str | None = None
    options: dict[str, dict[str, object]] = {}
    drafter: Drafter | None = None
    chat_template_kwargs: dict[str, object] = {}
    only: _Only | None = None
    adapter: str | None = None


class _LadderFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    stages: tuple[_StageTable, ...]
    prices: str | None = None
    price_unit: str | None = None
    prices_measured: str | None = None
    deployment: Deployment = Deployment()
    money: Money | None = None


def _read(path: Path) -> Ladder:
    file = _decode(path, msgspec.toml.decode, _LadderFile)
    table = _price_table(file, path)
    for of_batch in (table.stages, *table.batched.values()):
        if not of_batch.keys() >= {row.name for row in file.stages}:
            raise ConfigError(
                f"{path}: prices are given for {sorted(of_batch)}, the stages are "
                f"{sorted(row.name for row in file.stages)}; give every stage its prices"
            )
    stages = tuple(_stage(row, table, path) for row in file.stages)
    deployment, cache = file.deployment, file.deployment.response_cache
    if cache is not None:
        deployment = msgspec.structs.replace(deployment, response_cache=str(path.parent / cache))
    return Ladder(file.name, stages, table.price_unit, table.prices_measured, deployment, file.money)


def _stage(row: _StageTable, table: PriceFile, path: Path) -> Stage:
    found: dict[str, Any] = {
        "model": _resolve(row.model, path.parent),
        "prices": table.stages[row.name],
        "batched": {batch: of_batch[row.name] for batch, of_batch in table.batched.items()},
        "only": _domains(row.only, f"{path}, stage {row.name!r}"),
        "adapter": row.adapter and _absolute(row.adapter, path.parent),
    }
    return Stage(**msgspec.structs.asdict(row) | found)


def _domains(only: _Only | None, where: str) -> tuple[str, ...]:
    if only is not None and not only.domain:
        raise ConfigError(f"{where}: only names no domain; name some of {', '.join(DOMAINS)}, or drop it")
    return () if only is None else only.domain


def _price_table(file: _LadderFile, path: Path) -> PriceFile:
    """The prices, from the ladder file itself or from the one it names."""
    own = {row.name: row.prices for row in file.stages if row.prices is not None}
    sizes = sorted({batch for row in file.stages for batch in row.batched})
    batched = {b: {row.name: row.batched[b] for row in file.stages if b in row.batched} for b in sizes}
    if file.prices is not None:
        if own or batched or file.price_unit is not None or file.prices_measured is not None:
            raise ConfigError(
                f"{path} holds prices and names a price file, {file.prices!r}; keep one of them"
            )
        return read_prices(path.parent / file.prices)
    if file.price_unit is None or file.prices_measured is None:
        raise ConfigError(
            f"{path}: give price_unit and prices_measured, or the name of a price file in prices"
        )
    return PriceFile(file.price_unit, file.prices_measured, own, batched)


def _decode(path: Path, decode: Callable[..., T], kind: type[T]) -> T:
    try:
        return decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise ConfigError(f"cannot read the ladder file {path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not a ladder file: {explained(error, kind)}") from error


def _is_path(model: str) -> bool:
    return model.startswith((".", "/", "~"))


def _resolve(model: str, directory: Path) -> str:
    return _absolute(model, directory) if _is_path(model) else model


def _absolute(path: str, directory: Path) -> str:
    return str((directory / Path(path).expanduser()).resolve())


def _check_stage(stage: Stage, where: str) -> None:
    if not stage.name or set("+" + VERIFY) & set(stage.name) or stage.name in (str(STOP), ROOT):
        raise ConfigError(
            f"{where}: a stage needs a name, without '+' and {VERIFY!r}, "
            f"and other than {str(STOP)!r} and {ROOT!r}"
        )
    if "" in (stage.model, stage.adapter):
        empty = "adapter" if stage.model else "model"
        raise ConfigError(f"{where}: {empty} is empty; name a directory, or for model a hub repository")
    if stage.dtype not in DTYPES:
        raise ConfigError(f"{where}: dtype must be one of {', '.join(DTYPES)}, not {stage.dtype!r}")
    if stage.tensor_parallel < 1:
        raise ConfigError(f"{where}: tensor_parallel must be at least 1, not {stage.tensor_parallel}")
    if stage.memory_gib is not None and not (math.isfinite(stage.memory_gib) and stage.memory_gib > 0):
        raise ConfigError(f"{where}: memory_gib must be a positive number, not {stage.memory_gib}")
    if stage.chat_template_kwargs and not stage.chat_template:
        raise ConfigError(f"{where}: chat_template_kwargs are for a chat template; set chat_template = true")
    unknown = [domain for domain in stage.only if domain not in DOMAINS]
    if unknown:
        raise ConfigError(f"{where}: only names the domains {unknown}; there are {', '.join(DOMAINS)}")
    _check_stage_prices(stage, where)


def _check_stage_prices(stage: Stage, where: str) -> None:
    check_prices(stage.prices, where)
    for batch, prices in stage.batched.items():
        if batch < 2:
            raise ConfigError(f"{where}: batched prices are for 2 queries a call or more, not {batch}")
        check_prices(prices, f"{where}, batch {batch}")


def _check_drafters(ladder: Ladder) -> None:
    for i, stage in enumerate(ladder.stages):
        where, drafter = f"ladder {ladder.name!r}, stage {stage.name!r}", stage.drafter
        if drafter is None and any(
            p.per_drafted is not None for p in (stage.prices, *stage.batched.values())
        ):
            raise ConfigError(f"{where} has a price per_drafted and no drafter; name one or drop the price")
        if drafter is None:
            continue
        smaller = [other.name for other in ladder.stages[:i]]
        if drafter.stage not in smaller:
            raise ConfigError(f"{where}: its drafter is {drafter.stage!r}, not a smaller stage, of {smaller}")
        if drafter.block < 1:
            raise ConfigError(f"{where}: a drafter writes blocks of at least 1 token, not {drafter.block}")


def _check_order(ladder: Ladder) -> None:
    for cheaper, dearer in pairwise(ladder.stages):
        costs = cheaper.prices.cost(REFERENCE_CALL), dearer.prices.cost(REFERENCE_CALL)
        if costs[0] > costs[1]:
            raise ConfigError(
                f"ladder {ladder.name!r}: stages must be in ascending order of cost, but {cheaper.name!r} "
                f"costs {costs[0]:g} {ladder.price_unit} and the next, {dearer.name!r}, {costs[1]:g} for "
                f"{REFERENCE_CALL.n_prompt} prompt and {REFERENCE_CALL.n_decoded} decoded tokens"
            )
