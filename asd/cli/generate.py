"""`asd generate`: one prompt, answered by the cascade."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click
import msgspec
import numpy as np

from asd.api import load, policy_of
from asd.cli.examples import examples
from asd.cli.opening import keep_quiet
from asd.cli.options import FINITE, device_option, engine_option, ladder_option, policy_option, threads_option
from asd.cli.prompt import read_prompt
from asd.engines import GREEDY, Sampling
from asd.errors import ConfigError
from asd.explanation import explain as explain_completion
from asd.ladder import Ladder
from asd.policies import Policy
from asd.policy.artifact import PolicyArtifact
from asd.schema.decisions import completion_row
from asd.types import AnswerForm, AnswerKind, Completion, Query

__all__ = ["generate"]


@click.command(
    epilog=examples(
        'asd generate "add 12+30"',
        'echo "add 12+30" | asd generate - --explain',
        'asd generate "add 12+30" --temperature 0.8 --top-p 0.9 --seed 1 --stop "."',
    )
)
@click.argument("prompt")
@click.option("--system", help="System prompt, for stages with a chat template that takes one.")
@click.option("--stop", multiple=True, help="End the answer before this text; may be given again.")
@click.option("--temperature", type=FINITE, default=0.0, show_default=True, help="0: no draws.")
@click.option("--top-p", type=FINITE, help="Draw from the nucleus of this probability. [default: 1]")
@click.option("--seed", type=click.IntRange(min=0), help="Repeats the draws. [default: other ones each time]")
@click.option(
    "--lam",
    type=FINITE,
    help="What a right answer is worth, in runs of the largest stage. [default: what is guaranteed, else 5]",
)
@click.option("--quality", type=FINITE, help="Instead: keep this share of the largest stage's quality.")
@ladder_option
@policy_option
@click.option("--route", metavar="[complexity|taxonomy|FILE]", help="A rule for the first stage, with --lam.")
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), default=80, show_default=True, help="Room for the answer."
)
@click.option(
    "--answers",
    type=click.Choice(get_args(AnswerKind)),
    help="What the answer is. [default: what the policy was fitted on]",
)
@device_option
@engine_option
@threads_option
@click.option("--explain", is_flag=True, help="Show evidence, values and decision of every state.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as one line of JSON.")
def generate(  # noqa: PLR0913, PLR0917  (one argument an option)
    prompt: str,
    system: str | None,
    stop: tuple[str, ...],
    temperature: float,
    top_p: float | None,
    seed: int | None,
    lam: float | None,
    quality: float | None,
    ladder: str,
    policy: Path | None,
    route: str | None,
    max_new_tokens: int,
    answers: AnswerKind | None,
    device: str | None,
    engine: str,
    explain: bool,
    as_json: bool,
) -> None:
    """Answer PROMPT ("-" reads it from standard input)."""
    steps = Ladder.load(ladder)
    fitted = policy_of(steps, policy)
    query = Query.chat(
        "prompt",
        "command-line",
        _messages(prompt, system),
        max_new_tokens=max_new_tokens,
        form=AnswerForm(answers or _only_kind(fitted)),
        stop=stop,
    )
    sampling = _sampling(temperature, top_p, seed)
    keep_quiet(steps)
    with load(
        steps,
        policy=fitted,
        lam=lam,
        quality=quality,
        engine=engine,
        device=device,
        route=route,
        sampling=sampling,
    ) as cascade:
        completion = cascade(query)
    if as_json:
        click.echo(_as_json(completion, steps, cascade.policy))
        return
    _show(completion, f"priced cost {completion.cost:.3g} {steps.price_unit}" if explain else None)


def _show(completion: Completion, cost: str | None) -> None:
    """The answer; with its cost, why it is this one."""
    click.echo(completion.text)
    if not completion.text.strip():
        click.echo(f"stage {completion.stage} answered with nothing", err=True)
    if cost is not None:
        click.echo(f"\n{explain_completion(completion)}\n\n{cost}")


def _messages(prompt: str, system: str | None) -> list[dict[str, str]]:
    asked = [{"role": "user", "content": read_prompt(prompt)}]
    if system is None:
        return asked
    return [{"role": "system", "content": read_prompt(system, "system prompt")}, *asked]


def _sampling(temperature: float, top_p: float | None, seed: int | None) -> Sampling:
    if temperature == 0:
        for option, given in (("--top-p", top_p), ("--seed", seed)):
            if given is not None:
                raise ConfigError(f"{option} has no effect at temperature 0; give --temperature too")
        return GREEDY
    return Sampling(temperature, np.random.default_rng(seed), 1.0 if top_p is None else top_p)


def _only_kind(policy: PolicyArtifact) -> AnswerKind:
    if len(policy.model.forms) > 1:
        raise ConfigError(
            f"the policy was fitted on answers of kind {', '.join(policy.model.forms)}; say with --answers "
            "which of them the answer to this prompt is"
        )
    return policy.model.forms[0]


def _as_json(completion: Completion, ladder: Ladder, policy: Policy) -> str:
    about = {
        "ladder": ladder.name,
        "policy": policy.name,
        "price_unit": ladder.price_unit,
        "provenance": "measured",
    }
    return msgspec.json.encode(about | completion_row(completion)).decode()
