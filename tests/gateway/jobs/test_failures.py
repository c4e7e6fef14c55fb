"""The worker: what becomes of a job, and of the others, after each failure."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from fixtures.waiting import HANGS_AFTER_S

from depthface.errors import InvalidImage, ServerFault, ServerOverloaded, ServerUnavailable
from depthface_gateway.jobs import rests, verdicts
from depthface_gateway.jobs.inference import Try
from depthface_gateway.jobs.media import MediaUnavailable
from depthface_gateway.jobs.results import ResultStore
from depthface_gateway.jobs.worker import Worker, WorkerOptions
from depthface_gateway.triton import StillBusy

on_both = pytest.mark.parametrize("world", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing rests or is put off for long."""
    monkeypatch.setattr(rests, "_LONGEST_S", 0.02)
    monkeypatch.setattr(verdicts, "OTHERS_FIRST_MS", 50)


def test_a_bad_photo_ends_its_job_at_once_and_leaves_nothing(world) -> None:
    world.answers = [InvalidImage("The bytes are no photo.", "Send a JPEG.")]
    job_id = world.add()
    world.run(lambda: world.status(job_id) == "error")
    job = world.job(job_id)
    assert job is not None and job.error_message == "The bytes are no photo. Send a JPEG." and job.retry_count == 0
    assert not (world.files.root / job_id).exists() and list((world.files.root / ".partial").iterdir()) == []


@on_both
def test_what_passes_is_tried_again_with_the_priority_of_before(world) -> None:
    world.answers = [ServerFault("broken")]
    job_id = world.add(priority=9)
    world.run(lambda: world.status(job_id) == "completed")
    job = world.job(job_id)
    assert job is not None and (job.retry_count, job.priority, job.error_message) == (1, 9, None)


def test_what_does_not_pass_is_given_up(world) -> None:
    world.change_queue(max_retries=1)
    world.answers = [RuntimeError("a secret"), MediaUnavailable("The store is away.")]
    job_id = world.add()
    world.run(lambda: world.status(job_id) == "error")
    job = world.job(job_id)
    assert job is not None and job.error_message == "The store is away. It was tried 2 times." and len(world.tries) == 2


def test_a_server_that_is_away_or_full_costs_no_try_and_no_place(world, quick: None) -> None:
    """More of it than there are tries; the first job stays the first."""
    world.answers = [ServerUnavailable("away"), *[ServerOverloaded("full"), StillBusy("full")] * 3]
    world.options = WorkerOptions(concurrency=1, poll_s=0.02)
    first, second = world.add("1"), world.add("2")
    world.run(lambda: world.status(second) == "completed")
    assert [attempt.job.job_id for attempt in world.tries] == [first] * 8 + [second]
    job = world.job(first)
    assert job is not None and (job.status, job.retry_count) == ("completed", 0)


def test_nothing_is_taken_while_no_server_lives(world, quick: None) -> None:
    """So an outage, however long it is, takes one try of a job that was at hand, and that is not counted."""

    async def go_away(attempt: Try) -> None:
        world.is_ready = False
        raise ServerUnavailable("away")

    async def look(worker: Worker) -> None:
        while world.status(job_id) != "pending" or not world.tries:
            await asyncio.sleep(0.01)
        other = world.add("8")
        await asyncio.sleep(0.3)
        assert len(world.tries) == 1 and world.status(job_id) == world.status(other) == "pending"
        world.is_ready = True

    world.answers = [go_away]
    job_id = world.add()
    world.run(lambda: world.queue.counts() == {"completed": 2}, look)
    job = world.job(job_id)
    assert job is not None and job.retry_count == 0


