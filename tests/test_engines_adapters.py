"""Stages with a LoRA adapter answer what the merged model answers; what does not fit is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from asd.cascade import Cascade
from asd.collection import header_for
from asd.engines.checkpoints.adapters import adapter_of, check_fit
from asd.engines.hf import adapter as hf_adapter
from asd.engines.hf.engine import TransformersEngine
from asd.engines.http.stages import open_stage
from asd.engines.residency import Residency
from asd.engines.revisions import revision, revisions, same_revision
from asd.errors import ConfigError, EngineError
from asd.ladder import Ladder, Stage
from asd.policies import Lossless
from asd.prices import Prices
from asd.types import Query
from tests.adapted import merged_model, save_random_adapter
from tests.models import save_random_model, stage
from tests.served import stage as served_stage

pytestmark = pytest.mark.usefixtures("one_thread")

LETTERS = list("abcdefghijklmnopqrstuvwxyz 0123456789+.")
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_adapter(base, tmp_path_factory.mktemp("adapters") / "sums")


@pytest.fixture
def copy(adapter: Path, tmp_path: Path) -> Path:
    """The adapter, to be spoiled."""
    return shutil.copytree(adapter, tmp_path / "copy")


def questions(n: int, seed: int = 0) -> list[Query]:
    rng = np.random.default_rng(seed)
    prompts = ["".join(rng.choice(LETTERS, size=rng.integers(2, 20))) for _ in range(n)]
    return [Query(str(i), "d", p, None, int(rng.integers(2, 24))) for i, p in enumerate(prompts)]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_answers_are_those_of_the_merged_model(tmp_path: Path, family: str) -> None:
    """Token for token those of `generate()`, in batches; another text than without the adapter."""
    base = save_random_model(tmp_path / "base", family)
    adapter = save_random_adapter(base, tmp_path / "adapter")
    model, tokenizer = merged_model(base, adapter), AutoTokenizer.from_pretrained(base)
    asked = questions(12)
    found = TransformersEngine(stage(base, adapter=str(adapter)), "cpu").generate(asked)
    for query, draft in zip(asked, found, strict=True):
        ids = tokenizer(query.prompt, return_tensors="pt")["input_ids"]
        written = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=query.max_new_tokens
        )
        assert draft.tokens == tuple(written[0, ids.shape[1] :].tolist())
    plain = TransformersEngine(stage(base), "cpu").generate(asked)
    assert sum(a.tokens != b.tokens for a, b in zip(plain, found, strict=True)) >= 6


def test_verifying_with_and_drafts_of_an_adapted_stage_are_lossless(base: Path, adapter: Path) -> None:
    """Either way round the text is what the verifier writes alone; some drafts stand for a while."""
    adapted = TransformersEngine(stage(base, "A", adapter=str(adapter)), "cpu")
    plain = TransformersEngine(stage(base, "P"), "cpu")
    asked, n_accepted = questions(24), 0
    prices = {name: Prices(0.0, 0.0, 1.0) for name in "AP"}
    for small, large in ((plain, adapted), (adapted, plain)):
        engines = {engine.stage_name: engine for engine in (small, large)}
        done = Cascade(engines, Lossless((small.stage_name, large.stage_name)), prices).run(asked, 5)
        for completion, own in zip(done, large.generate(asked), strict=True):
            assert (completion.drafts[-1].tokens, completion.text) == (own.tokens, own.text)
            n_accepted += completion.verifications[0].n_accepted
    assert n_accepted > 0


def test_stages_of_one_model_with_other_adapters_take_turns(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    """Put out and loaded again, each answers with its own adapter."""
    other = save_random_adapter(base, tmp_path / "other", seed=1)
    stages = [
        stage(base, name, adapter=a and str(a)) for name, a in (("a", adapter), ("b", other), ("c", None))
    ]
    alone = [TransformersEngine(one, "cpu").generate(questions(6)) for one in stages]
    engines = {one.name: TransformersEngine(one, "cpu") for one in stages}
    residency = Residency(engines, dict.fromkeys(engines, 1.0), 1.0, ())
    for _ in range(2):
        for one, own in zip(stages, alone, strict=True):
            answers = residency.engines[one.name].generate(questions(6))
            assert [d.tokens for d in answers] == [d.tokens for d in own]
    assert len({tuple(d.tokens for d in drafts) for drafts in alone}) == 3


def test_an_adapter_makes_another_revision(base: Path, adapter: Path, copy: Path) -> None:
    """Its files decide, not the place; no adapter, and each other one, is another model's."""
    plain, one, same = (stage(base, adapter=a and str(a)) for a in (None, adapter, copy))
    assert revision(one) == revision(same) == TransformersEngine(one, "cpu").revision
    weights = load_file(copy / WEIGHTS)
    weights[min(weights)][0, 0] += 1
    save_file(weights, copy / WEIGHTS, {"format": "pt"})
    assert len({revision(plain), revision(one), revision(same)}) == 3
    assert revision(one).endswith(revision(plain))
    old = revision(plain).partition("+")[0]  # as versions recorded it that knew no templates
    assert not same_revision(old, revision(one))
    assert not same_revision(revision(plain), revision(one))


