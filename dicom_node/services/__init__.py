"""DIMSE services that the node offers as SCP, one module each: contexts that it accepts, messages that it answers."""
