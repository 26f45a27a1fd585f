"""What differs between the attested run and its replay: inputs on the one side, software and hardware on the other."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from domain.generation import GeneratedVolume
from provenance.statement import targets_digest
from veraicon.replay.subject import Subject


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not as attested.

    Attributes
    ----------
    is_input : bool
        True for what went in (source, snapshot, weights, seed), False for what it ran on.
    """

    what: str
    attested: str
    here: str
    is_input: bool

    def to_json(self) -> dict[str, str]:
        """Return plain JSON values."""
        kind = "input" if self.is_input else "environment"
        return {"what": self.what, "kind": kind, "attested": self.attested, "here": self.here}


@dataclass(frozen=True)
class Here:
    """The replay's own side.

    Attributes
    ----------
    salt : bytes or None
        The site's; None where it is not at hand.
    """

    generated: GeneratedVolume
    source_digest: str
    snapshot_digest: str
    salt: bytes | None


def differences(subject: Subject, here: Here) -> tuple[tuple[Difference, ...], tuple[str, ...]]:
    """Return what differs, inputs first, and what could not be compared."""
    compared = [*_inputs(subject, here), *_environment(subject, here.generated)]
    unknown: tuple[str, ...] = ()
    if here.salt is None:
        unknown = ("EHR snapshot and targets: their digests are salted, and the salt of the site that attested is not here",)
    else:
        compared = [*_salted(subject, here, here.salt), *compared]
    found = [Difference(what, str(then), str(now), is_input) for what, then, now, is_input in compared if then != now]
    return tuple(sorted(found, key=lambda one: not one.is_input)), unknown


_Compared = tuple[str, Any, Any, bool]


def _salted(subject: Subject, here: Here, salt: bytes) -> list[_Compared]:
    targets = targets_digest(here.generated.conditioning.targets, salt)
    return [
        ("EHR snapshot", subject.claim("context", "snapshotDigest"), here.snapshot_digest, True),
        ("values that the volume has to obey", subject.claim("conditioning", "targetsDigest"), targets, True),
    ]


def _inputs(subject: Subject, here: Here) -> list[_Compared]:
    generated, model = here.generated, here.generated.model
    return [
        ("source series", subject.claim("source", "digest"), here.source_digest, True),
        ("weights", subject.claim("model", "weightsDigest"), model.weights_digest, True),
        ("model", _model_of(subject), f"{model.name} {model.version}", True),
        ("seed", subject.claim("generation", "seed"), str(generated.seed), True),
        ("sampler", subject.claim("generation", "sampler"), generated.sampler, True),
        ("sampler steps", subject.claim("generation", "steps"), generated.sampler_steps, True),
        ("guidance", subject.claim("generation", "guidance"), generated.guidance, True),
        ("kinds of tokens", subject.claim("conditioning", "used"), list(generated.conditioning.used), True),
        ("model card", subject.claim("model", "cardDigest"), model.card_digest, False),
    ]


def _environment(subject: Subject, generated: GeneratedVolume) -> list[_Compared]:
    then, now = subject.claim("environment", "software"), dict(generated.environment.software)
    software: list[_Compared] = [
        (f"version of {name}", then.get(name, "not told"), now.get(name, "not told"), False)
        for name in sorted(set(then) | set(now))
    ]
    return [
        *software,
        ("Veraicon's version", subject.claim("softwareVersion"), version("veraicon"), False),
        ("device", subject.claim("environment", "device"), generated.environment.device, False),
        ("threads", subject.claim("environment", "threads"), generated.environment.threads, False),
        ("instruction set", subject.claim("environment", "instructionSet"), generated.environment.instruction_set, False),
    ]


def _model_of(subject: Subject) -> str:
    return f"{subject.claim('model', 'name')} {subject.claim('model', 'version')}"