def test_traces_of_two_adapters_have_other_headers(base: Path, adapter: Path, tmp_path: Path) -> None:
    """Runs share a file only if these are equal; adapters of one name differ by their revisions."""
    other = save_random_adapter(base, tmp_path / "x" / adapter.name, seed=1)
    ladders = [
        Ladder("one", (stage(base, adapter=a and str(a)),), "declared", "made up")
        for a in (adapter, other, None)
    ]
    one, another, plain = (
        header_for(ladder, revisions(ladder), (), "test").stages["S"] for ladder in ladders
    )
    assert (one.model, plain.model) == (f"{base.name} with {adapter.name}", base.name)
    assert one == msgspec.structs.replace(another, revision=one.revision) != another


def configured(**settings: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return change


def removed(name: str, *, left: str | None = None) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        if left is not None:
            (folder / left).write_bytes(b"PK")

    return change


def weighted(
    change: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor]],
) -> Callable[[Path], object]:
    def apply(folder: Path) -> None:
        save_file(dict(change(load_file(folder / WEIGHTS))), folder / WEIGHTS, {"format": "pt"})

    return apply


def without_first(weights: dict[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    return {name: weights[name] for name in sorted(weights)[1:]}


def with_third_layer(weights: dict[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    return weights | {n.replace("layers.1.", "layers.2."): w.clone() for n, w in weights.items()}


def broken(weights: dict[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    return weights | {min(weights): torch.full_like(weights[min(weights)], torch.nan)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shutil.rmtree, "is not a directory; correct the stage's adapter"),
        (removed("adapter_config.json"), "has no adapter_config.json .*peft's save_pretrained"),
        (removed(WEIGHTS), "has no adapter_model.safetensors; name a directory"),
        (removed(WEIGHTS, left="adapter_model.bin"), "has adapter_model.bin .* never read: save it again"),
        (removed(WEIGHTS, left=WEIGHTS), "does not fit"),
        (lambda f: (f / WEIGHTS).write_bytes(b"version https://git-lfs"), "a Git LFS pointer"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "is no JSON"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), "not that of LoRA.*`peft_type`"),
        (configured(peft_type="IA3"), "type 'IA3'; only LoRA"),
        (configured(r=0), "rank r = 0"),
        (configured(r=8), r"does not fit .*size mismatch for .*\[4, 96\].*\[8, 96\]"),
        (configured(init_lora_weights="pissa"), "'pissa' rewrites the base model; save the adapter again"),
        (configured(megatron_config={"a": 1}), "sets megatron_config, which is more than LoRA"),
        (configured(target_modules=["query_key_value"]), "does not fit .*query_key_value"),
        (configured(target_modules=["q_proj"]), "it has a stray model.layers.0"),
        (weighted(without_first), "it has no model.layers.0.mlp.down_proj.lora_A.weight"),
        (weighted(with_third_layer), "it has a stray model.layers.2.mlp.down_proj.lora_A.weight"),
        (weighted(broken), "NaN"),
    ],
)
def test_what_does_not_fit_is_refused(
    base: Path, copy: Path, change: Callable[[Path], object], message: str
) -> None:
    """In one line that names stage, adapter and remedy; nothing is left out or filled in without a word."""
    change(copy)
    with pytest.raises(EngineError, match=message) as raised:
        TransformersEngine(stage(base, adapter=str(copy)), "cpu").load()
    assert str(raised.value).startswith("stage 'S': ")
    assert str(copy) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("family", "n_layers"), [("llama", 1), ("gpt2", 2)])
def test_adapters_of_other_models_are_refused(
    base: Path, adapter: Path, tmp_path: Path, family: str, n_layers: int
) -> None:
    """By the engine that merges and by the files alone; on its own model both are content."""
    other = save_random_model(tmp_path / "other", family, n_layers)
    wrong, fits = stage(other, adapter=str(adapter)), stage(base, adapter=str(adapter))
    with pytest.raises(EngineError, match=f"{adapter} does not fit {other}"):
        TransformersEngine(wrong, "cpu").load()
    found = adapter_of(fits)
    assert found is not None
    assert found.rank == 4
    with pytest.raises(EngineError, match=rf"fit {other}: .*\.lora_[AB]\.weight is \[.*weight none"):
        check_fit(wrong, found, other)
    check_fit(fits, found, base)


def test_another_name_than_that_of_its_model_is_told(
    base: Path, copy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A deeper model has a place for every matrix: then names are all there is to go by."""
    deeper = save_random_model(tmp_path / "deeper", n_layers=3)
    configured(base_model_name_or_path="org/base0")(copy)
    TransformersEngine(stage(base.parent / "base0", adapter=str(copy)), "cpu").load()
    assert "trained on" not in caplog.text
    TransformersEngine(stage(deeper, adapter=str(copy)), "cpu").load()
    assert f"the adapter {copy} was trained on org/base0, and the stage's model is {deeper}" in caplog.text


def test_a_quantised_model_takes_no_adapter(base: Path, adapter: Path) -> None:
    """Merging would round it away."""
    model = torch.nn.Module()
    model.config = type("Config", (), {"quantization_config": {"quant_method": "gptq"}})
    with pytest.raises(EngineError, match=r"is quantised, and merging .* use the vllm engine"):
        hf_adapter.merged(stage(base, adapter=str(adapter)), model, torch.device("cpu"))


def test_peft_is_missed_by_name(base: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is read, with the command; stages without an adapter do without."""
    monkeypatch.setattr(hf_adapter, "find_spec", lambda _: None)
    with pytest.raises(
        ConfigError, match=r"^stage 'S': an adapter needs peft.*pip install 'asd\[adapters\]'$"
    ):
        TransformersEngine(stage(base, adapter=str(adapter)), "cpu")
    TransformersEngine(stage(base), "cpu").load()


@pytest.mark.slow
def test_peft_is_imported_for_an_adapter_only(base: Path) -> None:
    """It takes seconds, and brings accelerate along."""
    code = (
        "import sys; from pathlib import Path; from tests.models import stage\n"
        "from asd.engines.hf.engine import TransformersEngine\n"
        "TransformersEngine(stage(Path(sys.argv[1])), 'cpu').load(); print('peft' in sys.modules)"
    )
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", code, str(base)]
    assert subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_server_has_its_own(adapter: Path) -> None:
    """There it is a name of the server's, and the message says how."""
    served = replace(served_stage("http://127.0.0.1:1/v1"), adapter=str(adapter))
    with pytest.raises(ConfigError, match=f"{adapter}.*--enable-lora --lora-modules NAME=PATH.*model = NAME"):
        open_stage(served)


def test_an_engine_of_your_own_is_told(
    adapter: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its stages with two adapters are two models, whatever it says of itself."""
    (tmp_path / "plainly.py").write_text(
        "class Engine:\n"
        "    revision = 'v1'\n"
        "    def __init__(self, stage, device=None): self.stage = stage\n"
        "    def unload(self): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    plain = Stage("S", "org/any", Prices(1, 0, 0), engine="plainly:Engine")
    one, none = (
        revisions(Ladder("own", (s,), "declared", "made up"))["S"]
        for s in (replace(plain, adapter=str(adapter)), plain)
    )
    assert (one[:8], one[-3:], none) == ("adapter:", ":v1", "v1")
