"""Resources of one patient as clinical context: statements, time, consent, and the evidence for a pairing."""
