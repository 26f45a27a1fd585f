from __future__ import annotations

import pytest

from domain.clinical import ClinicalFact, Coding
from multimodal.reports import MOST_SENTENCES, is_report_text, report_sentences, sentences_of
from tests.unit.multimodal.fakes import fact


def _report(text: str, number: int = 1, **more: object) -> ClinicalFact:
    return fact(text, text="CT head", reference=f"DiagnosticReport/{number}", **more)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Infarct of 1.5 cm. No haemorrhage!", ["Infarct of 1.5 cm.", "No haemorrhage!"]),
        ("FINDINGS:\n- left insula\r\n2) no shift\n\n***", ["left insula", "no shift"]),
        ("one line without a stop", ["one line without a stop"]),
        ("1.\n 42 ", []),
    ],
)
def test_a_report_is_cut_at_stops_and_lines_and_numbers_are_no_ends(text: str, sentences: list[str]) -> None:
    assert list(sentences_of(text)) == sentences


def test_a_denial_stays_as_it_is_written() -> None:
    denied = _report("There is no acute infarct.")
    assert report_sentences([denied]) == [(denied, "There is no acute infarct.")]


def test_each_sentence_is_told_once_and_eight_at_most_from_the_first_reports() -> None:
    first = _report(" ".join(f"Finding {letter} is seen." for letter in "abcdef"))
    again = _report("FINDING A IS SEEN. Finding x is seen. Finding y is seen. Finding z is seen.", 2)
    told = [sentence for _fact, sentence in report_sentences([first, again])]
    assert len(told) == MOST_SENTENCES == 8
    assert told[-2:] == ["Finding x is seen.", "Finding y is seen."]


def test_only_text_of_a_report_is_report_text() -> None:
    assert is_report_text(_report("Infarct."))
    coded = _report("Infarct", value_codings=(Coding("s", "1"),))
    for other in (coded, fact("Infarct."), _report("Infarct.", negated=True)):
        assert not is_report_text(other)
