"""English words that stand for a kind of task: what the published features and the rule taxonomy count.

Lists, no logic. They were written down once, from the names the published study gives its features and
domains; nothing was tuned on data, so that the rules stay an honest baseline for what is learned.
"""

from __future__ import annotations

__all__ = [
    "CONJUNCTIONS",
    "EXPERTISE_WORDS",
    "FUNCTION_WORDS",
    "LOAD_WORDS",
    "QUESTION_WORDS",
    "TASK_WORDS",
    "TECHNICAL",
]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


TASK_WORDS: dict[str, frozenset[str]] = {
    "math": _words(
        "add angle area average calculate coefficient compute cost decimal degree derivative difference "
        "digit divide divided dollars equal equation factor fraction function graph integer integral "
        "length matrix mean median minus multiply number numbers percent perimeter plus polynomial "
        "prime probability product quotient ratio remainder root slope solve square subtract sum times "
        "total triangle twice value variance vector volume"
    ),
    "code": _words(
        "algorithm api array boolean bug bytes class code compile compiler debug def dict elif "
        "exception function implement import int java javascript lambda linux list loop method null "
        "object parse print program pseudocode python query recursion recursive return script server "
        "software sql string tuple variable"
    ),
    "factual": _words(
        "author awarded born capital city country date died discovered first founded invented king "
        "located month name named nationality president published queen released river what when where "
        "which who whose won year"
    ),
    "creative": _words(
        "brainstorm character compose create creative design dialogue draw essay fiction haiku imagine "
        "invent joke lyrics melody metaphor novel poem poetry rhyme scene script song sonnet story tale "
        "verse write"
    ),
    "reasoning": _words(
        "argument assume because cause conclude conclusion contradiction deduce deductively explain "
        "false fallacy follows hence if imply implies infer invalid justify logic logical not premise "
        "premises prove proof reason statement suppose then therefore true valid why"
    ),
    "analytical": _words(
        "advantages analyse analysis analyze assess assessment compare comparison contrast critique "
        "data demand disadvantages economy evaluate examine impact interest interpret inventory "
        "investment market policy price pros rate report review statistics strategy supply tax trend "
        "versus"
    ),
    "linguistic": _words(
        "adjective adverb edit english french german grammar grammatical language letter meaning noun "
        "order paraphrase phrase pronoun proofread pronunciation rewrite sarcastic sentence sentences "
        "sort spanish spell spelling summarise summarize synonym translate translation verb vocabulary "
        "word words"
    ),
    "conversational": _words(
        "chat feel feeling goodbye hello help hey hi how's i'm morning opinion please talk thank thanks "
        "think you you're your"
    ),
}
"""By kind of task; the first five are the published task indicators, all eight the published domains
("math" for mathematical, "code" for technical)."""

TECHNICAL = _words(
    "algorithm api architecture boolean cache circuit compiler cpu database derivative distributed "
    "eigenvalue encryption entropy enzyme equation framework gradient hypothesis integral kernel "
    "latency matrix molecule network neural optimization optimisation parameter polynomial protocol "
    "quantum recursion regression server software system theorem thermodynamic variance vector voltage"
)

QUESTION_WORDS = _words("how what when where which who whom whose why")

CONJUNCTIONS = _words(
    "after although and as because before but if nor once or since so than that though unless until "
    "when whereas whether while yet"
)

FUNCTION_WORDS = CONJUNCTIONS | _words(
    "a about all an any are at be been being both by can could did do does doing down each few for from "
    "further had has have having he her here hers him his how i in into is it its just me more most my "
    "no not now of off on only other our out over own same she should some such the their them then "
    "there these they this those through to too under up very was we were what where which who whom why "
    "will with would you your"
)

LOAD_WORDS: dict[str, frozenset[str]] = {
    "recall": _words("define list name recall state what when where which who"),
    "comprehension": _words("describe explain interpret mean means paraphrase passage refers summarize"),
    "application": _words("apply calculate compute determine find how many much solve total use"),
    "analysis": _words("analyze cause classify compare contrast deduce distinguish examine infer order why"),
    "synthesis": _words(
        "build compose construct create design develop devise implement program propose write"
    ),
    "evaluation": _words("argue assess best critique defend evaluate judge justify moral should wrong"),
}
"""By cognitive load, the words that ask for it."""

EXPERTISE_WORDS: dict[str, frozenset[str]] = {
    "elementary": frozenset(),
    "middle_school": _words("atom earth ecosystem energy organism photosynthesis planet ratio species"),
    "high_school": _words("cell derivative equation function molecule probability revolution velocity"),
    "college": _words(
        "eigenvalue enzyme group homomorphism integral isomorphism orbital theorem thermodynamic"
    ),
    "professional": _words(
        "attorney audit clinical contract defendant diagnosis liability patient plaintiff"
    ),
}
"""By level of education, words that are met there first."""
