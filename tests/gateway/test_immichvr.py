"""ImmichVR's depth service: its document's three clients, its routes and its words."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import requests
from fixtures.devtools import opened_tab
from fixtures.gateways import MOST_MIB, NO_PHOTO, gateway
from fixtures.photos import VARIETY, encoded, photo
from fixtures.waiting import HANGS_AFTER_S
from PIL import Image

from depthface_client import Client
from depthface_gateway.immichvr import as_there, disposition

JPEG = encoded(photo("coffee.png").resize((300, 200)), "JPEG", quality=90)
OURS = "depth_anything_v2_small"


@pytest.fixture(scope="session")
def url(depth_gateway) -> str:
    return depth_gateway.urls["immichvr"]


@pytest.fixture(scope="session")
def expected(server) -> bytes:
    with Client(server.host) as client:
        return client.depth_png(JPEG, bits=8)


def ask(url: str, data: bytes = JPEG, name: str = "photo.jpg", query: str = "") -> requests.Response:
    return requests.post(f"{url}/api/depth{query}", files={"image": (name, data)}, timeout=HANGS_AFTER_S)


def test_a_photo_becomes_its_depth(url, expected):
    answer = ask(url, name="my.holiday.jpg")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["content-disposition"] == "attachment; filename=depth_my.holiday.png"
    assert answer.headers["x-model-used"] == "small"
    assert answer.content == expected
    picture = Image.open(BytesIO(answer.content))
    assert (picture.mode, picture.size) == ("L", (300, 200))
    assert picture.getextrema() == (0, 255)


@pytest.mark.parametrize("kind", ["landscape JPEG", "RGBA PNG", "BMP", "TIFF", "EXIF 6"])
def test_every_format_of_its_document(url, kind):
    answer = ask(url, VARIETY[kind])
    assert answer.status_code == 200
    assert Image.open(BytesIO(answer.content)).mode == "L"


def test_the_document_s_curl(url, expected, tmp_path):
    (tmp_path / "image.jpg").write_bytes(JPEG)
    command = ["curl", "-s", "-X", "POST", "-F", "image=@image.jpg", f"{url}/api/depth", "--output", "depth_map.png"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=HANGS_AFTER_S)
    assert (tmp_path / "depth_map.png").read_bytes() == expected


def test_the_document_s_python(url, expected, tmp_path):
    (tmp_path / "image.jpg").write_bytes(JPEG)
    snippet = f"""
        import requests

        url = "{url}/api/depth"
        files = {{"image": open("image.jpg", "rb")}}
        response = requests.post(url, files=files)

        if response.status_code == 200:
            with open("depth_map.png", "wb") as f:
                f.write(response.content)
            print("Depth map saved successfully!")
        else:
            print(f"Error: {{response.json()}}")
    """
    command = [sys.executable, "-c", textwrap.dedent(snippet)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANGS_AFTER_S, check=True)
    assert done.stdout == "Depth map saved successfully!\n"
    assert (tmp_path / "depth_map.png").read_bytes() == expected


PAGE = """<!doctype html><title>page</title><input type="file" id="file"><pre id="out">nothing</pre><script>
const fileInput = document.getElementById('file');
(async () => {
  const blob = await (await fetch('image.jpg')).blob();
  const chosen = new DataTransfer();
  chosen.items.add(new File([blob], 'image.jpg', { type: 'image/jpeg' }));
  fileInput.files = chosen.files;
  const say = text => { document.getElementById('out').textContent = text; };
  const createObjectURL = window.URL.createObjectURL;
  window.URL.createObjectURL = blob => {
    blob.arrayBuffer().then(data => crypto.subtle.digest('SHA-256', data)).then(digest =>
      say([...new Uint8Array(digest)].map(byte => byte.toString(16).padStart(2, '0')).join('') + ' ' + blob.type));
    return createObjectURL(blob);
  };

  const formData = new FormData();
  formData.append('image', fileInput.files[0]);

  fetch('URL/api/depth', {
    method: 'POST',
    body: formData
  })
  .then(response => response.blob())
  .then(blob => {
    const url = window.URL.createObjectURL(blob);
    const a = document.createElement('a');
    a.href = url;
    a.download = 'depth_map.png';
    a.click();
  })
  .catch(error => say('refused: ' + error));
})();
</script>"""
"""The document's JavaScript, between what chooses its file and what tells a test the answer's hash."""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the origin that serves it."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    web = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=web.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield tmp_path, f"http://127.0.0.1:{web.server_port}"
    web.shutdown()
    thread.join()
    web.server_close()


def test_the_document_s_javascript_from_an_origin_that_is_allowed_and_no_other(server, url, expected, site):
    folder, origin = site
    (folder / "image.jpg").write_bytes(JPEG)

    async def seen(name: str, url: str) -> str:
        (folder / f"{name}.html").write_text(PAGE.replace("URL/", f"{url}/"))
        async with opened_tab(f"{origin}/{name}.html", folder / name) as tab:
            await tab.until("document.getElementById('out').textContent !== 'nothing'")
            return await tab.evaluate("document.getElementById('out').textContent")

    with gateway("immichvr", url=server.host, DEPTHFACE_GATEWAY_ORIGINS=origin) as allowed:
        said = asyncio.run(seen("allowed", allowed.urls["immichvr"]))
    assert said == f"{hashlib.sha256(expected).hexdigest()} image/png"
    assert asyncio.run(seen("other", url)).startswith("refused")


def test_what_it_says_of_itself(url):
    assert requests.get(f"{url}/health", timeout=HANGS_AFTER_S).json() == {
        "status": "healthy",
        "service": "ai",
        "model": "Depth-Anything-V2",
        "model_status": "loaded",
    }
    root = requests.get(url, timeout=HANGS_AFTER_S).json()
    assert root["message"] == "ImmichVR AI Service"
    assert root["endpoints"]["process_depth"] == "/api/depth (POST)"
    assert requests.head(f"{url}/health", timeout=HANGS_AFTER_S).status_code == 200


def test_its_models(url):
    listed = requests.get(f"{url}/api/models", timeout=HANGS_AFTER_S).json()
    assert [model["key"] for model in listed["models"]] == ["small", "base", "large"]
    assert {key: listed[key] for key in ("current_model", "current_device", "default_model")} == {
        "current_model": "small",
        "current_device": "cpu",
        "default_model": "small",
    }
    small, base, _ = listed["models"]
    assert small == {
        "key": "small",
        "name": "Small",
        "type": "depth",
        "params": "25M",
        "memory": "~100MB",
        "description": "Fast, good for previews",
        "huggingface_id": "depth-anything/Depth-Anything-V2-Small-hf",
        "is_loaded": True,
        "is_downloaded": True,
    }
    assert (base["is_loaded"], base["is_downloaded"]) == (False, False)
    assert requests.get(f"{url}/api/models/current", timeout=HANGS_AFTER_S).json() == {
        "loaded": True,
        "current_model": "small",
        "device": "CPU",
        "available_models": ["small", "base", "large"],
        "downloaded_models": ["small"],
    }


def test_a_model_is_unloaded_loaded_and_comes_again_when_it_is_asked(url, expected):
    def post(path: str, **body: object) -> dict:
        answer = requests.post(f"{url}/api/models/{path}", json=body or None, timeout=HANGS_AFTER_S)
        return {"status": answer.status_code, **answer.json()}

    said = {"status": 200, "success": True, "message": "Model 'small' unloaded successfully"}
    assert post("small/unload") == said
    assert requests.get(f"{url}/health", timeout=HANGS_AFTER_S).json()["model_status"] == "not_loaded"
    assert post("small/unload") == {**said, "message": "Model 'small' is not currently loaded"}
    loaded = post("small/load", device="cpu")
    assert loaded == {**said, "message": "Model 'small' loaded successfully", "current_model": "small"}
    assert requests.delete(f"{url}/api/models/small", timeout=HANGS_AFTER_S).json()["success"]
    assert ask(url).content == expected
    assert post("small/download") == {**said, "message": "Model 'small' is already downloaded"}


@pytest.mark.parametrize("body", ["", "[" * 5000, '{"device": "tpu"}', '{"device": [[1]]}'])
def test_whatever_device_is_asked_for_the_model_is_loaded(url, body):
    headers = {"content-type": "application/json"}
    answer = requests.post(f"{url}/api/models/small/load", data=body, headers=headers, timeout=HANGS_AFTER_S)
    assert (answer.status_code, answer.json()["success"]) == (200, True)


@pytest.mark.parametrize("key", ["sharp", "huge"])
def test_to_unload_what_there_is_not_goes_well(url, key):
    """ImmichVR's backend passes any name on, and takes another status for a service that is broken."""
    answer = requests.post(f"{url}/api/models/{key}/unload", timeout=HANGS_AFTER_S)
    said = {"success": True, "message": f"Model '{key}' is not currently loaded"}
    assert (answer.status_code, answer.json()) == (200, said)


