"""The frozen values that every room shares: what is asked, what a stage wrote, what was decided.

Values only: token ids, text and numbers, never tensors; no behaviour beyond derived properties. Units are
in the names: `seconds` are what a clock said, `cost` is priced (counts times a frozen price table, in the
ladder's raw price unit), `logprobs` are natural logarithms, `score` is quality in [0, 1].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple, Self, get_args

from asd.messages import Message, as_messages

Provenance = Literal["measured", "replayed", "simulated", "timing-only"]
"""How a number came about; every record and table that shows one carries it."""

VERIFY = ">"
"""Stands between drafter and verifier in the name of a pair ("S>M") and of a state."""


@dataclass(frozen=True, slots=True, order=True)
class Action:
    """What to do next for one query: return the best answer so far, or let a stage draft or verify.

    Files and people read it as `str`: "stop", "L" (L drafts) and ">L" (L verifies); `parse` reads it back.

    Attributes:
        kind: "stop": the best answer so far is returned; "draft": the stage answers, continuing the draft it
            has just verified if it has; "verify": the stage reads the best answer so far.
        stage: Name of the stage that works; "" where none does.

    Raises:
        ValueError: The kind is none of these, it names a stage to stop or none to draft or verify, or the
            stage's name would read as another action.
    """

    kind: Literal["stop", "draft", "verify"]
    stage: str = ""

    def __post_init__(self) -> None:
        if self.kind not in ("stop", "draft", "verify"):
            raise ValueError(f"an action's kind is 'stop', 'draft' or 'verify', got {self.kind!r}")
        if (self.kind == "stop") != (self.stage == ""):
            needs = "no stage" if self.kind == "stop" else "the name of a stage"
            raise ValueError(f"action {self.kind!r} takes {needs}, got {self.stage!r}")
        if VERIFY in self.stage or self.stage == "stop":
            raise ValueError(f"no stage is named {self.stage!r}: it would read as another action")

    @classmethod
    def draft(cls, stage: str) -> Self:
        """Let a stage answer."""
        return cls("draft", stage)

    @classmethod
    def verify(cls, stage: str) -> Self:
        """Let a stage read the best answer so far."""
        return cls("verify", stage)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The action that `text` names, as `str` writes it; `ValueError` where it names none."""
        if text == "stop":
            return cls("stop")
        stage = text.removeprefix(VERIFY)
        try:
            return cls("draft" if stage == text else "verify", stage)
        except ValueError as error:
            raise ValueError(f"{text!r} names no action ('stop', 'L' or '>L'): {error}") from None

    def __str__(self) -> str:
        if self.kind == "stop":
            return "stop"
        return self.stage if self.kind == "draft" else VERIFY + self.stage


STOP: Final = Action("stop")
"""Return the best answer so far."""


Domain = Literal[
    "mathematical",
    "technical",
    "factual",
    "creative",
    "reasoning",
    "analytical",
    "linguistic",
    "conversational",
]
"""What a prompt is about, by the taxonomy of tasks (`asd.evidence.prompt.taxonomy`)."""

DOMAINS: tuple[Domain, ...] = get_args(Domain)

AnswerKind = Literal["text", "choice", "number", "words", "code"]


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """What the answer to a query is: replies are compared by what they answer (`asd.quality.answers`).

    Attributes:
        kind: "text": the whole reply; "choice": the letter of an option; "number"; "words": a name or a
            phrase; "code": a Python program.
        options: Texts of a choice's options, of which the first is A; empty where they are not known.
        name: What a program has to define.
        until: What begins the question that a model asks itself after its answer; "": it does not.
    """

    kind: AnswerKind = "text"
    options: tuple[str, ...] = ()
    name: str = ""
    until: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", tuple(self.options))


TEXT = AnswerForm()


