"""Two contracts on one database: what waits of the one neither slows the other down nor changes its order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text

from depthface_gateway.jobs.claims import NewJob
from depthface_gateway.jobs.database import Database
from depthface_gateway.jobs.queue import Queue

OTHERS, MINE = "face_detection", "depthflow_clip"


def fill(database: Database, count: int) -> None:
    """Put so many jobs of another contract into the queue."""
    with database.writing() as session:
        rows = [{"id": f"other-{index}"} for index in range(count)]
        session.execute(
            text(
                "INSERT INTO jobs (job_id, task_type, media_store_id, status, created_at, retry_count, max_retries) "
                f"VALUES (:id, '{OTHERS}', :id, 'pending', 1, 0, 3)"
            ),
            rows,
        )
        session.execute(text("INSERT INTO queue (job_id, priority, enqueued_at) VALUES (:id, 9, 1)"), rows)


def test_a_claim_does_not_walk_through_another_contracts_jobs(tmp_path: Path) -> None:
    """Counted in steps of SQLite's machine: some per job would be ten thousands."""
    database = Database(f"sqlite:///{tmp_path}/jobs.sqlite3")
    steps = 0

    def stepped() -> int:
        nonlocal steps
        steps += 10
        return 0

    def count(connection: Any, *_: object) -> None:
        connection.set_progress_handler(stepped, 10)

    fill(database, 5000)
    event.listen(database.engine, "checkout", count)
    queue = Queue(database, [MINE])
    assert queue.claim("w") is None
    queue.add(NewJob("mine", MINE, "photo"))
    claim = queue.claim("w")
    assert claim is not None and claim.job_id == "mine"
    assert queue.claim("w") is None  # while one is done
    assert 0 < steps < 5000
    database.close()


@pytest.mark.parametrize("count", [3, 230])
def test_few_or_many_among_others_are_taken_in_their_order(database: Database, count: int) -> None:
    fill(database, 20)
    queue = Queue(database, [MINE])
    for index in range(count):
        queue.add(NewJob(f"j{index}", MINE, f"j{index}", priority=index % 3))
    fitting = sorted(range(count), key=lambda index: (-(index % 3), index))
    claims = [queue.claim("w") for _ in range(count)]
    assert [claim and claim.job_id for claim in claims] == [f"j{index}" for index in fitting]
    assert queue.claim("w") is None
