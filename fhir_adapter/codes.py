"""Systems and codes that the adapter reads or writes, each once, with its source (FHIR R4 4.0.1, THO code systems)."""

from __future__ import annotations

# Our own error codes (domain/errors.py) in OperationOutcome.issue.details.
ERROR_SYSTEM = "https://veraicon.dev/CodeSystem/error"

# FHIR R4 value set issue-type (required binding of OperationOutcome.issue.code).
# fmt: off
ISSUE_TYPES = frozenset({
    "invalid", "structure", "required", "value", "invariant", "security", "login", "unknown", "expired", "forbidden",
    "suppressed", "processing", "not-supported", "duplicate", "multiple-matches", "not-found", "deleted", "too-long",
    "code-invalid", "extension", "too-costly", "business-rule", "conflict", "transient", "lock-error", "no-store", "exception",
    "timeout", "incomplete", "throttled", "informational",
})
# fmt: on

# FHIR R4 Quantity.system: units that a computer may read.
UCUM = "http://unitsofmeasure.org"
# UCUM section 2.3: the unity, unit of a pure number.
UCUM_ONE = "1"
# What records write for a UCUM unit, where only one unit can be meant. Source: the print symbols of UCUM's own tables (2.2,
# ucum-essence.xml: "mm Hg", "°C", "°F"), and plain English names; a count's "bpm" is beats per minute.
# fmt: off
UNIT_SYNONYMS = {
    "mmHg": "mm[Hg]", "mm Hg": "mm[Hg]", "°C": "Cel", "degC": "Cel", "°F": "[degF]",
    "degF": "[degF]", "kg/m²": "kg/m2", "mm³": "mm3", "cm³": "cm3",
    "beats/min": "/min", "beats/minute": "/min", "breaths/min": "/min", "breaths/minute": "/min", "bpm": "/min",
    "percent": "%", "inches": "[in_i]", "lbs": "[lb_av]", "pounds": "[lb_av]", "mcg": "ug", "µg": "ug",
    "µm": "um", "IU/L": "[IU]/L", "years": "a", "yrs": "a", "days": "d", "hours": "h", "minutes": "min",
    "seconds": "s", "sec": "s",
}
# fmt: on

# FHIR R4 Condition.clinicalStatus (required binding) and Condition.verificationStatus (required binding).
CONDITION_CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"
CONDITION_VERIFICATION = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
VERIFICATION = frozenset({"unconfirmed", "provisional", "differential", "confirmed", "refuted", "entered-in-error"})
ACTIVE_CONDITION = frozenset({"active", "recurrence", "relapse"})
PAST_CONDITION = frozenset({"inactive", "remission", "resolved"})
# Left out by name: the record takes them back, or says that they are not so without saying what is.
NO_DIAGNOSIS = frozenset({"refuted", "entered-in-error"})
# FHIR R4 AllergyIntolerance.clinicalStatus and .verificationStatus (required bindings).
ALLERGY_CLINICAL = "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical"
ALLERGY_VERIFICATION = "http://terminology.hl7.org/CodeSystem/allergyintolerance-verification"

# Statuses under which a resource states something about the patient; every other status is left out by name.
# FHIR R4 observation-status, diagnostic-report-status, event-status, medicationrequest-status, medication-statement-status,
# request-status (all required bindings).
STATED = {
    "Observation": frozenset({"preliminary", "final", "amended", "corrected"}),
    "DiagnosticReport": frozenset({"partial", "preliminary", "final", "amended", "corrected", "appended"}),
    "Procedure": frozenset({"in-progress", "stopped", "completed"}),
    "MedicationRequest": frozenset({"active", "on-hold", "stopped", "completed"}),
    "MedicationStatement": frozenset({"active", "completed", "stopped", "on-hold"}),
    "ServiceRequest": frozenset({"active", "on-hold", "completed"}),
    "Encounter": frozenset({"arrived", "triaged", "in-progress", "onleave", "finished"}),
    "ImagingStudy": frozenset({"registered", "available"}),
}
# Statuses that state the opposite: the patient did not have it, or does not take it.
NEGATING = {"Procedure": "not-done", "MedicationStatement": "not-taken"}
# FHIR R4 medication-statement-status: it is no longer taken.
PAST_TAKING = frozenset({"completed", "stopped"})
STATUSES = {
    "Observation": STATED["Observation"] | {"registered", "cancelled", "entered-in-error", "unknown"},
    "DiagnosticReport": STATED["DiagnosticReport"] | {"registered", "cancelled", "entered-in-error", "unknown"},
    "Procedure": STATED["Procedure"] | {"preparation", "not-done", "on-hold", "entered-in-error", "unknown"},
    "MedicationRequest": STATED["MedicationRequest"] | {"cancelled", "entered-in-error", "draft", "unknown"},
    "MedicationStatement": STATED["MedicationStatement"] | {"intended", "entered-in-error", "unknown", "not-taken"},
    "ServiceRequest": STATED["ServiceRequest"] | {"draft", "revoked", "entered-in-error", "unknown"},
    "Encounter": STATED["Encounter"] | {"planned", "cancelled", "entered-in-error", "unknown"},
    "ImagingStudy": STATED["ImagingStudy"] | {"cancelled", "entered-in-error", "unknown"},
}

