"""Which model ImmichVR's depth service uses: the one that is named, else the one that was loaded last."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from fixtures.photos import encoded, photo
from fixtures.waiting import HANGS_AFTER_S
from PIL import Image
from starlette.testclient import TestClient

from depthface.errors import ModelUnavailable
from depthface_client import ModelInfo
from depthface_gateway import immichvr
from depthface_gateway.context import Context
from depthface_gateway.meanings import exportable
from depthface_gateway.settings import Settings

JPEG = encoded(photo("coffee.png").resize((300, 200)), "JPEG", quality=90)


class Servers:
    """What the service asks of `Triton`, of servers that have these exports and have loaded none."""

    def check_alive(self) -> None: ...

    def __init__(self, *keys: str) -> None:
        self.exported = {f"depth_anything_v2_{key}" for key in keys}
        self.there: set[str] = set()
        self.models: dict[str, ModelInfo] = {}
        self.meanwhile: dict[str, Callable[[], object]] = {}  # by keys: what happens once while that model is asked

    async def look(self) -> None:
        self.models = {name: replace(exportable()[name], ready=True) for name in self.there}

    def has_ready(self, name: str) -> bool:
        return name in self.models

    async def ask(self, call) -> bytes:
        return await call(self)

    async def on_every_server(self, call) -> None:
        try:
            await call(self)
        finally:
            await self.look()

    async def load(self, name: str) -> None:
        if name not in self.exported:
            raise ModelUnavailable("It is not exported.")
        self.there.add(name)

    async def unload(self, name: str) -> None:
        self.there.discard(name)

    async def depth_png(self, photo: bytes, *, bits: int, model: str, request_id: str) -> bytes:
        if model not in self.there:
            raise ModelUnavailable("It is not loaded.")
        meanwhile = self.meanwhile.pop(model.removeprefix("depth_anything_v2_"), None)
        if meanwhile is not None:
            await asyncio.to_thread(meanwhile)
        return encoded(photo_of_two_levels(), "PNG")


def photo_of_two_levels() -> Image.Image:
    return Image.fromarray(np.tile(np.array([0, 255], np.uint8), (30, 20)))


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch) -> None:
    """Where the service keeps its notes."""
    monkeypatch.chdir(tmp_path)


def service_of(servers: Servers, **variables: str) -> TestClient:
    """The service in this process, before these servers."""
    return TestClient(immichvr.app(Context(servers, Settings.of({}), variables)))


def downloaded(service: TestClient) -> list[str]:
    found = [model["key"] for model in service.get("/api/models").json()["models"] if model["is_downloaded"]]
    assert sorted(found) == service.get("/api/models/current").json()["downloaded_models"]
    return found


def used(service: TestClient, query: str = "") -> str:
    answer = service.post(f"/api/depth{query}", files={"image": ("photo.jpg", JPEG)})
    assert answer.status_code == 200, answer.text
    return answer.headers["x-model-used"]


def current(service: TestClient) -> str | None:
    said = service.get("/api/models").json()["current_model"]
    assert service.get("/api/models/current").json()["current_model"] == said
    return said


def test_who_names_no_model_gets_the_one_that_was_loaded_last():
    """As ImmichVR's backend asks: it has a model loaded, and sends photos without a word of it."""
    service = service_of(Servers("small", "base", "large"))
    assert current(service) is None
    assert used(service) == "small"  # none is loaded: the default
    assert service.post("/api/models/large/load").json()["current_model"] == "large"
    assert used(service) == current(service) == "large"
    assert used(service, "?model=base") == current(service) == "base"  # a request switches too
    assert used(service) == "base"
    assert service.post("/api/models/large/load").json()["success"]  # it is loaded already
    assert used(service) == current(service) == "large"
    for key in ("large", "base", "small"):
        assert service.post(f"/api/models/{key}/unload").json()["success"]
    assert current(service) is None
    assert used(service) == "small"


def test_the_default_is_not_needed_where_another_is_loaded():
    service = service_of(Servers("large"), DEPTH_MODEL="base")
    assert service.post("/api/depth", files={"image": ("photo.jpg", JPEG)}).status_code == 503
    assert service.post("/api/models/large/load").json()["success"]
    assert used(service) == "large"


