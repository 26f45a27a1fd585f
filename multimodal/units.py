"""Numbers of facts in the unit of a concept, by UCUM."""

from __future__ import annotations

import math
import re
import threading
from functools import lru_cache
from typing import Any

from domain.clinical import ClinicalFact
from domain.errors import RequestInvalid

# The registry defines a unit when it first reads it, and two jobs of one worker may read the same one at once.
_ONE_AT_A_TIME = threading.Lock()


def in_unit(fact: ClinicalFact, unit: str) -> float:
    """Return the fact's number in a UCUM unit.

    Raises
    ------
    RequestInvalid
        If the fact holds no finite number, or a unit that is unknown or of another dimension. The value is not repeated.

    References
    ----------
    UCUM section 2.1, 6 to 12: an annotation in braces, such as ``{score}``, is the unity.
    """
    if isinstance(fact.value, bool) or not isinstance(fact.value, int | float) or not math.isfinite(fact.value):
        raise _refused("a value that is no finite number", unit)
    if not fact.unit:
        raise _refused("a number without a unit", unit)
    import pint  # imported late: the registry costs a second, and not every process converts
    from lark.exceptions import LarkError

    try:
        with _ONE_AT_A_TIME:
            registry = _registry()
            given, wanted = (registry.from_ucum(_without_annotation(name)) for name in (fact.unit, unit))
            return float(registry.Quantity(fact.value, given).to(wanted).magnitude)
    except (LarkError, pint.PintError) as error:
        raise _refused("a unit that is not known or measures something else", unit) from error


def _without_annotation(unit: str) -> str:
    return "1" if re.fullmatch(r"\{[^{}]*\}", unit) else unit


def _refused(found: str, unit: str) -> RequestInvalid:
    return RequestInvalid(
        found=found, allowed=f"a number in a UCUM unit that converts to {unit}", action="correct the value or its unit"
    )


@lru_cache(maxsize=1)
def _registry() -> Any:
    from ucumvert import PintUcumRegistry

    return PintUcumRegistry()
