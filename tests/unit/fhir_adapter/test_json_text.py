from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_adapter.json_text import canonical_json, parse_json, parse_json_once, salted_digest, write_json

NUMBERS = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12, places=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=20) | NUMBERS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_was_written_is_read_again_digit_by_digit(value):
    assert parse_json(write_json(value)) == value
    assert write_json(parse_json(write_json(value))) == write_json(value)


@pytest.mark.parametrize("digits", ["1.50", "0.267000", "1E+3", "-0.0", "175.0822378979686", "0.10000000000000000000001"])
def test_precision_of_a_decimal_survives(digits):
    assert write_json(parse_json(f'{{"value":{digits}}}')) == f'{{"value":{digits}}}'


def test_a_string_that_looks_like_a_marked_decimal_stays_a_string():
    text = '{"value":"decimal-0123456789abcdef01234567:1.5"}'
    assert write_json(parse_json(text)) == text


@given(VALUES)
def test_digest_ignores_spacing_and_order_and_trailing_zeros(value):
    salt = b"s" * 16
    assert salted_digest({"b": value, "a": Decimal("1.50")}, salt=salt) == salted_digest({"a": 1.5, "b": value}, salt=salt)


def test_digest_depends_on_content_and_on_the_salt():
    assert salted_digest({"a": 1}, salt=b"s" * 16) != salted_digest({"a": 2}, salt=b"s" * 16)
    assert salted_digest({"a": 1}, salt=b"s" * 16) != salted_digest({"a": 1}, salt=b"t" * 16)


@pytest.mark.parametrize(
    "text", ["", "{", '{"a": NaN}', "[Infinity]", b"\xff\xfe\x00", "[" * 100_000, "1e99999999999999999999"]
)
def test_refuses_what_is_no_json(text):
    with pytest.raises(ValueError):  # noqa: PT011
        parse_json(text)


@pytest.mark.parametrize("text", ['{"a": 1e999}', '{"a": ' + "9" * 400 + "}"])
def test_canonical_form_refuses_numbers_outside_the_doubles(text):
    with pytest.raises(ValueError, match="outside the doubles"):
        canonical_json(parse_json(text))


def test_every_text_that_is_taken_can_be_written_and_digested_and_a_deeper_one_is_refused():
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        taken = parse_json(opening * 200 + "1" + closing * 200)
        assert parse_json(write_json(taken)) == taken
        assert canonical_json(taken)
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(opening * 201 + "1" + closing * 201)


def test_what_is_signed_names_no_member_twice() -> None:
    assert parse_json_once(b'{"a": {"b": 1.50}, "c": [{"b": 1}]}') == {"a": {"b": Decimal("1.50")}, "c": [{"b": 1}]}
    for text in ('{"a": 1, "a": 1}', '[{"b": {"a": 1, "a": 2}}]'):
        with pytest.raises(ValueError, match="twice"):
            parse_json_once(text)
