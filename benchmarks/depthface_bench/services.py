"""What people deploy today: a library behind FastAPI, one uvicorn worker, two threads that answer.

`python -m depthface_bench.services KIND PORT` is the service of depth, faces, or the embeddings of photos (`image`) or
texts; `serving` starts it as a process of its own. A photo, or a text, in the body of a POST; a PNG, or JSON, in the
answer's. The library has as many threads as there are cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Literal, get_args

import requests
import uvicorn
from anyio.to_thread import current_default_thread_limiter, run_sync
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from depthface.cores import Cores
from depthface.errors import DepthfaceError
from depthface_bench import embeddings, peers
from depthface_bench.servers import ENDS_WITHIN_S, Process, reserved_port

__all__ = ["Kind", "application", "serving"]

Kind = Literal["depth", "faces", "image", "text"]

THREADS_THAT_ANSWER = 2
_START_TIMEOUT_S = 300.0


def application(kind: Kind, pack: Path | None) -> FastAPI:
    """The service of a library; `pack` is the folder of the face networks."""
    answer = _depth() if kind == "depth" else _faces(pack) if kind == "faces" else _embedding(kind)

    @asynccontextmanager
    async def two_threads(_: FastAPI) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = THREADS_THAT_ANSWER
        yield

    app = FastAPI(lifespan=two_threads)

    @app.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        return await run_sync(answer, await request.body())

    return app


@contextmanager
def serving(kind: Kind, pack: Path | None = None) -> Iterator[Process]:
    """Run the service until the block ends."""
    with reserved_port() as port:
        command = [sys.executable, "-m", "depthface_bench.services", kind, str(port), *([str(pack)] if pack else [])]
        started = time.perf_counter()
        # Warnings of other people's libraries say nothing about their speed.
        process = subprocess.Popen(command, env=os.environ | {"PYTHONWARNINGS": "ignore"})
        served = Process(f"127.0.0.1:{port}", process.pid, 0.0)
        try:
            while not _answers(served.host):
                if process.poll() is not None or time.perf_counter() - started > _START_TIMEOUT_S:
                    raise DepthfaceError(f"The {kind} service did not start (exit {process.poll()}); it has said why.")
                time.sleep(0.1)
            yield Process(served.host, process.pid, time.perf_counter() - started)
        finally:
            process.terminate()
            process.wait(ENDS_WITHIN_S)


def _answers(host: str) -> bool:
    try:
        with requests.Session() as session:
            session.trust_env = False  # no proxy is asked for this machine
            return bool(session.get(f"http://{host}/health", timeout=2).ok)
    except (requests.ConnectionError, requests.Timeout):  # it may be up, and busy with its start
        return False


def _depth() -> Callable[[bytes], Response]:
    estimate = peers.depth_pipeline(Cores.found().count)
    return lambda body: Response(estimate(body), media_type="image/png")


def _faces(pack: Path | None) -> Callable[[bytes], Response]:
    assert pack is not None
    analyse = peers.face_analysis(pack, Cores.found().count)
    return lambda body: JSONResponse({name: rows.tolist() for name, rows in analyse(body).items()})


def _embedding(kind: embeddings.Kind) -> Callable[[bytes], Response]:
    embed = embeddings.library(kind, Cores.found().count)
    return lambda body: JSONResponse({"embedding": embed(body).tolist()})


if __name__ == "__main__":
    (which,) = (kind for kind in get_args(Kind) if kind == sys.argv[1])
    uvicorn.run(
        application(which, Path(sys.argv[3]) if len(sys.argv) > 3 else None),
        port=int(sys.argv[2]),
        log_level="warning",
    )
