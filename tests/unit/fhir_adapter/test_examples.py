from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import fhir_adapter

MODULES = [module.name for module in pkgutil.iter_modules(fhir_adapter.__path__, "fhir_adapter.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_the_docstrings_hold(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
