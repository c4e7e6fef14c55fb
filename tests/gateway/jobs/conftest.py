"""Databases, a media store, and queues on both kinds of database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fixtures.media_store import Store, media_store
from fixtures.postgres import Postgres, postgres

from depthface_gateway.jobs.database import Database

NewUrl = Callable[[], str]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
    server: Postgres = request.getfixturevalue("postgres_server")
    return server.new()


class Clock:
    """A time that the test sets, in ms."""

    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def database(database_url: str, clock: Clock) -> Iterator[Database]:
    """An up-to-date database whose time the test sets."""
    made = Database(database_url, clock)
    yield made
    made.close()


@pytest.fixture
def store() -> Iterator[Store]:
    """A media store."""
    with media_store() as running:
        yield running
