"""`asd evidence ...`: the published features, predictors and taxonomy, fitted, compared and shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from tabulate import tabulate

from asd.cli.examples import examples
from asd.cli.paths import NEW_FILE
from asd.cli.prompt import read_prompt
from asd.errors import ConfigError

if TYPE_CHECKING:
    from asd.ladder import Ladder
    from asd.research.recordings.outcomes import RecordedOutcomes
    from asd.research.recordings.recording import Recording
    from asd.types import Trace


@click.group(
    epilog=examples(
        "asd evidence compare outcomes.jsonl.gz --stages small,large",
        'asd evidence classify "Prove that 2 is prime."',
    )
)
def evidence() -> None:
    """What prompts and answers tell: features, predictors, taxonomy."""


def _outcome_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--ladder", help="FILES are traces of `asd collect` on this ladder."),
        click.option("--costs", help="Declared cost of each stage, as in 1,4.5,10. [default: as recorded]"),
        click.option("--stages", help="Models of a recorded file, cheapest first, separated by commas."),
        click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path)),
    ):
        command = option(command)
    return command


@evidence.command(epilog=examples('asd evidence features "What is 2 + 2?"'))
@click.argument("prompt", required=False)
def features(prompt: str | None) -> None:
    """The 31 published features as a table, with the values of PROMPT where they need no fit."""
    from asd.evidence.prompt.published import FEATURES, text_features  # noqa: PLC0415

    values: dict[str, object] = {}
    if prompt is not None:
        prompt = read_prompt(prompt)
        names = [f.name for f in FEATURES if f.group not in {"semantic", "stage"}]
        values = dict(zip(names, text_features([prompt])[0].tolist(), strict=True))
    rows = [(f.group, f.name, f.meaning, *([values.get(f.name, "")] if values else [])) for f in FEATURES]
    headers = ["group", "feature", "what it is", *(["value"] if values else [])]
    click.echo(tabulate(rows, headers=headers, tablefmt="github", floatfmt=".3f"))


@evidence.command(
    epilog=examples(
        "asd evidence compare outcomes.jsonl.gz --stages small,large",
        "asd evidence compare traces.jsonl --ladder tiny",
    )
)
@_outcome_options
def compare(
    files: tuple[Path, ...], stages: str | None, costs: str | None, ladder: str | None, seed: int
) -> None:
    """Which predictor decides best, and what is each signal of an answer worth (replayed)?

    All on the same folds of recorded outcomes. Of a signal: how well it separates right answers from wrong,
    and what quality costs by lists that go by it alone.
    """
    from asd.research.predictors.predictors import best  # noqa: PLC0415  (scikit-learn takes seconds)
    from asd.research.predictors.predictors import compare as compare_predictors  # noqa: PLC0415

    source = _source(files, stages, costs, ladder)
    outcomes = _outcomes(source)
    comparisons = compare_predictors(outcomes, seed=seed)
    rows = [
        (c.known, c.name, c.r_squared, c.reliability.auroc, c.reliability.brier, c.reliability.log_loss,
         c.reliability.calibration_error, c.regret)
        for c in comparisons
    ]  # fmt: skip
    headers = ["known", "predictor", "R^2", "AUROC", "Brier", "log-loss", "calib. error", "regret"]
    click.echo(tabulate(rows, headers=headers, floatfmt=".3f"))
    click.echo(
        f"\nleast regret: {best(comparisons, 'prompt').name} from the prompt, "
        f"{best(comparisons, 'prompt + answer').name} with the answer"
    )
    click.echo(_signals(source, outcomes, seed))
    click.echo(_about(outcomes))


@evidence.command(epilog=examples("asd evidence fit traces.jsonl --ladder tiny --out predictor.json"))
@_outcome_options
@click.option("--predictor", default="best", show_default=True, help="logistic, mlp, ensemble or best.")
@click.option("--out", type=NEW_FILE, required=True, help="Where the predictor goes.")
def fit(
    files: tuple[Path, ...],
    stages: str | None,
    costs: str | None,
    ladder: str | None,
    seed: int,
    predictor: str,
    out: Path,
) -> None:
    """Fit a predictor of every stage's success from the prompt; "best" is the one of least regret."""
    from asd.evidence.prompt.predictors import fit_predictor  # noqa: PLC0415
    from asd.research.predictors.predictors import best  # noqa: PLC0415
    from asd.research.predictors.predictors import compare as compare_predictors  # noqa: PLC0415

    outcomes = _outcomes(_source(files, stages, costs, ladder))
    name = predictor
    if name == "best":
        name = best(compare_predictors(outcomes, seed=seed), "prompt").name
    fit_predictor(outcomes.prompts, outcomes.scores, outcomes.stages, name, seed=seed).save(out)
    click.echo(f"{out}: {name}; {_about(outcomes)}")


@evidence.command(epilog=examples('asd evidence predict predictor.json "add 12+30"'))
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("prompt")
def predict(file: Path, prompt: str) -> None:
    """How likely each stage is to answer PROMPT well, by the predictor in FILE."""
    from asd.evidence.prompt.predictors import QualityPredictor  # noqa: PLC0415

    fitted = QualityPredictor.load(file)
    for stage, p in zip(fitted.stages, fitted.p([read_prompt(prompt)])[0], strict=True):
        click.echo(f"{stage}  {p:.3f}")


