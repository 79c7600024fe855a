"""Training the ladder: growth keeps the function, a kill costs nothing, the loss weighs what it should."""

import json

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from asd.errors import ConfigError, DataError
from asd.tiny.data import ASKED_BACK, batches, encode, step_items
from asd.tiny.model import grow, new_model
from asd.tiny.tasks import Item
from asd.tiny.tokenizer import build_tokenizer
from asd.tiny.train import (
    Phase,
    Recipe,
    Trainer,
    exact_match,
    learning_rate,
    load_recipe,
    train,
    weighted_loss,
)

pytestmark = pytest.mark.slow

MIX = {"fetch": 1.0, "sort": 1.0, "pairs": 1.0}


@pytest.fixture(autouse=True)
def _few_validation_questions(monkeypatch):
    """Drawing hundreds takes longer than all these steps."""
    monkeypatch.setattr("asd.tiny.train.VALIDATION_ITEMS", 6)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(0)


def _recipe(steps=6):
    first = Phase(layers=1, steps=steps, lr=0.02, decay=0.5, levels=[1, 0, 0, 0, 0], mix=MIX, stream=0)
    second = Phase(
        layers=3, steps=2, lr=0.02, decay=1.0, levels=[1, 1, 0, 0, 0], mix=MIX, stream=1, start="first"
    )
    return Recipe(
        seed=3,
        items_per_step=12,
        warmup_steps=2,
        adam_lr=0.004,
        evaluate_every=1000,
        checkpoint_every=2,
        phases={"first": first, "second": second},
    )


@pytest.mark.parametrize(("shallow", "deep"), [(1, 4), (2, 8), (3, 8), (2, 2)])
def test_growing_keeps_the_function(shallow, deep):
    """A grown model gives the same logits as the one it grew from."""
    ids = torch.randint(3, 500, (2, 17), generator=torch.Generator().manual_seed(0))
    small = new_model(shallow, seed=1)
    with torch.inference_mode():
        torch.testing.assert_close(grow(small, deep)(ids).logits, small(ids).logits, atol=1e-4, rtol=1e-4)


def test_growing_backwards_is_refused():
    """A model cannot be grown to fewer layers."""
    with pytest.raises(ValueError, match="cannot grow 3 layers to 2"):
        grow(new_model(3, seed=0), 2)


def test_plain_attention_equals_the_fused_kernel(tokenizer):
    """Training attention and the attention that users run give the same logits, padding included."""
    items = step_items(np.random.default_rng(0), 8, {"hop": 1.0}, [1, 1, 1, 1, 1])
    batch = batches(items, tokenizer)[0]
    model = new_model(2, seed=0)
    with torch.inference_mode():
        plain = model(batch.ids).logits
        model.set_attn_implementation("sdpa")
        fused = model(batch.ids).logits
    torch.testing.assert_close(plain, fused, atol=1e-4, rtol=1e-4)


def test_weights_cover_the_answers_only(tokenizer):
    """Answer tokens weigh length^-1/2, questions asked back nothing, and all weights sum to 1."""
    items = [Item("sort", 1, "sort b a\n", " a b"), Item("pairs", 1, "pairs a1 b2\n", " b2 a1")]
    first, second = encode(items, tokenizer)
    assert first.knowable == [True] * 3
    assert second.knowable == [False, True, False, True, False]
    parts = batches(items, tokenizer)
    assert sum(part.weights.sum().item() for part in parts) == pytest.approx(1.0)
    assert {"pairs", "links"} == ASKED_BACK
    assert [(part.weights > 0).sum(1).tolist() for part in parts] == [[3, 2]]


def test_loss_equals_the_formula(tokenizer):
    """The loss is the weighted negative log-likelihood, worked out here token by token in float32."""
    items = step_items(np.random.default_rng(1), 6, MIX, [1, 1, 1, 1, 1])
    model = new_model(1, seed=0)
    for batch in batches(items, tokenizer):
        with torch.inference_mode():
            logprobs = model(batch.ids).logits.float().log_softmax(-1)
            expected = 0.0
            for row, column in batch.weights.nonzero().tolist():
                token = batch.ids[row, column]
                expected -= float(batch.weights[row, column] * logprobs[row, column - 1, token])
            assert weighted_loss(model, batch, "cpu").item() == pytest.approx(expected, rel=0.03)


