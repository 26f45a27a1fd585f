from __future__ import annotations

import pickle

import pytest

from domain.errors import Retry, VeraiconError
from fhir_adapter.outcomes import error_classes, to_outcome

_CLASSES = list(error_classes())


def test_no_code_is_used_twice() -> None:
    codes = [kind.code for kind in _CLASSES]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("kind", _CLASSES, ids=lambda kind: kind.__name__)
def test_each_class_has_its_form_on_every_wire(kind: type[VeraiconError]) -> None:
    assert kind.code.startswith("VI-")
    assert isinstance(kind.retry, Retry)
    assert kind.dimse_status >> 12 in {0xA, 0xC}, "a failure status of PS3.4 B.2.3"
    assert 400 <= kind.http_status < 600
    assert 0 < kind.exit_code < 128
    assert kind.__doc__
    error = kind("this", allowed="that", action="the other")
    assert str(to_outcome(error)).count(kind.code) == 1
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (kind, str(error))


def test_the_tree_in_the_module_is_the_tree_of_the_classes() -> None:
    import domain.errors

    drawn = [line.split()[0].split("(")[0] for line in (domain.errors.__doc__ or "").splitlines() if line.startswith("    ")]
    assert set(drawn) == {kind.__name__ for kind in _CLASSES}
