"""A sentence encoder without a network, and facts to tell. `test_sentences.py` holds it to the contract of the real one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import torch
from torch import Tensor

from domain.clinical import ClinicalContext, ClinicalFact, Coding
from multimodal.sentences import EMBEDDING

AS_OF = datetime(2026, 1, 10, tzinfo=UTC)
LOINC = "http://loinc.org"
SNOMED = "http://snomed.info/sct"
NIHSS = Coding(LOINC, "72089-6", "Total score [NIH Stroke Scale]")
BMI = Coding(LOINC, "39156-5", "BMI")


class FakeSentences:
    """A direction for each text, by its digest: near texts are as far apart as any."""

    def __init__(self) -> None:
        self._known: dict[str, Tensor] = {}

    def remember(self, texts: Sequence[str], vectors: Tensor) -> None:
        self._known.update(zip(texts, vectors, strict=True))

    def embed(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([self._vector(text) for text in texts]) if texts else torch.zeros(0, EMBEDDING)

    def _vector(self, text: str) -> Tensor:
        if text not in self._known:
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1
            vector = torch.randn(EMBEDDING, generator=torch.Generator().manual_seed(seed))
            self._known[text] = torch.nn.functional.normalize(vector, dim=0)
        return self._known[text]


def fact(
    value: object = None, unit: str = "", *codings: Coding, text: str = "", day: int | None = 1, **more: Any
) -> ClinicalFact:
    """Return a fact of an Observation of a January day, or of none."""
    words = text or next((coding.display for coding in codings), "")
    at = None if day is None else datetime(2026, 1, day, tzinfo=UTC)
    return ClinicalFact(codings, words, value, unit, at, more.pop("reference", "Observation/x"), **more)  # type: ignore[arg-type]


def context(*facts: ClinicalFact, birth_date: str | None = None, sex: str | None = None) -> ClinicalContext:
    return ClinicalContext("Patient/x", birth_date, sex, AS_OF, facts, "sha256:0")
