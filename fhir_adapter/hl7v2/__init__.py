"""HL7 v2: messages of integration engines, over MLLP, as what the rest of the adapter understands."""
