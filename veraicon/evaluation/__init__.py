"""Measurements of models: what they make, judged by a network that did not make it, always beside real volumes."""