@on_both
def test_a_photo_that_takes_the_server_with_it_does_so_alone_and_ends_at_last(world, quick: None) -> None:
    """It cannot be known at first which of those at hand it was; the others are done, and lose no try."""
    at_hand: set[str] = set()
    died: list[set[str]] = []  # and with whom

    async def serve(attempt: Try) -> None:
        at_hand.add(attempt.job.job_id)
        before = len(died)
        try:
            if attempt.job.job_id == killer:
                while not died and len(at_hand) < 3:
                    await asyncio.sleep(0.01)
                died.append(set(at_hand))
            else:
                while not died:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.03)
            if len(died) > before:
                raise ServerUnavailable("Triton is away.")
        finally:
            at_hand.discard(attempt.job.job_id)

    world.answers = [serve] * 100
    world.options = WorkerOptions(concurrency=3, poll_s=0.02)
    killer, *others = [world.add(str(number)) for number in range(6)]
    world.run(lambda: world.queue.counts() == {"completed": 5, "error": 1})
    assert len(died[0]) == 3 and died[1:] == [{killer}] * 4
    found = world.job(killer)
    assert found is not None and "at 5 tries of this job" in (found.error_message or "")
    for job in map(world.job, others):
        assert job is not None and (job.status, job.retry_count) == ("completed", 0)


def test_what_is_wrong_with_one_jobs_files_holds_up_no_other(world) -> None:
    world.change_queue(max_retries=0)
    world.options = WorkerOptions(concurrency=1, poll_s=0.02)
    broken = world.upload(None)
    world.files.upload(broken).mkdir()  # it can be neither read nor deleted
    other = world.add()
    world.run(lambda: world.status(other) == "completed")
    job = world.job(broken)
    assert job is not None and job.status == "error" and "cannot be written or read" in (job.error_message or "")


def test_a_backlog_does_not_use_up_its_tries_while_a_model_is_dead(world) -> None:
    world.answers = [ServerFault("It is not healthy.")] * 1000
    jobs = [world.add(str(number)) for number in range(30)]

    async def come_back(worker: Worker) -> None:
        await asyncio.sleep(1.5)
        assert len(world.tries) <= 15, "four at once, and one that is being taken: now, after 0.25 s and after 0.75 s"
        world.answers = []

    world.run(lambda: world.queue.counts() == {"completed": len(jobs)}, come_back)


def test_an_upload_that_is_gone_ends_its_job(world) -> None:
    job_id = world.upload(None)
    world.run(lambda: world.status(job_id) == "error")
    job = world.job(job_id)
    assert job is not None and "is gone" in (job.error_message or "")


def test_a_full_disk_loses_no_job(world, small_disk: Path) -> None:
    """The job waits, says why, and is done when there is room again."""
    world.files = ResultStore(small_disk)
    (small_disk / "ballast").write_bytes(bytes(40_000))
    job_id = world.add(photo=bytes(40_000))

    async def wait_and_make_room(worker: Worker) -> None:
        while True:
            job = await asyncio.to_thread(world.job, job_id)
            if job is not None and "No space left" in (job.error_message or ""):
                break
            await asyncio.sleep(0.01)
        (small_disk / "ballast").unlink()

    world.run(lambda: world.status(job_id) == "completed", wait_and_make_room)
    job = world.job(job_id)
    assert job is not None and job.retry_count == 0 and job.error_message is None
    assert (small_disk / job_id / "embedding.bin").stat().st_size == 40_000


def test_a_heart_that_missed_a_beat_beats_on(world, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without one would lose its jobs to itself, try after try."""
    world.change_queue(lease_ms=1000)
    beats, renew = 0, world.queue.renew

    def failing(*arguments: object) -> object:
        nonlocal beats
        beats += 1
        if beats == 1:
            raise MemoryError
        return renew(*arguments)

    monkeypatch.setattr(world.queue, "renew", failing)

    async def until_it_has_beaten(attempt: Try) -> None:
        async with asyncio.timeout(HANGS_AFTER_S):
            while beats < 4:
                await asyncio.sleep(0.01)

    world.answers = [until_it_has_beaten]
    job_id = world.add()
    world.run(lambda: world.status(job_id) == "completed")
    assert len(world.tries) == 1
