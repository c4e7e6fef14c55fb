"""How immich's models come and go: what is loaded, what is unloaded, and what is known of it. No server is asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from fixtures.waiting import HANGS_AFTER_S

from depthface.errors import ModelUnavailable, ServerFault
from depthface_client import ModelInfo
from depthface_gateway.immich import models as loading
from depthface_gateway.immich.away import note
from depthface_gateway.immich.entries import CLIP, FACES, Entry
from depthface_gateway.immich.models import Models
from depthface_gateway.meanings import analyses, exportable

MINE, TEXT = analyses(exportable())["buffalo_l"], "clip_vit_b_32_text"

ENDING = {"MACHINE_LEARNING_MODEL_TTL": "0.05", "MACHINE_LEARNING_MODEL_TTL_POLL_S": "0.01"}


@asynccontextmanager
async def watched(models: Models) -> AsyncIterator[None]:
    watch = asyncio.create_task(models.watch())
    try:
        yield
    finally:
        watch.cancel()


async def happens(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(HANGS_AFTER_S):
        while not condition():
            await asyncio.sleep(0.005)


class Servers:
    """What `Models` asks of `Triton`: what is there, and what was seen of it when somebody last looked."""

    is_alive = True

    def __init__(self) -> None:
        self.done: list[str] = []
        self.there: set[str] = set()
        self.models: dict[str, ModelInfo] = {}
        self.lost: dict[str, Exception] = {}  # what cannot be loaded or unloaded, and why
        self.begun: dict[str, asyncio.Event] = {}  # set where that one waits for its `gates`
        self.gates: dict[str, asyncio.Event] = {}

    async def look(self) -> None:
        self.models = {name: replace(exportable()[name], ready=True) for name in self.there}

    def has_ready(self, name: str) -> bool:
        return name in self.models

    async def on_every_server(self, call) -> None:
        await call(self)
        await self.look()

    def holding(self, name: str) -> None:
        """Have the next change of a model wait for its gate."""
        self.begun[name], self.gates[name] = asyncio.Event(), asyncio.Event()

    async def change(self, what: str, name: str) -> None:
        self.done.append(f"{what} {name}")
        if name in self.gates:
            self.begun[name].set()
            await self.gates[name].wait()
        if name in self.lost:
            raise self.lost[name]

    async def load(self, name: str) -> None:
        await self.change("load", name)
        self.there.add(name)

    async def unload(self, name: str) -> None:
        await self.change("unload", name)
        self.there.discard(name)

    async def ask(self, call) -> str:
        return await call(self)

    async def answer(self, name: str) -> str:
        if name not in self.there:
            raise ModelUnavailable("It is not served.")
        return "answer"


READ_BY_IMMICH = Entry(FACES, "recognition", "buffalo_l", {})
SAID_BY_IMMICH = Entry(CLIP, "textual", "ViT-B-32__openai", {})


async def asked(models: Models, entry: Entry = READ_BY_IMMICH) -> str:
    name = models.name(entry)
    assert name is not None
    return await models.ask(name, lambda client: client.answer(name))


def test_a_model_that_was_loaded_here_is_known_when_it_is_away():
    """What was preloaded and left memory before anybody asked is still ours, and not the upstream's."""
    servers = Servers()

    async def run() -> None:
        models = Models.of(servers, {}, {})
        await models.preload([READ_BY_IMMICH])
        await models._unload(MINE)
        assert await asked(models) == "answer"

    asyncio.run(run())
    assert servers.done == [f"load {MINE}", f"unload {MINE}", f"load {MINE}"]


def test_a_model_that_was_unloaded_here_is_known_after_a_restart(tmp_path):
    notes = tmp_path / "data" / "immich.json"
    servers = Servers()

    async def run() -> None:
        before = Models.of(servers, {}, {}, notes)
        await before.preload([READ_BY_IMMICH])
        await before._unload(MINE)
        servers.models = {}
        assert await asked(Models.of(servers, {}, {}, notes)) == "answer"
        assert Models.of(servers, {}, {}, notes).away == set()

    asyncio.run(run())


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"name": "x"}]', "7"])
def test_notes_that_cannot_be_read_are_none(text, tmp_path):
    notes = tmp_path / "immich.json"
    notes.write_text(text)
    assert Models.of(Servers(), {}, {}, notes).known == {}


def test_notes_of_a_newer_version_are_read_as_far_as_they_are_known(tmp_path):
    notes = tmp_path / "immich.json"
    note(notes, {"m": ModelInfo(name="m", ready=False, weights="w", task="", precision="", is_lazy=False)})
    (model,) = json.loads(notes.read_bytes())
    notes.write_text(json.dumps([model | {"rank": 7}]))
    assert Models.of(Servers(), {}, {}, notes).away == {"m"}


