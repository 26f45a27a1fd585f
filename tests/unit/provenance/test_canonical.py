"""Canonical JSON is that of RFC 8785, whichever encoder writes it."""

from __future__ import annotations

from decimal import Decimal

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from provenance.canonical import canonical_json

_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
_numbers = st.one_of(
    st.integers(-(2**53) + 1, 2**53 - 1),
    st.floats(-(2**53) + 1, 2**53 - 1),
    st.sampled_from([-0.0, 1.0, 1e-5, 1e-7, 0.1, 5e-324]),
)
_json = st.recursive(
    st.one_of(st.none(), st.booleans(), _numbers, _text),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_text, inner, max_size=4)),
    max_leaves=12,
)


@pytest.mark.requirement("PROV-SIGN-001")
@settings(max_examples=300, deadline=None)
@given(_json)
def test_every_value_has_the_form_that_the_reference_implementation_gives_it(value: object) -> None:
    assert canonical_json(value) == rfc8785.dumps(value)  # type: ignore[arg-type]


def test_names_are_sorted_as_the_standard_wants_where_python_would_not() -> None:
    """RFC 8785 section 3.2.3 sorts by UTF-16 code units: a surrogate pair comes before U+FB33."""
    assert canonical_json({"\ufb33": 1, "\U0001f600": 2}) == '{"\U0001f600":2,"\ufb33":1}'.encode()


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 2**53, 2.0**60, Decimal("1e30"), {1: 2}, b"bytes", "\ud800", {"\ud800": 1}, object()]
)
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (each in its own words)
        canonical_json({"a": [value]})


def test_a_decimal_is_the_double_that_it_stands_for() -> None:
    assert canonical_json([Decimal("1.50"), Decimal("2.000"), Decimal("0.1")]) == b"[1.5,2,0.1]"
