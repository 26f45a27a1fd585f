"""Results of quality checks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from domain.errors import QualityRejection


class Outcome(Enum):
    """What a check said."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's result.

    Attributes
    ----------
    check : str
        Stable name such as ``finite`` or ``requested-volume``.
    measured : float or None
        The number that was compared; None where the check did not apply.
    allowed : str
        The range or rule in words, with its unit.
    statement : str
        One sentence for a person.
    """

    check: str
    outcome: Outcome
    measured: float | None
    allowed: str
    statement: str


@dataclass(frozen=True, slots=True)
class QualityReport:
    """All findings about one generated volume."""

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """True if at least one check ran and none failed."""
        outcomes = [finding.outcome for finding in self.findings]
        return Outcome.PASSED in outcomes and Outcome.FAILED not in outcomes

    def require_passed(self) -> QualityReport:
        """Return the report itself, or stop the story.

        Raises
        ------
        QualityRejection
            If a check failed, naming each one.
        """
        if self.passed:
            return self
        failed = [finding for finding in self.findings if finding.outcome is Outcome.FAILED]
        raise QualityRejection(
            found="; ".join(finding.statement for finding in failed) or "no check that applied",
            allowed="; ".join(f"{finding.check}: {finding.allowed}" for finding in failed) or "at least one passed check",
            action="nothing was published; ask again with another seed, guidance or requested value",
        )
