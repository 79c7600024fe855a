"""`asd serve keys` and `asd serve ledger`: what is made, shown and refused on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from asd.cli import main
from asd.cli.serve.keys import keys
from asd.cli.serve.ledger import correct, ledger
from asd.serving.keys import KeyLimits, Keyring
from asd.serving.ledger import Ledger
from tests.books import TARIFF, asked, ms, ran

LADDER = """
name = "two"
price_unit = "ms"
prices_measured = "by hand"
money = { currency = "EUR", per_unit = 0.002 }
[[stages]]
name = "S"
model = "s"
prices = { per_call = 0, per_prompt_token = 0, per_decoded_token = 1 }
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a ladder that has a currency."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.toml").write_text(LADDER)
    return tmp_path


def run(command: click.Command, line: str) -> Result:
    return CliRunner().invoke(main, ["serve", str(command.name), *line.split()])


def test_a_key_is_printed_once_and_opens_what_was_asked_for(place: Path):
    """Alone on standard output, so that a shell can take it; caps in price units and in money."""
    made = run(keys, "add alice --requests-per-minute 60 --cap-day 2.5EUR --cap-total 5000 --ladder two.toml")
    assert made.exit_code == 0
    assert "shown this once" in made.stderr
    with Keyring(place / "asd-ledger.db") as keyring:
        key = keyring.authenticate(made.stdout.strip())
    assert key.limits == KeyLimits(60, None, cap_day=ms(1250), cap_total=ms(5000))
    listed = run(keys, "list")
    assert "1,250" in listed.stdout
    assert made.stdout.strip() not in listed.stdout + run(keys, "list --json").stdout


def test_an_operators_key_is_listed_as_one(place: Path):
    """Others are not."""
    run(keys, "add alice")
    assert run(keys, "add ops --operator").exit_code == 0
    assert [key["operator"] for key in json.loads(run(keys, "list --json").stdout)] == [False, True]
    assert run(keys, "list").stdout.count("yes") == 1


def test_keys_are_limited_listed_and_revoked(place: Path):
    """Zero is a limit; what is not named is none."""
    run(keys, "add alice --requests-per-minute 60")
    assert run(keys, "limit alice --cap-day 0").exit_code == 0
    [listed] = json.loads(run(keys, "list --json").stdout)
    assert listed["limits"] == {
        "requests_per_minute": None,
        "tokens_per_minute": None,
        "cap_day": 0,
        "cap_total": None,
    }
    assert listed["state"] == "active"
    assert "revoked" in run(keys, "revoke alice").stdout
    assert json.loads(run(keys, "list --json").stdout)[0]["state"] == "revoked"


def test_a_ledger_that_is_not_there_is_made_for_a_new_key_only(place: Path):
    """Neither for a list nor for a name that is spelled wrong."""
    for line in ("list", "revoke alice", "limit alice"):
        assert run(keys, line).exit_code == 2
    assert run(ledger, "").exit_code == 2
    assert not (place / "asd-ledger.db").exists()
    assert run(keys, "add alice --ledger other.db").exit_code == 0
    assert (place / "other.db").exists()


def test_wrong_options_are_refused(place: Path):
    """Currencies that the ladder has not, caps in another unit than the books, times that have passed."""
    for line, named in (
        ("add alice --cap-day 5EUR", "EUR"),
        ("add alice --cap-day -5", "no amount"),
        ("add alice --expires 2001-01-01", "expired already"),
    ):
        result = run(keys, line)
        assert result.exit_code == 2
        assert named in result.stderr
    Ledger(place / "asd-ledger.db", TARIFF).close()
    (place / "usd.toml").write_text(LADDER.replace('"ms"', '"usd"'))
    result = run(keys, "add bob --cap-day 5 --ladder usd.toml")
    assert "has amounts in ms" in result.stderr


def test_spend_is_shown_by_key_and_day_in_price_units_and_in_money(place: Path):
    """As a table with its total, and as JSON."""
    with Ledger(place / "asd-ledger.db", TARIFF, clock=lambda: 20_000 * 86_400.0) as books:
        books.hold(asked("r1", "alice"))
        books.settle("r1", [ran("S", 3)])
        books.hold(asked("r2", "alice"))
        books.hold(asked("r3", "bob", shadow="S"))
        books.settle("r3", [ran("S", 1), ran("S", 2, shadow=True)])
        shown = run(ledger, "").stdout.splitlines()
    assert " ".join(shown[0].split()) == "day key requests spent ms EUR in the shadow estimated open held"
    zero = "0.000000"
    alice = ["2024-10-04", "alice", "2", "3.000000", "0.006000000", zero, zero, "1", "5.000000"]
    assert shown[2].split() == alice
    bob = ["2024-10-04", "bob", "1", "3.000000", "0.006000000", "2.000000", zero, "0", zero]
    assert shown[3].split() == bob
    assert shown[-1] == "in total 6.000000 ms, 0.012000000 EUR"
    read = json.loads(run(ledger, "--json").stdout)
    assert read["price_unit"] == "ms"
    assert read["money"] == {"currency": "EUR", "per_unit": 0.002}
    assert read["total_micros"] == ms(6)
    assert [(row["key"], row["micros"], row["worth"]) for row in read["rows"]] == [
        ("alice", ms(3), "0.006"),
        ("bob", ms(3), "0.006"),
    ]


def test_a_request_is_booked_at_another_amount(place: Path):
    """In price units or in money; said before and after."""
    with Ledger(place / "asd-ledger.db", TARIFF) as books:
        books.hold(asked("r1"))
        books.settle("r1", [ran("S", 3)])
        changed = CliRunner().invoke(
            main, ["serve", "correct", "r1", "0.002EUR", "--reason", "the price was wrong"]
        )
        assert changed.stdout == "r1: 3.000000 -> 1.000000 ms\n"
        books.audit()
    assert "in total 1.000000 ms" in run(ledger, "").stdout
    assert run(correct, "r1 5").exit_code == 2


def test_a_ledger_without_spend_is_a_table_without_rows(place: Path):
    """Keys alone have no unit yet."""
    run(keys, "add alice")
    assert run(ledger, "").stdout.endswith("in total 0.000000 units\n")
    assert json.loads(run(ledger, "--json").stdout)["rows"] == []
