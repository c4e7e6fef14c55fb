"""Who is told of a job's end: the media store, or a webhook."""

from __future__ import annotations

import asyncio

import pytest

from depthface_gateway.jobs.inference import Try
from depthface_gateway.jobs.sync import Parcel
from depthface_gateway.jobs.worker import Worker

on_both = pytest.mark.parametrize("world", ["sqlite", "postgresql"], indirect=True)


@on_both
def test_the_media_store_has_the_result_though_it_failed_once(world) -> None:
    world.gives_results = True
    job_id = world.add()

    async def fail(worker: Worker) -> None:
        world.store.failures = []

    async def at_the_end(attempt: Try) -> None:
        world.store.failures = [503]

    world.answers = [at_the_end]
    world.run(lambda: bool(world.store.results), fail)
    assert world.store.results == {"7": {"number": 1}} and world.status(job_id) == "completed"


def test_a_result_that_the_media_store_refuses_is_kept_and_the_job_says_so(world) -> None:
    world.gives_results = True
    job_id = world.add()

    async def at_the_end(attempt: Try) -> None:
        world.store.failures = [500, 500, 500]

    world.answers = [at_the_end]
    world.run(lambda: world.status(job_id) == "sync_failed")
    job = world.job(job_id)
    assert job is not None and job.result == '{"number": 1}' and "answered 500" in (job.error_message or "")


@on_both
def test_one_who_is_slow_to_be_told_holds_up_no_other(world) -> None:
    told: list[str] = []
    now, most = 0, 0
    all_others = asyncio.Event()

    async def tell(parcel: Parcel) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if parcel.media_store_id == "slow":
            await all_others.wait()
        await asyncio.sleep(0.02)
        now -= 1
        told.append(parcel.media_store_id)
        if len(told) == 9:
            all_others.set()

    world.tell = tell
    for media in ("slow", *"123456789"):
        world.add(media)
    world.run(lambda: len(told) == 10)
    assert sorted(told) == [*"123456789", "slow"] and told[-1] == "slow" and most <= 4, "each is told once"


def test_who_cannot_be_told_for_a_reason_of_ours_is_told_again(world) -> None:
    told: list[str] = []

    async def tell(parcel: Parcel) -> None:
        told.append(parcel.job_id)
        if len(told) == 1:
            raise RuntimeError("a secret")

    world.tell = tell
    job_id = world.add()
    world.run(lambda: len(told) == 2)
    assert told == [job_id] * 2 and world.status(job_id) == "completed"


def test_the_end_of_a_job_that_killed_its_workers_is_told(world) -> None:
    told: list[Parcel] = []

    async def tell(parcel: Parcel) -> None:
        told.append(parcel)

    async def listen(worker: Worker) -> None:
        worker.is_told = lambda claim, is_success: not is_success

    world.tell = tell
    job_id = world.add()
    for _ in range(4):
        claim = world.queue.claim("dead")
        assert claim is not None and world.queue.give_back(claim, None, counts=True)
    world.run(lambda: bool(told), listen)
    assert [(parcel.job_id, parcel.status) for parcel in told] == [(job_id, "error")] and world.tries == []
