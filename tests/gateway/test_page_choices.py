"""The web page before several models of one kind: two spaces of embeddings, and two face packs."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from fixtures.devtools import Tab, opened_tab
from fixtures.gateways import CROWD, PORTRAIT, Gateway, gateway, post
from fixtures.page import PHOTOS, curl, drop, said, search, shelf
from fixtures.serving import Server, serving
from fixtures.shared import linked
from fixtures.waiting import HANGS_AFTER_S, until

from depthface import config, manifest
from depthface.contract import MANIFEST_FILE
from depthface_client import Client

SPACE, OTHER_SPACE = "clip_vit_b_32", "other"


def put_another(repository: Path, name: str, another: str, **parameters: str) -> None:
    """Put a model beside one, of the same networks, with other parameters."""
    made = config.of_model(repository / name)
    made.name = another
    for key, text in parameters.items():
        made.parameters[key.replace("_", ".")].string_value = text
    shutil.copytree(repository / name / "1", repository / another / "1")
    (repository / another / "config.pbtxt").write_text(config.text_from_config(made))
    for folder in manifest.folders(repository):
        known = manifest.read(folder)
        assert known is not None
        if name in known.serves:
            (folder / MANIFEST_FILE).unlink()  # it is a link
            replace(known, serves=known.serves | {another: known.serves[name]}).write(folder)


@pytest.fixture(scope="module")
def crowded_server(pack_repository, drawn_repository, tmp_path_factory) -> Iterator[Server]:
    """The real server with two packs and two CLIPs, and no depth."""
    folder = linked(pack_repository, drawn_repository, to=tmp_path_factory.mktemp("crowded") / "model_repository")
    for kind in ("image", "text"):
        put_another(folder, f"{SPACE}_{kind}", f"{OTHER_SPACE}_{kind}", fact_space=OTHER_SPACE, rank="1")
    put_another(folder, "face_analysis_buffalo_l", "another_analysis", fact_pack="another")
    with serving(folder) as server:
        yield server


@pytest.fixture(scope="module")
def running(crowded_server) -> Iterator[Gateway]:
    with gateway("page", url=crowded_server.host) as running:
        yield running


def test_of_several_packs_the_usual_is_taken_or_the_one_that_is_chosen(running, crowded_server, tmp_path):
    url = running.urls["page"]
    assert len(post(url, "/api/faces", {"image": CROWD}).json()["faces"]) == 5
    assert len(post(url, "/api/faces", {"image": CROWD}, model="another_analysis").json()["faces"]) == 5

    async def look() -> None:
        async with opened_tab(url, tmp_path) as tab:
            await tab.until("served.length > 0")
            await drop(tab, {"five people.jpg": CROWD})
            assert (await said(tab, "faces")).startswith("5 faces")
            assert not [part for part in await curl(tab, "faces") if part.startswith("model=")]
            await tab.evaluate("pack.value = 'another_analysis'; pack.dispatchEvent(new Event('change'))")
            assert (await said(tab, "faces")).startswith("5 faces")
            assert "model=another_analysis" in await curl(tab, "faces")

    asyncio.run(look())
    with gateway("page", url=crowded_server.host, FACES_PACK="neither") as strict:
        answer = post(strict.urls["page"], "/api/faces", {"image": CROWD})
    assert (answer.status_code, "'neither' is not served" in answer.text) == (503, True)


def test_a_model_that_is_missing_is_the_callers_mistake_only_if_it_was_named(running):
    url = running.urls["page"]
    for path in ("/api/depth", "/api/clip"):
        assert post(url, path, {"image": CROWD}).status_code == 503
        assert post(url, path, {"image": CROWD}, model="nobody").status_code == 404
    for path in ("/api/faces", "/api/embed"):
        assert post(url, path, {"image": CROWD}, model="nobody").status_code == 404


def test_only_vectors_of_one_space_are_compared(running, crowded_server, tmp_path):
    def served() -> set[str]:
        answer = requests.get(f"{running.urls['page']}/api/models", timeout=HANGS_AFTER_S)
        return {model["name"] for model in answer.json()["models"]}

    async def spaces(tab: Tab) -> set[str]:
        return set(await tab.evaluate("Promise.all(photos.map(async (one) => (await one.embedding).space))"))

    async def without(client: Client, name: str) -> None:
        await asyncio.to_thread(client.unload, name)
        await asyncio.to_thread(until, lambda: name not in served(), f"a gateway that knows {name} no more")

    async def look(client: Client) -> None:
        async with opened_tab(running.urls["page"], tmp_path) as tab:
            await tab.until("served.length > 0")
            await drop(tab, PHOTOS)
            assert "best" in await search(tab, "blue things")
            assert await spaces(tab) == {SPACE}

            await without(client, f"{SPACE}_text")
            assert "best" in await search(tab, "blue things")  # the photos that are open are asked about anew
            assert await spaces(tab) == {OTHER_SPACE}
            assert (await shelf(tab))[0] == "blue square.jpg"

            await without(client, f"{OTHER_SPACE}_image")
            await drop(tab, {"portrait.jpg": PORTRAIT})
            assert "without one: 1" in await search(tab, "blue things")
            assert (await shelf(tab))[-1] == "portrait.jpg"
            assert "It cannot be compared" in await tab.evaluate("photos.at(-1).name.textContent")
            await tab.evaluate("alike.click()")
            assert "without one" not in await said(tab, "search")  # photos among themselves can be
            assert (await shelf(tab))[0] == "portrait.jpg"
            assert await search(tab, "blue things") == (
                f"It cannot be compared: {SPACE}_image (synthetic) saw it, and "
                f"what is searched for is of {OTHER_SPACE}_text (synthetic)."
            )

    with Client(crowded_server.host, timeout_s=HANGS_AFTER_S) as client:
        asyncio.run(look(client))
