"""What a verification found: claims, each true, false or not checkable, with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from domain.errors import VeraiconError


class Truth(Enum):
    """What could be said about a claim."""

    TRUE = "true"
    FALSE = "false"
    NOT_CHECKABLE = "not checkable"


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim, what is true of it, and why; `why` never repeats content of the object."""

    name: str
    truth: Truth
    why: str


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """All claims about one object.

    Attributes
    ----------
    subject : str
        Kind of object: ``instance``, ``series``, ``Provenance``, ``sidecar``, ``file``, ``folder``.
    required : frozenset of str
        Names of the claims that have to be true for a good verdict.
    about : str
        Which one: a UID, or the name of a file.
    parts : tuple of VerificationReport
        One for each object in a folder; its own claims then sum them up.
    """

    subject: str
    claims: tuple[Claim, ...]
    required: frozenset[str]
    about: str = ""
    parts: tuple[VerificationReport, ...] = ()

    @property
    def verdict(self) -> bool:
        """True if no claim is false and every required one is true."""
        if self.parts:
            return all(part.verdict for part in self.parts)
        proven = {claim.name for claim in self.claims if claim.truth is Truth.TRUE}
        return self.required <= proven and not self.false

    @property
    def false(self) -> tuple[Claim, ...]:
        """The claims that are false."""
        return tuple(claim for claim in self.claims if claim.truth is Truth.FALSE)

    def __getitem__(self, name: str) -> Claim:
        """Return the claim with this name."""
        for claim in self.claims:
            if claim.name == name:
                return claim
        raise KeyError(name)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        content: dict[str, Any] = {
            "subject": self.subject,
            **({"about": self.about} if self.about else {}),
            "verdict": self.verdict,
            "claims": [{"claim": claim.name, "truth": claim.truth.value, "why": claim.why} for claim in self.claims],
        }
        return content | ({"reports": [part.to_json() for part in self.parts]} if self.parts else {})


Answer = tuple[Truth, str]


def yes(why: str) -> Answer:
    """Answer that the claim is true."""
    return Truth.TRUE, why


def no(why: str) -> Answer:
    """Answer that the claim is false."""
    return Truth.FALSE, why


def unknown(why: str) -> Answer:
    """Answer that the claim cannot be checked with what was given."""
    return Truth.NOT_CHECKABLE, why


def judge(name: str, check: Callable[[], Answer]) -> Claim:
    """Return the claim as `check` answers it.

    This is the edge of verification: the object comes from outside and may be broken in any way, on purpose too. An object
    that makes a check fail is not what was published, so every error makes the claim false; its text stays out of the report,
    because it may quote the object.
    """
    try:
        truth, why = check()
    except VeraiconError as error:
        truth, why = Truth.FALSE, f"found {error.found}; allowed: {error.allowed}"
    except Exception as error:  # noqa: BLE001 (the stated edge)
        truth, why = Truth.FALSE, f"the object is broken: reading it ended in {type(error).__name__}"
    return Claim(name, truth, why)


def summarise(name: str, claims: Iterable[Claim]) -> Claim:
    """Return one claim for the same claim about many instances: false if one is, true if all are."""
    members = list(claims)
    for truth in (Truth.FALSE, Truth.NOT_CHECKABLE):
        places = [place for place, claim in enumerate(members, start=1) if claim.truth is truth]
        if places:
            first = members[places[0] - 1]
            return Claim(
                name, truth, f"{len(places)} of {len(members)} instances, first the one given as no. {places[0]}: {first.why}"
            )
    if not members:
        return Claim(name, Truth.NOT_CHECKABLE, "no instance was given")
    return Claim(name, Truth.TRUE, f"all {len(members)} instances: {members[0].why}")


def sum_up(parts: Sequence[VerificationReport]) -> VerificationReport:
    """Return the report about a folder: a claim is false if it is false of one part, and true only if it is true of all."""
    by_name: dict[str, list[Claim]] = {}
    for part in parts:
        for claim in part.claims:
            by_name.setdefault(claim.name, []).append(claim)
    claims = tuple(_sum_up(name, members) for name, members in by_name.items())
    return VerificationReport("folder", claims, frozenset(), parts=tuple(parts))


def _sum_up(name: str, members: list[Claim]) -> Claim:
    for truth in (Truth.FALSE, Truth.NOT_CHECKABLE, Truth.TRUE):
        those = [claim for claim in members if claim.truth is truth]
        if those:
            break
    beside = "" if len(those) == len(members) == 1 else f"{len(those)} of {len(members)}, first: "
    return Claim(name, truth, beside + those[0].why)
