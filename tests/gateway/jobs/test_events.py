"""Who watches jobs is told of their own jobs, whoever comes or goes meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection

import pytest
from fixtures.waiting import HANGS_AFTER_S
from sqlalchemy.exc import OperationalError

from depthface_gateway.jobs import events
from depthface_gateway.jobs.events import Hub
from depthface_gateway.jobs.models import Job, Status


def job(name: str, status: str = Status.PENDING) -> Job:
    return Job(job_id=name, status=status, progress=0.0)


class SlowQueue:
    """Takes its time for the first question."""

    def __init__(self) -> None:
        self.jobs = {"a": job("a"), "b": job("b")}
        self.asked = threading.Event()
        self.may_answer = threading.Event()

    def get_many(self, job_ids: Collection[str]) -> dict[str, Job]:
        found = {name: self.jobs[name] for name in job_ids if name in self.jobs}
        self.asked.set()
        assert self.may_answer.wait(HANGS_AFTER_S)
        return found


class BrokenQueue(SlowQueue):
    """Answers that the database is away."""

    def get_many(self, job_ids: Collection[str]) -> dict[str, Job]:
        raise OperationalError("SELECT 1", {}, Exception("away"))


def name_of(event: str) -> str:
    return event.partition("\n")[0]


def test_who_comes_while_the_others_jobs_are_asked_for_waits_for_the_next_time() -> None:
    queue = SlowQueue()

    async def main() -> None:
        async with Hub(queue).running() as hub:  # type: ignore[arg-type]
            first, second = hub.stream(queue.jobs["a"]), hub.stream(queue.jobs["b"])
            assert name_of(await anext(first)) == "event: progress"
            more_of_first = asyncio.create_task(anext(first))
            await asyncio.to_thread(queue.asked.wait, HANGS_AFTER_S)  # after a alone
            assert name_of(await anext(second)) == "event: progress"
            more_of_second = asyncio.create_task(anext(second))
            await asyncio.sleep(0)  # it waits
            queue.jobs["b"] = job("b", Status.ERROR)
            del queue.jobs["a"]
            queue.may_answer.set()
            assert name_of(await more_of_second) == "event: error"
            assert name_of(await more_of_first) == "event: deleted"

    asyncio.run(asyncio.wait_for(main(), HANGS_AFTER_S))


def test_the_end_of_the_service_says_of_no_job_that_it_is_gone() -> None:
    queue = SlowQueue()

    async def main() -> list[str]:
        async with Hub(queue).running() as hub:  # type: ignore[arg-type]
            stream = hub.stream(queue.jobs["a"])
            told = [name_of(await anext(stream))]
            rest = asyncio.create_task(anext(stream, "the end"))
            await asyncio.to_thread(queue.asked.wait, HANGS_AFTER_S)
            hub.close()
            queue.may_answer.set()
            return [*told, await rest]

    assert asyncio.run(asyncio.wait_for(main(), HANGS_AFTER_S)) == ["event: progress", "the end"]


@pytest.mark.parametrize("queue", [SlowQueue(), BrokenQueue()], ids=["silent", "away"])
def test_a_stream_gives_signs_of_life_whatever_the_database_does(
    queue: SlowQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_SIGN_OF_LIFE_EVERY_S", 0.05)

    async def main() -> None:
        async with Hub(queue).running() as hub:  # type: ignore[arg-type]
            stream = hub.stream(queue.jobs["a"])
            assert name_of(await anext(stream)) == "event: progress"
            for _ in range(3):
                assert await anext(stream) == ": still here\n\n"
            queue.may_answer.set()

    asyncio.run(asyncio.wait_for(main(), HANGS_AFTER_S))


def test_the_looks_go_on_after_an_error_that_nobody_thought_of() -> None:
    """Else all who watch would be told that it is still here, for ever."""
    queue = SlowQueue()
    queue.may_answer.set()
    left = [MemoryError(), RuntimeError("can't start new thread")]
    get_many = queue.get_many

    def failing(job_ids: Collection[str]) -> dict[str, Job]:
        if left:
            raise left.pop()
        return get_many(job_ids)

    queue.get_many = failing  # type: ignore[method-assign]

    async def main() -> None:
        async with Hub(queue).running() as hub, asyncio.timeout(HANGS_AFTER_S):  # type: ignore[arg-type]
            watched = hub.stream(queue.jobs["a"])
            assert name_of(await anext(watched)) == "event: progress"
            queue.jobs["a"] = job("a", Status.ERROR)
            assert name_of(await anext(watched)) == "event: error"

    asyncio.run(main())
