"""The model cards of a site in every form that it gives them: Markdown, CHAI Applied Model Card, JSON. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from domain.errors import AnswerUnacceptable, ResourceNotFound
from domain.model_card import ModelCard
from generators.cards import bundle_folder, bundled_models, encode_card, read_card
from provenance.cards.chai_card import MEDIA_TYPE, to_chai_xml
from provenance.cards.markdown_card import to_markdown


@dataclass(frozen=True)
class CardForm:
    """A form of a card.

    Attributes
    ----------
    names : tuple of str
        Media types that ask for it (RFC 9110 section 12.5.1); the first is the one that is answered.
    """

    names: tuple[str, ...]
    render: Callable[[ModelCard], bytes]


FORMS = {
    "markdown": CardForm(("text/markdown", "text/*"), lambda card: to_markdown(card).encode()),
    "chai": CardForm((MEDIA_TYPE, "text/xml"), to_chai_xml),
    "json": CardForm(("application/json", "application/*"), encode_card),
}


def known_card(name: str, own_model: str) -> ModelCard:
    """Return the card of a packaged model, or of the site's own by the name that stands in it; never of a path.

    Raises
    ------
    ResourceNotFound
        If the site knows no model of this name.
    """
    cards = {packaged: packaged for packaged in bundled_models()}
    own = read_card(bundle_folder(own_model))
    if name == own.name:
        return own
    if name in cards:
        return read_card(bundle_folder(name))
    raise ResourceNotFound(
        found="a model that this site does not know",
        allowed=", ".join(sorted({own.name, *cards})),
        action="name one of these",
    )


def form_for(asked: str | None, accept: str) -> str:
    """Return the form that a caller wants: the one that is asked for by name, else the best that is accepted.

    Parameters
    ----------
    asked : str or None
        ``markdown``, ``chai`` or ``json``.
    accept : str
        Value of the Accept header; empty accepts everything.

    Raises
    ------
    AnswerUnacceptable
        If it is none of them.

    Examples
    --------
    >>> form_for(None, "application/xml;q=0.5, application/json;q=0.9"), form_for(None, "")
    ('json', 'markdown')
    """
    if asked is not None:
        if asked in FORMS:
            return asked
        raise _not_offered()
    ranges = sorted((_weighted(one) for one in accept.split(",") if one.strip()), key=lambda one: -one[1])
    for media_range, weight in ranges or [("*/*", 1.0)]:
        for form, content in FORMS.items():
            if weight > 0 and media_range in ("*/*", *content.names):
                return form
    raise _not_offered()


def _weighted(one: str) -> tuple[str, float]:
    media_range, *parameters = (part.strip().lower() for part in one.split(";"))
    quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
    try:
        return media_range, float(quality)
    except ValueError:
        return media_range, 0.0


def _not_offered() -> AnswerUnacceptable:
    listed = ", ".join(f"{form} ({content.names[0]})" for form, content in FORMS.items())
    return AnswerUnacceptable(found="another form of a model card", allowed=listed, action="ask for one of these")
