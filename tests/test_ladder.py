"""`asd.ladder`: presets and files load, wrong ones are refused by name, prices are kept apart."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from asd.errors import ConfigError, StorageError
from asd.ladder import PRESETS, Drafter, Ladder, Stage
from asd.prices import Money, Prices, write_prices
from asd.types import NO_CALL, Usage

FILE = """
name = "mine"
price_unit = "ms"
prices_measured = "here, today"

[[stages]]
name = "small"
model = "./weights/small"
prices = { per_call = 2, per_prompt_token = 0.1, per_decoded_token = 8.0 }

[[stages]]
name = "big"
model = "org/big"
dtype = "bfloat16"
tensor_parallel = 2
memory_gib = 30.5
chat_template = true
chat_template_kwargs = { enable_thinking = false }
prices = { per_call = 4, per_prompt_token = 0.2, per_decoded_token = 16.0 }
"""
SMALL = Stage("small", "org/small", Prices(0.0, 0.0, 1.0))
BIG = Stage("big", "org/big", Prices(0.0, 0.0, 2.0))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(FILE)
    return path


def test_a_call_costs_its_counts_times_the_prices() -> None:
    """One call, its prompt tokens and its decoded tokens are priced; passes are not."""
    assert Prices(5.0, 0.5, 2.0).cost(Usage(n_prompt=10, n_decoded=3, n_passes=3)) == 16.0


def test_a_verification_is_one_pass_and_the_tokens_it_reads() -> None:
    """Draft tokens at their own price, or that of prompt tokens; the pass as one decoded token."""
    usage = Usage(n_prompt=10, n_decoded=0, n_passes=1, n_verified=4)
    assert Prices(5.0, 0.5, 2.0).cost(usage) == 5 + 5 + 2 + 2
    assert Prices(5.0, 0.5, 2.0, per_verified=0.25).cost(usage) == 5 + 5 + 1 + 2


def test_a_price_unit_may_be_worth_money(path: Path) -> None:
    """It says what a unit costs, changes no policy, and nobody need say so."""
    plain = Ladder.load(path)
    path.write_text(FILE.replace("[[", 'money = { currency = "EUR", per_unit = 5.5e-7 }\n[[', 1))
    assert plain.money is None
    assert Ladder.load(path).money == Money("EUR", 5.5e-7)
    assert Ladder.load(path).fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    ("money", "named"),
    [
        ('currency = "EUR", per_unit = 0.0', "not 0.0"),
        ('currency = "EUR", per_unit = inf', "not inf"),
        ('currency = "", per_unit = 1.0', "not ''"),
        (
            'currency = "EUR", per_unit = 1.0, per_token = 1.0',
            r"`per_token` .* known fields are currency, per_unit$",
        ),
        ('currency = "EUR"', "per_unit"),
    ],
)
def test_money_that_is_none_is_refused(path: Path, money: str, named: str) -> None:
    """A worth of nothing, without a number or a currency, or with a key that nobody knows."""
    path.write_text(FILE.replace("[[", f"money = {{ {money} }}\n[[", 1))
    with pytest.raises(ConfigError, match=named):
        Ladder.load(path)


def test_an_answer_without_a_call_is_free() -> None:
    """Not even the fixed price of a call is due for a draft that was accepted whole."""
    assert Prices(5.0, 0.5, 2.0).cost(NO_CALL) == 0.0


def test_a_file_says_all_about_its_stages(path: Path) -> None:
    """Every key of a ladder file arrives in the ladder, and defaults hold where it is silent."""
    ladder = Ladder.load(path)
    small, big = ladder.stages
    assert (ladder.name, ladder.price_unit, ladder.prices_measured) == ("mine", "ms", "here, today")
    assert small == Stage("small", str(path.parent / "weights/small"), Prices(2.0, 0.1, 8.0))
    assert big == Stage(
        "big",
        "org/big",
        Prices(4.0, 0.2, 16.0),
        "bfloat16",
        2,
        30.5,
        True,
        chat_template_kwargs={"enable_thinking": False},
    )


def test_relative_models_are_found_from_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative model path is taken from the ladder file's directory, not from where the process runs."""
    monkeypatch.chdir(path.parent)
    (model, hub) = (stage.model for stage in Ladder.load("./mine.toml").stages)
    assert (model, hub) == (str(path.parent / "weights/small"), "org/big")


