"""The SDK against the real server, and against servers that fail it."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import requires
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from fixtures.photos import VARIETY, bomb, encoded, photo, with_orientation
from fixtures.processes import ended
from fixtures.serving import serving
from PIL import Image

from depthface.errors import DepthfaceError, InvalidInput, decode, encode
from depthface_client import (
    AsyncClient,
    Client,
    ClientError,
    ImageTooLarge,
    InvalidImage,
    ModelUnavailable,
    RequestTimeout,
    ServerUnavailable,
)

SMALL = VARIETY["tiny 40×30"]


def test_a_path_bytes_a_picture_and_an_array_give_the_same(client, tmp_path):
    picture = Image.open(BytesIO(SMALL))
    path = tmp_path / "photo.png"
    path.write_bytes(SMALL)
    maps = [client.depth(form).array for form in (path, str(path), SMALL, picture, np.asarray(picture))]
    for other in maps[1:]:
        np.testing.assert_array_equal(maps[0], other)


def test_the_result_is_frozen_and_complete(client):
    depth = client.depth(VARIETY["landscape JPEG"])
    assert depth.array.dtype == np.float32
    assert depth.array.shape == (350, 518)
    assert depth.size == (427, 640)
    assert depth.resized().shape == (427, 640)
    assert depth.weights == "random, seed 0"
    assert Image.open(BytesIO(depth.png16())).size == (640, 427)
    assert depth.preview("inferno").size == (640, 427)
    with pytest.raises(dataclasses.FrozenInstanceError):
        depth.size = (1, 1)
    with pytest.raises(ValueError, match="read-only"):
        depth.array[0, 0] = 1


def test_a_picture_that_carries_an_orientation_is_set_upright(client):
    turned = Image.open(BytesIO(with_orientation(6)))
    assert client.depth(turned).size == client.depth(with_orientation(6)).size


def test_grey_arrays_are_photos_and_float_arrays_are_not(client):
    assert client.depth(np.asarray(photo().convert("L"))[:60, :80]).size == (60, 80)
    with pytest.raises(InvalidImage, match="float64"):
        client.depth(np.zeros((60, 80, 3)))
    with pytest.raises(InvalidImage, match="not a photo"):
        client.depth(42)


def test_each_error_has_its_class_and_its_remedy(client, tmp_path):
    with pytest.raises(InvalidImage, match="not an image"):
        client.depth(b"hello")
    with pytest.raises(InvalidImage, match="cannot be read"):
        client.depth(tmp_path / "nothing.jpg")
    with pytest.raises(ImageTooLarge, match="Scale it down"):
        client.depth(bomb())
    with pytest.raises(ModelUnavailable, match="depthface models"):
        client.depth(SMALL, model="depth_anything_v2_large")
    with pytest.raises(InvalidInput, match="16 bits"):
        client.depth_png(SMALL, bits=12)


def test_a_server_that_is_not_there():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    with Client(host) as nobody, pytest.raises(ServerUnavailable, match="depthface serve"):
        nobody.depth(SMALL)
    with Client("no-such-host.invalid:8000") as nobody, pytest.raises(ServerUnavailable):
        nobody.depth(SMALL)


def test_a_server_that_never_answers():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        with Client(host, timeout_s=0.3) as client, pytest.raises(RequestTimeout, match="timeout_s"):
            client.depth(SMALL)


def test_a_server_that_dies_in_the_middle_of_a_request(repository):
    with serving(repository) as server, Client(server.host, timeout_s=150) as client:
        client.depth(SMALL)
        errors: list[Exception] = []
        started = threading.Event()

        def ask() -> None:
            try:
                while True:
                    started.set()
                    client.depth(VARIETY["4000×3000"])
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        started.wait()
        time.sleep(0.5)
        triton = server.triton
        server.process.kill()
        thread.join(300)
        assert not thread.is_alive()
        assert isinstance(errors[0], ClientError), errors
        assert ended([triton])
        with pytest.raises(ServerUnavailable):
            client.depth(SMALL)


def test_one_client_serves_many_threads(client):
    expected = client.depth(SMALL).array
    with ThreadPoolExecutor(8) as pool:
        maps = list(pool.map(lambda _: client.depth(SMALL).array, range(16)))
    for array in maps:
        np.testing.assert_array_equal(array, expected)


def test_the_same_under_asyncio(server, client):
    async def run() -> list[np.ndarray]:
        async with AsyncClient(server.host) as other:
            depths = await asyncio.gather(*(other.depth(SMALL) for _ in range(4)))
            assert (await other.depth_png(SMALL, bits=8)) == client.depth_png(SMALL, bits=8)
            assert depths[0].weights == "random, seed 0"
            with pytest.raises(InvalidImage):
                await other.depth(b"hello")
            with pytest.raises(ModelUnavailable):
                await other.depth(SMALL, model="depth_anything_v2_base")
            return [depth.array for depth in depths]

    for array in asyncio.run(run()):
        np.testing.assert_array_equal(array, client.depth(SMALL).array)


def test_asyncio_without_a_server_and_with_a_silent_one():
    async def ask(host: str, timeout_s: float) -> None:
        async with AsyncClient(host, timeout_s=timeout_s) as nobody:
            await nobody.depth(SMALL)

    with pytest.raises(ServerUnavailable):
        asyncio.run(ask("127.0.0.1:9", 60))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(RequestTimeout):
            asyncio.run(ask(f"127.0.0.1:{silent.getsockname()[1]}", 0.3))


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_who_still_waits_when_an_asynchronous_client_is_closed_is_told_so(scheme):
    """One is in flight, two wait for their turn; none of them opens a connection that nobody would close."""

    async def run(silent: socket.socket) -> list[object]:
        client = AsyncClient(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}", connections=1)
        asked = [asyncio.create_task(client.loaded()) for _ in range(3)]
        connection, _ = await asyncio.to_thread(silent.accept)
        with connection:
            await client.close()
            return await asyncio.gather(*asked, return_exceptions=True)

    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = asyncio.run(run(silent))
    assert [type(error) for error in found] == [ServerUnavailable] * 3
    assert "was closed before" in str(found[-1])


def test_what_is_served_and_whether_it_answers(client):
    models = {model.name: model for model in client.models()}
    assert models["depth_anything_v2_small"].ready
    assert models["depth_anything_v2_small"].weights == "random, seed 0"
    assert models["depth_anything_v2_small"].task == "depth"
    assert "depth_anything_v2_small_network" not in models
    assert client.check() == ["depth_anything_v2_small"]


def test_addresses_in_every_usual_form(server):
    for url in (server.host, f"http://{server.host}", f"http://{server.host}/"):
        with Client(url) as client:
            assert client.check()
    with pytest.raises(InvalidInput, match="ftp"):
        Client("ftp://somewhere")


@pytest.mark.parametrize("error", [InvalidInput("a"), InvalidImage("b: c"), ImageTooLarge("d")])
def test_errors_survive_the_wire(error):
    back = decode(f"in pipeline 'x', {encode(error)}")
    assert (type(back), str(back)) == (type(error), str(error))
    assert decode("something else") is None


def test_every_error_is_in_the_tree_that_is_drawn():
    import depthface.errors as errors

    drawn = errors.__doc__ or ""
    for name in errors.__all__:
        thing = getattr(errors, name)
        if isinstance(thing, type):
            assert issubclass(thing, DepthfaceError)
            assert name in drawn


def test_the_install_pulls_in_nothing_heavy():
    """The requirements of the client, from the metadata of the distribution."""
    lines = requires("depthface") or []
    base = {re.split(r"\W", line)[0] for line in lines if "extra ==" not in line}
    client_extra = {re.split(r"\W", line)[0] for line in lines if "extra == 'client'" in line.replace('"', "'")}
    assert (base, client_extra) == ({"click", "numpy", "pillow"}, {"tritonclient", "urllib3"})


def test_photos_from_a_folder_of_your_own(client, real_photos: list[Path]):
    for path in real_photos:
        with Image.open(path) as picture:
            assert client.depth(path).size == picture.size[::-1]


def test_png_encoding_of_pictures_is_lossless(client):
    array = np.asarray(photo("coffee.png"))[:100, :120]
    np.testing.assert_array_equal(client.depth(array).array, client.depth(encoded(Image.fromarray(array), "PNG")).array)
