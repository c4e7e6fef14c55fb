"""The database: SQLite by a file, or PostgreSQL by a URL; reading and writing transactions; migrations at start."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any

import alembic.command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, Float, Integer, String, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session

from depthface.errors import ConfigError
from depthface_gateway.jobs.models import VERSION_TABLE, Base, Job, QueueEntry, SyncStatus

__all__ = ["Database", "engine_of", "url_in"]

_log = logging.getLogger(__name__)

_SQLITE, _POSTGRESQL = "sqlite", "postgresql"
_OUR_FILE, _OLDER_FILE = "gateway.sqlite3", "inference.db"
_OLDER_TABLES = {Job.__tablename__, QueueEntry.__tablename__, SyncStatus.__tablename__}
_BUSY_TIMEOUT_MS = 30_000
_PAUSE_S = 0.01
_WRITES = "depthface_writes"


class Database:
    """The tables, made or brought up to date when this is made.

    Args:
        url: `sqlite:///FILE` or `postgresql://…`.
        clock: gives the time in ms, instead of the machine's or PostgreSQL's.

    Raises:
        ConfigError: the URL is of another kind, or the database cannot be opened, or is of a newer version.
    """

    def __init__(self, url: str, clock: Callable[[], int] | None = None) -> None:
        self._clock = clock
        self.engine = engine_of(url)
        self.is_sqlite = self.engine.dialect.name == _SQLITE
        self._writer = self.engine.execution_options(**{_WRITES: True})
        try:
            self.migrate()
        except SQLAlchemyError as error:
            self.close()
            raise ConfigError(
                f"The database {self.engine.url.render_as_string()} cannot be used ({_reason(error)}).",
                "Check --database (or DATABASE_URL), that it runs, and that this user may write to it.",
            ) from error
        except CommandError as error:  # it names a step that is not among ours
            self.close()
            raise ConfigError(
                f"The database {self.engine.url.render_as_string()} has been used by a newer depthface.",
                "Install that version again, or restore the copy of the database from before.",
            ) from error

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a transaction that only reads."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Open a transaction that writes, committed at the end; one at a time with SQLite."""
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            session.connection()  # waits for its turn here, so that a time that is taken inside is of the turn itself
            yield session

    def now_ms(self, session: Session) -> int:
        """Return the time by which leases are kept: PostgreSQL's, where workers may be on several machines."""
        if self._clock is not None:
            return self._clock()
        if self.is_sqlite:
            return time.time_ns() // 1_000_000
        return int(session.scalar(text("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)")))

    def migrate(self, revision: str = "head") -> None:
        """Bring the tables to a revision, in one transaction; whoever starts at the same moment waits."""
        with self._writer.begin() as connection, _alone(connection):
            config = _alembic(connection)
            if revision == "head" or revision.startswith("+"):
                alembic.command.upgrade(config, revision)
            else:
                alembic.command.downgrade(config, revision)

    def close(self) -> None:
        """Let the connections go."""
        self.engine.dispose()


