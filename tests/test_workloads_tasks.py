"""Public task sets as workloads: prompts, splits, options and scores, on small files and on the real ones."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from pathlib import Path

import datasets
import pytest

from asd.engines.registry import open_engines
from asd.errors import ConfigError, DataError, PromptTooLongError
from asd.ladder import Ladder
from asd.quality.answers import answer_of
from asd.quality.sandbox import Sandbox
from asd.types import Query
from asd.workloads import Split, Versioned, Workload, bbh, mbpp, sources
from asd.workloads.bbh import BBH
from asd.workloads.catalogue import HUB, find_workloads, task_names
from asd.workloads.gsm8k import GSM8K
from asd.workloads.sources import Folder, Hub, HubTable, SourceTable
from asd.workloads.tasks import Options, TaskWorkload, digest, part_of
from tests.taskfiles import task_files

SPLITS: tuple[Split, ...] = ("fit", "calibrate", "test")
EVERYTHING = 10**6


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return task_files(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def real() -> Path:
    """The real task files; rows made here cover the same code."""
    if "ASD_DATA" not in os.environ:
        pytest.skip("ASD_DATA is not set")
    return Path(os.environ["ASD_DATA"])


def one(name: str, data: Path) -> Workload:
    return find_workloads([name], str(data))[0]


def all_queries(workload: Workload) -> list[Query]:
    found = []
    for split in SPLITS:
        try:
            found += workload.queries(split, EVERYTHING)
        except DataError:  # a small file may leave a part empty
            continue
    return found


@pytest.mark.parametrize("name", task_names())
def test_the_reference_scores_one_and_nonsense_does_not(name: str, data: Path) -> None:
    """Every question's own reference is right by its own rule; an empty or foreign reply is not."""
    workload = one(name, data)
    for query in workload.queries("test", 3):
        assert query.reference is not None
        assert workload.score(query, query.reference) == pytest.approx(1.0)
        assert workload.score(query, "") == 0.0
        assert workload.score(query, "xyzzy") < 0.5


@pytest.mark.parametrize("name", task_names())
def test_prompts_hold_the_question_and_not_its_answer(name: str, data: Path) -> None:
    """A prompt has the worked examples the set is known for, ends in the question, and gives nothing away."""
    shots = {"mmlu": 5, "arc_challenge": 5, "gsm8k": 5, "bbh": 3, "mbpp": 3}.get(name, 0)
    workload = one(name, data)
    for query in workload.queries("test", 3):
        bare = one(f"{name}:shots=0", data)
        [alone] = [q for q in bare.queries("test", EVERYTHING) if q.id == query.id]
        question = alone.prompt.split("\n\n", 1)[1] if name not in {"bbh", "mbpp"} else alone.prompt
        assert query.prompt.endswith(question)
        assert len(query.prompt) > len(alone.prompt) or not shots
        assert query.prompt.count(question[:7]) == shots + 1 or name in {"mmlu", "arc_challenge"}
        if name not in {"mmlu", "arc_challenge", "truthfulqa", "bbh"}:
            assert str(query.reference).splitlines()[-1] not in question


@pytest.mark.parametrize("name", task_names())
def test_splits_are_apart_and_in_hash_order(name: str, data: Path) -> None:
    """Parts are disjoint, the first n are the first n of more, and the order is the digest's."""
    workload = one(name, data)
    parts = {}
    for split in SPLITS:
        try:
            parts[split] = workload.queries(split, EVERYTHING)
        except DataError:
            continue
        assert workload.queries(split, 2) == parts[split][:2]
    ids = [query.id for queries in parts.values() for query in queries]
    assert len(ids) == len(set(ids))
    assert {query.dataset for queries in parts.values() for query in queries} == {name}
    assert isinstance(workload, TaskWorkload)
    rows = {row.id: row for row in workload.set.rows(workload.source)}
    assert set(ids) == set(rows)
    for split, queries in parts.items():
        questions = [workload.set.question(rows[query.id]) for query in queries]
        assert [part_of(question) for question in questions] == [split] * len(questions)
        assert questions == sorted(questions, key=digest)