@dataclass(frozen=True, slots=True)
class Query:
    """One question.

    Attributes:
        id: Unique within its dataset and stable over runs.
        dataset: Name of the workload it belongs to.
        prompt: The text given to every stage, verbatim.
        reference: The right answer, if one is known.
        max_new_tokens: Room for the answer, in tokens of the stage's own tokenizer.
        tags: Labels the dataset carries ("family", "level", "subject"); never read by a policy.
        form: What its answer is. Two queries that differ in it alone are equal: no stage reads it.
        messages: The whole conversation, where there is more than one message of a user (`Query.chat`);
            `prompt` is then the text of the last one, which is what evidence and tables look at.
        stop: Stop strings: every stage's answer ends before the first of them.
        extras: What only some servers can follow, as fields of an OpenAI request: "tools", "tool_choice",
            "parallel_tool_calls", "response_format", and "messages" where calls of tools stand in them.
            Stages that cannot follow them refuse the query (`asd.engines.Accepting`).
    """

    id: str
    dataset: str
    prompt: str
    reference: str | None = None
    max_new_tokens: int = 64
    tags: Mapping[str, str] = field(default_factory=dict)
    form: AnswerForm = field(default=TEXT, compare=False)
    messages: tuple[Message, ...] = ()
    stop: tuple[str, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop))
        object.__setattr__(self, "messages", tuple(self.messages))

    @classmethod
    def chat(
        cls,
        id: str,  # noqa: A002  (as the field)
        dataset: str,
        messages: Iterable[Message | Mapping[str, str]],
        **others: Any,
    ) -> Self:
        """The query that a conversation asks; one message of a user and nothing else is a plain query.

        Args:
            id: Unique within its dataset.
            dataset: Name of the workload.
            messages: `Message`s or dicts of "role" and "content", the user's last.
            others: The other fields of a query, by name.

        Raises:
            ConfigError: The conversation cannot be answered (`asd.messages.as_messages`).
        """
        read = as_messages(messages)
        return cls(id, dataset, read[-1].content, messages=read if len(read) > 1 else (), **others)

    @property
    def conversation(self) -> tuple[Message, ...]:
        """All that is asked: the messages; of a plain query, its prompt as the user's one message."""
        return self.messages or (Message("user", self.prompt),)

    @property
    def needs(self) -> frozenset[str]:
        """What a stage has to accept to be asked: names among "tools" and "response_format"."""
        tools = {"tools"} if self.extras.keys() & {"tools", "messages"} else set()
        return frozenset(tools | self.extras.keys() & {"response_format"})

    @property
    def n_characters(self) -> int:
        """Length of all that is asked."""
        return sum(len(message.content) for message in self.conversation)


@dataclass(frozen=True, slots=True)
class Usage:
    """What one call did.

    Attributes:
        n_prompt: Prompt tokens read.
        n_decoded: Tokens decoded, the stop token included.
        n_passes: Forward passes.
        n_verified: Draft tokens of another stage read in a verification pass.
        n_drafted: Tokens that a smaller stage drafted within this call (block speculation).
        n_saved: Forward passes that those of them saved that were accepted: alone, the stage would have made
            `n_passes + n_saved`.
    """

    n_prompt: int
    n_decoded: int
    n_passes: int
    n_verified: int = 0
    n_drafted: int = 0
    n_saved: int = 0

    @property
    def counts(self) -> tuple[int, int, int, int, int, int]:
        """What is priced (`asd.ladder.Prices.rates`).

        Calls, prompt tokens, verified tokens, passes without a drafter, drafted tokens, passes saved.
        """
        passes = self.n_passes + self.n_saved
        return int(self != NO_CALL), self.n_prompt, self.n_verified, passes, self.n_drafted, self.n_saved

    @property
    def alone(self) -> Usage:
        """The same call without a drafter."""
        passes = self.n_passes + self.n_saved
        return Usage(self.n_prompt, self.n_decoded, passes, self.n_verified)

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.n_prompt + other.n_prompt,
            self.n_decoded + other.n_decoded,
            self.n_passes + other.n_passes,
            self.n_verified + other.n_verified,
            self.n_drafted + other.n_drafted,
            self.n_saved + other.n_saved,
        )