def engine_of(url: str) -> Engine:
    """Return an engine with the settings that jobs need.

    Raises:
        ConfigError: the URL cannot be used.
    """
    parsed = _checked(url)
    if parsed.get_backend_name() == _POSTGRESQL:
        from depthface_gateway.jobs import postgres  # takes a driver that SQLite does not

        engine = create_engine(parsed, pool_pre_ping=True)
        event.listen(engine, "do_connect", postgres.connect)
        return engine
    if parsed.database:
        try:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"The folder of the database {parsed.database} cannot be made ({error.strerror}).",
                "Name one that can be written to with --data or --database.",
            ) from error
    engine = create_engine(parsed, connect_args={"timeout": _BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def url_in(folder: Path) -> str:
    """Return the URL of the database in a data folder.

    It is the older service's own file where that is there, ours is not, and the migrations can take it over.
    """
    ours, older = (folder.absolute() / name for name in (_OUR_FILE, _OLDER_FILE))
    with suppress(OSError):  # a folder that cannot be looked into is named when its database is opened
        if older.is_file() and not ours.exists():
            if _can_be_taken_over(older):
                _log.info("Jobs are kept in the older service's database, %s", older)
                return f"sqlite:///{older}"
            _log.warning("%s is left as it is, for it has not the older service's tables: jobs go to %s", older, ours)
    return f"sqlite:///{ours}"


def _can_be_taken_over(path: Path) -> bool:
    """Whether a SQLite file has the older service's tables, or has been taken over already; it is only read.

    The migrations are tried in memory, on a copy of the tables without their rows.
    """
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=rw", uri=True, timeout=_BUSY_TIMEOUT_MS / 1000)) as there:
            made = there.execute(
                "SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'index') AND sql IS NOT NULL "
                "AND name NOT GLOB 'sqlite_*' ORDER BY type DESC, rowid"
            ).fetchall()
    except sqlite3.OperationalError:  # locked, or closed to us: its opening says so, and no jobs seem to be gone
        return True
    except sqlite3.DatabaseError:  # it is none
        return False
    names = {name for name, _ in made}
    if VERSION_TABLE in names:
        return True
    if not names >= _OLDER_TABLES:
        return False
    engine = create_engine("sqlite://")
    try:
        with engine.begin() as connection:
            for _, statement in made:
                connection.exec_driver_sql(statement)
            alembic.command.upgrade(_alembic(connection), "head")
            return _fits(connection)
    except SQLAlchemyError:
        return False
    finally:
        engine.dispose()


def _fits(connection: Connection) -> bool:
    """Whether the tables have all columns of the models, each of its kind, and need no others."""
    for table in Base.metadata.sorted_tables:
        there = {column["name"]: column for column in inspect(connection).get_columns(table.name)}
        for column in table.columns:
            found = there.pop(column.name, None)
            if found is None or _kind(found["type"]) != _kind(column.type):
                return False
        if any(not other["nullable"] and other["default"] is None for other in there.values()):
            return False
    return True


def _kind(column_type: object) -> list[bool]:
    return [isinstance(column_type, kind) for kind in (Integer, Float, String)]


def _checked(url: str) -> URL:
    remedy = "Give sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/NAME."
    try:
        parsed = make_url(url.replace("postgres://", "postgresql://", 1) if url.startswith("postgres://") else url)
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise ConfigError("The database's URL cannot be read.", remedy) from error
    if backend not in (_SQLITE, _POSTGRESQL):
        raise ConfigError(f"Jobs are not kept in {backend}.", remedy)
    if backend == _SQLITE and parsed.database in (None, "", ":memory:"):
        raise ConfigError("Jobs cannot be kept in memory: a restart would lose them.", remedy)
    return parsed.set(drivername="postgresql+psycopg") if backend == _POSTGRESQL else parsed


def _prepare_sqlite(connection: Any, record: object) -> None:
    """Of each new connection: SQLAlchemy says when a transaction begins, not Python's module."""
    connection.isolation_level = None
    cursor = connection.cursor()
    _log_ahead(cursor)
    for pragma in (
        "synchronous = FULL",  # a job that was accepted outlives a power cut
        "foreign_keys = ON",  # the queue's rows go with their job
        f"busy_timeout = {_BUSY_TIMEOUT_MS}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _log_ahead(cursor: sqlite3.Cursor) -> None:
    """Have readers not wait for the writer.

    Of several who make a file so at the same moment SQLite refuses all but one at once, whatever `busy_timeout` says.
    """
    deadline_s = time.monotonic() + _BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline_s:
                raise
        time.sleep(_PAUSE_S)


def _begin_sqlite(connection: Connection) -> None:
    """Take a writer's lock at once: one that has read first would fail when another has written meanwhile."""
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _alone(connection: Connection) -> AbstractContextManager[None]:
    """Have the rest of a transaction, a migration's, go on when nobody else migrates; SQLite's writers are alone."""
    if connection.dialect.name == _SQLITE:
        return nullcontext()
    from depthface_gateway.jobs import postgres

    return postgres.migrating(connection)


def _alembic(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("depthface_gateway.jobs") / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def _reason(error: SQLAlchemyError) -> str:
    """Of the driver's words the first line; SQLAlchemy's own add the statement and an address on the web."""
    origin = getattr(error, "orig", None)
    return (str(origin or error).strip() or type(error).__name__).splitlines()[0]
