from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from domain.errors import QualityRejection
from domain.findings import Finding, Outcome, QualityReport
from veraicon.pipeline import JobState, tell


class _Steps:
    """Each step returns its own name and remembers what it was given."""

    def __init__(self, report: QualityReport) -> None:
        self.report = report
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            self.calls.append((name, arguments))
            return self.report if name == "check" else name

        return step


def _report(*outcomes: Outcome) -> QualityReport:
    return QualityReport(tuple(Finding(f"check-{number}", outcome, 1.0, "x", "y") for number, outcome in enumerate(outcomes)))


def _record(states: list[JobState]) -> Any:
    def record(state: JobState, step: Callable[..., Any], *arguments: Any) -> Any:
        states.append(state)
        return step(*arguments)

    return record


def test_story_hands_each_result_forward_in_order() -> None:
    report = _report(Outcome.PASSED, Outcome.NOT_APPLICABLE)
    steps, states = _Steps(report), []
    assert tell(steps, "request", _record(states)) == "attest"
    assert [state.value for state in states] == [
        "received", "paired", "encoded", "generated", "checked", "approved", "published", "attested",
    ]  # fmt: skip
    assert steps.calls == [
        ("receive", ("request",)),
        ("pair", ("request", "receive")),
        ("encode", ("request", "pair")),
        ("generate", ("request", "receive", "encode")),
        ("check", ("receive", "generate")),
        ("approve", ("request", "generate", report)),
        ("publish", ("request", "pair", "generate", report, "approve")),
        ("attest", ("request", "publish")),
    ]


@pytest.mark.parametrize(
    "outcomes",
    [(Outcome.PASSED, Outcome.FAILED), (Outcome.NOT_APPLICABLE,), ()],
    ids=["one failed", "none applied", "none ran"],
)
def test_nothing_is_published_unless_a_check_passed_and_none_failed(outcomes: tuple[Outcome, ...]) -> None:
    steps = _Steps(_report(*outcomes))
    with pytest.raises(QualityRejection):
        tell(steps, "request", _record([]))
    assert steps.calls[-1][0] == "check"
