"""A database that is away or says nothing, and a full disk: what is told meanwhile, and that work goes on after it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
from fixtures import hasty
from fixtures.gateways import NOBODY, gateway
from fixtures.job_worker import TASK, WorkerProcess
from fixtures.postgres import Postgres, postgres
from fixtures.waiting import HANGS_AFTER_S, until
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from depthface_gateway.jobs import api
from depthface_gateway.jobs import postgres as limits
from depthface_gateway.jobs.claims import UPLOAD, NewJob
from depthface_gateway.jobs.database import Database
from depthface_gateway.jobs.queue import Queue
from depthface_gateway.jobs.results import ResultStore

NO_TRITON = "127.0.0.1:1"


class Line:
    """A network in front of PostgreSQL that may fall silent: it takes what it is sent, and delivers nothing."""

    def __init__(self, server_url: str) -> None:
        url = make_url(server_url)
        self._upstream = f"{url.query['host']}/.s.PGSQL.5432"
        self._delivers = threading.Event()
        self._delivers.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self.url = f"postgresql://depthface@127.0.0.1:{self._listener.getsockname()[1]}/{url.database}"
        threading.Thread(target=self._accept, daemon=True).start()

    def fall_silent(self) -> None:
        self._delivers.clear()

    def speak(self) -> None:
        self._delivers.set()

    def close(self) -> None:
        self.speak()
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):  # it is closed
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                self._sockets += [client, server]
                server.connect(self._upstream)
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(2**16):
                self._delivers.wait()
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)


@pytest.fixture
def line(postgres_server: Postgres) -> Iterator[Line]:
    """Before an empty database."""
    with closing(Line(postgres_server.new())) as made:
        yield made


def test_a_server_that_says_nothing_is_given_up_and_asked_anew_when_it_is_back(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits.Bounded, "silent_s", 1.0)
    monkeypatch.setattr(limits, "_CONNECT_S", 2)
    database = Database(line.url)
    queue = Queue(database, ["t"])
    queue.add(NewJob("j", "t", "m"))
    line.fall_silent()
    for _ in range(2):  # by a connection that is there, and by a new one
        asked = time.monotonic()
        with pytest.raises(SQLAlchemyError):
            queue.size()
        assert time.monotonic() - asked < 60
    line.speak()
    assert queue.size() == 1
    with database.reading() as session:
        session.scalar(text("SELECT 1"))
        line.fall_silent()
        with pytest.raises(OperationalError, match="has said nothing for 1 s"):
            session.scalar(text("SELECT 1"))
        line.speak()
    assert queue.size() == 1
    database.close()


def test_a_statement_is_ended_that_takes_too_long_but_a_migration_may_wait(
    postgres_server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_LIMIT", "SET statement_timeout = '500ms'")
    monkeypatch.setattr(limits.Bounded, "silent_s", 1.5)
    database = Database(postgres_server.new())
    for _ in range(2):  # the limit outlives the transaction
        with pytest.raises(OperationalError) as ended, database.writing() as session:
            session.execute(text("SELECT pg_sleep(600)"))
        assert isinstance(ended.value.orig, psycopg.errors.QueryCanceled)
    with ThreadPoolExecutor(1) as pool:
        with database.writing() as other:
            other.execute(text(f"SELECT pg_advisory_xact_lock({limits._MIGRATION_LOCK})"))
            migrated = pool.submit(database.migrate)
            time.sleep(2.5)
            assert not migrated.done()
        migrated.result(HANGS_AFTER_S)
    with pytest.raises(OperationalError), database.writing() as session:  # by the connection of the migration too
        session.execute(text("SELECT pg_sleep(600)"))
    database.close()


def health(url: str) -> tuple[str, str]:
    told = requests.get(f"{url}/health", timeout=HANGS_AFTER_S).json()
    return told["status"], told["database"]


def ask_for_a_job(url: str) -> requests.Response:
    return requests.post(f"{url}/job/face_detection", json={"media_store_id": str(uuid.uuid4())}, timeout=HANGS_AFTER_S)


def assert_refused(answer: requests.Response, what: str) -> None:
    assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
    assert list(answer.json()) == ["detail"] and answer.json()["detail"].startswith(f"{what} cannot be used now.")


@pytest.mark.slow
def test_a_database_that_says_nothing_is_told_within_seconds_and_holds_up_no_end(line: Line, tmp_path: Path) -> None:
    """One that waits a fifth as long as the product does (`fixtures/hasty.py`)."""
    assert (api._HEALTH_S, limits._LIMIT[-5:], limits.Bounded.silent_s) == (5.0, " '8s'", 10.0)
    options = ("--data", str(tmp_path), "--database", line.url, "--with-worker")
    with gateway("jobs", url=NO_TRITON, options=options, command=hasty.COMMAND, AUTH_DISABLED="1") as running:
        url = running.urls["jobs"]
        assert health(url) == ("healthy", "connected")
        line.fall_silent()
        asked = time.monotonic()
        assert health(url) == ("unhealthy", "error")
        assert time.monotonic() - asked < 20, "one second, and a busy machine's"
        assert_refused(ask_for_a_job(url), "The database")
        line.speak()
        until(lambda: health(url) == ("healthy", "connected"), "the database's return")
        assert ask_for_a_job(url).status_code == 201
        line.fall_silent()
        assert running.stop() == 0


@contextmanager
def started_again(server: Postgres) -> Iterator[None]:
    """Run a server that was stopped once more."""
    user: dict[str, Any] = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
    process = subprocess.Popen(
        server.process.args, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **user
    )
    try:
        until(lambda: server.is_up() or process.poll() is not None, "PostgreSQL's second start")
        assert process.poll() is None
        yield
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(HANGS_AFTER_S)


def test_service_and_worker_go_on_when_the_database_was_stopped_and_is_back(tmp_path: Path) -> None:
    with postgres() as server:
        database_url = server.new()
        files = ResultStore(tmp_path / "files")
        database = Database(database_url)
        queue = Queue(database, [TASK])

        def add() -> None:
            job_id = str(uuid.uuid4())
            files.keep_upload(job_id, b"photo")
            queue.add(NewJob(job_id, TASK, f"upload-{job_id}", parameters={UPLOAD: True}))

        def wait_for(count: int) -> None:
            until(lambda: queue.counts() == {"completed": count}, f"the end of job {count}")

        options = ("--data", str(tmp_path), "--database", database_url)
        with gateway("jobs", url=NO_TRITON, options=options, AUTH_DISABLED="1") as running:
            url = running.urls["jobs"]
            worker = WorkerProcess(database_url, files.root, lease_ms=15_000)
            try:
                add()
                wait_for(1)
                server.process.send_signal(signal.SIGINT)  # "fast": who is connected is thrown out
                server.process.wait(HANGS_AFTER_S)
                assert health(url) == ("unhealthy", "error")
                assert_refused(ask_for_a_job(url), "The database")
                assert_refused(requests.get(f"{url}/admin/stats", timeout=HANGS_AFTER_S), "The database")
                with started_again(server):
                    assert health(url) == ("healthy", "connected")
                    assert ask_for_a_job(url).status_code == 201
                    add()
                    wait_for(2)
                    assert worker.stop() == 0
                    assert running.stop() == 0
                    database.close()
            finally:
                worker.kill()


def test_a_photo_that_cannot_be_kept_is_refused_and_leaves_no_job(small_disk: Path, tmp_path: Path) -> None:
    options = ("--data", str(tmp_path), "--without-worker")
    with gateway("jobs", url=NO_TRITON, options=options, AUTH_DISABLED="1", STORAGE_DIR=str(small_disk)) as running:
        url = running.urls["jobs"]
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(60 * 1024))

        def upload() -> requests.Response:
            photo = {"file": ("a.jpg", NOBODY[:20_000])}
            return requests.post(f"{url}/job/face_detection", files=photo, timeout=HANGS_AFTER_S)

        assert_refused(upload(), "The folder for jobs")
        assert list((small_disk / ".uploads").iterdir()) == []
        assert requests.get(f"{url}/admin/stats", timeout=HANGS_AFTER_S).json()["storage"]["total_jobs"] == 0
        ballast.unlink()
        assert upload().status_code == 201
