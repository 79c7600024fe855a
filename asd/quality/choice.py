r"""The letter a reply chooses.

    "B", "(b)", "B. Paris", "**B**", "The answer is (B) because ...", "I would pick B", "\boxed{B}"  ->  "B"
    "The answer is Paris."  ->  the letter of the option Paris

What a reply states counts first (`asd.quality.cues`), the last statement where it corrects itself; then what
it begins or ends with; then the only option that it names. A reply that leaves it at two ("B or C"), asks
("B?") or chooses nothing ("none of these") has no letter: one that is not there is worse than one missed.

Scope: text in, letter out. The options' texts are known, the right one is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from asd.quality.cues import CHOICE, CONCLUSION, is_taken_back, places, tagged
from asd.quality.letters import CLOSE, LIST, OPEN, UNDECIDED, Lettered
from asd.quality.replies import reply_of

__all__ = ["choice_of"]

_MARKS = r"[^\w?+#%&@✗✘❌❎]*+"
_BARE = re.compile(
    rf"{_MARKS}(?:(?:definitely|probably|clearly|surely|obviously|certainly|only|just|select|choose|pick"
    rf"|go with|chosen|selected|output|result|response|assistant|model|option|choice"
    rf"|letter|answer|(?:must|should|has to) be)\b[\s_]*{_MARKS})*"
    rf"(?:text|textbf|mathrm|mathbf|boxed|fbox)?{_MARKS}([A-Za-z]){_MARKS}"
    rf"(?:(?:obviously|definitely|clearly|certainly|of course|for sure|it is|correct){_MARKS})?",
    re.IGNORECASE,
)
_REPEATED = re.compile(rf"{_MARKS}([A-Z])(?:{_MARKS}(?<![A-Za-z0-9])\1(?![A-Za-z0-9]))+{_MARKS}")
_LABEL = re.compile(
    r"(?:[>•]|-\s)?\s*(?:(?:[Nn]ot|[Nn]either)\s[^.!?\n]{1,40}?\bbut\s+)?"
    rf"(?:{OPEN}(?:[Oo]ption|[Cc]hoice)[\s_-]+)?"
)
_LEADS = re.compile(
    r"[)\]}>*_.,:;!]|\s+-\s(?![A-Z]\b)|\s+\(|\s*(?:\n|\Z)"
    r"|\s+(?:because|since|as|due|weil|car|porque|parce|rather than|instead of)\b"
)
_OPENS_VERDICT = re.compile(
    r"(?:\A|[.,;:!?\n(]|-\s|\b(?:so|thus|hence|therefore|that|think|believe|say|guess|option|choice|answer|letter"
    r"|because|since|but|only|conclude))[\s(\[*_\"'`]*\Z",
    re.IGNORECASE,
)
_VERDICT = re.compile(
    r"[\s,]*\b(?:is|was|would be|must be|should be|has to be|(?:seems|appears)(?: to be)?|looks)\s+"
    r"(?:\w+ly\s+|indeed\s+|thus\s+)*(?:(?:the|my|our)\s+)?(?:most\s+|only\s+|one\s+)*"
    r"(?:correct|right|best|better|accurate|appropriate|likely|answer|suitable|choice)"
    r"(?:\s+(?:answer|choice|option|one|statement|response|alternative|explanation|match))?"
    r"(?=[\s)*_\"']*(?:[.,;:!\n(]|\Z)|\s+(?:because|since|as|here|for|and|given|to)\b)"
    r"|[\s,]*\bmakes\s+the\s+(?:most|best)\s+sense\b"
)
_TICKED = re.compile(r"[\s*_]*(?:[-:(\[]\s*)?[*_]*(?:(?:correct|right)\b(?![- ]+\w)|[✅✔☑✓])", re.IGNORECASE)
_CAPITAL = re.compile(rf"(?<![A-Za-z0-9'&/+.-])([A-Z])(?![A-Za-z0-9]){CLOSE}[.:]?")
_ENDS_LINE = re.compile(r"[\s.!)\]}*_\"'`$]*?(?:\n|\Z)")
_ANSWER_LABELS = re.compile(r"\W*(?:A\W*:\s*)+")
_LABELS = re.compile(rf"{CLOSE}[.:,)-]*\s*")
_MENTION = re.compile(rf"\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer|[Ll]etter)\s+(?={OPEN}[A-Z])|(?=\([A-Z]\))")
_ENDS_CLAUSE = re.compile(
    r"[\s*_\"'`)\]}$]*(?:[.,;:!\n(]|\Z|-\s|\b(?:because|since|as|and not|not|which|who|while)\b)"
)
_ENDS_SENTENCE = re.compile(r"[\s*_\"'`)\]}$]*(?:[.!](?!\w)|\n|\Z)")
_SENTENCE_BREAK = re.compile(r"[.!?]\s|\n")
_EQUATES = re.compile(r"(?:\b(?:is|are|was|were|be|means|called|named)\b|[=:])[\s*_\"'`]+")
_REFUSES = re.compile(
    r"\b(?:cannot|can't|unable|impossible|unclear|unsure|uncertain|insufficient|none of"
    r"|not (?:enough|sure|certain|possible)|(?:do not|don't) know)\b",
    re.IGNORECASE,
)
_LATEX_BRACKET = re.compile(r"\\([()\[\]])")
_SHORT = 200
"""Characters; in a longer text a sentence that ends in an option's text is a step of the work."""


