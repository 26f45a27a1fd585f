"""HTTP: health, jobs, requests, public keys, our own FHIR store, and DICOMweb."""
