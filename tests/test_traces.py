"""Reading and writing traces; oracles are the standard library's JSON and hand-written files."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asd.errors import DataError
from asd.messages import Message
from asd.traces import StageHeader, TraceHeader, encode_header, encode_trace, merge, read_header, read_traces
from asd.types import Draft, Outcome, Query, Trace, Usage, Verification, pair_name


def stage_header(model: str, revision: str = "r1") -> StageHeader:
    return StageHeader(model=model, revision=revision, dtype="auto", chat_template=False)


HEADER = TraceHeader(
    ladder="two",
    stages={"S": stage_header("small"), "L": stage_header("large")},
    datasets=("sums",),
    split="fit",
)
finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(codec="utf-8"))
stage_names = st.text(st.characters(codec="utf-8", exclude_characters=">"), min_size=1)
VERIFIED = Verification("L", "S", (9, 2), (-0.5, -0.25), n_accepted=1, usage=Usage(5, 0, 1, 2), seconds=0.25)


def test_template_variables_are_part_of_what_answered(tmp_path: Path) -> None:
    """Other template variables are another stage; a header without any is as it always was."""
    plain = HEADER.stages["S"]
    changed = msgspec.structs.replace(plain, chat_template_kwargs={"enable_thinking": False})
    header = msgspec.structs.replace(HEADER, stages=HEADER.stages | {"S": changed})
    path = tmp_path / "t.jsonl"
    path.write_bytes(encode_header(header))
    assert read_header(path) == header != HEADER
    assert b"chat_template_kwargs" not in encode_header(HEADER)


def trace(query_id: str = "q1", stage: str = "S", score: float | None = 1.0) -> Trace:
    query = Query(query_id, "sums", "2+2=", "4", max_new_tokens=8, tags={"level": "1"})
    draft = Draft(stage, "4", (9, 2), (-0.125, -0.25), finished=True, usage=Usage(5, 2, 2), seconds=0.5)
    return Trace(query, {stage: Outcome(draft, score)})


def write(path: Path, *traces: Trace) -> Path:
    path.write_bytes(encode_header(HEADER) + b"".join(map(encode_trace, traces)))
    return path


READ = encode_trace(Trace(trace().query, {}, {"S>L": VERIFIED}))


@st.composite
def any_trace(draw: st.DrawFn) -> Trace:
    logprobs = draw(st.lists(finite, max_size=5))
    draft = Draft(
        stage=draw(texts),
        text=draw(texts),
        tokens=tuple(range(len(logprobs))),
        logprobs=tuple(logprobs),
        finished=draw(st.booleans()),
        usage=Usage(draw(st.integers(0, 99)), len(logprobs), len(logprobs)),
        seconds=draw(finite),
    )
    query = Query(
        id=draw(texts),
        dataset=draw(texts),
        prompt=draw(texts),
        reference=draw(st.none() | texts),
        max_new_tokens=draw(st.integers(1, 999)),
        tags=draw(st.dictionaries(texts, texts, max_size=2)),
        messages=draw(st.lists(st.builds(Message, texts, texts), max_size=2)),
    )
    read = draw(st.lists(finite, max_size=5))
    verification = Verification(
        stage=draw(stage_names),
        drafter=draw(stage_names),
        tokens=tuple(range(len(read))),
        logprobs=tuple(read),
        n_accepted=draw(st.integers(0, len(read))),
        usage=Usage(
            draw(st.integers(0, 99)),
            draw(st.integers(0, 1)),
            2,
            draw(st.just(len(read)) | st.integers(0, 99)),
        ),
        seconds=draw(finite),
        complete=draw(st.booleans()),
    )
    pair = pair_name(verification.drafter, verification.stage)
    outcomes = {draft.stage: Outcome(draft, draw(st.none() | st.floats(0, 1)))}
    return Trace(query, outcomes, {pair: verification})


def test_a_line_is_the_documented_record() -> None:
    """One line holds the query and, under `outputs`, every field of the outcome by its published name."""
    assert json.loads(encode_trace(trace())) == {
        "id": "q1",
        "dataset": "sums",
        "prompt": "2+2=",
        "reference": "4",
        "max_new_tokens": 8,
        "tags": {"level": "1"},
        "outputs": {
            "S": {
                "score": 1.0,
                "response": "4",
                "tokens_in": 5,
                "tokens_out": 2,
                "n_passes": 2,
                "seconds": 0.5,
                "finished": True,
                "tokens": [9, 2],
                "token_logprobs": [-0.125, -0.25],
            }
        },
    }


def test_a_verification_is_a_line_of_its_own_and_merged(tmp_path: Path) -> None:
    """`verifications` holds every field by its published name and joins the outcomes of its query."""
    query = trace().query
    line = encode_trace(Trace(query, {}, {"S>L": VERIFIED}))
    assert json.loads(line)["outputs"] == {}
    assert json.loads(line)["verifications"] == {
        "S>L": {
            "n_accepted": 1,
            "tokens_in": 5,
            "tokens_out": 0,
            "n_passes": 1,
            "seconds": 0.25,
            "tokens": [9, 2],
            "token_logprobs": [-0.5, -0.25],
        }
    }
    path = write(tmp_path / "t.jsonl", trace())
    path.write_bytes(path.read_bytes() + line)
    assert read_traces(path) == [Trace(query, trace().outcomes, {"S>L": VERIFIED})]


@pytest.mark.slow
@given(any_trace())
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, written: Trace) -> None:
    """Any trace of finite numbers comes back equal, bit for bit, and takes exactly one line."""
    line = encode_trace(written)
    assert line.count(b"\n") == 1
    path = write(tmp_path_factory.mktemp("traces") / "t.jsonl", written)
    assert read_traces(path) == [written]


def test_what_a_stage_did_with_its_drafter_is_kept(tmp_path: Path) -> None:
    """Tokens drafted and passes saved, in answering and in going on, are read as they were written."""
    own = replace(
        trace(stage="L").outcomes["L"].draft, usage=Usage(9, 2, n_passes=3, n_drafted=12, n_saved=8)
    )
    read = Verification("L", "S", (5, 9), (-0.5, -3.0), 1, Usage(9, 0, 1, 2), 0.5)
    went_on = Usage(0, 1, n_passes=2, n_drafted=7, n_saved=5)
    query = trace().query
    answered = Trace(query, {"L": Outcome(own, 1.0)})
    written = write(tmp_path / "t.jsonl", answered, Trace(query, {}, {"S>L": read}, {"S>L": went_on}))
    [found] = read_traces(written)
    assert found == Trace(query, {"L": Outcome(own, 1.0)}, {"S>L": read}, {"S>L": went_on})


def test_lines_of_a_query_are_merged_and_sorted(tmp_path: Path) -> None:
    """Outcomes of several stages of a query become one trace; traces are sorted by query id."""
    path = write(tmp_path / "t.jsonl", trace("q2"), trace("q1"), trace("q1", "L"))
    first, second = read_traces(path)
    assert (first.query.id, list(first.outcomes)) == ("q1", ["S", "L"])
    assert (second.query.id, list(second.outcomes)) == ("q2", ["S"])


def test_compressed_files_are_read(tmp_path: Path) -> None:
    """A `.gz` file reads as the plain one does, header included."""
    plain = write(tmp_path / "t.jsonl", trace())
    packed = tmp_path / "t.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_traces(packed) == read_traces(plain)
    assert read_header(packed) == HEADER


def test_a_cut_compressed_file_is_refused(tmp_path: Path) -> None:
    """Half of a `.gz` file is an error, not fewer traces."""
    packed = tmp_path / "t.jsonl.gz"
    data = gzip.compress(write(tmp_path / "t.jsonl", trace("q1"), trace("q2")).read_bytes())
    packed.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="cannot read traces"):
        read_traces(packed)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (b"{}\n", "line 3: .*missing required field"),
        (b'{"id": "q9", \n', "line 3: .*truncated"),
        (encode_trace(trace("q9")).replace(b'"tags"', b'"labels"'), "line 3: .*unknown field `labels`"),
        (encode_trace(trace("q9")).replace(b"[9,2]", b"[9]"), "line 3: 1 tokens but 2 token_logprobs"),
        (encode_trace(trace("q9")).replace(b'"score":1.0', b'"score":7'), r"line 3: score 7.0 is not within"),
        (encode_trace(trace("q1")), "line 3: query 'q1' has two outcomes of stage 'S'"),
        (encode_trace(trace("q1", "L")).replace(b"2+2=", b"3+3="), "line 3: query 'q1' .* another prompt"),
        (b"\xff\n", "line 3: "),
        (READ.replace(b"S>L", b"SL"), "line 3: verification 'SL' is not named like 'S>M'"),
        (READ.replace(b'"n_accepted":1', b'"n_accepted":3'), "line 3: 3 of 2 tokens cannot be accepted"),
        (READ.replace(b"[9,2]", b"[9]"), "line 3: 1 tokens but 2 token_logprobs"),
        (READ + READ, "line 4: query 'q1' has two verifications 'S>L'"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, broken: bytes, message: str) -> None:
    """A line that is not a record, or contradicts an earlier one, is an error with its number."""
    path = write(tmp_path / "t.jsonl", trace("q1"))
    path.write_bytes(path.read_bytes() + broken + encode_trace(trace("q3")))
    with pytest.raises(DataError, match=message):
        read_traces(path)


def test_a_file_cut_in_its_last_line_is_refused(tmp_path: Path) -> None:
    """Reading never drops a cut line silently; the message says what repairs it."""
    path = write(tmp_path / "t.jsonl", trace("q1"), trace("q2"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="cut off; run the same `asd collect` again"):
        read_traces(path)


def test_a_file_without_traces_is_refused(tmp_path: Path) -> None:
    """A header alone, an empty file and a missing file are errors."""
    with pytest.raises(DataError, match="holds no traces"):
        read_traces(write(tmp_path / "header.jsonl"))
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match="holds no traces"):
        read_traces(tmp_path / "empty.jsonl")
    with pytest.raises(DataError, match="No such file"):
        read_traces(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    "first_line", [b"", b"\n", b'{"id": 1}\n', encode_header(HEADER).replace(b'"version":1', b'"version":2')]
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, first_line: bytes) -> None:
    """A first line that is no header of this version is an error."""
    path = tmp_path / "t.jsonl"
    path.write_bytes(first_line)
    with pytest.raises(DataError, match="does not begin with the header"):
        read_header(path)


@pytest.mark.parametrize("logprob", [float("nan"), float("-inf")])
def test_numbers_that_json_lacks_are_refused(logprob: float) -> None:
    """NaN and infinity would be written as null: an error instead, naming the query."""
    good = trace()
    draft = replace(good.outcomes["S"].draft, logprobs=(logprob, -0.25))
    with pytest.raises(DataError, match=r"query 'q1'.*not a finite number"):
        encode_trace(replace(good, outcomes={"S": Outcome(draft, 1.0)}))


@pytest.mark.parametrize("score", [float("nan"), -0.5, 1.5])
def test_scores_outside_of_0_to_1_are_refused(score: float) -> None:
    """Quality is in [0, 1]."""
    with pytest.raises(DataError, match="score"):
        encode_trace(trace(score=score))


def test_merging_needs_the_same_query() -> None:
    """Two queries under one id are not mixed up, whatever field differs."""
    known = {("sums", "q1"): trace("q1")}
    other = trace("q1", "L")
    with pytest.raises(DataError, match="the workload has changed"):
        merge(known, replace(other, query=replace(other.query, max_new_tokens=9)))
