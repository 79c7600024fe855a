"""Two pretrained families as the stages of a ladder: SmolLM2-135M-Instruct, which chats, and Gemma-3-270M."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from asd.engines.hf import retokenizer
from asd.engines.hf.engine import TransformersEngine
from asd.ladder import Ladder
from asd.policy.artifact import load as load_policy
from asd.traces import read_traces
from asd.types import Draft, Query, Verification
from tests.real.questions import N_TEST, ROOM, workload
from tests.written import assert_same_answers, continue_all, in_batches, verify_all

CHECKOUT = Path(__file__).parents[2]
QUESTIONS = CHECKOUT / "tests" / "real" / "questions.py"

LADDER = """
name = "real"
price_unit = "tokens of SmolLM2"
prices_measured = "declared: by parameters"

[[stages]]
name = "S"
model = "{smollm2}"
chat_template = true
prices = {{ per_call = 0.0, per_prompt_token = 0.1, per_decoded_token = 1.0 }}

[[stages]]
name = "L"
model = "{gemma3}"
prices = {{ per_call = 0.0, per_prompt_token = 0.2, per_decoded_token = 2.0 }}
"""


@pytest.fixture(scope="module")
def ladder(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ladder") / "real.toml"
    path.write_text(LADDER.format(**models))
    return path


@pytest.fixture(scope="module")
def engines(ladder: Path) -> Iterator[dict[str, TransformersEngine]]:
    found = {stage.name: TransformersEngine(stage, "cpu") for stage in Ladder.load(str(ladder)).stages}
    yield found
    for engine in found.values():
        engine.unload()


@pytest.fixture(scope="module")
def own(engines: dict[str, TransformersEngine]) -> dict[str, list[Draft]]:
    """What each stage writes alone, one by one."""
    return {name: in_batches(engine, asked(), 1) for name, engine in engines.items()}


def asked() -> list[Query]:
    return workload.queries("test", N_TEST)


@pytest.mark.parametrize("stage", ["S", "L"])
def test_greedy_answers_are_those_of_generate(
    engines: dict[str, TransformersEngine], own: dict[str, list[Draft]], stage: str
) -> None:
    """Token for token in float32, in the chat template where there is one, with every stop token."""
    loaded = engines[stage].loaded
    for query, draft in zip(asked(), own[stage], strict=True):
        ids = _prompt_ids(loaded.tokenizer, query.prompt)
        out = loaded.model.generate(ids, do_sample=False, max_new_tokens=query.max_new_tokens)
        assert draft.tokens == tuple(out[0, ids.shape[1] :].tolist())
    assert loaded.model.dtype == torch.float32


def _prompt_ids(tokenizer: object, prompt: str) -> torch.Tensor:
    if tokenizer.chat_template is None:
        return tokenizer(prompt, return_tensors="pt")["input_ids"]
    messages = [{"role": "user", "content": prompt}]
    chat = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
    return chat["input_ids"]


@pytest.mark.parametrize("stage", ["S", "L"])
def test_a_batch_writes_what_each_writes_alone(
    engines: dict[str, TransformersEngine], own: dict[str, list[Draft]], stage: str
) -> None:
    assert_same_answers(in_batches(engines[stage], asked(), N_TEST), own[stage])


def test_the_chat_model_ends_its_answers(own: dict[str, list[Draft]]) -> None:
    """Its stop token came along in the file."""
    assert sum(draft.finished for draft in own["S"]) >= N_TEST // 2


def test_another_familys_drafts_are_accepted_and_change_no_answer(
    engines: dict[str, TransformersEngine], own: dict[str, list[Draft]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SmolLM2 drafts, Gemma verifies: tokens are accepted, and what it goes on with is what it writes alone.

    Before: drafts read as they stand, without the white space that the verifier would begin with.
    """
    after = _verified(engines["L"], own)
    with monkeypatch.context() as patch:
        patch.setattr(retokenizer, "at_seam", lambda _, text: text)
        patch.setattr("asd.engines.hf.readings.carry_behind", lambda *_, **__: None)
        before = _verified(engines["L"], own)
    quality = {name: _quality(drafts) for name, drafts in own.items()}
    print(f"\nSmolLM2-135M-Instruct -> Gemma-3-270M, {N_TEST} capitals, at most {ROOM} tokens each")
    print(f"quality: S {quality['S']:.2f}, L {quality['L']:.2f}")
    print(f"accepted before: {_accepted(before)}\naccepted after:  {_accepted(after)}")
    share = sum(v.n_accepted for v in after) / sum(len(draft.tokens) for draft in own["L"])
    print(f"tokens of L's answers that are S's: {share:.0%}")
    assert sum(v.n_accepted for v in after) > sum(v.n_accepted for v in before)
    assert quality["S"] > 0.5
    assert quality["L"] > 0.5


def _verified(verifier: TransformersEngine, own: dict[str, list[Draft]]) -> list[Verification]:
    """Verify S's drafts in one batch, and check that the verifier's answers are its own."""
    read = verify_all(verifier, asked(), own["S"], N_TEST)
    going_on = [i for i, v in enumerate(read) if v.text is None]
    continued = continue_all(verifier, [asked()[i] for i in going_on], [read[i] for i in going_on], N_TEST)
    assert_same_answers(continued, [own["L"][i] for i in going_on])
    whole = {i: v.text for i, v in enumerate(read) if v.text is not None}
    assert whole == {i: own["L"][i].text for i in whole}
    return read


def _accepted(read: Sequence[Verification]) -> str:
    n_accepted, n_read = sum(v.n_accepted for v in read), sum(len(v.tokens) for v in read)
    some = sum(v.n_accepted > 0 for v in read)
    return f"{n_accepted} of {n_read} draft tokens ({n_accepted / n_read:.0%}), {some} of {len(read)} drafts"


def _quality(drafts: Sequence[Draft]) -> float:
    scores = [workload.score(query, draft.text) for query, draft in zip(asked(), drafts, strict=True)]
    return sum(scores) / len(scores)


def run(*arguments: object) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=CHECKOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_collected_fitted_generated_and_measured(ladder: Path, tmp_path: Path) -> None:
    """The commands of the README, on the two models; the harness measures and judges what they make."""
    traces, policy = tmp_path / "fit.jsonl", tmp_path / "policy.json"
    print(run("asd", "collect", "--ladder", ladder, "--datasets", QUESTIONS, "--out", traces))
    collected = read_traces(traces)
    assert len(collected) >= 100
    print(run("asd", "fit", traces, "--ladder", ladder, "--out", policy))
    assert load_policy(policy).model.stages == ("S", "L")
    asking = ("asd", "generate", asked()[0].prompt, "--ladder", ladder, "--policy", policy)
    told = run(*asking, "--lam", "20", "--max-new-tokens", "8", "--explain")
    assert "Paris" in told.partition("\n\n")[0]
    print(told)
    options = (
        "--ladder",
        ladder,
        "--policy",
        policy,
        "--datasets",
        QUESTIONS,
        "--lam",
        "1,20",
        "--limit",
        "6",
    )
    print(run("pytest", "bench/", *options, "--baselines", tmp_path / "baselines", "-q"))
