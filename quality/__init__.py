"""Checks that decide whether a generated volume may leave, and measurements of whole models."""
