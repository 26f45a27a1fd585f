"""The single checks behind a verification report, by what they look at; `provenance.verification` puts them together."""
