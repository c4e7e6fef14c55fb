"""The web page in a real browser: photos are dropped, and depth, faces, a search by words and a clip appear."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
import requests
from fixtures.devtools import opened_tab
from fixtures.gateways import CROWD, NO_PHOTO, Gateway, gateway
from fixtures.page import PHOTOS, curl, drop, press_enter, said, search, shelf
from fixtures.ports import free_ports
from fixtures.serving import serving
from fixtures.waiting import HANGS_AFTER_S
from PIL import Image

from depthface.weights import depth_label_of, warning_of
from depthface_render import sources


@pytest.fixture(scope="module")
def running(everything_server) -> Gateway:
    with gateway("page", url=everything_server.host) as running:
        yield running


def test_what_is_dropped_is_shown(running, tmp_path):
    async def look() -> None:
        async with opened_tab(running.urls["page"], tmp_path) as tab:
            await tab.until("served.length > 0")
            assert "RANDOM WEIGHTS" in await tab.evaluate("document.querySelector('#warning').textContent")
            assert await search(tab, "blue things") == "Drop some photos first."
            await drop(tab, PHOTOS)
            assert "the nearest is white" in await said(tab, "depth")
            await tab.until("document.querySelector('#depth img').naturalWidth === 640")
            assert (await said(tab, "faces")).startswith("5 faces")
            assert await tab.evaluate("document.querySelector('#faces canvas').height") == 480

            await press_enter(tab)  # the words are those of before
            await tab.until("document.querySelector('#search .said').textContent.includes('best')")
            order = await shelf(tab)
            assert order[0] == "blue square.jpg"
            assert set(order) == set(PHOTOS)
            assert await tab.evaluate("document.querySelector('#pack').parentElement.hidden")  # there is one alone

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


BUSY_ONCE = """
const real = fetch;
let isBusy = true;
window.fetch = (path, options) => {
  if (path !== "api/embed" || !isBusy) return real(path, options);
  isBusy = false;
  return Promise.resolve(new Response('{"detail": "busy"}', {status: 503}));
};
"""

LATE = """
window.go = null;
const quick = window.fetch;
window.fetch = async (path, options) => {
  const answer = await quick(path, options);
  if (options.body?.get("text") === "red things") await new Promise((done) => { window.go = done; });
  return answer;
};
"""


def test_an_answer_that_is_late_is_shown_nowhere_and_one_that_failed_is_asked_for_again(running, tmp_path):
    async def look() -> None:
        async with opened_tab(running.urls["page"], tmp_path) as tab:
            await tab.until("served.length > 0")
            await tab.evaluate(BUSY_ONCE)
            await drop(tab, PHOTOS)
            await tab.until("[...document.querySelectorAll('#shelf small')].some((one) => one.textContent === 'busy')")
            assert "without one" not in await search(tab, "blue things")
            await tab.evaluate(LATE)
            await tab.evaluate("words.value = 'red things'")
            await press_enter(tab)
            await tab.until("go !== null")
            assert "best" in await search(tab, "blue things")
            assert (await shelf(tab))[0] == "blue square.jpg"
            await tab.evaluate("go()")
            await tab.evaluate("fetch('api/models', {}).then((answer) => answer.text())")  # by then it would be shown
            assert (await shelf(tab))[0] == "blue square.jpg"
            assert "best" in await said(tab, "search")

    asyncio.run(look())


def test_many_photos_hold_up_nothing_that_was_chosen(running, tmp_path):
    async def asked() -> list[dict]:
        async with opened_tab(running.urls["page"], tmp_path) as tab:
            await tab.until("served.length > 0")
            await drop(tab, {f"{number} {name}": PHOTOS[name] for number in range(4) for name in PHOTOS})
            assert "best" in await search(tab, "blue things")
            for section in ("depth", "faces"):
                await said(tab, section)
            entries = "performance.getEntriesByType('resource').filter((one) => one.name.includes('/api/'))"
            return await tab.evaluate(f"{entries}.map((one) => [one.name, one.startTime, one.responseEnd])")

    timed = [(url.rpartition("/")[2], start, end) for url, start, end in asyncio.run(asked())]
    embeds = [one for one in timed if one[0] == "embed"]
    first = {name: min(start for other, start, _ in timed if other == name) for name in ("depth", "faces", "embed")}
    assert max(first["depth"], first["faces"]) <= first["embed"]
    at_once = [sum(start <= begun < end for _, start, end in embeds) for _, begun, _ in embeds]
    assert len(embeds) >= 12
    assert max(at_once) <= 3  # two for photos, and one for words


PROMPTS = """
window.answers = ["ключ", "secret"];
window.prompts = 0;
window.prompt = () => { window.prompts++; return window.answers.shift() ?? null; };
"""


def test_a_key_is_asked_for_once_and_again_where_it_cannot_be_one(everything_server, tmp_path):
    async def look(url: str) -> None:
        async with opened_tab(f"{url}/health", tmp_path) as tab:
            await tab.call("Page.addScriptToEvaluateOnNewDocument", source=PROMPTS)
            await tab.call("Page.navigate", url=url)
            await tab.until("typeof served !== 'undefined' && served.length > 0")
            assert await tab.evaluate("prompts") == 2  # what no header can hold is no key

            await tab.evaluate("sessionStorage.setItem('key', 'old'); answers = ['secret']")
            await tab.evaluate("Promise.all([1, 2, 3, 4].map(() => ask('api/models'))).then(() => true)")
            assert await tab.evaluate("prompts") == 3

            await tab.evaluate("sessionStorage.setItem('key', 'old'); answers = []")
            await drop(tab, PHOTOS)
            await tab.until("document.querySelector('#faces .said').className.includes('failed')")
            await tab.until("[...document.querySelectorAll('#shelf small')].every((one) => one.textContent)")
            assert await tab.evaluate("prompts") == 4  # and not by each photo
            await tab.evaluate("answers = ['secret']")
            assert "best" in await search(tab, "blue things")

    with gateway("page", url=everything_server.host, DEPTHFACE_GATEWAY_API_KEY="secret") as running:
        asyncio.run(look(running.urls["page"]))


def test_what_is_served_later_is_found_without_opening_the_page_anew(repository, tmp_path):
    (port,) = free_ports(1)

    async def look(url: str) -> None:
        async with opened_tab(url, tmp_path) as tab:
            await tab.until("document.querySelector('#state').textContent === 'nothing is served'")
            answer = await asyncio.to_thread(requests.post, f"{url}/api/depth", files={"image": CROWD})
            assert answer.status_code == 503
            with serving(repository, http_port=port):
                models = f"fetch('{url}/api/models').then((answer) => answer.json()).then((said) => said.models.length)"
                await tab.until(models)
                await drop(tab, {"five people.jpg": CROWD})
                assert "the nearest is white" in await said(tab, "depth")
                assert "RANDOM WEIGHTS" in await tab.evaluate("document.querySelector('#warning').textContent")

    with gateway("page", url=f"127.0.0.1:{port}") as running:
        asyncio.run(look(running.urls["page"]))


def test_the_browser_lets_it_do_nothing_else(running):
    answer = requests.get(running.urls["page"], timeout=HANGS_AFTER_S)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", answer.text)


def test_a_clip_of_random_weights_is_labelled(running):
    answer = requests.post(f"{running.urls['page']}/api/clip", files={"image": CROWD}, timeout=HANGS_AFTER_S)
    with av.open(BytesIO(answer.content)) as clip:
        frame = next(clip.decode(video=0)).to_ndarray(format="rgb24")
    foot = sources.banner(*frame.shape[:2], depth_label_of("random, seed 0"))
    assert float(np.abs(frame[-len(foot) :].astype(int) - foot).mean()) < 10


def test_its_routes_by_themselves(running):
    url = running.urls["page"]

    def post(path: str, **form: object) -> requests.Response:
        files = {name: ("a.jpg", value) for name, value in form.items() if isinstance(value, bytes)}
        fields = {name: value for name, value in form.items() if not isinstance(value, bytes)}
        return requests.post(f"{url}/api/{path}", files=files, data=fields, timeout=HANGS_AFTER_S)

    assert requests.get(f"{url}/health", timeout=HANGS_AFTER_S).json() == {"status": "healthy"}
    models = requests.get(f"{url}/api/models", timeout=HANGS_AFTER_S).json()["models"]
    assert {model["task"] for model in models} == {"depth", "faces", "embedding", "swap"}
    assert all(model["warning"] == warning_of(model["weights"]) for model in models)
    png = Image.open(BytesIO(post("depth", image=CROWD).content))
    assert (png.size, png.mode) == ((640, 480), "L")
    answers = [
        post("embed", **form).json()
        for form in ({"image": PHOTOS["red circle.jpg"]}, {"text": "a red circle"}, {"text": "a blue square"})
    ]
    assert {(answer["space"], answer["weights"]) for answer in answers} == {("clip_vit_b_32", "synthetic")}
    photo, words, other = (np.array(answer["vector"]) for answer in answers)
    assert photo @ words > photo @ other + 0.3
    for path, form, status in (
        ("depth", {"image": NO_PHOTO}, 400),
        ("depth", {}, 422),
        ("faces", {"image": CROWD, "model": "nobody"}, 404),
        ("embed", {}, 400),
        ("clip", {"image": CROWD, "motion": "sideways"}, 400),
    ):
        answer = post(path, **form)
        assert answer.status_code == status, (path, answer.text)
        assert isinstance(answer.json()["detail"], str)
