"""MLCommons' own reader of Croissant metadata (PyPI mlcroissant), as an outside judge of what we export."""

from __future__ import annotations

from pathlib import Path

import pytest


def croissant_records(metadata: Path, record_set: str) -> list[dict[str, str]]:
    """Return the records of a record set, once the metadata were found to be without an error."""
    mlcroissant = pytest.importorskip("mlcroissant", reason="Croissant validator not here: PyPI mlcroissant")
    dataset = mlcroissant.Dataset(jsonld=str(metadata))
    assert dataset.metadata.ctx.issues.errors == set()
    prefix = f"{record_set}/"
    return [{name.removeprefix(prefix): value.decode() for name, value in one.items()} for one in dataset.records(record_set)]