@pytest.mark.parametrize("preset", ["tiny", "qwen2.5", "qwen2.5-3", "llama2", "llama2-b"])
def test_presets_load(preset: str) -> None:
    """Every preset loads by its name and says where its prices are from."""
    ladder = Ladder.load(preset)
    assert ladder.name == preset
    assert ladder.prices_measured


def test_the_list_of_presets_is_complete() -> None:
    """No preset ships untested."""
    assert {path.stem for path in PRESETS.glob("*.toml")} == {
        "tiny", "qwen2.5", "qwen2.5-3", "llama2", "llama2-b"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "multipliers", "devices"),
    [
        ("qwen2.5-3", (1.0, 4.5, 10.0), (1, 2, 4)),
        ("qwen2.5", (1.0, 14.8 / 7.6, 32.8 / 7.6, 72.7 / 7.6), (1, 1, 2, 4)),
        ("llama2", (1.0, 1.3, 1.8), (1, 2, 4)),
        ("llama2-b", (1.0, 4.2 / 1.6, 8.8 / 1.6), (1, 2, 4)),
    ],
)
def test_declared_multipliers(preset: str, multipliers: tuple[float, ...], devices: tuple[int, ...]) -> None:
    """Presets of published ladders carry the declared cost ratios and tensor parallel sizes."""
    ladder = Ladder.load(preset)
    costs = [stage.prices.cost(Usage(50, 20, 20)) for stage in ladder.stages]
    assert [cost / costs[0] for cost in costs] == pytest.approx(list(multipliers))
    assert tuple(stage.tensor_parallel for stage in ladder.stages) == devices
    assert ladder.price_unit == "declared"


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.toml")))
def test_no_preset_reads_tokens_for_nothing(preset: str) -> None:
    """Tokens of a prompt and of a draft cost something in every stage; what is declared says so and by which
    rule, what was measured says where."""
    ladder = Ladder.load(preset)
    for number, stage in enumerate(ladder.stages):
        prices = stage.prices
        assert prices.per_prompt_token > 0
        assert prices.rates[2] > 0 or number == 0  # the smallest stage reads no drafts
        if ladder.price_unit == "declared":
            read = 0.003 * prices.per_decoded_token
            assert (prices.per_prompt_token, prices.per_verified) == pytest.approx((read, read))
    declared = "declared, not measured: .* per decoded token; read tokens at 0.003 of it"
    assert re.match(
        declared if ladder.price_unit == "declared" else r"\d{4}-\d\d-\d\d on ", ladder.prices_measured
    )