def test_a_model_that_somebody_else_has_just_unloaded_is_loaded(url, server, expected):
    with Client(server.host) as operator:
        operator.unload(OURS)
        assert requests.post(f"{url}/api/models/small/load", timeout=HANGS_AFTER_S).json()["success"]
        assert OURS in {model.name for model in operator.models() if model.ready}
        operator.unload(OURS)
        assert ask(url).content == expected
        operator.unload(OURS)
        said = requests.post(f"{url}/api/models/small/unload", timeout=HANGS_AFTER_S).json()
        assert said["message"] == "Model 'small' is not currently loaded"
        operator.load(OURS)
        said = requests.post(f"{url}/api/models/small/unload", timeout=HANGS_AFTER_S).json()
        assert said["message"] == "Model 'small' unloaded successfully"
        operator.load(OURS)


def test_a_model_that_is_not_exported_is_not_there(url):
    answer = ask(url, query="?model=large")
    assert answer.status_code == 503
    assert answer.json() == {
        "error": "Model not initialized",
        "message": "Depth estimation model is not available",
    }
    answer = requests.post(f"{url}/api/models/large/download", timeout=HANGS_AFTER_S)
    assert answer.status_code == 500
    assert answer.json()["success"] is False
    assert "depthface export depth_anything_v2_large" in answer.json()["message"]
    listed = requests.get(f"{url}/api/models", timeout=HANGS_AFTER_S).json()["models"]
    assert [model["key"] for model in listed if model["is_loaded"]] == ["small"]