# Elements that FHIR R5 has and R4 has not (R5 "R4 Diff" of each resource): what holds one was not written for R4.
R5_ONLY = {
    "Observation": frozenset({"triggeredBy", "bodyStructure", "instantiatesCanonical", "instantiatesReference", "organizer"}),
    "Condition": frozenset({"participant"}),
    "DiagnosticReport": frozenset({"supportingInfo", "note", "composition"}),
    "Procedure": frozenset({"occurrenceDateTime", "occurrencePeriod", "occurrenceString", "reason", "supportingInfo", "focus"}),
    "MedicationRequest": frozenset({"medication", "reason", "renderedDosageInstruction", "effectiveDosePeriod", "device"}),
    "MedicationStatement": frozenset({"medication", "reason", "adherence", "renderedDosageInstruction"}),
    "ServiceRequest": frozenset({"reason", "bodyStructure", "focus"}),
    "Encounter": frozenset({"actualPeriod", "admission", "plannedStartDate", "plannedEndDate", "reason", "virtualService"}),
    "ImagingStudy": frozenset({"procedure", "partOf", "reason"}),
    "AllergyIntolerance": frozenset({"participant"}),
}

# Coded values that say "it is not there": SNOMED CT (Absent; Not detected; Known absent; Definitely NOT present; Negative; No),
# HL7 v2 table 0136 (No), LOINC answer lists (Absent; No; Negative).
SNOMED = "http://snomed.info/sct"
ABSENT_VALUES = frozenset(
    {
        (SNOMED, "2667000"),
        (SNOMED, "260415000"),
        (SNOMED, "410516002"),
        (SNOMED, "410594000"),
        (SNOMED, "260385009"),
        (SNOMED, "373067005"),
        ("http://terminology.hl7.org/CodeSystem/v2-0136", "N"),
        ("http://loinc.org", "LA9634-2"),
        ("http://loinc.org", "LA32-8"),
        ("http://loinc.org", "LA6577-6"),
    }
)
# Interpretations that say the same of a finding: negative, not detected, non-reactive (v3-ObservationInterpretation and HL7 v2
# table 0078, by their addresses of today and of FHIR STU3, or without one).
_INTERPRETATION_SYSTEMS = (
    "", "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation", "http://terminology.hl7.org/CodeSystem/v2-0078",
    "http://hl7.org/fhir/v3/ObservationInterpretation", "http://hl7.org/fhir/v2/0078",
)  # fmt: skip
ABSENT_INTERPRETATIONS = frozenset((system, code) for system in _INTERPRETATION_SYSTEMS for code in ("NEG", "ND", "NR"))

# Records that say that there is nothing of their kind: no known allergy (in general; to drugs, environment, food, latex), no
# problems, procedures or medication. IPS "Absent and Unknown Data", the SNOMED CT concepts that its ConceptMap
# absence-to-snomed-uv-ips maps it to, and the older SNOMED CT "No known allergies".
_IPS_ABSENT = "http://hl7.org/fhir/uv/ips/CodeSystem/absent-unknown-uv-ips"
_SNOMED_NONE = (
    "716186003", "409137002", "428607008", "429625007", "716184000", "160244002", "160245001", "787480003", "787481004",
)  # fmt: skip
_IPS_NONE = (
    "no-known-allergies", "no-known-medication-allergies", "no-known-environmental-allergies", "no-known-food-allergies",
    "no-known-problems", "no-known-procedures", "no-known-medications",
)  # fmt: skip
NONE_OF_ITS_KIND = frozenset((SNOMED, code) for code in _SNOMED_NONE) | frozenset((_IPS_ABSENT, code) for code in _IPS_NONE)
# IPS: nothing is known, one way or the other.
NOTHING_KNOWN = frozenset((_IPS_ABSENT, f"no-{kind}-info") for kind in ("allergy", "problem", "procedure", "medication"))

