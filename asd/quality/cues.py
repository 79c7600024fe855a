"""Where a reply states an answer: behind which words, and whether its own clause takes that back.

    "I thought of A, but the answer is B because ..."      stated behind "the answer is"
    "If the answer is A, then ...", "Is the answer A?"     not stated

Cues are English, with the word for "answer" in a dozen other languages. They are few and strict: a reply that
is read wrongly costs more than one that is not read.

Scope: positions in a plain text (`asd.quality.replies`); what stands there is read by `choice`, `number`
and `exact`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["ANSWER", "CHOICE", "CONCLUSION", "is_taken_back", "places", "tagged"]

_NOUNS = (
    r"\b(?:answer|antwort|lösung|réponse|respuesta|risposta|resposta|antwoord|odpowiedź|svar|ответ)\b"
    r"|\bans\b\.?|答案|答え|正解|정답|الإجابة"
)
_CHOICES = (
    r"|\b(?:answers|choice|option|response|solution|selection|pick|guess|verdict|conclusion|letter|opción|opção)\b"
    r"|\b(?:correct|right|best|true|likely|appropriate|accurate)\s+"
    r"(?:one|statement|alternative|description|interpretation|explanation|match)\b"
    r"|\b(?:final|correct)(?=\s*:)"
)
_OF_WHAT = (
    r"(?:\s+(?:to|of|for|from|among|here|therefore|then|thus|richtige|correcte?|correcta|corretta|الصحيحة)\b"
    r"[^.:;=\n]{0,80}?)??"
)
_COPULA = (
    r"(?:\b(?:is|was|are|equals|remains|ist|lautet|est|es)\b|\b(?:to|would|should|must|will|has to) be\b"
    r"|\bè|\bé|هي|应该是|应为|应是|是|为|為|选择?|選擇?|は|은|는|=>|->|[=:→⇒]|(?<=\s)-(?=\s)|(?<=\]))"
)
_MARKS = r"[\s*_\"'`)\]}]*"
_FILLERS = (
    r"(?:(?:the|most|more|likely|probably|definitely|clearly|certainly|obviously|indeed|therefore|thus|hence"
    r"|then|simply|just|actually|also|still|option|choice|letter|answer|alternative|correct|right|best|final"
    r"|one|is|die|la|le|il|el|opción|lettre|letra|buchstabe)\b[\s:*_,-]*|选项|not\s+\W*[A-Z]\W*?\s+but\s+)*"
)
_IS = rf"{_OF_WHAT}{_MARKS}(?:{_COPULA}[\s*_\"'`]*)+{_FILLERS}"
_MODAL = r"(?:'(?:d|ll|m|ve)|\s+(?:would|will|shall|must|am|should|can))?(?:\s+(?:have|going) to)?"
_CHOOSE = (
    r"(?:choose|chose|pick(?:ed)?|select(?:ed)?|(?:go|going|went) (?:with|for)|opt for|say|vote for|settle on"
    r"|answer(?: with)?|lean(?:ing)? towards?|think|believe|guess|conclude)"
)
_IT_IS = r"\b(?:it|that|this)(?:'s|\s+(?:is|was|(?:must|would|should|has to) be))\s+"

ANSWER = re.compile(rf"(?:{_NOUNS}){_IS}", re.IGNORECASE)
"""Names the answer, whatever it is."""

CHOICE = re.compile(
    rf"(?:{_NOUNS}{_CHOICES}){_IS}"
    rf"|\b(?:I|we|let's|let us){_MODAL}\s+(?:\w+ly\s+|then\s+|also\s+)?{_CHOOSE}\s+"
    rf"(?:that\s+)?(?:{_IT_IS})?{_FILLERS}"
    rf"|{_IT_IS}{_FILLERS}"
    r"|\b(?:mak(?:es|ing)|leav(?:es|ing)(?:\s+only)?|left with)\s+|[选選][择擇]?(?![项項])\s*:?\s*",
    re.IGNORECASE,
)
"""Names what is chosen among options."""

CONCLUSION = re.compile(
    rf"(?:\b(?:hence|therefore|thus|so|consequently|ergo)\b[\s,:]*|(?:=>|[→⇒∴])\s*"
    rf"|\b(?:no|wait|sorry|oops|actually|correction|I mean)\s*[,:.;!-]+\s*){_FILLERS}",
    re.IGNORECASE,
)
"""May be followed by what is chosen, or chosen instead, if nothing follows that."""

_TAGGED = re.compile(
    r"<(?P<name>(?:final[_ ]?)?answer|final|solution|option|choice)>(?P<tagged>.*?)(?:</(?P=name)>|\Z)"
    r"|\\f?box(?:ed)?\s*\{(?P<boxed>(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}"
    r"|\\boxed\s+(?P<bare>[^\s{}$]+)",
    re.IGNORECASE | re.DOTALL,
)
_WHO = r"\b(?:some|many|most|others|one|people|students|they)\b"
_TAKEN_BACK = re.compile(
    r"(?:\b(?:if|whether|suppose|supposing|assum(?:e|ed|ing)|unless|not|never|cannot|doubt|false|wrong|nor|neither"
    r"|without|pretend|imagine|claims?|tempting|first|initial|initially|originally)\b|n't\b"
    rf"|{_WHO}[^.,;:!?\n]*\b(?:say|think|believe|argue|assume|conclude)\b"
    r"|\bthought\b(?=\s+(?:that\s+)?(?:the|it|my|this|was)?\s*\Z))[^.,;:!?\n]*\Z",
    re.IGNORECASE,
)


_COUNTERFACTUAL = re.compile(
    r"\bif\b[^.!?\n]*\b(?:were|was|had|asked)\b(?!\s+to\s+(?:choose|pick|guess|answer|say|select|bet))[^.!?\n]*\Z",
    re.IGNORECASE,
)


def places(cue: re.Pattern[str], text: str) -> Iterator[int]:
    """Where a cue ends and what it announces begins, in order; what is taken back is left out."""
    for found in cue.finditer(text):
        is_only_thought = "would" in found[0] and _COUNTERFACTUAL.search(
            text, max(0, found.start() - 300), found.start()
        )
        if not is_only_thought and not is_taken_back(text, found.start()):
            yield found.end()


def tagged(text: str) -> list[tuple[int, str]]:
    r"""What stands in <answer> tags and LaTeX boxes, each with its place, in order."""
    return [(found.start(), next(filter(None, found.groups()[1:]), "")) for found in _TAGGED.finditer(text)]


def is_taken_back(text: str, place: int) -> bool:
    """Whether the clause before a place denies, doubts or only supposes what follows."""
    return _TAKEN_BACK.search(text, max(0, place - 200), place) is not None
