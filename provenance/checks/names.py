"""The claims of a verification report, each with what it says."""

from __future__ import annotations

READABLE = "readable"
PRESENT = "statement-present"
SIGNED = "statement-signed"
IN_SERIES = "in-series"
NAMED = "statement-names-instance"
PIXELS = "pixel-data"
ATTRIBUTES = "attributes"
MARKS = "marks"
DICOM_SIGNATURE = "dicom-signature"
COMPLETE = "series-complete"
KEY_VALID = "key-valid"
PROVENANCE_SIGNED = "provenance-signed"
PROVENANCE_ABOUT = "provenance-about-series"
PROVENANCE_ATTESTED = "provenance-names-attestation"
ATTESTATION_SIGNED = "attestation-signed"
ATTESTATION_ABOUT = "attestation-about-series"
IN_LOG = "in-log"
TIMES = "times-in-order"
RESOURCES = "resources"
CARD = "model-card"
PROV_JSON = "prov-json"
NOT_RECALLED = "not-recalled"

MEANINGS = {
    READABLE: "the file can be read as what it says it is",
    PRESENT: "the instance carries our private block, whole and with nothing else in it",
    SIGNED: "a trusted key signed the statement in the block, and the block names that key and that request's Provenance",
    IN_SERIES: "the instance's entry leads to the root of its series that the statement holds",
    NAMED: "the entry is of this very instance, in this series and study",
    PIXELS: "the decoded pixel values are those of the entry",
    ATTRIBUTES: "every other attribute is that of the entry",
    MARKS: "the instance says that it is synthetic, for research and derived",
    DICOM_SIGNATURE: "the instance carries the DICOM Digital Signature that the statement promises, and it holds",
    COMPLETE: "every instance of the series is there, once, and no other",
    KEY_VALID: "each key was valid when it signed: not stopped, not revoked",
    PROVENANCE_SIGNED: "a trusted key signed the FHIR Provenance as it stands",
    PROVENANCE_ABOUT: "the Provenance names this study and the digest of this statement",
    PROVENANCE_ATTESTED: "the Provenance names the digest of this attestation",
    ATTESTATION_SIGNED: "a trusted key signed the attestation, and its list of instances is the one of its statement",
    ATTESTATION_ABOUT: "the attestation holds this very statement",
    IN_LOG: "the attestation stands in the transparency log, and the log only grew when it came",
    TIMES: "requested, generated, approved, accepted, attested and logged in this order, none in the future, up to 5 minutes",
    RESOURCES: "the FHIR resources are those whose digests the attestation holds",
    CARD: "the model card is the one whose digest the statement holds",
    PROV_JSON: "the PROV-JSON document says what the attestation says, and nothing else about it",
    NOT_RECALLED: "no signed recall that was given names this output, and the FHIR server of its Provenance, asked, holds none",
}

INSTANCE_CLAIMS = (PRESENT, SIGNED, IN_SERIES, NAMED, PIXELS, ATTRIBUTES, MARKS, DICOM_SIGNATURE)
NOT_SIGNED = "no statement with a valid signature says what it should be"