def test_tiny_weights_are_inside_the_package() -> None:
    """The embedded ladder's models lie beside the code, wherever it is installed."""
    weights = (PRESETS.parent / "tiny" / "weights").resolve()
    assert [stage.model for stage in Ladder.load("tiny").stages] == [str(weights / name) for name in "SML"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'name = "mine"',
            'nmae = "mine"',
            "unknown field `nmae`; the known fields are name, stages, prices,",
        ),
        (
            'dtype = "bfloat16"',
            'dtyp = "bfloat16"',
            "field `dtyp` .* known fields are name, model, prices, batched",
        ),
        ("per_call = 2", "per_cal = 2", "field `per_cal` .* known fields are per_call, per_prompt_token,"),
        ("per_call = 2, ", "", "missing required field `per_call`"),
        ("per_call = 2", "per_call = nan", "'small': per_call must be a number of at least 0, not nan"),
        ("per_call = 2", "per_call = inf", "not inf"),
        ("per_prompt_token = 0.1", "per_prompt_token = -0.1", "per_prompt_token .* not -0.1"),
        ("per_decoded_token = 8.0", 'per_decoded_token = "8"', "Expected `float`"),
        ("tensor_parallel = 2", "tensor_parallel = 0", "tensor_parallel must be at least 1, not 0"),
        ("memory_gib = 30.5", "memory_gib = -1", "memory_gib must be a positive number, not -1"),
        ('dtype = "bfloat16"', 'dtype = "int8"', "dtype must be one of .* not 'int8'"),
        ('name = "big"', 'name = "small"', r"names stages twice: \['small'\]"),
        ('name = "big"', 'name = "a+b"', r"without '\+'"),
        ('name = "big"', 'name = "stop"', "other than 'stop'"),
        ('name = "big"', 'name = "root"', "'root'"),
        ('name = "big"', 'name = ""', "needs a name"),
        ('model = "org/big"', 'model = ""', "model is empty"),
        ("per_decoded_token = 16.0", "per_decoded_token = 7.0", "'small' costs 812 ms .* 'big', 724 "),
        ('price_unit = "ms"', "", "price_unit and prices_measured"),
        (
            "prices = { per_call = 2",
            "prics = { per_call = 2",
            "field `prics` .* known fields are name, model, prices,",
        ),
        ('name = "mine"', 'name = "mine', "is not a ladder file"),
    ],
)
def test_wrong_files_are_refused(path: Path, old: str, new: str, message: str) -> None:
    """Each kind of mistake raises, naming the file or stage and the offending value."""
    assert old in FILE
    path.write_text(FILE.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message):
        Ladder.load(path)


def test_a_stage_without_prices_is_refused(path: Path) -> None:
    """Inline prices must cover every stage."""
    path.write_text(re.sub(r"prices = .* 8.0 }", "", FILE))
    with pytest.raises(ConfigError, match=r"given for \['big'\], the stages are \['big', 'small'\]"):
        Ladder.load(path)


def test_free_stages_are_refused() -> None:
    """A stage whose answers cost nothing raises, whatever loading it costs; a single zero is honoured."""
    for prices in (Prices(0, 0, 0), Prices(0, 0, 0, per_load=9.0)):
        with pytest.raises(ConfigError, match="all prices are 0"):
            Ladder("x", (replace(SMALL, prices=prices),), "ms", "")
    assert Ladder("x", (SMALL,), "ms", "").stages[0].prices.per_call == 0


def test_an_empty_ladder_is_refused() -> None:
    """A ladder needs a stage."""
    with pytest.raises(ConfigError, match="no stages"):
        Ladder("x", (), "ms", "")


def test_stages_of_equal_cost_are_in_order() -> None:
    """Equal cost is no contradiction of the order."""
    assert len(Ladder("x", (SMALL, replace(SMALL, name="twin")), "ms", "").stages) == 2


@pytest.mark.parametrize("name", ["qwen", "no-such.toml", "dir/none"])
def test_unknown_ladders_are_refused(name: str) -> None:
    """An unknown preset lists the known ones, a missing file is named."""
    expected = (
        "no ladder named 'qwen'; there are llama2, .*tiny" if name == "qwen" else f"cannot read .*{name}"
    )
    with pytest.raises(ConfigError, match=expected):
        Ladder.load(name)


def test_fingerprint_follows_stages_and_prices(path: Path, tmp_path: Path) -> None:
    """Models, order, settings and prices change the fingerprint; the place of the files does not."""
    base = Ladder("a", (SMALL, BIG), "ms", "monday")
    variants = [
        replace(base, stages=(SMALL,)),
        replace(base, stages=(replace(SMALL, name="s"), BIG)),
        replace(base, stages=(replace(SMALL, model="org/other"), BIG)),
        replace(base, stages=(replace(SMALL, prices=Prices(0.1, 0, 1.0)), BIG)),
        replace(base, stages=(replace(SMALL, dtype="float32"), BIG)),
        replace(base, stages=(replace(SMALL, chat_template=True), BIG)),
        replace(base, stages=(replace(SMALL, chat_template=True, chat_template_kwargs={"a": 1}), BIG)),
        replace(base, price_unit="usd"),
    ]
    assert len({base.fingerprint, *(variant.fingerprint for variant in variants)}) == len(variants) + 1
    assert replace(base, name="b", prices_measured="tuesday").fingerprint == base.fingerprint
    moved = tmp_path / "elsewhere" / "mine.toml"
    moved.parent.mkdir()
    moved.write_text(FILE)
    assert Ladder.load(moved).fingerprint == Ladder.load(path).fingerprint