# FHIR R4 medicationrequest-intent (required binding): a proposal, a plan or an option is no order.
ORDERED = frozenset({"order", "original-order", "reflex-order", "filler-order", "instance-order"})

# FHIR R4 administrative-gender (required binding of Patient.gender).
GENDERS = frozenset({"male", "female", "other", "unknown"})

# FHIR R4 link-type: the resource that holds the link must no longer be used.
LINK_REPLACED_BY, LINK_REPLACES = "replaced-by", "replaces"

# FHIR R4 Consent.scope (http://terminology.hl7.org/CodeSystem/consentscope) and Consent.status (consent-state-codes).
CONSENT_SCOPE = "http://terminology.hl7.org/CodeSystem/consentscope"
SCOPE_RESEARCH = "research"
SCOPE_PRIVACY = "patient-privacy"
CONSENT_SCOPES = frozenset({"adr", SCOPE_RESEARCH, SCOPE_PRIVACY, "treatment"})
# v3-ActCode consent directives as Consent.policyRule: what holds where no provision says otherwise. OPTOUTE is an opt-out with
# exceptions, OPTINR an opt-in with restrictions.
POLICY_DENIES = frozenset({"OPTOUT", "OPTOUTE"})
POLICY_PERMITS, POLICY_LIMITS = frozenset({"OPTIN"}), frozenset({"OPTINR"})
CONSENT_STATUSES = frozenset({"draft", "proposed", "active", "rejected", "inactive", "entered-in-error"})

# v3-ActReason: HRESCH and everything below it, and RESCH (purposes of use); v3-ActCode RESEARCH (consent to research access).
ACT_REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
_PURPOSES = ("HRESCH", "BIORCH", "CLINTRCH", "CLINTRCHNPC", "CLINTRCHPC", "PRECLINTRCH", "DSRCH", "POARCH", "TRANSRCH", "RESCH")
RESEARCH_PURPOSES = frozenset((ACT_REASON, code) for code in _PURPOSES) | {(ACT_CODE, "RESEARCH")}

# v3-Confidentiality: restricted and very restricted. v3-ActCode refrain policies ("Prohibition on ...") that our use would
# break: further use, disclosure, integration and linking of the information without a consent that we cannot see.
CONFIDENTIALITY = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"
# fmt: off
_REFRAIN = (
    "NOAUTH", "NOCOLLECT", "NODSCLCD", "NODSCLCDS", "NOINTEGRATE", "NOORGPOL", "NORDSCLCD", "NORDSCLCDS", "NORDSCLW",
    "NORELINK", "NOREUSE", "OPTOUT",
)
# fmt: on
RESTRICTING_LABELS = frozenset((CONFIDENTIALITY, code) for code in ("R", "V")) | frozenset((ACT_CODE, c) for c in _REFRAIN)
# What older records call these code systems: their URLs in STU3, their OIDs in HL7 v3.
OLD_SYSTEMS = {
    "http://hl7.org/fhir/v3/Confidentiality": CONFIDENTIALITY,
    "urn:oid:2.16.840.1.113883.5.25": CONFIDENTIALITY,
    "http://hl7.org/fhir/v3/ActCode": ACT_CODE,
    "urn:oid:2.16.840.1.113883.5.4": ACT_CODE,
    "http://hl7.org/fhir/v3/ActReason": ACT_REASON,
    "urn:oid:2.16.840.1.113883.5.8": ACT_REASON,
}

# HL7 v2 table 0203: numbers of a person, a payer or a purse, which no imaging department gives as a Patient ID. Beside them the
# systems that say the same without a type: US social security numbers, passports and driving licences.
IDENTIFIER_TYPES = "http://terminology.hl7.org/CodeSystem/v2-0203"
NO_RECORD_NUMBER = frozenset(
    {"SS", "SB", "DL", "PPN", "TAX", "CZ", "PRC", "BC", "BR", "EN", "MA", "MC", "MB", "SN", "AN", "VN", "LN", "PRN", "NPI"}
)
NO_RECORD_SYSTEMS = (
    "http://hl7.org/fhir/sid/us-ssn",
    "http://hl7.org/fhir/sid/us-medicare",
    "http://hl7.org/fhir/sid/us-mbi",
    "http://hl7.org/fhir/sid/passport-",
    "http://standardhealthrecord.org/fhir/StructureDefinition/passportNumber",
    "urn:oid:2.16.840.1.113883.4.1",
    "urn:oid:2.16.840.1.113883.4.3.",
)
