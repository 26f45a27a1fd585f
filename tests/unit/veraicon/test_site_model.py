"""The model of a site, as jobs and evaluations ask it."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from domain.clinical import ClinicalContext
from domain.generation import GenerationRequest
from domain.identifiers import SeriesUid
from domain.volume import Volume
from generators.cards import advised_steps
from veraicon.model import SiteModel

_WHEN = datetime(2026, 1, 1, tzinfo=UTC)
_NOBODY = ClinicalContext("", None, None, _WHEN, (), "")


@pytest.mark.parametrize("asked", [0, 2])
def test_steps_are_those_that_the_card_advises_unless_others_are_asked(asked: int) -> None:
    site = SiteModel("hippocampus-t1", device="cpu", threads=1)
    request = GenerationRequest("1", SeriesUid("2.25.1"), "", "hippocampus-t1", 1, 1.0, asked, _WHEN, "test")
    like = Volume(np.zeros((36, 50, 35), np.float32), np.eye(4)[[2, 1, 0, 3]], "", "MR")
    made = site.generate(request, site.encode(_NOBODY, (), None), like=like, cancelled=lambda: False)
    assert made.sampler_steps == (asked or advised_steps(site.card))
