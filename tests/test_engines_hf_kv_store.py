"""`asd.engines.hf.kv_store`: kept rows are found once, the least recent batch goes first, memory is
bounded."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from asd.engines.hf.caches.growing import GrowingBatch, open_growing
from asd.engines.hf.decoder import prefill
from asd.engines.hf.kv_store import Keeper
from asd.engines.hf.model import Loaded, load
from tests.models import save_random_model, stage


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load(stage(save_random_model(tmp_path_factory.mktemp("llama"))), torch.device("cpu"))


@torch.inference_mode()
def read(loaded: Loaded, *lengths: int) -> GrowingBatch:
    batch = open_growing(loaded, len(lengths))
    prefill(batch, [[5] * length for length in lengths])
    return batch


@torch.inference_mode()
def take(keeper: Keeper, *keys: str) -> dict[str, tuple[int, Any]]:
    """By key: the row and the batch it is in now."""
    return {
        keys[place]: (row, rows.batch) for rows in keeper.take(keys) for row, place in enumerate(rows.places)
    }


def test_rows_are_found_once_whatever_came_between(loaded: Loaded) -> None:
    """Rows come back grouped by batch, shortened by what is to be dropped, and are gone then."""
    keeper = Keeper(10**9)
    keeper.put(read(loaded, 9, 7, 8), [0, 2, 3], ["a", "b", "c"])
    keeper.put(read(loaded, 6, 6), [1, 1], ["d", None])
    found = take(keeper, "c", "d", "a", "x")
    assert found.keys() == {"a", "c", "d"}
    assert found["a"][1] is found["c"][1] is not found["d"][1]
    stands_at = {key: batch.n_slots - int(batch.all_gaps()[row]) for key, (row, batch) in found.items()}
    assert stands_at == {"a": 9, "c": 5, "d": 5}
    assert take(keeper, "a", "b", "c", "d").keys() == {"b"}
    assert take(keeper, "b") == {}


def test_a_key_put_again_means_the_newer_row(loaded: Loaded) -> None:
    """What was kept under a key before is forgotten."""
    keeper = Keeper(10**9)
    keeper.put(read(loaded, 4), [0], ["a"])
    keeper.put(read(loaded, 8), [0], ["a"])
    assert take(keeper, "a")["a"][1].n_slots == 8
    assert take(keeper, "a") == {}


def test_the_least_recent_batch_goes_first(loaded: Loaded) -> None:
    """Beyond the budget the oldest batch is evicted, and counted; one that alone exceeds it is not kept."""
    keeper = Keeper(2 * read(loaded, 6).bytes_for(1))
    for key in "abc":
        keeper.put(read(loaded, 6), [0], [key])
    assert keeper.n_evicted == 1
    assert take(keeper, "a", "b", "c").keys() == {"b", "c"}
    keeper.put(read(loaded, 5, 6, 6), [0, 0, 0], ["d", "e", "f"])
    assert keeper.n_evicted == 4
    assert take(keeper, "d", "e", "f") == {}


def test_nothing_is_evicted_for_what_is_not_kept(loaded: Loaded) -> None:
    """Rows that nobody will ask for take no memory, and neither do those of a batch that fits nowhere."""
    keeper = Keeper(2 * read(loaded, 6).bytes_for(1))
    keeper.put(read(loaded, 6), [0], ["a"])
    keeper.put(read(loaded, 6, 6, 6), [0, 0, 0], [None, "b", None])
    keeper.put(read(loaded, 6), [0], [None])
    keeper.put(read(loaded, 13), [0], ["c"])
    assert keeper.n_evicted == 1
    assert take(keeper, "a", "b", "c").keys() == {"a", "b"}


def test_bytes_are_those_of_keys_and_values(loaded: Loaded) -> None:
    """Two layers, three heads of 32 numbers, four bytes each, keys and values, five slots."""
    assert read(loaded, 5).bytes_for(1) == 2 * 3 * 32 * 4 * 2 * 5


def test_clear_forgets_everything(loaded: Loaded) -> None:
    """After `clear` nothing is found."""
    keeper = Keeper(10**9)
    keeper.put(read(loaded, 4), [0], ["a"])
    keeper.clear()
    assert take(keeper, "a") == {}
