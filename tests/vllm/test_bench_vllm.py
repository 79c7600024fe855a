"""The path of a GPU runner, on a CPU: a ladder of Qwen2 models in vLLM is planned, measured and judged.

The models answer real questions: they are the embedded ladder in Qwen2's shape, to which Llama's is equal but
for the biases of queries, keys and values; those are zero here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from asd.cli import main
from asd.ladder import PRESETS, Ladder
from asd.measurement.files import read_record
from asd.measurement.records import Run
from asd.traces import read_traces
from bench.gate.verdicts import CANNOT_RUN

CHECKOUT = Path(__file__).parents[2]
POLICY = PRESETS.parent / "tiny" / "policy.json"


def save_as_qwen2(source: str, target: Path) -> None:
    """The same function in the other architecture."""
    llama = AutoModelForCausalLM.from_pretrained(source)
    names = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "rope_parameters",
        "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "dtype",
    )  # fmt: skip
    qwen2 = Qwen2ForCausalLM(Qwen2Config(**{name: getattr(llama.config, name) for name in names}))
    lacking = qwen2.to(llama.dtype).load_state_dict(llama.state_dict(), strict=False)
    assert not lacking.unexpected_keys
    assert all(name.endswith("_proj.bias") for name in lacking.missing_keys)
    with torch.no_grad():
        for name in lacking.missing_keys:
            qwen2.get_parameter(name).zero_()
    qwen2.generation_config = llama.generation_config
    qwen2.save_pretrained(target)
    AutoTokenizer.from_pretrained(source).save_pretrained(target)


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ladder file beside its models; names and prices are the embedded ladder's, so its policy fits."""
    folder = tmp_path_factory.mktemp("qwen2")
    stages = ""
    for stage in Ladder.load("tiny").stages:
        save_as_qwen2(stage.model, folder / stage.name)
        stages += f'\n[[stages]]\nname = "{stage.name}"\nmodel = "./{stage.name}"\nchat_template = true\n'
        stages += "options.vllm = { max_num_seqs = 16, kv_cache_memory_bytes = 67108864 }\n"
        if stage.drafter is not None:  # priced, so it must be named; vLLM writes without it
            drafter = stage.drafter
            stages += f'drafter = {{ stage = "{drafter.stage}", block = {drafter.block} }}\n'
    prices = PRESETS / "tiny-prices.json"
    (folder / "mine.toml").write_text(f'name = "mine"\nprices = "{prices}"\n{stages}')
    return folder / "mine.toml"


def bench(ladder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "bench/", f"--ladder={ladder}", "--engine=vllm"]
    options = ["--datasets=tiny-text,tiny-lookup", f"--policy={POLICY}", "--limit=6", "--lam=0.5,5,20"]
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # vLLM's
    return subprocess.run(
        [*command, *options, *args],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def test_a_run_is_measured_judged_and_recorded(ladder: Path, tmp_path: Path) -> None:
    """Outcomes, live passes, JSON and Markdown; the key says vllm; live answers are the collected ones."""
    record, summary = tmp_path / "run.json", tmp_path / "run.md"
    done = bench(ladder, f"--json-out={record}", f"--markdown-out={summary}", f"--baselines={tmp_path}")
    assert done.returncode == 0, done.stdout + done.stderr
    run = read_record(record, Run)
    assert (run.header.hardware.engine, run.header.hardware.dtype) == ("vllm", "float32")
    assert "vllm" in "".join(run.header.environment.packages)
    assert set(run.header.ladder.models) == {"S", "M", "L"}
    assert all(revision.startswith("sha256:") for revision in run.header.ladder.models.values())
    metrics = {(cell.id, metric.name): metric for cell in run.cells for metric in cell.metrics}
    assert metrics["quality[tiny-text-always-L]", "quality"].value > 0
    agreements = {cell: metric.value for (cell, name), metric in metrics.items() if name == "agreement"}
    assert sum(cell.startswith("latency[") for cell in agreements) == 2 * (3 + 1)  # lambdas, and L alone
    assert min(agreements.values()) >= 0.8
    assert {m.provenance for (_, name), m in metrics.items() if name == "speedup"} == {"measured"}
    assert summary.read_text().startswith("## mine on cpu-")
    assert "gate: CANNOT_JUDGE" in done.stdout


def test_a_plan_tells_all_and_runs_nothing(ladder: Path) -> None:
    """Ids, memory, placement and time; nothing is loaded."""
    done = bench(ladder, "--plan")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ladder mine on cpu-" in done.stdout
    assert "-vllm\n" in done.stdout
    assert "GiB" in done.stdout
    assert "time: about " in done.stdout
    assert "bench/test_quality.py::" in done.stdout
    assert "passed" not in done.stdout


def test_a_run_that_requires_a_gpu_ends_without_one(ladder: Path) -> None:
    """Nothing is measured on the wrong machine."""
    done = bench(ladder, "--require-gpu", "--strict")
    assert done.returncode == CANNOT_RUN
    assert "--require-gpu: this machine has no GPU" in done.stdout + done.stderr


def test_the_command_line_runs_vllm(ladder: Path, tmp_path: Path) -> None:
    """Collect and generate with --engine vllm: recorded outcomes, and the answer of the embedded ladder."""
    traces = tmp_path / "traces.jsonl"
    asked = ["--ladder", str(ladder), "--engine", "vllm"]
    collected = CliRunner().invoke(
        main, ["collect", "--out", str(traces), "--datasets", "tiny-text", "--limit", "3", *asked]
    )
    assert collected.exit_code == 0, collected.output
    assert [set(trace.outcomes) for trace in read_traces(traces)]
    answers = []
    for extra in (asked, []):
        generated = CliRunner().invoke(
            main, ["generate", "reverse w a o c", "--policy", str(POLICY), "--json", *extra]
        )
        assert generated.exit_code == 0, generated.output
        answers.append(json.loads(generated.stdout))
    assert answers[0]["ladder"] == "mine"
    assert [answer["text"] for answer in answers] == [answers[0]["text"]] * 2
