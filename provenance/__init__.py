"""One attestation, many renderers: digests, signatures, DICOM marks, FHIR resources, verification. No torch."""