def test_fingerprint_is_the_same_in_every_process() -> None:
    """The fingerprint is stored in artifacts, so its value is fixed here."""
    assert Ladder("a", (SMALL, BIG), "ms", "").fingerprint == "2469861e93818de8"


@pytest.fixture
def priced_apart(path: Path) -> Path:
    text = re.sub(r"prices = {.*}", "", FILE).replace('price_unit = "ms"\n', 'prices = "p.json"\n')
    path.write_text(text.replace('prices_measured = "here, today"\n', ""))
    return path


def test_prices_written_are_the_prices_read(priced_apart: Path) -> None:
    """What `write_prices` writes is what the ladder naming the file gets."""
    prices = {"small": Prices(1.5, 0.01, 1.1), "big": Prices(3.0, 0.2, 11.5)}
    write_prices(priced_apart.parent / "p.json", {1: prices}, "ms", "two cores")
    ladder = Ladder.load(priced_apart)
    assert {stage.name: stage.prices for stage in ladder.stages} == prices
    assert (ladder.price_unit, ladder.prices_measured) == ("ms", "two cores")


def test_price_files_must_fit_the_ladder(priced_apart: Path) -> None:
    """A missing price file, one for other stages and prices in both places are refused."""
    with pytest.raises(ConfigError, match=r"cannot read .*p\.json"):
        Ladder.load(priced_apart)
    write_prices(priced_apart.parent / "p.json", {1: {"small": Prices(1, 1, 1)}}, "ms", "")
    with pytest.raises(ConfigError, match=r"given for \['small'\]"):
        Ladder.load(priced_apart)
    priced_apart.write_text('price_unit = "ms"\n' + priced_apart.read_text())
    with pytest.raises(ConfigError, match="keep one of them"):
        Ladder.load(priced_apart)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_bad_prices_are_not_written(tmp_path: Path, bad: float) -> None:
    """No file with a negative or endless price comes to be."""
    with pytest.raises(ConfigError, match="'S': per_call"):
        write_prices(tmp_path / "p.json", {1: {"S": Prices(bad, 0, 1)}}, "ms", "")
    assert not list(tmp_path.iterdir())


def test_prices_that_cannot_be_written_raise(tmp_path: Path) -> None:
    """A directory that is not there is reported, by path."""
    with pytest.raises(StorageError, match=r"none/p\.json"):
        write_prices(tmp_path / "none" / "p.json", {1: {"S": Prices(0, 0, 1)}}, "ms", "")


BATCHED = """\
batched.16 = { per_call = 0.5, per_prompt_token = 0.05, per_decoded_token = 1.0 }
"""


def test_prices_are_those_of_the_batch_size(path: Path) -> None:
    """A stage's table for 16 a call is used at 16; the fingerprint is that of the ladder without it."""
    before = Ladder.load(path).fingerprint
    path.write_text(FILE.replace("[[stages]]\n", "[[stages]]\n" + BATCHED))
    ladder = Ladder.load(path)
    assert ladder.batches == (1, 16)
    assert ladder.prices_at() == {stage.name: stage.prices for stage in ladder.stages}
    assert ladder.prices_at(16) == dict.fromkeys(("small", "big"), Prices(0.5, 0.05, 1.0))
    assert ladder.fingerprint == before


def test_milliseconds_at_an_unmeasured_batch_size_are_refused(path: Path) -> None:
    """Nobody knows them; what is declared holds at every size."""
    ladder = Ladder.load(path)
    with pytest.raises(ConfigError, match="prices at batch 1, not 4; measure them: asd price --batch 1,4"):
        ladder.prices_at(4)
    assert replace(ladder, price_unit="declared").prices_at(4) == ladder.prices_at()


