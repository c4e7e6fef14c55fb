"""The folder of the jobs' files, where it is another than before, is away, or fails: no job is lost for that."""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from depthface.errors import ConfigError
from depthface_gateway.context import Context
from depthface_gateway.jobs.cleaning import clean
from depthface_gateway.jobs.core import opened
from depthface_gateway.jobs.database import Database
from depthface_gateway.jobs.queue import Queue
from depthface_gateway.jobs.results import MARK, ResultStore, StoreAway
from depthface_gateway.jobs.settings import JobSettings
from depthface_gateway.jobs.wire import Cleanup
from depthface_gateway.jobs.worker import Worker
from depthface_gateway.settings import Settings
from depthface_gateway.triton import Triton

JOBS = 20


def open_store(database_url: str, storage: Path, *tasks: str) -> str:
    """Open and close a folder as the contract and its workers do; return its mark."""
    environment = {"AUTH_DISABLED": "1"}
    settings = Settings.of(environment)
    context = Context(Triton(["127.0.0.1:1"], settings), settings, environment, storage.parent, database=database_url)

    async def main() -> str:
        async with opened(context, JobSettings.of(context), storage, tasks or ["t"]) as core:
            return core.store.mark

    return asyncio.run(main())


def test_another_folder_than_before_is_refused_with_the_way_out(database_url: str, tmp_path: Path) -> None:
    mark = open_store(database_url, tmp_path / "share")
    assert open_store(database_url, tmp_path / "share") == mark
    with pytest.raises(ConfigError, match="is not the one in which the jobs of this database") as refusal:
        open_store(database_url, tmp_path / "not mounted")
    assert mark in refusal.value.remedy and str(tmp_path / "not mounted" / MARK) in refusal.value.remedy
    open_store(database_url, tmp_path / "clips", "another contract's")
    (tmp_path / "not mounted" / MARK).write_text(mark)
    assert open_store(database_url, tmp_path / "not mounted") == mark


def test_all_who_open_a_new_folder_at_once_find_the_same_mark(database_url: str, tmp_path: Path) -> None:
    open_store(database_url, tmp_path / "old", "others")  # the tables are there
    with ThreadPoolExecutor(8) as pool:
        marks = list(pool.map(lambda _: open_store(database_url, tmp_path / "new"), range(16)))
    assert len(set(marks)) == 1 and marks[0] == (tmp_path / "new" / MARK).read_text().strip()
    assert list((tmp_path / "new" / ".partial").iterdir()) == []


def test_the_folder_is_known_in_whatever_order_its_tasks_are_named(database_url: str, tmp_path: Path) -> None:
    open_store(database_url, tmp_path / "share", "a", "b")
    with pytest.raises(ConfigError):
        open_store(database_url, tmp_path / "not mounted", "b", "a")


def test_without_links_the_first_mark_counts_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = "of who was a moment sooner\n"

    def refuse(own: Path, mark: Path) -> None:
        mark.write_text(other)
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    assert ResultStore(tmp_path / "new").mark == other.strip()


def take_away(root: Path) -> Callable[[], object]:
    """As an unmounted share: an empty folder, to which nothing was ever written."""
    aside = root.with_name("aside")
    root.rename(aside)
    root.mkdir()
    return lambda: (root.rmdir(), aside.rename(root))


def put_another(root: Path) -> Callable[[], object]:
    """As an unmounted share below which somebody has worked once."""
    aside = root.with_name("aside")
    root.rename(aside)
    ResultStore(root)
    return lambda: (root.rename(root.with_name("other")), aside.rename(root))


def let_writing_fail(root: Path) -> Callable[[], object]:
    """As a file server that fails: what is there may be read, and nothing can be written."""
    partial, aside = root / ".partial", root / "aside"
    partial.rename(aside)
    partial.write_bytes(b"")
    return lambda: (partial.unlink(), aside.rename(partial))


@pytest.mark.parametrize("fail", [take_away, put_another, let_writing_fail])
def test_a_folder_that_fails_for_all_costs_no_job_a_try(world, fail: Callable[[Path], Callable[[], object]]) -> None:
    world.change_queue(max_retries=0)
    uploads = [world.upload(b"photo") for _ in range(JOBS)]
    others = [world.add(str(number)) for number in range(JOBS)]
    come_back = fail(world.files.root)

    def waiting() -> int:
        jobs = [world.job(job_id) for job_id in (*uploads, *others)]
        assert all(job.status in ("pending", "processing") for job in jobs)
        return sum("folder for the jobs' files" in (job.error_message or "") for job in jobs)

    async def wait_and_come_back(worker: Worker) -> None:
        while await asyncio.to_thread(waiting) < 1:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)
        assert await asyncio.to_thread(waiting) < JOBS, "everything rests meanwhile"
        come_back()

    world.run(lambda: world.queue.counts() == {"completed": 2 * JOBS}, wait_and_come_back)
    assert all((world.files.root / job_id / "embedding.bin").exists() for job_id in (*uploads, *others))


@pytest.mark.parametrize("fail", [take_away, put_another])
def test_what_is_away_is_not_said_to_be_gone_nor_deleted(
    database_url: str, tmp_path: Path, fail: Callable[[Path], Callable[[], object]]
) -> None:
    files, job_id = ResultStore(tmp_path / "jobs"), str(uuid.uuid4())
    database = Database(database_url)
    files.keep_upload(job_id, b"photo")
    come_back = fail(files.root)
    for call in (
        lambda: files.open(job_id, "embedding.bin"),
        lambda: files.read_upload(job_id),
        lambda: files.keep_upload(str(uuid.uuid4()), b"photo"),
        lambda: files.begin("claim"),
        lambda: files.sweep(set, lambda job_id: False),
        lambda: clean(Queue(database, ["t"]), files, Cleanup()),  # before it asks for any job: there is no table
    ):
        with pytest.raises(StoreAway):
            call()
    database.close()
    come_back()
    files.probe()
    assert files.open(job_id, "embedding.bin") is None and files.read_upload(job_id) == b"photo"