def test_what_was_unloaded_is_no_longer_current_when_somebody_else_loads_it():
    servers = Servers("small", "large")
    service = service_of(servers)
    for key in ("small", "large"):
        assert service.post(f"/api/models/{key}/load").json()["success"]
    assert service.post("/api/models/large/unload").json()["success"]
    asyncio.run(servers.on_every_server(lambda client: client.load("depth_anything_v2_large")))
    assert used(service) == current(service) == "small"


def test_to_download_a_model_or_to_load_one_in_vain_changes_nothing():
    service = service_of(Servers("small", "large"))
    assert used(service) == "small"
    assert service.post("/api/models/large/download").json()["success"]
    assert service.post("/api/models/base/load").status_code == 500
    assert service.post("/api/depth?model=base", files={"image": ("photo.jpg", JPEG)}).status_code == 503
    assert used(service) == current(service) == "small"


def three_loaded() -> tuple[Servers, TestClient]:
    """Servers that have loaded all three, the small one last."""
    servers = Servers("small", "base", "large")
    service = service_of(servers)
    for key in ("base", "large", "small"):
        assert service.post(f"/api/models/{key}/load").json()["success"]
    return servers, service


def test_a_model_that_is_loaded_during_a_request_stays_current():
    servers, service = three_loaded()
    for query in ("", "?model=small"):
        servers.meanwhile["small"] = lambda: service.post("/api/models/large/load")
        assert used(service, query) == "small"
        assert used(service) == current(service) == "large"
        assert service.post("/api/models/small/load").json()["success"]


@pytest.mark.parametrize("is_first_to_end", [True, False])
def test_of_two_requests_that_of_who_asked_last_counts(is_first_to_end):
    servers, service = three_loaded()
    if is_first_to_end:
        servers.meanwhile["base"] = lambda: used(service, "?model=large")
        assert used(service, "?model=base") == "base"
    else:
        has_begun, may_end = threading.Event(), threading.Event()
        servers.meanwhile["large"] = lambda: (has_begun.set(), may_end.wait(HANGS_AFTER_S))
        with ThreadPoolExecutor(1) as pool:

            def begin_another() -> None:
                later.append(pool.submit(used, service, "?model=large"))
                assert has_begun.wait(HANGS_AFTER_S)

            later: list[Future[str]] = []
            servers.meanwhile["base"] = begin_another
            assert used(service, "?model=base") == current(service) == "base"
            may_end.set()
            assert later[0].result() == "large"
    assert used(service) == current(service) == "large"


def test_who_names_no_model_changes_nothing_for_who_does():
    servers, service = three_loaded()
    servers.meanwhile["base"] = lambda: used(service)
    assert used(service, "?model=base") == current(service) == "base"


def test_what_is_unloaded_during_a_request_is_no_longer_current_after_it():
    servers, service = three_loaded()
    assert used(service, "?model=large") == current(service) == "large"
    servers.meanwhile["large"] = lambda: service.post("/api/models/large/unload")
    assert used(service, "?model=large") == "large"
    asyncio.run(servers.on_every_server(lambda client: client.load("depth_anything_v2_large")))
    assert current(service) == "small"


def test_what_was_ready_once_is_downloaded_after_a_restart_too():
    """ImmichVR's backend unloads what is idle, and starts anew with the service."""
    servers = Servers("small", "large")
    service = service_of(servers)
    assert downloaded(service) == []
    for key in ("small", "large"):
        assert service.post(f"/api/models/{key}/load").json()["success"]
        assert service.post(f"/api/models/{key}/unload").json()["success"]
    assert service.post("/api/models/base/load").status_code == 500
    assert downloaded(service) == downloaded(service_of(servers)) == ["small", "large"]
    servers.exported.discard("depth_anything_v2_large")
    assert service.post("/api/models/large/load").status_code == 500
    assert downloaded(service) == downloaded(service_of(servers)) == ["small"]


@pytest.mark.parametrize("text", ["", "{", "7", '[["small"]]', '["huge"]'])
def test_notes_that_cannot_be_read_are_none(text, tmp_path):
    (tmp_path / "gateway-data").mkdir()
    (tmp_path / "gateway-data" / "immichvr.json").write_text(text)
    assert downloaded(service_of(Servers("small"))) == []


def test_notes_that_cannot_be_written_stop_nothing(tmp_path, caplog):
    (tmp_path / "gateway-data").write_text("no folder")
    service = service_of(Servers("small"))
    assert used(service) == "small"
    assert downloaded(service) == ["small"]
    assert "does not know what it knows now" in caplog.text