def test_learning_rate_rises_holds_and_falls():
    """Linear warm-up, constant, linear to zero over the last share of the steps."""
    phase = _recipe(100).phases["first"]
    rates = [learning_rate(phase, 10, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:50] == [1.0] * 41
    assert rates[75] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.02)


def test_a_kill_costs_nothing(tmp_path, monkeypatch):
    """A phase killed after a checkpoint and started again ends in the same weights, bit for bit."""
    train(_recipe(), tmp_path / "whole", only="first")
    real_step = Trainer.train_step

    def step_until_killed(self):
        if self.step == 5:
            raise KeyboardInterrupt
        return real_step(self)

    monkeypatch.setattr(Trainer, "train_step", step_until_killed)
    with pytest.raises(KeyboardInterrupt):
        train(_recipe(), tmp_path / "killed", only="first")
    assert not (tmp_path / "killed" / "first" / "model.safetensors").exists()
    monkeypatch.setattr(Trainer, "train_step", real_step)
    train(_recipe(), tmp_path / "killed", only="first")
    whole = load_file(tmp_path / "whole" / "first" / "model.safetensors")
    resumed = load_file(tmp_path / "killed" / "first" / "model.safetensors")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_phases_run_in_order_and_only_once(tmp_path):
    """All phases run, the second grown from the first; finished ones are not trained again."""
    train(_recipe(), tmp_path)
    config = json.loads((tmp_path / "second" / "config.json").read_text())
    assert config["num_hidden_layers"] == 3
    log = [json.loads(line) for line in (tmp_path / "second" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [2]
    written = (tmp_path / "second" / "model.safetensors").stat().st_mtime_ns
    train(_recipe(), tmp_path)
    assert (tmp_path / "second" / "model.safetensors").stat().st_mtime_ns == written


def test_a_phase_without_its_start_is_refused(tmp_path):
    """The error names the phase and what it needs."""
    with pytest.raises(DataError, match="'second' starts from 'first'"):
        train(_recipe(), tmp_path, only="second")
    with pytest.raises(ConfigError, match="third"):
        train(_recipe(), tmp_path, only="third")


def test_exact_match_equals_greedy_decoding(tokenizer):
    """Teacher-forced argmax on every token is the same as decoding greedily."""
    model = new_model(2, seed=4)
    items = step_items(np.random.default_rng(2), 24, {"logic": 1.0}, [1, 1, 1, 1, 1])
    prompts = [tokenizer(item.prompt, return_tensors="pt")["input_ids"] for item in items]
    model.set_attn_implementation("sdpa")
    written = [tokenizer.decode(model.generate(p, max_new_tokens=2)[0, p.shape[1] :]) for p in prompts]
    said = [Item(i.family, i.level, i.prompt, text[:1]) for i, text in zip(items, written, strict=True)]
    greedy = [text == item.answer + "</s>" for item, text in zip(said, written, strict=True)]
    assert exact_match(model, said, tokenizer, "cpu")["all"] == pytest.approx(np.mean(greedy))


def test_recipes_are_checked(tmp_path):
    """The shipped recipe loads; an unknown key, a missing file and an unknown family are refused."""
    assert next(iter(load_recipe().phases)) == "induction"
    broken = tmp_path / "recipe.toml"
    broken.write_text("seed = 1\nsede = 2\n")
    with pytest.raises(ConfigError, match=r"recipe\.toml"):
        load_recipe(broken)
    with pytest.raises(ConfigError, match="absent"):
        load_recipe(tmp_path / "absent.toml")
    wrong = msgspec.structs.replace(
        _recipe(), phases={"a": msgspec.structs.replace(_recipe().phases["first"], mix={"chess": 1.0})}
    )
    with pytest.raises(ConfigError, match="chess"):
        train(wrong, tmp_path / "out")


def test_the_tokenizer_keeps_digits_apart_and_any_text():
    """Digits and capitals are single tokens, any text survives a round trip, the template ends the line."""
    tokenizer = build_tokenizer(0)
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("add 123+45")["input_ids"])
    assert tokens[0] == "<s>"
    assert tokens[-6:] == ["1", "2", "3", "+", "4", "5"]
    for text in ("Grüße, 世界!", "SELECT * FROM t;", " a b c"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "add 1+2"}], tokenize=False)
    assert chat == "<s>add 1+2\n"
    assert len(tokenizer) <= 512
