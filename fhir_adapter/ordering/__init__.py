"""What others ask for through FHIR, and what they are told about it."""
