"""Our own FHIR store in the embedded database, and what it can do."""
