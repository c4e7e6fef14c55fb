"""To delete jobs, with all that belongs to them."""

from __future__ import annotations

from depthface_gateway.jobs.models import FINISHED
from depthface_gateway.jobs.queue import Queue
from depthface_gateway.jobs.results import ResultStore
from depthface_gateway.jobs.wire import Cleaned, Cleanup

__all__ = ["clean"]


def clean(queue: Queue, store: ResultStore, wanted: Cleanup) -> Cleaned:
    """Delete what is wanted, job by job, so that nobody else waits long."""
    store.check()  # what is away would be left there for ever
    done = Cleaned()
    before_ms = None if wanted.older_than_seconds is None else queue.now_ms() - round(1000 * wanted.older_than_seconds)
    for job_id in queue.older_than(before_ms, None if wanted.status == "all" else wanted.status):
        was_queued = queue.remove(job_id) if wanted.remove_queue else queue.remove(job_id, FINISHED)
        if was_queued is None:
            continue
        done.jobs_deleted += 1
        done.queue_entries_removed += was_queued
        if wanted.remove_results:
            done.files_deleted += store.delete(job_id)
        else:
            store.drop_upload(job_id)
    if wanted.remove_orphaned_files:
        # Listed first: a folder whose job is not found then has none.
        for job_id in store.folders(older_than_s=wanted.older_than_seconds):
            if queue.get(job_id) is None:
                done.files_deleted += store.delete(job_id)
    return done
