"""The conformance statement of the node, made from the tables that the node works by."""