@pytest.mark.parametrize(
    ("files", "query", "status", "error", "message"),
    [
        (None, "", 400, "No image provided", "Please upload an image file with key 'image'"),
        ({"photo": ("a.jpg", JPEG)}, "", 400, "No image provided", "Please upload an image file with key 'image'"),
        ({"image": (None, "text")}, "", 400, "No image provided", "Please upload an image file with key 'image'"),
        (
            {"image": ("a.jpg", JPEG)}, "?model=huge", 400, "Invalid model",
            "Unknown model 'huge'. Available: ['small', 'base', 'large']",
        ),
        ({"image": ("a.jpg", NO_PHOTO)}, "", 400, "Processing failed", None),
        ({"image": ("a.jpg", b"")}, "", 400, "Processing failed", None),
        ({"image": ("a.jpg", bytes(MOST_MIB * 2**20))}, "", 413, "File too large", None),
    ],
)  # fmt: skip
def test_errors_word_for_word(url, files, query, status, error, message):
    answer = requests.post(f"{url}/api/depth{query}", files=files, timeout=HANGS_AFTER_S)
    assert answer.status_code == status
    assert answer.json()["error"] == error
    assert message is None or answer.json()["message"] == message


def test_no_file_was_chosen(url):
    body = b'--x\r\ncontent-disposition: form-data; name="image"; filename=""\r\n\r\n\r\n--x--\r\n'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = requests.post(f"{url}/api/depth", data=body, headers=headers, timeout=HANGS_AFTER_S)
    assert answer.status_code == 400
    assert answer.json() == {"error": "Empty filename", "message": "No file selected"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/api/video/frames", 501),
        ("POST", "/api/video/depth", 501),
        ("POST", "/api/video/sbs", 501),
        ("POST", "/api/splat", 501),
        ("GET", "/api/splat/status", 501),
        ("POST", "/api/splat/download", 501),
        ("GET", "/api/depth", 405),
        ("GET", "/nothing", 404),
        ("POST", "/api/models/huge/load", 400),
        ("POST", "/api/models/..%2f..%2fetc/load", 404),
    ],
)
def test_what_is_not_there_is_refused_in_its_form(url, method, path, status):
    answer = requests.request(method, f"{url}{path}", timeout=HANGS_AFTER_S)
    assert answer.status_code == status
    assert set(answer.json()) == {"error", "message"}