def test_parts_have_their_shares() -> None:
    """Of many questions 3/8 fit, 1/8 calibrate, 1/2 test."""
    counts = Counter(part_of(f"question {i}") for i in range(4000))
    assert counts["fit"] == pytest.approx(1500, abs=120)
    assert counts["calibrate"] == pytest.approx(500, abs=80)
    assert counts["test"] == pytest.approx(2000, abs=130)


def test_the_order_of_the_file_does_not_matter(data: Path, tmp_path: Path) -> None:
    """Rows turned around give the same questions in the same order; unpacked files are read too."""
    lines = gzip.decompress((data / "tasks" / "gsm8k_test.jsonl.gz").read_bytes()).splitlines(keepends=True)
    (tmp_path / "gsm8k_test.jsonl").write_bytes(b"".join(reversed(lines)))
    (tmp_path / "gsm8k_train.jsonl.gz").write_bytes((data / "tasks" / "gsm8k_train.jsonl.gz").read_bytes())
    turned, straight = one("gsm8k", tmp_path), one("gsm8k", data)
    assert turned.queries("test", 9) == straight.queries("test", 9)
    assert isinstance(turned, Versioned)
    assert isinstance(straight, Versioned)
    assert turned.version != straight.version


def test_no_worked_example_is_asked(data: Path) -> None:
    """Sets that take examples from their own rows never ask them."""
    for name in ("bbh", "mbpp"):
        workload = one(name, data)
        assert isinstance(workload, TaskWorkload)
        asked = {query.id for query in all_queries(workload)}
        for row in workload.set.rows(workload.source):
            assert not asked & {e.id for e in workload.set.examples(workload.source, row)}


def test_options_are_part_of_the_name(data: Path) -> None:
    """Shots, longest prompt and room for the answer: each does what it says and shows in the name."""
    workload = one("gsm8k:tokens=7:shots=2:chars=400", data)
    assert workload.name == "gsm8k:shots=2:chars=400:tokens=7"
    for query in workload.queries("test", 5):
        assert query.dataset == workload.name
        assert query.max_new_tokens == 7
        assert query.prompt.count("Question:") == 3
        assert len(query.prompt) <= 400
    lengths = sorted(len(query.prompt) for query in one("gsm8k:shots=0", data).queries("test", 99))
    cut = one(f"gsm8k:shots=0:chars={lengths[2]}", data).queries("test", 99)
    assert len(cut) == sum(length <= lengths[2] for length in lengths)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gsm8k:shots", "unknown or repeated option 'shots'"),
        ("gsm8k:shots=-1", "unknown or repeated option 'shots=-1'"),
        ("gsm8k:shots=1:shots=2", "unknown or repeated option 'shots=2'"),
        ("gsm8k:shot=1", "known are shots=N, chars=N, tokens=N"),
        ("gsm8k:tokens=0", "at least 1"),
        ("tiny-text:shots=1", "unknown dataset 'tiny-text:shots=1'"),
    ],
)
def test_wrong_options_are_refused(name: str, message: str, data: Path) -> None:
    """An option that does not exist, is given twice or is out of range is an error that names it."""
    with pytest.raises(ConfigError, match=message):
        one(name, data)


def test_impossible_demands_are_refused(data: Path) -> None:
    """No limit below one, no more examples than there are, no prompt shorter than any."""
    with pytest.raises(ConfigError, match="limit 0"):
        one("gsm8k", data).queries("test", 0)
    with pytest.raises(ConfigError, match="has 8 worked examples, not 9"):
        one("gsm8k:shots=9", data).queries("test", 1)
    with pytest.raises(DataError, match="short enough"):
        one("gsm8k:chars=5", data).queries("test", 1)
    with pytest.raises(DataError, match="no question 'nobody'"):
        one("gsm8k", data).score(Query("nobody", "gsm8k", "?"), "1")


