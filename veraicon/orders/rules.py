"""Routing rules: what a site does with an order, and why. Pure: the same order and rules give the same verdict."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from domain.clinical import ClinicalFact
from domain.errors import ConfigurationError, RequestInvalid
from domain.ordering import Order
from veraicon.asking import parse_asked
from veraicon.sections import GenerationSettings, RuleSettings

_DEFAULTS = {action: RuleSettings(name="default", action=action) for action in ("generate", "ignore")}


@dataclass(frozen=True, slots=True)
class Considered:
    """One rule that was looked at: whether it covers the order, and the condition that decided."""

    rule: str
    matches: bool
    why: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is done with an order.

    Attributes
    ----------
    rule : str
        Name of the rule that covers it; empty where none does.
    generate : bool
        Whether volumes are made.
    reason : str
        Why, in words without patient data.
    model : str
        By which model; never empty where volumes are made.
    samples : int
        How many volumes of each series.
    asked : tuple of ClinicalFact
        Values that the volumes have to obey: the order's, and the rule's for what the order does not ask.
    fetch : str
        Peer from which images are fetched that are not here; empty: they come by themselves.
    priors : bool
        Whether earlier studies of the patient are fetched too.
    wait_s : float
        How long the order waits for images.
    fit_wait_s : float
        How long after the last image one that fits the model is waited for.
    considered : tuple of Considered
        Every rule that was looked at, in order.
    """

    rule: str
    generate: bool
    reason: str
    model: str
    samples: int
    asked: tuple[ClinicalFact, ...]
    fetch: str
    priors: bool
    wait_s: float
    fit_wait_s: float
    considered: tuple[Considered, ...]


def judge(order: Order, rules: Sequence[RuleSettings], generation: GenerationSettings) -> Verdict:
    """Return what the site does with an order: the first rule that covers it decides.

    Without a rule an order that asks us by name is met, and every other is ignored.
    """
    considered: list[Considered] = []
    for rule in rules:
        difference = _difference(order, rule)
        considered.append(Considered(rule.name, not difference, difference or "every condition holds"))
        if not difference:
            return _verdict(
                order, rule, generation, reason=f"rule {rule.name} says {rule.action}", considered=tuple(considered)
            )
    names = order.names_us
    reason = (
        f"this {order.kind} asks us by name" if names else f"no rule covers this {order.kind}, which does not ask us by name"
    )
    return _verdict(
        order, _DEFAULTS["generate" if names else "ignore"], generation, reason=reason, considered=tuple(considered)
    )


def require_rules(rules: Sequence[RuleSettings], *, peers: Collection[str], channels: Collection[str]) -> None:
    """Stop where a rule could never be followed: better at start than at the first order.

    Parameters
    ----------
    peers : collection of str
        Peers from which images can be fetched.
    channels : collection of str
        Channels that the site has.

    Raises
    ------
    ConfigurationError
        If two rules have one name, or one names an unknown peer or channel, or asks for what cannot be read.
    """
    seen: set[str] = set()
    for rule in rules:
        if rule.name in seen:
            raise _unusable(rule, "has the name of an earlier one", "a name of its own")
        seen.add(rule.name)
        if rule.fetch and rule.fetch not in peers:
            raise _unusable(rule, f"fetches from {rule.fetch!r}, which is no peer that we can call", _listed(peers))
        unknown = [name for name in rule.tell if name not in channels]
        if unknown:
            raise _unusable(rule, f"tells {unknown[0]!r}, which is no channel of this site", _listed(channels))
        try:
            _asked_by(rule)
        except RequestInvalid as error:
            raise _unusable(rule, f"asks for {error.found}", error.allowed) from error


def _unusable(rule: RuleSettings, found: str, allowed: str) -> ConfigurationError:
    action = "correct [[rules]], then start again"
    return ConfigurationError(f"rule {rule.name!r}, which {found}", allowed=allowed, action=action)


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "none is configured"


def _asked_by(rule: RuleSettings) -> tuple[ClinicalFact, ...]:
    return parse_asked([f"{kind}={value}" for kind, value in rule.ask.items()])


def _verdict(
    order: Order, rule: RuleSettings, generation: GenerationSettings, *, reason: str, considered: tuple[Considered, ...]
) -> Verdict:
    asked = {fact.text: fact for fact in _asked_by(rule)}
    asked |= {fact.text: fact for fact in order.asked}
    most = rule.max_samples or generation.max_samples
    too_many = rule.action == "generate" and order.samples > most
    if too_many:
        reason = f"it asks for {order.samples} volumes of each series, and this site makes {most} at most"
    return Verdict(
        rule="" if rule is _DEFAULTS.get(rule.action) else rule.name,
        generate=rule.action == "generate" and not too_many,
        reason=reason,
        model=order.model or rule.model or generation.model,
        samples=order.samples or rule.samples or generation.samples,
        asked=tuple(asked.values()),
        fetch=rule.fetch,
        priors=rule.priors,
        wait_s=rule.wait_s,
        fit_wait_s=rule.fit_wait_s,
        considered=considered,
    )


def _difference(order: Order, rule: RuleSettings) -> str:
    """Return the first condition of a rule that an order does not meet, in words; empty where it meets all."""
    told = (
        ("origin", rule.origin, order.origin.value),
        ("sender", rule.sender, order.sender),
        ("kind", rule.kind, order.kind),
        ("modality", rule.modality, order.modality),
    )
    for name, wanted, found in told:
        if wanted and wanted != found:
            return f"{name} is {found or 'not said'}, not {wanted}"
    if rule.code and not any(_is_code(rule.code, coding.system, coding.code) for coding in order.codes):
        return f"none of its {len(order.codes)} codes is {rule.code}"
    return ""


def _is_code(wanted: str, system: str, code: str) -> bool:
    """Compare ``system|code``, or a code of any system."""
    wanted_system, separator, wanted_code = wanted.rpartition("|")
    return code == wanted_code and (not separator or system == wanted_system)
