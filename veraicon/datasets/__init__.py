"""Versions of data sets: gathered from jobs and received series, split by subject, signed, kept, compared, exported."""
