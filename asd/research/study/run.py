"""The whole study: every table, step by step, each kept so that a run that was stopped continues.

    DIR/traces/     what the stages answered
    DIR/steps/      the tables of every finished step
    DIR/results.json, DIR/tables/    what `asd.research.study.record` writes

A folder holds one study: ladder, policy, data sets, size, seed; machine, engine, device and code. Another one
in the same folder is refused.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
from tqdm import tqdm

from asd import __version__
from asd.errors import ConfigError
from asd.measurement.environment import code_revision, read_environment
from asd.measurement.files import read_record, write_atomically, write_record
from asd.measurement.records import Record
from asd.policy.fit import MIN_ROWS
from asd.research.predictors.explained import predictors_table
from asd.research.recordings.recording import Recording
from asd.research.study.claims import claims_table
from asd.research.study.comparisons import difference_tables, methods_table
from asd.research.study.crossvalidation import N_FOLDS, folds_table
from asd.research.study.groups import group_tables
from asd.research.study.items import items_table
from asd.research.study.latency import latency_tables
from asd.research.study.material import Material
from asd.research.study.record import Study, StudyTable, write_study
from asd.research.study.recorded import described, recorded_tables
from asd.research.study.sweep import lambda_tables
from asd.research.theory.sensitivity import sensitivity_table
from asd.research.theory.theory import THEORY

__all__ = ["LEAST", "PER_QUESTION", "STEPS", "KeptSteps", "Step", "conduct"]

LEAST = math.ceil(MIN_ROWS * N_FOLDS / (N_FOLDS - 1))
"""Questions from which every fold of the cross-validation can be fitted."""

PER_QUESTION = ("items", "seconds")
"""Tables of one row a question: written as CSV, too long for a page."""

Step = Callable[[Material, "KeptSteps"], Sequence[StudyTable]]


class _Identity(Record, frozen=True, kw_only=True):
    """What must agree before finished steps are taken up."""

    ladder: str
    policy: str
    datasets: tuple[str, ...]
    questions: str
    recorded: str
    day: str = ""
    seed: int
    machine: str
    runs_on: str
    code: str


class _Tables(Record, frozen=True, kw_only=True):
    """What a finished step left."""

    tables: tuple[StudyTable, ...]


class KeptSteps:
    """The tables of finished steps, on disk."""

    def __init__(self, folder: str | Path, identity: _Identity) -> None:
        self._folder = folder = Path(folder)
        self._found: dict[str, StudyTable] = {}
        path = folder / "study.json"
        if not path.exists():
            write_record(path, identity)
        elif (known := read_record(path, _Identity)) != identity:
            raise ConfigError(
                f"{folder} holds steps of another study ({_differing(known, identity)}); give another "
                "folder, or empty this one"
            )

    def __getitem__(self, name: str) -> StudyTable:
        return self._found[name]

    def take(self, step: str, make: Callable[[], Sequence[StudyTable]]) -> None:
        """Read the step's tables, or make and write them."""
        path = self._folder / f"{step}.json"
        if not path.exists():
            write_record(path, _Tables(tables=tuple(make())), expand=4)
        self._found |= {table.name: table for table in read_record(path, _Tables).tables}

    @property
    def tables(self) -> tuple[StudyTable, ...]:
        """All of them, in the order of the steps."""
        return tuple(self._found.values())


def _alone(make: Callable[[Material], Sequence[StudyTable]]) -> Step:
    """A step that reads no other step's tables."""
    return lambda material, _: make(material)


STEPS: Mapping[str, Step] = {
    "items": lambda m, _: [items_table(m)],
    "methods": lambda m, kept: [methods_table(m, kept["items"])],
    "latency": lambda m, _: latency_tables(m),
    "differences": lambda m, kept: difference_tables(m, kept["items"], kept["seconds"]),
    "lambda": lambda m, _: lambda_tables(m),
    "groups": lambda m, _: group_tables(m),
    "folds": lambda m, _: [folds_table(m)],
    "sensitivity": lambda m, _: [sensitivity_table(m)],
    **{name: _alone(make) for name, make in THEORY.items()},
    "predictors": lambda m, _: [predictors_table(m)],
    "recorded": lambda m, _: [] if m.recorded is None else recorded_tables(m.recorded, m.seed),
    "claims": lambda m, kept: [claims_table(m, {table.name: table for table in kept.tables})],
}
"""In the order they are made; later ones read the tables of earlier ones."""


def conduct(material: Material, out: str | Path, steps: Mapping[str, Step] = STEPS) -> Study:
    """Make every table and write the study.

    Args:
        material: What is studied.
        out: Folder of the study.
        steps: What makes the tables; those finished before are read.

    Raises:
        ConfigError: `out` holds the steps of another study, or there are too few questions.
        StorageError: A file could not be written.
    """
    if material.n < LEAST:
        raise ConfigError(
            f"{material.n} questions are too few to refit a policy in every fold, it takes {LEAST}; give a "
            "larger --limit or more data sets"
        )
    out = Path(out)
    kept = KeptSteps(out / "steps", _identity(material))
    with tqdm(steps.items(), desc="study", unit="step", disable=None) as bar:
        for name, step in bar:
            bar.set_postfix_str(name)
            kept.take(name, partial(step, material, kept))
    beside = () if material.day is None else material.day.tables
    study = Study(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        git_commit=code_revision(Path(__file__).parent).commit,
        environment=read_environment(),
        seed=material.seed,
        ladder=material.ladder.name,
        tables=(
            *(table for table in kept.tables if table.name not in PER_QUESTION),
            *(table for table in beside if table.name != "claims"),
        ),
    )
    write_study(study, out)
    for name in PER_QUESTION:
        write_atomically(out / "tables" / f"{name}.csv", kept[name].csv())
    return study


def _identity(material: Material) -> _Identity:
    questions = [t.query for o in (*material.calibration, *material.test) for t in o.traces]
    asked = "\n".join(f"{q.dataset}\0{q.id}\0{q.prompt}" for q in questions)
    policy, machine = msgspec.json.encode(material.fitted), read_environment()
    return _Identity(
        ladder=material.ladder.fingerprint,
        policy=_hash(policy),
        datasets=tuple(outcomes.dataset for outcomes in material.test),
        questions=_hash(asked.encode()),
        recorded="" if material.recorded is None else _digest(material.recorded),
        day="" if material.day is None else _hash(msgspec.json.encode(material.day)),
        seed=material.seed,
        machine=", ".join((machine.cpu, *machine.devices)),
        runs_on=material.runs_on,
        code=f"{__version__}, {code_revision(Path(__file__).parent).commit}",
    )


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _differing(known: _Identity, asked: _Identity) -> str:
    """What differs, by name."""
    pairs = zip(msgspec.structs.asdict(known).items(), msgspec.structs.astuple(asked), strict=True)
    return ", ".join(f"{name} differs" for (name, was), now in pairs if was != now)


def _digest(recorded: Recording) -> str:
    """Of everything in it that tables are made from."""
    content = hashlib.sha256("\0".join([described(recorded), *recorded.prompts]).encode())
    for numbers in (recorded.scores, recorded.costs, recorded.latency, recorded.confidence):
        content.update(numbers.tobytes())
    return content.hexdigest()[:16]
