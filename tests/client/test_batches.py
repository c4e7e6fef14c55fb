"""Commands over many photos: what is done is kept, whatever the server does meanwhile."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from fixtures.photos import VARIETY
from fixtures.serving import depthface, in_this_process
from fixtures.stub import Answer, Stub, stub_server
from fixtures.waiting import HANGS_AFTER_S

from depthface_client import Client, InvalidImage
from depthface_client.cli import shared

MODELS = {"depth": ("depth", "size"), "embedding": ("embedding",), "faces": ("boxes", "scores", "keypoints")}
"""By its task, which is its name here: what a model offers."""

TENSORS = {
    "depth": ("FP32", np.linspace(0, 1, 14 * 28).reshape(1, 14, 28)),
    "size": ("INT32", np.array([[30, 40]])),
    "embedding": ("FP32", np.array([[0.6, 0.8]])),
    "boxes": ("FP32", np.array([[[1, 2, 30, 40]]])),
    "scores": ("FP32", np.array([[0.9]])),
    "keypoints": ("FP32", np.zeros((1, 1, 5, 2))),
}


def served(path: str) -> Answer:
    """Answer as a Triton that serves `MODELS`."""
    if path == "/v2/models/stats":
        return said({"model_stats": [{"name": name, "inference_count": 1} for name in MODELS]})
    name = path.removeprefix("/v2/models/").partition("/")[0]
    if path.endswith("/config"):
        facts = {"task": {"string_value": name}, "weights": {"string_value": "a stub's"}}
        tensors = {"input": [{"name": "image"}], "output": [{"name": one} for one in MODELS[name]]}
        return said({"name": name, "max_batch_size": 1, "parameters": facts, **tensors})
    outputs = [
        {"name": one, "datatype": datatype, "shape": array.shape, "data": array.ravel().tolist()}
        for one, (datatype, array) in TENSORS.items()
        if one in MODELS[name]
    ]
    return said({"model_name": name, "model_version": "1", "outputs": outputs})


def said(document: object) -> Answer:
    return Answer(200, json.dumps(document).encode())


@contextmanager
def breaking(away_s: float) -> Iterator[Stub]:
    """Serve, end in the middle of the second inference, and serve again after some seconds; never, if those are 0."""
    leave, left, over, is_up = threading.Event(), threading.Event(), threading.Event(), threading.Event()
    stubs: list[Stub] = []

    def until_it_breaks(path: str) -> Answer | None:
        if path.endswith("/infer") and stubs[0].count("/infer") == 2:
            leave.set()
            left.wait(HANGS_AFTER_S)
            return None
        return served(path)

    def run() -> None:
        with stub_server(until_it_breaks) as stub:
            stubs.append(stub)
            is_up.set()
            leave.wait(HANGS_AFTER_S)
        left.set()
        if away_s:
            time.sleep(away_s)
            with stub_server(served, int(stub.host.rpartition(":")[2])):
                over.wait(HANGS_AFTER_S)

    thread = threading.Thread(target=run)
    thread.start()
    assert is_up.wait(HANGS_AFTER_S)
    try:
        yield stubs[0]
    finally:
        leave.set()
        over.set()
        thread.join()


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    names = [f"{number}.png" for number in range(4)]
    for name in names:
        Path(name).write_bytes(VARIETY["tiny 40×30"])
    return names


def test_a_server_that_is_away_for_seconds_costs_the_photo_that_it_had(photos):
    with breaking(away_s=2) as server:
        done = depthface("depth", *photos, "--as", "npy", "--out", "maps", "--json", "--url", server.host)
    assert done.returncode == 1
    assert sorted(path.name for path in Path("maps").iterdir()) == ["0_depth.npy", "2_depth.npy", "3_depth.npy"]
    document = json.loads(done.stdout)
    assert [("error" in one) for one in document["photos"]] == [False, True, False, False]
    assert "Error: 1.png: No answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_vectors_that_were_made_are_written_whoever_goes_away(photos):
    with breaking(away_s=2) as server:
        done = depthface("embed", *photos, "--out", "vectors.npy", "--url", server.host)
    assert done.returncode == 1
    assert np.load("vectors.npy").shape == (3, 2)


def test_a_server_that_stays_away_is_given_up_with_what_is_done(photos, monkeypatch):
    monkeypatch.setattr(shared, "_BACK_WITHIN_S", 1.0)
    with breaking(away_s=0) as server:
        done = in_this_process("embed", *photos, "--out", "vectors.npy", "--json", "--url", server.host)
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert [one["photo"] for one in document] == photos
    assert [("error" in one) for one in document] == [False, True, True, True]
    assert np.load("vectors.npy").shape == (1, 2)
    assert "Error: 2 more were not tried: No answer" in done.stderr


def test_a_model_that_is_loaded_again_meanwhile_costs_nothing(photos):
    """As `depthface serve` loads one that died."""
    asked: list[float] = []

    def answer(path: str) -> Answer:
        if path.endswith("/infer"):
            asked.append(time.monotonic())
            if len(asked) > 1 and asked[-1] - asked[1] < 2:
                return Answer(400, b'{"error": "Request for unknown model: depth has no available versions"}')
        return served(path)

    with stub_server(answer) as server:
        done = depthface("depth", *photos, "--as", "npy", "--out", "maps", "--url", server.host)
    assert done.returncode == 0, done.stderr
    assert len(list(Path("maps").iterdir())) == 4


def test_nobody_is_waited_for_who_never_was_there(photos):
    for command in (("depth", "--model", "x", "--out", "maps"), ("embed", "--model", "x"), ("embed",), ("faces",)):
        started = time.monotonic()
        done = in_this_process(*command, *photos, "--url", "127.0.0.1:9")
        assert done.returncode == 1
        assert "Waiting" not in done.stderr
        assert time.monotonic() - started < shared._BACK_WITHIN_S


@pytest.mark.parametrize("out", ["folder/", "file/x.npy", "file/x/y", "x" * 300])
@pytest.mark.parametrize("command", ["depth", "faces", "embed", "swap"])
def test_where_no_result_can_be_put_is_told_before_anything_is_asked(photos, command, out):
    Path("folder").mkdir()
    Path("folder/0_depth.png").mkdir()
    Path("folder/0_faces.png").mkdir()
    Path("folder/0_swap.png").mkdir()
    Path("file").write_text("")
    given = {
        "depth": (*photos, "--out", out),
        "faces": (*photos, "--draw", out),
        "embed": (*photos, "--out", out),
        "swap": ("--source", photos[1], "--target", photos[0], "--out", out),
    }
    with stub_server(served) as server:
        done = in_this_process(command, *given[command], "--url", server.host)
    assert server.asked == []
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ") and ("cannot be written" in line or "can be no file" in line)


def test_faces_that_are_shown_are_not_kept(photos, monkeypatch):
    """Ten thousand photos' faces as Python's lists are gigabytes."""
    kept: list[dict[str, object]] = []
    original = shared.for_each
    monkeypatch.setattr(shared, "for_each", lambda *given: kept.extend(original(*given)) or kept)
    with stub_server(served) as server:
        done = in_this_process("faces", *photos, "--url", server.host)
        assert done.returncode == 0
        assert kept == [{"photo": photo} for photo in photos]
        assert "1  score 0.900" in done.stdout
        kept.clear()
        done = in_this_process("faces", *photos, "--json", "--url", server.host)
        assert done.returncode == 0
        assert len(json.loads(done.stdout)["photos"][0]["faces"]) == 1


def test_the_photo_of_a_list_that_is_refused_is_named(photos):
    """The third: in the request of all, and when each is asked about alone."""

    def answer(path: str) -> Answer:
        if path.endswith("/infer") and server.count("/infer") in (1, 4):
            return Answer(400, json.dumps({"error": "invalid_image: The photo is damaged."}).encode())
        found = served(path)
        return Answer(200, found.body.replace(b'"max_batch_size": 1', b'"max_batch_size": 16'))

    with stub_server(answer) as server, Client(server.host) as client:
        with pytest.raises(InvalidImage, match=r"^Photo 3 of 4 \(2\.png\): The photo is damaged") as caught:
            client.embed([Path(photo) for photo in photos], request_id="mine")
        assert caught.value.request_id == "mine"
        with pytest.raises(InvalidImage, match=r"^Photo 2 of 2: list is not a photo"):
            client.embed([photos[0], []])
