"""How FHIR R5 is told from R4: the two look alike, and an R5 resource read as R4 loses its meaning silently. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Elements that R5 has and R4 has not, by type.
# fmt: off
R5_ONLY: Mapping[str, tuple[str, ...]] = {
        "AllergyIntolerance": ("participant",),
        "CarePlan": ("custodian",),
        "Condition": ("participant",),
        "Consent": ("controller", "date", "decision", "grantee", "grantor", "manager", "period", "policyBasis",
        "policyText", "regulatoryBasis", "subject"),
        "Device": ("availabilityStatus", "biologicalSourceEvent", "category", "conformsTo", "cycle", "displayName",
        "duration", "endpoint", "gateway", "mode", "name"),
        "DiagnosticReport": ("composition", "note", "study", "supportingInfo"),
        "DocumentReference": ("attester", "basedOn", "bodySite", "event", "facilityType", "modality", "period",
        "practiceSetting", "version"),
        "Encounter": ("actualPeriod", "admission", "careTeam", "dietPreference", "plannedEndDate", "plannedStartDate",
        "reason", "specialArrangement", "specialCourtesy", "subjectStatus", "virtualService"),
        "Endpoint": ("description", "environmentType", "payload"),
        "FamilyMemberHistory": ("participant", "procedure", "reason"),
        "ImagingStudy": ("partOf", "procedure", "reason"),
        "Immunization": ("administeredProduct", "basedOn", "informationSource", "reason", "supportingInformation"),
        "Medication": ("definition", "doseForm", "marketingAuthorizationHolder", "totalVolume"),
        "MedicationAdministration": ("basedOn", "encounter", "isSubPotent", "medication", "occurenceDateTime",
        "occurencePeriod", "occurenceTiming", "reason", "recorded", "subPotentReason"),
        "MedicationRequest": ("device", "effectiveDosePeriod", "informationSource", "medication", "reason",
        "renderedDosageInstruction", "reported", "statusChanged"),
        "MedicationStatement": ("adherence", "effectiveTiming", "encounter", "medication", "reason",
        "relatedClinicalInformation", "renderedDosageInstruction"),
        "Observation": ("bodyStructure", "instantiatesCanonical", "instantiatesReference", "triggeredBy",
        "valueAttachment", "valueReference"),
        "Procedure": ("focus", "occurrenceAge", "occurrenceDateTime", "occurrencePeriod", "occurrenceRange",
        "occurrenceString", "occurrenceTiming", "reason", "recorded", "reportedBoolean", "reportedReference",
        "supportingInfo", "used"),
        "Provenance": ("authorization", "basedOn", "encounter", "patient"),
        "ServiceRequest": ("bodyStructure", "focus", "location", "reason"),
        "Specimen": ("combined", "feature", "role"),
        "Task": ("doNotPerform", "performer", "reason", "requestedPerformer", "requestedPeriod"),
}
# fmt: on


def r5_element(kind: str, resource: Mapping[str, Any]) -> str:
    """Return an element of a resource that shows it to be R5; empty where none does.

    Examples
    --------
    >>> r5_element("Procedure", {"occurrenceDateTime": "2020"}), r5_element("Procedure", {"performedDateTime": "2020"})
    ('occurrenceDateTime', '')
    >>> r5_element("Encounter", {"class": [{"coding": [{"code": "IMP"}]}]})
    'class'
    """
    only = next((name for name in R5_ONLY.get(kind, ()) if name in resource), "")
    return only or _r5_shape(kind, resource)


def _r5_shape(kind: str, resource: Mapping[str, Any]) -> str:
    """Return an element of both versions that has the form of R5: a list, or a CodeableConcept where R4 has a Coding."""
    if kind == "Encounter" and isinstance(resource.get("class"), list):
        return "class"
    if kind == "ImagingStudy":
        series = resource.get("series")
        holders = [resource, *(one for one in (series if isinstance(series, list) else []) if isinstance(one, Mapping))]
        if any(_concept(holder.get("modality")) for holder in holders):
            return "modality"
    return ""


def _concept(value: object) -> bool:
    values = value if isinstance(value, list) else [value]
    return any(isinstance(one, Mapping) and "coding" in one for one in values)
