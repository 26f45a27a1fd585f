"""Encodes paired imaging and clinical context into conditioning tokens."""
