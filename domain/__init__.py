"""Frozen value types that every other package speaks in. Imports numpy and the standard library, nothing else."""
