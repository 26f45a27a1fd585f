"""One reader for each resource type that states clinical facts: resource -> what it states, and when. Pure.

A resource that cannot be used says why in `Stated.left_out`; one that is malformed raises ValueError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import tzinfo
from typing import Any

from fhir_adapter.clinical.statements.claims import Claim, Stated
from fhir_adapter.clinical.statements.diagnoses import allergy, condition
from fhir_adapter.clinical.statements.events import encounter, imaging_study, procedure, service_request
from fhir_adapter.clinical.statements.medications import medication, medications_named
from fhir_adapter.clinical.statements.observations import diagnostic_report, observation

READERS: Mapping[str, Callable[[Mapping[str, Any], tzinfo | None], Stated]] = {
    "Observation": observation,
    "Condition": condition,
    "DiagnosticReport": diagnostic_report,
    "Procedure": procedure,
    "MedicationRequest": medication,
    "MedicationStatement": medication,
    "Encounter": encounter,
    "ServiceRequest": service_request,
    "ImagingStudy": imaging_study,
    "AllergyIntolerance": allergy,
}

__all__ = ["READERS", "Claim", "Stated", "medications_named"]
