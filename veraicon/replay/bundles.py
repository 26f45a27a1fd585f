"""The bundle of weights that an attestation names, among those that are at hand."""

from __future__ import annotations

from domain.errors import ReplayImpossible, WeightsRejected
from domain.model_card import ModelCard
from generators.cards import bundle_folder, bundled_models, read_card
from veraicon.replay.subject import Subject
from veraicon.settings import Settings


def bundle_of(subject: Subject, settings: Settings, given: str | None) -> str:
    """Return the bundle to use: the one that was given, else the one whose weights have the attested digest.

    Raises
    ------
    WeightsRejected
        If the given one is no bundle.
    ReplayImpossible
        If none has the attested digest.
    """
    if given is not None:
        read_card(bundle_folder(given))
        return given
    wanted = subject.claim("model", "weightsDigest")
    for name in dict.fromkeys([settings.generation.model, *bundled_models()]):
        card = _card(name)
        if card is not None and card.weights_digest == wanted:
            return name
    raise ReplayImpossible(
        found=f"no bundle with the weights of {subject.claim('model', 'name')} {subject.claim('model', 'version')}"
        f" that were attested ({str(wanted)[:23]}...)",
        allowed="the bundle with this digest, packaged, configured in [generation] model or named with --model",
        action="install the bundle; with --model another one can be tried, which will be named as different",
    )


def _card(name: str) -> ModelCard | None:
    """Return a bundle's card; None where the configured one is not there, which is no reason against the others."""
    try:
        return read_card(bundle_folder(name))
    except WeightsRejected:
        return None
