"""Files that are deleted while they are sent."""

from __future__ import annotations

import os
import uuid
from io import FileIO
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from depthface_gateway.jobs.results import ResultStore
from depthface_gateway.jobs.sending import OpenFile

JOB = str(uuid.UUID(int=7))
CONTENT = os.urandom(300_000)


@pytest.fixture
def opened() -> list[FileIO]:
    return []


@pytest.fixture
def client(tmp_path: Path, opened: list[FileIO]) -> TestClient:
    """Of an app whose file is deleted as soon as it has been opened."""
    store, app = ResultStore(tmp_path), FastAPI()

    @app.api_route("/", methods=["GET", "HEAD"], response_class=OpenFile)
    async def file() -> OpenFile:
        partial = store.begin("claim")
        (partial / "clip.mp4").write_bytes(CONTENT)
        store.ready(partial, JOB)()
        file = store.open(JOB, "clip.mp4")
        assert file is not None and store.delete(JOB) == 1 and store.open(JOB, "clip.mp4") is None
        opened.append(file)
        return OpenFile(file, "video/mp4", "mine.mp4")

    return TestClient(app)


def test_it_is_sent_whole_and_in_parts(client: TestClient, opened: list[FileIO]) -> None:
    whole = client.get("/")
    assert whole.status_code == 200 and whole.content == CONTENT
    assert whole.headers["content-disposition"] == 'attachment; filename="mine.mp4"'
    assert (whole.headers["content-type"], whole.headers["accept-ranges"]) == ("video/mp4", "bytes")
    part = client.get("/", headers={"range": "bytes=70000-199999"})
    assert part.status_code == 206 and part.content == CONTENT[70_000:200_000]
    parts = client.get("/", headers={"range": "bytes=0-9,100000-100009"})
    assert parts.status_code == 206 and CONTENT[:10] in parts.content and CONTENT[100_000:100_010] in parts.content
    head = client.head("/")
    assert (head.content, head.headers["content-length"]) == (b"", str(len(CONTENT))) and "etag" in head.headers
    assert client.get("/", headers={"range": "bytes=300000-"}).status_code == 416
    assert len(opened) == 5 and all(file.closed for file in opened)
