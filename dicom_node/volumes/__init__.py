"""Instances of a series as one grid: frames, pixels, geometry, identity."""
