"""The embedded workloads: splits apart, scores exact, limits honoured."""

import pytest

from asd.errors import ConfigError
from asd.tiny.tasks import DATASETS, part_of
from asd.tiny.tokenizer import build_tokenizer
from asd.workloads.tiny import MAX_NEW_TOKENS, tiny_workloads

WORKLOADS = tiny_workloads()


@pytest.mark.slow
@pytest.mark.parametrize("name", DATASETS)
def test_queries_are_of_their_split_and_stable(name):
    """The same questions every time, each of the split asked for by the hash of what the model reads."""
    for split in ("fit", "calibrate", "test"):
        queries = WORKLOADS[name].queries(split, 30)
        assert queries == WORKLOADS[name].queries(split, 60)[:30]
        assert {part_of(query.prompt + "\n") for query in queries} == {split}
        assert len({query.id for query in queries}) == 30


@pytest.mark.slow
@pytest.mark.parametrize("name", DATASETS)
def test_the_reference_scores_one_and_fits(name):
    """The canonical answer is right, another is not, and there is room for it."""
    workload = WORKLOADS[name]
    tokenizer = build_tokenizer(0)
    for query in workload.queries("test", 60):
        assert workload.score(query, query.reference) == 1.0
        assert workload.score(query, f" {query.reference} ") == 1.0
        assert workload.score(query, query.reference + "x") == 0.0
        assert workload.score(query, "") == 0.0
        assert len(tokenizer(query.reference)["input_ids"]) < MAX_NEW_TOKENS


def test_an_empty_workload_is_refused():
    """A limit below one is an error that names it."""
    with pytest.raises(ConfigError, match="limit 0"):
        WORKLOADS["tiny-text"].queries("test", 0)