def test_notes_that_cannot_be_written_stop_nothing(tmp_path, caplog):
    servers = Servers()
    (tmp_path / "data").write_text("no folder")

    async def run() -> None:
        models = Models.of(servers, {}, {}, tmp_path / "data" / "immich.json")
        await models.preload([READ_BY_IMMICH])
        await models._unload(MINE)

    asyncio.run(run())
    assert servers.done == [f"load {MINE}", f"unload {MINE}"]
    assert "does not know what it knows now" in caplog.text


def test_a_model_that_somebody_else_has_just_unloaded_is_loaded():
    servers = Servers()

    async def run() -> None:
        models = Models.of(servers, {}, {})
        await models.preload([READ_BY_IMMICH])
        servers.there.clear()  # and nobody has looked since
        assert await asked(models) == "answer"

    asyncio.run(run())
    assert servers.done == [f"load {MINE}"] * 2


def test_what_was_preloaded_stays():
    servers = Servers()

    async def run() -> None:
        models = Models.of(servers, {}, ENDING)
        await models.preload([READ_BY_IMMICH])
        servers.there.add(TEXT)
        await servers.look()
        assert [await asked(models), await asked(models, SAID_BY_IMMICH)] == ["answer"] * 2
        async with watched(models):
            await happens(lambda: TEXT not in servers.there)  # it was asked last, so the other's time is over too
            await asked(models, SAID_BY_IMMICH)
            await happens(lambda: TEXT not in servers.there)

    asyncio.run(run())
    assert MINE in servers.there
    assert f"unload {MINE}" not in servers.done


def test_what_hangs_as_it_is_loaded_holds_up_no_other():
    servers = Servers()

    async def run() -> None:
        servers.there = {TEXT}
        models = Models.of(servers, {}, {})
        await servers.look()
        assert await asked(models, SAID_BY_IMMICH) == "answer"
        await models._unload(TEXT)
        servers.holding(MINE)
        loading = asyncio.create_task(models.preload([READ_BY_IMMICH]))
        await servers.begun[MINE].wait()
        async with asyncio.timeout(HANGS_AFTER_S):
            assert await asked(models, SAID_BY_IMMICH) == "answer"
        assert not loading.done()
        servers.gates[MINE].set()
        await loading

    asyncio.run(run())


def test_what_is_asked_while_another_is_unloaded_stays():
    """Whether a model is idle is looked at when its turn comes, and not before: the one before it may take long."""
    servers = Servers()

    async def run() -> None:
        servers.there = {MINE, TEXT}
        models = Models.of(servers, {}, ENDING)
        await servers.look()
        for entry in (READ_BY_IMMICH, SAID_BY_IMMICH):
            assert await asked(models, entry) == "answer"
        servers.holding(MINE)
        async with watched(models):
            await servers.begun[MINE].wait()
            await happens(lambda: models._is_idle(TEXT))
            models.ttl_s = HANGS_AFTER_S
            assert await asked(models, SAID_BY_IMMICH) == "answer"
            servers.gates[MINE].set()
            await happens(lambda: MINE not in servers.there)  # with it, this round of the watch is over
        assert servers.there == {TEXT}

    asyncio.run(run())
    assert servers.done == [f"unload {MINE}"]


def test_what_cannot_be_unloaded_is_tried_again():
    servers = Servers()

    async def run() -> None:
        servers.there = {MINE}
        servers.lost[MINE] = ServerFault("It failed.")
        models = Models.of(servers, {}, ENDING)
        await servers.look()
        assert await asked(models) == "answer"
        async with watched(models):
            await happens(lambda: len(servers.done) >= 2)
            assert servers.there == {MINE}
            assert models.away == set()
            servers.lost.clear()
            await happens(lambda: not servers.there)

    asyncio.run(run())


def test_what_could_not_be_loaded_is_not_tried_again_at_once(monkeypatch):
    """Its export may be gone for good: who asks is told so, and waits for no other try."""
    servers = Servers()

    async def run() -> None:
        servers.there = {MINE}
        models = Models.of(servers, {}, {})
        await servers.look()
        assert await asked(models) == "answer"
        await models._unload(MINE)
        servers.lost[MINE] = ModelUnavailable("It has no model of this name.", "Export it.")
        for _ in range(3):
            with pytest.raises(ModelUnavailable, match=r"no model of this name\. Export it\."):
                await asked(models)
        assert servers.done == [f"unload {MINE}", f"load {MINE}"]
        servers.lost.clear()
        monkeypatch.setattr(loading, "_TRIED_AGAIN_AFTER_S", 0.0)
        assert await asked(models) == "answer"

    asyncio.run(run())
