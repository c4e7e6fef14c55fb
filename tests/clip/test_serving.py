"""Embeddings through the real server and both clients: drawings and their words."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace
from io import BytesIO

import numpy as np
import pytest
from fixtures.photos import bomb, encoded
from fixtures.serving import COMMAND, depthface, in_this_process
from fixtures.waiting import HANGS_AFTER_S, settled
from PIL import Image

from depthface.errors import InvalidInput, ModelUnavailable
from depthface_client.aio import AsyncClient
from depthface_standins.clip.scenes import COLOURS, SHAPES, draw

LABELS = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
PHOTO, TEXT = "clip_vit_b_32_image", "clip_vit_b_32_text"


def small(label: str, seed: int | None = None) -> bytes:
    """A small file of a drawing."""
    colour, shape = label.split()
    return encoded(Image.fromarray(draw(colour, shape, size=(120, 150), seed=seed)), "PNG")


def test_a_photo_and_its_words_are_of_one_direction(drawn):
    photo, text = drawn.embed(small("red circle")), drawn.embed_text("A photo of a red circle.")
    assert (photo.vector.dtype, photo.vector.shape) == (np.float32, (512,))
    assert abs(np.linalg.norm(photo.vector) - 1) <= 1e-5
    assert (photo.model, text.model, photo.space, text.space) == (PHOTO, TEXT, "clip_vit_b_32", "clip_vit_b_32")
    assert photo.weights == "synthetic"
    assert photo.similarity(text) > 0.98
    assert not photo.vector.flags.writeable
    with pytest.raises(FrozenInstanceError):
        photo.model = "other"


def test_every_drawing_is_classified_as_what_it_is(drawn):
    for seed, label in enumerate(LABELS):
        best, second, *_ = drawn.classify(small(label, seed), LABELS)
        assert best.label == label
        assert best.probability > 0.99 > second.probability
        assert best.similarity > second.similarity + 0.3


def test_a_search_finds_what_its_words_say(drawn):
    labels = [label for label in LABELS for _ in range(2)]
    found = drawn.embed([small(label, seed) for seed, label in enumerate(labels)])
    for words, wanted in (("blue things", "blue"), ("ein rot square", "red square"), ("🔴", "red"), ("dots", "")):
        query = drawn.embed_text(words)
        ranked = sorted(zip(labels, found, strict=True), key=lambda pair: -query.similarity(pair[1]))
        if wanted:
            count = sum(wanted in label for label in labels)
            assert all(wanted in label for label, _ in ranked[:count]), words


def test_lists_come_back_in_their_order(drawn):
    one_by_one = [drawn.embed(small(label)) for label in LABELS]
    at_once = drawn.embed([small(label) for label in LABELS])  # more than fit into one batch
    for one, other in zip(one_by_one, at_once, strict=True):
        assert one.similarity(other) > 1 - 1e-6
    texts = drawn.embed_text([*LABELS, *reversed(LABELS)])
    assert [text.similarity(drawn.embed_text(LABELS[0])) > 0.999 for text in texts].count(True) == 2
    assert texts[0].similarity(texts[-1]) > 1 - 1e-6
    assert drawn.embed([]) == drawn.embed_text([]) == []
    assert len(drawn.embed([small(LABELS[0])])) == 1


def test_the_client_for_asyncio_gives_the_same(drawn_server, drawn):
    async def ask():
        async with AsyncClient(drawn_server.host, timeout_s=300) as client:
            return (
                await client.embed([small(label) for label in LABELS[:3]]),
                await client.embed_text(LABELS[0]),
                await client.classify(small(LABELS[4]), LABELS),
            )

    photos, text, classes = asyncio.run(ask())
    assert [photo.similarity(text) > 0.98 for photo in photos] == [True, False, False]
    assert classes[0].label == LABELS[4]
    np.testing.assert_allclose(text.vector, drawn.embed_text(LABELS[0]).vector, atol=1e-6)


def test_two_hundred_at_once_are_each_their_own(drawn):
    jobs = [(LABELS[index % len(LABELS)], index) for index in range(200)]
    words = dict(zip(LABELS, drawn.embed_text(LABELS), strict=True))

    def ask(job):
        label, index = job
        if index % 2:
            return drawn.embed_text(f"a photo of a {label}")
        return drawn.embed(small(label, index))

    with ThreadPoolExecutor(200) as pool:
        found = list(pool.map(ask, jobs))
    for (label, index), one in zip(jobs, found, strict=True):
        nearest = max(LABELS, key=lambda name: one.similarity(words[name]))
        assert nearest == label, index


def test_vectors_of_other_models_are_not_compared(drawn):
    one = drawn.embed_text("red")
    for other in (replace(one, space="siglip"), replace(one, weights="random, seed 0")):
        with pytest.raises(InvalidInput, match="cannot be compared"):
            one.similarity(other)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("x" * 100_000, "100000 bytes"),
        ("\ud800", "UTF-8"),
        (b"bytes", "bytes is not a text"),
        (None, "NoneType is not a text"),
        (["fine", ""], "empty"),
    ],
    ids=["empty", "100 kB", "half a pair", "bytes", "None", "one of two"],
)
def test_a_text_that_is_none_is_refused_by_the_client(drawn, text, reason):
    with pytest.raises(InvalidInput, match=reason):
        drawn.embed_text(text)


@pytest.mark.parametrize(
    "text", [" \n\t", "a\0b", "\0", "😀👩‍👩‍👧‍👦", "مرحبا", "\u202eright to left", "<br>&amp;", "red " * 16_000]
)
def test_a_text_of_any_signs_is_embedded(drawn, text):
    vector = drawn.embed_text(text).vector
    assert abs(np.linalg.norm(vector) - 1) <= 1e-5


def test_a_long_text_is_read_from_its_start_and_that_is_said(drawn):
    start, cut = drawn.embed_text("red circle"), drawn.embed_text("red circle " * 40 + "blue square " * 1000)
    assert start.similarity(cut) > 0.99
    assert (start.is_cut, cut.is_cut, cut.cut_tokens) == (False, True, 2 * 1040 - 75)
    assert not drawn.embed_text("red " * 75).is_cut
    assert drawn.embed_text("red " * 76).cut_tokens == 1
    assert not drawn.embed(small("red circle")).is_cut
    found = drawn.classify(small("red circle"), ["red circle", "blue square " * 100], template="{}")
    assert [one.cut_tokens for one in found] == [0, 200 - 75]


def test_texts_of_any_length_are_one_request(drawn):
    """They need not be of one length, as photos need not be of one size."""
    texts = ["red", "blue square " * 10, "a photo of a green triangle, " * 3, "yellow " * 100, "x"]
    at_once = drawn.embed_text(texts)
    for text, one in zip(texts, at_once, strict=True):
        assert one.similarity(drawn.embed_text(text)) > 1 - 1e-6
    assert [one.cut_tokens for one in at_once] == [0, 0, 0, 25, 0]


def test_what_is_not_asked_for_is_not_computed(drawn_server, drawn):
    """How long a text is can be asked for without its vector."""
    url = f"http://{drawn_server.host}/v2/models/{TEXT}"

    def counted() -> int:
        with urllib.request.urlopen(f"{url}_network/stats", timeout=HANGS_AFTER_S) as found:
            return json.load(found)["model_stats"][0]["inference_count"]

    before = settled(counted)
    body = {
        "inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["red " * 80]}],
        "outputs": [{"name": "cut_tokens"}],
    }
    with urllib.request.urlopen(f"{url}/infer", json.dumps(body).encode(), timeout=HANGS_AFTER_S) as answer:
        (output,) = json.load(answer)["outputs"]
    assert (output["name"], output["shape"], output["data"]) == ("cut_tokens", [1, 1], [5])
    assert settled(counted) == before


def post(host: str, model: str, body: bytes) -> tuple[int, str]:
    """The body as the only item of the only input, by plain HTTP."""
    request = urllib.request.Request(
        f"http://{host}/v2/models/{model}/infer",
        body,
        {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"},
    )
    try:
        with urllib.request.urlopen(request, timeout=HANGS_AFTER_S) as response:
            return response.status, ""
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["error"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty"),
        (b"\xff\xfe", "not UTF-8"),
        (b"red \xed\xa0\x80", "not UTF-8"),
        (b"red \xc3", "not UTF-8"),
        (b"x" * 100_000, "100000 bytes"),
        (b"x" * (64 * 2**10 + 1), "bytes"),
    ],
    ids=["empty", "UTF-16", "half a pair", "cut", "100 kB", "one byte more"],
)
def test_a_text_that_is_none_is_refused_by_the_server(drawn_server, drawn, body, reason):
    status, said = post(drawn_server.host, TEXT, body)
    assert status == 400
    assert reason in said
    assert "Traceback" not in said
    assert post(drawn_server.host, TEXT, b"red\0circle") == (200, "")
    assert post(drawn_server.host, TEXT, b"x" * (64 * 2**10)) == (200, "")


@pytest.mark.parametrize(
    "body",
    [b"not a photo", b"", small("red circle")[:-60], bomb(), encoded(Image.new("RGB", (1, 60)), "PNG")],
    ids=["text", "empty", "cut off", "bomb", "line"],
)
def test_a_photo_that_is_none_is_refused(drawn, body):
    with pytest.raises(InvalidInput) as caught:
        drawn.embed(body)
    assert "\n" not in str(caught.value)
    with pytest.raises(InvalidInput):
        drawn.embed([small("red circle"), body])
    assert drawn.embed(small("red circle")).vector.shape == (512,)


def test_labels_and_templates_that_are_none_are_refused(drawn):
    photo = small("red circle")
    for labels in ([], "red", [""], ["red", None], ["red", b"blue"], [1, 2]):
        with pytest.raises(InvalidInput):
            drawn.classify(photo, labels, template="{}")
    with pytest.raises(InvalidInput, match="template"):
        drawn.classify(photo, ["red", "blue"], template="a photo")
    assert drawn.classify(photo, ["blue", "red"], template="{}!")[0].label == "red"
    (alone,) = drawn.classify(photo, ["blue"], template="{}")
    assert alone.probability == 1
    with pytest.raises(ModelUnavailable):
        drawn.embed(photo, model="clip_other_image")


def test_health_asks_both_and_models_names_them(drawn_server):
    done = depthface("health", "--url", drawn_server.host)
    assert done.returncode == 0, done.stderr
    listed = json.loads(depthface("models", "--json", "--url", drawn_server.host).stdout)
    assert {(model["name"], model["task"]) for model in listed} == {(PHOTO, "embedding"), (TEXT, "embedding")}


def test_the_commands(drawn_server, drawn, tmp_path):
    for label in ("red circle", "blue square"):
        (tmp_path / f"{label}.png").write_bytes(small(label))
    red, blue, out = tmp_path / "red circle.png", tmp_path / "blue square.png", tmp_path / "out.npy"
    url = ("--url", drawn_server.host)

    done = in_this_process("embed", red, tmp_path / "missing.png", blue, "--out", out, *url)
    assert done.returncode == 1
    assert "missing.png" in done.stderr
    assert "SYNTHETIC WEIGHTS" in done.stderr
    rows = np.load(out)
    np.testing.assert_allclose(rows, [drawn.embed(red).vector, drawn.embed(blue).vector], atol=1e-6)

    done = in_this_process("embed", "--text", "red circle", "--text", "🔴", "--json", *url)
    assert done.returncode == 0, done.stderr
    documents = json.loads(done.stdout)
    assert [document["text"] for document in documents] == ["red circle", "🔴"]
    assert np.asarray(documents[0]["embedding"]) @ rows[0] > 0.98

    done = depthface("classify", red, "--label", "blue square", "--label", "red circle", *url)
    assert done.stdout.split("\n")[0].split() == ["100.0%", "red", "circle"]
    done = in_this_process("classify", red, "--label", "blue", "--label", "red", "--json", "--template", "{}", *url)
    assert [one["label"] for one in json.loads(done.stdout)] == ["red", "blue"]

    for wrong in (("embed",), ("embed", red, "--text", "x"), ("classify", red)):
        done = in_this_process(*wrong, *url)
        assert done.returncode == 2, wrong
        assert "Traceback" not in done.stderr
    done = in_this_process("embed", "--text", "red " * 80, "--text", "red", "--json", *url)
    assert done.returncode == 0
    assert [document["cut_tokens"] for document in json.loads(done.stdout)] == [5, 0]
    assert done.stderr.count("its last 5 tokens were not read: 'red red") == 1
    done = in_this_process("embed", "--text", "", *url)
    assert done.returncode == 1
    assert "The text is empty" in done.stderr


def test_vectors_go_to_standard_output_alone(drawn_server, drawn, tmp_path):
    import subprocess

    photo = tmp_path / "red.png"
    photo.write_bytes(small("red circle"))
    command = [*COMMAND, "embed", str(photo), "--out", "-", "--url", drawn_server.host]
    done = subprocess.run(command, capture_output=True, check=True, timeout=300)
    np.testing.assert_allclose(np.load(BytesIO(done.stdout)), [drawn.embed(photo).vector], atol=1e-6)
