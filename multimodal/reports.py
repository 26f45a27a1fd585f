"""Report text to sentences: the unit that a sentence encoder was made for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from domain.clinical import ClinicalFact

MOST_SENTENCES = 8

# A line is a sentence of its own: reports are written as lists. "1.5 cm" is no end, for no space follows the stop.
_ENDS = re.compile(r"(?<=[.!?;])\s+|[\r\n]+")
_BULLET = re.compile(r"^\s*(?:[-*\u2022]|\d+[.)])\s+")


def is_report_text(fact: ClinicalFact) -> bool:
    """Tell whether a fact is the text of a report: its conclusion or presented form, not a coded conclusion or a result."""
    of_report = fact.source_reference.startswith("DiagnosticReport/")
    return of_report and isinstance(fact.value, str) and not fact.value_codings and not fact.negated


def report_sentences(reports: Sequence[ClinicalFact]) -> list[tuple[ClinicalFact, str]]:
    """Return the first sentences of the latest reports, each once; `reports` in the order in which they are to be read.

    A sentence stays as it is written. Whether it denies something is not decided here: nothing is added to it and nothing is
    taken out of it.
    """
    found: dict[str, tuple[ClinicalFact, str]] = {}
    for fact in reports:
        for sentence in sentences_of(str(fact.value)):
            found.setdefault(sentence.casefold(), (fact, sentence))  # a presented form repeats the conclusion
    return list(found.values())[:MOST_SENTENCES]


def sentences_of(text: str) -> Iterator[str]:
    r"""Yield the sentences of a text without bullets; what holds no letter, or is a heading, is none.

    Examples
    --------
    >>> list(sentences_of("IMPRESSION:\n1. Infarct of 1.5 cm in the left insula. No haemorrhage.\n---"))
    ['Infarct of 1.5 cm in the left insula.', 'No haemorrhage.']
    """
    for line in _ENDS.split(_unnumbered(text)):
        sentence = line.strip()
        if any(letter.isalpha() for letter in sentence) and not sentence.endswith(":"):
            yield sentence


def _unnumbered(text: str) -> str:
    """Return a text whose lines begin without bullets: the stop after a number of a list ends no sentence."""
    return "\n".join(_BULLET.sub("", line) for line in text.splitlines())