def test_without_a_triton_it_is_healthy_and_tells_nothing_of_its_models(lonely_gateway):
    """What ImmichVR's backend heard it lacked, it would never load."""
    url = lonely_gateway.urls["immichvr"]
    health = requests.get(f"{url}/health", timeout=HANGS_AFTER_S)
    assert (health.status_code, health.json()["model_status"]) == (200, "not_loaded")
    assert ask(url).json() == {"error": "Model not initialized", "message": "Depth estimation model is not available"}
    assert ask(url).status_code == 503
    for path in ("", "/current"):
        answer = requests.get(f"{url}/api/models{path}", timeout=HANGS_AFTER_S)
        assert (answer.status_code, set(answer.json())) == (503, {"error", "message"})


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/load"), ("POST", "/download"), ("POST", "/unload"), ("DELETE", "")]
)
def test_without_a_triton_nothing_is_said_of_a_model_that_is_not_known(lonely_gateway, method, path):
    url = f"{lonely_gateway.urls['immichvr']}/api/models/small{path}"
    answer = requests.request(method, url, timeout=HANGS_AFTER_S)
    assert (answer.status_code, answer.json()["success"]) == (503, False)
    assert "No Triton answers" in answer.json()["message"]
    assert "export" not in answer.json()["message"].lower()


def test_many_at_once_are_right(url, server):
    photos = [encoded(photo().resize((60 + index, 40)), "JPEG") for index in range(4)]
    with Client(server.host) as client:
        expected = [np.asarray(Image.open(BytesIO(client.depth_png(photo, bits=8)))) for photo in photos]
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda index: ask(url, photos[index % 4]), range(12)))
    for index, answer in enumerate(answers):
        got = np.asarray(Image.open(BytesIO(answer.content))).astype(int)
        assert got.shape == expected[index % 4].shape
        assert np.abs(got - expected[index % 4]).max() <= 1


def test_a_depth_that_is_the_same_everywhere_is_a_middle_grey():
    def png(array: np.ndarray) -> bytes:
        return encoded(Image.fromarray(array), "PNG")

    flat = np.asarray(Image.open(BytesIO(as_there(png(np.zeros((30, 40), np.uint8))))))
    assert flat.shape == (30, 40)
    assert set(flat.ravel()) == {128}
    stretched = png(np.tile(np.array([0, 255], np.uint8), (30, 20)))
    assert as_there(stretched) == stretched
    large = png(np.zeros((3000, 4000), np.uint8))
    assert np.asarray(Image.open(BytesIO(as_there(large))))[0, 0] == 128


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.jpg", "attachment; filename=depth_a.png"),
        ("a.b.jpg", "attachment; filename=depth_a.b.png"),
        ("a", "attachment; filename=depth_a.png"),
        ("my photo.jpg", 'attachment; filename="depth_my photo.png"'),
        ("../../etc/a.jpg", "attachment; filename=depth_a.png"),
        ('a"b.jpg', 'attachment; filename="depth_a\\"b.png"'),
        ("a\r\nx: y.jpg", 'attachment; filename="depth_ax: y.png"'),
        ("é.jpg", "attachment; filename=depth_e.png; filename*=UTF-8''depth_%C3%A9.png"),
        ("夏.jpg", "attachment; filename=depth_.png; filename*=UTF-8''depth_%E5%A4%8F.png"),
    ],
)
def test_the_answer_is_named_for_the_photo(name, header):
    assert disposition(name) == header
    header.encode("latin-1")
