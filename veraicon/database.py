"""One database for everything: our tables and the durable engine's, SQLite embedded or PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from dbos import DBOS
from sqlalchemy import event
from sqlalchemy.exc import SQLAlchemyError

from domain.errors import ConfigurationError
from veraicon.settings import Settings

_MIGRATION_LOCK = 0x7665_7261  # any number, the same in every process
_MIGRATIONS = Path(__file__).parent / "migrations"


def connect(settings: Settings) -> sa.Engine:
    """Return an engine whose commits survive a loss of power.

    SQLite runs in WAL mode with ``synchronous=FULL``: NORMAL would be faster and could lose what was acknowledged.
    """
    settings.storage.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        engine = sa.create_engine(settings.database_url, pool_pre_ping=True)
    except (SQLAlchemyError, ModuleNotFoundError) as error:
        raise ConfigurationError(
            found=f"storage.database_url that cannot be used ({type(error).__name__})",
            allowed="sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME",
            action="correct storage.database_url",
        ) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = "IMMEDIATE"
    for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def migrate(engine: sa.Engine) -> None:
    """Bring our tables and the durable engine's to the version of this program.

    Raises
    ------
    ConfigurationError
        If the database cannot be reached or migrated.
    """
    configuration = Config()
    configuration.set_main_option("script_location", str(_MIGRATIONS))
    try:
        with engine.begin() as connection:
            # Two processes may start at once. The driver of SQLite begins no transaction for what creates tables.
            if engine.dialect.name == "postgresql":
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            elif engine.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            configuration.attributes["connection"] = connection
            command.upgrade(configuration, "head")
        DBOS.migrate(engine.url.render_as_string(hide_password=False))
    except SQLAlchemyError as error:
        raise ConfigurationError(
            found=f"a database that cannot be opened or migrated ({type(error).__name__})",
            allowed="a reachable SQLite file or PostgreSQL database that this user may write",
            action="check storage.database_url, its server and its rights, then start again",
        ) from error
