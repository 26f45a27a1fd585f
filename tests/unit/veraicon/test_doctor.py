from __future__ import annotations

import pytest

from domain.errors import ConfigurationError
from veraicon import doctor


def test_refuses_a_second_owner_of_one_of_our_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    doctor.require_single_owner()
    monkeypatch.setattr(doctor, "packages_distributions", lambda: {"provenance": ["veraicon", "provenance-of-others"]})
    with pytest.raises(ConfigurationError, match="provenance-of-others"):
        doctor.require_single_owner()
