"""A FHIR server of others: access, exchange, paging, bulk export. The only place that does FHIR I/O."""