def choice_of(text: str, options: Sequence[str]) -> str | None:
    """The letter of the option that a reply chooses; None if it chooses none, or more than one.

    Args:
        text: The reply.
        options: Texts of the options, of which the first is A; empty texts where only their number is known.
    """
    reply = _LATEX_BRACKET.sub(r"\1", reply_of(text))
    return _read(Lettered(reply, tuple(options))) or None


def _read(reply: Lettered) -> str | None:
    """What the first way of reading says that says anything, `UNDECIDED` included."""
    ways: tuple[Callable[[Lettered], str | None], ...] = (
        _bare,
        _before_own_question,
        _stated,
        _ticked,
        _leading_text,
        _at_an_end,
        _only_mention,
        _only_text,
    )
    return next((found for way in ways if (found := way(reply)) is not None), None)


def _bare(reply: Lettered) -> str | None:
    """A letter and nothing else, be it over and over."""
    found = _BARE.fullmatch(reply.text) or _REPEATED.fullmatch(reply.text)
    if found is None:
        return None
    return found[1].upper() if found[1].upper() in reply.letters else UNDECIDED


def _labelled(reply: Lettered) -> str | None:
    """A letter with the text of its option and nothing else."""
    found = reply.letter_at(0)
    own = reply.text_at(_end(_LABELS, reply.text, found.end)) if found else None
    is_own = own is not None and found is not None and own.letter == found.letter
    return own.letter if own and is_own and not reply.text[own.end :].strip(" .*_)`") else None


def _before_own_question(reply: Lettered) -> str | None:
    """An answer on a line of its own before a list of options: a base model has asked itself more."""
    line, _, rest = reply.text.partition("\n")
    first = replace(reply, text=line)
    return (_bare(first) or _labelled(first)) if LIST.search(rest) else None


def _stated(reply: Lettered) -> str | None:
    """The last of all statements."""
    found = [*_tagged(reply), *_announced(reply), *_concluded(reply), *_judged(reply)]
    return max(found, key=lambda statement: statement[0])[1] if found else None


def _tagged(reply: Lettered) -> Iterator[tuple[int, str]]:
    for place, content in tagged(reply.text):
        if (letter := _first(replace(reply, text=content.strip()))) is not None:
            yield place, letter


def _first(reply: Lettered) -> str | None:
    """What a short text says."""
    announced = next((letter for _, letter in _announced(reply)), None)
    return next(
        (x for x in (_bare(reply), announced, _leading_text(reply), _leading(reply)) if x is not None), None
    )


def _announced(reply: Lettered) -> Iterator[tuple[int, str]]:
    """Behind "the answer is": the text of an option, else a letter."""
    for place in places(CHOICE, reply.text):
        text, letter = reply.text_at(place), reply.letter_at(place)
        if text is not None and _ENDS_CLAUSE.match(reply.text, text.end):
            yield place, text.letter
        elif letter is not None:
            yield place, letter.letter


