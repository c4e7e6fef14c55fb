"""The servers behind a gateway: how they share the work, and what is known of them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from fixtures.serving import Server, serving
from fixtures.shared import copied
from fixtures.tiny import TINY
from fixtures.waiting import HANGS_AFTER_S

from depthface.errors import ModelUnavailable, RequestTimeout, ServerOverloaded, ServerUnavailable
from depthface_client import AsyncClient, ModelInfo
from depthface_gateway import triton
from depthface_gateway.settings import Settings
from depthface_gateway.triton import Triton

DEPTH = TINY.pipelines[0].name


def settings(**variables: str) -> Settings:
    return Settings.of({f"DEPTHFACE_GATEWAY_{name}": value for name, value in variables.items()})


MODEL = ModelInfo(name="m", ready=True, weights="w", task="", precision="", is_lazy=False)


class FakeClient:
    """A server as the pool sees it; what it does is set by its address."""

    servers: dict[str, FakeClient] = {}  # noqa: RUF012

    def __init__(self, url: str, **_: object) -> None:
        self.server = url
        self.asked = 0
        self.most = self.now = 0
        self.is_down = False
        self.refusals = 0
        self.hold: asyncio.Event | None = None
        self.counts = {"m": 0}
        self.served = [MODEL]
        self.looks = self.described = 0
        self.other = self.servers.get(url)
        self.servers.setdefault(url, self)

    async def __aenter__(self) -> FakeClient:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def loaded(self) -> dict[str, int]:
        server = self.other or self
        server.looks += 1
        if server.is_down:
            raise ServerUnavailable("gone")
        return dict(server.counts)

    async def models(self) -> list[ModelInfo]:
        server = self.other or self
        server.described += 1
        return list(server.served)

    async def work(self) -> str:
        self.asked += 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            if self.is_down:
                raise ServerUnavailable("gone")
            if self.refusals:
                self.refusals -= 1
                raise ServerOverloaded("full")
            if self.hold:
                await self.hold.wait()
            else:
                await asyncio.sleep(0)
        finally:
            self.now -= 1
        return "done"


@pytest.fixture
def pool(monkeypatch):
    """Run a coroutine function on a pool of fake servers `a` and `b`, or of one."""
    monkeypatch.setattr(triton, "AsyncClient", FakeClient)
    monkeypatch.setattr(FakeClient, "servers", {})

    def run(test: Callable[..., Awaitable[None]], urls: str = "ab", **variables: str) -> None:
        async def inner() -> None:
            pool = Triton(list(urls), settings(**variables))
            async with pool:
                await test(pool, *(FakeClient.servers[url] for url in urls))

        asyncio.run(asyncio.wait_for(inner(), HANGS_AFTER_S))

    return run


def work(client: FakeClient) -> Awaitable[str]:
    return client.work()


def test_several_servers_share_the_work_within_their_limits(pool):
    async def test(pool: Triton, a: FakeClient, b: FakeClient) -> None:
        assert set(await asyncio.gather(*(pool.ask(work) for _ in range(200)))) == {"done"}
        assert (a.most, b.most) == (4, 4)
        assert abs(a.asked - b.asked) < 50

    pool(test, IN_FLIGHT="4")


def test_a_full_queue_is_waited_for(pool):
    async def test(pool: Triton, a: FakeClient) -> None:
        a.refusals = 3
        assert await pool.ask(work) == "done"
        assert a.asked == 4
        a.refusals = 10**9
        with pytest.raises(RequestTimeout, match=r"0\.3 s"):
            await pool.ask(work, patience_s=0.3)

    pool(test, "a")


def test_a_server_that_is_gone_is_left_and_found_again(pool):
    async def test(pool: Triton, a: FakeClient, b: FakeClient) -> None:
        a.is_down = True
        assert await asyncio.gather(*(pool.ask(work) for _ in range(20))) == ["done"] * 20
        b.is_down = True
        with pytest.raises(ServerUnavailable):
            await pool.ask(work)
        await pool.look()
        assert not pool.is_alive
        assert pool.models == {}
        a.is_down = False
        assert await pool.ask(work) == "done"  # it may be back before anyone has looked
        assert pool.is_alive
        while not pool.models:  # `pool` has a limit for all
            await asyncio.sleep(0.05)

    pool(test)


def test_a_look_that_was_begun_earlier_and_ends_later_is_not_believed(pool, monkeypatch):
    async def test(pool: Triton, a: FakeClient) -> None:
        ends = [asyncio.Event(), asyncio.Event()]
        begun: list[int] = []

        async def models(_: FakeClient) -> list[ModelInfo]:
            begun.append(index := len(begun))
            await ends[index].wait()
            return [replace(MODEL, ready=index == 1)]

        monkeypatch.setattr(FakeClient, "models", models)
        looks = [asyncio.create_task(pool.look()) for _ in ends]
        for index in (1, 0):
            ends[index].set()
            await looks[index]
        assert pool.models["m"].ready

    pool(test, "a")


def test_what_the_models_are_is_asked_where_something_may_have_changed(pool, monkeypatch):
    async def test(pool: Triton, a: FakeClient) -> None:
        async def described(changed: Callable[[], object] = lambda: None) -> list[int]:
            """Return how often the models are asked for in each of the three looks after a change."""
            counts = []
            changed()
            for _ in range(3):
                before = a.described
                await pool.look(is_whole=False)
                counts.append(a.described - before)
            return counts

        def serve(*models: ModelInfo, **counts: int) -> Callable[[], None]:
            def change() -> None:
                a.served, a.counts = list(models), counts

            return change

        assert a.described == 1
        assert await described() == [1, 0, 0]  # who started it may load models yet
        assert await described(serve(MODEL, m=9)) == [0, 0, 0]  # it has worked
        other = replace(MODEL, weights="other")
        assert await described(serve(other, m=8)) == [1, 1, 0]  # loaded anew
        assert pool.models == {"m": other}
        assert await described(serve(other, replace(MODEL, name="n"), m=8, n=0)) == [1, 1, 0]  # one more
        assert await described(serve(other, m=8)) == [1, 1, 0]  # one less
        assert pool.models == {"m": other}

        await pool.look()  # somebody has loaded or unloaded something by the gateway
        assert await described() == [1, 0, 0]

        a.served = [MODEL]  # exported and loaded anew, before it was ever asked
        assert await described() == [0, 0, 0]
        later = SimpleNamespace(monotonic=lambda: time.monotonic() + triton._BELIEVED_S)
        monkeypatch.setattr(triton, "time", later)
        assert await described() == [1, 1, 0]
        assert pool.models == {"m": MODEL}

        a.is_down = True
        await pool.look(is_whole=False)
        assert not pool.is_alive
        a.is_down = False
        assert await described() == [1, 1, 0]  # another server may stand there

    pool(test, "a")


def test_a_model_is_there_where_every_live_server_has_it_ready(pool):
    async def test(pool: Triton, a: FakeClient, b: FakeClient) -> None:
        assert pool.has_ready("m") and not pool.has_ready("n")
        b.served = [replace(MODEL, ready=False)]
        await pool.look()
        assert pool.models["m"].ready and not pool.has_ready("m")
        b.is_down = True
        await pool.look()
        assert pool.has_ready("m")
        a.is_down = True
        await pool.look()
        assert not pool.has_ready("m")

    pool(test)


def test_where_one_server_fails_the_others_go_on(pool):
    async def test(pool: Triton, a: FakeClient, b: FakeClient) -> None:
        done: list[FakeClient] = []

        async def load(client: FakeClient) -> None:
            if client is a:
                raise ModelUnavailable("gone")
            await asyncio.sleep(0.05)
            done.append(client)

        before = b.looks
        with pytest.raises(ModelUnavailable):
            await pool.on_every_server(load)
        assert done == [b]
        assert b.looks == before + 1

    pool(test)


def test_too_many_that_wait_are_refused_and_who_gives_up_makes_room(pool):
    async def test(pool: Triton, a: FakeClient) -> None:
        a.hold = asyncio.Event()
        tasks = [asyncio.create_task(pool.ask(work)) for _ in range(3)]  # one works, two wait
        await asyncio.sleep(0.05)
        with pytest.raises(ServerOverloaded, match="2 requests wait"):
            await pool.ask(work)
        tasks[1].cancel()
        await asyncio.sleep(0.05)
        tasks.append(asyncio.create_task(pool.ask(work)))
        await asyncio.sleep(0.05)
        a.hold.set()
        assert [await tasks[index] for index in (0, 2, 3)] == ["done"] * 3
        assert a.most == 1

    pool(test, "a", IN_FLIGHT="1", WAITING="2")


def test_nobody_overtakes_who_waits(pool):
    """Those who come in the very moment in which a place becomes free too."""

    async def test(pool: Triton, a: FakeClient) -> None:
        a.hold = asyncio.Event()
        begun: list[int] = []
        tasks: list[asyncio.Task[str]] = []

        def ask(number: int) -> None:
            async def numbered(client: FakeClient) -> str:
                begun.append(number)
                answer = await client.work()
                if number < 3:
                    ask(number + 10)  # it begins before the next one wakes
                return answer

            tasks.append(asyncio.create_task(pool.ask(numbered)))

        for number in range(4):
            ask(number)
        await asyncio.sleep(0.05)
        a.hold.set()
        while len(begun) < 7:  # `pool` has a limit for all
            await asyncio.sleep(0.01)
        assert begun == [0, 1, 2, 3, 10, 11, 12]
        assert await asyncio.gather(*tasks) == ["done"] * 7
        assert a.most == 1

    pool(test, "a", IN_FLIGHT="1", WAITING="4")


def test_a_place_that_was_handed_to_who_gives_up_in_that_moment_is_the_next_ones(pool):
    async def test(pool: Triton, a: FakeClient) -> None:
        a.hold = asyncio.Event()
        tasks: list[asyncio.Task[str]] = []

        async def last_words(client: FakeClient) -> str:
            answer = await client.work()
            asyncio.get_running_loop().call_soon(tasks[1].cancel)  # once it has the place, and before it wakes
            return answer

        tasks += [asyncio.create_task(pool.ask(call)) for call in (last_words, work, work)]
        await asyncio.sleep(0.05)
        a.hold.set()
        assert await tasks[0] == await tasks[2] == "done"
        assert tasks[1].cancelled()
        assert await pool.ask(work) == "done"

    pool(test, "a", IN_FLIGHT="1")


def test_who_waits_for_one_server_keeps_nobody_from_the_other(pool):
    async def test(pool: Triton, a: FakeClient, b: FakeClient) -> None:
        first, second = await pool._place([]), await pool._place([])
        picky = asyncio.create_task(pool._place([first]))  # first has just failed it
        await asyncio.sleep(0)
        pool._leave(first)
        assert await pool._place([]) is first
        pool._leave(second)
        assert await picky is second

    pool(test, IN_FLIGHT="1")


def test_a_look_in_passing_asks_for_no_more_than_it_must(pool, monkeypatch):
    monkeypatch.setattr(triton, "_LOOK_EVERY_S", 0.01)

    async def test(pool: Triton, a: FakeClient) -> None:
        while a.looks < 10:  # `pool` has a limit for all
            await asyncio.sleep(0.01)
        assert a.described == 2

    pool(test, "a")


def test_every_kind_of_change_of_a_real_server_is_noticed(repository, tmp_path, monkeypatch):
    monkeypatch.setattr(triton, "_LOOK_EVERY_S", 1e9)  # this test looks itself
    monkeypatch.setattr(triton, "_BELIEVED_S", 1e9)  # nothing is noticed by time alone
    own = copied(repository, to=tmp_path / "model_repository")

    def export_anew(weights: str) -> None:
        """Do what another export under the same name does to a config."""
        config = own / DEPTH / "configs" / "exported.pbtxt"
        text, count = re.subn(r'(key: "weights"\s+value {\s+string_value: )".*"', rf'\1"{weights}"', config.read_text())
        assert count == 1
        config.write_text(text)

    async def test(server: Server, pool: Triton, operator: AsyncClient) -> None:
        async def until(condition: Callable[[], object]) -> None:
            while not condition():
                await asyncio.sleep(0.05)
                await pool.look(is_whole=False)

        async def until_weights_are(weights: str) -> None:
            await until(lambda: DEPTH in pool.models and pool.models[DEPTH].weights == weights)

        async def use() -> None:
            await operator.depth(np.zeros((48, 64, 3), np.uint8))
            while not (await operator.loaded())[DEPTH]:  # Triton counts a request a moment after it has answered it
                await asyncio.sleep(0.05)
            await pool.look(is_whole=False)

        await until_weights_are("first")
        await use()
        export_anew("second")
        await operator.load(DEPTH)
        await until_weights_are("second")

        await use()
        export_anew("third")
        server.triton.kill()  # `serve` starts it again
        await until_weights_are("third")

        await operator.unload(DEPTH)  # at once: `serve` may be looking still which models are back
        await until(lambda: DEPTH not in pool.models)

    async def inner(server: Server) -> None:
        async with Triton([server.host], settings()) as pool, AsyncClient(server.host) as operator:
            await test(server, pool, operator)

    export_anew("first")
    with serving(own) as server:
        asyncio.run(asyncio.wait_for(inner(server), HANGS_AFTER_S))
