"""API keys: shown once, hashed at rest, revoked and expired at once, and never in what is printed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from asd.errors import ConfigError, DataError, StorageError, UnknownKeyError
from asd.serving.keys import KeyLimits, Keyring
from asd.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1_000_000.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


@pytest.fixture
def keyring(path: Path, clock: FakeClock) -> Iterator[Keyring]:
    with Keyring(path, clock) as keyring:
        yield keyring


def test_a_key_opens_what_it_was_made_for(keyring: Keyring):
    """Under its alias, with its limits, explicit zeros among them; two keys are different."""
    limits = KeyLimits(requests_per_minute=0, cap_day=5)
    alice, bob = keyring.add("alice", limits), keyring.add("bob")
    assert keyring.authenticate(alice.secret) == alice.key
    assert keyring.authenticate(bob.secret).alias == "bob"
    assert alice.key.limits == limits
    assert [key.alias for key in keyring.listed()] == ["alice", "bob"]
    assert keyring.find("carol") is None


def test_keys_that_are_none_open_nothing(keyring: Keyring):
    """Another key's id with a secret of the right form, cut ones, other cases, other alphabets, nothing."""
    secret, other = keyring.add("alice").secret, keyring.add("bob").secret
    forged = [secret[:16] + other[16:], other[:16] + secret[16:], secret[:-1], secret + "A", secret.upper()]
    for wrong in [*forged, "", "asd-", "\udcff", "é" * 60, secret + "\n", f"asd-{'0' * 12}-{'A' * 43}"]:
        with pytest.raises(UnknownKeyError, match="not known here"):
            keyring.authenticate(wrong)


def test_a_revoked_key_opens_nothing_from_then_on(keyring: Keyring, path: Path):
    """Also where another process revoked it; the first time stays the time."""
    secret = keyring.add("alice").secret
    later = FakeClock(1_000_060.0)
    with Keyring(path, later) as elsewhere:
        elsewhere.revoke("alice")
        later.advance(1)
        assert elsewhere.revoke("alice").revoked_at == 1_000_060.0
    with pytest.raises(UnknownKeyError, match="'alice' is revoked"):
        keyring.authenticate(secret)


def test_a_key_expires_when_it_was_said_to(keyring: Keyring, clock: FakeClock):
    """At that second, not after it."""
    secret = keyring.add("alice", expires_at=1_000_060.0).secret
    clock.advance(59.9)
    assert keyring.authenticate(secret).state(clock()) == "active"
    clock.advance(0.1)
    with pytest.raises(UnknownKeyError, match="'alice' is expired"):
        keyring.authenticate(secret)


def test_limits_can_be_changed(keyring: Keyring):
    """All of them at once; the key stays what it was."""
    secret = keyring.add("alice", KeyLimits(cap_total=5)).secret
    assert keyring.limit("alice", KeyLimits(tokens_per_minute=9)).limits == KeyLimits(tokens_per_minute=9)
    assert keyring.authenticate(secret).limits == KeyLimits(tokens_per_minute=9)


def test_nothing_of_a_key_is_at_rest_or_in_what_is_printed(keyring: Keyring, path: Path):
    """Neither in the file nor in its log, nor in the repr of anything."""
    issued = keyring.add("alice")
    secret = issued.secret.rpartition(issued.key.id + "-")[2]
    for file in path.parent.iterdir():
        assert secret.encode() not in file.read_bytes()
    assert secret not in repr(issued) + str(issued) + repr(keyring) + repr(keyring.listed())
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("alias", ["", "-a", ".", "a b", "a/b", "é", "a" * 65, "a\n", "local", "alice"])
def test_an_alias_can_be_shown_anywhere_and_is_one_keys(keyring: Keyring, alias: str):
    """In labels, tables and file names; a revoked key keeps its alias, and its spend."""
    keyring.add("alice")
    keyring.revoke("alice")
    with pytest.raises(ConfigError, match="alias"):
        keyring.add(alias)


def test_wrong_values_are_refused(keyring: Keyring):
    """Negative limits, a time that has passed, keys that are not there."""
    with pytest.raises(ConfigError, match=r"cap_day must be at least 0 and at most .* not -1"):
        KeyLimits(cap_day=-1)
    with pytest.raises(ConfigError, match="cap_total"):
        KeyLimits(cap_total=2**63)
    with pytest.raises(ConfigError, match="expired already"):
        keyring.add("alice", expires_at=1_000_000.0)
    with pytest.raises(ConfigError, match="no key 'alice'; there are: none"):
        keyring.revoke("alice")
    with pytest.raises(ConfigError, match="no key 'alice'"):
        keyring.limit("alice", KeyLimits())


def test_files_that_are_no_ledger_are_left_alone(tmp_path: Path, path: Path):
    """Text, another program's database, a ledger of a newer version, a folder."""
    (tmp_path / "text").write_text("not a database, " * 100)
    with pytest.raises(DataError, match="is no ledger"):
        Keyring(tmp_path / "text")
    with closing(sqlite3.connect(tmp_path / "other")) as other:
        other.execute("CREATE TABLE things (x)")
    before = (tmp_path / "other").read_bytes()
    with pytest.raises(DataError, match="another program's"):
        Keyring(tmp_path / "other")
    assert (tmp_path / "other").read_bytes() == before
    Keyring(path).close()
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 3")
    with pytest.raises(DataError, match="version 3, and this asd knows version 2; update asd"):
        Keyring(path)
    with pytest.raises(StorageError):
        Keyring(tmp_path)
    with pytest.raises(StorageError, match="missing"):
        Keyring(tmp_path / "missing" / "ledger.db")


def test_a_ledger_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    """Its keys open what they opened, and none of them is an operator's; new ones may be."""
    path = tmp_path / "ledger.db"
    with Keyring(path) as keyring:
        secret = keyring.add("alice", KeyLimits(cap_day=5)).secret
    with closing(sqlite3.connect(path)) as old:
        old.execute("ALTER TABLE keys DROP COLUMN operator")
        old.execute("PRAGMA user_version = 1")
    for _ in range(2):
        with Keyring(path) as keyring:
            key = keyring.authenticate(secret)
            assert (key.alias, key.limits, key.operator) == ("alice", KeyLimits(cap_day=5), False)
    with Keyring(path) as keyring:
        ops = keyring.add("ops", operator=True)
        assert keyring.authenticate(ops.secret).operator
        assert [key.operator for key in keyring.listed()] == [False, True]
