"""WMT22, German to English: news and conversations, scored by chrF against one reference.

Sentence chrF (Popovic 2015) over 100 is the quality of one translation; sacrebleu computes it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asd.errors import ConfigError
from asd.schema import msgspec
from asd.workloads.sources import HubTable, SourceTable
from asd.workloads.tasks import TaskSet

__all__ = ["WMT22"]


class Sentence(msgspec.Struct, frozen=True):
    """One sentence and its translation by a person."""

    id: str
    prompt: str
    reference: str


def _columns(row: Mapping[str, Any], pair: str, position: int) -> dict[str, Any]:
    both = row[pair]
    return {"id": f"wmt22-{pair}-{position}", "prompt": both["de"], "reference": both["en"]}


TABLE = SourceTable(
    "wmt22_de_en.jsonl.gz", Sentence, HubTable("haoranxu/WMT22-Test", ("de-en",), "test", _columns)
)


def _score(row: Sentence, text: str) -> float:
    try:
        from sacrebleu import sentence_chrf  # noqa: PLC0415  (only this set needs it)
    except ImportError as error:
        raise ConfigError("scoring translations needs sacrebleu: pip install 'asd[datasets]'") from error
    return float(sentence_chrf(text, [row.reference]).score) / 100


def _show(row: Sentence, *, answered: bool) -> str:
    return f"German: {row.prompt}\nEnglish:{f' {row.reference}' if answered else ''}"


WMT22 = TaskSet(
    name="wmt22",
    kind="translation",
    tables=(TABLE,),
    rows=lambda source: source.read(TABLE),
    max_new_tokens=256,
    question=lambda row: row.prompt,
    instruction=lambda _: "Translate this from German to English.",
    show=_show,
    until="\nGerman:",
    reference=lambda row: row.reference,
    score=_score,
)
"""The test set, without examples."""
