"""HTTP: health, jobs, requests, public keys, and our own FHIR store."""
