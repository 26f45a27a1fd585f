"""3D generators conditioned on tokens; they know no encoder, no DICOM and no FHIR."""
