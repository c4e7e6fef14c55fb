"""A search by words through immich's contract, on a real server: what immich's server sends, by Node's own fetch."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
from fixtures.gateways import NO_PHOTO, Gateway, gateway, jpeg
from fixtures.waiting import HANGS_AFTER_S

from depthface_client import Client
from depthface_standins.clip.scenes import draw

MODEL = "ViT-B-32__openai"
VISUAL = {"clip": {"visual": {"modelName": MODEL}}}
TEXTUAL = {"clip": {"textual": {"modelName": MODEL, "options": {"language": "de"}}}}

LABELS = ("red circle", "blue square", "green triangle")
PHOTOS = {label: jpeg(draw(*label.split(), size=(240, 320), seed=3)) for label in LABELS}

NODE = """
const [url, ...asked] = process.argv.slice(1);
const { readFileSync } = require('node:fs');
(async () => {
  const answers = [];
  for (const one of asked.map(JSON.parse)) {
    const form = new FormData();
    form.append('entries', JSON.stringify(one.entries));
    if (one.path) form.append('image', new Blob([readFileSync(one.path)]));
    else form.append('text', one.text);
    const response = await fetch(new URL('/predict', url), { method: 'POST', body: form });
    answers.push([response.status, await response.json()]);
  }
  console.log(JSON.stringify(answers));
})();
"""


@pytest.fixture(scope="module")
def running(everything_server) -> Iterator[Gateway]:
    with gateway("immich", url=everything_server.host) as running:
        yield running


def numbers(text: str) -> list[str]:
    """The numbers of a vector as PostgreSQL's extension takes it unread."""
    assert re.fullmatch(r"\[[^\[\]\s]*\]", text)
    found = text[1:-1].split(",")
    assert all(re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", number) for number in found)
    return found


@pytest.mark.skipif(shutil.which("node") is None, reason="no node is installed")
def test_photos_and_their_words_by_nodes_fetch(running, everything_server, tmp_path: Path):
    asked = []
    for label, photo in PHOTOS.items():
        (tmp_path / f"{label}.jpg").write_bytes(photo)
        asked.append({"entries": VISUAL, "path": str(tmp_path / f"{label}.jpg")})
    asked += [{"entries": TEXTUAL, "text": f"a photo of a {label}"} for label in LABELS]
    command = ["node", "-e", NODE, running.urls["immich"], *map(json.dumps, asked)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_AFTER_S, check=False)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert [status for status, _ in answers] == [200] * 6
    for _, answer in answers[:3]:
        assert list(answer) == ["clip", "imageWidth", "imageHeight"]
        assert (answer["imageWidth"], answer["imageHeight"]) == (320, 240)
    for _, answer in answers[3:]:
        assert list(answer) == ["clip"]
    texts = [answer["clip"] for _, answer in answers]
    assert all(isinstance(text, str) for text in texts)
    vectors = np.array([[float(number) for number in numbers(text)] for text in texts])
    assert vectors.shape == (6, 512)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)

    cosines = vectors[:3] @ vectors[3:].T
    assert cosines.argmax(axis=1).tolist() == [0, 1, 2]  # the words of each photo
    assert cosines.argmax(axis=0).tolist() == [0, 1, 2]  # the photo of each search
    assert np.all(np.diag(cosines) > 0.9)

    with Client(everything_server.host, timeout_s=HANGS_AFTER_S) as client:
        for text, label in zip(texts, LABELS, strict=False):
            # As text nothing is lost: read as float32 it is the vector itself.
            expected = client.embed(PHOTOS[label], model="clip_vit_b_32_image").vector
            read = np.array(numbers(text), np.float32)
            np.testing.assert_allclose(read, expected, atol=1e-6)


def test_the_width_is_known_and_texts_of_all_kinds_are_read(running):
    for text in ("東京タワー", "x " * 500, "😀", "ein rotes Auto", " "):
        form = {"entries": (None, json.dumps(TEXTUAL)), "text": (None, text)}
        answer = requests.post(f"{running.urls['immich']}/predict", files=form, timeout=HANGS_AFTER_S)
        assert answer.status_code == 200, answer.text
        found = [float(number) for number in numbers(answer.json()["clip"])]
        assert len(found) == 512
        assert all(math.isfinite(number) for number in found)


@pytest.mark.parametrize(
    ("entries", "more", "status"),
    [
        (VISUAL, {"image": ("blob", NO_PHOTO)}, 400),
        (VISUAL, {"text": (None, "words")}, 400),
        (TEXTUAL, {"text": (None, "")}, 400),
        (TEXTUAL, {"image": ("blob", PHOTOS["red circle"])}, 400),
        ({"clip": {"visual": {"modelName": "ViT-L-14__openai"}}}, {"image": ("blob", PHOTOS["red circle"])}, 400),
    ],
)
def test_what_cannot_be_is_refused(running, entries, more, status):
    form = {"entries": (None, json.dumps(entries)), **more}
    answer = requests.post(f"{running.urls['immich']}/predict", files=form, timeout=HANGS_AFTER_S)
    assert answer.status_code == status, answer.text
    assert isinstance(answer.json()["detail"], str)


def test_synthetic_weights_are_named_in_the_log(running):
    assert [line for line in running.lines if "clip_vit_b_32_image" in line and "synthetic" in line]