NO_CALL = Usage(0, 0, 0)
"""Of an answer that took no call: a draft that the next stage had accepted whole is that stage's answer."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What one stage wrote for one query.

    Attributes:
        stage: Name of the stage.
        text: The answer, without the prompt and special tokens, cut before the first stop string.
        tokens: Ids of the decoded tokens, a stop token or those of the stop string that ended it included;
            empty where the stage is a server that does not tell them.
        logprobs: Natural log-probability of each decoded token under the stage; empty where the stage is a
            server that gives none.
        finished: The stage wrote its stop token or a stop string (False: it ran out of room).
        usage: Counts of this call for this query.
        seconds: Wall time of the batch the query was in (not divided by its size).
        cached: It came from a response store: `usage` is that of the call that once wrote it, and is not paid
            again; `seconds` are those of the look-up.
        signals: Other numbers known of the answer, by name: a stage's own confidence, a verifier's score.
            Evidence that was fitted on them needs them.
        tool_calls: Calls of tools that it asks for, as its server wrote them (OpenAI's form).
    """

    stage: str
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    finished: bool
    usage: Usage
    seconds: float
    cached: bool = False
    signals: Mapping[str, float] = field(default_factory=dict, hash=False)
    tool_calls: tuple[Mapping[str, Any], ...] = field(default=(), hash=False)

    @property
    def n_tokens(self) -> int:
        """Length of the answer in tokens, its end included, as far as the stage reports it."""
        return len(self.tokens) or len(self.logprobs) or self.usage.n_decoded


Drafts = Mapping[str, Draft]
"""Answers that a query has got so far, by stage, in the order in which they came."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What one stage says of another stage's draft, from a forward pass over prompt and draft.

    Attributes:
        stage: Name of the stage that verified.
        drafter: Name of the stage whose draft was read.
        tokens: The draft in the verifier's own tokens, as far as there is room for an answer. The end of a
            finished draft is the verifier's most probable stop token there; a server that would not end there
            reports none, and it is left out.
        logprobs: Natural log-probability of each of them under the verifier, same length as `tokens`.
        n_accepted: Length of the accepted prefix of `tokens`; the verifier continues from there.
        usage: Counts of this call: the prompt, the verified tokens (`len(tokens)` in one pass), and the
            passes: a second one where the draft was tried with the verifier's own leading white space too.
        seconds: Wall time of the batch the query was in (not divided by its size).
        complete: The whole draft was read, its end included where it is finished; False where it exceeds the
            room, or the verifier's answer would end earlier or cannot end, or its server reports no end.
        text: The verifier's whole answer, decoded from `tokens`, where it accepted all of them and a stop
            token or stop string ends them; None: it has to continue.
    """

    stage: str
    drafter: str
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    n_accepted: int
    usage: Usage
    seconds: float
    complete: bool = True
    text: str | None = None

    @property
    def accepted(self) -> bool:
        """Whether the whole draft was read and accepted."""
        return self.complete and self.n_accepted == len(self.tokens)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One stage's recorded answer to one query, with its score in [0, 1] (None: not scored)."""

    draft: Draft
    score: float | None


@dataclass(frozen=True, slots=True)
class Trace:
    """One query with the outcome of every stage that was run on it.

    Attributes:
        query: The question.
        outcomes: By stage name.
        verifications: Of recorded drafts by later stages, keyed "S>M" (`pair_name`); may be empty.
        continuations: What going on from these drafts took, by the same keys, where a stage has a drafter;
            elsewhere it follows from the two records (`asd.engines.continuation_usage`).
        refusals: What a stage will never do for this query, by stage name or pair: no answer, so no score.
    """

    query: Query
    outcomes: Mapping[str, Outcome]
    verifications: Mapping[str, Verification] = field(default_factory=dict)
    continuations: Mapping[str, Usage] = field(default_factory=dict)
    refusals: Mapping[str, Failure] = field(default_factory=dict)