@evidence.command(epilog=examples('asd evidence classify "Prove that 2 is prime."'))
@click.argument("prompt")
@click.option("--stages", type=click.IntRange(min=1), default=3, show_default=True, help="Of the ladder.")
def classify(prompt: str, stages: int) -> None:
    """The eleven characteristics of PROMPT by rule, and the published recommendation of a stage."""
    from dataclasses import asdict  # noqa: PLC0415

    from asd.evidence.prompt.taxonomy import classify as profile_of  # noqa: PLC0415
    from asd.evidence.prompt.taxonomy import recommend  # noqa: PLC0415

    profile = profile_of(read_prompt(prompt))
    click.echo(tabulate(asdict(profile).items(), headers=["characteristic", "by rule"]))
    scores = ", ".join(f"{score:.3f}" for score in recommend(profile, stages))
    click.echo(f"\nrecommendation, smallest stage first: {scores}")


@evidence.command(epilog=examples("asd evidence taxonomy DIR --out taxonomy.json"))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--out", type=NEW_FILE, help="Fit on everything and write the classifiers here.")
def taxonomy(folder: Path, seed: int, out: Path | None) -> None:
    """How well domain, complexity, load and the rest are told on held-out subjects of the sets in FOLDER."""
    from asd.research.predictors.labels import read_labelled  # noqa: PLC0415
    from asd.research.predictors.taxonomy import evaluate_taxonomy, fit_taxonomy  # noqa: PLC0415

    items = read_labelled(folder)
    rows = [
        (r.dimension, r.n, r.n_groups, r.n_classes, r.held_out, who, a.accuracy, a.macro_f1, a.kappa)
        for r in evaluate_taxonomy(items, seed=seed)
        for who, a in (("majority", r.majority), ("rule", r.rule), ("learned", r.learned))
    ]
    headers = ["dimension", "n", "groups", "classes", "held out", "who", "accuracy", "macro-F1", "kappa"]
    click.echo(tabulate(rows, headers=headers, floatfmt=".3f"))
    click.echo("\nno set labels creativity, length, or the creative and conversational domains: rules only")
    if out is not None:
        fit_taxonomy(items).save(out)
        click.echo(f"{out}: classifiers fitted on all of it")


class _Traces(NamedTuple):
    """Own traces, on their ladder."""

    traces: list[Trace]
    ladder: Ladder


def _source(
    files: Sequence[Path], stages: str | None, costs: str | None, ladder: str | None
) -> Recording | _Traces:
    if ladder is None and stages is not None:
        from asd.research.recordings.recording import read_recording  # noqa: PLC0415

        declared = None if costs is None else _numbers(costs)
        return read_recording(files, stages.split(","), declared)
    if ladder is None or stages is not None or costs is not None:
        raise ConfigError("give --stages (and --costs) for recorded outcomes, or --ladder for own traces")
    from asd.ladder import Ladder  # noqa: PLC0415
    from asd.traces import read_traces  # noqa: PLC0415

    return _Traces([trace for file in files for trace in read_traces(file)], Ladder.load(ladder))


def _outcomes(source: Recording | _Traces) -> RecordedOutcomes:
    from asd.research.recordings.outcomes import from_recording, from_traces  # noqa: PLC0415

    return from_traces(*source) if isinstance(source, _Traces) else from_recording(source)


def _signals(source: Recording | _Traces, outcomes: RecordedOutcomes, seed: int) -> str:
    """The worth of every signal, as a table."""
    from asd.research.predictors.signals import (  # noqa: PLC0415
        recorded_signals,
        traced_signals,
        worth_of_signals,
    )
    from asd.research.recordings.outcomes import scored_on  # noqa: PLC0415

    if isinstance(source, _Traces):
        signals = traced_signals(scored_on(source.traces, outcomes.stages), outcomes.stages)
    else:
        signals = recorded_signals(source)
    rows = [
        {"signal": worth.name, "AUROC": worth.auroc}
        | {f"cost at -{loss:.0%}": f"{share:.0%}" for loss, share in worth.shares.items()}
        for worth in worth_of_signals(outcomes, signals, seed=seed)
    ]
    table = tabulate(rows, headers="keys", floatfmt=".3f", missingval="-")
    return (
        f"\n{table}\ncost over the best single model's, by lists that go by the signal of the first answer\n"
    )


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--costs {text}: give numbers separated by commas, as in 1,4.5,10") from error


def _about(outcomes: RecordedOutcomes) -> str:
    shares = ", ".join(
        f"{stage} {score:.3f} at cost {cost:.3f}"
        for stage, score, cost in zip(
            outcomes.stages, outcomes.scores.mean(axis=0), outcomes.costs.mean(axis=0), strict=True
        )
    )
    left_out = f", {outcomes.n_left_out} without a score left out" if outcomes.n_left_out else ""
    return f"{len(outcomes.prompts)} queries{left_out}; score {shares}; provenance: replayed"
