"""HL7 v2 messages at this site: kept, done once, acknowledged."""
