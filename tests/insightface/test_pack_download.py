"""Where published packs come from. InsightFace's releases cannot be asked here: `requests` is the seam."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from fixtures.exporting import job_of
from fixtures.serving import depthface
from fixtures.waiting import HANGS_AFTER_S
from insightface.utils import storage

from depthface import manifest
from depthface.errors import WeightsCorrupt, WeightsUnavailable
from depthface.families import card_named
from depthface.spec import HubFile, PublishedPack
from depthface_export import pipeline, weights

DETECTOR, RECOGNIZER = "det_synthetic.onnx", "w600k_synthetic.onnx"
BUFFALO_SC = card_named("buffalo_sc")
ASKS = {"head": requests.head, "get": requests.get}
"""Those that truly ask."""


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home of its own, so that InsightFace's storage is empty; and releases that nobody may ask by accident."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))

    def forbidden(*arguments: object, **options: object) -> None:
        raise AssertionError("the releases were asked")

    for method in ASKS:
        monkeypatch.setattr(requests, method, forbidden)
    return folder


def answering(content: Callable[[], bytes], status: int = 200, asked: list[str] | None = None) -> Callable:
    """What stands in the place of `requests.get`."""

    def get(url: str, *, stream: bool, timeout: tuple[float, float]) -> requests.Response:
        if asked is not None:
            asked.append(url)
        answer = requests.Response()
        answer.status_code, answer.url, answer.raw = status, url, io.BytesIO(content())
        return answer

    return get


@pytest.fixture
def releases(home, files, monkeypatch):
    """InsightFace's releases with one pack of two files: its card, what the archive holds, and who asked for it."""
    contents = {"det.onnx": (files / DETECTOR).read_bytes(), "rec.onnx": (files / RECOGNIZER).read_bytes()}
    asked: list[str] = []

    def zipped() -> bytes:
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            for name, content in contents.items():
                archive.writestr(name, content)
        return made.getvalue()

    monkeypatch.setattr(requests, "head", lambda url, timeout: None)
    monkeypatch.setattr(requests, "get", answering(zipped, asked=asked))
    published = tuple(
        HubFile(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in contents.items()
    )
    card = dataclasses.replace(BUFFALO_SC, weights=PublishedPack("someones_pack", published))
    return card, contents, asked


def stored(home: Path) -> set[str]:
    """Every file below a home."""
    return {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}


STORED = {".insightface/models/someones_pack/det.onnx", ".insightface/models/someones_pack/rec.onnx"}


def test_a_pack_is_fetched_into_insightfaces_own_storage_once(home, releases):
    card, contents, asked = releases
    for _ in range(2):
        found = weights.fetch(card, weights.locate(card, "hub"))
        assert found.path == home / ".insightface" / "models" / "someones_pack"
        assert found.origin == card.weights.origin
        assert found.sha256 == {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        assert stored(home) == STORED
    assert len(asked) == 1
    assert asked[0].endswith("/someones_pack.zip")


def test_an_archive_that_holds_the_folder_itself_will_do(home, releases):
    card, contents, _ = releases
    for name in list(contents):
        contents[f"someones_pack/{name}"] = contents.pop(name)
    weights.fetch(card, weights.locate(card, "hub"))
    assert stored(home) == STORED


@pytest.mark.parametrize("wrong", [b"weighty", b""])
def test_a_download_that_is_not_the_published_file_is_refused_and_not_kept(home, releases, wrong):
    card, contents, _ = releases
    contents["rec.onnx"] = wrong
    with pytest.raises(WeightsCorrupt, match=r"rec\.onnx"):
        weights.fetch(card, weights.locate(card, "hub"))
    assert stored(home) == set()
    assert not (home / ".insightface" / "models").exists()


def test_a_file_that_is_changed_by_a_byte_is_refused_and_not_kept(home, releases):
    card, contents, _ = releases
    contents["det.onnx"] = contents["det.onnx"][:-1] + b"?"
    with pytest.raises(WeightsCorrupt, match=r"det\.onnx .* sha256"):
        weights.fetch(card, weights.locate(card, "hub"))
    assert stored(home) == set()


def test_an_archive_that_lacks_a_file_is_refused_and_not_kept(home, releases):
    card, contents, _ = releases
    del contents["rec.onnx"]
    with pytest.raises(WeightsCorrupt, match=r"rec\.onnx"):
        weights.fetch(card, weights.locate(card, "hub"))
    assert stored(home) == set()


def test_an_empty_folder_is_no_download(home, releases):
    """InsightFace takes it for one."""
    card, _, asked = releases
    (home / ".insightface" / "models" / "someones_pack").mkdir(parents=True)
    weights.fetch(card, weights.locate(card, "hub"))
    assert len(asked) == 1
    assert stored(home) == STORED


def test_a_pack_that_is_there_is_used_unasked_but_checked(home, releases):
    card, contents, asked = releases
    folder = home / ".insightface" / "models" / "someones_pack"
    folder.mkdir(parents=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    assert weights.fetch(card, weights.locate(card, "hub")).path == folder
    (folder / "rec.onnx").write_bytes(b"something else")
    with pytest.raises(WeightsCorrupt, match=r"rec\.onnx .*Delete .*someones_pack/rec\.onnx"):
        weights.fetch(card, weights.locate(card, "hub"))
    assert asked == []


@pytest.mark.parametrize("seam", ["head", "get"])
def test_releases_out_of_reach_are_one_sentence_and_what_to_do_instead(home, releases, monkeypatch, seam):
    card, _, _ = releases

    def unreachable(*arguments: object, **options: object) -> None:
        raise requests.ConnectionError("Name or service not known\nand much more")

    monkeypatch.setattr(requests, seam, unreachable)
    with pytest.raises(WeightsUnavailable, match=r"someones_pack cannot be fetched.*--weights synthetic") as caught:
        weights.fetch(card, weights.locate(card, "hub"))
    assert "\n" not in str(caught.value)
    assert stored(home) == set()


def test_releases_that_never_answer_count_as_out_of_reach(home, releases, monkeypatch):
    card, _, _ = releases
    over, answered = threading.Event(), threading.Event()

    def late(url: str, timeout: float) -> None:
        over.wait(HANGS_AFTER_S)
        answered.set()

    monkeypatch.setattr(requests, "head", late)
    monkeypatch.setattr(weights, "HUB_DEADLINE_S", 0.2)
    with pytest.raises(WeightsUnavailable, match="no answer within"):
        weights.fetch(card, weights.locate(card, "hub"))
    assert not answered.is_set()
    over.set()


class Silent(BaseHTTPRequestHandler):
    """Releases that promise a pack, and fall silent after the first of its bytes."""

    over = threading.Event()

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        self.wfile.write(b"PK")
        self.over.wait(HANGS_AFTER_S)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of such releases."""
    Silent.over.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        Silent.over.set()
        server.shutdown()


def test_releases_that_fall_silent_are_given_up(home, releases, silent, monkeypatch):
    card, _, _ = releases
    for method, ask in ASKS.items():
        monkeypatch.setattr(requests, method, ask)
    monkeypatch.setattr(storage, "model_zoo_download_url", lambda file: silent + file)
    monkeypatch.setattr(weights, "_SILENCE_S", 0.2)
    with pytest.raises(WeightsUnavailable, match=r"someones_pack cannot be fetched.*timed out"):
        weights.fetch(card, weights.locate(card, "hub"))
    assert stored(home) == set()


@pytest.mark.parametrize("status", [200, 404, 503])
def test_what_is_no_archive_is_refused_and_not_kept(home, releases, monkeypatch, status):
    card, _, _ = releases
    monkeypatch.setattr(requests, "get", answering(lambda: b"<html>try again later</html>", status))
    with pytest.raises(WeightsUnavailable, match="cannot be fetched"):
        weights.fetch(card, weights.locate(card, "hub"))
    assert stored(home) == set()


def test_no_releases_are_exit_1_in_one_line(tmp_path):
    """The real command and the real downloader, sent where nothing answers."""
    nowhere = "http://127.0.0.1:9"
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"), nowhere)
    done = depthface(
        "export", "buffalo_sc", "--accept-license", "--repository", tmp_path / "target",
        HOME=str(tmp_path / "home"), NO_PROXY="", no_proxy="", **proxies,
    )  # fmt: skip
    assert done.returncode == 1
    assert "--weights synthetic" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not list((tmp_path / "target").glob("*"))


def test_a_pack_from_the_releases_is_exported(home, releases, tmp_path):
    """From download to repository; the manifest says it is the published pack."""
    card, contents, _ = releases
    files = zip(card.architecture.items(), card.weights.files, strict=True)
    card = dataclasses.replace(
        card, architecture={kind: dataclasses.replace(file, file=published) for (kind, file), published in files}
    )
    target = tmp_path / "target"
    pipeline.export(job_of(card, target, "hub", accepts_license=True))
    found = manifest.read(target / "face_buffalo_sc_recognizer" / "1")
    assert found is not None
    assert found.weights["origin"] == card.weights.origin
    assert found.weights["sha256"] == {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
