"""The results that are due: when, and beside who else changes their jobs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from fixtures.waiting import HANGS_AFTER_S

from depthface_gateway.jobs.claims import NewJob
from depthface_gateway.jobs.database import Database
from depthface_gateway.jobs.queue import Queue
from depthface_gateway.jobs.sync import Outbox, Parcel

T = "face_detection"


@pytest.fixture
def queue(database: Database) -> Queue:
    return Queue(database, [T])


@pytest.fixture
def outbox(database: Database) -> Outbox:
    return Outbox(database, [T])


def ended(queue: Queue, job_id: str) -> None:
    """Make a job, and end it so that its result is due."""
    queue.add(NewJob(job_id, T, job_id))
    claim = queue.claim("w")
    assert claim is not None and queue.finish(claim, {}, lambda: None, syncs=True)


def taken(outbox: Outbox) -> Parcel:
    parcel = outbox.take()
    assert parcel is not None
    return parcel


def test_a_clock_that_is_set_back_keeps_no_result(queue: Queue, outbox: Outbox, clock) -> None:
    ended(queue, "a")
    clock.now_ms -= 24 * 3_600_000
    parcel = taken(outbox)
    assert parcel.job_id == "a" and outbox.take() is None, "it is held while it is told"
    outbox.refused(parcel, "Nobody is there.")
    clock.now_ms -= 24 * 3_600_000
    assert taken(outbox).tries == 1


def test_a_result_that_nobody_took_says_so_in_a_sentence(queue: Queue, outbox: Outbox, clock) -> None:
    ended(queue, "a")
    for _ in range(3):
        outbox.refused(taken(outbox), "The media store answered 500.")
        clock.now_ms += 60_000
    job = queue.get("a")
    assert job is not None and job.status == "sync_failed" and outbox.take() is None
    assert job.error_message == "The result is here, but was not taken: The media store answered 500."


def test_the_last_refusal_and_a_deletion_wait_for_each_other_only_one_way(queue: Queue, outbox: Outbox) -> None:
    """PostgreSQL would end one of the two for a deadlock."""
    both = Barrier(2, timeout=HANGS_AFTER_S)
    rounds = 100
    for index in range(rounds):
        ended(queue, f"j{index}")

    def refuse(job_id: str) -> None:
        outbox.refused(Parcel(job_id, "m", {}, tries=2), "Nobody is there.")

    def each(call: Callable[[str], object]) -> None:
        try:
            for index in range(rounds):
                both.wait()
                call(f"j{index}")
        except BaseException:
            both.abort()
            raise

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(each, refuse), pool.submit(each, queue.delete)]:
            done.result(HANGS_AFTER_S)
    assert queue.counts() == {} and outbox.take() is None
