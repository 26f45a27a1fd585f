"""The clinical half: reads context from FHIR servers and writes our resources back to them. No torch."""