def test_data_has_to_come_from_somewhere(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder by option or by ASD_DATA; none, a missing one, and one without the file are errors."""
    monkeypatch.delenv("ASD_DATA", raising=False)
    with pytest.raises(ConfigError, match=r"'mmlu' needs its rows.*--data hub"):
        find_workloads(["mmlu"])
    with pytest.raises(ConfigError, match="does not exist"):
        find_workloads(["mmlu"], str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"has no mmlu_test.jsonl.gz"):
        one("mmlu", tmp_path).queries("test", 1)
    monkeypatch.setenv("ASD_DATA", str(data))
    assert find_workloads(["mmlu"])[0].queries("test", 1) == one("mmlu", data).queries("test", 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not packed", "cannot read"),
        (gzip.compress(b'{"id": "x"}\n', mtime=0), "does not hold rows as expected.*question"),
        (gzip.compress(b'{"id": "x", "question": "q", "answer": "#### 1"}' * 9, mtime=0)[:-9], "cannot read"),
        (gzip.compress(b"", mtime=0), "is empty"),
    ],
)
def test_damaged_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    """Not gzip, cut off, other columns, nothing in it: each is named, nothing is skipped."""
    (tmp_path / "gsm8k_test.jsonl.gz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        one("gsm8k", tmp_path).queries("test", 1)


def test_what_a_model_goes_on_to_ask_itself_does_not_count(data: Path) -> None:
    """A base model's own next question and answer are cut off before scoring."""
    workload = one("gsm8k", data)
    [query] = workload.queries("test", 1)
    assert workload.score(query, f"{query.reference}\n\nQuestion: What is 5?\nAnswer: 5\n#### 5") == 1.0
    translation = one("wmt22", data)
    [query] = translation.queries("test", 1)
    assert translation.score(query, f"{query.reference}\nGerman: Und jetzt?") == pytest.approx(1.0)


def test_queries_say_what_their_answers_are(data: Path) -> None:
    """The kind of every set's answers, with what is needed to read one: it is found in the reference."""
    kinds = {}
    for name in task_names():
        workload = one(name, data)
        for query in workload.queries("test", 20):
            kinds.setdefault(name, set()).add(query.form.kind)
            assert answer_of(query.form, str(query.reference)) is not None
            assert answer_of(query.form, "<think>hm") is None
            if query.form.kind == "choice":
                assert len(query.form.options) >= 2
    assert kinds == {
        "arc_challenge": {"choice"},
        "bbh": {"choice", "words"},
        "gsm8k": {"number"},
        "humaneval": {"code"},
        "mbpp": {"code"},
        "mmlu": {"choice"},
        "simpleqa": {"words"},
        "truthfulqa": {"choice"},
        "wmt22": {"text"},
    }


@pytest.mark.parametrize("name", task_names())
def test_a_thought_is_not_scored(name: str, data: Path) -> None:
    """Whatever was thought before the right answer, it is right; right in a thought only, it is wrong."""
    workload = one(name, data)
    [query] = workload.queries("test", 1)
    right = str(query.reference)
    thought = "<think>A? B? 12? No.\n```python\nimport os\n```\nQuestion: which?</think>"
    assert workload.score(query, f"{thought}\n\n{right}") == pytest.approx(1.0)
    assert workload.score(query, f"<think>{right}</think>xyzzy") < 0.5
    assert workload.score(query, f"<think>{right}") == 0.0


@pytest.mark.parametrize(
    ("target", "given", "reply", "right"),
    [
        ("True", "not False is", "True", True),
        ("True", "not False is", "So the answer is **True**.", True),
        ("True", "not False is", "True. Because not False is True.", True),
        ("No", "Did he?", "No, because he slept.", True),
        ("No", "Did he?", "Not only he.", False),
        ("No", "Did he?", "<think>No</think>Yes", False),
        ("valid", "Is it valid?", "<answer>valid</answer>", True),
        ("8", "How many?", "I have 8 objects.", True),
        ("-12", "Compute", "The answer is \u221212.", True),
        ("8", "How many?", "7 or 8", False),
        ("a b c", "Sort: c b a", "a, b, c", True),
        ("] )", "Close: ( [", "So the answer is ] ).", True),
        ("(B)", "Which?\n(A) red\n(B) blue", "The answer is blue.", True),
        ("(B)", "Which?\n(A) red\n(B) blue", "So the answer is (B).", True),
        ("(B)", "Which?\n(A) red\n(B) blue", "(A) or (B)", False),
    ],
)
def test_big_bench_hard_is_read(target: str, given: str, reply: str, right: bool) -> None:
    """An option, a number or a few words, in the forms that models put them."""
    row = bbh.BbhQuestion("i", "t", given, target)
    assert BBH.score(row, BBH.reply(reply)) == float(right)


def test_code_is_run_in_the_sandbox(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right and wrong programs in the forms models write; an answer that exits is wrong; none, no run."""
    for name in ("humaneval", "mbpp"):
        workload = one(name, data)
        [query] = workload.queries("test", 1)
        assert workload.score(query, f"Sure:\n```python\n{query.reference}\n```\nDone.") == 1.0
        assert workload.score(query, "import os\nos._exit(0)") == 0.0
        assert workload.score(query, f"{str(query.reference).rstrip()} + 1") == 0.0
    opened = []
    original = Sandbox.open
    monkeypatch.setattr(Sandbox, "open", lambda **kw: opened.append(kw["unsafe"]) or original(**kw))
    find_workloads(["mbpp"], str(data))
    find_workloads(["mbpp"], str(data), unsafe_code=True)
    assert opened == [False, True]


def hub_copy(folder: Path, repo: str, config: str, split: str, lines: str) -> None:
    """A data set repository as `datasets` reads it from a folder."""
    home = folder / repo
    home.mkdir(parents=True)
    (home / f"{split}.jsonl").write_text(lines)
    (home / "README.md").write_text(
        f"---\nconfigs:\n- config_name: {config}\n  data_files:\n"
        f"  - split: {split}\n    path: {split}.jsonl\n---\n"
    )


def test_rows_come_from_the_hub_at_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` reads the repository at the pinned commit, else at the newest."""
    hub_copy(
        tmp_path, "cais/mmlu", "all", "test",
        '{"question": "One?", "subject": "s", "choices": ["0", "1"], "answer": 1}\n',
    )  # fmt: skip
    asked, original = [], datasets.load_dataset

    def from_folder(repo: str, config: str, split: str, revision: str) -> object:
        asked.append((repo, revision))
        return original(str(tmp_path / repo), config, split=split, cache_dir=str(tmp_path / "cache"))

    monkeypatch.setattr(datasets, "load_dataset", from_folder)
    monkeypatch.setattr(sources, "_latest", lambda _: "newest")
    [workload] = find_workloads(["mmlu"], HUB, pinned={"cais/mmlu": "abc"})
    assert isinstance(workload, TaskWorkload)
    [row] = workload.set.rows(workload.source)
    assert (row.id, row.subject, row.choices, row.answer) == ("mmlu-test-0", "s", ("0", "1"), "B")
    assert workload.version == "cais/mmlu@abc"
    [unpinned] = find_workloads(["mmlu"], HUB)
    assert isinstance(unpinned, TaskWorkload)
    unpinned.set.rows(unpinned.source)
    assert asked == [("cais/mmlu", "abc"), ("cais/mmlu", "newest")]


def test_hub_columns_become_ours() -> None:
    """For every set a row as the hub has it turns into a row of ours."""
    rows: dict[str, dict[str, object]] = {
        "mmlu": {"question": "q", "subject": "s", "choices": ["a", "b"], "answer": 1},
        "gsm8k": {"question": "q", "answer": "#### 1"},
        "arc_challenge": {
            "id": "i", "question": "q", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "A",
        },
        "truthfulqa": {"category": "c", "question": "q", "best_answer": "b", "incorrect_answers": ["x", "y"]},
        "simpleqa": {"problem": "p", "answer": "a", "metadata": "{'topic': 't', 'answer_type': 'k'}"},
        "bbh": {"input": "i", "target": "t"},
        "wmt22": {"de-en": {"de": "d", "en": "e"}},
        "humaneval": {
            "task_id": "H/0", "prompt": "p", "entry_point": "f", "canonical_solution": "c", "test": "t",
        },
        "mbpp": {"task_id": 11, "text": "t", "code": "c", "test_list": ["a"], "test_setup_code": ""},
    }  # fmt: skip
    for workload in find_workloads(task_names(), HUB):
        assert isinstance(workload, TaskWorkload)
        for table in workload.set.tables:
            config = table.hub.configs[0]
            columns = table.hub.columns(rows[workload.name], config, 0)
            row = sources.msgspec.convert(columns, table.row)
            assert row.id


def test_an_unreachable_hub_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the network comes up with, the message says which repository."""

    def unreachable(*_: object, **__: object) -> object:
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    table = SourceTable(
        "x.jsonl.gz", dict, HubTable("some/where", ("all",), "test", lambda row, *_: dict(row))
    )
    with pytest.raises(DataError, match=r"some/where, all, at abc.*no network"):
        Hub({"some/where": "abc"}).read(table)


@pytest.mark.parametrize("name", task_names())
def test_the_embedded_ladder_answers_every_set(name: str, data: Path) -> None:
    """A smoke run: real models read real prompts of each set and their answers are scored (badly)."""
    ladder = Ladder.load("tiny")
    engine = open_engines(ladder, "cpu")[ladder.stages[0].name]
    [workload] = find_workloads([f"{name}:shots=0:chars=250:tokens=4"], str(data))
    queries = workload.queries("test", 2)
    drafts = engine.generate(queries)
    assert all(0.0 <= workload.score(q, d.text) <= 1.0 for q, d in zip(queries, drafts, strict=True))
    assert all(draft.usage.n_prompt > 5 for draft in drafts)


def test_a_prompt_that_does_not_fit_is_an_error(data: Path) -> None:
    """Five worked examples do not fit the embedded ladder: nothing is cut off, the message says so."""
    ladder = Ladder.load("tiny")
    engine = open_engines(ladder, "cpu")[ladder.stages[0].name]
    with pytest.raises(PromptTooLongError, match="exceed the context"):
        engine.generate(one("gsm8k", data).queries("test", 1))


@pytest.mark.parametrize(
    ("name", "n_rows", "n_test"),
    [
        ("mmlu", 14_042, 7097),
        ("gsm8k", 1319, 646),
        ("humaneval", 164, 90),
        ("mbpp", 500, 236),
        ("arc_challenge", 1172, 586),
        ("truthfulqa", 790, 401),
        ("simpleqa", 4326, 2123),
        ("wmt22", 1984, 977),
        ("bbh", 6211, 3045),
    ],
)
def test_the_real_sets_are_whole(name: str, n_rows: int, n_test: int, real: Path) -> None:
    """Every published row is there, in the same parts on every machine."""
    [workload] = find_workloads([name], str(real))
    assert isinstance(workload, TaskWorkload)
    rows = workload.set.rows(workload.source)
    assert len(rows) == n_rows
    assert sum(part_of(workload.set.question(row)) == "test" for row in rows) == n_test


def test_tests_take_from_the_answer_what_they_test(data: Path) -> None:
    """MBPP's tests call the solution's function, and import for themselves what the solution imports."""
    [workload] = find_workloads(["mbpp"], str(data))
    assert isinstance(workload, TaskWorkload)
    tests = mbpp.tests_of(workload.set.rows(workload.source)[0])
    assert tests.names == ("f",)
    assert tests.prelude == "import math"


def test_a_folder_reads_a_file_once(data: Path, tmp_path: Path) -> None:
    """Rows are kept: thousands of prompts do not read the examples thousands of times."""
    folder = Folder(task_files(tmp_path))
    first = folder.read(GSM8K.tables[0])
    (tmp_path / "tasks" / "gsm8k_test.jsonl.gz").unlink()
    assert folder.read(GSM8K.tables[0]) is first
    assert str(Options(shots=0)) == ":shots=0"
