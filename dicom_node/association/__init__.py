"""Associations: who may have one, how it is secured, and how its octets are read and written."""