class StagePair(NamedTuple):
    """A stage that drafts and the stage that verifies its drafts; records name it "S>M"."""

    drafter: str
    verifier: str

    @classmethod
    def parse(cls, name: str) -> Self:
        """The pair of that name, as `pair_name` makes it; `ValueError` where it names none."""
        stages = name.split(VERIFY)
        if len(stages) != 2 or not all(stages):
            raise ValueError(f"{name!r} is not named like 'S{VERIFY}M'")
        return cls(*stages)


def pair_name(drafter: str, verifier: str) -> str:
    """Key of a verification: "S>M" where M read S's draft; `StagePair.parse` reads it."""
    return f"{drafter}{VERIFY}{verifier}"


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy chose in one state, and why.

    Attributes:
        action: `STOP`, `Action.draft(stage)` or `Action.verify(stage)`.
        answer: Stage whose answer is the best so far (None before any stage has answered).
        p_good: Calibrated success probability of each answer so far, by stage (empty where the policy
            does not look at evidence).
        values: Value of every open action in cost units, `STOP` included (empty likewise).
        votes: Share of the lists for every action that one of them takes (empty where no lists vote).

    Raises:
        TypeError: `action` is no `Action`.
    """

    action: Action
    answer: str | None
    p_good: Mapping[str, float] = field(default_factory=dict)
    values: Mapping[Action, float] = field(default_factory=dict)
    votes: Mapping[Action, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.action, Action):
            raise TypeError(
                f"a decision's action is an asd.Action, got {self.action!r}; give asd.STOP, "
                "asd.Action.draft(stage) or asd.Action.verify(stage)"
            )


@dataclass(frozen=True, slots=True)
class Failure:
    """A call that brought nothing for one query. What it cost is not known and in no priced cost.

    Attributes:
        action: What was to be done.
        kind: Class of the error, as in "UnavailableError".
        message: What the error said.
    """

    action: Action
    kind: str
    message: str

    @property
    def stage(self) -> str:
        """The stage that failed."""
        return self.action.stage


@dataclass(frozen=True, slots=True)
class Completion:
    """What the cascade returned for one query: the answer, the way there, and what the way cost.

    Attributes:
        query: The question.
        stage: The stage whose answer is returned.
        text: The answer.
        drafts: Every answer bought, in the order of the calls.
        verifications: Every verification bought, in the order of the calls.
        decisions: One per state visited, the stopping one last.
        cost: Priced cost summed over all calls that brought something, raw price unit.
        failures: Calls that brought nothing, in their order; the stages that failed were done without.
        left_out: Stages that are for other domains than this query's, in ladder order.
    """

    query: Query
    stage: str
    text: str
    drafts: tuple[Draft, ...]
    decisions: tuple[Decision, ...]
    cost: float
    verifications: tuple[Verification, ...] = ()
    failures: tuple[Failure, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def bought(self) -> tuple[Draft | Verification, ...]:
        """Drafts and verifications, in the order of the calls."""
        drafts, verifications = iter(self.drafts), iter(self.verifications)
        kinds = (decision.action.kind for decision in self.decisions if decision.action != STOP)
        return tuple(next(verifications) if kind == "verify" else next(drafts) for kind in kinds)

    @property
    def n_reused(self) -> int:
        """Tokens of prompt and draft that a stage need not read again to continue from what it verified."""
        return sum(
            read.usage.n_prompt + read.n_accepted - went_on.usage.n_prompt
            for read, went_on in pairwise(self.bought)
            if isinstance(read, Verification) and isinstance(went_on, Draft)
            if read.stage == went_on.stage and went_on.usage != NO_CALL
        )
