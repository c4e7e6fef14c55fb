"""A job on its way: what is asked, and what a worker has in its hands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["LONGEST_DELAY_MS", "UPLOAD", "Claim", "NewJob"]

LONGEST_DELAY_MS = 60_000
"""Before another try."""

UPLOAD = "is_upload"
"""The parameter that says that the photo came with the job."""


@dataclass(frozen=True)
class NewJob:
    """What is asked.

    Attributes:
        job_id: a new UUID; chosen by the caller, who stores an upload under it first.
    """

    job_id: str
    task_type: str
    media_store_id: str
    priority: int = 5
    created_by: str | None = None
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class Claim:
    """A job in a worker's hands.

    Attributes:
        claim: the name of this try.
        attempts: tries so far, with this one.
        was_left: whether another worker had it, and was not heard of again.
        losses: tries before this one during which the server was lost.
    """

    job_id: str
    claim: str
    task_type: str
    media_store_id: str
    parameters: Mapping[str, Any]
    attempts: int
    max_retries: int
    was_left: bool
    losses: int = 0

    @property
    def is_upload(self) -> bool:
        """Whether the photo came with the job."""
        return bool(self.parameters.get(UPLOAD))

    @property
    def backoff_ms(self) -> int:
        """How long to wait before the next try: 1, 2, 4 … s."""
        return min(1000 << min(self.attempts - 1, 20), LONGEST_DELAY_MS)
