"""One client in many processes, threads and loops, and across a server's restart."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from fixtures.serving import serving

from depthface.contract import EXPORTED_CONFIG
from depthface_client import AsyncClient, Client

SIZES = ((140, 280), (280, 140), (140, 140))
PHOTOS = [np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8) for size in SIZES]

_client: Client | None = None


def descriptors() -> int:
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def ask(index: int) -> str:
    photo = PHOTOS[index % 3]
    try:
        size = _client.depth(photo).size
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "right" if size == photo.shape[:2] else f"wrong: {size} for {photo.shape[:2]}"


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_client_that_was_used_before_a_fork_answers_right_in_every_process(server, protocol):
    global _client
    url = server.host if protocol == "http" else f"grpc://127.0.0.1:{server.port('grpc')}"
    with Client(url, timeout_s=120) as _client:
        assert ask(0) == "right"
        stop = threading.Event()
        threads = [threading.Thread(target=lambda: [ask(1) for _ in iter(stop.is_set, True)]) for _ in range(8)]
        for thread in threads:  # the parent goes on
            thread.start()
        try:
            with multiprocessing.get_context("fork").Pool(3) as pool:
                answers = pool.map_async(ask, range(12), chunksize=1).get(300)
        finally:
            stop.set()
        for thread in threads:
            thread.join()
        assert answers == ["right"] * 12
        assert ask(2) == "right"


def test_a_spawned_process_takes_a_client_as_an_argument(server):
    with Client(server.host, timeout_s=77, retries=2) as client:
        client.depth(PHOTOS[0])
        other = pickle.loads(pickle.dumps(client))
        assert other.depth(PHOTOS[1]).size == SIZES[1]
        assert other._settings == client._settings
        other.close()


def test_short_threads_leave_no_descriptors(server):
    before_all = descriptors()
    client = Client(server.host)
    client.weights()
    after_one = descriptors()
    for _ in range(60):
        thread = threading.Thread(target=client.models)
        thread.start()
        thread.join()
    assert descriptors() <= after_one
    many = [threading.Thread(target=client.models) for _ in range(100)]
    for thread in many:
        thread.start()
    for thread in many:
        thread.join()
    assert descriptors() <= after_one + 64
    client.close()
    assert descriptors() <= before_all
    assert client.models()  # opens one anew
    client.close()

    def own() -> None:
        with Client(server.host) as short:
            short.models()

    def careless() -> None:
        Client(server.host).models()

    for work in (own, careless) * 30:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert descriptors() <= before_all


def test_one_asynchronous_client_in_one_loop_after_the_other(server):
    client = AsyncClient(server.host)

    async def once() -> tuple[int, int]:
        size = (await client.depth(PHOTOS[0])).size
        await client.close()
        return size

    for _ in range(2):
        assert asyncio.run(once()) == SIZES[0]


def test_a_restart_with_other_weights_is_seen(repository, tmp_path):
    """The label and the parts that are offered are those of what is served now."""
    copy = tmp_path / "model_repository"
    for path in repository.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(repository)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
    with serving(copy) as server:
        port = int(server.host.rpartition(":")[2])
        client = Client(server.host)
        assert client.depth(PHOTOS[0]).weights == "random, seed 0"
        server.stop()  # its port is wanted
    for config in copy.glob(f"*/{EXPORTED_CONFIG}"):
        text = config.read_text()
        config.unlink()
        Path(config).write_text(text.replace("random, seed 0", "somebody/else@1"))
    with serving(copy, http_port=port):
        depth = client.depth(PHOTOS[0])
        assert depth.weights == client.weights() == "somebody/else@1"
        assert depth.is_meaningful
    client.close()
