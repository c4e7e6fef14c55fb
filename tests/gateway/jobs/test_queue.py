"""Order, claims, leases and retries, on both databases, by a clock that the test sets."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import Any

import pytest
from fixtures.waiting import HANGS_AFTER_S
from sqlalchemy import event, select

from depthface_gateway.jobs.claims import Claim, NewJob
from depthface_gateway.jobs.database import Database
from depthface_gateway.jobs.models import WorkerRow
from depthface_gateway.jobs.queue import LEASE_MS, JobExists, Queue
from depthface_gateway.jobs.sync import Outbox

T = "face_detection"


@pytest.fixture
def queue(database: Database) -> Queue:
    return Queue(database, [T])


def add(queue: Queue, name: str, priority: int = 5, media: str | None = None) -> None:
    queue.add(NewJob(name, T, media or name, priority))


def taken(queue: Queue, worker: str = "w") -> Claim:
    claim = queue.claim(worker)
    assert claim is not None
    return claim


def status(queue: Queue, name: str) -> str:
    job = queue.get(name)
    assert job is not None
    return job.status


def done(queue: Queue, claim: Claim) -> bool:
    return queue.finish(claim, {"by": claim.claim}, lambda: None)


def test_the_highest_priority_first_then_first_in_first_out_whatever_the_clock_does(queue: Queue, clock) -> None:
    shuffled = random.Random(7).choices(range(11), k=60)
    for index, priority in enumerate(shuffled):
        clock.now_ms += random.Random(index).randint(-3_600_000, 1000)  # set back between jobs
        add(queue, f"j{index}", priority)
    expected = sorted(range(60), key=lambda index: (-shuffled[index], index))
    assert [taken(queue).job_id for _ in range(60)] == [f"j{index}" for index in expected]
    assert queue.claim("w") is None


def test_a_job_is_made_then_started_then_ended_whatever_the_clock_does(queue: Queue, clock) -> None:
    add(queue, "a")
    clock.now_ms -= 13
    claim = taken(queue)
    clock.now_ms -= 3_600_000
    assert done(queue, claim)
    job = queue.get("a")
    assert job is not None and job.started_at is not None and job.completed_at is not None
    assert job.created_at <= job.started_at <= job.completed_at


def test_a_job_that_is_put_back_keeps_its_place_whatever_the_clock_does(queue: Queue, clock) -> None:
    for name in ("a", "b", "c"):
        add(queue, name)
    first = taken(queue)
    assert queue.give_back(first, "the server is away", counts=False)
    clock.now_ms -= 13
    job = queue.get("a")
    assert job is not None and (job.status, job.error_message, job.retry_count) == ("pending", "the server is away", 0)
    again = taken(queue)
    assert (again.job_id, again.attempts) == ("a", 1)
    assert done(queue, again)
    job = queue.get("a")
    assert job is not None and job.error_message is None and job.result == f'{{"by": "{again.claim}"}}'


def test_the_lease_runs_out_and_only_the_latest_claim_counts(queue: Queue, clock) -> None:
    add(queue, "a")
    lost = taken(queue, "dead")
    clock.now_ms += LEASE_MS
    assert queue.claim("other") is None, "the lease holds to its last moment"
    clock.now_ms += 1
    now = taken(queue, "other")
    assert (now.job_id, now.attempts, now.was_left) == ("a", 2, True)
    published: list[str] = []
    assert not queue.finish(lost, {"by": "lost"}, lambda: published.append("lost"))
    assert not queue.fail(lost, "no")
    assert not queue.give_back(lost, "no", counts=True)
    assert queue.renew("dead", {lost: 0.9}) == {lost}
    assert queue.finish(now, {"by": "now"}, lambda: published.append("now"))
    assert not queue.finish(now, {"by": "twice"}, lambda: published.append("twice"))
    job = queue.get("a")
    assert job is not None and (job.status, job.result, published) == ("completed", '{"by": "now"}', ["now"])


def test_a_heartbeat_keeps_the_lease_and_tells_progress(queue: Queue, clock) -> None:
    add(queue, "a")
    claim = taken(queue, "w")
    for beat in range(1, 6):
        clock.now_ms += LEASE_MS - 1
        assert queue.renew("w", {claim: beat / 10}) == set()
        assert queue.workers() == 1
    job = queue.get("a")
    assert job is not None and job.progress == 0.5
    assert queue.claim("other") is None
    clock.now_ms += LEASE_MS + 1
    assert queue.workers() == 0
    queue.renew("w", {claim: 0.2})
    job = queue.get("a")
    assert job is not None and job.progress == 0.5, "it never goes back"
    queue.forget("w")
    assert queue.workers() == 0


def test_a_clock_that_is_set_back_holds_no_job_for_ever(queue: Queue, clock) -> None:
    add(queue, "a")
    add(queue, "b")
    taken(queue, "dead")
    later = taken(queue, "w")
    assert queue.give_back(later, "again", delay_ms=60_000, counts=True)
    clock.now_ms -= 24 * 3_600_000
    assert {taken(queue, "other").job_id, taken(queue, "other").job_id} == {"a", "b"}


def test_a_dead_worker_of_a_clock_that_is_set_back_does_not_live(queue: Queue, clock) -> None:
    queue.renew("dead", {})
    clock.now_ms -= LEASE_MS
    assert queue.workers() == 1, "it may live, and says so again within a lease"
    clock.now_ms -= 1
    assert queue.workers() == 0
    queue.renew("w", {})
    assert queue.workers() == 1


def test_a_retry_waits_counts_and_keeps_its_priority(queue: Queue, clock) -> None:
    add(queue, "a", priority=9)
    add(queue, "b")
    for attempt in (1, 2, 3):
        claim = taken(queue)
        assert (claim.job_id, claim.attempts, claim.backoff_ms) == ("a", attempt, 1000 * 2 ** (attempt - 1))
        queue.give_back(claim, "broken", delay_ms=claim.backoff_ms, counts=True)
        between = taken(queue)
        assert between.job_id == "b"
        queue.give_back(between, None, counts=False)
        clock.now_ms += claim.backoff_ms - 1
        between = taken(queue)
        assert between.job_id == "b"
        queue.give_back(between, None, counts=False)
        clock.now_ms += 1
    job = queue.get("a")
    assert job is not None and (job.priority, job.retry_count) == (9, 2)


def test_no_retry_waits_longer_than_a_minute_or_comes_at_once(queue: Queue, clock) -> None:
    add(queue, "a")
    queue.give_back(taken(queue), "no model", delay_ms=300_000, counts=True)
    assert queue.claim("w") is None
    clock.now_ms += 60_000
    assert taken(queue).job_id == "a"


def test_a_job_that_kills_its_workers_ends(queue: Queue, clock) -> None:
    add(queue, "a")
    add(queue, "b")
    for _ in range(4):
        assert taken(queue).job_id == "a"
        clock.now_ms += LEASE_MS + 1
    assert taken(queue).job_id == "b"
    job = queue.get("a")
    assert job is not None and job.status == "error" and "at try 4 of 4" in (job.error_message or "")


def test_who_failed_before_its_worker_was_lost_is_not_said_to_have_lost_each(queue: Queue, clock) -> None:
    add(queue, "a")
    for _ in range(3):
        queue.give_back(taken(queue), "The model failed.", counts=True)
    taken(queue)
    clock.now_ms += LEASE_MS + 1
    assert queue.claim("w") is None
    job = queue.get("a")
    assert job is not None and (job.error_message or "").startswith("Its worker was lost at try 4 of 4. ")


def test_the_end_of_a_job_that_kills_its_workers_is_told(queue: Queue, database: Database, clock) -> None:
    add(queue, "a")
    add(queue, "b")
    for _ in range(4):
        for _ in ("a", "b"):
            taken(queue)
        clock.now_ms += LEASE_MS + 1
    assert queue.claim("w", syncs=lambda claim: claim.job_id == "a") is None
    outbox = Outbox(database, [T])
    parcel = outbox.take()
    assert parcel is not None and (parcel.job_id, parcel.status) == ("a", "error")
    assert "at try 4 of 4" in (parcel.error_message or "") and outbox.take() is None


def test_a_server_that_was_lost_is_noted_and_counts_as_no_try(queue: Queue, clock) -> None:
    add(queue, "a")
    for losses in range(3):
        claim = taken(queue)
        assert (claim.attempts, claim.losses) == (1, losses)
        queue.give_back(claim, "the server is away", counts=False, is_loss=True)
    claim = taken(queue)
    queue.give_back(claim, "another reason", counts=True)
    claim = taken(queue)
    assert (claim.attempts, claim.losses) == (2, 3)


def test_some_tasks_are_taken_alone(database: Database) -> None:
    queue = Queue(database, ["one", "other"])
    queue.add(NewJob("a", "one", "m", 9))
    queue.add(NewJob("b", "other", "m"))
    claim = queue.claim("w", ["other"])
    assert claim is not None and claim.job_id == "b" and queue.claim("w", ["other"]) is None
    assert taken(queue).job_id == "a"


def test_one_photo_waits_for_one_task_once(queue: Queue) -> None:
    add(queue, "a", media="m")
    with pytest.raises(JobExists, match="media_store_id=m, task_type=face_detection"):
        add(queue, "b", media="m")
    claim = taken(queue)
    with pytest.raises(JobExists):
        add(queue, "c", media="m")
    assert done(queue, claim)
    add(queue, "d", media="m")
    assert queue.counts() == {"completed": 1, "pending": 1}


def test_of_many_requests_for_the_same_photo_at_once_one_is_taken(queue: Queue) -> None:
    outcomes: list[str] = []

    def ask(index: int) -> None:
        try:
            add(queue, f"j{index}", media="same")
            outcomes.append("made")
        except JobExists:
            outcomes.append("refused")

    run(8, ask)
    assert Counter(outcomes) == {"made": 1, "refused": 7}


def test_a_deleted_job_is_not_finished_and_leaves_nothing(queue: Queue) -> None:
    add(queue, "a")
    claim = taken(queue)
    assert queue.delete("a") and not queue.delete("a")
    assert not queue.finish(claim, {}, lambda: pytest.fail("published"))
    assert queue.renew("w", {claim: 0.1}) == {claim}
    assert queue.get("a") is None and queue.active_claims() == set()


def test_what_cannot_be_published_is_not_finished(queue: Queue) -> None:
    add(queue, "a")
    claim = taken(queue)

    def publish() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        queue.finish(claim, {}, publish)
    assert status(queue, "a") == "processing"
    assert done(queue, claim)


def test_a_cancelled_job_is_done_by_nobody(queue: Queue) -> None:
    add(queue, "a")
    claim = taken(queue)
    assert queue.cancel("a")
    assert not done(queue, claim) and not queue.cancel("a")
    assert status(queue, "a") == "cancelled"


def test_tasks_of_others_are_not_seen(queue: Queue, database: Database) -> None:
    other = Queue(database, ["parallax"])
    other.add(NewJob("clip", "parallax", "m"))
    assert queue.claim("w") is None and queue.get("clip") is None and not queue.delete("clip")
    assert not queue.cancel("clip")
    assert queue.counts() == {} and queue.size() == 0 and queue.older_than(None, None) == []
    assert taken(other).job_id == "clip"
    other.renew("w", {})
    assert (queue.workers(), other.workers()) == (0, 1)


def test_who_has_no_jobs_does_not_look_through_those_of_others(queue: Queue, database: Database) -> None:
    asked: list[tuple[str, Any]] = []

    def note(connection: object, cursor: object, statement: str, parameters: Any, *_: object) -> None:
        asked.append((statement, parameters))

    other = Queue(database, ["parallax"])
    add(queue, "a")
    event.listen(database.engine, "before_cursor_execute", note)
    assert other.claim("w") is None
    event.remove(database.engine, "before_cursor_execute", note)
    assert not [statement for statement, _ in asked if "FROM queue" in statement]
    if database.is_sqlite:
        (looked,) = [one for one in asked if "FROM jobs" in one[0]]
        with database.engine.connect() as connection:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {looked[0]}", looked[1]).all()
        assert "uq_jobs_active (task_type=?)" in str(plan)
    other.add(NewJob("clip", "parallax", "m"))
    assert taken(other).job_id == "clip"


def test_many_workers_take_each_job_once(queue: Queue) -> None:
    for index in range(80):
        add(queue, f"j{index}", index % 11)
    finished: list[str] = []

    def work(index: int) -> None:
        while (claim := queue.claim(f"w{index}")) is not None:
            assert done(queue, claim)
            finished.append(claim.job_id)

    run(6, work)
    assert sorted(finished) == sorted(f"j{index}" for index in range(80))
    assert queue.counts() == {"completed": 80}


def test_claims_heartbeats_ends_and_deletions_at_once_break_nothing(queue: Queue) -> None:
    """No deadlock, no error, nothing lost: each job is completed or deleted."""
    for index in range(60):
        add(queue, f"j{index}")
    deleted: list[str] = []

    def work(index: int) -> None:
        if index == 0:
            for number in range(0, 60, 2):
                if queue.delete(f"j{number}"):
                    deleted.append(f"j{number}")
            return
        while (claim := queue.claim(f"w{index}")) is not None:
            queue.renew(f"w{index}", {claim: 0.5})
            done(queue, claim)

    run(5, work)
    assert queue.counts() == {"completed": 60 - len(deleted)} and len(deleted) == 30


def run(count: int, work) -> None:
    """Do `work(0) … work(count - 1)` at the same time; raise what any of them raises."""
    errors: list[BaseException] = []

    def guarded(index: int) -> None:
        try:
            work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANGS_AFTER_S)
    assert errors == []
    assert not any(thread.is_alive() for thread in threads)


def test_an_idle_worker_writes_seldom_and_is_known_to_live_all_the_time(queue: Queue, clock) -> None:
    """Each beat comes after a fifth of a lease; each that writes wakes a disk."""
    seen = []
    for _ in range(20):
        queue.renew("w", {})
        assert queue.workers() == 1
        with queue.database.reading() as session:
            seen.append(session.scalar(select(WorkerRow.seen_at)))
        clock.now_ms += queue.lease_ms // 5
    assert len(set(seen)) == 7
    clock.now_ms -= 3 * queue.lease_ms  # it is set back
    queue.renew("w", {})
    assert queue.workers() == 1
