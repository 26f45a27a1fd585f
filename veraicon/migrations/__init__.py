"""Alembic migrations of our tables; run by `veraicon.database.migrate` at every start."""