def _concluded(reply: Lettered) -> Iterator[tuple[int, str]]:
    """Behind "so" and "hence", where nothing follows."""
    for place in places(CONCLUSION, reply.text):
        found = reply.letter_at(place)
        if found is not None and _ENDS_LINE.match(reply.text, found.end):
            yield place, found.letter


def _judged(reply: Lettered) -> Iterator[tuple[int, str]]:
    """Before "is correct"; the text of the option may stand between."""
    for found in _CAPITAL.finditer(reply.text):
        if (
            found[1] in reply.letters
            and _VERDICT.match(reply.text, _behind_option(reply, found))
            and _OPENS_VERDICT.search(reply.text, max(0, found.start() - 40), found.start())
            and not is_taken_back(reply.text, found.start())
        ):
            yield found.start(), found[1]


def _ticked(reply: Lettered) -> str | None:
    """The one option of a list that is called correct where it stands: "C. Paris: correct"."""
    if not LIST.search(reply.text):
        return None
    letters = _CAPITAL.finditer(reply.text)
    ticked = {found[1] for found in letters if _TICKED.match(reply.text, _behind_option(reply, found))}
    return ticked.pop() if len(ticked) == 1 and ticked <= set(reply.letters) else None


def _behind_option(reply: Lettered, letter: re.Match[str]) -> int:
    """Where a letter ends, its option's text included if that follows."""
    own = reply.text_at(letter.end())
    return own.end if own is not None and own.letter == letter[1] else letter.end()


def _leading_text(reply: Lettered) -> str | None:
    """The text of an option at the beginning, on a line of its own or as the only one in a short reply."""
    found = reply.text_at(0)
    if found is None or not _ENDS_CLAUSE.match(reply.text, found.end):
        return None
    is_only = len(reply.mentioned) == 1 and len(reply.text) <= _SHORT
    return found.letter if is_only or _ENDS_LINE.match(reply.text, found.end) else None


def _at_an_end(reply: Lettered) -> str | None:
    """What a reply begins or ends with, if these do not contradict each other."""
    found = {letter for letter in (_leading(reply), _last_line(reply)) if letter is not None}
    return UNDECIDED if len(found) > 1 else next(iter(found), None)


def _leading(reply: Lettered) -> str | None:
    """A letter at the beginning that is no beginning of a list; "A:" may be short for "answer"."""
    found = reply.letter_at(_end(_LABEL, reply.text))
    if found is None or not _LEADS.match(reply.text, found.end):
        return None
    if found.letter != "A":
        return found.letter
    if LIST.match(reply.text):
        return None
    colon = _ANSWER_LABELS.match(reply.text)
    own = reply.text_at(colon.end()) if colon else None
    if colon is None or (own and own.letter == "A"):
        return "A"
    return _first(replace(reply, text=reply.text[colon.end() :]))


def _last_line(reply: Lettered) -> str | None:
    """A letter as the last line or sentence, alone or with the text of its option."""
    line = reply.text.rpartition("\n")[2].strip()
    last = replace(reply, text=line)
    sentence = replace(reply, text=_SENTENCE_BREAK.split(line)[-1])
    return _bare(last) or _bare(sentence) or (None if LIST.search(reply.text) else _labelled(last))


def _only_mention(reply: Lettered) -> str | None:
    """The only letter that is named as an option, by word or in brackets."""
    if _REFUSES.search(reply.text):
        return None
    found = {
        one and one.letter for one in map(reply.letter_at, (m.end() for m in _MENTION.finditer(reply.text)))
    }
    return found.pop() if len(found) == 1 else None


def _only_text(reply: Lettered) -> str | None:
    """The only option whose text occurs, if the first sentence ends in it: "The capital is Paris."."""
    if len(reply.mentioned) != 1 or len(reply.text) > _SHORT or _REFUSES.search(reply.text):
        return None
    for place in places(_EQUATES, reply.text):
        found = reply.text_at(place)
        if found and _ENDS_SENTENCE.match(reply.text, found.end):
            return None if _SENTENCE_BREAK.search(reply.text, 0, place) else found.letter
    return None


def _end(pattern: re.Pattern[str], text: str, place: int = 0) -> int:
    """Where what a pattern finds at a place ends; the place itself if it finds nothing."""
    found = pattern.match(text, place)
    return found.end() if found else place
