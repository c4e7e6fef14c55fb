"""Connections to PostgreSQL that give up: whoever says nothing is as good as gone, and nobody may hang on it.

A server that lives ends a statement that takes too long itself, such as one that waits for another's lock. For one
that stands still, or behind a network that does, psycopg waits for ever: it limits only how long it connects.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import Connection, text

__all__ = ["Bounded", "Silence", "connect", "migrating"]

T = TypeVar("T")

_LIMIT = "SET statement_timeout = '8s'"
_CONNECT_S = 5  # for each address
_MIGRATION_S = 3600.0
_MIGRATION_LOCK = 0x64657074  # any number, but always the same


class Silence(psycopg.OperationalError):
    """The server has said nothing for too long."""


class Bounded(psycopg.Connection[Any]):
    """A connection that is closed when the server says nothing for too long.

    Attributes:
        silent_s: so long; more than a statement may take, so that a server that lives can say that it did.
    """

    silent_s = 10.0

    def wait(self, gen: PQGen[T], *arguments: Any, **named: Any) -> T:
        """Wait for the server, but no longer than it may be silent."""
        try:
            return super().wait(_heard(gen, self.silent_s), *arguments, **named)
        except Silence:
            self.pgconn.finish()  # the answer may come yet, and would be taken for another statement's
            raise


def connect(dialect: object, record: object, arguments: list[Any], named: dict[str, Any]) -> Bounded:
    """Make a connection, as SQLAlchemy's event `do_connect`; a time for it that the URL names counts."""
    made = Bounded.connect(*arguments, **{"connect_timeout": _CONNECT_S, **named, "autocommit": True})
    try:
        made.execute(_LIMIT)
        made.autocommit = False
    except BaseException:
        made.close()
        raise
    return made


@contextmanager
def migrating(connection: Connection) -> Iterator[None]:
    """Have the rest of a transaction come after whoever else migrates, and take the time that it needs."""
    driver: Any = connection.connection.driver_connection
    driver.silent_s = _MIGRATION_S
    try:
        connection.execute(text("SET LOCAL statement_timeout = 0"))
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
        yield
    finally:
        del driver.silent_s  # it is as of all connections again


def _heard(steps: PQGen[T], silent_s: float) -> PQGen[T]:
    """Go through the driver's steps; it looks at them ten times a second, whether or not there is anything to read.

    Raises:
        Silence: there was nothing for too long.
    """
    until_s = time.monotonic() + silent_s
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if ready:
                until_s = time.monotonic() + silent_s
            elif time.monotonic() > until_s:
                raise Silence(f"PostgreSQL has said nothing for {silent_s:g} s")
            wanted = steps.send(ready)
    except StopIteration as end:
        result: T = end.value
        return result
