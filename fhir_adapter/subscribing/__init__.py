"""What a FHIR server announces: its subscriptions, notifications and the poll that closes their gaps."""
