"""The guarantee on the command line: what `asd fit` is asked to promise, what `asd generate` makes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, TypeVar, Unpack

import click
import numpy as np

from asd.cli.options import FINITE
from asd.collection import read_collected
from asd.errors import ConfigError
from asd.guarantee.certificate import Promise, calibrate
from asd.ladder import Ladder
from asd.policy.artifact import PolicyArtifact
from asd.traces import answered
from asd.types import Trace

__all__ = ["AskedGuarantee", "GuaranteeOptions", "guarantee_options", "what_is_asked"]

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--calibrate",
        "calibration",
        multiple=True,
        type=click.Path(path_type=Path),
        help='Traces of split "calibrate", for --keep and --cap-cost; may be given again.',
    ),
    click.option("--keep", type=FINITE, help="Guarantee this share of the best stage's quality, as in 0.95."),
    click.option("--cap-cost", type=FINITE, help="Guarantee this mean cost, in runs of the largest stage."),
    click.option(
        "--delta", type=FINITE, default=0.1, show_default=True, help="Probability of a wrong guarantee."
    ),
    click.option("--per-dataset", is_flag=True, help="Guarantee it for every dataset by itself."),
    click.option(
        "--batch",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Queries a call that it is guaranteed for.",
    ),
)


class GuaranteeOptions(TypedDict):
    """Their values."""

    calibration: tuple[Path, ...]
    keep: float | None
    cap_cost: float | None
    delta: float
    per_dataset: bool
    batch: int


class AskedGuarantee(NamedTuple):
    """A promise, and the rows it is to be made from."""

    promise: Promise
    rows: list[Trace]

    def promised(self, fitted: PolicyArtifact, fitting: Sequence[Trace], ladder: Ladder) -> PolicyArtifact:
        """The artifact with its guarantee."""
        return calibrate(fitted, fitting, self.rows, ladder, self.promise, np.random.default_rng(0))


def guarantee_options(command: Command) -> Command:
    """Add the options to a command, which gets them as keywords."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def what_is_asked(ladder: Ladder, **options: Unpack[GuaranteeOptions]) -> AskedGuarantee | None:
    """What the options ask for, checked and read before a fit takes its time; None: nothing.

    Raises:
        ConfigError: Rows without a promise, a promise without rows, or a number out of range.
        DataError: The rows cannot be read.
    """
    wanted = options["keep"] is not None or options["cap_cost"] is not None
    if wanted != bool(options["calibration"]):
        raise ConfigError("a guarantee needs both what to promise (--keep, --cap-cost) and --calibrate FILE")
    if not wanted:
        return None
    ladder.prices_at(options["batch"])
    promise = Promise(
        options["delta"], options["keep"], options["cap_cost"], options["per_dataset"], options["batch"]
    )
    return AskedGuarantee(promise, answered(read_collected(options["calibration"], ladder, "calibrate")))
