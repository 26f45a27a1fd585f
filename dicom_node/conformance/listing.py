"""Every attribute of some datasets: how often it is there, and its value where that is always the same. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

VARIES = "varies"

# VRs that may hold much; whether two of their values agree says nothing of a third.
_BULK = frozenset({"OB", "OW", "OF", "OD", "OL", "OV", "UN"})
_LONGEST_VALUE = 64
_MOST_TERMS = 6


@dataclass(frozen=True, slots=True)
class ListedAttribute:
    """An attribute at its place.

    Attributes
    ----------
    path : tuple of BaseTag
        Tags from the top of the dataset down to it.
    presence : str
        ALWAYS, VNAP (value not always present), ANAP (attribute not always present) or EMPTY (never a value).
    value : str
        The one that it always has, the terms that a code string has, or that it varies.
    """

    path: tuple[BaseTag, ...]
    vr: str
    presence: str
    value: str

    @property
    def tag(self) -> str:
        """(gggg,eeee)."""
        return f"({self.path[-1].group:04X},{self.path[-1].element:04X})"

    @property
    def keyword(self) -> str:
        """Keyword, with one ``>`` for each sequence that it stands in."""
        return ">" * (len(self.path) - 1) + keyword_for_tag(self.path[-1])


@dataclass(slots=True)
class _Seen:
    vr: str
    there: int = 0
    values: list[str] = field(default_factory=list)


def listed(datasets: Sequence[Dataset]) -> tuple[ListedAttribute, ...]:
    """Return the attributes of datasets of one kind in the order of their tags, sequences with what is in their items."""
    seen: dict[tuple[BaseTag, ...], _Seen] = {}
    parents: dict[tuple[BaseTag, ...], int] = {(): len(datasets)}
    for ds in datasets:
        _collect(ds, (), seen, parents)
    return tuple(
        ListedAttribute(path, found.vr, _presence(found, parents[path[:-1]]), _value(found))
        for path, found in sorted(seen.items(), key=lambda one: one[0])
    )


def top_level(attributes: Iterable[ListedAttribute]) -> dict[BaseTag, tuple[ListedAttribute, ...]]:
    """Return the attributes by the top-level one that they belong to."""
    trees: dict[BaseTag, tuple[ListedAttribute, ...]] = {}
    for attribute in attributes:
        trees[attribute.path[0]] = (*trees.get(attribute.path[0], ()), attribute)
    return trees


def _collect(
    ds: Dataset,
    above: tuple[BaseTag, ...],
    seen: dict[tuple[BaseTag, ...], _Seen],
    parents: dict[tuple[BaseTag, ...], int],
) -> None:
    for element in ds:
        path = (*above, element.tag)
        found = seen.setdefault(path, _Seen(element.VR))
        found.there += 1
        if element.VR == "SQ":
            found.values += ["items"] if element.value else []
            parents[path] = parents.get(path, 0) + len(element.value)
            for item in element.value:
                _collect(item, path, seen, parents)
        elif not element.is_empty:
            found.values.append(_text(element))


def _text(element: DataElement) -> str:
    if element.VR in _BULK:
        return VARIES
    if element.VR == "AT":
        return f"({element.value.group:04X},{element.value.element:04X})"
    return "\\".join(map(str, element.value)) if element.VM > 1 else str(element.value)


def _presence(found: _Seen, places: int) -> str:
    if not found.values:
        return "EMPTY"
    if found.there < places:
        return "ANAP"
    return "ALWAYS" if len(found.values) == found.there else "VNAP"


def _value(found: _Seen) -> str:
    values = list(dict.fromkeys(found.values))
    if found.vr == "SQ" or not values:
        return ""
    if VARIES in values or any(len(value) > _LONGEST_VALUE for value in values):
        return VARIES
    if len(values) == 1:
        return values[0]
    return " or ".join(values) if found.vr == "CS" and len(values) <= _MOST_TERMS else VARIES
