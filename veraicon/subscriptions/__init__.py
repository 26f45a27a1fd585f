"""Watches a FHIR server for orders: keeps our subscriptions there, hears what it announces, and asks for what it did not."""
