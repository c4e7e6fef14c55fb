"""The web page in a real browser: photos are dropped, and depth, faces, a search by words and a clip appear."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shlex
import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
import requests
from fixtures.devtools import Tab, opened_tab
from fixtures.gateways import CROWD, NO_PHOTO, Gateway, gateway, jpeg
from fixtures.waiting import HANGS_AFTER_S
from PIL import Image

from depthface_standins.clip.scenes import draw

PHOTOS = {
    "five people.jpg": CROWD,
    "red circle.jpg": jpeg(draw("red", "circle", size=(240, 320), seed=1)),
    "blue square.jpg": jpeg(draw("blue", "square", size=(240, 320), seed=2)),
}

DROP = """
(async () => {
  const transfer = new DataTransfer();
  for (const [name, data] of Object.entries(PHOTOS))
    transfer.items.add(new File([Uint8Array.from(atob(data), (one) => one.charCodeAt(0))], name, {type: "image/jpeg"}));
  document.querySelector("#drop").dispatchEvent(
    new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
})()
"""


async def drop(tab: Tab, photos: dict[str, bytes]) -> None:
    told = {name: base64.b64encode(data).decode() for name, data in photos.items()}
    await tab.evaluate(DROP.replace("PHOTOS", json.dumps(told), 1))


async def said(tab: Tab, section: str) -> str:
    """What a section says when its answer has come."""
    where = f"document.querySelector('#{section} .said')"
    await tab.until(f"!['', '…'].includes({where}.textContent)")
    return await tab.evaluate(f"{where}.textContent")


async def curl(tab: Tab, section: str) -> list[str]:
    return shlex.split(await tab.evaluate(f"document.querySelector('#{section} pre').textContent"))


@pytest.fixture(scope="module")
def running(everything_server) -> Gateway:
    with gateway("page", url=everything_server.host) as running:
        yield running


def test_what_is_dropped_is_shown(running, tmp_path):
    async def look() -> None:
        async with opened_tab(running.urls["page"], tmp_path) as tab:
            await tab.until("served.length > 0")
            assert "random" in await tab.evaluate("document.querySelector('#warning').textContent")
            await drop(tab, PHOTOS)
            assert "the nearest is white" in await said(tab, "depth")
            await tab.until("document.querySelector('#depth img').naturalWidth === 640")
            assert (await said(tab, "faces")).startswith("5 faces")
            assert await tab.evaluate("document.querySelector('#faces canvas').height") == 480

            await tab.evaluate("words.value = 'blue things'; words.dispatchEvent(new Event('change'))")
            await tab.until("document.querySelector('#search-said').textContent.includes('best')")
            order = await tab.evaluate("[...document.querySelectorAll('#shelf button')].map((one) => one.title)")
            assert order[0] == "blue square.jpg"
            assert set(order) == set(PHOTOS)

            await tab.evaluate("document.querySelector('#move').click()")
            assert (await said(tab, "clip")).startswith("circle")
            await tab.until("document.querySelector('video').currentTime > 0")
            assert await tab.evaluate("document.querySelector('video').videoWidth") == 640
            lines = {section: await curl(tab, section) for section in ("depth", "faces", "clip")}
            await tab.screenshot(Path(os.environ.get("DEPTHFACE_SCREENSHOTS", tmp_path)) / "page.png")

            await drop(tab, {"broken.jpg": NO_PHOTO})
            assert "not an image" in await said(tab, "depth")
            await tab.until("document.querySelectorAll('#shelf button').length === 4")
            refused = [one for one in tab.complaints if "400" not in one]  # the browser notes each answer that is one
            assert not refused
        check_curl(lines, tmp_path)

    asyncio.run(look())


def check_curl(lines: dict[str, list[str]], folder: Path) -> None:
    """The lines that the page shows do the same."""
    if shutil.which("curl") is None:
        pytest.skip("no curl is installed")
    (folder / "five people.jpg").write_bytes(CROWD)
    for line in lines.values():
        done = subprocess.run([*line, "-sSf"], cwd=folder, capture_output=True, timeout=HANGS_AFTER_S, check=False)
        assert done.returncode == 0, done.stderr
        if "/api/faces" in line[1]:
            assert len(json.loads(done.stdout)["faces"]) == 5
    with Image.open(folder / "depth.png") as depth:
        assert depth.size == (640, 480)
    with av.open(folder / "clip.mp4") as clip:
        assert sum(1 for _ in clip.decode(video=0)) == 72


def test_where_a_key_is_asked_for_the_lines_have_a_place_for_it(everything_server, tmp_path):
    async def line(url: str) -> str:
        async with opened_tab(f"{url}/health", tmp_path) as tab:  # of the same origin, and open to all
            await tab.evaluate("sessionStorage.setItem('key', 'secret')")
            await tab.call("Page.navigate", url=url)
            await tab.until("typeof served !== 'undefined' && served.length > 0")
            await drop(tab, {"five people.jpg": CROWD})
            assert "the nearest is white" in await said(tab, "depth")
            return await tab.evaluate("document.querySelector('#depth pre').textContent")

    with gateway("page", url=everything_server.host, DEPTHFACE_GATEWAY_API_KEY="secret") as running:
        shown = asyncio.run(line(running.urls["page"]))
        assert ' -H "x-api-key: $KEY" ' in shown
        assert "secret" not in shown
        if shutil.which("curl") is None:
            pytest.skip("no curl is installed")
        (tmp_path / "five people.jpg").write_bytes(CROWD)
        subprocess.run(
            ["sh", "-c", f"{shown} -sSf"],
            cwd=tmp_path, env=os.environ | {"KEY": "secret"}, timeout=HANGS_AFTER_S, check=True,
        )  # fmt: skip
    with Image.open(tmp_path / "depth.png") as depth:
        assert depth.size == (640, 480)


def test_the_browser_lets_it_do_nothing_else(running):
    answer = requests.get(running.urls["page"], timeout=HANGS_AFTER_S)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", answer.text)


def test_its_routes_by_themselves(running):
    url = running.urls["page"]

    def post(path: str, **form: object) -> requests.Response:
        files = {name: ("a.jpg", value) for name, value in form.items() if isinstance(value, bytes)}
        fields = {name: value for name, value in form.items() if not isinstance(value, bytes)}
        return requests.post(f"{url}/api/{path}", files=files, data=fields, timeout=HANGS_AFTER_S)

    assert requests.get(f"{url}/health", timeout=HANGS_AFTER_S).json() == {"status": "healthy"}
    tasks = {model["task"] for model in requests.get(f"{url}/api/models", timeout=HANGS_AFTER_S).json()["models"]}
    assert tasks == {"depth", "faces", "embedding", "swap"}
    png = Image.open(BytesIO(post("depth", image=CROWD).content))
    assert (png.size, png.mode) == ((640, 480), "L")
    photo, words, other = (
        np.array(post("embed", **form).json()["vector"])
        for form in ({"image": PHOTOS["red circle.jpg"]}, {"text": "a red circle"}, {"text": "a blue square"})
    )
    assert photo @ words > photo @ other + 0.3
    for path, form, status in (
        ("depth", {"image": NO_PHOTO}, 400),
        ("depth", {}, 422),
        ("faces", {"image": CROWD, "model": "nobody"}, 404),
        ("embed", {}, 400),
        ("embed", {"text": " "}, 400),
        ("clip", {"image": CROWD, "motion": "sideways"}, 400),
    ):
        answer = post(path, **form)
        assert answer.status_code == status, (path, answer.text)
        assert isinstance(answer.json()["detail"], str)
