"""What the environment says of jobs: the names that the service's users have set already, and a few of ours."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from depthface_gateway.context import Context
from depthface_gateway.settings import flag, number, text

__all__ = ["JobSettings"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobSettings:
    """The settings of jobs.

    Attributes:
        storage: the folder of jobs' files.
        public_key: the file of the tokens' public key; None where authentication is off.
        media_store_url: where photos come from.
        gives_results: whether the media store is to have the results too.
        face_model: that finds and tells faces; None for the one that is served.
        embedding_model: that turns photos into vectors; None for the one that is served.
        poll_s: how often an idle worker looks for jobs.
        max_retries: tries after the first.
        lease_s: a worker that is not heard of for so long has lost its jobs; the same for all workers.
        concurrency: jobs that one worker does at once.
        grace_s: how long a worker that is told to stop may take to end what it does.
    """

    storage: Path
    public_key: Path | None
    media_store_url: str
    gives_results: bool
    face_model: str | None
    embedding_model: str | None
    poll_s: float
    max_retries: int
    lease_s: float
    concurrency: int
    grace_s: float

    @classmethod
    def of(cls, context: Context) -> JobSettings:
        """Read them; raises `InvalidInput` naming the variable that cannot be."""
        environment = context.environment
        if flag(environment, "MEDIA_STORE_STUB"):
            _log.warning("MEDIA_STORE_STUB is set: photos are real all the same, and no result is sent to the store.")
        is_open = flag(environment, "AUTH_DISABLED")
        if is_open:
            _log.warning("AUTH_DISABLED is set: whoever reaches the jobs' port may do everything.")
        return cls(
            storage=Path(text(environment, "STORAGE_DIR") or context.data / "inference" / "jobs").absolute(),
            public_key=None
            if is_open
            else Path(text(environment, "PUBLIC_KEY_PATH") or context.data / "public_key.pem"),
            media_store_url=text(environment, "MEDIA_STORE_URL", "http://localhost:8000"),
            gives_results=not flag(environment, "MEDIA_STORE_STUB", True),
            face_model=text(environment, "DEPTHFACE_GATEWAY_FACE_MODEL") or None,
            embedding_model=text(environment, "DEPTHFACE_GATEWAY_EMBEDDING_MODEL") or None,
            poll_s=number(environment, "WORKER_POLL_INTERVAL", 1.0, 0.01, 3600),
            max_retries=round(number(environment, "WORKER_MAX_RETRIES", 3, 0, 100)),
            lease_s=number(environment, "DEPTHFACE_GATEWAY_WORKER_LEASE_S", 15, 1, 3600),
            concurrency=round(number(environment, "DEPTHFACE_GATEWAY_WORKER_CONCURRENCY", 4, 1, 256)),
            grace_s=number(environment, "DEPTHFACE_GATEWAY_WORKER_GRACE_S", 20, 0, 3600),
        )
