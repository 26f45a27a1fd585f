"""Codes by which others ask us for volumes through FHIR, and by which we answer. Ours where no standard has one."""

from __future__ import annotations

from collections.abc import Mapping

# Task.code, and type of Task.input and Task.output. Parameters of $generate have the same names.
TASK_SYSTEM = "https://veraicon.dev/fhir/CodeSystem/task"
GENERATE = "generate"
# Task.code of the Tasks that we make ourselves to say what becomes of somebody's order.
REPORT = "report"

# Who calls $generate, in lists and rules; and Task.identifier of the Task that stands for a call: the id of its order.
CALLER = "operation"
ORDER_SYSTEM = "https://veraicon.dev/fhir/order"

ACCESSION, STUDY_UID, SERIES_UID, IMAGES = "accession", "study-uid", "series-uid", "images"
MODEL, SAMPLES = "model", "samples"
INPUTS = frozenset({ACCESSION, STUDY_UID, SERIES_UID, IMAGES, MODEL, SAMPLES})

# Numbers that a volume has to obey: input by this system's codes, value as a Quantity.
MEASUREMENT_SYSTEM = "https://veraicon.dev/fhir/CodeSystem/measurement"

IMAGING_STUDY, PROVENANCE, DOCUMENT, STUDY_UID_OUT = "imaging-study", "provenance", "document", "study-uid"

# HL7 v2 table 0203 (http://terminology.hl7.org/CodeSystem/v2-0203): accession ID.
IDENTIFIER_TYPE = "http://terminology.hl7.org/CodeSystem/v2-0203"
ACSN = "ACSN"

# Systems under which a study's UID stands in ImagingStudy.identifier: the standard's, and the one that Synthea writes.
STUDY_UID_SYSTEMS = ("urn:dicom:uid", "urn:ietf:rfc:3986")
UID_PREFIX = "urn:oid:"

# FHIR R4 task-status, request-status, imagingstudy-status (required bindings): what asks for something, what takes it back.
OPEN: Mapping[str, frozenset[str]] = {
    "Task": frozenset({"requested", "received", "accepted", "ready", "in-progress", "on-hold"}),
    "ServiceRequest": frozenset({"active"}),
    "ImagingStudy": frozenset({"available"}),
}
REVOKED: Mapping[str, frozenset[str]] = {
    "Task": frozenset({"cancelled", "entered-in-error"}),
    "ServiceRequest": frozenset({"revoked", "entered-in-error"}),
    "ImagingStudy": frozenset({"cancelled", "entered-in-error"}),
}
# Task.status by which a requester asks; of those of an order that stands, the only one that we never write ourselves.
REQUESTED = "requested"