def test_batched_prices_of_one_stage_alone_are_refused(path: Path) -> None:
    """Every stage has a price at a batch size, or none; a batch holds two or more."""
    path.write_text(FILE.replace("[[stages]]\n", "[[stages]]\n" + BATCHED, 1))
    with pytest.raises(ConfigError, match=r"given for \['small'\]"):
        Ladder.load(path)
    with pytest.raises(ConfigError, match="2 queries a call or more, not 1"):
        Ladder("x", (replace(SMALL, batched={1: Prices(1, 0, 0)}),), "ms", "")
    with pytest.raises(ConfigError, match="batch 4: all prices are 0"):
        Ladder("x", (replace(SMALL, batched={4: Prices(0, 0, 0)}),), "ms", "")


def test_prices_by_batch_size_round_trip(priced_apart: Path) -> None:
    """Every batch size that is written is what the ladder gets; without batch 1 nothing is written."""
    tables = {b: {"small": Prices(1.5 / b, 0.01, 1.1), "big": Prices(3.0 / b, 0.2, 11.5)} for b in (1, 4, 16)}
    write_prices(priced_apart.parent / "p.json", tables, "ms", "two cores")
    ladder = Ladder.load(priced_apart)
    assert {batch: ladder.prices_at(batch) for batch in ladder.batches} == tables
    del tables[1]
    with pytest.raises(ConfigError, match="batch 4, 16 were given; batch 1 is needed too"):
        write_prices(priced_apart.parent / "p.json", tables, "ms", "two cores")


def test_drafted_tokens_and_saved_passes_are_priced() -> None:
    """With a price of drafted tokens a call costs what was done, without one what it would take alone."""
    usage = Usage(10, 3, n_passes=4, n_verified=5, n_drafted=20, n_saved=12)
    drafting = Prices(1.0, 0.1, 10.0, per_verified=0.5, per_drafted=2.0)
    assert drafting.cost(usage) == pytest.approx(1 + 1 + 2.5 + 40 + 40)
    assert msgspec.structs.replace(drafting, per_drafted=None).cost(usage) == pytest.approx(1 + 1 + 2.5 + 160)
    assert drafting.cost(usage.alone) == msgspec.structs.replace(drafting, per_drafted=None).cost(usage)


@pytest.mark.parametrize(
    ("small", "large", "message"),
    [
        ({}, {"drafter": Drafter("M", 4)}, "its drafter is 'M', not a smaller stage"),
        ({"drafter": Drafter("S", 4)}, {}, "its drafter is 'S', not a smaller stage"),
        ({}, {"drafter": Drafter("S", 0)}, "blocks of at least 1 token, not 0"),
        ({}, {"prices": Prices(2, 0, 0, per_drafted=1.0)}, "per_drafted and no drafter"),
    ],
)
def test_impossible_drafters_are_refused(
    small: dict[str, object], large: dict[str, object], message: str
) -> None:
    """A drafter is a smaller stage and writes something; a price of drafting needs a drafter."""
    stages = (
        replace(Stage("S", "s", Prices(1, 0, 0)), **small),
        replace(Stage("L", "l", Prices(2, 0, 0)), **large),
    )
    with pytest.raises(ConfigError, match=message):
        Ladder("two", stages, "declared", "made up")


def test_a_ladder_file_names_drafters(tmp_path: Path) -> None:
    """Which stage drafts and how many tokens at a time; another block is another ladder."""
    text = """
        name = "two"
        price_unit = "ms"
        prices_measured = "here"
        [[stages]]
        name = "S"
        model = "org/s"
        prices = { per_call = 1, per_prompt_token = 0, per_decoded_token = 1 }
        [[stages]]
        name = "L"
        model = "org/l"
        prices = { per_call = 1, per_prompt_token = 0, per_decoded_token = 9, per_drafted = 1.5 }
        drafter = { stage = "S", block = 16 }
    """
    (tmp_path / "a.toml").write_text(text)
    (tmp_path / "b.toml").write_text(text.replace("16", "8"))
    a, b = (Ladder.load(tmp_path / name) for name in ("a.toml", "b.toml"))
    assert a.stages[1].drafter == Drafter("S", 16)
    assert a.stages[1].prices.per_drafted == 1.5
    assert a.fingerprint != b.fingerprint
